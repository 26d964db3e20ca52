//! From the messages of a request to a prompt.

use cachalot_prompt::{Calls, Chat, Message, Prompt, Release, Rendered, Role, Strictness, Tool, ToolCall};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::history::{self, MissingReasoning};
use crate::state::{CHAT_ALIAS, REASONER_ALIAS};
use crate::wire::chat::{self, ChatFields, ReasoningEffort, ResponseFormatKind, ThinkingKind, ToolChoice};

/// The most tools of a request.
const MAX_TOOLS: usize = 128;

/// A conversation as the client sent it: whether the model is to think is still open where the client did not say.
pub(crate) struct ValidChat {
    chat: Chat,
    thinking: Option<bool>,
    tool_choice: ToolChoice,
    /// The schema of the reply.
    schema: Option<Value>,
}

/// Checks the messages and tools, and finds out whether thinking was asked for.
pub(crate) fn validate(fields: ChatFields, model: Option<&str>) -> Result<ValidChat, ApiError> {
    if fields.messages.is_empty() {
        return Err(ApiError::invalid("messages is empty; at least one message is needed").with_param("messages"));
    }
    if let Some(user_id) = &fields.user_id {
        check_user_id(user_id)?;
    }
    let template_kwargs = fields.chat_template_kwargs.unwrap_or_default();
    let variable = |name| template_kwargs.get(name).and_then(Value::as_bool);
    let by_model = match model {
        Some(CHAT_ALIAS) => Some(false),
        Some(REASONER_ALIAS) => Some(true),
        _ => None,
    };
    // These weights know one effort; of all its values only `none` says something about them.
    let nested_effort = fields.thinking.as_ref().and_then(|thinking| thinking.reasoning_effort);
    let effort = fields.reasoning_effort.or(nested_effort);
    let thinking = fields
        .thinking
        .map(|thinking| thinking.kind != ThinkingKind::Disabled)
        .or_else(|| variable("thinking"))
        .or_else(|| variable("enable_thinking"))
        .or_else(|| (effort == Some(ReasoningEffort::None)).then_some(false))
        .or(by_model);
    let tools = tools(fields.tools.unwrap_or_default())?;
    let tool_choice = match fields.tool_choice {
        None => ToolChoice::Auto,
        Some(choice) => choice,
    };
    check_tool_choice(&tool_choice, &tools)?;
    let format = fields.response_format.filter(|format| format.kind == ResponseFormatKind::JsonSchema);
    let schema = format.and_then(|format| format.json_schema).and_then(|format| format.schema);
    let messages = fields.messages.into_iter().enumerate().map(|(index, message)| self::message(index, message));
    let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
    history::order_results(&mut messages)?;
    Ok(ValidChat { chat: Chat { messages, tools, thinking: false, template_kwargs }, thinking, tool_choice, schema })
}

fn check_user_id(user_id: &str) -> Result<(), ApiError> {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    if (1..=512).contains(&user_id.len()) && user_id.chars().all(is_allowed) {
        return Ok(());
    }
    Err(ApiError::invalid("Invalid user_id value, a text matching ^[A-Za-z0-9_-]{1,512}$ is needed")
        .with_param("user_id"))
}

