//! A GiB each way, side by side with nginx: how fast, at what cost, in how much memory.
//!
//! Takes Debian's nginx, a release build and an otherwise idle machine:
//! `cargo test --release --test it throughput -- --ignored --nocapture --test-threads 1`.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::support::{Gateway, Wire, eventually};

const GIB: usize = 1 << 30;
const ROUNDS: u32 = 4;

/// Answers a `GET` with a GiB, and reads any other request's body.
async fn bulk() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                let asked = wire.head().await;
                if asked.starts_with("GET") {
                    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {GIB}\r\n\r\n"))
                        .await;
                    pour(&mut wire.stream).await;
                } else {
                    wire.drain(GIB).await;
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await;
                }
            });
        }
    });
    address
}

async fn pour(stream: &mut TcpStream) {
    let chunk = vec![0; 256 << 10];
    for _ in 0..GIB / chunk.len() {
        stream.write_all(&chunk).await.unwrap();
    }
}

/// Measures a transfer through this address.
async fn transfer(through: SocketAddr, upload: bool) -> Duration {
    let started = Instant::now();
    let mut client = Wire::connect(through).await;
    let head = "/v1/videos/t/content HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    if upload {
        client
            .send(format!("POST {head}content-length: {GIB}\r\n\r\n"))
            .await;
        pour(&mut client.stream).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    } else {
        client.send(format!("GET {head}\r\n")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.drain(GIB).await;
    }
    started.elapsed()
}

struct Nginx {
    process: Child,
    _folder: tempfile::TempDir,
    default: SocketAddr,
    unbuffered: SocketAddr,
}

impl Nginx {
    async fn start(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (default, unbuffered) = (free(), free());
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr crit;
            events {{ worker_connections 64; }}
            http {{
                access_log off; client_max_body_size 0;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path a; uwsgi_temp_path b; scgi_temp_path c;
                server {{ listen {default}; location / {{ proxy_pass http://{upstream}; }} }}
                server {{
                    listen {unbuffered};
                    location / {{
                        proxy_pass http://{upstream};
                        proxy_buffering off; proxy_request_buffering off;
                        proxy_http_version 1.1; proxy_set_header connection \"\";
                    }}
                }}
            }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        eventually("nginx", async || {
            TcpStream::connect(unbuffered).await.is_ok()
        })
        .await;
        Self {
            process,
            _folder: folder,
            default,
            unbuffered,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CPU time of a process so far, in hundredths of a second.
fn cpu(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let mut times = fields.split(' ').skip(11);
    let mut time = || times.next().unwrap().parse::<u64>().unwrap();
    time() + time()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes nginx, a release build, and the machine for itself"]
async fn a_gib_each_way_passes_in_bounded_memory_at_70_percent_of_nginx() {
    let upstream = bulk().await;
    let gateway = Gateway::start(&format!("http://{upstream}"), &[]).await;
    let nginx = Nginx::start(upstream).await;
    transfer(gateway.address, false).await;
    let before = gateway.resident();
    for upload in [false, true] {
        let ways = [
            ("pollgate", gateway.address, gateway.process()),
            ("nginx", nginx.default, nginx.process.id()),
            ("nginx, unbuffered", nginx.unbuffered, nginx.process.id()),
        ];
        let mut spent = [(Duration::ZERO, 0); 3];
        for _ in 0..ROUNDS {
            for ((_, address, process), spent) in ways.iter().zip(&mut spent) {
                let cpu_before = cpu(*process);
                spent.0 += transfer(*address, upload).await;
                spent.1 += cpu(*process) - cpu_before;
            }
        }
        let rate = |time: Duration| f64::from(ROUNDS) / time.as_secs_f64();
        for ((name, ..), (time, cpu)) in ways.iter().zip(spent) {
            println!(
                "{} through {name}: {:.2} GiB/s, {:.2} s of CPU for a GiB",
                if upload { "upload" } else { "download" },
                rate(time),
                f64::from(u32::try_from(cpu).unwrap()) / 100.0 / f64::from(ROUNDS)
            );
        }
        let grown = gateway.resident().saturating_sub(before);
        println!("grown by {} KiB", grown >> 10);
        assert!(grown < 32 << 20);
        for (time, _) in &spent[1..] {
            assert!(rate(spent[0].0) >= 0.7 * rate(*time));
        }
    }
}
