//! Where the demo's gateway listens, and a request to try there.

/// Where one's own requests may go while the demo runs.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    pub(super) gateway: String,
    pub(super) admin: Option<String>,
}

impl Endpoints {
    /// A command for a shell that asks for a task's status, in two lines.
    pub(super) fn curl(&self, key: &str, id: &str) -> [String; 2] {
        [
            format!("curl -H 'Authorization: Bearer {key}' \\"),
            format!("  {}/v1/videos/{id}", self.gateway),
        ]
    }
}
