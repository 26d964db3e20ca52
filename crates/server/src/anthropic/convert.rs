//! From a request for a message to a chat request.
//!
//! Anthropic's messages are turns: all that a user sends after a reply, results of tools and text, is one message of blocks. Chat
//! messages have one thing each, so a turn becomes several: the results first, because they must follow the calls that they
//! answer, then the text.
//!
//! In V3.2's encoding a user message begins a new turn, and the reasoning of the one before is gone. Claude Code sends
//! reminders to the model beside the results of tools, which are no new turn of anybody: text that is marked as a reminder
//! goes into the last result, unless the user has said something too.

use cachalot_prompt::Release;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::history::{self, MissingReasoning};
use crate::sampling::Excess;
use crate::state::CHAT_ALIAS;
use crate::wire::anthropic::{self, Block, Blocks, MessagesFields, THREAD_UNSUPPORTED, ToolChoiceKind};
use crate::wire::chat::{
    CalledFunction, ChatFields, Content, Message, Role, ThinkingKind, Tool, ToolCall, ToolChoice, ToolKind,
};
use crate::wire::common::{CommonFields, Stop};

/// With this begins a line that Claude Code puts before its instructions. It is for Anthropic's accounting, and another one in
/// each request, so that no two prompts would begin alike and nothing be found in the cache.
const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// Claude Code marks the names of models with a long context so.
const LONG_CONTEXT_SUFFIX: &str = "[1m]";
/// How Claude Code marks what it tells the model beside what the user says.
const REMINDER_TAGS: (&str, &str) = ("<system-reminder>", "</system-reminder>");

/// What a conversion depends on beside the request.
pub(super) struct Context<'a> {
    /// The names that `model` may have; every other stands for deepseek-chat.
    pub(super) model_names: [&'a str; 3],
    pub(super) release: Release,
    pub(super) missing_reasoning: MissingReasoning,
}

/// A request for a message as a chat request.
pub(super) struct Converted {
    pub(super) chat: ChatFields,
    pub(super) common: CommonFields,
    /// The reply continues text of the client's.
    pub(super) is_prefilled: bool,
}

/// Converts a request.
///
/// # Errors
/// 400 for what chat requests cannot say, and for turns that do not fit each other. The words are Anthropic's where it has some,
/// and places are those in the request, which a chat request has no more.
pub(super) fn convert(fields: MessagesFields, context: &Context) -> Result<Converted, ApiError> {
    if fields.messages.is_empty() {
        return Err(ApiError::invalid("messages: at least one message is required"));
    }
    if fields.thread.is_some() {
        // Taken as said and not kept, the next message would be answered as if nothing had been said before.
        return Err(ApiError::invalid(
            "thread: not supported, because this server stores nothing between requests; send the whole conversation as \
             `messages`",
        )
        .with_code(THREAD_UNSUPPORTED));
    }
    let mut messages = Vec::new();
    if let Some(system) = fields.system {
        let text = system_text(system);
        if !text.is_empty() {
            messages.push(message(Role::System, text));
        }
    }
    let mut calls = OpenCalls::default();
    let mut is_prefilled = false;
    for turn in turns(fields.messages) {
        is_prefilled = turn.speaker == Speaker::Assistant;
        match turn.speaker {
            Speaker::User => user_turn(turn, &mut calls, &mut messages)?,
            Speaker::Assistant => messages.push(assistant_turn(turn, &mut calls)?),
        }
    }
    calls.check_all_answered()?;
    if is_prefilled && let Some(last) = messages.last_mut() {
        last.prefix = Some(true);
    }
    let thinking_asked_for = fields.thinking.as_ref().is_some_and(|thinking| thinking.kind != ThinkingKind::Disabled);
    if history::keeps_reasoning(context.release) {
        let refuse = thinking_asked_for && context.missing_reasoning == MissingReasoning::Refuse;
        complete_reasoning(&mut messages, if refuse { MissingReasoning::Refuse } else { MissingReasoning::Accept })?;
    }
    let tools = tools(fields.tools.unwrap_or_default())?;
    let chat = ChatFields {
        messages,
        thinking: fields.thinking,
        tool_choice: fields.tool_choice.map(|choice| tool_choice(choice, &tools)).transpose()?,
        tools: Some(tools),
        max_tokens: fields.max_tokens,
        thinking_token_budget: fields.thinking_token_budget,
        end_user: fields.metadata.and_then(|metadata| metadata.user_id).map(without_session),
        excess: Excess::Clamp,
        ..ChatFields::default()
    };
    let common = CommonFields {
        model: fields.model.map(|model| served_name(&model, context.model_names).to_owned()),
        temperature: fields.temperature,
        top_p: fields.top_p,
        stop: fields.stop_sequences.map(Stop),
        stream: fields.stream,
        seed: fields.seed,
        min_tokens: fields.min_tokens,
        priority: fields.priority,
        timeout: fields.timeout,
        cache_salt: fields.cache_salt,
        ..CommonFields::default()
    };
    Ok(Converted { chat, common, is_prefilled })
}

