//! A conversation as the encoders see it: already validated, free of wire formats.

use serde_json::{Map, Value};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// The user turn of V3.2's search agent, with tools of its own. It is not what OpenAI clients call `developer`:
    /// those are instructions, and a server maps them to [`Role::System`]. Other releases encode it as system text.
    Developer,
}

impl Role {
    /// The name that chat templates compare with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Developer => "developer",
        }
    }
}

/// A call that the assistant made earlier in the conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCall {
    /// The id that the tool message answers to. Never part of a prompt.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The arguments as the JSON text that the model wrote. V3.2 parses it (and needs an object; empty text counts as
    /// `{}`), every other release repeats it byte for byte.
    pub arguments: String,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text; absent reads as empty.
    pub content: Option<String>,
    /// What the assistant thought before `content`. Encoded only where the release keeps it: V3.2 in the running turn.
    pub reasoning_content: Option<String>,
    /// The calls an assistant message ends with.
    pub tool_calls: Vec<ToolCall>,
    /// For [`Role::Tool`]: the call that this answers. Encoders go by position, templates may look at it.
    pub tool_call_id: Option<String>,
    /// Accepted, offered to templates, rendered by no DeepSeek release.
    pub name: Option<String>,
    /// V3.2: tools defined by this system or developer message, in the OpenAI form `{"type", "function"}`.
    pub tools: Vec<Value>,
    /// V3.2: a JSON schema that this system or developer message asks the reply to follow.
    pub response_format: Option<Value>,
    /// On the last message, an assistant's: the reply continues this text instead of starting a new turn.
    pub prefix: bool,
}

impl Message {
    /// A message with text and nothing else.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            tools: Vec::new(),
            response_format: None,
            prefix: false,
        }
    }

    /// The text, empty where there is none.
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or("")
    }

    /// The reasoning, empty where there is none.
    pub fn reasoning(&self) -> &str {
        self.reasoning_content.as_deref().unwrap_or("")
    }
}

/// A conversation to be continued by the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// The request's tools in the OpenAI form `{"type": "function", "function": {...}}`, as received.
    pub tools: Vec<Value>,
    /// Whether the model should think first. Releases that always or never think ignore it: see
    /// [`Prompt::supports_thinking`](crate::Prompt::supports_thinking).
    pub thinking: bool,
    /// Extra variables for the checkpoint's chat template. `thinking` and `enable_thinking` among them are ignored in
    /// favour of the field above, so that there is one truth: whoever reads the request settles it.
    pub template_kwargs: Map<String, Value>,
}
