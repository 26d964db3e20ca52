//! `GET /anthropic/v1/models`, and `/v1/models` for Anthropic's clients.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::ApiError;
use crate::state::AppState;

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    id: &'a str,
    display_name: &'a str,
    /// What Anthropic's API says of a model whose release date it does not know.
    created_at: &'static str,
}

impl<'a> Model<'a> {
    fn new(id: &'a str) -> Self {
        Model { r#type: "model", id, display_name: id, created_at: "1970-01-01T00:00:00Z" }
    }
}

/// The models by their own names; any other name is served too, as deepseek-chat.
pub(crate) async fn list(State(state): State<AppState>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct List<'a> {
        data: [Model<'a>; 3],
        has_more: bool,
        first_id: &'a str,
        last_id: &'a str,
    }
    let names = state.served()?.model_names();
    let [first_id, _, last_id] = names;
    Ok(Json(List { data: names.map(Model::new), has_more: false, first_id, last_id }).into_response())
}

/// One of them.
pub(crate) async fn retrieve(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(Model::new(state.served()?.find_model(&id)?)).into_response())
}
