//! Result URLs: the platform's own, and signed ones.

use std::time::Duration;

use super::clock::{stamp_of, unix_of};
use super::dice::digest;
use super::path::encoded;

/// Creates result URLs.
#[derive(Debug, Clone)]
pub(super) struct Links {
    base: String,
    lifetime: Duration,
}

impl Links {
    pub(super) fn new(base: String, lifetime: Duration) -> Self {
        Self { base, lifetime }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Lifetime of a signature, in whole seconds.
    pub(super) fn lifetime(&self) -> u64 {
        self.lifetime.as_secs() + u64::from(self.lifetime.subsec_nanos() > 0)
    }

    /// The platform's own URL, which needs the key (new-api's `BuildProxyURL`).
    pub(super) fn proxy(&self, id: &str) -> String {
        format!("{}/v1/videos/{}/content", self.base, encoded(id))
    }

    /// The URL of a Midjourney image, which needs no key.
    pub(super) fn image(&self, id: &str) -> String {
        format!("{}/mj/image/{}", self.base, encoded(id))
    }

    /// A URL signed at a Unix second, as Volcengine's object storage signs.
    pub(super) fn signed(&self, id: &str, at: u64) -> String {
        let (date, lifetime) = (stamp_of(at), self.lifetime());
        let signature = signature(id, &date, lifetime);
        format!(
            "{}/files/{}.mp4?X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Date={date}&X-Tos-Expires={lifetime}&X-Tos-Signature={signature}",
            self.base,
            encoded(id)
        )
    }
}

/// Whether a signed URL's query is genuine and not expired at a Unix second.
pub(super) fn is_signed(id: &str, query: &str, now: u64) -> bool {
    let value = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
            .unwrap_or_default()
    };
    let date = value("X-Tos-Date");
    let lifetime = value("X-Tos-Expires").parse().unwrap_or(0);
    unix_of(date).is_some_and(|from| now < from.saturating_add(lifetime))
        && value("X-Tos-Signature") == signature(id, date, lifetime)
}

fn signature(id: &str, date: &str, lifetime: u64) -> String {
    format!("{:016x}", digest(&format!("{id} {date} {lifetime}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_valid_for_its_task_and_lifetime() {
        let links = Links::new("http://sim".to_owned(), Duration::from_mins(1));
        let url = links.signed("task_X", 1_784_517_925);
        let query = url.split_once('?').expect("a query").1;
        assert!(is_signed("task_X", query, 1_784_517_925));
        assert!(is_signed("task_X", query, 1_784_517_984));
        assert!(!is_signed("task_X", query, 1_784_517_985));
        assert!(!is_signed("task_Y", query, 1_784_517_925));
        let stretched = query.replace("Expires=60", "Expires=600");
        assert!(!is_signed("task_X", &stretched, 1_784_517_925));
        assert!(!is_signed("task_X", "", 0));
    }
}
