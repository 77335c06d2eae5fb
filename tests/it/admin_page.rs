//! The page of the admin listener: its content, its look-up, its live numbers, and the requests it refuses.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::support::{Answer, Client, Gateway, PATIENCE, Reply, Upstream, eventually, row};

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

async fn page(gateway: &Gateway, path: &str) -> Answer {
    Client::new(gateway.admin).get(path, "", &[HTML]).await
}

/// The text of a task's lookup, without markup.
async fn look_up(gateway: &Gateway, query: &str) -> String {
    let page = page(gateway, &format!("/?task={query}")).await;
    let (_, found) = page.text().split_once("<div class=\"found\">").unwrap();
    let (found, _) = found.split_once("</section>").unwrap();
    let mut plain = String::new();
    for part in found.split('<') {
        plain.push_str(part.split_once('>').map_or(part, |(_, text)| text));
        plain.push(' ');
    }
    plain
        .replace('\u{a0}', " ")
        .replace("&#39;", "'")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn the_page_is_one_document_that_runs_nothing_but_its_own() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let page = page(&gateway, "/").await;
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("vary", "accept"),
    ] {
        assert_eq!(page.header(name), value, "{name}");
    }
    let policy = page.header("content-security-policy");
    for directive in [
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let (_, nonce) = policy.split_once("script-src 'nonce-").unwrap();
    let (nonce, _) = nonce.split_once('\'').unwrap();
    let html = page.text();
    assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert_eq!(
        html.matches("<script").count() + html.matches("<style").count(),
        2
    );
    assert!(!html.contains(" style=") && !html.contains(" onclick=") && !html.contains("url("));
    for attribute in [" href=\"", " src=\"", " action=\""] {
        for target in html.split(attribute).skip(1) {
            assert!(
                target.starts_with(['/', '#']) || target.starts_with("data:image/svg+xml,"),
                "{target:.60}"
            );
            assert!(!target.starts_with("//"), "{target:.60}");
        }
    }
    let again = self::page(&gateway, "/").await;
    assert_ne!(
        again.header("content-security-policy"),
        policy,
        "a nonce is used once"
    );
}

#[tokio::test]
async fn clients_that_do_not_accept_html_get_a_plain_list() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let admin = Client::new(gateway.admin);
    for accept in [
        "*/*",
        "text/plain",
        "text/html;q=0.2, text/plain",
        "text/html;q=0",
    ] {
        let index = admin.get("/", "", &[("accept", accept)]).await;
        assert_eq!(
            index.header("content-type"),
            "text/plain; charset=utf-8",
            "{accept}"
        );
        assert_eq!(index.header("vary"), "accept");
        assert!(index.text().contains("GET    /live"));
    }
}

#[tokio::test]
async fn numbers_show_without_any_script() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for path in ["/v1/videos/t", "/v1/videos/t", "/v1/video/generations/t"] {
        gateway.get(path).await;
    }
    gateway.get("/v1/videos/t").await;
    let page = page(&gateway, "/").await;
    for cell in [
        "data-cell=\"client.total\">4<",
        "data-cell=\"upstream.total\">2<",
        "data-cell=\"avoided\">50.0\u{a0}%<",
        "data-cell=\"avoided.window\">since the start<",
        "data-cell=\"hit.total\">2<",
        "data-cell=\"tasks.succeeded\">1<",
        "<title>● up · pollgate</title>",
        "data-cell=\"state\">up<",
        "data-cell=\"hour.errors\">0<",
        "data-cell=\"cache.entries\">2 answers<",
        "data-cell=\"errors\">Nothing went wrong since the start.<",
    ] {
        assert!(
            page.text().contains(cell),
            "{cell} is not in {}",
            page.text()
        );
    }
    assert!(
        page.text()
            .contains("<th scope=\"row\" role=\"rowheader\">200 OK</th>")
    );
}

