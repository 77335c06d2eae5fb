//! Chooses the dialect in which upstream is asked. Above everything that is remembered or shared, so that where one
//! dialect is always asked, clients of both paths share what is known. The way back needs nothing here: a reply can
//! be rendered for either path ([`Reply::rendition`](crate::answer::reply::Reply::rendition)).

use std::task::{Context, Poll};

use tower::Service;

use crate::answer::Answer;
use crate::config::UpstreamDialect;
use crate::error::Error;
use crate::request::query::TaskQuery;
use crate::task::Dialect;

/// See the module.
#[derive(Debug, Clone)]
pub struct Translate<S> {
    inner: S,
    dialect: UpstreamDialect,
}

impl<S> Translate<S> {
    pub(super) fn new(inner: S, dialect: UpstreamDialect) -> Self {
        Self { inner, dialect }
    }
}

impl<S> Service<TaskQuery> for Translate<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error>,
{
    type Response = Answer;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut query: TaskQuery) -> Self::Future {
        query.key.dialect = match self.dialect {
            UpstreamDialect::Match => query.key.dialect,
            UpstreamDialect::Unified => Dialect::Unified,
            UpstreamDialect::OpenAi => Dialect::OpenAi,
        };
        self.inner.call(query)
    }
}
