//! The model's output, token by token, split into reasoning and content.
//!
//! The split goes by token ids: only the real `<think>` and `</think>` tokens count, never their characters. Tool-call
//! markup stays in the content; parsing it into calls is to be added here, as a third state after reasoning and content.

use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::prompt::Prompt;
use crate::stop::StopStrings;

/// Text that became certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A part of the reasoning.
    Reasoning(String),
    /// A part of the answer.
    Content(String),
    /// A tool call begins; it ends where the next one begins or the reply ends.
    CallBegin {
        /// The function's name.
        name: String,
    },
    /// A part of the arguments, as JSON text, of the call that began last.
    CallArguments(String),
}

/// Tool-call markup that is malformed beyond repair, so that what the model wanted to call cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// What is wrong with it.
    pub message: String,
    /// The markup, as far as it is part of nothing else.
    pub text: String,
}

/// What kind of request the output belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// A chat reply: reasoning is told from content, and think tags are part of neither.
    #[default]
    Chat,
    /// A plain completion: everything is content, think tags are text.
    Completion,
}

/// How output is parsed.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// What kind of request the output belongs to.
    pub mode: OutputMode,
    /// Strings that end the content; they are not part of it. Reasoning is not watched.
    pub stop: Vec<String>,
}

/// Splits one reply into reasoning and content while it is generated.
///
/// End-of-sequence, turn and think tokens never become text. A `<think>` that opens the reply starts the reasoning
/// (R1-0528 writes it itself); a later one is dropped, as is a `</think>` outside of reasoning. So there is at most one
/// stretch of reasoning, and it comes first.
/// The newlines with which R1's family sets its tags apart are part of the format and dropped: after `<think>`, before
/// and after `</think>`.
pub struct OutputParser {
    detokenizer: Detokenizer,
    stop: StopStrings,
    think_open: Option<u32>,
    think_close: Option<u32>,
    silent: Arc<[u32]>,
    padded: bool,
    state: State,
    /// Whether newlines are being dropped, because a tag came just before.
    trimming: bool,
    /// Text whose place depends on the next tag: whitespace at the start, dropped if `<think>` comes next; newlines at
    /// the end of padded reasoning, dropped if `</think>` comes next.
    held: String,
    reasoning_tokens: usize,
    defect: Option<Defect>,
    num_calls: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but whitespace so far: a `<think>` may still open the reasoning.
    Start,
    Reasoning,
    Content,
}

impl OutputParser {
    /// A parser for the reply to one prompt; `reasoning_open` is that of [`Rendered`](crate::Rendered).
    pub fn new(prompt: &Prompt, reasoning_open: bool, options: OutputOptions) -> Self {
        let chat = options.mode == OutputMode::Chat;
        let tokenizer = prompt.tokenizer();
        let reasoning = chat && reasoning_open;
        let padded = prompt.release().pads_reasoning_with_newlines();
        let state = match (chat, reasoning) {
            (false, _) => State::Content,
            (true, false) => State::Start,
            (true, true) => State::Reasoning,
        };
        Self {
            detokenizer: Detokenizer::new(Arc::clone(tokenizer)),
            stop: StopStrings::new(options.stop),
            think_open: tokenizer.id_of("<think>").filter(|_| chat),
            think_close: tokenizer.id_of("</think>").filter(|_| chat),
            silent: Arc::clone(prompt.silent_token_ids()),
            padded,
            state,
            trimming: reasoning && padded,
            held: String::new(),
            reasoning_tokens: 0,
            defect: None,
            num_calls: 0,
        }
    }

    /// Takes the next token and returns the text that became certain; nothing after a stop string.
    pub fn push(&mut self, id: u32) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if self.stop.hit().is_some() || self.silent.contains(&id) {
            return deltas;
        }
        if Some(id) == self.think_open || Some(id) == self.think_close {
            // Bytes on both sides of a tag never form one character.
            let text = self.detokenizer.flush();
            self.take(&text, &mut deltas);
            match self.state {
                State::Start if Some(id) == self.think_open => self.enter(State::Reasoning),
                State::Reasoning if Some(id) == self.think_close => self.enter(State::Content),
                _ => {}
            }
            return deltas;
        }
        if self.state == State::Reasoning {
            self.reasoning_tokens += 1;
        }
        let text = self.detokenizer.push(id);
        self.take(&text, &mut deltas);
        deltas
    }

    /// Ends the reply: an unfinished character becomes U+FFFD, and what was held back comes out.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if self.stop.hit().is_none() {
            let text = self.detokenizer.flush();
            self.take(&text, &mut deltas);
            match self.state {
                State::Reasoning => push_reasoning(&mut deltas, std::mem::take(&mut self.held)),
                State::Start | State::Content => {
                    let held = std::mem::take(&mut self.held);
                    let text = self.stop.push(&held) + &self.stop.flush();
                    push_content(&mut deltas, text);
                }
            }
        }
        deltas
    }

    /// The stop string that ended the content.
    pub fn stop_hit(&self) -> Option<&str> {
        self.stop.hit()
    }

    /// What was wrong with tool-call markup of which no call could be made.
    pub fn defect(&self) -> Option<&Defect> {
        self.defect.as_ref()
    }

    /// The number of tool calls that have begun.
    pub fn num_calls(&self) -> usize {
        self.num_calls
    }

    /// Whether the reply is still within its reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.state == State::Reasoning
    }

    /// The number of tokens of reasoning so far, without the tags.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Goes on behind a think tag, of which the text that was held is a part.
    fn enter(&mut self, state: State) {
        self.held.clear();
        self.state = state;
        self.trimming = self.padded;
    }

    fn take(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        let text = if self.trimming { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return;
        }
        self.trimming = false;
        match self.state {
            State::Start => {
                self.held.push_str(text);
                if !self.held.trim().is_empty() {
                    self.state = State::Content;
                    let text = self.stop.push(&std::mem::take(&mut self.held));
                    push_content(deltas, text);
                }
            }
            State::Content => push_content(deltas, self.stop.push(text)),
            State::Reasoning => {
                self.held.push_str(text);
                let end = if self.padded { self.held.trim_end_matches('\n').len() } else { self.held.len() };
                let held = self.held.split_off(end);
                push_reasoning(deltas, std::mem::replace(&mut self.held, held));
            }
        }
    }
}

fn push_reasoning(deltas: &mut Vec<Delta>, text: String) {
    if !text.is_empty() {
        deltas.push(Delta::Reasoning(text));
    }
}

fn push_content(deltas: &mut Vec<Delta>, text: String) {
    if !text.is_empty() {
        deltas.push(Delta::Content(text));
    }
}
