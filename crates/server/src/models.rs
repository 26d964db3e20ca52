//! `GET /v1/models`, and each of them.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::anthropic;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::state::{AppState, Served};

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
}

/// The names that `model` may have.
pub(crate) async fn list(headers: HeaderMap, State(state): State<AppState>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    if Dialect::of_headers(&headers) == Dialect::Anthropic {
        return anthropic::models::list(State(state)).await;
    }
    let served = state.served()?;
    let data = served.model_names().into_iter().map(|id| model(&state, served, id)).collect();
    Ok(Json(List { object: "list", data }).into_response())
}

/// One of them.
pub(crate) async fn get(
    headers: HeaderMap,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    if Dialect::of_headers(&headers) == Dialect::Anthropic {
        return anthropic::models::get(State(state), Path(id)).await;
    }
    let served = state.served()?;
    Ok(Json(model(&state, served, served.find_model(&id)?)).into_response())
}

fn model<'a>(state: &AppState, served: &Served, id: &'a str) -> Model<'a> {
    let max_model_len = served.engine.limits().max_model_len;
    Model { id, object: "model", created: state.started(), owned_by: "cachalot", max_model_len }
}

/// Seconds since 1970, for the `created` fields.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}
