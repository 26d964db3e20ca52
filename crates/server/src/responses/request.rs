//! What a request may have, and how it becomes a chat request.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::wire::chat::{
    self, CalledFunction, ChatFields, Content, JsonSchemaFormat, Message, ReasoningEffort, ResponseFormat,
    ResponseFormatKind, Role, Thinking, ToolChoice, ToolKind,
};
use crate::wire::number;

/// What a request has beside [`CommonFields`](crate::wire::common::CommonFields).
#[derive(Debug, serde::Deserialize)]
pub(crate) struct ResponsesFields {
    input: Input,
    instructions: Option<String>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<FlatToolChoice>,
    reasoning: Option<Reasoning>,
    /// The hosted chat API's switch: this API has none but `reasoning.effort`.
    thinking: Option<Thinking>,
    /// As in chats.
    thinking_token_budget: Option<u32>,
    max_output_tokens: Option<i64>,
    text: Option<TextOptions>,
    include: Option<Vec<String>>,
    top_logprobs: Option<u8>,
    /// This API's name for whom the client asks for.
    safety_identifier: Option<String>,
    previous_response_id: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    background: Option<bool>,
}

/// `input`: a user's text, or items.
#[derive(Debug)]
enum Input {
    Text(String),
    Items(Vec<Item>),
}

/// Every kind of item, with the fields of all of them: which must be there is checked when the kind is known.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Item {
    #[serde(rename = "type")]
    kind: Option<ItemKind>,
    role: Option<Role>,
    content: Option<Parts>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<Parts>,
    summary: Option<Parts>,
    encrypted_content: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum ItemKind {
    Message,
    FunctionCall,
    FunctionCallOutput,
    Reasoning,
}

/// A text, or parts of one, which are joined with nothing between them.
#[derive(Debug)]
struct Parts(String);

#[derive(Debug, serde::Deserialize)]
struct Reasoning {
    effort: Option<ReasoningEffort>,
}

#[derive(Debug, serde::Deserialize)]
struct TextOptions {
    format: Option<TextFormat>,
}

#[derive(Debug, serde::Deserialize)]
struct TextFormat {
    #[serde(rename = "type")]
    kind: ResponseFormatKind,
    schema: Option<Value>,
}

/// A function without the object around it that the chat API has.
#[derive(Debug)]
struct Tool(Map<String, Value>);

#[derive(Debug)]
struct FlatToolChoice(ToolChoice);

impl ResponsesFields {
    /// Whether the client asks for this in its answer.
    pub(crate) fn includes(&self, what: &str) -> bool {
        self.include.iter().flatten().any(|included| included == what)
    }

    /// The same request in terms of the chat API.
    ///
    /// # Errors
    /// 400 for what refers to something stored, and for items that lack a field.
    pub(crate) fn into_chat(self) -> Result<ChatFields, ApiError> {
        self.check_stateless()?;
        let with_logprobs = self.includes("message.output_text.logprobs") || self.top_logprobs.is_some_and(|n| n > 0);
        let mut conversation = Conversation::default();
        if let Some(instructions) = self.instructions {
            conversation.messages.push(message(Role::System, instructions));
        }
        match self.input {
            Input::Text(text) => conversation.messages.push(message(Role::User, text)),
            Input::Items(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    conversation.push(index, item)?;
                }
            }
        }
        let function = |Tool(function)| chat::Tool { _kind: ToolKind::Function, function };
        let format = self.text.and_then(|text| text.format).map(|format| ResponseFormat {
            kind: format.kind,
            json_schema: (format.kind == ResponseFormatKind::JsonSchema)
                .then_some(JsonSchemaFormat { schema: format.schema }),
        });
        Ok(ChatFields {
            messages: conversation.finish(),
            thinking: self.thinking,
            thinking_token_budget: self.thinking_token_budget,
            reasoning_effort: self.reasoning.and_then(|reasoning| reasoning.effort),
            tools: self.tools.map(|tools| tools.into_iter().map(function).collect()),
            tool_choice: self.tool_choice.map(|FlatToolChoice(choice)| choice),
            response_format: format,
            max_tokens: self.max_output_tokens,
            logprobs: Some(with_logprobs),
            top_logprobs: self.top_logprobs,
            end_user: self.safety_identifier,
            ..ChatFields::default()
        })
    }

    fn check_stateless(&self) -> Result<(), ApiError> {
        let stored = [
            ("previous_response_id", self.previous_response_id.is_some()),
            ("conversation", self.conversation.is_some()),
            ("prompt", self.prompt.is_some()),
            ("background", self.background == Some(true)),
        ];
        match stored.into_iter().find(|(_, is_there)| *is_there) {
            Some((param, _)) => Err(ApiError::invalid(format!(
                "{param} is not supported: this server stores nothing between requests; send the whole conversation as `input`"
            ))
            .with_param(param)),
            None => Ok(()),
        }
    }
}

/// Items, put together to messages: reasoning, text and calls of one reply are one message.
#[derive(Default)]
struct Conversation {
    messages: Vec<Message>,
    /// The last message is a reply that more items may belong to.
    is_reply_open: bool,
}

