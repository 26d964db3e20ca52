//! V3, R1 and R1-0528, with the distilled Qwen3: one encoding in three accents.
//!
//! V3's published template has three defects around tool calls (a single call is never closed, calls beside content are
//! lost, the second round of calls is encoded as if it went on with the first) and R1's has the last of them. This is
//! the format as later revisions write it: calls are always closed, and every round opens its own block.

use super::*;

pub(super) fn encode(release: Release, chat: &Chat) -> Result<Script> {
    refuse_v32_only(release, &chat.messages)?;
    let reasons_in_prompt = release == Release::R1;
    let tag_follows_user = matches!(release, Release::R1_0528 | Release::R1_0528Qwen3_8B);
    let between_outputs = if release == Release::R1 { "" } else { "\n" };

    let mut script = Script::default();
    script.control(BOS);
    script.verbatim(&system_text(&chat.messages));
    definitions(&mut script, release, &chat.tools)?;

    let mut previous = Role::System;
    for message in &chat.messages {
        if is_system(message) {
            continue;
        }
        if previous == Role::Tool && message.role != Role::Tool {
            script.control(TOOL_OUTPUTS_END);
        }
        match message.role {
            Role::User => {
                script.control(USER);
                script.verbatim(message.text());
                if tag_follows_user {
                    script.control(ASSISTANT);
                }
            }
            Role::Assistant => {
                // After tool results the model goes on with the same turn.
                if previous != Role::Tool && !tag_follows_user {
                    script.control(ASSISTANT);
                }
                script.verbatim(answer(release, message.text()));
                for (index, call) in message.tool_calls.iter().enumerate() {
                    script.control(if index == 0 { TOOL_CALLS_BEGIN } else { "\n" });
                    script.control(TOOL_CALL_BEGIN);
                    script.control("function");
                    script.control(TOOL_SEP);
                    script.verbatim(&call.name);
                    script.control("\n```json\n");
                    script.verbatim(&call.arguments);
                    script.control("\n```");
                    script.control(TOOL_CALL_END);
                }
                if !message.tool_calls.is_empty() {
                    script.control(TOOL_CALLS_END);
                }
                script.control(EOS);
            }
            Role::Tool => {
                script.control(if previous == Role::Tool { between_outputs } else { TOOL_OUTPUTS_BEGIN });
                script.control(TOOL_OUTPUT_BEGIN);
                script.verbatim(message.text());
                script.control(TOOL_OUTPUT_END);
            }
            Role::System | Role::Developer => {}
        }
        previous = message.role;
    }

    match previous {
        Role::Tool => script.control(TOOL_OUTPUTS_END),
        Role::User if tag_follows_user => {}
        _ => {
            script.control(ASSISTANT);
            if reasons_in_prompt {
                script.control("<think>\n");
            }
        }
    }
    Ok(script)
}
