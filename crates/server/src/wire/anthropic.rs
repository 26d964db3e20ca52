//! `/v1/messages` and what belongs to it.

use std::fmt;

use axum::http::StatusCode;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::chat::{MalformedToolCall, Thinking};
use super::number;
use super::usage;
use crate::error::ApiError;

/// A request for a message, or for the number of its tokens. What is not listed is ignored.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct MessagesFields {
    pub(crate) model: Option<String>,
    pub(crate) messages: Vec<Message>,
    pub(crate) system: Option<Blocks>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) stop_sequences: Option<Vec<String>>,
    pub(crate) stream: Option<bool>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) thinking: Option<Thinking>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Not in Anthropic's API; as in chats.
    pub(crate) seed: Option<i64>,
    /// As `seed`.
    pub(crate) min_tokens: Option<u32>,
    /// As `seed`.
    pub(crate) thinking_token_budget: Option<u32>,
    /// As `seed`.
    pub(crate) priority: Option<i64>,
    /// As `seed`.
    pub(crate) timeout: Option<f64>,
    /// As `seed`.
    pub(crate) cache_salt: Option<String>,
    pub(crate) metadata: Option<Metadata>,
    /// A conversation that the server keeps.
    pub(crate) thread: Option<IgnoredAny>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Metadata {
    /// Whom the client asks for.
    pub(crate) user_id: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: Blocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
    /// Not in the public API; Claude Code puts reminders into such messages.
    System,
}

/// Content: a list of blocks, or a string, which is one block of text.
#[derive(Debug, Default)]
pub(crate) struct Blocks(pub(crate) Vec<Block>);

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a string or an array of content blocks";
        struct BlocksVisitor;
        impl<'de> Visitor<'de> for BlocksVisitor {
            type Value = Blocks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Blocks, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E>(self, text: String) -> Result<Blocks, E> {
                Ok(Blocks(vec![Block::Text(text)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Blocks, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element()? {
                    blocks.push(block);
                }
                Ok(Blocks(blocks))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Blocks, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }
        }
        deserializer.deserialize_any(BlocksVisitor)
    }
}

/// A part of a message. Members that no model reads (`cache_control`, `citations`, `is_error`, signatures) are not kept.
#[derive(Debug)]
pub(crate) enum Block {
    Text(String),
    Thinking(String),
    RedactedThinking,
    ToolUse(ToolUse),
    ToolResult(ToolResult),
    /// Of a kind, named here, that these models cannot read or that is not known.
    Other(String),
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ToolUse {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) input: Option<Map<String, Value>>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ToolResult {
    pub(crate) tool_use_id: String,
    pub(crate) content: Option<Blocks>,
}

impl<'de> Deserialize<'de> for Block {
    /// By way of a [`Value`]: serde's own tagged enums cannot hold numbers of arbitrary precision, nor leave unknown kinds be.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Text {
            text: String,
        }
        #[derive(serde::Deserialize)]
        struct Thinking {
            thinking: String,
        }
        fn read<T: DeserializeOwned, E: Error>(members: Map<String, Value>) -> Result<T, E> {
            serde_json::from_value(Value::Object(members)).map_err(E::custom)
        }
        let members = Map::deserialize(deserializer)?;
        let Some(kind) = members.get("type") else { return Err(D::Error::missing_field("type")) };
        let Some(kind) = kind.as_str() else { return Err(D::Error::custom("type: expected a string")) };
        Ok(match kind {
            "text" => Block::Text(read::<Text, _>(members)?.text),
            "thinking" => Block::Thinking(read::<Thinking, _>(members)?.thinking),
            "redacted_thinking" => Block::RedactedThinking,
            "tool_use" => Block::ToolUse(read(members)?),
            "tool_result" => Block::ToolResult(read(members)?),
            _ => Block::Other(kind.to_owned()),
        })
    }
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Tool {
    /// Absent or `custom` for a function of the client; all else is a tool of Anthropic's servers or models.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) input_schema: Option<Map<String, Value>>,
    pub(crate) strict: Option<bool>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ToolChoice {
    #[serde(rename = "type")]
    pub(crate) kind: ToolChoiceKind,
    /// Of the tool, if `kind` is that.
    pub(crate) name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolChoiceKind {
    None,
    Auto,
    Any,
    Tool,
}

/// The answer, whole or, without content, at the beginning of a stream.
#[derive(Serialize)]
pub(crate) struct Reply<'a> {
    pub(crate) id: &'a str,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) role: &'static str,
    pub(crate) model: &'a str,
    pub(crate) content: Vec<ReplyBlock<'a>>,
    #[serde(flatten)]
    pub(crate) ending: Ending<'a>,
    pub(crate) usage: Usage,
    /// Not in Anthropic's API, and there only if something went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<MalformedToolCall>,
}

/// How a message ended; both are null before it has.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Ending<'a> {
    pub(crate) stop_reason: Option<&'static str>,
    pub(crate) stop_sequence: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ReplyBlock<'a> {
    Thinking { thinking: &'a str, signature: &'a str },
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Map<String, Value> },
}

/// Token counts; what was read from the cache is no part of the input here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    input_tokens: usize,
    /// Nothing is charged for keeping a prompt.
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
    service_tier: &'static str,
}

impl From<&usage::Usage> for Usage {
    fn from(usage: &usage::Usage) -> Self {
        Usage {
            input_tokens: usage.prompt_cache_miss_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.prompt_cache_hit_tokens,
            output_tokens: usage.completion_tokens,
            service_tier: "standard",
        }
    }
}

/// An event of a stream.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    MessageStart {
        message: Reply<'a>,
    },
    Ping,
    ContentBlockStart {
        index: usize,
        content_block: ReplyBlock<'a>,
    },
    ContentBlockDelta {
        index: usize,
        delta: BlockDelta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: Ending<'a>,
        usage: Usage,
        /// As in [`Reply`].
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<MalformedToolCall>,
    },
    MessageStop,
}

impl Event<'_> {
    /// What stands behind `event:`, and in the data as `type`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Event::MessageStart { .. } => "message_start",
            Event::Ping => "ping",
            Event::ContentBlockStart { .. } => "content_block_start",
            Event::ContentBlockDelta { .. } => "content_block_delta",
            Event::ContentBlockStop { .. } => "content_block_stop",
            Event::MessageDelta { .. } => "message_delta",
            Event::MessageStop => "message_stop",
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type")]
pub(crate) enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// The code of the refusal of a `thread`. Anthropic's clients that meet it send the whole conversation from then on.
pub(crate) const THREAD_UNSUPPORTED: &str = "thread_unsupported_request";

/// The body of an error, and the data of an `error` event.
#[derive(Serialize)]
pub(crate) struct ErrorBody {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorInner,
}

#[derive(Serialize)]
struct ErrorInner {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<ErrorDetails>,
}

/// What clients act on without a person.
#[derive(Serialize)]
struct ErrorDetails {
    error_code: &'static str,
}

impl ErrorBody {
    pub(crate) fn new(error: &ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::PAYMENT_REQUIRED => "billing_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        let details = (error.code() == THREAD_UNSUPPORTED).then_some(ErrorDetails { error_code: THREAD_UNSUPPORTED });
        ErrorBody { kind: "error", error: ErrorInner { kind, message: error.to_string(), details } }
    }
}
