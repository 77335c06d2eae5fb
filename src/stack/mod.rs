//! The tower stack, assembled in one place. Layers are listed in the order in which a request passes them.

mod breaker;
mod coalesce;
mod dispatch;
mod fetch;
mod fleet;
mod forward;
mod hold;
mod observe;
mod recall;
mod remember;
mod rescue;
mod retry;
mod shared;
mod shed;
mod state;
mod status;

use std::sync::Arc;

use http::Response;
use tower::{Service, ServiceBuilder};

use crate::answer::reply::Reply;
use crate::config::Config;
use crate::error::Error;
use crate::message::body::Body;
use crate::request::query::TaskFetch;
use crate::route::Routes;
use crate::task::ErrorForm;

use self::breaker::Breaker;
use self::coalesce::Coalesce;
use self::dispatch::Dispatch;
use self::fetch::Fetch;
use self::fleet::Fleet;
use self::forward::Forward;
use self::hold::Hold;
use self::observe::Observe;
use self::recall::Recall;
use self::remember::Remember;
use self::rescue::Rescue;
use self::retry::Retry;
use self::shed::Shed;
use self::status::Status;

pub use self::state::{LeasedQuery, Limits, Miss, PollFlights, PollState, Resources};

/// The whole stack: an [`Inbound`](crate::request::inbound::Inbound) request in, an `http::Response` out, never an
/// error. Cheap to clone; each connection has its own, so that hits on different cores share no reference count.
pub type Stack = Observe<Rescue<Shed<Dispatch<Status<TaskPipeline<Fetch>>, Forward>>>>;

/// The inner half, which answers status polls: plain values in and out. `F` sends polls upstream.
pub type TaskPipeline<F> = Hold<Recall<Coalesce<Fleet<Remember<Retry<Breaker<F>>>>>>>;

/// Assembles the stack.
#[must_use]
pub fn assemble(resources: &Resources, config: &Config, routes: &Arc<Routes>) -> Stack {
    let fetch = Fetch::new(resources, config);
    let status = Status::new(
        task_pipeline(&resources.polls, config, fetch),
        resources,
        config,
    );
    let forward = Forward::new(resources, config);

    ServiceBuilder::new()
        // Outermost: everything below is counted and logged.
        .layer_fn(|inner| Observe::new(inner, resources, config, routes))
        // Errors become responses here, so that nothing above can fail.
        .layer_fn(|inner| Rescue::new(inner, resources))
        // A request beyond the limits is refused at once instead of queued.
        .layer_fn(|inner| Shed::new(inner, resources))
        .service(Dispatch::new(status, forward, config))
}

/// The answer to a client whose request is not read, in the form that the stack would give it.
#[must_use]
pub fn refuse(error: &Error) -> Response<Body> {
    let mut response = rescue::respond(error, ErrorForm::OpenAi);
    observe::sign(response.headers_mut(), None);
    response
}

/// Assembles the inner half, on top of `fetch`.
#[must_use]
pub fn task_pipeline<F>(state: &PollState, config: &Config, fetch: F) -> TaskPipeline<F>
where
    F: Service<TaskFetch, Response = Reply, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let cache = Arc::new(config.cache.clone());
    ServiceBuilder::new()
        // Above the cache: a held poll asks again like any other client.
        .layer_fn(|inner| Hold::new(inner, state, config))
        // Above Coalesce: a hit never touches the flight table, and every waiter of a failed flight can fall back.
        .layer_fn(|inner| Recall::new(inner, state, config))
        // Below this, there is one poll for all waiters.
        .layer_fn(|inner| Coalesce::new(inner, state, config))
        // Inside the flight: one process asks the fleet once, and never for a hit.
        .layer_fn(|inner| Fleet::new(inner, state, &cache, config))
        // Inside the flight: an answer is stored once, before the flight leaves the table.
        .layer_fn(|inner| Remember::new(inner, state, &cache, config))
        // Below Remember, which sees only the final result, and above Fetch, so that no permit is held between attempts.
        .layer_fn(|inner| Retry::new(inner, state))
        // Below Retry, so that every attempt is admitted and recorded.
        .layer_fn(|inner| Breaker::new(inner, state))
        .service(fetch)
}
