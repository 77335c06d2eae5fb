//! The network between a fleet and its engine: it cuts, swallows and records.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port that leads to an engine.
pub(crate) struct Tunnel {
    port: u16,
    /// Whether what arrives is dropped, without a word.
    swallows: Arc<watch::Sender<bool>>,
    /// Changes when all connections are cut.
    cuts: Arc<watch::Sender<usize>>,
    recorded: Arc<Mutex<Vec<u8>>>,
}

/// A tunnel that keeps what is sent both ways.
pub(crate) async fn record(engine: u16) -> Tunnel {
    Tunnel::open(engine, true).await
}

impl Tunnel {
    pub(crate) async fn to(engine: u16) -> Self {
        Self::open(engine, false).await
    }

    async fn open(engine: u16, records: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let tunnel = Self {
            port: listener.local_addr().expect("an address").port(),
            swallows: Arc::default(),
            cuts: Arc::default(),
            recorded: Arc::default(),
        };
        let (swallows, cuts) = (Arc::clone(&tunnel.swallows), Arc::clone(&tunnel.cuts));
        let recorded = records.then(|| Arc::clone(&tunnel.recorded));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (swallows, mut cut) = (swallows.subscribe(), cuts.subscribe());
                cut.mark_unchanged();
                let recorded = recorded.clone();
                tokio::spawn(async move {
                    let Ok(engine) = TcpStream::connect(("127.0.0.1", engine)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_engine, to_engine) = engine.into_split();
                    tokio::select! {
                        () = pass(from_client, to_engine, swallows.clone(), recorded.clone()) => {}
                        () = pass(from_engine, to_client, swallows, recorded) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        tunnel
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Drops everything from now on, or passes it on again.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.swallows.send_replace(swallows);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What was sent, both ways.
    pub(crate) fn recorded(&self) -> Vec<u8> {
        self.recorded.lock().expect("not poisoned").clone()
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallows: watch::Receiver<bool>,
    recorded: Option<Arc<Mutex<Vec<u8>>>>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *swallows.borrow() {
            continue;
        }
        if let Some(recorded) = &recorded {
            recorded
                .lock()
                .expect("not poisoned")
                .extend(&buffer[..length]);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
