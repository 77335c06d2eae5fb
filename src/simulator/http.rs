//! Handles a request: gate, latency, faults, then the route's answer.

use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::time::Instant;

use super::channel::ResultUrl;
use super::content::{content_bytes, video};
use super::documents::{self, View};
use super::life::Status;
use super::links::is_signed;
use super::path::Route;
use super::reply::{Broken, Outgoing, Reply};
use super::rule::{Fault, Rule};
use super::socket::ResetSwitch;
use super::status_route::StatusRoute;
use super::{Simulator, control, create, sinks};
use crate::sync::lock;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-oneapi-request-id");
const VERSION: HeaderName = HeaderName::from_static("x-new-api-version");
const VERSION_VALUE: HeaderValue = HeaderValue::from_static("v1.0.0-simulated");
/// `cache-control` of new-api's web pages and unknown paths.
const A_WEEK: HeaderValue = HeaderValue::from_static("max-age=604800");
/// Size of a Midjourney image, in bytes.
const IMAGE_SIZE: u64 = 4096;
const INDEX: &str = "<!doctype html>\n<html lang=\"en\"><head><title>OctopusX (simulated)</title></head>\
                     <body><div id=\"root\">Simulated OctopusX. See /simulator.</div></body></html>\n";

impl Simulator {
    /// Answers a request, or breaks the connection.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        switch: &ResetSwitch,
    ) -> Result<Response<Outgoing>, Broken> {
        let (head, body) = request.into_parts();
        let slow = self.0.settings.slow_body;
        let query = head.uri.query().unwrap_or_default();
        let route = Route::of(&head.method, head.uri.path(), query);
        if let Route::Control(path) = &route {
            let reply = control::answer(self, &head.method, path, body).await;
            return Ok(reply.into_response(None, None, slow));
        }
        let mut visit = self.0.counter.arrive(route.kind());
        if let Route::Status(status, id) = &route {
            self.count_poll(*status, id);
            self.0.gate.pass().await;
            let latency = self.0.settings.latency.pick(self.0.dice.unit());
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
        }
        let request_id = self.request_id(&head);
        let status = route.status();
        let struck = self.0.faults.strike(status);
        if let Some(rule) = struck {
            self.0.counter.struck(rule.fault);
        }
        let fault = struck.map(|rule| rule.fault);
        // Over HTTP/2 only the stream is reset, since other requests share the connection.
        let own_connection = head.version < Version::HTTP_2;
        if own_connection && matches!(fault, Some(Fault::Reset | Fault::ResetMidBody)) {
            switch.throw();
        }
        let cors = head.headers.contains_key(ORIGIN);
        let replacement = struck.and_then(|rule| self.replacement(rule, status));
        let reply = match (fault, replacement) {
            (Some(Fault::Reset), _) => return Err(Broken),
            (Some(Fault::Stall), _) => std::future::pending().await,
            (_, Some(reply)) => reply,
            (_, None) => {
                let request_id = error_id(&head, request_id.as_ref());
                self.route(route, head, body, &request_id).await
            }
        };
        visit.answered(reply.status.as_u16());
        let mut reply = reply.header(VERSION, VERSION_VALUE);
        if let Some(id) = request_id {
            reply = reply.text_header(REQUEST_ID, &id);
        }
        if cors {
            reply = reply.header(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        Ok(reply.into_response(Some(visit), fault, slow))
    }

    async fn route(&self, route: Route, head: Parts, body: Incoming, request_id: &str) -> Reply {
        match &route {
            Route::File(id) => return self.file(id, &head),
            Route::Image(id) => {
                let bytes = content_bytes(id, 0..IMAGE_SIZE);
                return Reply::full(StatusCode::OK, "image/png", bytes);
            }
            Route::Page | Route::Control(_) => {
                return Reply::html(StatusCode::OK, INDEX).header(CACHE_CONTROL, A_WEEK);
            }
            Route::UnknownApi => {
                return Reply::invalid_url(head.method.as_str(), head.uri.path())
                    .header(CACHE_CONTROL, A_WEEK);
            }
            _ => {}
        }
        let Some(owner) = lock(&self.0.keys).admit(&head.headers) else {
            return Reply::unauthorised(request_id);
        };
        match route {
            Route::Status(status, id) => self.status(status, &owner, &id),
            Route::Create(status) => self.create_from(status, &owner, None, &head, body).await,
            Route::Remix(id) => {
                self.create_from(StatusRoute::Openai, &owner, Some(id), &head, body)
                    .await
            }
            Route::Content(id) => self.content(&owner, &id, &head),
            Route::Upload => sinks::upload(&self.0.counter, body).await,
            _ => sinks::chat(self.0.settings.chat_gap, body).await,
        }
    }

    /// The answer that a fault sends instead of the right one; none if it only damages the right one.
    fn replacement(&self, rule: Rule, status: Option<StatusRoute>) -> Option<Reply> {
        let page = |status: StatusCode| {
            let title = status.to_string();
            let page = format!(
                "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
                 <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
            );
            Reply::html(status, page)
        };
        let reply = match rule.fault {
            Fault::RateLimited => {
                let seconds = rule.retry_after.unwrap_or(self.0.settings.retry_after);
                documents::rate_limited(status).text_header(RETRY_AFTER, &seconds.to_string())
            }
            Fault::RateLimitedEmpty => Reply::empty(StatusCode::TOO_MANY_REQUESTS),
            Fault::ServerError => Reply::task_error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "get_task_failed",
                "invalid connection",
            ),
            Fault::BadGateway => page(StatusCode::BAD_GATEWAY),
            Fault::Unavailable => page(StatusCode::SERVICE_UNAVAILABLE),
            Fault::GatewayTimeout => page(StatusCode::GATEWAY_TIMEOUT),
            Fault::Html => Reply::html(StatusCode::OK, INDEX),
            Fault::Empty => Reply::document(bytes::Bytes::new()),
            Fault::NoData => Reply::document(bytes::Bytes::from_static(
                br#"{"code":"success","data":null}"#,
            )),
            Fault::TaskNotExist => documents::missing(status.unwrap_or(StatusRoute::Unified)),
            Fault::Truncated
            | Fault::Reset
            | Fault::ResetMidBody
            | Fault::Stall
            | Fault::StallMidBody
            | Fault::SlowBody => return None,
        };
        Some(reply)
    }

    fn status(&self, route: StatusRoute, owner: &str, id: &str) -> Reply {
        let now = Instant::now();
        let links = self.links();
        let tasks = lock(&self.0.tasks);
        match tasks.of(owner, id) {
            Some(task) => {
                let view = View::new(task, now, self.0.clock, &links);
                Reply::document(documents::status(route, &view))
            }
            None => documents::missing(route),
        }
    }

    /// Creates a task, or a remix of one.
    async fn create_from(
        &self,
        route: StatusRoute,
        owner: &str,
        original: Option<String>,
        head: &Parts,
        body: Incoming,
    ) -> Reply {
        let mut request = match create::read(&head.headers, body).await {
            Ok(request) => request,
            Err(error) => return error.reply(),
        };
        if let Some(original) = original {
            let tasks = lock(&self.0.tasks);
            let Some(task) = tasks.of(owner, &original) else {
                return documents::missing(route);
            };
            request.model.clone_from(&task.model);
            request.options.channel.get_or_insert(task.channel);
            request.options.remixed_from = Some(original);
        }
        if request.model.is_empty() {
            route.default_model().clone_into(&mut request.model);
        }
        let id = request.options.id.take();
        request.options.id = id.or_else(|| self.native_id(route, &request.model));
        let id = match self.create(owner, &request.model, request.options) {
            Ok(id) => id,
            Err(taken) => {
                let message = taken.to_string();
                return Reply::task_error(StatusCode::BAD_REQUEST, "invalid_request", &message);
            }
        };
        let now = Instant::now();
        let links = self.links();
        let tasks = lock(&self.0.tasks);
        match tasks.find(&id) {
            Some(task) => {
                let view = View::new(task, now, self.0.clock, &links);
                Reply::document(documents::created(route, &view))
            }
            None => documents::missing(route),
        }
    }

    /// Generates an id in the format of the route, unless it is new-api's own format.
    fn native_id(&self, route: StatusRoute, model: &str) -> Option<String> {
        let (clock, dice) = (self.0.clock, &self.0.dice);
        let now = Instant::now();
        match route {
            // Sixteen digits: microseconds, spread over a second, since many tasks may be created at a time.
            StatusRoute::Mj => {
                let spread = u128::from(dice.number() % 1_000_000);
                let micros = clock.unix_nanos(now) / 1000 + spread;
                let tasks = lock(&self.0.tasks);
                (micros..micros + 1_000_000)
                    .map(|id| id.to_string())
                    .find(|id| tasks.find(id).is_none())
            }
            StatusRoute::Octopus => Some(format!("{model}:{}-{}", clock.unix(now), dice.text(10))),
            _ => None,
        }
    }

    fn content(&self, owner: &str, id: &str, head: &Parts) -> Reply {
        let now = Instant::now();
        let links = self.links();
        let expires = {
            let tasks = lock(&self.0.tasks);
            let Some(task) = tasks.of(owner, id) else {
                return Reply::content_error(StatusCode::NOT_FOUND, "Task not found");
            };
            let status = task.life.at(now).status;
            if status != Status::Success {
                let status = status.name();
                let message = format!("Task is not completed yet, current status: {status}");
                return Reply::content_error(StatusCode::BAD_REQUEST, &message);
            }
            // The platform fetches the stored URL, which expires.
            let signed = task.channel.result_url() == ResultUrl::Signed;
            signed.then(|| View::new(task, now, self.0.clock, &links).expires)
        };
        if expires.is_some_and(|expires| expires > 0 && self.0.clock.unix(now) >= expires) {
            return Reply::content_error(StatusCode::BAD_GATEWAY, "Failed to fetch video content");
        }
        video(&head.method, &head.headers, id, self.0.settings.video_size)
    }

    /// Serves a signed URL, which needs no key.
    fn file(&self, id: &str, head: &Parts) -> Reply {
        let query = head.uri.query().unwrap_or_default();
        if is_signed(id, query, self.0.clock.unix(Instant::now())) {
            return video(&head.method, &head.headers, id, self.0.settings.video_size);
        }
        let denied = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
                      <Message>Request has expired or its signature does not match</Message></Error>\n";
        Reply::full(StatusCode::FORBIDDEN, "application/xml", denied.into())
    }

    fn count_poll(&self, route: StatusRoute, id: &str) {
        if let Some(task) = lock(&self.0.tasks).find_mut(id) {
            match route {
                StatusRoute::Unified => task.polls.unified += 1,
                StatusRoute::Openai => task.polls.openai += 1,
                _ => task.polls.native += 1,
            }
        }
    }

    /// Generates an id for a request without one.
    fn request_id(&self, head: &Parts) -> Option<String> {
        let stamp = || self.0.clock.stamp(Instant::now()).replace(['T', 'Z'], "");
        let fresh = || format!("{}{}", stamp(), self.0.dice.text(8));
        (!head.headers.contains_key(&REQUEST_ID)).then(fresh)
    }
}

/// The request id in error messages: the generated one, or else the received one.
fn error_id(head: &Parts, generated: Option<&String>) -> String {
    let received = || {
        let value = head.headers.get(&REQUEST_ID);
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    generated.cloned().or_else(received).unwrap_or_default()
}
