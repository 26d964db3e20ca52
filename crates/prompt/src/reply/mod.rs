//! A reply as a sequence of symbols, split into reasoning, content and tool calls.
//!
//! One state machine for every release, on the level of tokens: a control token is a symbol of its own, and the same
//! characters spelled out are text. So it makes no difference how a text was cut into tokens or chunks, and typed markup
//! calls nothing. The states follow one another as in the format: reasoning, content, calls; a call that opens within the
//! reasoning ends it.
//!
//! A control token never becomes content. Markup that is malformed is repaired where only one reading is left, and
//! otherwise told as a [`Defect`]; what of it may be text goes back to the text. Within the values of arguments a control
//! token is text like any other: what the model writes into a file is its business.

mod dsml;
mod json;
mod marked;

use std::borrow::Cow;

use crate::output::{Defect, Delta};
use crate::release::Release;
use dsml::Dsml;
use marked::Marked;

/// What a control token means to a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    ThinkOpen,
    ThinkClose,
    /// `｜DSML｜`, the one control token in V3.2's markup of calls.
    Dsml,
    CallsBegin,
    CallsEnd,
    CallBegin,
    CallEnd,
    CallSep,
    /// No part of this release's replies.
    Other,
}

impl Mark {
    /// What the control token with this text means in a reply of `release`. Tokens of other releases mean nothing.
    pub(crate) fn of(release: Release, text: &str) -> Self {
        use crate::encoding::{
            THINK_CLOSE, THINK_OPEN, TOOL_CALL_BEGIN, TOOL_CALL_END, TOOL_CALLS_BEGIN, TOOL_CALLS_END, TOOL_SEP,
        };
        let is_dsml = CallForm::of(release) == CallForm::Dsml;
        match text {
            THINK_OPEN => Self::ThinkOpen,
            THINK_CLOSE => Self::ThinkClose,
            dsml::DSML if is_dsml => Self::Dsml,
            _ if is_dsml => Self::Other,
            TOOL_CALLS_BEGIN => Self::CallsBegin,
            TOOL_CALLS_END => Self::CallsEnd,
            TOOL_CALL_BEGIN => Self::CallBegin,
            TOOL_CALL_END => Self::CallEnd,
            TOOL_SEP => Self::CallSep,
            _ => Self::Other,
        }
    }
}

/// How a release writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallForm {
    /// XML-like markup of text around one control token: V3.2.
    Dsml,
    /// Control tokens around names and JSON: everything before.
    Marked,
}

impl CallForm {
    pub(crate) fn of(release: Release) -> Self {
        match release {
            Release::V3_2 | Release::V3_2Speciale => Self::Dsml,
            _ => Self::Marked,
        }
    }
}

/// The next of a reply: a stretch of text, or a control token with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Symbol<'a> {
    Text(Cow<'a, str>),
    Control(Mark, Cow<'a, str>),
}

impl<'a> Symbol<'a> {
    pub(crate) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// The characters, whatever they mean.
    fn characters(&self) -> &str {
        let (Self::Text(text) | Self::Control(_, text)) = self;
        text
    }

    fn into_owned(self) -> Symbol<'static> {
        match self {
            Self::Text(text) => Symbol::Text(Cow::Owned(text.into_owned())),
            Self::Control(mark, text) => Symbol::Control(mark, Cow::Owned(text.into_owned())),
        }
    }
}

/// Why a reply has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it: what it left open is closed.
    Stop,
    /// It was cut off: what is open stays open.
    Length,
}

/// What has been found in a reply.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Text and calls that became certain, neighbours of a kind joined.
    pub(crate) deltas: Vec<Delta>,
    /// Everything that was wrong so far.
    pub(crate) defect: Option<Defect>,
    /// Calls that have begun.
    pub(crate) num_calls: usize,
    /// Text between and behind the calls, which belongs to nothing.
    junk: String,
}

impl Findings {
    fn reasoning(&mut self, text: &str) {
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Reasoning(last)) => last.push_str(text),
            _ => self.deltas.push(Delta::Reasoning(text.to_owned())),
        }
    }

    fn content(&mut self, text: &str) {
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Content(last)) => last.push_str(text),
            _ => self.deltas.push(Delta::Content(text.to_owned())),
        }
    }

    fn begin_call(&mut self, name: &str) {
        self.num_calls += 1;
        self.deltas.push(Delta::CallBegin { name: name.to_owned() });
    }

    fn arguments(&mut self, text: &str) {
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::CallArguments(last)) => last.push_str(text),
            _ => self.deltas.push(Delta::CallArguments(text.to_owned())),
        }
    }

    fn junk(&mut self, text: &str) {
        self.junk.push_str(text);
    }

    fn defect(&mut self, message: &str, text: &str) {
        match &mut self.defect {
            Some(defect) => {
                if defect.message != message {
                    defect.message = format!("{}; {message}", defect.message);
                }
                defect.text.push_str(text);
            }
            None => self.defect = Some(Defect { message: message.to_owned(), text: text.to_owned() }),
        }
    }
}

/// Splits one reply.
pub(crate) struct ReplyParser {
    state: State,
    form: CallForm,
    /// The release writes newlines beside its think tags, which belong to the format.
    padded: bool,
    /// Newlines are being dropped, because a tag came just before.
    trimming: bool,
    /// Text whose place depends on what comes next: whitespace at the start, dropped if `<think>` comes; newlines at the
    /// end of padded reasoning, dropped if `</think>` comes; the beginning of a call's markup.
    held: String,
}

