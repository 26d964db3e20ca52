//! `cachalot generate`: one answer on standard output.

use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, anyhow};
use cachalot_prompt::{Chat, Delta, Message, OutputMode, Role};
use clap::Args;

use crate::args::{ModelArgs, SamplingArgs};
use crate::config::ModelConfig;
use crate::env;
use crate::hint::ResultExt;
use crate::load;
use crate::reply::Question;

/// Continue a text, or answer one message
///
/// The text goes to standard output as it is generated. With --chat, reasoning goes to standard error.
#[derive(Args, Clone, Debug)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue [default: standard input]
    #[arg(long, short, env = env::PROMPT, value_name = "TEXT")]
    prompt: Option<String>,
    /// Take the text as a message of a user and answer it
    #[arg(long, env = env::CHAT)]
    chat: bool,
    /// With --chat: think before answering, if the model can choose
    #[arg(long, env = env::THINKING, requires = "chat")]
    thinking: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs the command.
///
/// # Errors
/// If there is no text, or the model cannot be loaded or fails.
pub(crate) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let text = match args.prompt {
        Some(text) => text,
        None => read_stdin()?,
    };
    let loaded = load::load(&ModelConfig::new(&args.model, 1, 0)?)?;
    let prompt = loaded.prompt()?;
    let question = if args.chat {
        let thinking = args.thinking || prompt.thinks_by_default();
        let chat = Chat { messages: vec![Message::new(Role::User, text)], thinking, ..Chat::default() };
        let rendered = prompt.render(&chat)?;
        Question { ids: rendered.ids, reasoning_open: rendered.reasoning_open, mode: OutputMode::Chat }
    } else {
        Question { ids: prompt.encode_completion(&text)?, reasoning_open: false, mode: OutputMode::Completion }
    };
    let mut stdout = io::stdout().lock();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(loaded.reply(question, &args.sampling, |delta| {
        match delta {
            Delta::Reasoning(text) => io::stderr().write_all(text.as_bytes())?,
            Delta::Content(text) | Delta::CallBegin { name: text } | Delta::CallArguments(text) => {
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
        }
        Ok(())
    }))?;
    writeln!(stdout)?;
    Ok(())
}

fn read_stdin() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        return Err(anyhow!("there is no text to continue")).hint("give it with --prompt, or through a pipe");
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input is not text")?;
    Ok(text)
}
