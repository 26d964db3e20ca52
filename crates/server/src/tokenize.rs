//! `POST /tokenize` and `POST /detokenize`: what the server makes of a text, a conversation or ids.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::blocking::on_blocking_thread;
use crate::body::JsonBytes;
use crate::chat_prompt;
use crate::error::ApiError;
use crate::sampling::check_token_id;
use crate::state::AppState;
use crate::wire::chat::ChatFields;

/// What `/tokenize` reads before it knows which of the two it has.
#[derive(Deserialize)]
pub(crate) struct TokenizeRequest {
    model: Option<String>,
    prompt: Option<String>,
    /// Only whether it is there; the rest of the body is then read as a chat request.
    messages: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
pub(crate) struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// Exactly the ids that `/v1/completions` (for `prompt`) or `/v1/chat/completions` (for `messages` and all that goes with them)
/// would hand to the model.
pub(crate) async fn tokenize(State(state): State<AppState>, body: JsonBytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Answer {
        tokens: Vec<u32>,
        count: usize,
        max_model_len: usize,
        prompt: String,
    }
    let served = state.served()?;
    let request: TokenizeRequest = body.parse()?;
    let prompt = served.prompt()?.clone();
    served.check_model(request.model.as_deref())?;
    let (tokens, text) = match (request.prompt, request.messages) {
        (Some(text), None) => {
            let encode = move || Ok((prompt.encode_completion(&text).map_err(chat_prompt::prompt_error)?, text));
            on_blocking_thread(encode).await?
        }
        (None, Some(_)) => {
            let fields: ChatFields = body.parse()?;
            // A conversation may break off anywhere here: nobody has to go on from it.
            let chat = chat_prompt::validate(fields, request.model.as_deref())?.settle(&prompt)?;
            let rendered = on_blocking_thread(move || chat.render(&prompt)).await?;
            (rendered.ids, rendered.text)
        }
        _ => return Err(ApiError::invalid("Send either `prompt` (a string) or `messages` (a conversation)")),
    };
    let max_model_len = served.engine.limits().max_model_len;
    Ok(Json(Answer { count: tokens.len(), tokens, max_model_len, prompt: text }).into_response())
}

/// The text of token ids, control tokens included.
pub(crate) async fn detokenize(State(state): State<AppState>, body: JsonBytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Answer {
        prompt: String,
    }
    let served = state.served()?;
    let request: DetokenizeRequest = body.parse()?;
    let prompt = served.prompt()?;
    for (i, &id) in request.tokens.iter().enumerate() {
        check_token_id("tokens", || format!("tokens[{i}]"), id, served.engine.limits())?;
    }
    Ok(Json(Answer { prompt: prompt.tokenizer().decode(&request.tokens) }).into_response())
}
