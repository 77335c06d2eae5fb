//! A network namespace with one host in it, behind a cable that can be pulled.

use std::process::{Command, Stdio};

use crate::server::Place;

/// See the module. It goes with the test.
pub(crate) struct Namespace {
    name: String,
    cable: String,
    host: String,
}

impl Namespace {
    /// `None` where it is not permitted.
    pub(crate) fn new() -> Option<Self> {
        let number = std::process::id();
        let (near, host) = {
            // A network of four addresses, its own for each process.
            let [_, high, low, _] = (number << 10).to_be_bytes();
            let net = |last| format!("10.{}.{}.{last}", 200 + high % 50, low);
            (net(1), net(2))
        };
        let namespace = Self {
            name: format!("fleet-{number}"),
            cable: format!("fl{number}"),
            host,
        };
        let Self { name, cable, host } = &namespace;
        let inside = ["netns", "exec", name, "ip"];
        let far = format!("{cable}f");
        let done = ip(&["netns", "add", name])
            && ip(&[
                "link", "add", cable, "type", "veth", "peer", "name", &far, "netns", name,
            ])
            && ip(&["addr", "add", &format!("{near}/30"), "dev", cable])
            && ip(&["link", "set", cable, "up"])
            && ip(&[
                &inside[..],
                &["addr", "add", &format!("{host}/30"), "dev", &far],
            ]
            .concat())
            && ip(&[&inside[..], &["link", "set", &far, "up"]].concat())
            && ip(&[&inside[..], &["link", "set", "lo", "up"]].concat());
        done.then_some(namespace)
    }

    /// Where a server runs in it.
    pub(crate) fn place(&self) -> Place {
        Place {
            namespace: Some(self.name.clone()),
            host: self.host.clone(),
        }
    }

    /// Pulls the cable at the far end, or puts it back.
    pub(crate) fn cut_off(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        let far = format!("{}f", self.cable);
        let done = ip(&[
            "netns", "exec", &self.name, "ip", "link", "set", &far, state,
        ]);
        assert!(done, "the cable");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["link", "del", &self.cable]);
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let run = Command::new("ip")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}
