//! Notifications to systemd over `NOTIFY_SOCKET`: ready, reloading, stopping, alive.

use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::support::{Gateway, Upstream, binary, eventually, row};

/// The far end of `NOTIFY_SOCKET`.
struct Manager {
    folder: TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut datagram = vec![0; 4096];
            while let Ok(length) = socket.recv(&mut datagram).await {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                all.lock().unwrap().push(text);
            }
        });
        Self { folder, heard }
    }

    fn service(&self, upstream: &Upstream) -> Command {
        let mut command = binary();
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--upstream", &upstream.url()])
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    async fn hears(&self, what: &str) -> usize {
        eventually(what, async || {
            self.heard().iter().any(|message| message.contains(what))
        })
        .await;
        let heard = self.heard();
        heard
            .iter()
            .position(|message| message.contains(what))
            .expect("was heard")
    }
}

#[tokio::test]
async fn the_service_manager_is_notified_of_start_reload_and_stop() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let manager = Manager::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pollgate.toml");
    std::fs::write(&file, "").unwrap();
    let mut command = manager.service(&upstream);
    command.arg("--config").arg(&file);
    let mut gateway = Gateway::spawn(command).await;
    let ready = manager.hears("READY=1").await;
    assert_eq!(
        manager.heard()[ready],
        format!(
            "READY=1\nSTATUS=serving on {}, upstream {}\n",
            gateway.address,
            upstream.url()
        )
    );

    std::fs::write(&file, "[cache]\ncapacity = 5\n").unwrap();
    gateway.signal("-HUP");
    let reloading = manager.hears("RELOADING=1\nMONOTONIC_USEC=").await;
    // Ready has to follow, even after a failed reload.
    eventually("ready again", async || {
        manager
            .heard()
            .get(reloading + 1)
            .is_some_and(|message| message.starts_with("READY=1\n"))
    })
    .await;
    let told = &manager.heard()[reloading + 1];
    assert!(
        told.contains("not reloaded") && told.contains("cache.capacity"),
        "{told}"
    );

    gateway.signal("-TERM");
    let stopping = manager.hears("STOPPING=1\nSTATUS=draining").await;
    assert!(stopping > reloading);
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(
        !manager
            .heard()
            .iter()
            .any(|message| message.contains("WATCHDOG")),
        "nobody asked for it"
    );
}

#[tokio::test]
async fn the_watchdog_is_notified_where_there_is_one() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let manager = Manager::new();
    let mut command = manager.service(&upstream);
    command.env("WATCHDOG_USEC", "200000");
    let _gateway = Gateway::spawn(command).await;
    eventually("three meals", async || {
        manager
            .heard()
            .iter()
            .filter(|message| *message == "WATCHDOG=1\n")
            .count()
            >= 3
    })
    .await;
}

#[tokio::test]
async fn a_missing_service_manager_stops_nothing() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let manager = Manager::new();
    let mut command = manager.service(&upstream);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("gone"));
    let gateway = Gateway::spawn(command).await;
    assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
    eventually("a word in the log", async || {
        gateway
            .log()
            .iter()
            .any(|line| line.contains("cannot tell the service manager"))
    })
    .await;
}
