//! V3.1, V3.1-Terminus and V3.2-Exp.
//!
//! Every assistant turn of the past reads `<｜Assistant｜></think>` and its answer: reasoning is never encoded. Calls
//! and their results follow one another without separators.

use super::*;

/// Where the prompt asks for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suffix {
    /// After a user message only, as V3.1's template does.
    AfterUser,
    /// Also after a conversation that ends with an assistant message or has system text only, as the later revision
    /// of the template does. After a tool result the model goes on by itself in both.
    Always,
}

pub(super) fn encode(chat: &Chat, thinking: bool, suffix: Suffix) -> Result<Script> {
    // Which of the three releases it is makes no difference to the two functions that ask.
    let release = Release::V3_1;
    refuse_v32_only(release, &chat.messages)?;

    let mut script = Script::default();
    script.control(BOS);
    script.verbatim(&system_text(&chat.messages));
    definitions(&mut script, release, &chat.tools)?;

    let mut previous = Role::System;
    for message in &chat.messages {
        match message.role {
            Role::System | Role::Developer => continue,
            Role::User => {
                script.control(USER);
                script.verbatim(message.text());
            }
            Role::Assistant => {
                if previous == Role::User {
                    script.control("<｜Assistant｜></think>");
                }
                script.verbatim(answer(release, message.text()));
                if !message.tool_calls.is_empty() {
                    script.control(TOOL_CALLS_BEGIN);
                    for call in &message.tool_calls {
                        script.control(TOOL_CALL_BEGIN);
                        script.verbatim(&call.name);
                        script.control(TOOL_SEP);
                        script.verbatim(&call.arguments);
                        script.control(TOOL_CALL_END);
                    }
                    script.control(TOOL_CALLS_END);
                }
                script.control(EOS);
            }
            Role::Tool => {
                script.control(TOOL_OUTPUT_BEGIN);
                script.verbatim(message.text());
                script.control(TOOL_OUTPUT_END);
            }
        }
        previous = message.role;
    }

    let asks = match previous {
        Role::User => true,
        Role::Tool => false,
        _ => suffix == Suffix::Always,
    };
    if asks {
        script.control(ASSISTANT);
        script.control(if thinking { THINK_OPEN } else { THINK_CLOSE });
    }
    Ok(script)
}
