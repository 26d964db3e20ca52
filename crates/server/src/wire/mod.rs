//! The JSON of requests and answers, and nothing else: no ranges are checked here, no defaults filled in.

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod completion;
pub(crate) mod guided;
pub(crate) mod logprobs;
pub(crate) mod number;
pub(crate) mod usage;
