//! `/v1/chat/completions`.

use std::fmt;

use cachalot_prompt::Defect;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::guided::StructuredOutputs;
use super::logprobs::TokenLogprob;
use super::number;
use super::usage::Usage;
use crate::sampling::Excess;

/// What a chat request has beside [`CommonFields`](super::common::CommonFields). Also what `/tokenize` takes.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct ChatFields {
    pub(crate) messages: Vec<Message>,
    pub(crate) thinking: Option<Thinking>,
    /// vLLM's way to reach a template. DeepSeek's templates call the switch `thinking`, Qwen's `enable_thinking`.
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) reasoning_effort: Option<ReasoningEffort>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) response_format: Option<ResponseFormat>,
    /// vLLM's names for the same and more.
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<String>,
    pub(crate) guided_choice: Option<Vec<String>>,
    pub(crate) guided_grammar: Option<String>,
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    /// vLLM's name for the most tokens of reasoning.
    pub(crate) thinking_token_budget: Option<u32>,
    /// The hosted API's key for caches of their own; also what abuse reports name.
    pub(crate) user_id: Option<String>,
    /// The same in another API, which lets it be any text.
    #[serde(skip)]
    pub(crate) end_user: Option<String>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_completion_tokens: Option<i64>,
    /// A matter of the API, not of the request.
    #[serde(skip)]
    pub(crate) excess: Excess,
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
    /// On the last message, an assistant's: the reply continues it.
    pub(crate) prefix: Option<bool>,
    /// V3.2's encoding lets a system or developer message bring tools of its own.
    pub(crate) tools: Option<Vec<Tool>>,
    /// V3.2's encoding: the schema that a system or developer message asks the reply to follow.
    pub(crate) response_format: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
    /// What newer OpenAI clients call the system role; with `tools` or `response_format` of its own, the user turn of
    /// V3.2's search agent.
    Developer,
    /// A role of the hosted service's own, which it names in its errors. No published encoding has it.
    LatestReminder,
}

impl<'de> Deserialize<'de> for Role {
    /// Errors list the roles that the hosted API lists. It refuses `developer`, which is taken here all the same.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const LISTED: &[&str] = &["system", "user", "assistant", "tool", "latest_reminder"];

        struct RoleVisitor;
        impl Visitor<'_> for RoleVisitor {
            type Value = Role;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a role")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Role, E> {
                Ok(match name {
                    "system" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" => Role::Tool,
                    "developer" => Role::Developer,
                    "latest_reminder" => Role::LatestReminder,
                    _ => return Err(E::unknown_variant(name, LISTED)),
                })
            }
        }
        deserializer.deserialize_str(RoleVisitor)
    }
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
    /// Some clients put it here.
    pub(crate) reasoning_effort: Option<ReasoningEffort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThinkingKind {
    Enabled,
    Disabled,
    /// The model decides: for these weights the same as enabled.
    Adaptive,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
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
        #[derive(serde::Deserialize)]
        struct Named {
            #[serde(rename = "type")]
            _kind: ToolKind,
            function: NamedFunction,
        }
        #[derive(serde::Deserialize)]
        struct NamedFunction {
            name: String,
        }
        use serde::de::Error;
        let value = Value::deserialize(deserializer)?;
        if value.is_object() {
            let Named { function, .. } = Named::deserialize(value).map_err(D::Error::custom)?;
            return Ok(ToolChoice::Named(function.name));
        }
        Ok(match Mode::deserialize(value).map_err(D::Error::custom)? {
            Mode::None => ToolChoice::None,
            Mode::Auto => ToolChoice::Auto,
            Mode::Required => ToolChoice::Required,
        })
    }
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(crate) kind: ResponseFormatKind,
    pub(crate) json_schema: Option<JsonSchemaFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResponseFormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

/// The schema of `response_format: {"type": "json_schema"}`.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct JsonSchemaFormat {
    pub(crate) schema: Option<Value>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_tier: Option<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<MalformedToolCall>,
}

#[derive(Serialize)]
pub(crate) struct AssistantMessage {
    pub(crate) role: &'static str,
    /// Empty, not null, beside tool calls.
    pub(crate) content: String,
    /// Present exactly when the request was one for thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<CallMade>,
}

/// A tool call of the model, or in a stream a part of one: the first has all but `arguments`, the others nothing else.
#[derive(Serialize)]
pub(crate) struct CallMade {
    pub(crate) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) function: FunctionCalled,
}

#[derive(Serialize)]
pub(crate) struct FunctionCalled {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

impl CallMade {
    /// A call that has just begun, with an id of its own.
    pub(crate) fn begin(index: usize, name: String) -> Self {
        CallMade {
            index,
            id: Some(call_id(index)),
            kind: Some("function"),
            function: FunctionCalled { name: Some(name), arguments: String::new() },
        }
    }

    /// A further part of the arguments of call `index`.
    pub(crate) fn arguments(index: usize, arguments: String) -> Self {
        CallMade { index, id: None, kind: None, function: FunctionCalled { name: None, arguments } }
    }
}

/// An id in the form of the hosted API: `call_00_` and twenty random characters.
pub(crate) fn call_id(index: usize) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("call_{index:02}_{}", &random[..20])
}

/// Beside `finish_reason`: the model began to call a tool, and no call could be made of what it wrote.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MalformedToolCall {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    /// What the model wrote.
    text: String,
}

impl From<Defect> for MalformedToolCall {
    fn from(Defect { message, text }: Defect) -> Self {
        MalformedToolCall { kind: "malformed_tool_call", message, text }
    }
}

/// Log-probabilities of a choice, or of one chunk of it. The token that closes the reasoning counts as reasoning.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Option<Vec<TokenLogprob>>,
    pub(crate) reasoning_content: Option<Vec<TokenLogprob>>,
}
