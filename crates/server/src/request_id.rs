//! A name for each request, in its answer and in the log, so that one can be found by the other.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

/// Where OpenAI's clients look for it, and where clients and proxies may set it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Anthropic's clients look for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Where the hosted API puts it. Never the client's own: what a client sends twice would be found twice.
pub(crate) const X_DS_TRACE_ID: HeaderName = HeaderName::from_static("x-ds-trace-id");

/// The longest id that is taken from a client.
const MAX_CLIENT_ID_LEN: usize = 128;

/// What a request is called and when it came; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) request_id: String,
    pub(crate) began: Instant,
}

/// Names the request, answers with the name, and writes one line about it when its answer begins.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let trace_id = uuid::Uuid::new_v4().simple().to_string();
    let request_id = sent_id(request.headers()).unwrap_or(&trace_id).to_owned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = request_id);
    let began = Instant::now();
    request.extensions_mut().insert(Identity { request_id: request_id.clone(), began });
    let mut response = next.run(request).instrument(span).await;
    let seconds = began.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    tracing::info!(request_id, trace_id, %method, path, status, seconds, "answered");
    let headers = response.headers_mut();
    for (name, id) in [(X_REQUEST_ID, &request_id), (REQUEST_ID, &request_id), (X_DS_TRACE_ID, &trace_id)] {
        headers.insert(name, HeaderValue::try_from(id).expect("ids are letters, digits and a few signs"));
    }
    response
}

/// The client's own name for its request, if it is one that headers and log lines take as it is.
fn sent_id(headers: &HeaderMap) -> Option<&str> {
    let is_sane = |id: &&str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
        (1..=MAX_CLIENT_ID_LEN).contains(&id.len()) && id.bytes().all(is_allowed)
    };
    headers.get(X_REQUEST_ID)?.to_str().ok().filter(is_sane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_taken_and_others_are_not() {
        let longest = "x".repeat(MAX_CLIENT_ID_LEN);
        let too_long = "x".repeat(MAX_CLIENT_ID_LEN + 1);
        let cases = [
            ("a1B2-_.:/+=", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            ("two words", false),
            ("\"quoted\"", false),
            ("a\tb", false),
        ];
        for (id, is_sane) in cases {
            let headers = HeaderMap::from_iter([(X_REQUEST_ID, id.parse().unwrap())]);
            assert_eq!(sent_id(&headers), is_sane.then_some(id), "{id:?}");
        }
        let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(b"\xff").unwrap())]);
        assert_eq!(sent_id(&headers), None);
        assert_eq!(sent_id(&HeaderMap::new()), None);
    }
}
