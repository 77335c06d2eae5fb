//! Channels: which model is answered in which document format.

use serde::{Deserialize, Serialize};

/// A format of status documents, selected by the model of the create request.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// The documented format.
    #[default]
    Documented,
    /// A channel without a converter of its own.
    Row,
    /// Raw Sora body.
    #[serde(rename = "sora-2")]
    Sora2,
    /// Raw Sora body with the vendor's id.
    SoraRaw,
    /// Volcengine's Seedance.
    DoubaoSeedance,
    /// Seedance in OctopusX's own format.
    #[serde(rename = "seedance-2")]
    Seedance2,
    /// Kling.
    Kling,
    /// Gemini's Veo.
    Gemini,
    /// Vertex's Veo.
    Vertex,
    /// Jimeng.
    Jimeng,
    /// Alibaba's Wan.
    Ali,
    /// Hailuo (`MiniMax`).
    Hailuo,
    /// Vidu.
    Vidu,
    /// xAI's Grok.
    Grok,
    /// Row of an old version.
    OldRow,
    /// The unified object without its wrapper.
    Bare,
    /// The OpenAI object on the unified path.
    OpenaiOnUnified,
    /// The wrapper on the OpenAI path.
    WrapperOnOpenai,
    /// A new-api as the vendor of a new-api.
    Nested,
    /// A fork with the documented format.
    Fork,
    /// The row of v1.0.0-rc.30 on the OpenAI path.
    #[serde(rename = "v1-rc30")]
    V1Rc30,
    /// Tasks that the vendor cancels.
    Cancelling,
}

/// The channel of models that belong to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelChoice {
    /// Always this channel.
    One(Channel),
    /// Each channel in turn.
    Mixed,
}

/// Kind of result URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResultUrl {
    /// Signed by the vendor; expires.
    Signed,
    /// The platform's own `/content`; needs the key.
    Proxy,
}

impl Channel {
    /// Every channel, in the order of `mixed`.
    pub const ALL: [Self; 22] = [
        Self::Documented,
        Self::Row,
        Self::Sora2,
        Self::SoraRaw,
        Self::DoubaoSeedance,
        Self::Seedance2,
        Self::Kling,
        Self::Gemini,
        Self::Vertex,
        Self::Jimeng,
        Self::Ali,
        Self::Hailuo,
        Self::Vidu,
        Self::Grok,
        Self::OldRow,
        Self::Bare,
        Self::OpenaiOnUnified,
        Self::WrapperOnOpenai,
        Self::Nested,
        Self::Fork,
        Self::V1Rc30,
        Self::Cancelling,
    ];

