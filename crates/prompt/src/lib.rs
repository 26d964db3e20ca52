//! Text to token ids and back: tokenizer, chat encoding per release, incremental detokenizer, replies told apart.
//!
//! A [`Prompt`] is a checkpoint's text side. It knows the [`Release`], encodes a [`Chat`] as [`Rendered`] ids, and an
//! [`OutputParser`] turns the ids of the reply back into text, told apart as reasoning, content and tool calls.
//!
//! ```no_run
//! use cachalot_prompt::{Chat, Delta, Message, OutputOptions, OutputParser, Prompt, PromptFiles, Role};
//!
//! # fn generate(ids: &[u32]) -> Vec<u32> { Vec::new() }
//! let prompt = Prompt::open(&PromptFiles::read("DeepSeek-V3.2".as_ref())?, None)?;
//! let chat = Chat { messages: vec![Message::new(Role::User, "1+1=?")], thinking: true, ..Chat::default() };
//! let rendered = prompt.render(&chat)?;
//! let mut parser = OutputParser::new(&prompt, rendered.reasoning_open, OutputOptions::default());
//! let mut answer = String::new();
//! for id in generate(&rendered.ids) {
//!     for delta in parser.push(id) {
//!         if let Delta::Content(text) = delta {
//!             answer.push_str(&text);
//!         }
//!     }
//! }
//! # Ok::<(), cachalot_prompt::Error>(())
//! ```
//!
//! What a reply must be like is a [`ReplySpec`]; [`Prompt::grammar`] makes a [`Grammar`] of it, which says at each position which
//! tokens may come.
//!
//! Nothing here computes, schedules, or knows HTTP. What people and tools write never becomes a control token: see
//! [`Tokenizer`].

#![forbid(unsafe_code)]

mod chat;
mod clock;
mod detokenizer;
mod encoding;
mod error;
mod files;
mod grammar;
mod output;
mod prompt;
mod python_json;
mod release;
mod reply;
mod script;
mod stop;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use chat::{Chat, Message, Role, ToolCall};
pub use detokenizer::Detokenizer;
pub use error::{Error, Result};
pub use files::PromptFiles;
pub use grammar::{Allowed, Answer, Calls, Grammar, MAX_SOURCE_BYTES, Part, Progress, ReplySpec, Strictness, Tool};
pub use output::{Defect, Delta, OutputMode, OutputOptions, OutputParser, Reply};
pub use prompt::{Prompt, Rendered, SamplingDefaults};
pub use release::{Release, ThinkingPolicy};
pub use reply::Ending;
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
