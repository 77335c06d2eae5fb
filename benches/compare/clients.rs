//! Clients that wrk cannot play: many at once, many that do nothing, and one that asks for a million tasks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Connections over which [`fill`] asks.
const FILLERS: usize = 64;

/// Held requests are spread over so many tasks.
const HELD_TASKS: usize = 100;

/// A client with its connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("is a socket");
        Self {
            stream,
            buffer: Vec::with_capacity(2048),
        }
    }

    async fn send(&mut self, path: &str, header: &str) {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer sk-bench-0123456789abcdef\r\n{header}\r\n"
        );
        self.stream
            .write_all(request.as_bytes())
            .await
            .expect("is sent");
    }

    /// Reads one answer to its end.
    async fn receive(&mut self) {
        self.buffer.clear();
        while !is_whole(&self.buffer) {
            let read = self.stream.read_buf(&mut self.buffer).await;
            assert!(read.expect("is read") > 0, "the server hung up");
        }
        assert!(
            self.buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
    }

    async fn ask(&mut self, path: &str) {
        self.send(path, "").await;
        self.receive().await;
    }
}

/// Whether an answer with a `content-length`, or in chunks, is there.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    match length {
        Some(length) => body.len() >= length.trim().parse().expect("a length"),
        None => body.ends_with("0\r\n\r\n"),
    }
}

async fn connect(address: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Client::connect(address).await);
    }
    clients
}

/// So many clients, connected already, ask at once; tells when the median one and the last one were answered.
pub(crate) async fn burst(address: &str, path: &str, count: usize) {
    let clients = connect(address, count).await;
    let path: Arc<str> = path.into();
    let started = Instant::now();
    let asked: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let path = Arc::clone(&path);
            tokio::spawn(async move {
                client.ask(&path).await;
                started.elapsed().as_secs_f64()
            })
        })
        .collect();
    let mut took = Vec::with_capacity(count);
    for client in asked {
        took.push(client.await.expect("is answered"));
    }
    took.sort_by(f64::total_cmp);
    println!("{} {}", took[count / 2], took[count - 1]);
}

/// So many clients ask once each, one after the other, and then stay.
pub(crate) async fn idle(address: &str, path: &str, count: usize) {
    let mut clients = connect(address, count).await;
    for client in &mut clients {
        client.ask(path).await;
    }
    stay(clients).await;
}

/// So many clients wait for news.
pub(crate) async fn held(address: &str, path: &str, count: usize) {
    let mut clients = connect(address, count).await;
    for (number, client) in clients.iter_mut().enumerate() {
        let path = format!("{path}{}", number % HELD_TASKS);
        client.send(&path, "prefer: wait=60\r\n").await;
    }
    stay(clients).await;
}

/// Until killed.
async fn stay(clients: Vec<Client>) {
    println!("ready");
    tokio::time::sleep(Duration::from_mins(10)).await;
    drop(clients);
}

/// Asks for each of the tasks once.
pub(crate) async fn fill(address: &str, path: &str, tasks: Range<usize>) {
    let next = Arc::new(AtomicUsize::new(tasks.start));
    let fillers: Vec<_> = connect(address, FILLERS)
        .await
        .into_iter()
        .map(|mut client| {
            let (next, path) = (Arc::clone(&next), path.to_owned());
            tokio::spawn(async move {
                loop {
                    let task = next.fetch_add(1, Ordering::Relaxed);
                    if task >= tasks.end {
                        return;
                    }
                    client.ask(&format!("{path}{task}")).await;
                }
            })
        })
        .collect();
    for filler in fillers {
        filler.await.expect("is answered");
    }
}