#[tokio::test]
async fn the_lookup_shows_what_is_cached_and_why() {
    let expires = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 3600;
    let signed = row("SUCCESS").replace("v.mp4", &format!("v.mp4?Expires={expires}&Signature=abc"));
    let upstream = Upstream::start(
        move |asked| match asked.target.rsplit('/').next().unwrap() {
            "done" => Reply::json(row("SUCCESS")),
            "signed" => Reply::json(signed.clone()),
            "failed" => Reply::json(row("FAILURE")),
            "running" => Reply::json(row("IN_PROGRESS")),
            _ => Reply::new(
                400,
                "application/json",
                r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#,
            ),
        },
    )
    .await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.missing_ttl", "1h")]).await;
    for (id, expected) in [
        (
            "done",
            &[
                "succeeded, ",
                "12 h: the task succeeded (cache.succeeded_ttl)",
                "on the first client poll after 11 h 59 min",
            ][..],
        ),
        (
            "signed",
            &[
                "the signature of its URL expires 5 min later (cache.url_margin)",
                "for another 54 min",
            ],
        ),
        (
            "failed",
            &[
                "failed, ",
                "10 min: the task failed, which upstream may still revise (cache.failed_ttl)",
            ],
        ),
        (
            "running",
            &[
                "processing, 50 %",
                "the task is running (cache.in_flight_ttl)",
            ],
        ),
        ("none", &["no such task exists", "(cache.missing_ttl)"]),
    ] {
        gateway
            .client
            .get(&format!("/v1/videos/{id}"), "sk-secret", &[])
            .await;
        let told = look_up(&gateway, id).await;
        for part in expected {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        assert!(
            told.contains("accepted by upstream just now, and good for another"),
            "{told}"
        );
        assert!(
            !told.contains("sk-secret") && !told.contains("Signature"),
            "{told}"
        );
        assert!(!told.contains("cdn.example.com"), "{told}");
    }
}

#[tokio::test]
async fn the_lookup_separates_callers_and_paths_and_marks_what_is_no_longer_usable() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    assert!(
        look_up(&gateway, "t")
            .await
            .contains("Nothing is cached of it")
    );
    for (path, key) in [
        ("/v1/videos/t", "sk-1"),
        ("/v1/video/generations/t", "sk-1"),
        ("/v1/videos/t", "sk-2"),
    ] {
        gateway.client.get(path, key, &[]).await;
    }
    gateway.client.get("/v1/videos/a%2Fb", "sk-1", &[]).await;
    let told = look_up(&gateway, "t").await;
    let counts = ["asked on /v1/videos/…", "asked on /v1/video/generations/…"]
        .map(|path| told.matches(path).count());
    assert_eq!(counts, [2, 1], "{told}");
    for typed in [
        "a%252Fb",
        "a%2Fb",
        "%2Fv1%2Fvideos%2Fa%252Fb",
        "http%3A%2F%2Fh%2Fv1%2Fvideos%2Fa%252Fb%3Fx",
    ] {
        let told = look_up(&gateway, typed).await;
        assert!(told.contains("succeeded, "), "{typed}: {told}");
    }
    // A write: what is left in the cache is never served again.
    let delete =
        Request::delete(gateway.client.url("/v1/videos/t")).header("authorization", "Bearer sk-1");
    gateway
        .client
        .send(delete.body(Full::default()).unwrap())
        .await;
    let told = look_up(&gateway, "t").await;
    assert!(
        told.contains("invalidated: since upstream sent it, the task was changed"),
        "{told}"
    );
    upstream.close_gate();
    let poll = gateway.client.clone();
    tokio::spawn(async move { poll.get("/v1/videos/t", "sk-1", &[]).await });
    upstream.was_asked(6).await;
    assert!(
        look_up(&gateway, "t")
            .await
            .contains("now; one client is waiting")
    );
    upstream.let_pass(1);
}

