//! From the messages of a request to a prompt.

use cachalot_prompt::{Chat, Message, Prompt, Rendered, Role, ToolCall};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{CHAT_ALIAS, REASONER_ALIAS};
use crate::wire::chat::{self, ChatFields, ReasoningEffort, ThinkingKind, ToolChoice};

/// The most tools of a request.
const MAX_TOOLS: usize = 128;

/// A conversation as the client sent it: whether the model is to think is still open where the client did not say.
pub(crate) struct ValidChat {
    chat: Chat,
    thinking: Option<bool>,
}

/// Checks the messages and tools, and finds out whether thinking was asked for.
pub(crate) fn validate(fields: ChatFields, model: Option<&str>) -> Result<ValidChat, ApiError> {
    if fields.messages.is_empty() {
        return Err(ApiError::invalid("messages is empty; at least one message is needed").with_param("messages"));
    }
    let template_kwargs = fields.chat_template_kwargs.unwrap_or_default();
    let variable = |name| template_kwargs.get(name).and_then(Value::as_bool);
    let by_model = match model {
        Some(CHAT_ALIAS) => Some(false),
        Some(REASONER_ALIAS) => Some(true),
        _ => None,
    };
    let thinking = fields
        .thinking
        .map(|thinking| thinking.kind == ThinkingKind::Enabled)
        .or_else(|| variable("thinking"))
        .or_else(|| variable("enable_thinking"))
        // These weights know one effort; of all its values only this one says something about them.
        .or_else(|| (fields.reasoning_effort == Some(ReasoningEffort::None)).then_some(false))
        .or(by_model);
    // With `none` the model is not to know of the tools.
    let tools = match fields.tool_choice {
        Some(ToolChoice::None) => Vec::new(),
        _ => tools(fields.tools.unwrap_or_default())?,
    };
    let messages = fields.messages.into_iter().enumerate().map(|(index, message)| self::message(index, message));
    let messages = messages.collect::<Result<_, _>>()?;
    Ok(ValidChat { chat: Chat { messages, tools, thinking: false, template_kwargs }, thinking })
}

fn message(index: usize, message: chat::Message) -> Result<Message, ApiError> {
    let chat::Message { role, content, reasoning_content, tool_calls, tool_call_id, name } = message;
    let role = match role {
        chat::Role::System | chat::Role::Developer => Role::System,
        chat::Role::User => Role::User,
        chat::Role::Assistant => Role::Assistant,
        chat::Role::Tool => Role::Tool,
    };
    if content.is_none() && role != Role::Assistant {
        let param = format!("messages[{index}]");
        return Err(ApiError::invalid(format!("{param}: missing field `content`")).with_param(param));
    }
    let tool_calls = tool_calls.unwrap_or_default().into_iter().map(|call| ToolCall {
        id: call.id.unwrap_or_default(),
        name: call.function.name,
        arguments: match call.function.arguments {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        },
    });
    Ok(Message {
        role,
        content: content.map(|content| content.0),
        reasoning_content,
        tool_calls: tool_calls.collect(),
        tool_call_id,
        name,
        tools: Vec::new(),
        response_format: None,
        prefix: false,
    })
}

fn tools(tools: Vec<chat::Tool>) -> Result<Vec<Value>, ApiError> {
    if tools.len() > MAX_TOOLS {
        let message =
            format!("Invalid tools value, at most {MAX_TOOLS} tools are allowed, but you passed {}", tools.len());
        return Err(ApiError::invalid(message).with_param("tools"));
    }
    for (index, tool) in tools.iter().enumerate() {
        check_function_name(index, tool.function.get("name"))?;
    }
    Ok(tools.into_iter().map(|tool| json!({"type": "function", "function": tool.function})).collect())
}

fn check_function_name(index: usize, name: Option<&Value>) -> Result<(), ApiError> {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    match name.and_then(Value::as_str) {
        Some(name) if (1..=64).contains(&name.len()) && name.chars().all(is_allowed) => Ok(()),
        _ => {
            let param = format!("tools[{index}].function.name");
            let message = format!("Invalid {param} value, a name matching ^[a-zA-Z0-9_-]{{1,64}}$ is needed");
            Err(ApiError::invalid(message).with_param(param))
        }
    }
}

impl ValidChat {
    /// Renders the conversation. Slow for long ones.
    ///
    /// # Errors
    /// 400 if this conversation cannot be encoded, 500 if none could.
    pub(crate) fn render(mut self, prompt: &Prompt) -> Result<Rendered, ApiError> {
        self.chat.thinking = self.thinking.unwrap_or_else(|| prompt.thinks_by_default());
        prompt.render(&self.chat).map_err(prompt_error)
    }
}

/// Tells a text that cannot be encoded from a checkpoint that cannot encode any.
pub(crate) fn prompt_error(error: cachalot_prompt::Error) -> ApiError {
    if error.is_request() { ApiError::invalid(error.to_string()) } else { ApiError::internal(error.to_string()) }
}
