//! What is asked of the gateway in these benchmarks, through the stack as `serve` assembles it.
//!
//! In: everything from a parsed request to a response, hyper's client and the write to upstream's socket included.
//! Out: the client's side, which is hyper's server, its parser and its sockets. Upstream is a thread that echoes the id
//! in an answer of constant length, a few hundred instructions a poll.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use pollgate::config::{Config, UpstreamDialect, UpstreamUrl};
use pollgate::gateway::Gateway;
use pollgate::message::body::Body;
use pollgate::request::inbound::{Inbound, Peer};
use tokio::runtime::{Builder, Runtime};
use tower::Service as _;

/// How many clients ask for one task at once in [`Scene::Shared`].
pub(crate) const SHARERS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Only makes the requests: what the other scenes cost without the gateway.
    Request,
    /// A remembered task, on the path upstream was asked on.
    Hit,
    /// A remembered task, on the other path: its conversion is remembered as well.
    ConvertedHit,
    /// A new task each time.
    Miss,
    /// The same, converted for the other path.
    ConvertedMiss,
    /// A new task for every hundred requests.
    Shared,
}

impl Scene {
    pub(crate) const ALL: [Self; 6] = [
        Self::Request,
        Self::Hit,
        Self::ConvertedHit,
        Self::Shared,
        Self::Miss,
        Self::ConvertedMiss,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Hit => "hit",
            Self::ConvertedHit => "converted-hit",
            Self::Miss => "miss",
            Self::ConvertedMiss => "converted-miss",
            Self::Shared => "shared",
        }
    }

    fn converts(self) -> bool {
        matches!(self, Self::ConvertedHit | Self::ConvertedMiss)
    }
}

/// A gateway on a runtime of one thread, with its upstream.
pub(crate) struct Stage {
    scene: Scene,
    runtime: Runtime,
    /// Each connection has its own copy of the stack, as in the server.
    connections: Vec<Gateway>,
    polls: Arc<AtomicUsize>,
    tasks: usize,
}

impl Stage {
    /// Sets one up and warms it: the connection to upstream is open, and what a scene remembers is remembered.
    pub(crate) fn new(scene: Scene) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let upstream = format!("http://{}", listener.local_addr().expect("is bound"));
        let polls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&polls);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || answer(stream, &counter));
            }
        });
        let mut config = Config::default();
        config.upstream.url = UpstreamUrl::parse(&upstream).expect("a URL");
        config.upstream.dialect = UpstreamDialect::Unified;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let gateway = {
            let _inside = runtime.enter();
            Gateway::new(&config).expect("a gateway")
        };
        let mut stage = Self {
            scene,
            runtime,
            connections: vec![gateway; SHARERS],
            polls,
            tasks: 0,
        };
        // The task of the hits, and the lazy parts of everything.
        for _ in 0..3 {
            let requests = stage.requests(SHARERS);
            stage.run(requests);
        }
        stage
    }

    /// So many requests of the scene (whole hundreds where a hundred share one).
    pub(crate) fn requests(&mut self, count: usize) -> Vec<Request<Body>> {
        (0..count)
            .map(|number| {
                let is_new_task = match self.scene {
                    Scene::Request | Scene::Hit | Scene::ConvertedHit => self.tasks == 0,
                    Scene::Miss | Scene::ConvertedMiss => true,
                    Scene::Shared => number % SHARERS == 0,
                };
                self.tasks += usize::from(is_new_task);
                request(self.scene.converts(), self.tasks)
            })
            .collect()
    }

    /// Has them answered, one after the other, or a hundred at once.
    ///
    /// # Panics
    /// An answer is not what the scene says.
    pub(crate) fn run(&mut self, requests: Vec<Request<Body>>) {
        let at_once = match self.scene {
            Scene::Request => return,
            Scene::Shared => SHARERS,
            _ => 1,
        };
        let connections = &mut self.connections;
        self.runtime.block_on(async {
            let mut requests = requests.into_iter().peekable();
            while requests.peek().is_some() {
                if at_once == 1 {
                    let request = requests.next().expect("was peeked at");
                    check(&ask(&mut connections[0], request).await);
                } else {
                    let together = requests.by_ref().take(at_once);
                    let answers = connections.iter_mut().zip(together);
                    let answers = join_all(answers.map(|(on, request)| ask(on, request))).await;
                    answers.iter().for_each(check);
                }
            }
        });
        assert_eq!(
            self.polls.load(Ordering::Relaxed),
            self.tasks,
            "upstream is asked once a task"
        );
    }
}

/// As a connection asks.
async fn ask(connection: &mut Gateway, request: Request<Body>) -> Response<Body> {
    let peer = Peer {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)),
        tls: false,
    };
    let Ok(response) = connection.call(Inbound::new(request, peer)).await;
    response
}

fn check(response: &Response<Body>) {
    assert_eq!(response.status(), StatusCode::OK);
}

/// What a client's HTTP library sends, the least of it.
fn request(other_path: bool, task: usize) -> Request<Body> {
    let path = if other_path {
        "/v1/videos"
    } else {
        "/v1/video/generations"
    };
    Request::get(format!("{path}/task-video-{task:08}"))
        .header("host", "127.0.0.1:8080")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, deflate")
        .header("user-agent", "OpenAI/Python 2.8.0")
        .header(
            "authorization",
            "Bearer sk-bench-0123456789abcdef0123456789abcdef",
        )
        .body(Body::empty())
        .expect("a request")
}

/// Upstream, on one connection.
fn answer(mut stream: TcpStream, polls: &AtomicUsize) {
    stream.set_nodelay(true).expect("is a socket");
    let mut head = [0; 4096];
    let mut filled = 0;
    while let Ok(length @ 1..) = stream.read(&mut head[filled..]) {
        filled += length;
        if !head[..filled].ends_with(b"\r\n\r\n") {
            continue;
        }
        polls.fetch_add(1, Ordering::Relaxed);
        let line = std::str::from_utf8(&head[..filled]).expect("is ASCII");
        let path = line.split(' ').nth(1).expect("has a path");
        let id = path.rsplit('/').next().expect("has an id");
        let body = succeeded(id);
        let mut answer = String::with_capacity(1024);
        let _ = write!(
            answer,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-oneapi-request-id: 20261123120000ab12\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        filled = 0;
    }
}

/// A succeeded task of some 700 bytes.
fn succeeded(id: &str) -> String {
    let name = "0217abcdef".repeat(30);
    format!(
        r#"{{"code":"success","message":"","data":{{"task_id":"{id}","status":"succeeded","url":"https://cdn.example.com/videos/{name}.mp4","format":"mp4","metadata":{{"duration":5,"fps":24,"width":1280,"height":720,"seed":7,"note":"{}"}},"error":null}}}}"#,
        "a quiet sea at dawn ".repeat(9)
    )
}