/// Claude Code names the session as well, as a member of a JSON object, before that at the end. Sessions of one user may share what
/// is cached, which is most of what a session begins with.
fn without_session(user_id: String) -> String {
    if let Ok(Value::Object(mut members)) = serde_json::from_str(&user_id) {
        return match members.shift_remove("session_id") {
            Some(_) => Value::Object(members).to_string(),
            None => user_id,
        };
    }
    match user_id.split_once("_session_") {
        Some((user, _)) if user.starts_with("user_") && user.contains("_account_") => user.to_owned(),
        _ => user_id,
    }
}

/// Names of other models, such as Claude's, are what clients have built in; DeepSeek's own endpoint takes them too.
fn served_name<'a>(model: &'a str, names: [&str; 3]) -> &'a str {
    let model = model.strip_suffix(LONG_CONTEXT_SUFFIX).unwrap_or(model);
    if names.contains(&model) { model } else { CHAT_ALIAS }
}

fn message(role: Role, content: String) -> Message {
    Message {
        role,
        content: Some(Content(content)),
        reasoning_content: None,
        tool_calls: None,
        tool_call_id: None,
        name: None,
        prefix: None,
        tools: None,
        response_format: None,
    }
}

fn system_text(Blocks(blocks): Blocks) -> String {
    let texts = blocks.into_iter().filter_map(|block| match block {
        Block::Text(text) if text.starts_with(BILLING_LINE) => {
            text.split_once('\n').map(|(_, rest)| rest.to_owned()).filter(|rest| !rest.is_empty())
        }
        Block::Text(text) => Some(text),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Where a block stood: index of the message, and in it.
#[derive(Clone, Copy)]
struct Place(usize, usize);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "messages.{}.content.{}", self.0, self.1)
    }
}

impl Place {
    fn error(self, message: impl std::fmt::Display) -> ApiError {
        ApiError::invalid(format!("{self}: {message}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    User,
    Assistant,
}

/// All messages of one side until the other speaks.
struct Turn {
    speaker: Speaker,
    blocks: Vec<(Place, Block)>,
}

/// Puts messages together that follow each other from the same side, as Anthropic's API does.
fn turns(messages: Vec<anthropic::Message>) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for (message_index, anthropic::Message { role, content: Blocks(mut blocks) }) in messages.into_iter().enumerate() {
        let speaker = match role {
            anthropic::Role::User => Speaker::User,
            anthropic::Role::Assistant => Speaker::Assistant,
            anthropic::Role::System => {
                blocks.iter_mut().for_each(mark_as_reminder);
                Speaker::User
            }
        };
        let blocks = blocks.into_iter().enumerate().map(|(index, block)| (Place(message_index, index), block));
        match turns.last_mut() {
            Some(turn) if turn.speaker == speaker => turn.blocks.extend(blocks),
            _ => turns.push(Turn { speaker, blocks: blocks.collect() }),
        }
    }
    turns
}

fn mark_as_reminder(block: &mut Block) {
    if let Block::Text(text) = block
        && !is_reminder(text)
    {
        let (open, close) = REMINDER_TAGS;
        *text = format!("{open}\n{text}\n{close}");
    }
}

fn is_reminder(text: &str) -> bool {
    let (open, close) = REMINDER_TAGS;
    text.trim_start().starts_with(open) && text.trim_end().ends_with(close)
}

/// The calls of the turn before, as long as they have no result.
#[derive(Default)]
struct OpenCalls {
    ids: Vec<String>,
    /// Index of the message that made the last of them.
    message: usize,
}

impl OpenCalls {
    fn answer(&mut self, place: Place, id: &str) -> Result<(), ApiError> {
        let Some(position) = self.ids.iter().position(|open| open == id) else {
            return Err(place.error(format_args!(
                "unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a \
                 corresponding `tool_use` block in the previous message."
            )));
        };
        self.ids.remove(position);
        Ok(())
    }

    fn check_all_answered(&self) -> Result<(), ApiError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "messages.{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` \
             block must have a corresponding `tool_result` block in the next message.",
            self.message,
            self.ids.join(", ")
        )))
    }
}

