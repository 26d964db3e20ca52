//! The model's output, token by token, as reasoning, content and tool calls.
//!
//! What is what goes by token ids, in [`reply`](crate::reply); this is the way from ids to its symbols, and the stop
//! strings of the content.

use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::encoding::EOS;
use crate::prompt::Prompt;
use crate::release::Release;
use crate::reply::{Ending, Findings, Mark, ReplyParser, Symbol};
use crate::stop::StopStrings;
use crate::tokenizer::Tokenizer;

/// What became certain.
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

/// What is wrong with the markup of tool calls, beyond what could be repaired without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// What is wrong.
    pub message: String,
    /// The markup and text that became no part of the reply.
    pub text: String,
}

/// What kind of request the output belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// A chat reply: told apart as reasoning, content and tool calls, and control tokens are part of none.
    #[default]
    Chat,
    /// A plain completion: everything is content, think tags and markup are text.
    Completion,
}

/// How output is parsed.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// What kind of request the output belongs to.
    pub mode: OutputMode,
    /// Strings that end the content; they are not part of it. Reasoning and tool calls are not watched.
    pub stop: Vec<String>,
}

/// Splits one reply into reasoning, content and tool calls while it is generated.
///
/// A `<think>` that opens the reply starts the reasoning (R1-0528 writes it itself); a later one is dropped, as is a
/// `</think>` outside of reasoning. So there is at most one stretch of reasoning, and it comes first. The newlines with
/// which R1's family sets its tags apart are part of the format and dropped: after `<think>`, before and after `</think>`.
/// Tool calls come last; one that begins within the reasoning ends it. Whatever the tokens, no control token becomes
/// reasoning or content, and every call's arguments are the same text however the reply was cut into tokens.
pub struct OutputParser {
    detokenizer: Detokenizer,
    tokenizer: Arc<Tokenizer>,
    silent: Arc<[u32]>,
    release: Release,
    /// `None` for a completion.
    reply: Option<ReplyParser>,
    stop: StopStrings,
    findings: Findings,
    reasoning_tokens: usize,
}

impl OutputParser {
    /// A parser for the reply to one prompt; `reasoning_open` is that of [`Rendered`](crate::Rendered).
    pub fn new(prompt: &Prompt, reasoning_open: bool, options: OutputOptions) -> Self {
        let tokenizer = prompt.tokenizer();
        let release = prompt.release();
        Self {
            detokenizer: Detokenizer::new(Arc::clone(tokenizer)),
            tokenizer: Arc::clone(tokenizer),
            silent: Arc::clone(prompt.silent_token_ids()),
            release,
            reply: (options.mode == OutputMode::Chat).then(|| ReplyParser::new(release, reasoning_open)),
            stop: StopStrings::new(options.stop),
            findings: Findings::default(),
            reasoning_tokens: 0,
        }
    }

    /// Takes the next token and returns what became certain; nothing after a stop string.
    pub fn push(&mut self, id: u32) -> Vec<Delta> {
        if self.stop.hit().is_some() || self.silent.contains(&id) {
            return Vec::new();
        }
        let Some(reply) = &mut self.reply else {
            let text = self.detokenizer.push(id);
            return self.content(&text);
        };
        match self.tokenizer.control_text(id) {
            Some(control) => {
                // Bytes on both sides of a control token never form one character.
                let text = self.detokenizer.flush();
                reply.push(Symbol::text(&text), &mut self.findings);
                reply.push(Symbol::Control(Mark::of(self.release, control), control.into()), &mut self.findings);
            }
            None => {
                self.reasoning_tokens += usize::from(reply.is_reasoning());
                let text = self.detokenizer.push(id);
                reply.push(Symbol::text(&text), &mut self.findings);
            }
        }
        self.watched()
    }

    /// Ends the reply: an unfinished character becomes U+FFFD, what was held back comes out, and a call that the model has
    /// left open is closed if it was the model that ended the reply.
    pub fn finish(&mut self, ending: Ending) -> Vec<Delta> {
        if self.stop.hit().is_some() {
            return Vec::new();
        }
        let text = self.detokenizer.flush();
        let mut deltas = match &mut self.reply {
            Some(reply) => {
                reply.push(Symbol::text(&text), &mut self.findings);
                reply.finish(ending, &mut self.findings);
                self.watched()
            }
            None => self.content(&text),
        };
        push_content(&mut deltas, self.stop.flush());
        deltas
    }

