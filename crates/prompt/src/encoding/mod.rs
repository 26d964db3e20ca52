//! The encodings that are written here rather than in a chat template: V3.2's, which has none, and the ones that stand
//! in where a checkpoint comes without its template.

mod classic;
mod tools;
mod v31;
mod v32;

use crate::chat::{Chat, Message, Role};
use crate::error::{Error, Result};
use crate::release::{Release, ThinkingPolicy};
use crate::script::Script;

pub(crate) use tools::definitions;

pub(crate) const BOS: &str = "<｜begin▁of▁sentence｜>";
pub(crate) const EOS: &str = "<｜end▁of▁sentence｜>";
pub(crate) const USER: &str = "<｜User｜>";
pub(crate) const ASSISTANT: &str = "<｜Assistant｜>";
pub(crate) const THINK_OPEN: &str = "<think>";
pub(crate) const THINK_CLOSE: &str = "</think>";
pub(crate) const TOOL_CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(crate) const TOOL_CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(crate) const TOOL_CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(crate) const TOOL_CALL_END: &str = "<｜tool▁call▁end｜>";
pub(crate) const TOOL_SEP: &str = "<｜tool▁sep｜>";
pub(crate) const TOOL_OUTPUTS_BEGIN: &str = "<｜tool▁outputs▁begin｜>";
pub(crate) const TOOL_OUTPUTS_END: &str = "<｜tool▁outputs▁end｜>";
pub(crate) const TOOL_OUTPUT_BEGIN: &str = "<｜tool▁output▁begin｜>";
pub(crate) const TOOL_OUTPUT_END: &str = "<｜tool▁output▁end｜>";

/// Encodes a conversation for `release`, up to the point where the model goes on.
pub(crate) fn encode(release: Release, chat: &Chat, thinking: bool) -> Result<Script> {
    match release {
        Release::V3_2 | Release::V3_2Speciale => v32::encode(chat, thinking),
        Release::V3_1 => v31::encode(chat, thinking, v31::Suffix::AfterUser),
        Release::V3_1Terminus | Release::V3_2Exp => v31::encode(chat, thinking, v31::Suffix::Always),
        Release::V3 | Release::V3_0324 | Release::R1 | Release::R1_0528 | Release::R1_0528Qwen3_8B => {
            classic::encode(release, chat)
        }
    }
}

/// The answer in an assistant message that may still hold its reasoning, as models and careless clients write it.
///
/// R1's family keeps what follows the last `</think>`, V3.1 what follows the first. V3.2's encoder takes content as it
/// is, and V3 has no reasoning.
pub(crate) fn answer(release: Release, content: &str) -> &str {
    match release {
        _ if release.thinking_policy() == ThinkingPolicy::Never => content,
        Release::V3_2 | Release::V3_2Speciale => content,
        _ if release.pads_reasoning_with_newlines() => {
            content.rsplit_once(THINK_CLOSE).map_or(content, |(_, answer)| answer)
        }
        _ => content.split_once(THINK_CLOSE).map_or(content, |(_, answer)| answer),
    }
}

/// The texts of all system messages, joined as every release before V3.2 joins them.
fn system_text(messages: &[Message]) -> String {
    let texts: Vec<_> = messages.iter().filter(|message| is_system(message)).map(Message::text).collect();
    texts.join("\n\n")
}

/// Releases before V3.2 have no developer turn; theirs are instructions.
pub(crate) fn is_system(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// What only V3.2 can express must not get lost on another release.
pub(crate) fn refuse_v32_only(release: Release, messages: &[Message]) -> Result<()> {
    match messages.iter().position(|message| !message.tools.is_empty() || message.response_format.is_some()) {
        Some(index) => Err(Error::Message {
            index,
            reason: format!(
                "tools and response_format inside a message are an encoding of V3.2; this checkpoint is {release}. Pass \
                 the request's tools beside the messages"
            ),
        }),
        None => Ok(()),
    }
}
