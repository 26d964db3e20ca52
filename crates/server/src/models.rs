//! `GET /models` and `GET /models/{model}`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::anthropic;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::state::AppState;

/// A name that `model` may have.
///
/// The hosted API leaves out `created`. It is here because OpenAI's API promises it, and typed clients do without an optional
/// member more easily than without a required one.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
}

impl<'a> Model<'a> {
    fn new(id: &'a str, state: &AppState, max_model_len: usize) -> Self {
        Model { id, object: "model", created: state.started(), owned_by: "deepseek", max_model_len }
    }
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
    let max_model_len = served.engine.limits().max_model_len;
    let data = served.model_names().into_iter().map(|id| Model::new(id, &state, max_model_len)).collect();
    Ok(Json(List { object: "list", data }).into_response())
}

/// One of the names.
pub(crate) async fn retrieve(
    headers: HeaderMap,
    State(state): State<AppState>,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    if Dialect::of_headers(&headers) == Dialect::Anthropic {
        return anthropic::models::retrieve(State(state), Path(model)).await;
    }
    let served = state.served()?;
    let id = served.find_model(&model)?;
    Ok(Json(Model::new(id, &state, served.engine.limits().max_model_len)).into_response())
}

/// Seconds since 1970, for the `created` fields.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}
