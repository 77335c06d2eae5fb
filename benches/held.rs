//! Memory of a held request: 1,000 clients in `Prefer: wait`, beside a plain hyper server that holds as many.
//!
//! `cargo bench --bench held`

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "its output is what it is for"
)]

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pollgate::simulator::{Settings, Simulator, Status, TaskOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

const CLIENTS: usize = 1_000;
const TASKS: usize = 100;
const PLAIN: &str = "--plain-hyper";

fn main() {
    if std::env::args().any(|argument| argument == PLAIN) {
        return runtime().block_on(plain_hyper());
    }
    runtime().block_on(async {
        let own = std::env::current_exe().expect("this program");
        let plain = measure(Command::new(own).arg(PLAIN), &["task".to_owned()]).await;

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = format!("http://{}", listener.local_addr().expect("is bound"));
        let simulator = Simulator::new(Settings::default());
        let running = TaskOptions {
            status: Some(Status::InProgress),
            ..TaskOptions::default()
        };
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                simulator
                    .create("sk-bench", "sora-2", running.clone())
                    .expect("a new id")
            })
            .collect();
        tokio::spawn(async move { simulator.run(listener, std::future::pending()).await });
        let mut gateway = Command::new(env!("CARGO_BIN_EXE_pollgate"));
        gateway.args([
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--upstream",
            &upstream,
        ]);
        let held = measure(&mut gateway, &tasks).await;

        println!("resident memory per held request, {CLIENTS} clients on {TASKS} tasks");
        println!("| server | per held request | against plain hyper |");
        println!("|---|---|---|");
        println!("| plain hyper | {plain:.1} KiB | 1.0 |");
        println!("| pollgate | {held:.1} KiB | {:.1} |", held / plain);
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A server that answers nothing, ever.
async fn plain_hyper() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!(
        "plain hyper listening on {}",
        listener.local_addr().expect("is bound")
    );
    while let Ok((stream, _)) = listener.accept().await {
        let hold = service_fn(|_: Request<Incoming>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), hold),
        );
    }
}

/// What a server's memory grows by for each of the clients, in KiB.
async fn measure(command: &mut Command, tasks: &[String]) -> f64 {
    let (server, address) = start(command);
    // Warms the server up, and leaves.
    drop(hold(address, tasks, 20).await);
    settle().await;
    let before = resident(&server);
    let clients = hold(address, tasks, CLIENTS).await;
    settle().await;
    let grown = resident(&server).saturating_sub(before);
    drop(clients);
    stop(server);
    grown as f64 / CLIENTS as f64
}

fn start(command: &mut Command) -> (Child, SocketAddr) {
    let mut server = command.stdout(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(server.stdout.take().expect("is piped")).lines();
    let address = lines
        .find_map(|line| {
            line.ok()?
                .split_once("listening on ")?
                .1
                .split([',', ' '])
                .next()?
                .parse()
                .ok()
        })
        .expect("says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    (server, address)
}

fn stop(mut server: Child) {
    let _ = server.kill();
    let _ = server.wait();
}

async fn hold(address: SocketAddr, tasks: &[String], count: usize) -> Vec<TcpStream> {
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let mut client = TcpStream::connect(address).await.expect("connects");
        let request = format!(
            "GET /v1/videos/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-bench\r\nprefer: wait=60\r\n\r\n",
            tasks[number % tasks.len()]
        );
        client.write_all(request.as_bytes()).await.expect("is sent");
        clients.push(client);
    }
    clients
}

/// Long enough for all of them to have come in and been looked after once.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(4)).await;
}

/// In KiB.
fn resident(server: &Child) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("is told");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}
