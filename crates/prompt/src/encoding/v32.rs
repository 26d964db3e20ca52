//! V3.2 and V3.2-Speciale: no template was published, the encoding is this algorithm.
//!
//! - The tag that opens a reply, `<think>` or `</think>`, belongs to the user turn or the tool results before it.
//! - Reasoning is encoded after the last user message only: it lives as long as the running tool turn.
//! - Tools are called in DSML, an XML-like markup whose one control token is `｜DSML｜`. A parameter says whether its
//!   value is a string as it stands or JSON.
//! - Results answer calls by position, and the block closes with the last one.
//!
//! The published encoder cannot encode a developer message before the last user turn in thinking mode: it drops the
//! message together with the reasoning of that time, and then fails on its own count. Here the message stays.

use serde_json::{Map, Value};

use super::tools::function_of;
use super::*;
use crate::python_json;

/// What comes before the tool definitions.
const TOOLS_HEAD: &str = r#"## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
"#;

pub(super) fn encode(chat: &Chat, thinking: bool) -> Result<Script> {
    let messages = &chat.messages;
    let last_user = messages.iter().rposition(|message| matches!(message.role, Role::User | Role::Developer));
    // Without a user message everything belongs to the running turn.
    let in_running_turn = |index: usize| last_user.is_none_or(|last| index >= last);
    let reply_tag = |index: usize| if thinking && in_running_turn(index) { THINK_OPEN } else { THINK_CLOSE };

    let mut script = Script::default();
    script.control(BOS);
    // The request's tools belong to the first message if it is a system message, else to an empty one before it.
    let first_is_system = messages.first().is_some_and(|message| message.role == Role::System);
    if !first_is_system {
        tools_block(&mut script, &chat.tools)?;
    }

    let mut calls = 0;
    let mut results = 0;
    for (index, message) in messages.iter().enumerate() {
        let refuse = |reason: String| Error::Message { index, reason };
        match message.role {
            Role::System => {
                script.verbatim(message.text());
                let of_request = if index == 0 { chat.tools.as_slice() } else { &[] };
                tools_block(&mut script, message.tools.iter().chain(of_request))?;
                response_format(&mut script, message);
            }
            Role::Developer => {
                script.control(USER);
                tools_block(&mut script, &message.tools)?;
                response_format(&mut script, message);
                script.control("\n\n# The user's message is: ");
                script.verbatim(message.text());
                script.control(ASSISTANT);
                script.control(reply_tag(index));
            }
            Role::User => {
                script.control(USER);
                script.verbatim(message.text());
                script.control(ASSISTANT);
                script.control(reply_tag(index));
            }
            Role::Assistant => {
                if thinking && in_running_turn(index) {
                    if message.reasoning().is_empty() && message.tool_calls.is_empty() {
                        return Err(refuse(
                            "in thinking mode, an assistant message after the last user message needs reasoning_content \
                             or tool_calls"
                                .to_owned(),
                        ));
                    }
                    script.verbatim(message.reasoning());
                    script.control(THINK_CLOSE);
                }
                script.verbatim(message.text());
                if !message.tool_calls.is_empty() {
                    script.control("\n\n<｜DSML｜function_calls>\n");
                    for call in &message.tool_calls {
                        let arguments = parse_arguments(&call.arguments)
                            .map_err(|reason| refuse(format!("the arguments of {:?}: {reason}", call.name)))?;
                        invoke(&mut script, &call.name, &arguments);
                    }
                    script.control("</｜DSML｜function_calls>");
                }
                script.control(EOS);
            }
            Role::Tool => {
                results += 1;
                if results > calls {
                    return Err(refuse(format!(
                        "tool result {results} after an assistant message with {calls} tool calls; results must follow \
                         the calls that they answer"
                    )));
                }
                if results == 1 {
                    script.control("\n\n<function_results>");
                }
                script.control("\n<result>");
                script.verbatim(message.text());
                script.control("</result>");
                if results == calls {
                    script.control("\n</function_results>\n\n");
                    script.control(reply_tag(index));
                }
            }
        }
        if message.role != Role::Tool {
            calls = message.tool_calls.len();
            results = 0;
        }
    }
    Ok(script)
}

/// Appends the definitions of `tools` after an empty line, and nothing when there are none.
fn tools_block<'a>(script: &mut Script, tools: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let mut tools = tools.into_iter().peekable();
    if tools.peek().is_none() {
        return Ok(());
    }
    script.control("\n\n");
    script.control(TOOLS_HEAD);
    for tool in tools {
        function_of(tool)?;
        script.verbatim(&python_json::dumps(&tool["function"]));
        script.control("\n");
    }
    script.control("</functions>\n");
    Ok(())
}

fn response_format(script: &mut Script, message: &Message) {
    if let Some(schema) = &message.response_format {
        script.control("\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n");
        script.verbatim(&python_json::dumps(schema));
    }
}

/// The arguments as the model wrote them; no text at all, as some clients send it, is no arguments.
fn parse_arguments(arguments: &str) -> std::result::Result<Map<String, Value>, String> {
    if arguments.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(arguments) {
        Ok(Value::Object(entries)) => Ok(entries),
        Ok(other) => Err(format!("expected a JSON object, found {}", python_json::dumps(&other))),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

fn invoke(script: &mut Script, name: &str, arguments: &Map<String, Value>) {
    script.control("<｜DSML｜invoke name=\"");
    script.verbatim(name);
    script.control("\">\n");
    for (index, (key, value)) in arguments.iter().enumerate() {
        if index > 0 {
            script.control("\n");
        }
        script.control("<｜DSML｜parameter name=\"");
        script.verbatim(key);
        match value {
            Value::String(text) => {
                script.control("\" string=\"true\">");
                script.verbatim(text);
            }
            other => {
                script.control("\" string=\"false\">");
                script.verbatim(&python_json::dumps(other));
            }
        }
        script.control("</｜DSML｜parameter>");
    }
    // Without arguments an empty line stays between the tags.
    script.control("\n</｜DSML｜invoke>\n");
}
