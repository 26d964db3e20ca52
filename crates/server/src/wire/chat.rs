//! `/v1/chat/completions`.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::logprobs::TokenLogprob;
use super::number;
use super::usage::Usage;

/// What a chat request has beside [`CommonFields`](super::common::CommonFields). Also what `/tokenize` takes.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct ChatFields {
    pub(crate) messages: Vec<Message>,
    pub(crate) thinking: Option<Thinking>,
    /// vLLM's way to reach a template. DeepSeek's templates call the switch `thinking`, Qwen's `enable_thinking`.
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) reasoning_effort: Option<ReasoningEffort>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) response_format: Option<ResponseFormat>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_completion_tokens: Option<i64>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<u8>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    /// Absent and null are the same; only assistant messages may lack it.
    pub(crate) content: Option<Content>,
    pub(crate) reasoning_content: Option<String>,
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    pub(crate) tool_call_id: Option<String>,
    pub(crate) name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
    /// What newer OpenAI clients call the system role.
    Developer,
}

/// `content`: a string, or an array of text parts, which are joined with nothing between them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Content(pub(crate) String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a string or an array of text parts";

        #[derive(serde::Deserialize)]
        struct Part {
            // Read for its check alone: there is one kind of part.
            #[serde(rename = "type")]
            _kind: PartKind,
            text: String,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum PartKind {
            Text,
        }

        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut joined = String::new();
                while let Some(part) = seq.next_element::<Part>()? {
                    joined.push_str(&part.text);
                }
                Ok(Content(joined))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ToolCall {
    pub(crate) id: Option<String>,
    pub(crate) function: CalledFunction,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct CalledFunction {
    pub(crate) name: String,
    /// JSON text by the contract; some clients send the object itself.
    pub(crate) arguments: Option<Value>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Thinking {
    #[serde(rename = "type")]
    pub(crate) kind: ThinkingKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThinkingKind {
    Enabled,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Tool {
    #[serde(rename = "type")]
    pub(crate) _kind: ToolKind,
    /// As it was sent: the encodings render it whole, keys of their own included.
    pub(crate) function: Map<String, Value>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolKind {
    Function,
}

/// `tool_choice`: a mode, or an object that names one function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    None,
    Auto,
    Required,
    Named,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Mode {
            None,
            Auto,
            Required,
        }
        match Value::deserialize(deserializer)? {
            Value::Object(_) => Ok(ToolChoice::Named),
            mode => Ok(match Mode::deserialize(mode).map_err(serde::de::Error::custom)? {
                Mode::None => ToolChoice::None,
                Mode::Auto => ToolChoice::Auto,
                Mode::Required => ToolChoice::Required,
            }),
        }
    }
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(crate) kind: ResponseFormatKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResponseFormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

/// The answer when it is not streamed.
#[derive(Serialize)]
pub(crate) struct ChatCompletion<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
    pub(crate) system_fingerprint: &'a str,
}

#[derive(Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
}

#[derive(Serialize)]
pub(crate) struct AssistantMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    /// Present exactly when the request was one for thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
}

/// Log-probabilities of a choice, or of one chunk of it. The token that closes the reasoning counts as reasoning.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Option<Vec<TokenLogprob>>,
    pub(crate) reasoning_content: Option<Vec<TokenLogprob>>,
}
