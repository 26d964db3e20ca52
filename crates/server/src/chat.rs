//! `POST /v1/chat/completions`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cachalot_engine::{PositionLogprobs, SamplingParams};
use cachalot_prompt::Rendered;

use crate::answer::Answer;
use crate::blocking::on_blocking_thread;
use crate::body::JsonBytes;
use crate::chat_prompt;
use crate::decoder::{Channel, Decoder};
use crate::error::ApiError;
use crate::generation::{Generation, Output, Plan, TokenOutput};
use crate::sampling::{self, MAX_LOGPROBS, Streaming};
use crate::sse::{self, ChunkWriter, WriteChunks, write_json};
use crate::state::AppState;
use crate::token_names::TokenNames;
use crate::wire::chat::{
    AssistantMessage, ChatChoice, ChatCompletion, ChatFields, ChatLogprobs, ResponseFormatKind, ToolChoice,
};
use crate::wire::common::CommonFields;
use crate::wire::logprobs::{LOGPROB_FLOOR, TokenLogprob, TopLogprob};
use crate::wire::usage::Usage;

pub(crate) async fn complete(State(state): State<AppState>, body: JsonBytes) -> Result<Response, ApiError> {
    let served = state.served()?;
    let fields: ChatFields = body.parse()?;
    let common: CommonFields = body.parse()?;
    let prompt = served.prompt()?.clone();
    let answer = Answer::new(served.check_model(common.model.as_deref())?);
    let limits = served.engine.limits();
    let valid = sampling::validate(&common, &prompt.sampling_defaults(), prompt.eos_token_ids(), limits)?;
    let logprobs = num_logprobs(&fields)?;
    refuse_unsupported(&fields)?;
    let requested_max_tokens = fields.max_completion_tokens.or(fields.max_tokens);
    let chat = chat_prompt::validate(fields, common.model.as_deref())?;
    let Rendered { ids, reasoning_open, thinking, .. } = on_blocking_thread({
        let prompt = prompt.clone();
        move || chat.render(&prompt)
    })
    .await?;
    let max_tokens = sampling::max_tokens(requested_max_tokens, 1, None, ids.len(), limits)?;
    let sampling = SamplingParams { max_tokens, logprobs, ..valid.sampling };
    sampling::check_min_tokens(&sampling)?;
    let plan =
        Plan { prompts: vec![(ids, sampling)], choices_per_prompt: valid.num_choices, counts_reasoning: thinking };
    let new_decoder = || Decoder::chat(&prompt, reasoning_open, &valid.stop);
    let generation = Generation::submit(&served.engine, plan, new_decoder)?;
    let names = TokenNames::new(Some(prompt.tokenizer().clone()), false);
    match valid.streaming {
        Streaming::Off => collect(generation, names, thinking, logprobs.is_some(), answer)
            .await
            .map_err(|error| state.explain_failure(error)),
        Streaming::On { include_usage } => {
            let chunks = ChunkWriter::new(&answer, "chat.completion.chunk", include_usage);
            let has_begun = vec![false; generation.num_choices()];
            let writer = Chunks { chunks, names, thinking, has_begun };
            Ok(sse::respond(generation, writer, state.config().keep_alive_interval))
        }
    }
}

fn num_logprobs(fields: &ChatFields) -> Result<Option<u8>, ApiError> {
    match (fields.logprobs.unwrap_or(false), fields.top_logprobs) {
        (_, Some(count)) if count > MAX_LOGPROBS => {
            Err(ApiError::range("top_logprobs", format_args!("[0, {MAX_LOGPROBS}].")))
        }
        (false, Some(count)) if count > 0 => Err(ApiError::invalid(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
        )
        .with_param("top_logprobs")),
        (false, _) => Ok(None),
        (true, count) => Ok(Some(count.unwrap_or(0))),
    }
}

/// What would change the answer and cannot be done yet is refused rather than ignored.
fn refuse_unsupported(fields: &ChatFields) -> Result<(), ApiError> {
    if fields.response_format.as_ref().is_some_and(|format| format.kind != ResponseFormatKind::Text) {
        return Err(ApiError::invalid("This response_format type is unavailable now").with_param("response_format"));
    }
    if matches!(fields.tool_choice, Some(ToolChoice::Required | ToolChoice::Named)) {
        return Err(ApiError::invalid(
            "This tool_choice is not supported yet: a call cannot be enforced; use `auto` or `none`",
        )
        .with_param("tool_choice"));
    }
    Ok(())
}

/// A token's entry, for the list of the channel it belongs to.
fn token_logprob(names: &TokenNames, position: &PositionLogprobs) -> TokenLogprob {
    let top_logprobs = position
        .top
        .iter()
        .map(|entry| TopLogprob {
            token: names.name(entry.id),
            logprob: entry.logprob.max(LOGPROB_FLOOR),
            bytes: names.bytes(entry.id),
        })
        .collect();
    let own = position.token;
    TokenLogprob {
        token: names.name(own.id),
        logprob: own.logprob.max(LOGPROB_FLOOR),
        bytes: names.bytes(own.id),
        top_logprobs,
    }
}

