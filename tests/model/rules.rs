//! The reference: what a poll may return, derived from what happened and from the settings alone.

use std::time::Duration;

use http::StatusCode;
use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::task::{Dialect, Form, Rendering, State};
use tokio::time::Instant;

use crate::upstream::mark;
use crate::world::{Asked, Fetch, Moment, Poll, Said, Trouble, Url, World};

/// How far back a reason for not going upstream may lie: the longest pause that upstream may ask for, and the time
/// until a poll finds out that it is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60 + 30);

/// A running task that is said not to exist within this time may be taken to run on.
pub(crate) const EARLY: Duration = Duration::from_secs(30);

/// The longest time for which a task that upstream itself failed on is left alone.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(30);

/// How often a request is sent that the peer refuses each time.
pub(crate) const MOST_SENT: usize = 5;

/// The window in which a circuit counts failures, rounded up to whole seconds.
const WINDOW: Duration = Duration::from_secs(11);

/// The least time without an answer after which a poll that is given up says something of upstream.
pub(crate) const SILENT: Duration = Duration::from_secs(2);

/// tokio's timers count whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// How long an answer is fresh, and how long after that it is usable.
fn keep(world: &World, said: Said) -> (Duration, Duration) {
    let cache = &world.cache;
    match said {
        Said::Task {
            state: State::Failed,
            ..
        } => (cache.failed_ttl, cache.stale_if_error),
        Said::Task {
            state: State::Succeeded,
            url: Url::Plain,
        } => (cache.succeeded_ttl, cache.stale_if_error),
        Said::Task {
            state: State::Succeeded,
            url: Url::Signed(left),
        } => {
            let good = left.saturating_sub(cache.url_margin);
            let fresh = cache.succeeded_ttl.min(good);
            (fresh, cache.stale_if_error.min(good.saturating_sub(fresh)))
        }
        Said::Task { .. } => (cache.in_flight_ttl, cache.stale_if_error),
        Said::Missing => (cache.missing_ttl, Duration::ZERO),
        Said::Refusal | Said::Failing(_) | Said::Own(_) | Said::Nothing(_) => Default::default(),
    }
}

/// The same at most: a success without a URL is final a minute after it was first seen.
fn keep_at_most(world: &World, said: Said) -> (Duration, Duration) {
    match said {
        Said::Task {
            state: State::Succeeded,
            url: Url::None,
        } => (world.cache.succeeded_ttl, world.cache.stale_if_error),
        said => keep(world, said),
    }
}

/// The answer of a fetch: when it landed, and until when it is fresh and usable.
struct Known {
    said: Said,
    landed: Moment,
    fresh_until: Instant,
    usable_until: Instant,
}

fn known_of(world: &World, fetch: &Fetch) -> Option<Known> {
    let (landed, said) = fetch.landed.filter(|_| fetch.is_answer())?;
    let (fresh, usable) = keep(world, said);
    Some(Known {
        said,
        landed,
        fresh_until: landed.at + fresh,
        usable_until: landed.at + fresh + usable,
    })
}

/// What must be cached at `now`: upstream's last answer, if nothing has invalidated it since its flight started.
fn known(world: &World, asked: Asked, now: Moment) -> Option<Known> {
    let fetches = world
        .fetches
        .iter()
        .filter(|fetch| fetch.asked == asked && fetch.is_answer());
    let last = fetches.max_by_key(|fetch| fetch.landed.map(|(landed, _)| landed))?;
    if world.evicts || last.early || world.changed_between(asked, last.flight, now) {
        return None;
    }
    known_of(world, last)
}

/// Whether a known state may stand in for a poll's answer from now on, for as long as any poll waits for one.
pub(crate) fn is_known(world: &World, asked: Asked, now: Moment) -> bool {
    let until = now.at + world.longest_patience + TICK;
    let later = Moment { at: until, ..now };
    known(world, asked, now).is_some_and(|known| {
        let longer = known.usable_until - known.fresh_until;
        matches!(known.said, Said::Task { .. })
            && until < known.usable_until
            && accepted(world, asked.caller, later, longer, |fetch| fetch.flight)
    })
}