/// A call can be forced only if there is something to call.
fn check_tool_choice(choice: &ToolChoice, tools: &[Value]) -> Result<(), ApiError> {
    let message = match choice {
        ToolChoice::Required if tools.is_empty() => "Invalid tool_choice value, `required` needs tools".to_owned(),
        ToolChoice::Named(name) if tools.iter().all(|tool| tool["function"]["name"] != name.as_str()) => {
            format!("Invalid tool_choice value, `{name}` is not the name of one of the tools")
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid(message).with_param("tool_choice"))
}

fn message(index: usize, message: chat::Message) -> Result<Message, ApiError> {
    let chat::Message {
        role,
        content,
        reasoning_content,
        tool_calls,
        tool_call_id,
        name,
        prefix,
        tools: own_tools,
        response_format,
    } = message;
    let is_agent_turn = own_tools.is_some() || response_format.is_some();
    let role = match role {
        chat::Role::Developer if is_agent_turn => Role::Developer,
        chat::Role::System | chat::Role::Developer | chat::Role::LatestReminder => Role::System,
        chat::Role::User => Role::User,
        chat::Role::Assistant => Role::Assistant,
        chat::Role::Tool => Role::Tool,
    };
    if content.is_none() && role != Role::Assistant {
        let param = format!("messages[{index}]");
        // The hosted API's reader of JSON says it.
        let message =
            format!("Failed to deserialize the JSON body into the target type: {param}: missing field `content`");
        return Err(ApiError::invalid(message).with_param(param));
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
        tools: tools(own_tools.unwrap_or_default())?,
        response_format,
        prefix: prefix.unwrap_or(false),
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
    /// Settles what depends on the checkpoint: thinking, and which tools the model is to know of.
    ///
    /// # Errors
    /// 400 for tools that the release cannot call.
    pub(crate) fn settle(self, prompt: &Prompt) -> Result<SettledChat, ApiError> {
        let ValidChat { mut chat, thinking, tool_choice, schema } = self;
        let release = prompt.release();
        let calls = calls(&chat, &tool_choice);
        chat.thinking = thinking.unwrap_or_else(|| prompt.thinks_by_default());
        if release == Release::V3_2Speciale && !chat.tools.is_empty() && tool_choice != ToolChoice::None {
            return Err(ApiError::invalid("DeepSeek-V3.2-Speciale does not support tools; leave out `tools`")
                .with_param("tools"));
        }
        // V3.2 keeps tools in the prompt that it must not call, so that conversations begin alike whatever the choice. Its
        // predecessors do not think with tools in the prompt.
        if tool_choice == ToolChoice::None && release != Release::V3_2 {
            chat.tools.clear();
        }
        // Of all releases, V3.2 has a place for a schema in its prompts.
        let schema = schema.filter(|_| matches!(release, Release::V3_2 | Release::V3_2Speciale));
        Ok(SettledChat { thinking: prompt.thinks(&chat), chat, tool_choice, calls, schema })
    }
}

/// A conversation that one checkpoint can be asked to continue.
pub(crate) struct SettledChat {
    chat: Chat,
    pub(crate) thinking: bool,
    pub(crate) tool_choice: ToolChoice,
    /// What the reply may do with tools.
    pub(crate) calls: Calls,
    /// The schema that the prompt tells the model of.
    schema: Option<Value>,
}

impl SettledChat {
    /// Whether the model can go on from here.
    ///
    /// # Errors
    /// 400 with the message that is at fault.
    pub(crate) fn check_completeness(
        &self,
        release: Release,
        missing_reasoning: MissingReasoning,
    ) -> Result<(), ApiError> {
        history::check_completeness(&self.chat.messages, release, self.thinking, missing_reasoning)
    }

    /// Every text that the client sent, for whoever looks for a word.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        self.chat.messages.iter().any(|message| message.text().to_ascii_lowercase().contains(word))
    }

    /// Renders the conversation. Slow for long ones.
    ///
    /// # Errors
    /// 400 if this conversation cannot be encoded, 500 if none could.
    pub(crate) fn render(&self, prompt: &Prompt) -> Result<Rendered, ApiError> {
        let Some(schema) = &self.schema else { return prompt.render(&self.chat).map_err(prompt_error) };
        let mut chat = self.chat.clone();
        let has_system = chat.messages.first().is_some_and(|message| message.role == Role::System);
        if !has_system {
            chat.messages.insert(0, Message::new(Role::System, ""));
        }
        // A schema that the message brings itself is what the client wants the model to see.
        chat.messages[0].response_format.get_or_insert_with(|| schema.clone());
        prompt.render(&chat).map_err(|error| match error {
            cachalot_prompt::Error::Message { index, reason } if !has_system => {
                prompt_error(cachalot_prompt::Error::Message { index: index.saturating_sub(1), reason })
            }
            error => prompt_error(error),
        })
    }

    /// What the prompt has of the reply already.
    pub(crate) fn begun(&self) -> &str {
        self.chat.messages.last().filter(|message| message.prefix).map_or("", Message::text)
    }
}

/// What a reply may do with the tools of a conversation, those that its messages bring included.
fn calls(chat: &Chat, choice: &ToolChoice) -> Calls {
    let all = chat.tools.iter().chain(chat.messages.iter().flat_map(|message| &message.tools));
    let tools = |least: Strictness| all.clone().map(move |tool| self::tool(&tool["function"], least));
    // A forced call must come whatever the model makes of it, so at least it shall be one that can be carried out.
    let forced = || tools(Strictness::IfPossible);
    match choice {
        _ if all.clone().next().is_none() => Calls::Unwatched,
        ToolChoice::None => Calls::Forbidden,
        ToolChoice::Auto => Calls::Allowed(tools(Strictness::Loose).collect()),
        ToolChoice::Required => Calls::Required(forced().collect()),
        ToolChoice::Named(name) => Calls::Required(forced().filter(|tool| tool.name == *name).collect()),
    }
}

fn tool(function: &Value, least: Strictness) -> Tool {
    Tool {
        name: function["name"].as_str().unwrap_or_default().to_owned(),
        parameters: function.get("parameters").filter(|parameters| !parameters.is_null()).cloned(),
        strictness: if function["strict"] == true { Strictness::Strict } else { least },
    }
}

/// Tells a text that cannot be encoded from a checkpoint that cannot encode any.
pub(crate) fn prompt_error(error: cachalot_prompt::Error) -> ApiError {
    if error.is_request() { ApiError::invalid(error.to_string()) } else { ApiError::internal(error.to_string()) }
}