fn user_turn(turn: Turn, calls: &mut OpenCalls, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let first_result = messages.len();
    let mut texts = Vec::new();
    for (place, block) in turn.blocks {
        match block {
            Block::Text(text) => texts.push(text),
            Block::ToolResult(anthropic::ToolResult { tool_use_id, content }) => {
                calls.answer(place, &tool_use_id)?;
                let content = result_text(content.unwrap_or_default());
                messages.push(Message { tool_call_id: Some(tool_use_id), ..message(Role::Tool, content) });
            }
            Block::Thinking(_) | Block::RedactedThinking | Block::ToolUse(_) => {
                return Err(place.error("`thinking` and `tool_use` blocks can only be in `assistant` messages"));
            }
            Block::Other(kind) if carries_content(&kind) => {
                return Err(place.error(format_args!(
                    "`{kind}` blocks are not supported: this model reads text alone; send what is in it as text"
                )));
            }
            Block::Other(_) => {}
        }
    }
    calls.check_all_answered()?;
    match messages[first_result..].last_mut() {
        Some(Message { content: Some(Content(result)), .. }) if texts.iter().all(|text| is_reminder(text)) => {
            for text in texts {
                result.push('\n');
                result.push_str(&text);
            }
        }
        _ => messages.push(message(Role::User, texts.join("\n"))),
    }
    Ok(())
}

/// Whether something of the user's is in blocks of this kind. Without it the model would answer another question, and nobody
/// would know.
fn carries_content(kind: &str) -> bool {
    matches!(kind, "image" | "document" | "search_result" | "container_upload")
}