/// Whether upstream accepted the caller within `credential_ttl` and `longer`, by the fetches that started, according to
/// `since`, after the caller's last refusal. With neither, no acceptance is recent enough.
fn accepted(
    world: &World,
    caller: usize,
    now: Moment,
    longer: Duration,
    since: impl Fn(&Fetch) -> Moment,
) -> bool {
    let within = world.cache.credential_ttl + longer;
    if within.is_zero() {
        return false;
    }
    let refused = world
        .refusals
        .iter()
        .filter(|(_, who)| *who == caller)
        .map(|(when, _)| *when)
        .max();
    world.fetches.iter().any(|fetch| {
        fetch.asked.caller == caller
            && fetch.is_answer()
            && refused.is_none_or(|refused| since(fetch) > refused)
            && fetch
                .landed
                .is_some_and(|(landed, _)| now.at - landed.at <= within)
    })
}

/// Whether a poll that starts now must be a hit.
pub(crate) fn must_hit(world: &World, asked: Asked, now: Moment) -> bool {
    known(world, asked, now).is_some_and(|known| now.at < known.fresh_until)
        && accepted(world, asked.caller, now, Duration::ZERO, |fetch| {
            fetch.flight
        })
}

/// The longest pause before a retry.
const LONGEST_BACKOFF: Duration = Duration::from_millis(100);

/// Judges an answer that was just returned.
pub(crate) fn judge(world: &mut World, poll: &Poll, result: &Result<Answer, Error>) {
    let now = world.moment();
    let outcome = match result {
        Ok(answer) => judge_answer(world, poll, answer, now),
        Err(error) => judge_error(world, poll, error, now),
    };
    let late = (now.at > poll.deadline + TICK).then_some("after its deadline");
    let asked_anyway = poll.must_hit
        && poll.cache_mode != CacheMode::NoCache
        && !result
            .as_ref()
            .is_ok_and(|answer| answer.outcome == Outcome::Hit);
    let asked_anyway = asked_anyway.then_some("not from memory, though it was known and fresh");
    let waited = now.at > poll.start.at + world.longest_patience + TICK;
    let is_known = poll.is_known && poll.cache_mode == CacheMode::Default;
    let kept_waiting = is_known && waited && !world.changed_between(poll.asked, poll.start, now);
    let kept_waiting = kept_waiting.then_some("kept waiting, though a known state could stand in");
    for problem in [outcome.err(), late, asked_anyway, kept_waiting]
        .into_iter()
        .flatten()
    {
        world.report(format_args!("{problem}: {poll:?} got {result:?}"));
    }
}

/// The most failures that a circuit may count now: of requests that failed, or were given up in silence.
pub(crate) fn most_failed(world: &World) -> usize {
    let recent = |at: Instant| at.elapsed() < WINDOW;
    let has_failed = |fetch: &&Fetch| match (fetch.landed, fetch.given_up) {
        (Some((_, Said::Failing(429))), _) => false,
        (Some((landed, Said::Failing(_) | Said::Nothing(_))), _) => recent(landed.at),
        (None, Some(at)) => recent(at) && at >= fetch.lease.at + SILENT,
        _ => false,
    };
    world.fetches.iter().filter(has_failed).count()
}

type Judgement = Result<(), &'static str>;

fn forbid(wrong: bool, why: &'static str) -> Judgement {
    if wrong { Err(why) } else { Ok(()) }
}

/// The fetch that an answer came from, read from its headers, or from the body of a cached one.
pub(crate) fn number(answer: &Answer) -> Option<usize> {
    if let Some(headers) = &answer.headers {
        return headers.get("x-request-id")?.to_str().ok()?.parse().ok();
    }
    let text = String::from_utf8_lossy(&answer.reply.body);
    let (_, number) = text.split_once("-f")?;
    number.split_once('-')?.0.parse().ok()
}

