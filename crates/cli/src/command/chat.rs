//! `cachalot chat`: a conversation in the terminal.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use cachalot_prompt::{Chat, Delta, Message, OutputMode, Role};
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::{ModelArgs, SamplingArgs};
use crate::config::ModelConfig;
use crate::env;
use crate::load::{self, Loaded};
use crate::reply::Question;

const HELP: &str = "\
/help              show this
/clear             forget the conversation; the system message stays
/system TEXT       set the system message and forget the conversation; without TEXT, remove it
/thinking on|off   think before answering, or not
/exit              leave, as does Ctrl-D
Ctrl-C stops the answer. A message that begins with a slash is written with two.
";

/// Talk to a model in the terminal
#[derive(Args, Clone, Debug)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// System message of the conversation
    #[arg(long, env = env::SYSTEM, value_name = "TEXT")]
    system: Option<String>,
    /// Think before answering, if the model can choose
    #[arg(long, env = env::THINKING)]
    thinking: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs the command until the user leaves.
///
/// # Errors
/// If the model cannot be loaded or the terminal fails. A message that cannot be answered is not an error: the reason is
/// shown, and the conversation goes on without it.
pub(crate) fn run(args: ChatArgs) -> anyhow::Result<()> {
    let loaded = load::load(&ModelConfig::new(&args.model, 1, 0)?)?;
    let prompt = loaded.prompt()?;
    let mut conversation = Conversation {
        system: args.system,
        messages: Vec::new(),
        thinking: args.thinking || prompt.thinks_by_default(),
    };
    let on_terminal = io::stdout().is_terminal();
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{} ({}). /help lists the commands.", loaded.summary.name, prompt.release())?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut editor = DefaultEditor::new().context("the terminal cannot be used")?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        // The history is a convenience; a line that it does not take is no reason to stop.
        let _ = editor.add_history_entry(&line);
        match Input::parse(&line) {
            Input::Nothing => {}
            Input::Exit => return Ok(()),
            Input::Show(text) => stdout.write_all(text.as_bytes())?,
            Input::Clear => conversation.messages.clear(),
            Input::System(text) => {
                conversation.system = text;
                conversation.messages.clear();
            }
            Input::Thinking(thinking) if prompt.supports_thinking(thinking) => conversation.thinking = thinking,
            Input::Thinking(_) => writeln!(stdout, "{} does not leave the choice", prompt.release())?,
            Input::Message(text) => {
                conversation.messages.push(Message::new(Role::User, text));
                let mut screen = Screen { out: &mut stdout, on_terminal, is_dim: false };
                match runtime.block_on(answer(&loaded, &conversation, &args.sampling, &mut screen)) {
                    Ok(message) => conversation.messages.push(message),
                    Err(error) => {
                        conversation.messages.pop();
                        screen.end()?;
                        crate::hint::print(&error, screen.out)?;
                    }
                }
            }
        }
    }
}

/// What has been said, and how to go on.
struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    thinking: bool,
}

/// A line that the user entered.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Nothing,
    Exit,
    Show(String),
    Clear,
    System(Option<String>),
    Thinking(bool),
    Message(String),
}

impl Input {
    fn parse(line: &str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Input::Nothing } else { Input::Message(line.to_owned()) };
        };
        if command.starts_with('/') {
            return Input::Message(command.to_owned());
        }
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("help", "") => Input::Show(HELP.to_owned()),
            ("clear", "") => Input::Clear,
            ("exit" | "quit", "") => Input::Exit,
            ("system", text) => Input::System((!text.is_empty()).then(|| text.to_owned())),
            ("thinking", "on") => Input::Thinking(true),
            ("thinking", "off") => Input::Thinking(false),
            ("thinking", _) => Input::Show("write `/thinking on` or `/thinking off`\n".to_owned()),
            _ => Input::Show(format!("there is no command `{line}`; /help lists them\n")),
        }
    }
}

