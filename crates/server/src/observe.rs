//! `/health` and `/metrics`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;

use crate::state::{AppState, ENGINE_FAILED, ENGINE_STUCK};

/// Upper bounds of the latency histograms, in seconds: from one step of a small model to a long prompt on a CPU.
const SECONDS_BUCKETS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Upper bounds of the times that token masks take, in seconds: tens of microseconds as a rule, and beside the forward pass.
const MASK_SECONDS_BUCKETS: [f64; 12] =
    [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25];

/// Installs the recorder that every `metrics` call of the process goes to. To be called once, before the engine starts.
///
/// # Errors
/// If the process has a recorder already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("cachalot_grammar_mask_seconds".to_owned()), &MASK_SECONDS_BUCKETS)?
        .install_recorder()?;
    metrics::describe_counter!("cachalot_http_responses_total", "Answers of the server by HTTP status.");
    Ok(handle)
}

/// A handle for a router whose metrics nobody reads, as when it answers without a socket. Nothing is recorded, so that nothing
/// piles up.
pub fn unrecorded_metrics() -> PrometheusHandle {
    PrometheusBuilder::new().build_recorder().handle()
}

/// 200 when requests are taken; 503 with the reason before, after, and if the engine has failed or is stuck. The answer to
/// those who read no more than an error is one.
pub(crate) async fn health(State(state): State<AppState>) -> Response {
    #[derive(Serialize)]
    struct Health<'a, E: Serialize> {
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        error: Option<&'a E>,
    }
    let Err(error) = state.served() else {
        let reason = state.degradation();
        let status = if reason.is_some() { "degraded" } else { "ready" };
        return Json(Health { status, reason, error: None::<&()> }).into_response();
    };
    let status = match error.code() {
        ENGINE_STUCK => "stuck",
        ENGINE_FAILED => "stopped",
        loading_or_stopping => loading_or_stopping,
    };
    let body = Json(Health { status, reason: Some(error.to_string()), error: Some(&error.body()) }).into_response();
    let (parts, _) = error.clone().into_response().into_parts();
    let mut response = Response::from_parts(parts, body.into_body());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics().render()).into_response()
}

/// Counts answers by status.
pub(crate) async fn count_responses(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    count(response.status());
    response
}

fn count(status: StatusCode) {
    metrics::counter!("cachalot_http_responses_total", "status" => status.as_str().to_owned()).increment(1);
}
