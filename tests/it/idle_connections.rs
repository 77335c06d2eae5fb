//! Between two requests a connection is parked: it has no protocol and no buffers. Any next request is answered as if
//! it had never been parked.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::{
    Gateway, Identity, PATIENCE, Reply, Upstream, Wire, eventually, row, trusting,
};

const ASK: &str = "GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n\r\n";

/// The next requests in the pieces they are sent in, and the bodies of their answers, where `*` is the task.
const NEXT: [(&[&str], &[&str]); 7] = [
    (
        &["GET /v1/vid", "eos/t HTTP/1.1\r\nhost: x\r\n\r", "\n"],
        &["*"],
    ),
    (
        &[
            "GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/vi",
            "deos/t HTTP/1.1\r\nhost: x\r\n\r\n",
        ],
        &["*", "", "*"],
    ),
    (&["HEAD /v1/videos/t HTTP/1.1\r\nhost: x\r\n\r\n"], &[""]),
    (
        &["GET /v1/videos/t HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n"],
        &["*"],
    ),
    (
        &[
            "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234",
            "56789",
        ],
        &["0123456789"],
    ),
    (
        &[
            "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01",
            "234\r\n0\r\n",
            "\r\n",
        ],
        &["01234"],
    ),
    (
        &[
            "POST /v1/videos/t HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcGET /v1/videos/t HTTP/1.1\r\n",
            "host: x\r\n\r\n",
        ],
        &["abc", "*"],
    ),
];

/// Reads one answer: its head in lower case, and its body.
async fn answer(client: &mut (impl AsyncRead + Unpin), bodiless: bool) -> (String, String) {
    let mut bytes = Vec::new();
    let reading = async {
        let mut head = None;
        loop {
            bytes.push(client.read_u8().await.expect("an answer"));
            if head.is_none() && bytes.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&bytes).to_lowercase();
                let length = text.split_once("content-length: ").map_or(0, |(_, rest)| {
                    let (length, _) = rest.split_once("\r\n").expect("a line");
                    length.parse().expect("a length")
                });
                head = Some((text, if bodiless { 0 } else { length }));
            }
            if let Some((head, length)) = &head
                && bytes.len() >= head.len() + length
            {
                let body = String::from_utf8_lossy(&bytes[head.len()..]).into_owned();
                return (head.clone(), body);
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("comes in time")
}

async fn ask(client: &mut (impl AsyncRead + AsyncWrite + Unpin), document: &str) {
    client.write_all(ASK.as_bytes()).await.expect("is taken");
    client.flush().await.expect("is taken");
    let (head, body) = answer(client, false).await;
    assert!(
        head.starts_with("http/1.1 200") && body == document,
        "{head}{body}"
    );
}

async fn upstream() -> Upstream {
    // Where upstream tells no time of creation, it is that of the first poll, which is another one after a write.
    let task = row("SUCCESS").replace(r#""task_id""#, r#""submit_time":1795000000,"task_id""#);
    Upstream::start(move |asked| {
        if asked.method == "GET" && asked.target.starts_with("/v1/videos/") {
            Reply::json(task.clone())
        } else {
            Reply::json(asked.body.clone())
        }
    })
    .await
}

/// Sends a request, each of [`NEXT`] once the connection is parked, and one more request.
async fn goes_on<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    connect: impl AsyncFn() -> S,
) {
    let document = gateway.get("/v1/videos/t").await;
    for (pieces, bodies) in NEXT {
        let mut client = connect().await;
        ask(&mut client, document.text()).await;
        for piece in pieces {
            client.write_all(piece.as_bytes()).await.expect("is taken");
            client.flush().await.expect("is taken");
            // Gives the gateway time to read the piece. That it has read it is not checked.
            gateway.get("/v1/videos/t").await;
        }
        for body in bodies {
            let bodiless = pieces[0].starts_with("HEAD");
            let (head, told) = answer(&mut client, bodiless).await;
            let expected = if *body == "*" { document.text() } else { body };
            assert_eq!(told, expected, "{pieces:?}: {head}");
        }
        ask(&mut client, document.text()).await;
    }
}

#[tokio::test]
async fn any_request_on_a_parked_connection_is_answered() {
    let upstream = upstream().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    goes_on(&gateway, async || {
        let client = TcpStream::connect(gateway.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client
    })
    .await;
}

#[tokio::test]
async fn any_request_on_a_parked_tls_connection_is_answered() {
    let (identity, upstream) = (Identity::new(), upstream().await);
    let tls = Gateway::start(&upstream.url(), &identity.settings()).await;
    let plain = Gateway::start(&upstream.url(), &[]).await;
    let connector = TlsConnector::from(std::sync::Arc::new(trusting(identity.certificates())));
    goes_on(&plain, async || {
        let client = TcpStream::connect(tls.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        let name = "api.test".try_into().unwrap();
        connector.connect(name, client).await.expect("shakes hands")
    })
    .await;
}

#[tokio::test]
async fn timeouts_run_while_a_connection_is_parked() {
    let upstream = upstream().await;
    let settings = [
        ("limits.header_timeout", "200ms"),
        ("limits.idle_timeout", "900ms"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let document = gateway.get("/v1/videos/t").await;
    let mut slow = Wire::connect(gateway.address).await;
    let mut idle = Wire::connect(gateway.address).await;
    ask(&mut idle.stream, document.text()).await;
    ask(&mut slow.stream, document.text()).await;
    slow.send("GET /v1/vid").await;
    let told = slow.rest().await;
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert_eq!(idle.rest().await, "");
}

#[tokio::test]
async fn parked_connections_are_counted_until_they_close_and_take_little_memory() {
    const CLIENTS: u32 = 600;
    let upstream = upstream().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let document = gateway.get("/v1/videos/t").await;
    let connect = async |count: u32| {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Wire::connect(gateway.address).await;
            ask(&mut client.stream, document.text()).await;
            clients.push(client);
        }
        clients
    };
    let are_connected = async |count: f64| {
        eventually("all are counted", async || {
            gateway.metric("pollgate_connections").await == count
        })
        .await;
    };
    let first = connect(20).await;
    let base = gateway.metric("pollgate_connections").await - 20.0;
    let before = gateway.resident();
    let clients = connect(CLIENTS).await;
    are_connected(base + 20.0 + f64::from(CLIENTS)).await;
    let each = (gateway.resident() - before) / u64::from(CLIENTS);
    println!("each takes {each} bytes");
    assert!(each < 10 * 1024, "each takes {each} bytes");
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            client.reset();
        }
    }
    drop(first);
    are_connected(base).await;
}
