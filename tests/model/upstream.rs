//! Upstream in memory: slow, faulty and changing state at random. Every document names its caller.

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
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower::Service;

use crate::rules;
use crate::world::{Asked, Fetch, Said, Shared, Task, Trouble, Url, Weather, lock};

/// How long after its deadline an answer comes that hangs.
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// The service at the end of the pipeline.
#[derive(Clone)]
pub(crate) struct Upstream(pub Shared);

/// What will happen to one request.
struct Plan {
    number: usize,
    latency: Option<Duration>,
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
        let world = Arc::clone(&self.0);
        Box::pin(async move {
            let (plan, _under_way) = start(&world, &fetch);
            if matches!(plan.fault, Some(Fault::Hang)) {
                sleep_until(fetch.deadline + LATE).await;
            }
            let flying = async {
                match plan.latency {
                    None => {}
                    Some(Duration::ZERO) => tokio::task::yield_now().await,
                    Some(latency) => sleep(latency).await,
                }
            };
            let in_time = timeout_at(fetch.deadline, flying).await.is_ok();
            land(&world, &fetch, &plan, in_time)
        })
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
        Weather::Silent => false,
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
    this.tell(format_args!(
        "  fetch {number} of {asked:?}: {latency:?} {fault:?}"
    ));
    let plan = Plan {
        number,
        latency,
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

fn land(world: &Shared, fetch: &TaskFetch, plan: &Plan, in_time: bool) -> Result<Reply, Error> {
    let mut guard = lock(world);
    let this = &mut *guard;
    let asked = this.fetches[plan.number].asked;
    let task = plan.early.unwrap_or(this.tasks[asked.task]);
    this.fetches[plan.number].version = task.version;
    let (said, result) = answer(
        this.refused[asked.caller],
        asked,
        fetch,
        plan,
        in_time,
        task,
    );
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
    in_time: bool,
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
    if !in_time {
        return nothing(Trouble::Timeout, Error::UpstreamTimeout);
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
            return nothing(
                Trouble::Unavailable,
                Error::UpstreamUnavailable("no".into()),
            );
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
