//! The link to a real engine that freezes, dies, fills up, becomes a replica, and does not want to be used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use self::server::Server;
use super::{Link, LinkConfig, QUEUE};
use crate::config::Sentinel;
use crate::fleet::engine::{
    Ask, Away, Birth, Board, Boarded, Digest, Engine, EngineTime, EntryKey, Fence, Land, Landing,
    Left, Member, Push, Pushes, SILENCE, Said, Scope, Sealed, Times,
};
use crate::sync::lock;

#[path = "../../../tests/fleet/server.rs"]
#[allow(dead_code, reason = "tests/fleet uses the rest")]
#[allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a server's own time is no tokio's"
)]
pub(super) mod server;

const ME: Member = Member(1);

const KEY: EntryKey = EntryKey {
    task: Digest([1; 16]),
    caller: Digest([2; 16]),
    dialect: Digest([3; 16]),
};

/// What a member was pushed and nobody has looked at.
pub(super) type Inbox = Arc<Mutex<Vec<Push>>>;

pub(super) fn inbox() -> (Inbox, Pushes) {
    let inbox = Inbox::default();
    let into = Arc::clone(&inbox);
    let pushes: Pushes = Arc::new(move |push| lock(&into).push(push));
    (inbox, pushes)
}

pub(super) fn config(port: u16) -> LinkConfig {
    LinkConfig {
        max_value: 256 << 10,
        engine: format!("redis://127.0.0.1:{port}").parse().expect("a URL"),
        password_file: None,
        sentinel: None,
        ca_file: None,
        cert: None,
        key: None,
        name: "tests".into(),
    }
}

/// Waits for a connection; ten seconds at most.
pub(super) async fn connected(link: &Link) {
    until(link, || link.status().connected).await;
}