async fn collect(
    mut generation: Generation,
    names: TokenNames,
    thinking: bool,
    with_logprobs: bool,
    answer: Answer,
) -> Result<Response, ApiError> {
    let new_choice = |index| ChatChoice {
        index,
        message: AssistantMessage {
            role: "assistant",
            content: String::new(),
            reasoning_content: thinking.then(String::new),
        },
        logprobs: with_logprobs
            .then(|| ChatLogprobs { content: Some(Vec::new()), reasoning_content: thinking.then(Vec::new) }),
        finish_reason: "",
    };
    let mut choices: Vec<ChatChoice> = (0..generation.num_choices()).map(new_choice).collect();
    while let Some(next) = generation.next().await {
        let (index, output) = next?;
        let ChatChoice { message, logprobs, finish_reason, .. } = &mut choices[index];
        let text = match output {
            Output::Prompt(_) => continue,
            Output::Token(TokenOutput { text, channel, logprobs: position, .. }) => {
                if let (Some(lists), Some(position)) = (logprobs, position) {
                    lists.list(channel).push(token_logprob(&names, &position));
                }
                text
            }
            Output::End { tail, finish_reason: reason } => {
                *finish_reason = reason;
                tail
            }
        };
        message.content.push_str(&text.content);
        if !text.reasoning.is_empty() {
            message.reasoning_content.get_or_insert_default().push_str(&text.reasoning);
        }
    }
    Ok(Json(ChatCompletion {
        id: &answer.id,
        object: "chat.completion",
        created: answer.created,
        model: &answer.model,
        choices,
        usage: generation.usage(),
        system_fingerprint: answer.system_fingerprint,
    })
    .into_response())
}

impl ChatLogprobs {
    fn list(&mut self, channel: Channel) -> &mut Vec<TokenLogprob> {
        match channel {
            Channel::Content => &mut self.content,
            Channel::Reasoning => &mut self.reasoning_content,
        }
        .get_or_insert_default()
    }
}

struct Chunks {
    chunks: ChunkWriter,
    names: TokenNames,
    thinking: bool,
    /// Of each choice: the chunk with the role has been written.
    has_begun: Vec<bool>,
}

/// The `delta` of a chunk.
enum Delta<'a> {
    Role,
    Reasoning(&'a str),
    Content(&'a str),
}

impl Chunks {
    /// With thinking each delta has both members, one of them null; without, there is no `reasoning_content` at all.
    fn write_delta(&self, delta: &Delta<'_>, frame: &mut Vec<u8>) {
        frame.extend_from_slice(br#""delta":{"#);
        match (delta, self.thinking) {
            (Delta::Role, true) => {
                frame.extend_from_slice(br#""role":"assistant","content":null,"reasoning_content":"""#);
            }
            (Delta::Role, false) => frame.extend_from_slice(br#""role":"assistant","content":"""#),
            (Delta::Reasoning(text), _) => {
                frame.extend_from_slice(br#""content":null,"reasoning_content":"#);
                write_json(frame, text);
            }
            (Delta::Content(text), thinking) => {
                frame.extend_from_slice(br#""content":"#);
                write_json(frame, text);
                if thinking {
                    frame.extend_from_slice(br#","reasoning_content":null"#);
                }
            }
        }
        frame.push(b'}');
    }

    fn delta(&self, frame: &mut Vec<u8>, index: usize, delta: Delta<'_>, logprobs: Option<ChatLogprobs>) {
        self.chunks.chunk(frame, index, |frame| self.write_delta(&delta, frame), logprobs.as_ref(), None, None);
    }
}

impl WriteChunks for Chunks {
    fn write(&mut self, index: usize, output: Output, usage: Option<Usage>, frame: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_begun[index], true) {
            self.delta(frame, index, Delta::Role, None);
        }
        match output {
            Output::Prompt(_) => {}
            Output::Token(TokenOutput { text, channel, logprobs, .. }) => {
                // One chunk per token, even if its text is still held back: chunks tell the pace. A token that ends the
                // reasoning and opens the content gives two; its log-probability goes with the first.
                let mut logprobs = logprobs.map(|position| {
                    let mut lists = ChatLogprobs::default();
                    lists.list(channel).push(token_logprob(&self.names, &position));
                    lists
                });
                let has_reasoning = !text.reasoning.is_empty();
                if has_reasoning || (channel == Channel::Reasoning && text.content.is_empty()) {
                    self.delta(frame, index, Delta::Reasoning(&text.reasoning), logprobs.take());
                }
                if !text.content.is_empty() || (channel == Channel::Content && !has_reasoning) {
                    self.delta(frame, index, Delta::Content(&text.content), logprobs.take());
                }
            }
            Output::End { tail, finish_reason } => {
                if !tail.reasoning.is_empty() {
                    self.delta(frame, index, Delta::Reasoning(&tail.reasoning), None);
                }
                if !tail.content.is_empty() {
                    self.delta(frame, index, Delta::Content(&tail.content), None);
                }
                let last = |frame: &mut Vec<u8>| self.write_delta(&Delta::Content(""), frame);
                self.chunks.chunk(frame, index, last, None::<&()>, Some(finish_reason), usage);
            }
        }
    }
}
