//! `POST /v1/chat/completions`.

use axum::extract::State;
use axum::response::Response;
use cachalot_prompt::Delta;

use crate::answer::Answer;
use crate::body::JsonBytes;
use crate::caller::Caller;
use crate::chat_request::{self, Started};
use crate::decoder::Channel;
use crate::error::ApiError;
use crate::generation::{End, Generation, Output, TokenOutput};
use crate::sampling::Streaming;
use crate::sse::{self, ChunkWriter, WriteChunks, write_json};
use crate::state::AppState;
use crate::token_names::TokenNames;
use crate::whole;
use crate::wire::chat::{
    AssistantMessage, CallMade, ChatChoice, ChatCompletion, ChatFields, ChatLogprobs, MalformedToolCall,
};
use crate::wire::common::CommonFields;
use crate::wire::logprobs::TokenLogprob;
use crate::wire::usage::Usage;

pub(crate) async fn complete(
    State(state): State<AppState>,
    caller: Caller,
    body: JsonBytes,
) -> Result<Response, ApiError> {
    let fields: ChatFields = body.parse()?;
    let common: CommonFields = body.parse()?;
    let started = chat_request::start(&state, &caller, fields, &common).await?;
    let Started { generation, answer, names, thinking, with_logprobs, streaming } = started;
    match streaming {
        Streaming::Off => {
            Ok(whole::respond(&state, collect(generation, names, thinking, with_logprobs, answer)).await?)
        }
        Streaming::On { include_usage } => {
            let chunks = ChunkWriter::new(&answer, "chat.completion.chunk", include_usage);
            let choices = (0..generation.num_choices()).map(|_| ChoiceState::default()).collect();
            let writer = Chunks { chunks, names, thinking, choices };
            sse::respond(&state, generation, writer).await
        }
    }
}

async fn collect(
    mut generation: Generation,
    names: TokenNames,
    thinking: bool,
    with_logprobs: bool,
    answer: Answer,
) -> Result<Vec<u8>, ApiError> {
    let new_choice = |index| ChatChoice {
        index,
        message: AssistantMessage {
            role: "assistant",
            content: String::new(),
            reasoning_content: thinking.then(String::new),
            tool_calls: Vec::new(),
        },
        logprobs: with_logprobs
            .then(|| ChatLogprobs { content: Some(Vec::new()), reasoning_content: thinking.then(Vec::new) }),
        finish_reason: "",
        error: None,
    };
    let mut choices: Vec<ChatChoice> = (0..generation.num_choices()).map(new_choice).collect();
    while let Some(next) = generation.next().await {
        let (index, output) = next?;
        let ChatChoice { message, logprobs, finish_reason, error, .. } = &mut choices[index];
        let deltas = match output {
            Output::Prompt(_) => continue,
            Output::Token(TokenOutput { deltas, channel, logprobs: position, .. }) => {
                if let (Some(lists), Some(position)) = (logprobs, position) {
                    lists.list(channel).push(TokenLogprob::new(&names, &position));
                }
                deltas
            }
            Output::End(End { tail, reason, defect }) => {
                *finish_reason = reason.name();
                *error = defect.map(MalformedToolCall::from);
                tail
            }
        };
        deltas.into_iter().for_each(|delta| message.push(delta));
    }
    let mut body = Vec::new();
    write_json(
        &mut body,
        &ChatCompletion {
            id: &answer.id,
            object: "chat.completion",
            created: answer.created,
            model: &answer.model,
            choices,
            usage: generation.usage(),
            system_fingerprint: answer.system_fingerprint,
            service_tier: answer.service_tier,
        },
    );
    Ok(body)
}

impl AssistantMessage {
    fn push(&mut self, delta: Delta) {
        match delta {
            Delta::Reasoning(text) => self.reasoning_content.get_or_insert_default().push_str(&text),
            Delta::Content(text) => self.content.push_str(&text),
            Delta::CallBegin { name } => self.tool_calls.push(CallMade::begin(self.tool_calls.len(), name)),
            Delta::CallArguments(text) => {
                let call = self.tool_calls.last_mut().expect("arguments come after the beginning of their call");
                call.function.arguments.push_str(&text);
            }
        }
    }
}

impl ChatLogprobs {
    fn list(&mut self, channel: Channel) -> &mut Vec<TokenLogprob> {
        match channel {
            Channel::Content | Channel::Calls => &mut self.content,
            Channel::Reasoning => &mut self.reasoning_content,
        }
        .get_or_insert_default()
    }
}

