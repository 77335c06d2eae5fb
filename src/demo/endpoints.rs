//! Where the demo's gateways listen, and a request to try there.

/// Base URLs of the gateways, and of the first one's admin listener.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    pub(super) gateways: Vec<String>,
    pub(super) admin: Option<String>,
    /// What their fleet shares its memory through, in words; `None` where there is no fleet.
    pub(super) engine: Option<String>,
}

impl Endpoints {
    /// Shell command that polls a task, in two lines.
    pub(super) fn curl(&self, key: &str, target: &str) -> [String; 2] {
        [
            format!("curl -H 'Authorization: Bearer {key}' \\"),
            format!("  '{}{target}'", self.gateways[0]),
        ]
    }
}
