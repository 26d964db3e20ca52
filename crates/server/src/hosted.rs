//! What the hosted API does with every request and this server only with those that name a hosted model: programs that were
//! written for `deepseek-chat` or `deepseek-reasoner` find the limits they were written for, and who names the model by its own
//! name has all that it can do.

use cachalot_prompt::Release;

use crate::state::{CHAT_ALIAS, REASONER_ALIAS};

/// Tokens of an answer without thinking, and of R1's answer after its reasoning.
const MAX_ANSWER_TOKENS: usize = 8 << 10;
/// Tokens of an answer with thinking, reasoning included.
const MAX_REASONER_TOKENS: usize = 64 << 10;
/// Tokens of V3.2-Speciale's answers.
const MAX_SPECIALE_TOKENS: usize = 128 << 10;
/// Tokens of a completion, with a suffix or without.
pub(crate) const MAX_COMPLETION_TOKENS: usize = 4 << 10;

/// Whether the request names a hosted model.
pub(crate) fn is_named(model: Option<&str>) -> bool {
    matches!(model, Some(CHAT_ALIAS | REASONER_ALIAS))
}

/// The most that `max_tokens` may be for a chat.
pub(crate) fn max_chat_tokens(release: Release, thinking: bool) -> usize {
    match release {
        Release::V3_2Speciale => MAX_SPECIALE_TOKENS,
        Release::R1 => MAX_ANSWER_TOKENS,
        _ if thinking => MAX_REASONER_TOKENS,
        _ => MAX_ANSWER_TOKENS,
    }
}