impl Conversation {
    fn push(&mut self, index: usize, item: Item) -> Result<(), ApiError> {
        let missing = |field: &str| {
            let param = format!("input[{index}]");
            ApiError::invalid(format!(
                "Failed to deserialize the JSON body into the target type: {param}: missing field `{field}`"
            ))
            .with_param(param)
        };
        match item.kind.unwrap_or(ItemKind::Message) {
            ItemKind::Message => {
                let role = item.role.ok_or_else(|| missing("role"))?;
                let Parts(text) = item.content.ok_or_else(|| missing("content"))?;
                if role == Role::Assistant {
                    let reply = self.reply(|reply| reply.content.is_none() && reply.tool_calls.is_none());
                    reply.content = Some(Content(text));
                } else {
                    self.is_reply_open = false;
                    self.messages.push(message(role, text));
                }
            }
            ItemKind::Reasoning => {
                // What the client may see comes first; what it was only to keep for us has the same text.
                let text = item.content.map(|Parts(text)| text).filter(|text| !text.is_empty());
                let text = text.or(item.encrypted_content).or(item.summary.map(|Parts(text)| text));
                let is_new = |reply: &Message| {
                    reply.reasoning_content.is_none() && reply.content.is_none() && reply.tool_calls.is_none()
                };
                self.reply(is_new).reasoning_content = Some(text.unwrap_or_default());
            }
            ItemKind::FunctionCall => {
                let call = chat::ToolCall {
                    id: Some(item.call_id.ok_or_else(|| missing("call_id"))?),
                    function: CalledFunction {
                        name: item.name.ok_or_else(|| missing("name"))?,
                        arguments: Some(Value::String(item.arguments.ok_or_else(|| missing("arguments"))?)),
                    },
                };
                self.reply(|_| true).tool_calls.get_or_insert_default().push(call);
            }
            ItemKind::FunctionCallOutput => {
                let call_id = item.call_id.ok_or_else(|| missing("call_id"))?;
                let Parts(text) = item.output.ok_or_else(|| missing("output"))?;
                self.is_reply_open = false;
                self.messages.push(Message { tool_call_id: Some(call_id), ..message(Role::Tool, text) });
            }
        }
        Ok(())
    }

    /// The reply that the last items belong to, if there is one that `fits`; else a new one.
    fn reply(&mut self, fits: impl FnOnce(&Message) -> bool) -> &mut Message {
        if !(self.is_reply_open && self.messages.last().is_some_and(fits)) {
            self.messages.push(Message { content: None, ..message(Role::Assistant, String::new()) });
            self.is_reply_open = true;
        }
        self.messages.last_mut().expect("one has just been pushed if there was none")
    }

    /// The messages. Clients of this API may leave out reasoning, which stands for empty reasoning.
    fn finish(mut self) -> Vec<Message> {
        for message in self.messages.iter_mut().filter(|message| message.role == Role::Assistant) {
            message.reasoning_content.get_or_insert_default();
        }
        self.messages
    }
}

fn message(role: Role, text: String) -> Message {
    Message {
        role,
        content: Some(Content(text)),
        reasoning_content: None,
        tool_calls: None,
        tool_call_id: None,
        name: None,
        prefix: None,
        tools: None,
        response_format: None,
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a string or an array of items";

        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Input::Items(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Input, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a string or an array of text parts";

        #[derive(serde::Deserialize)]
        struct Part {
            // Read for its check alone: all kinds are text.
            #[serde(rename = "type")]
            _kind: PartKind,
            text: String,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum PartKind {
            InputText,
            OutputText,
            ReasoningText,
            SummaryText,
            Text,
        }

        struct PartsVisitor;
        impl<'de> Visitor<'de> for PartsVisitor {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Parts, E> {
                Ok(Parts(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parts, A::Error> {
                let mut joined = String::new();
                while let Some(part) = seq.next_element::<Part>()? {
                    joined.push_str(&part.text);
                }
                Ok(Parts(joined))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parts, A::Error> {
                Err(number::refuse_map(map, EXPECTED))
            }
        }
        deserializer.deserialize_any(PartsVisitor)
    }
}

impl<'de> Deserialize<'de> for Tool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut function = Map::deserialize(deserializer)?;
        check_kind(function.shift_remove("type").as_ref())?;
        // Clients write out what they leave open.
        function.retain(|_, value| !value.is_null());
        Ok(Tool(function))
    }
}

impl<'de> Deserialize<'de> for FlatToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(choice) => {
                check_kind(choice.get("type"))?;
                let name = choice.get("name").and_then(Value::as_str).ok_or_else(|| D::Error::missing_field("name"))?;
                Ok(FlatToolChoice(ToolChoice::Named(name.to_owned())))
            }
            mode => ToolChoice::deserialize(mode).map(FlatToolChoice).map_err(D::Error::custom),
        }
    }
}

/// The only kind of tool is one that the client runs.
fn check_kind<E: Error>(kind: Option<&Value>) -> Result<(), E> {
    match kind.map(|kind| (kind, kind.as_str())) {
        None => Err(E::missing_field("type")),
        Some((_, Some("function"))) => Ok(()),
        Some((_, Some(kind))) => Err(E::unknown_variant(kind, &["function"])),
        Some((kind, None)) => Err(E::custom(format_args!("invalid type: {kind}, expected a string"))),
    }
}