/// Streams the answer to the screen, until it ends or the user presses Ctrl-C. Returns it as a message, cut where it was
/// stopped.
async fn answer(
    loaded: &Loaded,
    conversation: &Conversation,
    sampling: &SamplingArgs,
    screen: &mut Screen<'_, impl Write>,
) -> anyhow::Result<Message> {
    let system = conversation.system.iter().map(|text| Message::new(Role::System, text.clone()));
    let messages = system.chain(conversation.messages.iter().cloned()).collect();
    let chat = Chat { messages, thinking: conversation.thinking, ..Chat::default() };
    let rendered = loaded.prompt()?.render(&chat)?;
    let question = Question { ids: rendered.ids, reasoning_open: rendered.reasoning_open, mode: OutputMode::Chat };
    let (mut reasoning, mut content) = (String::new(), String::new());
    let reply = loaded.reply(question, sampling, |delta| {
        match delta {
            Delta::Reasoning(text) => reasoning.push_str(text),
            Delta::Content(text) => content.push_str(text),
            // There are no tools here, so nothing can answer a call: it is shown, and not kept.
            Delta::CallBegin { .. } | Delta::CallArguments(_) => {}
        }
        screen.show(delta)
    });
    let outcome = tokio::select! {
        outcome = reply => outcome.map(drop),
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(anyhow::Error::from),
    };
    outcome?;
    screen.end()?;
    let mut message = Message::new(Role::Assistant, content);
    message.reasoning_content = (!reasoning.is_empty()).then_some(reasoning);
    Ok(message)
}

/// Where the answer appears: reasoning dimmed on a terminal, between tags elsewhere.
struct Screen<'a, W> {
    out: &'a mut W,
    on_terminal: bool,
    is_dim: bool,
}

impl<W: Write> Screen<'_, W> {
    fn show(&mut self, delta: &Delta) -> anyhow::Result<()> {
        let (text, is_dim) = match delta {
            Delta::Reasoning(text) => (text, true),
            Delta::Content(text) | Delta::CallBegin { name: text } | Delta::CallArguments(text) => (text, false),
        };
        self.set_dim(is_dim)?;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    fn set_dim(&mut self, is_dim: bool) -> io::Result<()> {
        let mark = match (self.is_dim, is_dim, self.on_terminal) {
            (false, true, true) => "\x1b[2m",
            (false, true, false) => "<think>\n",
            (true, false, true) => "\x1b[0m\n\n",
            (true, false, false) => "\n</think>\n\n",
            _ => "",
        };
        self.is_dim = is_dim;
        self.out.write_all(mark.as_bytes())
    }

    /// Ends the answer, however far it got.
    fn end(&mut self) -> io::Result<()> {
        self.set_dim(false)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let check = |line: &str, expected: Input| assert_eq!(Input::parse(line), expected, "{line}");
        check("", Input::Nothing);
        check("  \t", Input::Nothing);
        check(" hello /clear ", Input::Message("hello /clear".to_owned()));
        check("//etc/hosts", Input::Message("/etc/hosts".to_owned()));
        check("/help", Input::Show(HELP.to_owned()));
        check("/clear", Input::Clear);
        check("/exit", Input::Exit);
        check("/quit", Input::Exit);
        check("/system Be brief.", Input::System(Some("Be brief.".to_owned())));
        check("/system", Input::System(None));
        check("/thinking on", Input::Thinking(true));
        check("/thinking  off ", Input::Thinking(false));
        check("/thinking maybe", Input::Show("write `/thinking on` or `/thinking off`\n".to_owned()));
        check("/nonsense", Input::Show("there is no command `/nonsense`; /help lists them\n".to_owned()));
        check("/clear all", Input::Show("there is no command `/clear all`; /help lists them\n".to_owned()));
    }

    #[test]
    fn reasoning_is_set_apart() {
        let check = |on_terminal: bool, deltas: &[Delta], expected: &str| {
            let mut out = Vec::new();
            let mut screen = Screen { out: &mut out, on_terminal, is_dim: false };
            deltas.iter().try_for_each(|delta| screen.show(delta)).expect("a vector takes everything");
            screen.end().expect("a vector takes everything");
            assert_eq!(String::from_utf8(out).expect("all of it is text"), expected);
        };
        let (reasoning, content) =
            (|text: &str| Delta::Reasoning(text.into()), |text: &str| Delta::Content(text.into()));
        check(true, &[content("a"), content("b")], "ab\n");
        check(true, &[reasoning("hm"), reasoning("m"), content("a")], "\x1b[2mhmm\x1b[0m\n\na\n");
        check(false, &[reasoning("hm"), content("a")], "<think>\nhm\n</think>\n\na\n");
        check(true, &[reasoning("hm")], "\x1b[2mhm\x1b[0m\n\n\n");
    }
}
