//! The log: a Prometheus text document by default, JSON or plain text on request, and never a secret in it.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use pollgate::answer::outcome::Outcome;

use crate::support::text_format::{self, Sample};
use crate::support::{Gateway, Reading, Reply, Upstream, binary, eventually, row};

const SECRET_URL: &str = r#"{"code":"success","data":{"task_id":"t","status":"SUCCESS","properties":{"input":"secret-prompt"},"result_url":"https://cdn.example.com/secret-path.mp4?X-Amz-Signature=secret-signature"}}"#;

async fn lines_about_requests(gateway: &Gateway, count: usize) -> Vec<String> {
    let requests = || -> Vec<String> {
        gateway
            .log()
            .into_iter()
            .filter(|line| line.contains("route") && line.contains("outcome"))
            .collect()
    };
    eventually("the lines", async || requests().len() >= count).await;
    requests()
}

#[tokio::test]
async fn an_event_is_a_sample_and_any_other_line_a_comment() {
    let upstream =
        Upstream::start(|_| Reply::json(row("IN_PROGRESS")).with("x-oneapi-request-id", "a\"b\\c"))
            .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/task%22x").await;
    let line = lines_about_requests(&gateway, 1).await.remove(0);
    let (head, rest) = line.split_once(",caller=\"").expect("a caller");
    assert_eq!(
        head,
        r#"pollgate_request_seconds{route="openai",outcome="fetched",code="200",state="processing",task="task%22x""#
    );
    let (caller, rest) = rest.split_once('"').unwrap();
    assert!(
        caller.len() == 8 && caller.chars().all(|digit| digit.is_ascii_hexdigit()),
        "{caller}"
    );
    let rest = rest
        .strip_prefix(r#",request_id="a\"b\\c"} "#)
        .expect("escaped");
    let (seconds, millis) = rest.split_once(' ').unwrap();
    assert!(
        seconds.parse::<f64>().is_ok_and(|seconds| seconds > 0.0),
        "{line}"
    );
    assert!(
        millis
            .parse::<u64>()
            .is_ok_and(|millis| millis > 1_700_000_000_000),
        "{line}"
    );
    assert!(
        gateway
            .log()
            .iter()
            .all(|line| line.starts_with("# ") || line.starts_with("pollgate_")),
        "{:?}",
        gateway.log()
    );
    let first = &gateway.log()[0];
    assert!(
        first.ends_with(&format!(
            "INFO pollgate listening on {}, upstream {}",
            gateway.address,
            upstream.url()
        )),
        "{first}"
    );
}

#[tokio::test]
async fn the_start_says_what_runs_from_which_file_and_what_is_hardly_meant() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pollgate.toml");
    std::fs::write(&file, "[log]\nsnapshot = \"off\"\n").unwrap();
    let gateway = Gateway::with_file(&format!("{}/v1", upstream.url()), &file).await;
    eventually("the lines", async || gateway.log().len() >= 4).await;
    let log = gateway.log();
    let version = env!("CARGO_PKG_VERSION");
    for (line, told) in log.iter().zip([
        format!("INFO pollgate listening on {}, upstream {}/v1", gateway.address, upstream.url()),
        format!("INFO pollgate admin listening on {}", gateway.admin),
        format!("INFO pollgate version {version}, configuration file {}", file.display()),
        "WARN pollgate flag --upstream: upstream.url: ends in /v1, which the paths of clients begin with: upstream will be asked for /v1/v1/…".to_owned(),
    ]) {
        assert!(line.ends_with(&told), "{line}: {told}");
    }
    let without = Gateway::start(&upstream.url(), &[]).await;
    let told = format!("INFO pollgate version {version}, no configuration file");
    eventually("the version", async || {
        without.log().iter().any(|line| line.ends_with(&told))
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_redirects_polls_is_warned_of_once() {
    let upstream = Upstream::start(|_| {
        Reply::new(301, "text/html", "").with("location", "https://other.test/v1/videos/t?key=x")
    })
    .await;
    let mut gateway = Gateway::start(&upstream.url(), &[]).await;
    for task in ["a", "b", "c"] {
        assert_eq!(gateway.get(&format!("/v1/videos/{task}")).await.status, 502);
    }
    gateway.signal("-TERM");
    gateway.ended().await;
    let log = gateway.log();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let told =
        "upstream redirects status polls to https://other.test/v1/videos/t; set upstream.url";
    assert!(warnings[0].contains(told), "{warnings:?}");
}

#[tokio::test]
async fn the_line_of_an_error_names_it() {
    let upstream = Upstream::start(|_| Reply::new(200, "text/html", "<html>")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.requests", "all")]).await;
    assert_eq!(gateway.get("/v1/videos/t").await.status, 502);
    let cached = [("cache-control", "only-if-cached")];
    gateway.client.get("/v1/videos/t", "sk-test", &cached).await;
    upstream.now(|_| Reply::json(row("SUCCESS")));
    gateway.get("/v1/videos/t").await;
    upstream.now(|_| Reply::new(404, "application/json", "{}"));
    gateway.get("/v1/models").await;
    lines_about_requests(&gateway, 4).await;
    let told: Vec<_> = request_samples(&gateway)
        .into_iter()
        .map(|mut sample| (sample.labels["code"].clone(), sample.labels.remove("error")))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(code, error)| (code.as_str(), error.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("502", Some("upstream_invalid")),
            ("504", Some("not_cached")),
            ("200", None),
            ("404", None),
        ]
    );
}

#[tokio::test]
async fn the_journal_is_given_the_priority_of_each_line_and_nothing_else_is() {
    use std::os::unix::fs::MetadataExt as _;

    let upstream = Upstream::saying(row("SUCCESS")).await;
    let folder = tempfile::tempdir().unwrap();
    for (format, is_journal) in [
        ("prometheus", true),
        ("json", true),
        ("text", true),
        ("prometheus", false),
    ] {
        let stream = std::fs::File::create(folder.path().join("stream")).unwrap();
        let about = stream.metadata().unwrap();
        let inode = about.ino() + u64::from(!is_journal);
        let mut child = binary()
            .args(["--listen", "127.0.0.1:0", "--admin", "off"])
            .args(["--upstream", &format!("{}/v1", upstream.url())])
            .env("POLLGATE_LOG__FORMAT", format)
            .env("JOURNAL_STREAM", format!("{}:{inode}", about.dev()))
            .stdout(stream)
            .spawn()
            .unwrap();
        let log = || std::fs::read_to_string(folder.path().join("stream")).unwrap();
        eventually("the warning", async || log().contains("ends in /v1")).await;
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(sent.unwrap().success());
        eventually("the end", async || child.try_wait().unwrap().is_some()).await;
        let log = log();
        // The last snapshot has its lines, too.
        let snapshot = log
            .lines()
            .filter(|line| line.contains("pollgate_build_info"));
        assert!(snapshot.count() > 0, "{log}");
        for line in log.lines() {
            let priority = line.get(..3).unwrap_or_default();
            let expected = match is_journal {
                false => {
                    assert!(!line.starts_with('<'), "{line}");
                    continue;
                }
                true if line.contains("WARN") => "<4>",
                true => "<6>",
            };
            assert_eq!(priority, expected, "{line}");
        }
    }
}

#[tokio::test]
async fn which_requests_get_a_line_is_configured() {
    for (setting, lines) in [("upstream", 2), ("all", 4), ("off", 0)] {
        let upstream = Upstream::saying(row("SUCCESS")).await;
        let mut gateway = Gateway::start(
            &upstream.url(),
            &[("log.requests", setting), ("log.snapshot", "off")],
        )
        .await;
        for path in ["/v1/videos/t", "/v1/videos/t", "/v1/videos/t", "/v1/models"] {
            gateway.get(path).await;
        }
        gateway.signal("-TERM");
        gateway.ended().await;
        let told = gateway
            .log()
            .iter()
            .filter(|line| line.starts_with("pollgate_request_seconds"))
            .count();
        assert_eq!(told, lines, "{setting}: {:?}", gateway.log());
    }
}

/// Sends raw bytes and reads until the connection is closed.
async fn raw(gateway: &Gateway, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(crate::support::PATIENCE, reading).await;
    read.expect("is closed in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A poll of this task with this request id and `traceparent`, which may be any bytes.
fn poll(task: &[u8], request_id: &[u8]) -> Vec<u8> {
    [
        b"GET /v1/videos/",
        task,
        b" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-test\r\nconnection: close\r\nx-request-id: ",
        request_id,
        b"\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n\r\n",
    ]
    .concat()
}

fn request_samples(gateway: &Gateway) -> Vec<Sample> {
    let log = gateway.log();
    let samples = text_format::read(log.iter().map(String::as_str)).expect("a valid document");
    samples
        .into_iter()
        .filter(|sample| sample.name == "pollgate_request_seconds")
        .collect()
}

/// Unusual task and request ids, and how the log writes the latter.
const ODD: [(&str, &[u8], &str); 7] = [
    ("a\"b", b"quo\"te", "quo\"te"),
    ("back%5Cslash", b"back\\slash\\n", "back\\slash\\n"),
    (
        "line%0Afeed",
        b"tab\tand \\\" more",
        "tab\u{fffd}and \\\" more",
    ),
    (
        "emoji-😀",
        "emoji 😀 \u{9b}31m".as_bytes(),
        "emoji 😀 \u{fffd}31m",
    ),
    (
        "%FF%00",
        b"not UTF-8: \xff\xfe",
        "not UTF-8: \u{fffd}\u{fffd}",
    ),
    ("}{,=", b"} 1 2", "} 1 2"),
    ("{}", b"# TYPE x gauge", "# TYPE x gauge"),
];

#[tokio::test]
async fn the_log_of_a_whole_run_is_one_valid_document() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pollgate.toml");
    let write = |cache: &str| {
        let log = "[log]\nrequests = \"all\"\nlevel = \"trace\"\nsnapshot = \"50ms\"\n";
        std::fs::write(&file, format!("{log}[cache]\nadaptive = false\n{cache}")).unwrap();
    };
    write("in_flight_ttl = \"0s\"\n");
    let mut gateway = Gateway::with_file(&upstream.url(), &file).await;

    // One client stays and shares the answer, another hangs up.
    upstream.close_gate();
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-test", &[]).await }
    });
    upstream.was_asked(1).await;
    let mut gone = TcpStream::connect(gateway.address).await.unwrap();
    gone.write_all(&poll(b"t", b"gone")).await.unwrap();
    let shared = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-test", &[]).await }
    });
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await == 3.0
    })
    .await;
    drop(gone);
    eventually("one has gone", async || {
        gateway.metric("pollgate_waiters").await == 2.0
    })
    .await;
    upstream.let_pass(1000);
    waiting.await.unwrap();
    shared.await.unwrap();

    for (task, id, _) in ODD {
        let answer = raw(&gateway, &poll(task.as_bytes(), id)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = raw(
        &gateway,
        b"CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    gateway.get("/v1/models").await;

    upstream.now(|_| Reply::new(200, "text/html", "<html>"));
    assert_eq!(gateway.get("/v1/videos/t").await.header("age"), "0");
    assert_eq!(gateway.get("/v1/videos/other").await.status, 502);

    for (cache, told) in [("in_flight_ttl = \"soon\"", "ERROR"), ("", "reloaded")] {
        write(cache);
        gateway.signal("-HUP");
        eventually(told, async || {
            gateway.log().iter().any(|line| line.contains(told))
        })
        .await;
    }
    upstream.now(|_| Reply::json(row("SUCCESS")));
    let fresh = [("cache-control", "no-cache")];
    gateway.client.get("/v1/videos/t", "sk-test", &fresh).await;
    gateway.get("/v1/videos/t").await;

    gateway.signal("-TERM");
    gateway.ended().await;
    let samples = request_samples(&gateway);
    // Another gateway's poll takes another gateway: `tests/fleet`.
    let outcomes = Outcome::ALL.into_iter();
    for outcome in outcomes.filter(|outcome| *outcome != Outcome::Fleet) {
        let told = |sample: &Sample| sample.labels["outcome"] == outcome.as_str();
        assert!(samples.iter().any(told), "{outcome:?}: {samples:#?}");
    }
    let of = |label: &str, value: &str| {
        let found = samples.iter().find(|sample| {
            let told = sample.labels.get(label).map(String::as_str);
            told == Some(value)
        });
        &found
            .unwrap_or_else(|| panic!("{value}: {samples:#?}"))
            .labels
    };
    for (task, _, told) in ODD {
        assert_eq!(of("request_id", told)["task"], task);
    }
    let gone = of("code", "499");
    assert_eq!(gone["caller"], of("outcome", "hit")["caller"]);
    assert_eq!(gone["request_id"], "gone");
    assert_eq!(gone["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(of("code", "502")["caller"], gone["caller"]);
    assert!(
        gateway
            .log()
            .last()
            .is_some_and(|line| line.ends_with("INFO pollgate stopped"))
    );
}

/// The fields of `name=value name="va\"lue"`, with spaces between.
fn text_fields(mut text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = if rest.starts_with('"') {
            // For these characters Rust's quoting is JSON's.
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let value = values.next().unwrap().expect("a text");
            (value, &rest[values.byte_offset()..])
        } else {
            let (value, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (value.to_owned(), rest)
        };
        fields.insert(name.to_owned(), value);
        text = rest.trim_start();
    }
    fields
}

#[tokio::test]
async fn json_and_text_carry_the_same_fields() {
    let mut told: Vec<Vec<BTreeMap<String, String>>> = Vec::new();
    for format in ["prometheus", "json", "text"] {
        let upstream = Upstream::saying(row("IN_PROGRESS")).await;
        let settings = [
            ("log.format", format),
            ("log.requests", "all"),
            ("log.snapshot", "off"),
        ];
        let mut gateway = Gateway::start(&upstream.url(), &settings).await;
        for (task, id) in [
            ("t", "a"),
            ("t", "b"),
            ("odd\"1", "c\\d\"e 😀"),
            ("t/content", "f"),
        ] {
            raw(&gateway, &poll(task.as_bytes(), id.as_bytes())).await;
        }
        upstream.now(|_| Reply::new(404, "application/json", "{}"));
        raw(&gateway, &poll(b"missing", b"g")).await;
        gateway.signal("-TERM");
        gateway.ended().await;
        let mut fields: Vec<BTreeMap<String, String>> = match format {
            "prometheus" => request_samples(&gateway)
                .into_iter()
                .map(|mut sample| {
                    let seconds = sample.value.to_string();
                    sample.labels.insert("seconds".into(), seconds);
                    sample.labels
                })
                .collect(),
            "json" => gateway
                .log()
                .iter()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .filter(|line: &serde_json::Value| line["target"] == "pollgate::requests")
                .map(|line| {
                    let fields = line.as_object().unwrap().iter();
                    let fields = fields.map(|(name, value)| {
                        let text = value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned);
                        (name.clone(), text)
                    });
                    let own = ["timestamp", "level", "target"];
                    fields
                        .filter(|(name, _)| !own.contains(&name.as_str()))
                        .collect()
                })
                .collect(),
            _ => gateway
                .log()
                .iter()
                .filter_map(|line| line.split_once("INFO pollgate::requests: "))
                .map(|(_, fields)| text_fields(fields))
                .collect(),
        };
        for fields in &mut fields {
            let seconds = fields.remove("seconds").expect("is told");
            assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds > 0.0));
            // A digest keyed by the process.
            if let Some(caller) = fields.get_mut("caller") {
                assert_eq!(caller.len(), 8);
                "the caller".clone_into(caller);
            }
        }
        told.push(fields);
    }
    assert_eq!(told[0].len(), 5);
    assert_eq!(told[0][0].len(), 8, "{:?}", told[0][0]);
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

/// Far more than a pipe and the log's own buffer hold.
async fn overflow(gateway: &Gateway) -> usize {
    let path = format!("/v1/videos/{}", "x".repeat(16_000));
    for _ in 0..700 {
        assert_eq!(gateway.get(&path).await.status, 200);
    }
    700
}

#[tokio::test]
async fn an_unread_log_stalls_no_request_and_dropped_lines_are_counted() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let settings = [("log.requests", "all"), ("log.snapshot", "off")];
    let mut gateway = Gateway::start(&upstream.url(), &settings).await;
    gateway.read_log(Reading::Stalled);
    let sent = overflow(&gateway).await;
    let dropped = gateway.metric("pollgate_log_lines_dropped_total ").await;
    assert!(dropped > 100.0, "{dropped}");
    gateway.read_log(Reading::Going);
    let note = format!("WARN pollgate dropped {dropped} log lines");
    eventually("the note", async || {
        gateway.log().iter().any(|line| line.contains(&note))
    })
    .await;
    gateway.get("/v1/videos/t").await;
    gateway.signal("-TERM");
    gateway.ended().await;
    assert_eq!(
        f64::from(u32::try_from(request_samples(&gateway).len()).unwrap()) + dropped,
        f64::from(u32::try_from(sent + 1).unwrap())
    );
    // The note is where the gap is.
    let log = gateway.log();
    let at = log.iter().position(|line| line.contains(&note)).unwrap();
    let of_the_flood = |line: &String| line.contains("xxx");
    assert!(log[..at].iter().rev().take(3).all(of_the_flood));
    assert!(!log[at..].iter().any(of_the_flood));
}

#[tokio::test]
async fn an_unread_log_does_not_delay_the_exit() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("log.requests", "all")]).await;
    gateway.read_log(Reading::Stalled);
    overflow(&gateway).await;
    gateway.signal("-TERM");
    gateway.has_exited().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_log_with_a_closed_reader_stops_nothing_and_its_lines_are_counted() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let settings = [("log.requests", "all"), ("log.snapshot", "off")];
    let mut gateway = Gateway::start(&upstream.url(), &settings).await;
    gateway.read_log(Reading::Gone);
    eventually("lines are dropped", async || {
        assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
        gateway.metric("pollgate_log_lines_dropped_total ").await > 0.0
    })
    .await;
    gateway.signal("-TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn hangup_changes_the_level_and_which_requests_get_a_line() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pollgate.toml");
    let write = |text: &str| std::fs::write(&file, format!("[log]\n{text}\n")).unwrap();
    write("requests = \"all\"");
    let gateway = Gateway::with_file(&upstream.url(), &file).await;
    let count = |word: &str| {
        gateway
            .log()
            .iter()
            .filter(|line| line.contains(word))
            .count()
    };
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/videos/t").await;
    eventually("a line for each", async || count("_seconds{") == 2).await;

    write("requests = \"off\"\nlevel = \"debug\"");
    gateway.signal("-HUP");
    eventually("the reload", async || count("reloaded") == 1).await;
    gateway.get("/v1/videos/t").await;
    // A broken connection is logged at debug level.
    let breaks_off = async || {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(b"GET / HTTP/9.9\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    breaks_off().await;
    eventually("the comment", async || count(" DEBUG ") == 1).await;
    assert_eq!(count("_seconds{"), 2);

    write("requests = \"all\"\nlevel = \"error\"");
    gateway.signal("-HUP");
    eventually("lines again", async || {
        gateway.get("/v1/videos/t").await;
        count("_seconds{") > 2
    })
    .await;
    breaks_off().await;
    let before = count("_seconds{");
    gateway.get("/v1/videos/t").await;
    eventually("a later line", async || count("_seconds{") > before).await;
    assert_eq!((count(" DEBUG "), count("reloaded")), (1, 1));
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    for format in ["prometheus", "json", "text"] {
        let upstream = Upstream::saying(SECRET_URL).await;
        let settings = [
            ("log.level", "trace"),
            ("log.requests", "all"),
            ("log.format", format),
            ("log.snapshot", "50ms"),
        ];
        let mut gateway = Gateway::start(&upstream.url(), &settings).await;
        let cookie = [("cookie", "secret-cookie"), ("x-api-key", "secret-api-key")];
        let all = async |outcome: &str| {
            for path in [
                format!("/v1/videos/{outcome}?key=secret-query"),
                format!("/v1/video/generations/{outcome}"),
                "/v1/models?key=secret-query".to_owned(),
            ] {
                gateway.client.get(&path, "secret-key", &cookie).await;
            }
            eventually(outcome, async || {
                let told = format!("{outcome}\"");
                gateway.log().iter().any(|line| line.contains(&told))
            })
            .await;
        };
        all("fetched").await;
        eventually("a snapshot", async || {
            gateway
                .log()
                .iter()
                .any(|line| line.contains("pollgate_build_info"))
        })
        .await;
        // Refusals and unreadable answers that repeat the request.
        upstream
            .now(|asked| Reply::new(401, "text/plain", asked.header("authorization").to_owned()));
        all("401").await;
        upstream.now(|asked| Reply::new(200, "text/plain", asked.target.clone()));
        all("failed").await;
        gateway.signal("-TERM");
        gateway.ended().await;
        // Beyond what every test's log is searched for.
        let log = gateway.log().join("\n");
        for secret in ["secret", "X-Amz", "mp4", "cookie", "api-key"] {
            assert!(!log.contains(secret), "{format}: {log}");
        }
    }
}

#[tokio::test]
async fn snapshots_of_all_metrics_are_written_with_their_time_and_described_once() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.snapshot", "50ms")]).await;
    let samples = |log: &[String]| -> Vec<String> {
        log.iter()
            .filter(|line| line.starts_with("pollgate_build_info{"))
            .cloned()
            .collect()
    };
    eventually("three snapshots", async || {
        samples(&gateway.log()).len() >= 3
    })
    .await;
    let log = gateway.log();
    for sample in samples(&log) {
        let millis = sample
            .rsplit(' ')
            .next()
            .and_then(|time| time.parse::<u64>().ok());
        assert!(
            millis.is_some_and(|millis| millis > 1_700_000_000_000),
            "{sample}"
        );
    }
    let mut types: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("# TYPE "))
        .collect();
    let all = types.len();
    types.sort();
    types.dedup();
    assert_eq!((all, types.len()), (types.len(), all));
    assert!(
        types
            .iter()
            .any(|line| *line == "# TYPE pollgate_connections gauge")
    );
}