enum State {
    /// Nothing but whitespace so far: a `<think>` may still open the reasoning.
    Start,
    Reasoning,
    Content,
    /// `<｜DSML｜` came, from within reasoning or not: what follows tells whether it opens a call.
    Opening {
        was_reasoning: bool,
        tag: String,
    },
    Dsml(Box<Dsml>),
    Marked(Marked),
}

impl ReplyParser {
    pub(crate) fn new(release: Release, reasoning_open: bool) -> Self {
        let padded = release.pads_reasoning_with_newlines();
        Self {
            state: if reasoning_open { State::Reasoning } else { State::Start },
            form: CallForm::of(release),
            padded,
            trimming: reasoning_open && padded,
            held: String::new(),
        }
    }

    pub(crate) fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Whether the reply is within the markup of calls, or behind it.
    pub(crate) fn is_calling(&self) -> bool {
        matches!(self.state, State::Opening { .. } | State::Dsml(_) | State::Marked(_))
    }

    pub(crate) fn push(&mut self, symbol: Symbol<'_>, findings: &mut Findings) {
        if symbol == Symbol::text("") {
            return;
        }
        match &mut self.state {
            State::Dsml(calls) => calls.push(symbol, findings),
            State::Marked(calls) => calls.push(symbol, findings),
            State::Opening { .. } => self.open(symbol, findings),
            State::Start | State::Reasoning | State::Content => match symbol {
                Symbol::Text(text) => self.take(&text, findings),
                Symbol::Control(mark, text) => self.mark(mark, &text, findings),
            },
        }
    }

    /// Ends the reply.
    pub(crate) fn finish(&mut self, ending: Ending, findings: &mut Findings) {
        match &mut self.state {
            State::Start | State::Content => findings.content(&std::mem::take(&mut self.held)),
            State::Reasoning => findings.reasoning(&std::mem::take(&mut self.held)),
            State::Opening { tag, .. } => {
                if ending == Ending::Stop {
                    findings.defect("the reply ends within the markup that opens a tool call", &dsml::opening(tag));
                }
            }
            State::Dsml(calls) => calls.finish(ending, findings),
            State::Marked(calls) => calls.finish(ending, findings),
        }
        let junk = std::mem::take(&mut findings.junk);
        if !junk.trim().is_empty() {
            findings.defect("there is text between or behind the tool calls", junk.trim());
        }
    }

    fn mark(&mut self, mark: Mark, text: &str, findings: &mut Findings) {
        match mark {
            Mark::ThinkOpen if matches!(self.state, State::Start) => self.enter(State::Reasoning),
            Mark::ThinkClose if self.is_reasoning() => {
                if !self.padded {
                    findings.reasoning(&std::mem::take(&mut self.held));
                }
                self.enter(State::Content);
            }
            Mark::Dsml => {
                let was_reasoning = self.is_reasoning();
                if matches!(self.state, State::Start) {
                    self.state = State::Content;
                }
                self.state = State::Opening { was_reasoning, tag: String::new() };
            }
            Mark::CallsBegin | Mark::CallBegin => {
                // What is held is whitespace at the start, or the newlines that end padded reasoning.
                self.held.clear();
                let mut calls = Marked::default();
                calls.push(Symbol::Control(mark, Cow::Borrowed(text)), findings);
                self.state = State::Marked(calls);
            }
            // Out of place. What follows is text like that before.
            Mark::ThinkOpen | Mark::ThinkClose | Mark::CallsEnd | Mark::CallEnd | Mark::CallSep | Mark::Other => {}
        }
    }

    /// Goes on behind a think tag, of which the whitespace that is still held is a part.
    fn enter(&mut self, state: State) {
        self.held.clear();
        self.state = state;
        self.trimming = self.padded;
    }

    /// Looks at what follows `<｜DSML｜`.
    fn open(&mut self, symbol: Symbol<'_>, findings: &mut Findings) {
        let State::Opening { was_reasoning, tag } = &mut self.state else { return };
        if let Symbol::Text(text) = &symbol {
            tag.push_str(text);
            match Dsml::opened_by(tag, findings) {
                dsml::Opened::Undecided => return,
                dsml::Opened::Calls(calls, rest) => {
                    let rest = rest.to_owned();
                    self.held.clear();
                    self.state = State::Dsml(calls);
                    return self.push(Symbol::text(&rest), findings);
                }
                dsml::Opened::Nothing => {}
            }
        }
        findings.defect("｜DSML｜ stands where it opens no tool call", &dsml::opening(""));
        let text = std::mem::take(tag);
        self.state = if *was_reasoning { State::Reasoning } else { State::Content };
        self.take(&text, findings);
        if let Symbol::Control(..) = symbol {
            self.push(symbol, findings);
        }
    }

    fn take(&mut self, text: &str, findings: &mut Findings) {
        let text = if self.trimming { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return;
        }
        self.trimming = false;
        self.held.push_str(text);
        if matches!(self.state, State::Start) {
            if self.held.trim().is_empty() {
                return;
            }
            self.state = State::Content;
        }
        let held = self.held.split_off(self.held.len() - self.num_held_bytes());
        let text = std::mem::replace(&mut self.held, held);
        match self.state {
            State::Reasoning => findings.reasoning(&text),
            _ => findings.content(&text),
        }
    }

    /// The end of the held text that a tag coming next would take away.
    fn num_held_bytes(&self) -> usize {
        if self.padded && self.is_reasoning() {
            return self.held.len() - self.held.trim_end_matches('\n').len();
        }
        match self.form {
            CallForm::Dsml => dsml::num_bytes_of_opener(&self.held),
            CallForm::Marked => 0,
        }
    }
}