    fn content(&mut self, text: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        push_content(&mut deltas, self.stop.push(text));
        deltas
    }

    /// What was found, with the content watched for stop strings.
    fn watched(&mut self) -> Vec<Delta> {
        let mut watched = Vec::new();
        for delta in self.findings.deltas.drain(..) {
            match delta {
                Delta::Content(text) => push_content(&mut watched, self.stop.push(&text)),
                Delta::Reasoning(_) => watched.push(delta),
                // The content is over.
                Delta::CallBegin { .. } | Delta::CallArguments(_) if self.stop.hit().is_none() => {
                    push_content(&mut watched, self.stop.flush());
                    watched.push(delta);
                }
                Delta::CallBegin { .. } | Delta::CallArguments(_) => {}
            }
        }
        watched
    }

    /// The stop string that ended the content.
    pub fn stop_hit(&self) -> Option<&str> {
        self.stop.hit()
    }

    /// What was wrong with the markup of tool calls; complete when the reply has ended.
    pub fn defect(&self) -> Option<&Defect> {
        self.findings.defect.as_ref()
    }

    /// The number of tool calls that have begun.
    pub fn num_calls(&self) -> usize {
        self.findings.num_calls
    }

    /// Whether the reply is still within its reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.reply.as_ref().is_some_and(ReplyParser::is_reasoning)
    }

    /// Whether the reply is within the markup of tool calls, or behind it.
    pub fn is_calling(&self) -> bool {
        self.reply.as_ref().is_some_and(ReplyParser::is_calling)
    }

    /// The number of tokens of reasoning so far, without the tags.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }
}

fn push_content(deltas: &mut Vec<Delta>, text: String) {
    if !text.is_empty() {
        deltas.push(Delta::Content(text));
    }
}

/// A whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What the model thought.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The calls with which it ends: name and arguments.
    pub calls: Vec<(String, String)>,
    /// What was wrong with the markup of calls.
    pub defect: Option<Defect>,
}

impl Reply {
    /// Reads the text of a completion in which the control tokens of `release` are written out, as it follows on a prompt
    /// that has opened the reasoning, or not. An end-of-sequence token ends it; without one it counts as cut off. The text
    /// between control tokens is read in pieces of at most `piece_len` characters, which makes no difference.
    pub fn from_text(release: Release, reasoning_open: bool, text: &str, piece_len: usize) -> Self {
        let mut parser = ReplyParser::new(release, reasoning_open);
        let mut findings = Findings::default();
        let (text, ending) = match text.split_once(EOS) {
            Some((text, _)) => (text, Ending::Stop),
            None => (text, Ending::Length),
        };
        let mut rest = text;
        while !rest.is_empty() {
            let next = release.control_tokens().filter_map(|token| Some((rest.find(token)?, token)));
            // Of tokens at the same place, the longest.
            let next = next.min_by_key(|&(at, token)| (at, usize::MAX - token.len()));
            let (before, after) = rest.split_at(next.map_or(rest.len(), |(at, _)| at));
            let mut before = before;
            while let Some((last, character)) = before.char_indices().take(piece_len.max(1)).last() {
                let (piece, other) = before.split_at(last + character.len_utf8());
                parser.push(Symbol::text(piece), &mut findings);
                before = other;
            }
            if let Some((_, token)) = next {
                parser.push(Symbol::Control(Mark::of(release, token), token.into()), &mut findings);
            }
            rest = &after[next.map_or(0, |(_, token)| token.len())..];
        }
        parser.finish(ending, &mut findings);
        let mut reply = Self::default();
        findings.deltas.drain(..).for_each(|delta| reply.push(delta));
        reply.defect = findings.defect;
        reply
    }

    /// Adds what comes next.
    pub fn push(&mut self, delta: Delta) {
        match delta {
            Delta::Reasoning(text) => self.reasoning.push_str(&text),
            Delta::Content(text) => self.content.push_str(&text),
            Delta::CallBegin { name } => self.calls.push((name, String::new())),
            Delta::CallArguments(text) => {
                let (_, arguments) = self.calls.last_mut().expect("arguments come after the beginning of their call");
                arguments.push_str(&text);
            }
        }
    }
}