async fn until(link: &Link, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{:?}", link.status());
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the link to say why it has no connection.
async fn problem(link: &Link) -> String {
    until(link, || link.status().problem.is_some()).await;
    link.status().problem.expect("a problem").to_string()
}

fn start(config: &LinkConfig, member: Member) -> (Arc<Link>, Inbox) {
    let (inbox, pushes) = inbox();
    let link = Link::new(config, member, pushes).expect("a link");
    link.start();
    (link, inbox)
}

async fn link_to(server: &Server, member: Member) -> (Arc<Link>, Inbox) {
    let (link, inbox) = start(&config(server.port()), member);
    connected(&link).await;
    (link, inbox)
}

fn board() -> Ask {
    Ask::Board(Board {
        key: KEY,
        have: Fence::NONE,
        asked_within: None,
        may_lead: true,
        lease: Duration::from_secs(1),
        expires: EngineTime(1 << 52),
    })
}

fn landing((fence, birth): (Fence, Birth)) -> Ask {
    let at = EngineTime(fence.0 + 1);
    Ask::Land(Land {
        key: KEY,
        fence,
        birth,
        times: Times {
            asked: at,
            received: at,
            fresh_until: at.after(Duration::from_mins(1)),
            useful_until: at.after(Duration::from_mins(2)),
        },
        sealed: Sealed(Bytes::from_static(b"sealed")),
        keep: true,
    })
}

async fn lead(link: &Link) -> (Fence, Birth) {
    match link.ask(board()).await {
        Ok(Said::Boarded {
            boarded: Boarded::Lead { fence, birth, .. },
            ..
        }) => (fence, birth),
        other => panic!("no lead: {other:?}"),
    }
}

/// Each test on each engine that there is.
macro_rules! on_every_engine {
    ($($(#[$about:meta])* async fn $name:ident($binary:ident) $body:block)*) => {$(
        $(#[$about])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "takes an engine: tests/run fleet"]
        async fn $name() {
            for binary in server::binaries() {
                let $binary = binary.as_path();
                                timeout(Duration::from_mins(1), async $body).await.expect("an end");
            }
        }
    )*};
}

on_every_engine! {
    async fn a_frozen_engine_is_given_up_after_half_a_second_and_found_again(binary) {
        let server = Server::start(binary, &[]);
        let (link, inbox) = link_to(&server, ME).await;
        let led = lead(&link).await;
        server.signal("STOP");
        let asked = Instant::now();
        assert_eq!(link.ask(board()).await, Err(Away::Lost));
        let took = asked.elapsed();
        assert!(took >= SILENCE && took < SILENCE * 3, "{took:?}");
        until(&link, || !link.status().connected).await;
        assert_eq!(*lock(&inbox), [Push::Cut]);
        let asked = Instant::now();
        assert_eq!(link.ask(board()).await, Err(Away::Disconnected));
        assert!(asked.elapsed() < Duration::from_millis(50), "{:?}", asked.elapsed());
        assert_eq!(problem(&link).await, "no answer within 500ms");
        server.signal("CONT");
        connected(&link).await;
        assert_eq!(link.status().connections, 2);
        // It is the same engine, and it still knows the lease.
        assert_eq!(link.ask(landing(led)).await, Ok(Said::Landed(Landing::Kept)));
    }

    async fn an_engine_that_dies_and_comes_back_empty_is_used_again(binary) {
        let mut server = Server::start(binary, &[]);
        let (link, inbox) = link_to(&server, ME).await;
        let beat = Ask::Beat { since: None };
        let Ok(Said::Heard(before)) = link.ask(beat).await else { panic!("no beat") };
        let led = lead(&link).await;
        server.kill();
        until(&link, || !link.status().connected).await;
        assert_eq!(*lock(&inbox), [Push::Cut]);
        server.restart();
        connected(&link).await;
        assert_eq!(link.ask(landing(led)).await, Ok(Said::Landed(Landing::Forgotten)));
        let Ok(Said::Heard(after)) = link.ask(Ask::Beat { since: Some(before.next) }).await else {
            panic!("no beat")
        };
        assert_ne!(after.next.birth, before.next.birth);
    }

    async fn a_command_goes_on_although_nobody_waits_for_its_answer(binary) {
        let server = Server::start(binary, &[]);
        let (link, _) = link_to(&server, ME).await;
        let (other, _) = link_to(&server, Member(2)).await;
        drop(link.ask(board()));
        link.ask(Ask::Ends { model: KEY.task }).await.expect("an answer to what came after");
        let said = other.ask(board()).await;
        let Ok(Said::Boarded { boarded: Boarded::Wait { leader, .. }, .. }) = said else {
            panic!("{said:?}")
        };
        assert_eq!(leader, ME);
    }

    async fn what_waits_for_a_frozen_engine_is_bounded(binary) {
        let server = Server::start(binary, &[]);
        let (link, _) = link_to(&server, ME).await;
        server.signal("STOP");
        let asked: Vec<_> = (0..QUEUE + 500).map(|_| link.ask(board())).collect();
        let said = futures_util::future::join_all(asked).await;
        let full = said.iter().filter(|said| **said == Err(Away::Full)).count();
        let lost = said.iter().filter(|said| **said == Err(Away::Lost)).count();
        assert_eq!((full, lost), (500, QUEUE));
        // And so are their bytes.
        server.signal("CONT");
        until(&link, || link.status().connections == 2).await;
        server.signal("STOP");
        let large = |fence| match landing((Fence(fence), Birth(1))) {
            Ask::Land(land) => Ask::Land(Land { sealed: Sealed(vec![0; 256 << 10].into()), ..land }),
            _ => unreachable!("a landing"),
        };
        let asked: Vec<_> = (1..=20).map(|fence| link.ask(large(fence))).collect();
        let said = futures_util::future::join_all(asked).await;
        assert_eq!(said.iter().filter(|said| **said == Err(Away::Lost)).count(), 15);
        server.signal("CONT");
        until(&link, || link.status().connections == 3).await;
        lead(&link).await;
    }

    async fn an_answer_that_lands_on_an_engine_that_lost_its_memory_is_told_to_all(binary) {
        let server = Server::start(binary, &[]);
        let (link, _) = link_to(&server, ME).await;
        let (other, pushed) = link_to(&server, Member(2)).await;
        let led = lead(&link).await;
        drop(other.ask(board()).await);
        redis::cmd("FLUSHALL").exec(&mut server.connection()).expect("empty");
        // Before anybody leads anew, and after.
        for leads in [false, true] {
            let again = if leads { Some(lead(&other).await) } else { None };
            // Not even a clock that was ahead makes it count.
            let ahead = (Fence(led.0.0 + 3_600_000_000), led.1);
            for led in [led, ahead] {
                assert_eq!(link.ask(landing(led)).await, Ok(Said::Landed(Landing::Forgotten)));
                until(&other, || !lock(&pushed).is_empty()).await;
                let stray = Push::Stray {
                    key: KEY,
                    fence: led.0,
                    sealed: Some(Sealed(Bytes::from_static(b"sealed"))),
                };
                assert_eq!(std::mem::take(&mut *lock(&pushed)), [stray]);
            }
            if let Some(again) = again {
                assert_ne!(again.1, led.1);
                assert_eq!(other.ask(landing(again)).await, Ok(Said::Landed(Landing::Kept)));
            }
        }
    }

    async fn a_full_engine_gives_what_it_has_and_passes_on_what_it_cannot_keep(binary) {
        let server = Server::start(binary, &[]);
        let (link, _) = link_to(&server, ME).await;
        let (other, pushed) = link_to(&server, Member(2)).await;
        let led = lead(&link).await;
        drop(other.ask(board()).await);
        let fill = |bytes: &str| {
            redis::cmd("CONFIG")
                .arg(&["SET", "maxmemory", bytes])
                .exec(&mut server.connection())
                .expect("set");
        };
        fill("1");
        assert_eq!(link.ask(landing(led)).await, Ok(Said::Landed(Landing::Pushed)));
        until(&other, || !lock(&pushed).is_empty()).await;
        assert!(matches!(lock(&pushed)[..], [Push::Landed { fence: landed, .. }] if landed == led.0));
        assert_eq!(link.ask(board()).await, Err(Away::Full));
        assert_eq!(link.ask(Ask::Forget(Scope::All)).await, Err(Away::Full));
        assert!(link.status().connected);
        fill("0");
        let led = lead(&link).await;
        assert_eq!(link.ask(landing(led)).await, Ok(Said::Landed(Landing::Kept)));
        fill("1");
        let said = other.ask(board()).await;
        assert!(matches!(said, Ok(Said::Boarded { boarded: Boarded::Fresh(_), .. })), "{said:?}");
    }

    async fn an_engine_that_becomes_a_replica_is_left(binary) {
        let primary = Server::start(binary, &[]);
        let server = Server::start(binary, &[]);
        let (link, _) = link_to(&server, ME).await;
        let replicate = |of: &[&str]| {
            redis::cmd("REPLICAOF").arg(of).exec(&mut server.connection()).expect("done");
        };
        replicate(&["127.0.0.1", &primary.port().to_string()]);
        let said = link.ask(board()).await;
        assert!(matches!(said, Err(Away::Lost | Away::Disconnected)), "{said:?}");
        until(&link, || link.status().problem.is_some_and(|why| why.contains("replica"))).await;
        replicate(&["NO", "ONE"]);
        connected(&link).await;
        lead(&link).await;
    }

    async fn a_user_with_the_documented_rights_can_do_everything(binary) {
        let server = Server::start(binary, &[]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/fleet/users.acl");
        let file = std::fs::read_to_string(path).expect("a file");
        let rule: Vec<_> = file.lines().filter(|line| line.starts_with("user ")).collect();
        let [rule] = rule[..] else { panic!("one user: {rule:?}") };
        let words: Vec<_> = rule.split(' ').skip(1).collect();
        redis::cmd("ACL").arg("SETUSER").arg(&words).exec(&mut server.connection()).expect("a user");
        redis::cmd("ACL").arg(&["SETUSER", "default", "off"]).exec(&mut server.connection()).expect("off");
        let secret = words.iter().find_map(|word| word.strip_prefix('>')).expect("a password");
        let file = server.directory().join("password");
        std::fs::write(&file, format!("{secret}\n")).expect("written");
        let engine = format!("redis://{}@127.0.0.1:{}", words[0], server.port());
        let mut config = LinkConfig {
            engine: engine.parse().expect("a URL"),
            password_file: Some(file.clone()),
            ..config(server.port())
        };
        let (link, inbox) = start(&config, ME);
        connected(&link).await;
        let (fence, birth) = lead(&link).await;
        let lease = Duration::from_secs(1);
        let model = Some(Digest([9; 16]));
        for ask in [
            Ask::Renew { key: KEY, fence, lease },
            Ask::Leave { key: KEY, fence, why: Left::Failed },
            board(),
            landing((fence, birth)),
            Ask::Forget(Scope::Task(KEY.task)),
            Ask::Forget(Scope::Caller(KEY.caller)),
            Ask::Forget(Scope::All),
            Ask::Tell { news: Sealed(Bytes::from_static(b"news")), model },
            Ask::Beat { since: None },
            Ask::Ends { model: Digest([9; 16]) },
        ] {
            let said = link.ask(ask.clone()).await;
            assert!(said.is_ok(), "{ask:?}: {said:?}");
        }
        until(&link, || lock(&inbox).contains(&Push::Bell)).await;
        // Whoever has only that may read nothing else.
        let url = format!("redis://{}:{secret}@127.0.0.1:{}", words[0], server.port());
        let mut stranger = redis::Client::open(url).expect("a URL").get_connection().expect("in");
        for refused in [&["GET", "other"][..], &["KEYS", "*"], &["FLUSHALL"], &["CONFIG", "GET", "*"]] {
            let mut command = redis::cmd(refused[0]);
            let reply = command.arg(&refused[1..]).exec(&mut stranger);
            assert_eq!(reply.expect_err("refused").code(), Some("NOPERM"), "{refused:?}");
        }
        std::fs::write(&file, "wrong").expect("written");
        config.password_file = Some(file);
        let (refused, _) = start(&config, Member(2));
        let why = problem(&refused).await;
        assert!(why.contains("WRONGPASS"), "{why}");
        assert!(!why.contains("wrong"), "{why}");
    }

    async fn what_an_engine_does_not_permit_is_told_in_its_words(binary) {
        let server = Server::start(binary, &[]);
        let words = ["SETUSER", "bare", "on", ">p", "~*", "&*", "+subscribe", "+hello", "+evalsha", "+eval"];
        redis::cmd("ACL").arg(&words).exec(&mut server.connection()).expect("a user");
        let url = format!("redis://bare:p@127.0.0.1:{}", server.port());
        let config = LinkConfig { engine: url.parse().expect("a URL"), ..config(server.port()) };
        let (link, _) = start(&config, ME);
        connected(&link).await;
        let said = link.ask(board()).await;
        let Err(Away::Refused(why)) = said else { panic!("{said:?}") };
        assert!(why.contains("permission") || why.contains("can't run"), "{why}");
        assert!(link.status().connected);
    }

    async fn a_cluster_is_refused_in_words(binary) {
        let server = Server::start(binary, &["--cluster-enabled", "yes"]);
        let (link, _) = start(&config(server.port()), ME);
        let why = problem(&link).await;
        assert!(why.contains("a node of a cluster, which a fleet cannot use"), "{why}");
        assert_eq!(link.ask(board()).await, Err(Away::Disconnected));
    }

    async fn the_primary_is_asked_of_sentinels_and_followed(binary) {
        let mut primary = Server::start(binary, &[]);
        let port = primary.port().to_string();
        let replica = Server::start(binary, &["--replicaof", "127.0.0.1", &port]);
        let sentinel = server::Sentinel::start(binary, "fleet", primary.port());
        let config = LinkConfig {
            engine: "redis://nowhere.invalid".parse().expect("a URL"),
            sentinel: Some(Sentinel {
                name: "fleet".into(),
                hosts: vec!["127.0.0.1:1".into(), format!("127.0.0.1:{}", sentinel.port())],
            }),
            ..config(0)
        };
        let (link, _) = start(&config, ME);
        connected(&link).await;
        let (fence, _) = lead(&link).await;
        sentinel.await_replica("fleet");
        primary.kill();
        until(&link, || !link.status().connected).await;
        let end = Instant::now() + Duration::from_secs(30);
        while !link.status().connected {
            assert!(Instant::now() < end, "{:?}", link.status());
            sleep(Duration::from_millis(20)).await;
        }
        let told: String = redis::cmd("INFO").arg("replication").query(&mut replica.connection()).expect("told");
        assert!(told.contains("role:master"), "{told}");
        assert!(lead(&link).await.0 >= fence);
        let config = LinkConfig {
            sentinel: Some(Sentinel {
                name: "other".into(),
                hosts: vec![format!("127.0.0.1:{}", sentinel.port())],
            }),
            ..config
        };
        let (link, _) = start(&config, ME);
        let why = problem(&link).await;
        assert!(why.ends_with("it watches no \"other\""), "{why}");
    }

    async fn tls_reaches_only_an_engine_that_the_ca_vouches_for(binary) {
        let server = Server::start(binary, &[]);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let port = tls_before(&made, None, server.port()).await;
        let files = tempfile::tempdir().expect("a directory");
        let file = |name: &str, content: String| {
            let path = files.path().join(name);
            std::fs::write(&path, content).expect("written");
            Some(path)
        };
        let engine = format!("rediss://localhost:{port}");
        let config = LinkConfig {
            engine: engine.parse().expect("a URL"),
            ca_file: file("ca", made.cert.pem()),
            ..config(port)
        };
        let (link, _) = start(&config, ME);
        connected(&link).await;
        lead(&link).await;
        let config = LinkConfig { ca_file: file("other", other.cert.pem()), ..config };
        let (link, _) = start(&config, ME);
        let why = problem(&link).await;
        assert!(why.contains("TLS: ") && why.contains("certificate"), "{why}");
        let config = LinkConfig { ca_file: Some("/nowhere/ca.pem".into()), ..config };
        let (_, pushes) = inbox();
        let why = Link::new(&config, ME, pushes).expect_err("no such file");
        assert!(why.starts_with("fleet.ca_file: got \"/nowhere/ca.pem\": "), "{why}");
    }

    async fn an_engine_that_asks_for_a_certificate_is_shown_one(binary) {
        let server = Server::start(binary, &[]);
        let [made, own, other] =
            [(); 3].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate"));
        let port = tls_before(&made, Some(&own), server.port()).await;
        let files = tempfile::tempdir().expect("a directory");
        let file = |name: &str, content: String| {
            let path = files.path().join(name);
            std::fs::write(&path, content).expect("written");
            Some(path)
        };
        let engine = format!("rediss://localhost:{port}");
        let nobody = LinkConfig {
            engine: engine.parse().expect("a URL"),
            ca_file: file("ca", made.cert.pem()),
            ..config(port)
        };
        let (link, _) = start(&nobody, ME);
        problem(&link).await;
        let stranger = LinkConfig {
            cert: file("other", other.cert.pem()),
            key: file("other.key", other.signing_key.serialize_pem()),
            ..nobody.clone()
        };
        let (link, _) = start(&stranger, ME);
        problem(&link).await;
        let known = LinkConfig {
            cert: file("own", own.cert.pem()),
            key: file("own.key", own.signing_key.serialize_pem()),
            ..nobody
        };
        let (link, _) = start(&known, ME);
        connected(&link).await;
        lead(&link).await;
        let mixed = LinkConfig { key: stranger.key, ..known };
        let (_, pushes) = inbox();
        let why = Link::new(&mixed, ME, pushes).expect_err("another's key");
        assert!(why.starts_with("fleet.cert: got "), "{why}");
    }
}

type Made = rcgen::CertifiedKey<rcgen::KeyPair>;

/// Serves TLS on a port of its own, in front of an engine; where a client is named, to that one alone.
async fn tls_before(made: &Made, client: Option<&Made>, engine: u16) -> u16 {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match client {
        Some(client) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(client.cert.der().clone()).expect("a root");
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .expect("a verifier")
        }
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut engine = TcpStream::connect(("127.0.0.1", engine)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut engine).await
            });
        }
    });
    port
}

#[tokio::test]
async fn what_is_no_engine_is_given_up_and_tried_again() {
    // It accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let (link, inbox) = start(&config(port), ME);
    let why = problem(&link).await;
    assert_eq!(why, format!("127.0.0.1:{port}: no answer within 1s"));
    // Nobody listens.
    drop(silent);
    until(&link, || {
        link.status()
            .problem
            .is_some_and(|why| why.contains("refused"))
    })
    .await;
    assert_eq!(link.ask(board()).await, Err(Away::Disconnected));
    assert!(lock(&inbox).is_empty());
}

#[tokio::test]
async fn an_engine_that_says_too_much_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let flooded = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let mut flooded = 0;
        let mut flood = b"$99999999999\r\n".to_vec();
        while client.write_all(&flood).await.is_ok() {
            flooded += flood.len();
            flood = vec![b'x'; 64 << 10];
        }
        // It still listens: the next try finds no other problem.
        (flooded, listener)
    });
    let (link, _) = start(&config(port), ME);
    let why = problem(&link).await;
    assert!(why.contains("a reply of more than"), "{why}");
    let (flooded, _listener) = flooded.await.expect("it ends");
    assert!(flooded < 16 << 20, "{flooded} bytes");
}