/// The text of a tool's result. A tool may return what nobody asked to see, such as an image from a folder of files; the model
/// is told that there was something, so that it can say so or find another way.
fn result_text(Blocks(blocks): Blocks) -> String {
    let texts = blocks.into_iter().map(|block| match block {
        Block::Text(text) => text,
        Block::Other(kind) => format!("[{kind} left out: only text can be read]"),
        Block::Thinking(_) | Block::RedactedThinking | Block::ToolUse(_) | Block::ToolResult(_) => String::new(),
    });
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

fn assistant_turn(turn: Turn, calls: &mut OpenCalls) -> Result<Message, ApiError> {
    let mut reasoning: Option<String> = None;
    let mut content = String::new();
    let mut tool_calls = Vec::new();
    for (place, block) in turn.blocks {
        match block {
            // Citations cut a text into blocks; together they are what the model has written.
            Block::Text(text) => content.push_str(&text),
            Block::Thinking(text) => reasoning.get_or_insert_default().push_str(&text),
            // There was some, which only Anthropic can read.
            Block::RedactedThinking => reasoning = Some(reasoning.unwrap_or_default()),
            Block::ToolUse(anthropic::ToolUse { id, name, input }) => {
                calls.ids.push(id.clone());
                calls.message = place.0;
                let arguments = Some(Value::Object(input.unwrap_or_default()));
                tool_calls.push(ToolCall { id: Some(id), function: CalledFunction { name, arguments } });
            }
            Block::ToolResult(_) => {
                return Err(place.error("`tool_result` blocks can only be in `user` messages"));
            }
            // Tools that ran on Anthropic's servers, and their results.
            Block::Other(_) => {}
        }
    }
    Ok(Message { reasoning_content: reasoning, tool_calls: Some(tool_calls), ..message(Role::Assistant, content) })
}

/// Reads missing reasoning of the running turn as empty, or refuses it.
///
/// A model may have thought nothing, and a client that did not ask for thinking does not send it back; neither is a mistake.
/// One that asked for thinking and has none in the whole turn has lost it.
fn complete_reasoning(messages: &mut [Message], missing: MissingReasoning) -> Result<(), ApiError> {
    let turn = messages.iter().rposition(|message| message.role == Role::User).map_or(0, |index| index + 1);
    let replies =
        || messages[turn..].iter().filter(|message| message.role == Role::Assistant && message.prefix.is_none());
    let has_lost_it = replies().next().is_some() && replies().all(|reply| reply.reasoning_content.is_none());
    if has_lost_it && missing == MissingReasoning::Refuse {
        return Err(ApiError::invalid("The content[].thinking in the thinking mode must be passed back to the API."));
    }
    for reply in &mut messages[turn..] {
        if reply.role == Role::Assistant && reply.prefix.is_none() {
            reply.reasoning_content.get_or_insert_default();
        }
    }
    Ok(())
}

/// The client's own functions. Others run on Anthropic's servers, or are built into its models: this model cannot call them, and
/// is not told of them.
fn tools(tools: Vec<anthropic::Tool>) -> Result<Vec<Tool>, ApiError> {
    let mut functions = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let anthropic::Tool { kind, name, description, input_schema, strict } = tool;
        if kind.is_some_and(|kind| kind != "custom") {
            continue;
        }
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
        let name = match name {
            None => return Err(ApiError::invalid(format!("tools.{index}.name: Field required"))),
            Some(name) if (1..=64).contains(&name.len()) && name.chars().all(is_allowed) => name,
            Some(name) => {
                return Err(ApiError::invalid(format!(
                    "tools.{index}.name: `{name}` should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
                )));
            }
        };
        let mut function = Map::new();
        function.insert("name".to_owned(), Value::String(name));
        if let Some(description) = description {
            function.insert("description".to_owned(), Value::String(description));
        }
        if let Some(input_schema) = input_schema {
            function.insert("parameters".to_owned(), Value::Object(input_schema));
        }
        if let Some(strict) = strict {
            function.insert("strict".to_owned(), Value::Bool(strict));
        }
        functions.push(Tool { _kind: ToolKind::Function, function });
    }
    Ok(functions)
}

