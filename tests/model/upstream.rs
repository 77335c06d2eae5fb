//! Upstream in memory: slow, faulty and changing state at random. Every document names its caller.

use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use pollgate::answer::reply::Reply;
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::TaskFetch;
use pollgate::task::{Dialect, Source, State, TaskSnapshot};
use pollgate::upstream::lost::LostPolls;
use pollgate::upstream::resend::{Unprocessed, until_processed};
use pollgate::upstream::response_time::ResponseTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower::Service;

use crate::rules;
use crate::world::{Asked, Fetch, Said, Shared, Task, Trouble, Url, Weather, lock};

/// How long after its deadline an answer comes that hangs.
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// The service at the end of the pipeline.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub world: Shared,
    pub lost: Arc<LostPolls>,
    pub response_time: Arc<ResponseTime>,
}

/// What will happen to one request.
struct Plan {
    number: usize,
    latency: Option<Duration>,
    /// How many of the streams on which it is sent are refused before one is not.
    refusals: usize,
    fault: Option<Fault>,
    /// The task at the time of the request; `None` to read it at the time of the answer.
    early: Option<Task>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    TooMany {
        retry_after: Option<u64>,
        named: bool,
    },
    Broken(u16),
    Page(u16),
    Own(u16),
    Invalid,
    NotATask,
    Redirected,
    Unavailable,
    /// Answers long after its deadline.
    Hang,
    Panic,
}

impl Service<TaskFetch> for Upstream {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let send = || this.send(&fetch);
            let usual = &this.response_time;
            this.lost.until_answered(&fetch, usual, send).await
        })
    }
}

impl Upstream {
    async fn send(&self, fetch: &TaskFetch) -> Result<Reply, Error> {
        let world = &self.world;
        let (plan, _under_way) = start(world, fetch);
        fetch.query.asked_at.set();
        if matches!(plan.fault, Some(Fault::Hang)) {
            sleep_until(fetch.deadline + LATE).await;
        }
        let sent = until_processed((), |()| send(world, &plan));
        let end = match timeout_at(fetch.deadline, sent).await {
            Ok(Ok(())) => End::Processed,
            Ok(Err(())) => End::Refused,
            Err(_) => End::OutOfTime,
        };
        land(world, fetch, &plan, end)
    }
}

/// How the sending of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Processed,
    /// As often as it was sent.
    Refused,
    OutOfTime,
}

/// One sending of a request.
struct Stream {
    number: usize,
    /// Whether the peer refuses it, after the latency.
    is_refused: bool,
    latency: Option<Duration>,
    /// The last stream that the peer still processes, told from now on.
    goodbyes: watch::Receiver<usize>,
}

/// Sends a request on a stream of its own, and continues where the peer says that it has not processed it.
async fn send(world: &Shared, plan: &Plan) -> ControlFlow<(), Unprocessed<(), ()>> {
    let stream = open(world, plan);
    tokio::select! {
        biased;
        () = fly(stream.latency) => {
            if !stream.is_refused {
                return ControlFlow::Break(());
            }
        }
        () = goodbye(stream.goodbyes, stream.number) => {}
    }
    let mut world = lock(world);
    world.fetches[plan.number].refused = Some(Instant::now());
    world.tell(format_args!("  fetch {} is refused", plan.number));
    // As if nobody was answered on its connection.
    ControlFlow::Continue(Unprocessed {
        request: (),
        why: (),
        counts: true,
    })
}

fn open(world: &Shared, plan: &Plan) -> Stream {
    let mut guard = lock(world);
    let this = &mut *guard;
    let fetch = &mut this.fetches[plan.number];
    fetch.sent += 1;
    let (sent, refused) = (fetch.sent, fetch.refused.take());
    if refused.is_some_and(|at| at != Instant::now()) {
        this.report(format_args!(
            "fetch {} was refused, and not sent again at once",
            plan.number
        ));
    }
    if sent > rules::MOST_SENT {
        this.report(format_args!("fetch {} is sent without end", plan.number));
    }
    this.streams += 1;
    let is_refused = sent <= plan.refusals;
    let dice = &mut this.dice;
    let latency = match dice.u8(..4) {
        _ if !is_refused => plan.latency,
        0 => None,
        1 => Some(Duration::ZERO),
        2 => Some(Duration::from_millis(dice.u64(1..50))),
        _ => Some(Duration::from_millis(dice.u64(1..3000))),
    };
    Stream {
        number: this.streams,
        is_refused,
        latency,
        goodbyes: this.goodbyes.subscribe(),
    }
}

