//! `cachalot parse`: what the server would make of a completion.
//!
//! For whoever wonders why a reply came out as it did, and for holding the splitting of replies against other
//! implementations of it: no model is needed, only the text of a completion with its control tokens written out.

use std::io::{self, IsTerminal, Read, Write};
use std::num::NonZeroUsize;

use anyhow::{Context, anyhow};
use cachalot_prompt::{Release, Reply};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::env;
use crate::hint::ResultExt;

/// Split a completion into reasoning, content and tool calls
///
/// Reads the text that a model generated from standard input, control tokens written out as in tokenizer.json, and prints the
/// assistant message that the API would answer with, as JSON. Without an end-of-sequence token at its end, the completion
/// counts as cut off: calls that are open stay open.
#[derive(Args, Clone, Debug)]
pub(crate) struct ParseArgs {
    /// The release that wrote it, such as V3.2 or R1-0528
    #[arg(long, env = env::RELEASE, value_name = "RELEASE")]
    release: Release,
    /// Whether the prompt asked for reasoning
    #[arg(long, env = env::MODE, value_name = "MODE", default_value = "chat")]
    mode: Mode,
    /// Read the text in pieces of at most so many characters; the result is the same [default: all at once]
    #[arg(long, env = env::SPLIT, value_name = "N")]
    split: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The reply has no reasoning.
    Chat,
    /// The reply begins within its reasoning, or opens it itself, whichever is the release's way.
    Thinking,
}

/// Runs the command.
///
/// # Errors
/// If the release has no such mode, or the input is not text.
pub(crate) fn run(args: ParseArgs) -> anyhow::Result<()> {
    if io::stdin().is_terminal() {
        return Err(anyhow!("there is no completion to parse")).hint("give it through a pipe, or with < FILE");
    }
    let thinking = args.mode == Mode::Thinking;
    if thinking && !args.release.can_think() {
        return Err(anyhow!("{} does not think", args.release)).hint("use --mode chat");
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input is not UTF-8 text")?;
    let reasoning_open = thinking && args.release.opens_reasoning_in_prompt();
    let reply = Reply::from_text(args.release, reasoning_open, &text, args.split.map_or(usize::MAX, NonZeroUsize::get));
    writeln!(io::stdout().lock(), "{}", message(reply, args.mode))?;
    Ok(())
}

/// The assistant message as the API words it. Ids count up where the API draws them.
fn message(reply: Reply, mode: Mode) -> Value {
    let Reply { reasoning, content, calls, defect } = reply;
    let mut message = json!({"role": "assistant", "content": content});
    if mode == Mode::Thinking || !reasoning.is_empty() {
        message["reasoning_content"] = json!(reasoning);
    }
    if !calls.is_empty() {
        let calls = calls.into_iter().enumerate().map(|(index, (name, arguments))| {
            json!({
                "index": index,
                "id": format!("call_{index:02}"),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })
        });
        message["tool_calls"] = calls.collect();
    }
    if let Some(defect) = defect {
        message["error"] = json!({"type": "malformed_tool_call", "message": defect.message, "text": defect.text});
    }
    message
}
