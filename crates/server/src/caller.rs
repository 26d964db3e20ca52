//! Who sends a request, as far as its handling depends on it, and what it is called.

use std::convert::Infallible;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use opentelemetry::Context;

use crate::auth::AcceptedKey;
use crate::request_id::Identity;
use crate::state::AppState;

/// What is known of a request beside its body.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The key that it came with; none if the server asks for none.
    pub(crate) key: Option<AcceptedKey>,
    pub(crate) request_id: String,
    pub(crate) route: String,
    /// When its head had been read.
    pub(crate) began: Instant,
    /// The client's span that it belongs to; none if there are no traces.
    pub(crate) trace_parent: Option<Context>,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let identity = parts.extensions.get::<Identity>();
        Ok(Caller {
            key: parts.extensions.get().copied(),
            request_id: identity.map(|identity| identity.request_id.clone()).unwrap_or_default(),
            route: parts.uri.path().to_owned(),
            began: identity.map_or_else(Instant::now, |identity| identity.began),
            trace_parent: state.traces().map(|traces| traces.parent(&parts.headers)),
        })
    }
}

#[cfg(test)]
impl Caller {
    /// Somebody with this key.
    pub(crate) fn with_key(key: Option<AcceptedKey>) -> Self {
        Caller { key, request_id: String::new(), route: String::new(), began: Instant::now(), trace_parent: None }
    }
}
