//! `GET /v1/models`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;

use crate::error::ApiError;
use crate::state::AppState;

/// The names that `model` may have.
pub(crate) async fn list(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    #[derive(Serialize)]
    struct Model<'a> {
        id: &'a str,
        object: &'static str,
        created: u64,
        owned_by: &'static str,
        max_model_len: usize,
    }
    let served = state.served()?;
    let max_model_len = served.engine.limits().max_model_len;
    let created = state.started();
    let data = served
        .model_names()
        .into_iter()
        .map(|id| Model { id, object: "model", created, owned_by: "cachalot", max_model_len })
        .collect();
    Ok(Json(List { object: "list", data }).into_response())
}

/// Seconds since 1970, for the `created` fields.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}