/// Resolves at a goodbye that leaves this stream unprocessed.
async fn goodbye(mut goodbyes: watch::Receiver<usize>, stream: usize) {
    while goodbyes.changed().await.is_ok() {
        if stream > *goodbyes.borrow_and_update() {
            return;
        }
    }
    pending::<()>().await;
}

async fn fly(latency: Option<Duration>) {
    match latency {
        None => {}
        Some(Duration::ZERO) => tokio::task::yield_now().await,
        Some(latency) => sleep(latency).await,
    }
}

/// Counts a fetch as in progress until it is dropped.
struct UnderWay {
    world: Shared,
    number: usize,
    what: (Asked, usize, usize),
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Ok(mut world) = self.world.lock() {
            world.under_way.remove(&self.what);
            if world.fetches[self.number].landed.is_none() {
                world.fetches[self.number].given_up = Some(Instant::now());
                world.last_trouble = Some(Instant::now());
                world.tell(format_args!("  fetch {} is given up", self.number));
            }
        }
    }
}

fn start(world: &Shared, fetch: &TaskFetch) -> (Plan, UnderWay) {
    let mut guard = lock(world);
    let this = &mut *guard;
    let key = &fetch.query.key;
    let asked = this.asked(key);
    if this.keys.caller_key.caller(&fetch.query.credentials) != key.caller {
        this.report(format_args!(
            "{asked:?} is asked with another caller's credentials"
        ));
    }
    // Every poll has a unique deadline, which identifies the leader of the fetch.
    let flight = this
        .polls
        .iter()
        .find(|poll| poll.deadline == fetch.query.deadline);
    let flight = flight.expect("a poll set it off").start;
    let lease = this.moment();
    // A poll whose known state was purged while it waited leads a flight once more. Further tries of a flight have its
    // deadlines.
    let ends = (fetch.query.deadline, fetch.deadline);
    let again = this.flights.iter().find(|(end, _)| *end == ends);
    let joined = match again {
        Some((_, joined)) => *joined,
        None if lease.at >= flight.at + this.patience => lease,
        None => flight,
    };
    this.flights.push((ends, joined));
    let (purges, refusals) = this.changes_before(asked, joined);
    let what = (asked, purges, refusals);
    if !this.under_way.insert(what) {
        this.report(format_args!("two fetches at once for {asked:?}"));
    }
    let task = this.tasks[asked.task];
    let number = this.fetches.len();
    let first_try = this.fetches.iter().all(|other| other.flight != flight);
    let content =
        fetch.query.cache_mode == CacheMode::Default && rules::must_hit(this, asked, lease);
    if first_try && content {
        this.report(format_args!(
            "{asked:?} is asked, though it is known and fresh"
        ));
    }
    this.fetches.push(Fetch {
        asked,
        flight,
        lease,
        version: task.version,
        landed: None,
        early: false,
        sent: 0,
        refused: None,
        given_up: None,
    });
    let dice = &mut this.dice;
    let latency = match dice.u8(..10) {
        _ if this.weather == Weather::Silent => Some(Duration::from_hours(1)),
        0 | 1 => None,
        2 => Some(Duration::ZERO),
        3..=6 => Some(Duration::from_millis(dice.u64(1..200))),
        7 | 8 => Some(Duration::from_millis(dice.u64(200..6000))),
        _ => Some(Duration::from_secs(dice.u64(6..30))),
    };
    let faulty = match this.weather {
        Weather::Silent | Weather::Refusing => false,
        Weather::Fair => dice.u8(..40) == 0,
        Weather::Mixed => dice.u8(..2) == 0,
        Weather::Gone => true,
    };
    let fault = faulty.then(|| match dice.u8(..22) {
        16 => Fault::Page([401, 403, 404][dice.usize(..3)]),
        17 | 18 => Fault::Own([500, 501][dice.usize(..2)]),
        19 | 20 => Fault::NotATask,
        21 => Fault::Redirected,
        0..=2 => Fault::TooMany {
            retry_after: dice.bool().then(|| dice.u64(..20)),
            named: dice.bool(),
        },
        3 => Fault::Broken(500),
        4..=7 => Fault::Broken([502, 503, 504][dice.usize(..3)]),
        8 | 9 => Fault::Invalid,
        10..=13 => Fault::Unavailable,
        14 => Fault::Hang,
        _ => Fault::Panic,
    });
    let early = dice.bool().then_some(task);
    let refusals = draw_refusals(dice, this.weather);
    this.tell(format_args!(
        "  fetch {number} of {asked:?}: {latency:?} {fault:?}, refused {refusals} times"
    ));
    let plan = Plan {
        number,
        latency,
        refusals,
        fault,
        early,
    };
    let under_way = UnderWay {
        world: Arc::clone(world),
        number,
        what,
    };
    (plan, under_way)
}

