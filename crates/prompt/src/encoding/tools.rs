//! Tool definitions for the releases before V3.2, as a block that follows the system text.
//!
//! V3.1's model card fixes the block for V3.1 and its successors. The templates of V3 and R1 say nothing about
//! definitions; they get the same block with a call of their own form in it.

use serde_json::Value;

use super::{TOOL_CALL_BEGIN, TOOL_CALL_END, TOOL_CALLS_BEGIN, TOOL_CALLS_END, TOOL_SEP};
use crate::error::{Error, Result};
use crate::python_json;
use crate::release::Release;
use crate::script::Script;

/// Appends the definitions of `tools`, and nothing when there are none.
pub(crate) fn definitions(script: &mut Script, release: Release, tools: &[Value]) -> Result<()> {
    if tools.is_empty() {
        return Ok(());
    }
    script.control("\n\n## Tools\nYou have access to the following tools:\n");
    for tool in tools {
        let function = function_of(tool)?;
        let text = |key| function.get(key).and_then(Value::as_str).unwrap_or("");
        let parameters = function.get("parameters").map_or_else(|| "{}".to_owned(), python_json::dumps);
        script.control("\n### ");
        script.verbatim(text("name"));
        script.control("\nDescription: ");
        script.verbatim(text("description"));
        script.control("\n\nParameters: ");
        script.verbatim(&parameters);
        script.control("\n");
    }
    let (header, body_end, rule) = match release {
        Release::V3 | Release::V3_0324 | Release::R1 | Release::R1_0528 | Release::R1_0528Qwen3_8B => {
            (format!("function{TOOL_SEP}tool_call_name\n```json\n"), "\n```", "put each further call on a new line")
        }
        Release::V3_1 | Release::V3_1Terminus | Release::V3_2Exp | Release::V3_2 | Release::V3_2Speciale => {
            (format!("tool_call_name{TOOL_SEP}"), "", "chain them directly without separators or spaces")
        }
    };
    script.control(&format!(
        "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n\
         {TOOL_CALLS_BEGIN}{TOOL_CALL_BEGIN}{header}tool_call_arguments{body_end}{TOOL_CALL_END}\
         {{additional_tool_calls}}{TOOL_CALLS_END}\n\n\
         Where:\n\
         - `tool_call_name` must be an exact match to one of the available tools\n\
         - `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n\
         - For multiple tool calls, {rule}"
    ));
    Ok(())
}

/// The `function` object of a tool in the OpenAI form.
pub(super) fn function_of(tool: &Value) -> Result<&serde_json::Map<String, Value>> {
    let function = tool.get("function").and_then(Value::as_object);
    let named = function.filter(|function| function.get("name").is_some_and(Value::is_string));
    named.ok_or_else(|| {
        Error::Chat(format!(
            "a tool must read {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}, found {}",
            python_json::dumps(tool)
        ))
    })
}