struct Chunks {
    chunks: ChunkWriter,
    names: TokenNames,
    thinking: bool,
    choices: Vec<ChoiceState>,
}

#[derive(Default)]
struct ChoiceState {
    /// The chunk with the role has been written.
    has_begun: bool,
    num_calls: usize,
}

/// The `delta` of a chunk.
enum ChunkDelta {
    Role,
    Reasoning(String),
    Content(String),
    Call(CallMade),
}

impl Chunks {
    /// With thinking each delta of text has both members, one of them null; without, there is no `reasoning_content` at all.
    fn write_delta(&self, delta: &ChunkDelta, frame: &mut Vec<u8>) {
        frame.extend_from_slice(br#""delta":{"#);
        match (delta, self.thinking) {
            (ChunkDelta::Role, true) => {
                frame.extend_from_slice(br#""role":"assistant","content":null,"reasoning_content":"""#);
            }
            (ChunkDelta::Role, false) => frame.extend_from_slice(br#""role":"assistant","content":"""#),
            (ChunkDelta::Reasoning(text), _) => {
                frame.extend_from_slice(br#""content":null,"reasoning_content":"#);
                write_json(frame, text);
            }
            (ChunkDelta::Content(text), thinking) => {
                frame.extend_from_slice(br#""content":"#);
                write_json(frame, text);
                if thinking {
                    frame.extend_from_slice(br#","reasoning_content":null"#);
                }
            }
            (ChunkDelta::Call(call), _) => {
                frame.extend_from_slice(br#""tool_calls":["#);
                write_json(frame, call);
                frame.push(b']');
            }
        }
        frame.push(b'}');
    }

    fn delta(&self, frame: &mut Vec<u8>, index: usize, delta: &ChunkDelta, logprobs: Option<ChatLogprobs>) {
        self.chunks.chunk(frame, index, |frame| self.write_delta(delta, frame), logprobs.as_ref(), None, None);
    }

    fn deltas(&mut self, frame: &mut Vec<u8>, index: usize, deltas: Vec<Delta>, mut logprobs: Option<ChatLogprobs>) {
        for delta in deltas {
            let num_calls = &mut self.choices[index].num_calls;
            let delta = match delta {
                Delta::Reasoning(text) => ChunkDelta::Reasoning(text),
                Delta::Content(text) => ChunkDelta::Content(text),
                Delta::CallBegin { name } => {
                    *num_calls += 1;
                    ChunkDelta::Call(CallMade::begin(*num_calls - 1, name))
                }
                Delta::CallArguments(text) => ChunkDelta::Call(CallMade::arguments(*num_calls - 1, text)),
            };
            self.delta(frame, index, &delta, logprobs.take());
        }
    }
}

impl WriteChunks for Chunks {
    fn write(&mut self, index: usize, output: Output, usage: Option<&Usage>, frame: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.choices[index].has_begun, true) {
            self.delta(frame, index, &ChunkDelta::Role, None);
        }
        match output {
            Output::Prompt(_) => {}
            Output::Token(TokenOutput { deltas, channel, logprobs, .. }) => {
                // A token may give several chunks; its log-probability goes with the first.
                let logprobs = logprobs.map(|position| {
                    let mut lists = ChatLogprobs::default();
                    lists.list(channel).push(TokenLogprob::new(&self.names, &position));
                    lists
                });
                // One chunk per token, even if its text is still held back: chunks tell the pace. Markup of calls has none.
                if deltas.is_empty() && (channel != Channel::Calls || logprobs.is_some()) {
                    let empty = match channel {
                        Channel::Reasoning => ChunkDelta::Reasoning(String::new()),
                        Channel::Content | Channel::Calls => ChunkDelta::Content(String::new()),
                    };
                    self.delta(frame, index, &empty, logprobs);
                } else {
                    self.deltas(frame, index, deltas, logprobs);
                }
            }
            Output::End(End { tail, reason, defect }) => {
                self.deltas(frame, index, tail, None);
                let last = |frame: &mut Vec<u8>| {
                    self.write_delta(&ChunkDelta::Content(String::new()), frame);
                    if let Some(defect) = defect {
                        frame.extend_from_slice(br#","error":"#);
                        write_json(frame, &MalformedToolCall::from(defect));
                    }
                };
                self.chunks.chunk(frame, index, last, None::<&()>, Some(reason.name()), usage);
            }
        }
    }
}
