//! Raw bytes on either side of the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// Long enough for anything under way on this machine to arrive, for tests of what must not arrive.
const SOON: Duration = Duration::from_millis(300);

/// An upstream (or a proxy) that the test plays byte by byte.
pub(crate) struct Raw {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Raw {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accepts the next connection.
    pub(crate) async fn accept(&self) -> Wire {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection in time").unwrap();
        Wire::new(stream)
    }

    /// Whether no connection arrives.
    pub(crate) async fn is_left_alone(&self) -> bool {
        timeout(SOON, self.listener.accept()).await.is_err()
    }
}

/// One connection, byte by byte.
pub(crate) struct Wire {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let read = Vec::new();
        Self { stream, read }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("is let in"))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let written = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await;
        written.expect("is read in time").expect("is taken");
    }

    /// Reads up to and including this phrase.
    pub(crate) async fn until(&mut self, phrase: &str) -> String {
        loop {
            let found = self
                .read
                .windows(phrase.len())
                .position(|window| window == phrase.as_bytes());
            if let Some(at) = found {
                return self.take(at + phrase.len());
            }
            let count = self.more().await;
            assert_ne!(count, 0, "ended before {phrase:?}: {:?}", self.text());
        }
    }

    /// Reads the next head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads this many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert_ne!(self.more().await, 0, "ended early: {:?}", self.text());
        }
        self.read.drain(..count).collect()
    }

    /// Reads and discards this many bytes.
    pub(crate) async fn drain(&mut self, mut count: usize) {
        count -= self.read.len();
        self.read.clear();
        let mut buffer = vec![0; 256 << 10];
        while count > 0 {
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
            let read = read.expect("something in time").expect("no error");
            assert_ne!(read, 0, "ended early");
            count -= read;
        }
    }

    /// Reads this many bytes as text.
    pub(crate) async fn exactly(&mut self, count: usize) -> String {
        String::from_utf8_lossy(&self.bytes(count).await).into_owned()
    }

    /// Reads until the other end closes or resets the connection.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await > 0 {}
        self.take(self.read.len())
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    async fn more(&mut self) -> usize {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        read.expect("something in time").unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> String {
        let taken: Vec<_> = self.read.drain(..count).collect();
        String::from_utf8_lossy(&taken).into_owned()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}
