//! Answers that are sent as a whole.
//!
//! Clients and proxies give up on a connection that stays silent. While an answer is computed, blank lines go ahead of it, which
//! readers of JSON skip. The first of them fixes the status, so all that can be refused has been refused by then; what fails
//! later is an error body under status 200, as the hosted API does it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::state::AppState;

/// Answers with the JSON that `answer` computes, in OpenAI's API.
///
/// # Errors
/// Those of `answer`, if it fails before the first blank line.
pub(crate) async fn respond(
    state: &AppState,
    answer: impl Future<Output = Result<Vec<u8>, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    respond_in(Dialect::OpenAi, state, answer).await
}

/// [`respond`] in any API.
pub(crate) async fn respond_in(
    dialect: Dialect,
    state: &AppState,
    answer: impl Future<Output = Result<Vec<u8>, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let mut answer: Pin<Box<Pending>> = Box::pin(answer);
    let keep_alive_interval = state.config().keep_alive_interval;
    let body = match tokio::time::timeout(keep_alive_interval, answer.as_mut()).await {
        Ok(body) => Body::from(body?),
        Err(_) => Body::from_stream(Waiting { answer: Some(answer), dialect, blanks: blanks(keep_alive_interval) }),
    };
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

type Pending = dyn Future<Output = Result<Vec<u8>, ApiError>> + Send;

struct Waiting {
    /// `None` once it has been sent. Dropping it, as hyper does when the client is gone, cancels the request.
    answer: Option<Pin<Box<Pending>>>,
    /// Of an error that comes late.
    dialect: Dialect,
    blanks: Interval,
}

/// The first is due at once.
fn blanks(period: Duration) -> Interval {
    let mut blanks = interval(period);
    blanks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    blanks
}

impl Stream for Waiting {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(answer) = &mut this.answer else { return Poll::Ready(None) };
        if let Poll::Ready(result) = answer.as_mut().poll(context) {
            this.answer = None;
            let body = result.unwrap_or_else(|error| {
                let mut body = Vec::new();
                this.dialect.write_error(&error, &mut body);
                body
            });
            return Poll::Ready(Some(Ok(Bytes::from(body))));
        }
        this.blanks.poll_tick(context).map(|_| Some(Ok(Bytes::from_static(b"\n"))))
    }
}
