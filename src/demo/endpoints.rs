//! Where the demo's gateway listens, and a request to try there.

/// Base URLs of the gateway's two listeners.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    pub(super) gateway: String,
    pub(super) admin: Option<String>,
}

impl Endpoints {
    /// Shell command that polls a task, in two lines.
    pub(super) fn curl(&self, key: &str, target: &str) -> [String; 2] {
        [
            format!("curl -H 'Authorization: Bearer {key}' \\"),
            format!("  '{}{target}'", self.gateway),
        ]
    }
}