#[tokio::test]
async fn the_lookup_finds_a_task_on_whatever_route_and_names_what_was_asked() {
    let upstream = Upstream::saying(r#"{"id":"7","status":"running"}"#).await;
    let presets = "kling,ark,octopus,suno-batch";
    let gateway = Gateway::start(&upstream.url(), &[("routes.presets", presets)]).await;
    let kling = "/kling/v1/images/generations/7";
    let ark = "/seedance/v3/contents/generations/tasks/7";
    for path in [kling, ark, "/v1/video/query?a=1&id=7"] {
        assert_eq!(gateway.get(path).await.status, 200);
    }
    upstream.now(|_| {
        crate::support::Reply::json(
            r#"{"data":[{"id":"7","status":"SUCCESS"},{"id":"8","status":"SUCCESS"}]}"#,
        )
    });
    let batch = Request::post(gateway.client.url("/suno/fetch"))
        .header("authorization", "Bearer sk-test")
        .body(Full::from(r#"{"ids":["7","8"]}"#))
        .unwrap();
    assert_eq!(gateway.client.send(batch).await.status, 200);
    for typed in [
        "7",
        "%2Fkling%2Fv1%2Fvideos%2Ftext2video%2F7",
        "https%3A%2F%2Fh%2Fv1%2Fvideo%2Fquery%3Fid%3D7%26b%3D2",
        "http%3A%2F%2Fh%2Fapi%2Fv3%2Fcontents%2Fgenerations%2Ftasks%2F7",
    ] {
        let told = look_up(&gateway, typed).await;
        for asked_on in [
            "asked on /kling/v1/images/generations/…",
            "asked on /seedance/v3/contents/generations/tasks/…",
            "asked on /v1/video/query?id=…",
            "asked on POST /suno/fetch",
        ] {
            assert_eq!(
                told.matches(asked_on).count(),
                1,
                "{typed}: {asked_on}: {told}"
            );
        }
        assert_eq!(told.matches("processing, 0 %").count(), 3, "{told}");
        assert_eq!(told.matches("succeeded, 100 %").count(), 1, "{told}");
    }
    let page = page(&gateway, "/").await;
    let (_, routes) = page.text().split_once("All status routes").unwrap();
    for told in [
        ">kling</th>",
        ">POST, id in body:/ids</td>",
        ">/kling/v1/videos/{kind}/{id}, /kling/v1/images/{kind}/{id}</td>",
    ] {
        assert!(routes.contains(told), "{told} is not in {routes}");
    }
}

#[tokio::test]
async fn ids_and_input_are_escaped() {
    let upstream =
        Upstream::start(|_| Reply::new(404, "application/json", r#"{"error":{"message":"no"}}"#))
            .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/a'onload='x&lt;%3Cscript%3E").await;
    let page = page(&gateway, "/?task=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    let html = page.text();
    assert_eq!(html.matches("<script").count(), 1, "only the page's own");
    assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""));
    assert!(html.contains("<code>&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;</code>"));
    assert!(html.contains(">a&#39;onload=&#39;x&amp;lt;%3Cscript%3E</a>"));
}

#[tokio::test]
async fn an_error_is_listed_with_who_saw_it() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/known").await;
    upstream.now(|_| Reply::new(502, "text/html", "<html>bad gateway</html>"));
    let known = gateway
        .client
        .get(
            "/v1/videos/known",
            "sk-test",
            &[("cache-control", "no-cache")],
        )
        .await;
    assert_eq!(known.status, 200, "the last known state");
    assert_eq!(gateway.get("/v1/videos/unknown").await.status, 502);
    let page = page(&gateway, "/").await;
    for part in [
        "upstream failed",
        "502: Bad Gateway",
        "hidden from the client",
        "a client saw it",
        ">unknown</a>",
    ] {
        assert!(
            page.text().contains(part),
            "{part} is not in {}",
            page.text()
        );
    }
    assert!(!page.text().contains("<html>bad"), "nor its body");
}

/// The text of a cell that the script keeps current.
async fn cell(gateway: &Gateway, name: &str) -> String {
    let page = page(gateway, "/").await;
    let (_, rest) = page
        .text()
        .split_once(&format!("data-cell=\"{name}\">"))
        .expect(name);
    rest.split('<').next().unwrap().replace('\u{a0}', " ")
}

/// The rows of a table, each as its cells' texts.
async fn table(gateway: &Gateway, name: &str) -> Vec<Vec<String>> {
    let page = page(gateway, "/").await;
    let (_, rest) = page
        .text()
        .split_once(&format!("data-rows=\"{name}\">"))
        .expect(name);
    let (body, _) = rest.split_once("</tbody>").unwrap();
    let cells = |row: &str| {
        let mut cells = Vec::new();
        for part in row.split("</t").filter(|part| !part.is_empty()) {
            let text: String = part.split('<').fold(String::new(), |text, part| {
                text + part.split_once('>').map_or("", |(_, text)| text)
            });
            cells.push(text.replace('\u{a0}', " "));
        }
        cells
    };
    body.split("<tr")
        .skip(1)
        .map(|row| cells(row.split_once('<').unwrap().1))
        .map(|mut cells| {
            cells.retain(|cell| !cell.is_empty());
            cells
        })
        .collect()
}

async fn title(gateway: &Gateway) -> String {
    let page = page(gateway, "/").await;
    let (_, rest) = page.text().split_once("<title>").unwrap();
    rest.split("</title>").next().unwrap().to_owned()
}

/// Polls tasks that upstream has not told of, a new one each time, until the page has this title.
async fn poll_until(gateway: &Gateway, expected: &str) {
    let tasks = AtomicU64::new(0);
    eventually(expected, async || {
        poll_another(gateway, &tasks).await;
        title(gateway).await == expected
    })
    .await;
}

/// Polls a task that nobody has polled: one task alone never makes an outage.
async fn poll_another(gateway: &Gateway, tasks: &AtomicU64) -> StatusCode {
    let task = tasks.fetch_add(1, Ordering::Relaxed);
    let target = format!("/v1/videos/unknown-{task}");
    gateway.get(&target).await.status
}

#[tokio::test]
async fn the_state_of_upstream_is_in_header_and_title_with_since_and_why() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    assert_eq!(title(&gateway).await, "○ not polled yet · pollgate");
    gateway.get("/v1/videos/known").await;
    assert_eq!(title(&gateway).await, "● up · pollgate");
    upstream.now(|_| Reply::new(503, "text/html", "<html>maintenance</html>"));
    poll_until(&gateway, "◆ failing · pollgate").await;
    poll_until(&gateway, "▲ down · pollgate").await;
    assert_eq!(cell(&gateway, "state").await, "down");
    assert!(cell(&gateway, "state.for").await.starts_with("for "));
    let since = cell(&gateway, "state.since").await;
    assert!(
        since.starts_with("Since ")
            && since.contains(" UTC: ")
            && since.contains("503 Service Unavailable"),
        "{since}"
    );
    let detail = cell(&gateway, "state.detail").await;
    assert!(
        detail.contains("probe")
            && detail.contains("running tasks run out in 9 min")
            && detail.contains("(cache.stale_if_error)"),
        "{detail}"
    );
    upstream.now(|_| Reply::new(429, "text/plain", ""));
    poll_until(&gateway, "❚❚ paused · pollgate").await;
    let since = cell(&gateway, "state.since").await;
    assert!(since.ends_with(" UTC: 429 Too Many Requests."), "{since}");
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    poll_until(&gateway, "● up · pollgate").await;
}

#[tokio::test]
async fn an_incident_is_there_when_the_page_is_opened_after_it() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/known").await;
    upstream.now(|_| Reply::new(503, "text/html", "<html>maintenance</html>"));
    // Nobody opens the page meanwhile: the log tells when polls are refused.
    let tasks = AtomicU64::new(0);
    eventually("only probes go upstream", async || {
        poll_another(&gateway, &tasks).await;
        let log = gateway.log();
        log.iter().any(|line| line.contains("upstream is down"))
    })
    .await;
    // They go ever more slowly: four take longer than the recorder's tick.
    let asked = upstream.count();
    eventually("four probes", async || {
        poll_another(&gateway, &tasks).await;
        upstream.count() >= asked + 4
    })
    .await;
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    eventually("upstream is asked again", async || {
        poll_another(&gateway, &tasks).await == 200
    })
    .await;
    assert_eq!(title(&gateway).await, "● up · pollgate");
    let incidents = table(&gateway, "incidents").await;
    let [incident] = incidents.as_slice() else {
        panic!("{incidents:?}")
    };
    assert_eq!(incident[0], "down");
    assert!(!incident[1].ends_with("now"), "{incident:?}");
    assert!(
        incident[3].contains("503 Service Unavailable"),
        "{incident:?}"
    );
    assert!(incident[4].contains(" error"), "{incident:?}");
    assert_ne!(incident[4], "0 errors", "that clients saw");
    let detail = cell(&gateway, "state.detail").await;
    assert!(
        detail.starts_with("Upstream was last down from "),
        "{detail}"
    );
    let mut watcher = Watcher::open(&gateway).await.expect("a place");
    let view = watcher.view().await;
    let points = |name: &str| -> Vec<f64> {
        let points = view["charts"][name].as_array().expect(name).iter();
        points.map(|point| point.as_f64().unwrap()).collect()
    };
    assert!(points("hour.errors").iter().sum::<f64>() > 0.0);
    assert!(points("hour.state").contains(&4.0), "down");
}

#[tokio::test]
async fn errors_are_counted_as_metrics_count_them_and_for_each_caller() {
    let upstream = Upstream::start(|asked| {
        let id = asked.target.rsplit('/').next().unwrap();
        match id.parse().unwrap_or(200) {
            200 => Reply::json(row("IN_PROGRESS")),
            code => Reply::new(code, "application/json", r#"{"error":{"message":"no"}}"#),
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let poll = async |key: &str, path: &str| {
        let answer = gateway.client.get(path, key, &[]).await;
        answer.status.as_u16()
    };
    for (key, id, code) in [
        ("sk-1", "500", 500),
        ("sk-1", "501", 501),
        ("sk-1", "403", 403),
        ("sk-2", "known", 200),
        ("sk-2", "404", 404),
    ] {
        assert_eq!(poll(key, &format!("/v1/videos/{id}")).await, code);
    }
    // Between upstream and the client.
    assert_eq!(poll("sk-1", "/v1/models/500").await, 500);
    let metrics = crate::support::get(gateway.admin, "/metrics").await;
    let errors: f64 = metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("pollgate_requests_total{code=\"5"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert_eq!(cell(&gateway, "hour.errors").await, errors.to_string());
    let callers = table(&gateway, "callers").await;
    let counts: Vec<_> = callers.iter().map(|row| (&*row[2], &*row[3])).collect();
    assert_eq!(
        counts,
        [("2", "1"), ("0", "1")],
        "5xx and 4xx, most first: {callers:?}"
    );
    assert_eq!(callers[0][0].len(), 8, "a digest: {callers:?}");
    assert!(callers.iter().all(|row| row[1].ends_with("/s")));
}

#[tokio::test]
async fn the_running_tasks_that_are_polled_most_are_listed() {
    let upstream = Upstream::start(|asked| {
        let is_over = asked.target.ends_with("/over");
        Reply::json(row(if is_over { "SUCCESS" } else { "IN_PROGRESS" }))
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (id, polls) in [("once", 1), ("often", 9), ("over", 5), ("thrice", 3)] {
        for _ in 0..polls {
            gateway.get(&format!("/v1/videos/{id}")).await;
        }
    }
    let tasks = table(&gateway, "asked").await;
    let ids: Vec<_> = tasks.iter().map(|row| &*row[0]).collect();
    assert_eq!(ids, ["often", "thrice", "once"], "{tasks:?}");
    assert_eq!(tasks[0][2], "processing");
    let page = page(&gateway, "/").await;
    assert!(
        page.text()
            .contains("<a href=\"/?task=often#why\">often</a>")
    );
}

#[tokio::test]
async fn the_settings_in_force_are_listed_and_those_that_differ_are_marked() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.failed_ttl", "7m")]).await;
    let changed = table(&gateway, "settings").await;
    let expected = vec!["cache.failed_ttl".to_owned(), "7m".to_owned()];
    assert!(changed.contains(&expected), "{changed:?}");
    assert!(
        changed.iter().all(|row| row[0] != "cache.missing_ttl"),
        "{changed:?}"
    );
    let page = page(&gateway, "/").await;
    let row = |kind: &str, key: &str, value: &str| {
        format!(
            "<tr data-kind=\"{kind}\" role=\"row\"><th scope=\"row\" role=\"rowheader\">{key}</th>\
             <td role=\"cell\">{value}</td></tr>"
        )
    };
    let (_, all) = page.text().split_once("<details>").unwrap();
    for row in [
        row("changed", "cache.failed_ttl", "7m"),
        row("", "cache.missing_ttl", "2s"),
    ] {
        assert!(all.contains(&row), "{row} is not in {all}");
    }
}

#[tokio::test]
async fn the_look_up_stands_before_the_charts() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let page = page(&gateway, "/").await;
    let order = ["data-cell=\"state\"", "name=\"task\"", "id=\"hour-polls\""];
    let found = order.map(|part| page.text().find(part).expect(part));
    assert!(found.is_sorted(), "{found:?}");
}

/// A watcher of the page's numbers.
#[derive(Debug)]
struct Watcher {
    body: Incoming,
    buffer: String,
}

impl Watcher {
    /// Opens the stream, or returns the status that refused it.
    async fn open(gateway: &Gateway) -> Result<Self, u16> {
        let request = Request::get(format!("http://{}/live", gateway.admin))
            .body(Full::<bytes::Bytes>::default());
        let pool = Pool::builder(TokioExecutor::new()).build_http();
        let answer = pool.request(request.unwrap()).await.expect("an answer");
        if answer.status() != 200 {
            return Err(answer.status().as_u16());
        }
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Ok(Self {
            body: answer.into_body(),
            buffer: String::new(),
        })
    }

    /// The next event's name and data; `None` at the end.
    async fn next(&mut self) -> Option<(String, String)> {
        let reading = async {
            loop {
                if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                    let field = |name| {
                        event
                            .lines()
                            .find_map(|line| line.strip_prefix(name))
                            .unwrap()
                            .to_owned()
                    };
                    let event = (field("event: "), field("data: "));
                    let rest = rest.to_owned();
                    self.buffer = rest;
                    return Some(event);
                }
                let data = self.body.frame().await?.ok()?.into_data().ok()?;
                self.buffer
                    .push_str(std::str::from_utf8(&data).expect("text"));
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("an event in time")
    }

    async fn view(&mut self) -> Value {
        let (event, data) = self.next().await.expect("an event");
        assert_eq!(event, "view");
        serde_json::from_str(&data).expect("JSON")
    }
}

#[tokio::test]
async fn the_stream_sends_numbers_at_once_and_again_with_traffic() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut watcher = Watcher::open(&gateway).await.expect("a place");
    let first = watcher.view().await;
    assert_eq!(first["cells"]["client.total"], "0");
    assert_eq!(first["cells"]["state"], "not polled yet");
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/videos/t").await;
    let mut second = watcher.view().await;
    while second["cells"]["client.total"] != "2" {
        second = watcher.view().await;
    }
    assert_eq!(second["cells"]["upstream.total"], "1");
    assert_eq!(second["tables"]["codes"][0]["cells"][0], "200 OK");
    assert!(
        second["charts"]["client"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rate| rate.as_f64() > Some(0.0))
    );
    // A later watcher shares the samples: its charts start before it.
    let mut late = Watcher::open(&gateway).await.expect("a place");
    assert!(
        !late.view().await["charts"]["client"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn watchers_are_limited_and_leave_room_for_metrics() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut watchers = Vec::new();
    for _ in 0..16 {
        watchers.push(Watcher::open(&gateway).await.expect("a place"));
    }
    assert_eq!(Watcher::open(&gateway).await.err(), Some(503));
    assert_eq!(
        crate::support::get(gateway.admin, "/metrics").await.status,
        200
    );
    watchers.pop();
    eventually("a place again", async || {
        Watcher::open(&gateway).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_drain_ends_the_stream_and_the_stream_does_not_delay_the_drain() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut watcher = Watcher::open(&gateway).await.expect("a place");
    watcher.view().await;
    // A poll under way keeps the process alive for a moment.
    upstream.close_gate();
    let poll = gateway.client.clone();
    let poll = tokio::spawn(async move { poll.get("/v1/videos/t", "sk-1", &[]).await });
    upstream.was_asked(1).await;
    gateway.signal("-TERM");
    let last = loop {
        match watcher.next().await {
            Some((event, _)) if event == "view" => {}
            last => break last,
        }
    };
    assert_eq!(last.map(|(event, _)| event).as_deref(), Some("bye"));
    assert_eq!(watcher.next().await, None);
    assert_eq!(
        Watcher::open(&gateway).await.err(),
        Some(503),
        "nor does a new one begin"
    );
    upstream.let_pass(1);
    assert_eq!(poll.await.unwrap().status, 200);
    assert!(gateway.ended().await.success());
    assert!(
        !gateway.log().iter().any(|line| line.contains("still busy")),
        "{:?}",
        gateway.log()
    );
}

#[tokio::test]
async fn foreign_host_names_and_foreign_origins_are_refused() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/t").await;
    let admin = Client::new(gateway.admin);
    let send = async |method: Method, path: &str, name: &str, value: &str| {
        let request = Request::builder()
            .method(method)
            .uri(admin.url(path))
            .header(name, value);
        admin
            .send(request.body(Full::default()).unwrap())
            .await
            .status
            .as_u16()
    };
    let port = gateway.admin.port();
    // A foreign name that resolves to this address (DNS rebinding).
    for path in ["/", "/metrics", "/live", "/readyz", "/cache"] {
        let foreign = format!("pollgate.evil.example:{port}");
        assert_eq!(
            send(Method::GET, path, "host", &foreign).await,
            421,
            "{path}"
        );
    }
    assert_eq!(
        send(
            Method::GET,
            "/metrics",
            "host",
            &format!("localhost:{port}")
        )
        .await,
        200
    );
    assert_eq!(
        send(Method::GET, "/metrics", "host", "localhost:1").await,
        200,
        "through a tunnel"
    );
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(
            send(Method::DELETE, "/cache", name, value).await,
            403,
            "{name}: {value}"
        );
        assert_eq!(
            send(Method::DELETE, "/cache/t", name, value).await,
            403,
            "{name}: {value}"
        );
        assert_eq!(
            send(Method::GET, "/live", name, value).await,
            403,
            "{name}: {value}"
        );
        assert_eq!(
            send(Method::GET, "/", name, value).await,
            200,
            "a link to it is fine"
        );
    }
    assert_eq!(
        gateway.metric("pollgate_cache_entries").await,
        1.0,
        "nothing was forgotten"
    );
    let own = format!("http://{}", gateway.admin);
    assert_eq!(send(Method::DELETE, "/cache", "origin", &own).await, 200);
    assert_eq!(gateway.metric("pollgate_cache_entries").await, 0.0);
}
