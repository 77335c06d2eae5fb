//! The four states of a task, and the words for them: upstream's, its vendors' and ours.

use super::Dialect;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted, not started.
    Queued,
    /// Under way, or in a state that is not listed.
    Processing,
    /// Done; the result may still be on its way to its URL.
    Succeeded,
    /// Ended without a result.
    Failed,
}

impl State {
    /// Reads a status word in any case, with spaces around it or hyphens inside it.
    ///
    /// A word that is not listed means `Processing`: taking it for an end would lose paid work.
    #[must_use]
    pub fn read(word: &str) -> Self {
        Self::listed(word).unwrap_or(Self::Processing)
    }

    /// The state that a listed word means.
    pub(super) fn listed(word: &str) -> Option<Self> {
        Some(match normalised(word, &mut [0; LONGEST])? {
            b"queued" | b"queueing" | b"submitted" | b"pending" | b"not_start" | b"waiting"
            | b"created" | b"in_queue" => Self::Queued,
            b"processing" | b"in_progress" | b"running" | b"generating" | b"unknown" | b"empty" => {
                Self::Processing
            }
            b"succeeded" | b"success" | b"succeed" | b"completed" | b"complete" | b"done"
            | b"finished" => Self::Succeeded,
            b"failed" | b"failure" | b"fail" | b"error" | b"cancelled" | b"canceled"
            | b"cancel" | b"aborted" | b"expired" | b"timeout" | b"rejected" | b"moderated"
            | b"content_moderated" | b"request_moderated" => Self::Failed,
            _ => return None,
        })
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

/// Why a task failed, where its status word alone says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    Cancelled,
    Moderated,
}

impl Reason {
    pub(super) fn read(word: &str) -> Option<Self> {
        Some(match normalised(word, &mut [0; LONGEST])? {
            b"expired" => Self::Expired,
            b"cancelled" | b"canceled" | b"cancel" => Self::Cancelled,
            b"moderated" | b"content_moderated" | b"request_moderated" => Self::Moderated,
            _ => return None,
        })
    }

    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Moderated => "moderated",
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Expired => "the task expired",
            Self::Cancelled => "the task was cancelled",
            Self::Moderated => "the task was moderated",
        }
    }
}

/// The length of the longest listed word.
const LONGEST: usize = 17;

/// A word in lower case and without surrounding spaces, with `_` for the hyphens and spaces inside it; `None` where it
/// is longer than any that is listed.
fn normalised<'b>(word: &str, buffer: &'b mut [u8; LONGEST]) -> Option<&'b [u8]> {
    let word = word.trim().as_bytes();
    let normalised = buffer.get_mut(..word.len())?;
    for (to, from) in normalised.iter_mut().zip(word) {
        *to = match from {
            b'-' | b' ' => b'_',
            letter => letter.to_ascii_lowercase(),
        };
    }
    Some(normalised)
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
            "failed failure fail error cancelled canceled cancel aborted expired timeout rejected moderated \
             content_moderated request_moderated",
        ),
    ];

    fn end_of(word: &str) -> Option<State> {
        ENDS.iter()
            .find(|(_, words)| words.split(' ').any(|known| known == word))
            .map(|(state, _)| *state)
    }

    #[test]
    fn every_listed_word_is_read_in_any_case_and_with_hyphens_or_spaces() {
        let open = [
            (
                State::Queued,
                "queued queueing submitted pending not_start waiting created in_queue",
            ),
            (
                State::Processing,
                "processing in_progress running generating unknown empty",
            ),
        ];
        for (state, words) in open.into_iter().chain(ENDS) {
            for word in words.split(' ') {
                for space in ["-", " "] {
                    let shouted = format!(" \t{}\n", word.to_uppercase().replace('_', space));
                    assert_eq!(State::listed(word), Some(state), "{word}");
                    assert_eq!(State::listed(&shouted), Some(state), "{shouted}");
                }
            }
        }
        for word in ["", "dreaming", "2"] {
            assert_eq!(State::listed(word), None);
            assert_eq!(State::read(word), State::Processing);
        }
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
            let known = end_of(&word.trim().to_ascii_lowercase().replace(['-', ' '], "_"));
            let state = State::read(&word);
            prop_assert_eq!(state.is_terminal().then_some(state), known);
        }
    }
}