/// How often a request is refused.
fn draw_refusals(dice: &mut fastrand::Rng, weather: Weather) -> usize {
    match (weather, dice.u8(..20)) {
        (Weather::Refusing, 0) => rules::MOST_SENT + 1,
        (Weather::Refusing, 1..16) => dice.usize(1..rules::MOST_SENT),
        (Weather::Refusing, _) => 0,
        (_, 0 | 1) => dice.usize(1..3),
        _ => 0,
    }
}

fn land(world: &Shared, fetch: &TaskFetch, plan: &Plan, end: End) -> Result<Reply, Error> {
    let mut guard = lock(world);
    let this = &mut *guard;
    let Fetch { asked, sent, .. } = this.fetches[plan.number];
    if end == End::Refused && sent < rules::MOST_SENT {
        this.report(format_args!(
            "fetch {} was refused, and not sent again",
            plan.number
        ));
    }
    let task = plan.early.unwrap_or(this.tasks[asked.task]);
    this.fetches[plan.number].version = task.version;
    let (said, result) = answer(this.refused[asked.caller], asked, fetch, plan, end, task);
    let landed = this.moment();
    this.fetches[plan.number].early = said == Said::Missing
        && this.fetches.iter().any(|other| {
            other.asked == asked
                && matches!(other.landed, Some((at, Said::Task { state, .. }))
                    if !state.is_terminal() && landed.at - at.at < rules::EARLY)
        });
    this.fetches[plan.number].landed = Some((landed, said));
    match said {
        Said::Refusal => this.refusals.push((landed, asked.caller)),
        Said::Failing(_) | Said::Own(_) | Said::Nothing(_) => {
            this.last_trouble = Some(landed.at);
        }
        Said::Task { .. } | Said::Missing => {}
    }
    this.tell(format_args!("  fetch {} landed: {said:?}", plan.number));
    drop(guard);
    if said == Said::Nothing(Trouble::Panic) {
        // Without the panic hook's output, since it is part of the plan.
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    result
}

fn answer(
    refused: bool,
    asked: Asked,
    fetch: &TaskFetch,
    plan: &Plan,
    end: End,
    task: Task,
) -> (Said, Result<Reply, Error>) {
    let error = |status: u16, retry_after: Option<u64>, body: String| {
        let headers = headers(plan.number, retry_after);
        Ok(Reply::new(
            StatusCode::from_u16(status).unwrap(),
            &headers,
            body.into(),
            None,
        ))
    };
    let nothing = |trouble, error| (Said::Nothing(trouble), Err(error));
    let unavailable = || Error::UpstreamUnavailable("no".into());
    match end {
        End::Processed => {}
        End::Refused => return nothing(Trouble::Unavailable, unavailable()),
        End::OutOfTime => return nothing(Trouble::Timeout, Error::UpstreamTimeout),
    }
    match plan.fault {
        Some(Fault::TooMany { retry_after, named }) => {
            let body = if named {
                r#"{"code":"rate_limit","message":"slow","data":null}"#
            } else {
                ""
            };
            return (Said::Failing(429), error(429, retry_after, body.into()));
        }
        Some(Fault::Broken(status) | Fault::Page(status)) => {
            return (Said::Failing(status), error(status, None, "<html>".into()));
        }
        Some(Fault::Own(status)) => {
            let body = r#"{"code":"not_implemented","message":"no","data":null}"#;
            return (Said::Own(status), error(status, None, body.into()));
        }
        Some(Fault::Invalid) => {
            return nothing(Trouble::Invalid, Error::UpstreamInvalid("no".into()));
        }
        Some(Fault::NotATask) => {
            return nothing(Trouble::NotATask, Error::NotATask("no".into()));
        }
        Some(Fault::Redirected) => {
            return nothing(Trouble::Redirected, Error::Redirected("elsewhere".into()));
        }
        Some(Fault::Unavailable) => {
            return nothing(Trouble::Unavailable, unavailable());
        }
        Some(Fault::Panic | Fault::Hang) => return nothing(Trouble::Panic, Error::Panicked),
        None => {}
    }
    if refused {
        let body = r#"{"error":{"message":"spent","type":"new_api_error"}}"#.into();
        return (Said::Refusal, error(401, None, body));
    }
    let Some(state) = task.state else {
        let mark = mark(asked, plan.number, task.version);
        let body = format!(r#"{{"code":"task_not_exist","message":"{mark}","data":null}}"#);
        return (Said::Missing, error(400, None, body));
    };
    let body = Bytes::from(document(asked, plan.number, state, task));
    let snapshot = TaskSnapshot::read(&Source {
        asked_id: &fetch.query.key.task.decoded(),
        status: 200,
        body: &body,
        first_seen: fetch.first_seen,
    });
    let reply = Reply::new(
        StatusCode::OK,
        &headers(plan.number, None),
        body,
        Some(snapshot.expect("is a task")),
    );
    let url = if state == State::Succeeded {
        task.url
    } else {
        Url::None
    };
    (Said::Task { state, url }, Ok(reply))
}

/// Puts the number of the fetch in a header as well, for answers without a body.
fn headers(number: usize, retry_after: Option<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", HeaderValue::from(number));
    if let Some(seconds) = retry_after {
        headers.insert("retry-after", HeaderValue::from(seconds));
    }
    headers
}

/// The mark in every document of this fetch.
pub(crate) fn mark(asked: Asked, number: usize, version: u32) -> String {
    format!("c{}-t{}-v{version}-f{number}-", asked.caller, asked.task)
}

fn document(asked: Asked, number: usize, state: State, task: Task) -> String {
    let mark = mark(asked, number, task.version);
    let url = match task.url {
        Url::None => String::new(),
        _ if state != State::Succeeded => String::new(),
        Url::Plain => format!("https://cdn.example.com/{mark}.mp4"),
        Url::Signed(left) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let expires = (now + left).as_secs();
            format!("https://cdn.example.com/{mark}.mp4?Expires={expires}")
        }
    };
    let word = state.in_dialect(asked.dialect);
    // Sometimes in the shape of the other path, as some vendors do.
    let unified = (asked.dialect == Dialect::Unified) != number.is_multiple_of(5);
    if unified {
        format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"t{}","status":"{word}","url":"{url}","metadata":{{"mark":"{mark}"}},"properties":{{"origin_model_name":"{mark}"}}}}}}"#,
            asked.task
        )
    } else {
        format!(
            r#"{{"id":"t{}","object":"video","status":"{word}","model":"{mark}","metadata":{{"url":"{url}","mark":"{mark}"}}}}"#,
            asked.task
        )
    }
}
