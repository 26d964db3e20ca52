//! Asking the server without a socket.

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{self, StatusCode};
use bytes::Bytes;
use cachalot_server::{AppState, MissingReasoning, Served, ServerConfig, unrecorded_metrics};
use tower::ServiceExt;

use super::item::Request;

/// What the server said.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) request_id: String,
    pub(super) body: Bytes,
}

/// The routes of a server for this model.
pub(super) fn router(served: Served, missing_reasoning: MissingReasoning) -> Router {
    let config = ServerConfig {
        missing_reasoning,
        // There is no connection to keep alive, and without blank lines ahead of an answer its status tells how it ended.
        keep_alive_interval: Duration::MAX,
        ..ServerConfig::default()
    };
    let state = AppState::loading(config, unrecorded_metrics());
    state.publish(served);
    cachalot_server::router(state)
}

/// Asks, and asks once more if the server fails: the fault may be that of a neighbour in the same step.
///
/// # Errors
/// None that the server could help; its own are replies.
pub(super) async fn ask(router: Router, request: Request) -> anyhow::Result<Reply> {
    let reply = ask_once(router.clone(), request.clone()).await?;
    if reply.status == StatusCode::INTERNAL_SERVER_ERROR { ask_once(router, request).await } else { Ok(reply) }
}

async fn ask_once(router: Router, request: Request) -> anyhow::Result<Reply> {
    let request = http::Request::post(request.url).body(Body::from(request.body))?;
    // The error is one that there is none of.
    let response = router.oneshot(request).await?;
    let (head, body) = response.into_parts();
    let request_id =
        head.headers.get("x-request-id").context("the server gave a request no name")?.to_str()?.to_owned();
    let body = to_bytes(body, usize::MAX).await?;
    Ok(Reply { status: head.status, request_id, body })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn only_a_failure_of_the_server_is_asked_again() {
        let cases: [(&[u16], u16); 5] =
            [(&[200], 200), (&[400], 400), (&[503], 503), (&[500, 200], 200), (&[500, 500], 500)];
        for (statuses, expected) in cases {
            let num_calls = Arc::new(AtomicUsize::new(0));
            let counter = num_calls.clone();
            let router = Router::new().fallback(move |body: String| async move {
                assert_eq!(body, "{}");
                let status = statuses[counter.fetch_add(1, Ordering::Relaxed)];
                (StatusCode::from_u16(status).unwrap(), [("x-request-id", "name")], "said")
            });
            let request = Request { url: "/v1/completions", body: Bytes::from_static(b"{}") };
            let reply = ask(router, request).await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.request_id.as_str()), (expected, "name"), "{statuses:?}");
            assert_eq!(reply.body, "said", "{statuses:?}");
            assert_eq!(num_calls.load(Ordering::Relaxed), statuses.len(), "{statuses:?}");
        }
    }
}
