//! `POST /anthropic/v1/messages`, and `/count_tokens` under it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cachalot_prompt::{Defect, Delta};
use serde::Serialize;
use serde_json::{Map, Value};

use super::convert::{Context, Converted, convert};
use super::stream::Events;
use crate::blocking::on_blocking_thread;
use crate::body::JsonBytes;
use crate::caller::Caller;
use crate::chat_prompt;
use crate::chat_request::{self, Started};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::generation::{End, EndReason, Generation, Output};
use crate::sampling::Streaming;
use crate::sse::{self, write_json};
use crate::state::{AppState, Served};
use crate::whole;
use crate::wire::anthropic::{Ending, MessagesFields, Reply, ReplyBlock};
use crate::wire::chat::MalformedToolCall;
use crate::wire::usage::Usage;

pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    body: JsonBytes,
) -> Result<Response, ApiError> {
    let served = state.served()?;
    let fields: MessagesFields = body.parse()?;
    if fields.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens: Field required"));
    }
    let requested_model = fields.model.clone();
    let Converted { chat, common, is_prefilled } = convert(fields, &context(&state, served)?)?;
    let Started { generation, answer, thinking, streaming, .. } =
        chat_request::start(&state, &caller, chat, &common).await?;
    let head = MessageHead {
        id: format!("msg_{}", uuid::Uuid::new_v4().simple()),
        model: requested_model.unwrap_or(answer.model),
        // What is continued may be past its reasoning.
        begins_with_thinking: thinking && !is_prefilled,
    };
    match streaming {
        Streaming::Off => whole::respond_in(Dialect::Anthropic, &state, collect(generation, head)).await,
        Streaming::On { .. } => {
            let events = Events::new(head, generation.usage());
            sse::respond(&state, generation, events).await
        }
    }
}

/// How many tokens the prompt would have.
pub(crate) async fn count_tokens(State(state): State<AppState>, body: JsonBytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Count {
        input_tokens: usize,
    }
    let served = state.served()?;
    let prompt = served.prompt()?.clone();
    let Converted { chat, common, .. } = convert(body.parse()?, &context(&state, served)?)?;
    let chat = chat_prompt::validate(chat, common.model.as_deref())?.settle(&prompt)?;
    let rendered = on_blocking_thread(move || chat.render(&prompt)).await?;
    Ok(Json(Count { input_tokens: rendered.ids.len() }).into_response())
}

fn context<'a>(state: &AppState, served: &'a Served) -> Result<Context<'a>, ApiError> {
    Ok(Context {
        model_names: served.model_names(),
        release: served.prompt()?.release(),
        missing_reasoning: state.config().missing_reasoning,
    })
}

/// What a message says of itself before it has any content.
pub(super) struct MessageHead {
    /// Also the signature of its reasoning. Clients drop reasoning that is not signed; what they send back is not checked.
    pub(super) id: String,
    pub(super) model: String,
    /// There is a block of reasoning even if there is none in it, so that clients have something to send back.
    pub(super) begins_with_thinking: bool,
}

impl MessageHead {
    pub(super) fn reply<'a>(&'a self, content: Vec<ReplyBlock<'a>>, usage: &Usage) -> Reply<'a> {
        Reply {
            id: &self.id,
            kind: "message",
            role: "assistant",
            model: &self.model,
            content,
            ending: Ending::default(),
            usage: usage.into(),
            error: None,
        }
    }
}

/// A call's id, in the form of Anthropic's.
fn tool_use_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("toolu_{}", &random[..24])
}

impl<'a> Ending<'a> {
    pub(super) fn new(reason: &'a EndReason) -> Self {
        let (stop_reason, stop_sequence) = match reason {
            EndReason::Stop => ("end_turn", None),
            EndReason::StopString(stop) => ("stop_sequence", Some(stop.as_str())),
            EndReason::Length => ("max_tokens", None),
            EndReason::ToolCalls => ("tool_use", None),
        };
        Ending { stop_reason: Some(stop_reason), stop_sequence }
    }
}

/// A whole message in the making.
pub(super) struct MessageBuilder {
    head: MessageHead,
    parts: Vec<Part>,
    end: Option<(EndReason, Option<Defect>)>,
}

enum Part {
    Thinking(String),
    Text(String),
    ToolUse(Call),
}

/// A call in the making.
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

impl Call {
    pub(super) fn begin(name: String) -> Self {
        Call { id: tool_use_id(), name, arguments: String::new() }
    }

    /// The arguments, which are no JSON object if the reply broke off within them, or if a release that writes JSON wrote none.
    pub(super) fn input(&self) -> Result<Map<String, Value>, MalformedToolCall> {
        if self.arguments.is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(&self.arguments).map_err(|error| {
            let message = format!("The input of the call of `{}` is no JSON object: {error}", self.name);
            MalformedToolCall::from(Defect { message, text: self.arguments.clone() })
        })
    }
}

async fn collect(mut generation: Generation, head: MessageHead) -> Result<Vec<u8>, ApiError> {
    let mut builder = MessageBuilder::new(head);
    while let Some(next) = generation.next().await {
        let (_, output) = next?;
        builder.push(output);
    }
    Ok(builder.finish(&generation.usage()))
}

impl MessageBuilder {
    pub(super) fn new(head: MessageHead) -> Self {
        let parts = head.begins_with_thinking.then(|| Part::Thinking(String::new()));
        MessageBuilder { head, parts: parts.into_iter().collect(), end: None }
    }

    pub(super) fn push(&mut self, output: Output) {
        let deltas = match output {
            Output::Prompt(_) => return,
            Output::Token(token) => token.deltas,
            Output::End(End { tail, reason, defect }) => {
                self.end = Some((reason, defect));
                tail
            }
        };
        for delta in deltas {
            match (delta, self.parts.last_mut()) {
                (Delta::Reasoning(text), Some(Part::Thinking(thinking))) => thinking.push_str(&text),
                (Delta::Reasoning(text), _) => self.parts.push(Part::Thinking(text)),
                (Delta::Content(text), Some(Part::Text(content))) => content.push_str(&text),
                (Delta::Content(text), _) => self.parts.push(Part::Text(text)),
                (Delta::CallBegin { name }, _) => self.parts.push(Part::ToolUse(Call::begin(name))),
                (Delta::CallArguments(text), Some(Part::ToolUse(call))) => call.arguments.push_str(&text),
                (Delta::CallArguments(_), _) => unreachable!("arguments come after the beginning of their call"),
            }
        }
    }

    /// The message as JSON.
    pub(super) fn finish(self, usage: &Usage) -> Vec<u8> {
        let (reason, defect) = self.end.expect("a generation ends with its end");
        let mut error = defect.map(MalformedToolCall::from);
        let mut content = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            content.push(match part {
                Part::Thinking(thinking) => ReplyBlock::Thinking { thinking, signature: &self.head.id },
                Part::Text(text) => ReplyBlock::Text { text },
                Part::ToolUse(call) => match call.input() {
                    Ok(input) => ReplyBlock::ToolUse { id: &call.id, name: &call.name, input },
                    // Half a call is none, but what there is of it is not lost.
                    Err(incomplete) => {
                        error.get_or_insert(incomplete);
                        continue;
                    }
                },
            });
        }
        let has_calls = content.iter().any(|block| matches!(block, ReplyBlock::ToolUse { .. }));
        // Nobody is to wait for calls that are left out.
        let reason = if reason == EndReason::ToolCalls && !has_calls { EndReason::Stop } else { reason };
        let mut body = Vec::new();
        write_json(&mut body, &Reply { ending: Ending::new(&reason), error, ..self.head.reply(content, usage) });
        body
    }
}