fn tool_choice(choice: anthropic::ToolChoice, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    Ok(match choice.kind {
        ToolChoiceKind::None => ToolChoice::None,
        ToolChoiceKind::Auto => ToolChoice::Auto,
        ToolChoiceKind::Any if tools.is_empty() => {
            return Err(ApiError::invalid("tool_choice: `any` needs at least one tool that the client runs"));
        }
        ToolChoiceKind::Any => ToolChoice::Required,
        ToolChoiceKind::Tool => match choice.name {
            Some(name) => ToolChoice::Named(name),
            None => return Err(ApiError::invalid("tool_choice.name: Field required")),
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert_json(body: Value, missing_reasoning: MissingReasoning) -> Result<Converted, ApiError> {
        let model_names = ["tiny", "deepseek-chat", "deepseek-reasoner"];
        let context = Context { model_names, release: Release::V3_2, missing_reasoning };
        // From text, as in a request: there, numbers have arbitrary precision.
        convert(serde_json::from_str(&body.to_string()).unwrap(), &context)
    }

    /// A message on one line: role, then what it has.
    fn shown(message: &Message) -> String {
        let mut line = format!("{:?}", message.role).to_lowercase();
        if let Some(id) = &message.tool_call_id {
            line += &format!("({id})");
        }
        if let Some(reasoning) = &message.reasoning_content {
            line += &format!(" <think>{reasoning}</think>");
        }
        line += &format!(" {}", message.content.as_ref().unwrap().0);
        for call in message.tool_calls.iter().flatten() {
            let CalledFunction { name, arguments } = &call.function;
            line += &format!(" {}={name}({})", call.id.as_ref().unwrap(), arguments.as_ref().unwrap());
        }
        if message.prefix == Some(true) {
            line += " …";
        }
        line
    }

    #[track_caller]
    fn check(body: Value, expected: Result<&[&str], &str>) {
        match (convert_json(body.clone(), MissingReasoning::Refuse), expected) {
            (Ok(converted), Ok(expected)) => {
                let lines: Vec<String> = converted.chat.messages.iter().map(shown).collect();
                assert_eq!(lines, expected, "{body}");
            }
            (Err(error), Err(words)) => {
                assert_eq!(error.status(), 400);
                assert!(error.to_string().contains(words), "{words:?} is not in {error}");
            }
            (Ok(_), Err(words)) => panic!("{body} should be refused: {words}"),
            (Err(error), Ok(_)) => panic!("{error} for {body}"),
        }
    }

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}})
    }

    fn thinking(text: &str) -> Value {
        json!({"type": "thinking", "thinking": text, "signature": "msg_1"})
    }

    fn tool_use(id: &str) -> Value {
        json!({"type": "tool_use", "id": id, "name": "f", "input": {"x": 1.50, "big": 12345678901234567890_u64}})
    }

    fn result(id: &str, content: Value) -> Value {
        json!({"type": "tool_result", "tool_use_id": id, "content": content, "is_error": false})
    }

    fn user(content: impl Into<Value>) -> Value {
        json!({"role": "user", "content": content.into()})
    }

    fn assistant(content: impl Into<Value>) -> Value {
        json!({"role": "assistant", "content": content.into()})
    }

    const CALL: &str = r#"f({"x":1.5,"big":12345678901234567890})"#;

    #[test]
    fn texts() {
        check(json!({"messages": [user("hi")]}), Ok(&["user hi"]));
        check(
            json!({"system": "S", "messages": [user("a"), assistant("b"), user([text("c"), text("d")])]}),
            Ok(&["system S", "user a", "assistant b", "user c\nd"]),
        );
        // Several blocks of instructions, and what is no text among them.
        check(
            json!({"system": [text("A"), {"type": "image"}, text("B")], "messages": [user("hi")]}),
            Ok(&["system A\nB", "user hi"]),
        );
        check(json!({"system": [], "messages": [user("hi")]}), Ok(&["user hi"]));
        // A line that differs from request to request, and says nothing to the model.
        let billing = "x-anthropic-billing-header: cc_version=2.1.100; cch=eb6c6;";
        check(json!({"system": [text(billing), text("A")], "messages": [user("hi")]}), Ok(&["system A", "user hi"]));
        check(json!({"system": format!("{billing}\nA"), "messages": [user("hi")]}), Ok(&["system A", "user hi"]));
        check(json!({"system": billing, "messages": [user(billing)]}), Ok(&[&format!("user {billing}")]));
        // Messages of one side are one turn; pieces of what the model wrote fit together without help.
        check(
            json!({"messages": [user("a"), user("b"), assistant([text("c"), text("d")]), assistant("e"), user("f")]}),
            Ok(&["user a\nb", "assistant cde", "user f"]),
        );
        check(json!({"messages": [user(json!([]))]}), Ok(&["user "]));
        // The reply continues what stands there.
        check(json!({"messages": [user("a"), assistant("{\"")]}), Ok(&["user a", "assistant {\" …"]));
        check(
            json!({"messages": [user("a"), assistant([thinking("hm")])], "thinking": {"type": "enabled"}}),
            Ok(&["user a", "assistant <think>hm</think>  …"]),
        );
        check(json!({"messages": []}), Err("messages: at least one message is required"));
    }

    #[test]
    fn tools_and_their_results() {
        let calls = |ids: &[&str]| {
            let blocks = [thinking("hm"), text("Let me see.")].into_iter().chain(ids.iter().map(|id| tool_use(id)));
            assistant(blocks.collect::<Vec<_>>())
        };
        let one_call = format!("assistant <think>hm</think> Let me see. a={CALL}");
        let two_calls = format!("assistant <think>hm</think> Let me see. a={CALL} b={CALL}");
        let cases: Vec<(Value, Vec<&str>)> = vec![
            (
                json!([user("q"), calls(&["a"]), user([result("a", json!("1"))])]),
                vec!["user q", &one_call, "tool(a) 1"],
            ),
            // The parts of a result are joined; one without any is empty.
            (
                json!([
                    user("q"),
                    calls(&["a", "b"]),
                    user([
                        result("b", json!([text("1"), text("2"), {"type": "image", "source": {}}])),
                        result("a", Value::Null),
                    ])
                ]),
                vec!["user q", &two_calls, "tool(b) 1\n2\n[image left out: only text can be read]", "tool(a) "],
            ),
            // Results first, wherever they stand in the turn or in how many messages it comes.
            (
                json!([
                    user("q"),
                    calls(&["a", "b"]),
                    user([text("and"), result("a", json!("1"))]),
                    user([result("b", json!("2")), text("so?")])
                ]),
                vec!["user q", &two_calls, "tool(a) 1", "tool(b) 2", "user and\nso?"],
            ),
            // Reminders belong to the last result, unless somebody has said something.
            (
                json!([
                    user("q"),
                    calls(&["a", "b"]),
                    user([
                        result("a", json!("1")),
                        result("b", json!("2")),
                        text("<system-reminder>\nR\n</system-reminder>\n")
                    ])
                ]),
                vec!["user q", &two_calls, "tool(a) 1", "tool(b) 2\n<system-reminder>\nR\n</system-reminder>\n"],
            ),
            (
                json!([
                    user("q"),
                    calls(&["a"]),
                    user([result("a", json!("1")), text("<system-reminder>R</system-reminder>"), text("stop")])
                ]),
                vec!["user q", &one_call, "tool(a) 1", "user <system-reminder>R</system-reminder>\nstop"],
            ),
            (
                json!([user("q"), calls(&["a"]), user([result("a", json!("1"))]), {"role": "system", "content": "R"}]),
                vec!["user q", &one_call, "tool(a) 1\n<system-reminder>\nR\n</system-reminder>"],
            ),
            // What only Anthropic's servers understand.
            (
                json!([
                    user(json!([text("q"), {"type": "from_the_future", "text": 5}])),
                    assistant(json!([
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                    {"type": "redacted_thinking", "data": "x"}, tool_use("a")])),
                    user([result("a", json!(""))])
                ]),
                vec!["user q", "assistant <think></think>  a=f({\"x\":1.5,\"big\":12345678901234567890})", "tool(a) "],
            ),
        ];
        for (messages, expected) in cases {
            check(json!({"messages": messages, "thinking": {"type": "enabled"}}), Ok(&expected));
        }
        let refused: Vec<(Value, &str)> = vec![
            (
                json!([user("q"), user([result("z", json!("1"))])]),
                "messages.1.content.0: unexpected `tool_use_id` found in `tool_result` blocks: z. Each",
            ),
            (
                json!([user("q"), calls(&["a"]), user([result("a", json!("1")), result("a", json!("1"))])]),
                "messages.2.content.1: unexpected `tool_use_id`",
            ),
            (
                json!([user("q"), calls(&["a", "b"]), user([result("a", json!("1"))])]),
                "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: b. Each",
            ),
            (json!([user("q"), calls(&["a"]), user("no")]), "immediately after: a"),
            (json!([user("q"), calls(&["a"])]), "immediately after: a"),
            (
                json!([user(json!([text("What is this?"), {"type": "image", "source": {}}]))]),
                "messages.0.content.1: `image` blocks are not supported: this model reads text alone",
            ),
            (json!([user(json!([{"type": "document"}]))]), "messages.0.content.0: `document` blocks are not supported"),
            (json!([user([tool_use("a")])]), "messages.0.content.0: `thinking` and `tool_use` blocks can only be in"),
            (
                json!([user("q"), assistant([result("a", json!("1"))])]),
                "messages.1.content.0: `tool_result` blocks can only be in `user` messages",
            ),
        ];
        for (messages, words) in refused {
            check(json!({"messages": messages}), Err(words));
        }
    }

    /// What the client has not sent back is taken for empty, except where it must have been lost.
    #[test]
    fn missing_reasoning() {
        let silent = |id: &str| assistant([tool_use(id)]);
        let loud = |id: &str| assistant([thinking("hm"), tool_use(id)]);
        let results = |id: &str| user([result(id, json!("1"))]);
        let lost = json!([user("q"), silent("a"), results("a"), silent("b"), results("b")]);
        let partly = json!([user("q"), loud("a"), results("a"), silent("b"), results("b")]);
        let old = json!([user("q"), silent("a"), results("a"), user("q"), loud("b"), results("b")]);
        let on = json!({"type": "enabled", "budget_tokens": 1024});
        let words = "The content[].thinking in the thinking mode must be passed back to the API.";
        for (messages, thinking, policy, refused) in [
            (&lost, &on, MissingReasoning::Refuse, true),
            (&lost, &json!({"type": "adaptive"}), MissingReasoning::Refuse, true),
            (&lost, &on, MissingReasoning::Accept, false),
            (&lost, &json!({"type": "disabled"}), MissingReasoning::Refuse, false),
            (&lost, &Value::Null, MissingReasoning::Refuse, false),
            (&partly, &on, MissingReasoning::Refuse, false),
            (&old, &on, MissingReasoning::Refuse, false),
        ] {
            let body = json!({"messages": messages, "thinking": thinking});
            match convert_json(body.clone(), policy) {
                Ok(Converted { chat, .. }) => {
                    assert!(!refused, "{body} {policy:?}");
                    let last_call = chat.messages.iter().rfind(|message| message.role == Role::Assistant).unwrap();
                    assert!(last_call.reasoning_content.is_some(), "{body}");
                }
                Err(error) => {
                    assert!(refused, "{error} for {body} {policy:?}");
                    assert_eq!(error.to_string(), words);
                }
            }
        }
    }

    #[test]
    fn tools_and_choices() {
        let tools = json!([
            {"name": "a", "description": "A", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            {"type": "custom", "name": "b"},
            {"type": "bash_20250124", "name": "bash"},
        ]);
        let body = |fields: Value| {
            let mut body = json!({"messages": [user("hi")]});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            body
        };
        let converted = convert_json(body(json!({"tools": tools})), MissingReasoning::Refuse).unwrap();
        let functions: Vec<Value> =
            converted.chat.tools.unwrap().into_iter().map(|tool| Value::Object(tool.function)).collect();
        assert_eq!(
            json!(functions).to_string(),
            r#"[{"name":"a","description":"A","parameters":{"type":"object"}},{"name":"b"}]"#
        );
        assert_eq!(converted.chat.tool_choice, None);
        for (choice, expected) in [
            (json!({"type": "none"}), ToolChoice::None),
            (json!({"type": "auto", "disable_parallel_tool_use": true}), ToolChoice::Auto),
            (json!({"type": "any"}), ToolChoice::Required),
            (json!({"type": "tool", "name": "a"}), ToolChoice::Named("a".to_owned())),
        ] {
            let body = body(json!({"tools": tools, "tool_choice": choice}));
            let converted = convert_json(body, MissingReasoning::Refuse).unwrap();
            assert_eq!(converted.chat.tool_choice, Some(expected), "{choice}");
        }
        for (fields, words) in [
            (json!({"tools": [tools[1], {"description": "nameless"}]}), "tools.1.name: Field required"),
            (json!({"tools": [tools[1], {"name": "no spaces"}]}), "tools.1.name: `no spaces` should match pattern"),
            (
                json!({"tools": [tools[1]], "tool_choice": {"type": "any"}}),
                "tool_choice: `any` needs at least one tool",
            ),
            (json!({"tools": tools, "tool_choice": {"type": "tool"}}), "tool_choice.name: Field required"),
        ] {
            check(body(fields), Err(words));
        }
    }

    #[test]
    fn names_of_models() {
        let names = ["tiny", "deepseek-chat", "deepseek-reasoner"];
        for (model, served) in [
            ("tiny", "tiny"),
            ("deepseek-chat", "deepseek-chat"),
            ("deepseek-reasoner", "deepseek-reasoner"),
            ("deepseek-reasoner[1m]", "deepseek-reasoner"),
            ("claude-sonnet-4-5[1m]", "deepseek-chat"),
            ("claude-opus-4-1", "deepseek-chat"),
            ("", "deepseek-chat"),
        ] {
            assert_eq!(served_name(model, names), served, "{model}");
        }
    }
}