fn judge_answer(world: &World, poll: &Poll, answer: &Answer, now: Moment) -> Judgement {
    let number = number(answer).ok_or("an answer that upstream never gave")?;
    let fetch = *world
        .fetches
        .get(number)
        .ok_or("an answer that upstream never gave")?;
    let (landed, said) = fetch.landed.ok_or("an answer that upstream never gave")?;
    forbid(
        fetch.asked.caller != poll.asked.caller,
        "another caller's answer",
    )?;
    forbid(fetch.asked.task != poll.asked.task, "another task's answer")?;
    judge_document(poll, answer, number, &fetch, said)?;
    forbid(answer.received != landed.at, "a wrong age")?;
    let (fresh, usable) = keep_at_most(world, said);
    let (fresh_until, usable_until) = (landed.at + fresh, landed.at + fresh + usable);
    forbid(
        fetch.is_answer() && answer.fresh_until > fresh_until,
        "a wrong time to live",
    )?;
    forbid(
        world.changed_between(poll.asked, fetch.lease, poll.start),
        "an answer from before a change that the client knew of",
    )?;
    let other_path = fetch.asked.dialect != poll.asked.dialect;
    let terminal = matches!(
        said,
        Said::Task {
            state: State::Succeeded | State::Failed,
            ..
        }
    );
    forbid(
        other_path && (answer.outcome != Outcome::Stale || !terminal),
        "the other path's answer",
    )?;
    forbid(
        poll.cache_mode == CacheMode::OnlyIfCached && answer.outcome != Outcome::Hit,
        "not from memory",
    )?;

    match answer.outcome {
        Outcome::Hit if matches!(said, Said::Own(_)) => forbid(
            now.at > landed.at + LONGEST_COOL_DOWN || poll.cache_mode != CacheMode::Default,
            "an error from before, though its task is no longer left alone",
        ),
        Outcome::Hit => {
            forbid(
                poll.cache_mode == CacheMode::NoCache,
                "a remembered answer, though a new one was demanded",
            )?;
            judge_hit(world, poll, &fetch, fresh_until, now)
        }
        Outcome::Fetched => forbid(landed < poll.start, "older than the poll"),
        Outcome::Shared if landed > poll.start => Ok(()),
        Outcome::Shared if !matches!(said, Said::Task { .. }) && still_tried(landed, poll) => {
            Ok(())
        }
        // The flight's own lookup in the store.
        Outcome::Shared => {
            forbid(
                poll.cache_mode == CacheMode::NoCache,
                "older than the poll, though a new one was demanded",
            )?;
            judge_hit(world, poll, &fetch, fresh_until, now)
        }
        Outcome::Stale => {
            forbid(!matches!(said, Said::Task { .. }), "an error stands in")?;
            forbid(now.at >= usable_until, "older than stale_if_error")?;
            let longer = usable_until - fresh_until;
            forbid(
                !accepted(world, poll.asked.caller, now, longer, |fetch| fetch.lease),
                "stale, for a credential that was not accepted for too long",
            )?;
            forbid(
                overtaken(world, poll, &fetch),
                "a state that upstream had gone beyond",
            )?;
            let trouble = world
                .last_trouble
                .is_some_and(|at| now.at <= at + LONGEST_PAUSE)
                || now.at >= poll.deadline
                || now.at >= poll.start.at + world.patience
                || world.fetches.iter().any(|fetch| fetch.early);
            forbid(!trouble, "stale, though upstream is well")
        }
        // There is no fleet here; `fleet.rs` has some.
        Outcome::Fleet | Outcome::Forwarded | Outcome::Shed | Outcome::Failed => {
            Err("no outcome of a poll")
        }
    }
}

/// Whether the flight of a failure could still be in progress when the poll started: it was about to retry, the breaker
/// refused the retry, and the earlier failure became its result.
fn still_tried(landed: Moment, poll: &Poll) -> bool {
    landed.at + LONGEST_BACKOFF >= poll.start.at
}

fn judge_hit(
    world: &World,
    poll: &Poll,
    fetch: &Fetch,
    fresh_until: Instant,
    now: Moment,
) -> Judgement {
    forbid(now.at >= fresh_until, "no longer fresh")?;
    forbid(
        overtaken(world, poll, fetch),
        "a state that upstream had gone beyond",
    )?;
    forbid(
        !accepted(world, poll.asked.caller, now, Duration::ZERO, |fetch| {
            fetch.lease
        }),
        "remembered, though the credential was not checked",
    )
}

/// Whether the gateway had a later answer of a later flight before the poll started.
fn overtaken(world: &World, poll: &Poll, fetch: &Fetch) -> bool {
    world.fetches.iter().any(|later| {
        later.asked == fetch.asked
            && later.is_believed()
            && later.lease > fetch.lease
            && later.landed.is_some_and(|(landed, _)| landed < poll.start)
            && !world.changed_between(later.asked, later.flight, poll.start)
    })
}