    /// Name, which is also a model name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.described().0
    }

    /// Other model names of the channel.
    pub(crate) const fn aliases(self) -> &'static [&'static str] {
        self.described().1
    }

    /// Describes the channel's documents in one line.
    pub(crate) const fn about(self) -> &'static str {
        self.described().2
    }

    /// Finds a channel by name or alias.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_name = |known: &str| known.eq_ignore_ascii_case(name);
        Self::ALL
            .into_iter()
            .find(|channel| is_name(channel.name()) || channel.aliases().iter().any(|a| is_name(a)))
    }

    /// The channel of a model: `doubao-seedance-2-0-pro` belongs to `doubao-seedance`.
    pub(crate) fn of_model(model: &str) -> Option<Self> {
        let model = model.to_ascii_lowercase();
        let has_prefix = |name: &str| {
            model.strip_prefix(name).is_some_and(|rest| {
                !rest.starts_with(|next: char| next.is_ascii_alphanumeric())
                    || (rest.starts_with(|next: char| next.is_ascii_digit())
                        && name.ends_with(|last: char| last.is_ascii_alphabetic()))
            })
        };
        Self::ALL
            .into_iter()
            .flat_map(|channel| {
                std::iter::once(channel.name())
                    .chain(channel.aliases().iter().copied())
                    .map(move |name| (name, channel))
            })
            .filter(|(name, _)| has_prefix(name))
            .max_by_key(|(name, _)| name.len())
            .map(|(_, channel)| channel)
    }

    /// Kind of the channel's result URLs.
    pub(super) const fn result_url(self) -> ResultUrl {
        match self {
            Self::Row | Self::Gemini | Self::Vertex => ResultUrl::Proxy,
            _ => ResultUrl::Signed,
        }
    }

    /// Whether every status poll polls the vendor, so that no refresh round delays a change.
    pub(super) const fn is_live(self) -> bool {
        matches!(self, Self::Gemini | Self::Vertex)
    }

    #[rustfmt::skip]
    const fn described(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::Documented => ("documented", &[], "the documented wrapper with error and metadata; a clean OpenAI object"),
            Self::Row => ("row", &[], "a task row; OpenAI object with completed_at while queued, failure text in metadata.url, no error"),
            Self::Sora2 => ("sora-2", &["sora"], "a task row; the vendor's raw OpenAI body with zero values and an empty error, task_id is the vendor's"),
            Self::SoraRaw => ("sora-raw", &[], "like sora-2, but the id is the vendor's as well"),
            Self::DoubaoSeedance => ("doubao-seedance", &["doubao", "seedance"], "a task row with a signed result_url and the vendor's document; OpenAI object with a signed metadata.url"),
            Self::Seedance2 => ("seedance-2", &[], "OctopusX's short row without message, the URL only in the vendor's document; OpenAI object says processing and has video_url"),
            Self::Kling => ("kling", &[], "a task row; OpenAI object without a model, times in milliseconds"),
            Self::Gemini => ("gemini", &["veo"], "the wrapper with error null even when failed, url needs the key; OpenAI object without metadata.url"),
            Self::Vertex => ("vertex", &[], "like gemini, format is a MIME type; metadata.url is a data: URI"),
            Self::Jimeng => ("jimeng", &[], "a task row; OpenAI object without a model, error with the vendor's code"),
            Self::Ali => ("ali", &["wan", "qwen"], "a task row; the OpenAI status comes from the stored vendor document, not from the row"),
            Self::Hailuo => ("hailuo", &["minimax"], "a task row; OpenAI error from the vendor's base_resp"),
            Self::Vidu => ("vidu", &[], "a task row; OpenAI object without a model"),
            Self::Grok => ("grok", &[], "a task row; OpenAI path in the vendor's words (pending, done), URL in output.url"),
            Self::OldRow => ("old-row", &[], "a short row of an old version, the URL of a success in fail_reason"),
            Self::Bare => ("bare", &[], "the unified object without wrapper, error code a number, also on success"),
            Self::OpenaiOnUnified => ("openai-on-unified", &[], "an OpenAI object on the unified path, URL in output.video_url"),
            Self::WrapperOnOpenai => ("wrapper-on-openai", &[], "the documented wrapper on the OpenAI path"),
            Self::Nested => ("nested", &[], "a task row whose data is another new-api's whole answer, the URL only in there; OpenAI success without URL"),
            Self::Fork => ("fork", &[], "the wrapper with error and extra members, NOT_START is queued"),
            Self::V1Rc30 => ("v1-rc30", &[], "a task row; on the OpenAI path a bare row without URL"),
            Self::Cancelling => ("cancelling", &[], "every task is cancelled by its vendor: row FAILURE, OpenAI status cancelled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_belongs_to_the_channel_with_the_longest_matching_name() {
        let of = |model| Channel::of_model(model).map(Channel::name);
        assert_eq!(of("sora-2-pro"), Some("sora-2"));
        assert_eq!(of("Doubao-Seedance-2-0-260128"), Some("doubao-seedance"));
        assert_eq!(of("seedance-2"), Some("seedance-2"));
        assert_eq!(of("veo-3.1-generate"), Some("gemini"));
        assert_eq!(of("wan2.5-t2v"), Some("ali"));
        assert_eq!(of("sora-20"), Some("sora-2"));
        assert_eq!(of("wander"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn every_channel_has_one_name_in_flags_and_json() {
        for channel in Channel::ALL {
            assert_eq!(Channel::named(channel.name()), Some(channel));
            let json = serde_json::to_value(channel).expect("a string");
            assert_eq!(json, channel.name());
        }
    }
}
