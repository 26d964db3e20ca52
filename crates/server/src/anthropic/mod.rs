//! Anthropic's API over the same requests, so that Claude Code and whatever else speaks to Anthropic's models speaks to these.
//!
//! `convert` makes a chat request of a request for a message; what comes out is written as one JSON object (`messages`) or as
//! events (`stream`). The errors of these paths get their form in [`dialect`](crate::dialect).
//!
//! Left out on purpose: what DeepSeek's own endpoint of this kind leaves out, which is images, documents, and the tools that
//! Anthropic's servers run; and `cache_control`, because every prompt is cached.

mod convert;
pub(crate) mod messages;
pub(crate) mod models;
mod stream;
#[cfg(test)]
mod tests;