fn judge_document(
    poll: &Poll,
    answer: &Answer,
    number: usize,
    fetch: &Fetch,
    said: Said,
) -> Judgement {
    let rendition = answer
        .reply
        .rendition(Form::Written(poll.path, Rendering::Faithful));
    let Said::Task { state, url } = said else {
        let expected = match said {
            Said::Refusal => 401,
            Said::Failing(status) | Said::Own(status) => status,
            // In the envelope of its path it is "not found".
            _ if poll.path == Dialect::OpenAi => 404,
            _ => 400,
        };
        forbid(
            rendition.status.as_u16() != expected,
            "an error of another status",
        )?;
        return forbid(
            answer.reply.is_task(),
            "a task, where upstream told of none",
        );
    };
    let snapshot = answer
        .reply
        .snapshot()
        .ok_or("no task, where upstream told of one")?;
    let mark = mark(fetch.asked, number, fetch.version);
    let text = String::from_utf8_lossy(&rendition.body);
    forbid(
        rendition.status != StatusCode::OK,
        "a task with an error's status",
    )?;
    forbid(!text.contains(&mark), "a document without its mark")?;
    forbid(
        text.matches("-f").count() != text.matches(&mark).count(),
        "a document of several fetches",
    )?;
    forbid(snapshot.state() != state, "a state that upstream never had")?;
    let has_url = state == State::Succeeded && url != Url::None;
    forbid(
        snapshot.has_url() != has_url,
        "a URL that upstream never gave",
    )
}

fn judge_error(world: &World, poll: &Poll, error: &Error, now: Moment) -> Judgement {
    let mine = |trouble| {
        world.fetches.iter().any(|fetch| {
            fetch.asked == poll.asked
                && fetch.landed.is_some_and(|(landed, said)| {
                    said == Said::Nothing(trouble)
                        && (landed > poll.start || still_tried(landed, poll))
                })
        })
    };
    if poll.cache_mode == CacheMode::OnlyIfCached {
        return forbid(
            *error != Error::NotCached,
            "asked, though that was forbidden",
        );
    }
    match error {
        Error::UpstreamUnavailable(_) => forbid(
            !mine(Trouble::Unavailable),
            "an error that upstream never gave",
        ),
        Error::UpstreamInvalid(_) => {
            forbid(!mine(Trouble::Invalid), "an error that upstream never gave")
        }
        Error::NotATask(_) | Error::Redirected(_) => {
            let trouble = if matches!(error, Error::NotATask(_)) {
                Trouble::NotATask
            } else {
                Trouble::Redirected
            };
            let recently = world.fetches.iter().any(|fetch| {
                fetch.asked == poll.asked
                    && fetch.landed.is_some_and(|(landed, said)| {
                        (said == Said::Nothing(trouble) || fetch.early)
                            && now.at <= landed.at + LONGEST_COOL_DOWN
                    })
            });
            forbid(!recently, "an error that upstream never gave")
        }
        Error::UpstreamTimeout => {
            let waited = now.at >= poll.deadline || mine(Trouble::Timeout);
            forbid(!waited, "gave up too early")
        }
        // A panic is a defect and not an upstream failure, so its waiters get the error.
        Error::Panicked => return forbid(!mine(Trouble::Panic), "crashed by itself"),
        Error::UpstreamDown | Error::RateLimited(_) => {
            let trouble = world
                .last_trouble
                .is_some_and(|at| now.at <= at + LONGEST_PAUSE);
            forbid(!trouble, "not asked, though upstream is well")
        }
        _ => Err("an error that has no reason"),
    }?;
    must_fail(world, poll, now)
}

/// While upstream fails, an error is allowed only if no usable entry exists.
fn must_fail(world: &World, poll: &Poll, now: Moment) -> Judgement {
    let may_stand_in = |known: &Known| {
        let longer = known.usable_until - known.fresh_until;
        matches!(known.said, Said::Task { .. })
            && now.at < known.usable_until
            && accepted(world, poll.asked.caller, now, longer, |fetch| fetch.flight)
    };
    let own = known(world, poll.asked, now).filter(may_stand_in);
    forbid(
        own.is_some_and(|own| own.landed < now),
        "an error, though a known state was allowed to stand in",
    )?;
    let mut others = Dialect::ALL.into_iter();
    let other = Asked {
        dialect: others
            .find(|other| *other != poll.asked.dialect)
            .expect("there is another"),
        ..poll.asked
    };
    let terminal = |known: &Known| {
        matches!(
            known.said,
            Said::Task {
                state: State::Succeeded | State::Failed,
                ..
            }
        )
    };
    let other = known(world, other, now)
        .filter(may_stand_in)
        .filter(terminal);
    forbid(
        other.is_some(),
        "an error, though the task's end is known from the other path",
    )
}

/// As [`must_fail`], for upstream's own errors that pass through.
pub(crate) fn judge_passed_on(world: &mut World, poll: &Poll, answer: &Answer) {
    let status = answer.reply.status;
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        let now = world.moment();
        if let Err(problem) = must_fail(world, poll, now) {
            world.report(format_args!("{problem}: {poll:?} got {answer:?}"));
        }
    }
}
