//! `POST /v1/responses`: OpenAI's Responses API, as far as a server can speak it that remembers nothing.
//!
//! A request carries its whole conversation. It becomes a chat request, is checked and started as one, and what comes out is
//! written as items: reasoning, messages, function calls. Left out: everything that refers to something stored
//! (`previous_response_id`, `conversation`, `background`), and tools that a server would run itself.

mod events;
mod output;
pub(crate) mod request;
#[cfg(test)]
mod tests;

use axum::extract::State;
use axum::response::Response;

use crate::body::JsonBytes;
use crate::caller::Caller;
use crate::chat_request::{self, Started};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::sampling::Streaming;
use crate::sse::{self, write_json};
use crate::state::AppState;
use crate::whole;
use crate::wire::common::CommonFields;

use events::Events;
use output::{Echo, Reply};
use request::ResponsesFields;

pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    body: JsonBytes,
) -> Result<Response, ApiError> {
    let fields: ResponsesFields = body.parse()?;
    let common: CommonFields = body.parse()?;
    let echo: Echo = body.parse()?;
    // This API has one answer to a request.
    let common = CommonFields { n: None, ..common };
    let encrypts_reasoning = fields.includes("reasoning.encrypted_content");
    let started = chat_request::start(&state, &caller, fields.into_chat()?, &common).await?;
    let Started { generation, answer, names, streaming, .. } = started;
    let reply = Reply::new(answer, echo, names, encrypts_reasoning);
    match streaming {
        Streaming::Off => whole::respond(&state, collect(generation, reply)).await,
        Streaming::On { .. } => sse::respond(&state, generation, Events::new(reply)).await,
    }
}

async fn collect(mut generation: Generation, mut reply: Reply) -> Result<Vec<u8>, ApiError> {
    while let Some(next) = generation.next().await {
        let (_, output) = next?;
        reply.push(output, &mut |_| {});
    }
    reply.finish(generation.usage());
    let mut body = Vec::new();
    write_json(&mut body, &reply.response());
    Ok(body)
}
