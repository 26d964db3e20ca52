//! The model's output, token by token, split into reasoning and content.
//!
//! The split goes by token ids: only the real `<think>` and `</think>` tokens count, never their characters. Tool-call
//! markup stays in the content; parsing it into calls is to be added here, as a third state after reasoning and content.

use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::prompt::Prompt;
use crate::stop::StopStrings;
use crate::tokenizer::Tokenizer;

/// Text that became certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A part of the reasoning.
    Reasoning(String),
    /// A part of the answer.
    Content(String),
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
/// (R1-0528 writes it itself); one in the midst of the content is dropped, as is a `</think>` outside of reasoning.
/// The newlines with which R1's family sets its tags apart are part of the format and dropped: after `<think>`, before
/// and after `</think>`.
pub struct OutputParser {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stop: StopStrings,
    think_open: Option<u32>,
    think_close: Option<u32>,
    silent: Arc<[u32]>,
    padded: bool,
    state: State,
    /// Whether newlines are being dropped, because a tag came just before.
    trimming: bool,
    /// Newlines at the end of the reasoning so far: dropped if `</think>` comes next.
    newlines: String,
    /// Whether the content has more than whitespace in it.
    has_content: bool,
    reasoning_tokens: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
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
        Self {
            tokenizer: Arc::clone(tokenizer),
            detokenizer: Detokenizer::new(Arc::clone(tokenizer)),
            stop: StopStrings::new(options.stop),
            think_open: tokenizer.id_of("<think>").filter(|_| chat),
            think_close: tokenizer.id_of("</think>").filter(|_| chat),
            silent: Arc::clone(prompt.silent_token_ids()),
            padded,
            state: if reasoning { State::Reasoning } else { State::Content },
            trimming: reasoning && padded,
            newlines: String::new(),
            has_content: false,
            reasoning_tokens: 0,
        }
    }

    /// Takes the next token and returns the text that became certain; nothing after a stop string.
    pub fn push(&mut self, id: u32) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if self.stop.hit().is_some() || self.silent.contains(&id) {
            return deltas;
        }
        if Some(id) == self.think_open {
            if self.state == State::Content && !self.has_content {
                self.end_state(&mut deltas);
                self.state = State::Reasoning;
                self.trimming = self.padded;
            }
            return deltas;
        }
        if Some(id) == self.think_close {
            if self.state == State::Reasoning {
                self.end_state(&mut deltas);
                self.newlines.clear();
                self.state = State::Content;
                self.trimming = self.padded;
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
            self.end_state(&mut deltas);
            let newlines = std::mem::take(&mut self.newlines);
            push_delta(&mut deltas, State::Reasoning, newlines);
            let held = self.stop.flush();
            push_delta(&mut deltas, State::Content, held);
        }
        deltas
    }

    /// The stop string that ended the content.
    pub fn stop_hit(&self) -> Option<&str> {
        self.stop.hit()
    }

    /// Whether the reply is still within its reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.state == State::Reasoning
    }

    /// The number of tokens of reasoning so far, without the tags.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// The tokenizer that the ids belong to.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Empties the detokenizer before the state changes. Bytes on both sides of a tag never form one character.
    fn end_state(&mut self, deltas: &mut Vec<Delta>) {
        let text = self.detokenizer.flush();
        self.take(&text, deltas);
    }

    fn take(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        let text = if self.trimming { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return;
        }
        self.trimming = false;
        match self.state {
            State::Content => {
                self.has_content |= !text.trim().is_empty();
                push_delta(deltas, State::Content, self.stop.push(text));
            }
            State::Reasoning => {
                self.newlines.push_str(text);
                let end = if self.padded { self.newlines.trim_end_matches('\n').len() } else { self.newlines.len() };
                let newlines = self.newlines.split_off(end);
                let text = std::mem::replace(&mut self.newlines, newlines);
                push_delta(deltas, State::Reasoning, text);
            }
        }
    }
}

fn push_delta(deltas: &mut Vec<Delta>, state: State, text: String) {
    if text.is_empty() {
        return;
    }
    deltas.push(match state {
        State::Reasoning => Delta::Reasoning(text),
        State::Content => Delta::Content(text),
    });
}
