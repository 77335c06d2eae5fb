//! The four states of a task, the many words that upstream and its vendors have for them, and ours.

use super::Dialect;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted, not started.
    Queued,
    /// Under way, or in a state that nobody has told us of.
    Processing,
    /// Done; the result may still be on its way to its URL.
    Succeeded,
    /// Ended without a result.
    Failed,
}

impl State {
    /// Reads a status word, whatever its case, surrounding spaces and hyphens.
    ///
    /// A word that is not listed means `Processing`: taking it for an end would lose paid work.
    #[must_use]
    pub fn read(word: &str) -> Self {
        let word = word.trim().as_bytes();
        let mut spelled = [0; 16];
        let Some(spelled) = spelled.get_mut(..word.len()) else {
            return Self::Processing; // longer than any that is listed
        };
        for (to, from) in spelled.iter_mut().zip(word) {
            *to = match from {
                b'-' => b'_',
                letter => letter.to_ascii_lowercase(),
            };
        }
        match &*spelled {
            b"queued" | b"submitted" | b"pending" | b"not_start" | b"waiting" | b"created"
            | b"in_queue" => Self::Queued,
            b"succeeded" | b"success" | b"succeed" | b"completed" | b"complete" | b"done"
            | b"finished" => Self::Succeeded,
            b"failed" | b"failure" | b"fail" | b"error" | b"cancelled" | b"canceled"
            | b"expired" | b"timeout" | b"rejected" => Self::Failed,
            _ => Self::Processing,
        }
    }

    /// Whether nothing more will happen to the task.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The canonical word, which is the unified one.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.in_dialect(Dialect::Unified)
    }

    /// The word that clients of `dialect` know.
    #[must_use]
    pub const fn in_dialect(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Queued, _) => "queued",
            (Self::Processing, Dialect::Unified) => "processing",
            (Self::Processing, Dialect::OpenAi) => "in_progress",
            (Self::Succeeded, Dialect::Unified) => "succeeded",
            (Self::Succeeded, Dialect::OpenAi) => "completed",
            (Self::Failed, _) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENDS: [(State, &str); 2] = [
        (
            State::Succeeded,
            "succeeded success succeed completed complete done finished",
        ),
        (
            State::Failed,
            "failed failure fail error cancelled canceled expired timeout rejected",
        ),
    ];

    fn end_of(word: &str) -> Option<State> {
        ENDS.iter()
            .find(|(_, words)| words.split(' ').any(|known| known == word))
            .map(|(state, _)| *state)
    }

    #[test]
    fn every_listed_word_is_read_in_any_case_and_with_hyphens() {
        let open = [
            (
                State::Queued,
                "queued submitted pending not_start waiting created in_queue",
            ),
            (
                State::Processing,
                "processing in_progress running generating unknown",
            ),
        ];
        for (state, words) in open.into_iter().chain(ENDS) {
            for word in words.split(' ') {
                let shouted = format!(" \t{}\n", word.to_uppercase().replace('_', "-"));
                assert_eq!(State::read(word), state, "{word}");
                assert_eq!(State::read(&shouted), state, "{shouted}");
            }
        }
        assert_eq!(State::read(""), State::Processing);
    }

    #[test]
    fn every_state_is_read_back_from_its_word_in_either_dialect() {
        for state in [
            State::Queued,
            State::Processing,
            State::Succeeded,
            State::Failed,
        ] {
            for dialect in [Dialect::Unified, Dialect::OpenAi] {
                assert_eq!(State::read(state.in_dialect(dialect)), state);
            }
        }
    }

    proptest! {
        #[test]
        fn no_unlisted_word_is_terminal(word in "\\PC*|[a-z_]{0,12}|(succe|fail|cancel|complete|done)[a-z_]{0,4}") {
            let known = end_of(&word.trim().to_ascii_lowercase().replace('-', "_"));
            let state = State::read(&word);
            prop_assert_eq!(state.is_terminal().then_some(state), known);
        }
    }
}
