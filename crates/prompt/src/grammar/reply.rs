//! The automaton of one reply: reasoning, what surrounds it, and the answer.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::Part;
use super::calls::CallMarkup;
use super::vocabulary::{self, Vocabulary};
use crate::encoding::{THINK_CLOSE, THINK_OPEN};
use crate::prompt::Prompt;
use crate::{Error, Result, Tokenizer};

/// What may come next. Words are sets of tokens: token `id` is bit `id % 32` of word `id / 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// Every token, and the end.
    Anything,
    /// These tokens.
    Tokens(&'a [u32]),
    /// These tokens, or the end.
    TokensOrEnd(&'a [u32]),
}

/// Whether anything can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to come, or may be.
    Open,
    /// Nothing can follow.
    Complete,
}

/// What surrounds the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) reasoning_open: bool,
    /// The model may begin with `<think>`.
    pub(super) may_open_reasoning: bool,
    pub(super) reasoning_budget: Option<usize>,
    /// Tokens that have no place in the reasoning before an answer of a fixed form.
    pub(super) reasoning_forbids: Vec<u32>,
}

/// What is looked at in a free answer.
#[derive(Clone)]
pub(super) struct Watch {
    /// Tokens that are ruled out.
    forbidden: Vec<u32>,
    opener: Option<Opener>,
}

/// The token by which calls begin, and the grammar of what follows.
#[derive(Clone)]
struct Opener {
    id: u32,
    /// It is markup only behind this text, and ruled out elsewhere.
    behind: &'static str,
    calls: Arc<Matcher>,
}

impl Watch {
    pub(super) fn forbid(tokens: Vec<u32>) -> Self {
        Watch { forbidden: tokens, opener: None }
    }

    pub(super) fn begin(markup: &CallMarkup, calls: Matcher) -> Self {
        let (id, behind, forbidden) = match *markup {
            CallMarkup::Dsml { dsml } => (dsml, "<", Vec::new()),
            CallMarkup::Tokens { calls_begin, call_begin, .. } => (calls_begin, "", vec![call_begin]),
        };
        Watch { forbidden, opener: Some(Opener { id, behind, calls: Arc::new(calls) }) }
    }
}

/// What one reply must be like, and how far it has come. Clones go on from the same state, each for itself.
pub struct Grammar {
    vocabulary: Arc<Vocabulary>,
    tokenizer: Arc<Tokenizer>,
    tags: Tags,
    budget: Option<usize>,
    reasoning_forbids: Vec<u32>,
    phase: Phase,
    /// What follows the reasoning.
    answer: AnswerState,
    mask: SimpleVob,
}

/// The think tags, and what stands around the closing one.
#[derive(Clone)]
struct Tags {
    open: Option<u32>,
    close: Option<u32>,
    /// What closes the reasoning when the model does not: the tag, between newlines if the release has them.
    closing: Arc<[u32]>,
    /// Tokens between the tag and the answer.
    behind: Arc<[u32]>,
}

#[derive(Clone)]
enum Phase {
    /// Nothing has come; it may be `<think>`.
    Start,
    Reasoning {
        num_tokens: usize,
    },
    /// These tokens come next, from the first on; then the answer.
    Forced(Arc<[u32]>, usize),
    Answer,
}

enum AnswerState {
    Free {
        watch: Option<Watch>,
        /// The end of the last token.
        last: Vec<u8>,
    },
    Matched(Box<Matcher>),
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        Grammar {
            vocabulary: Arc::clone(&self.vocabulary),
            tokenizer: Arc::clone(&self.tokenizer),
            tags: self.tags.clone(),
            budget: self.budget,
            reasoning_forbids: self.reasoning_forbids.clone(),
            phase: self.phase.clone(),
            answer: match &self.answer {
                AnswerState::Free { watch, last } => AnswerState::Free { watch: watch.clone(), last: last.clone() },
                // A plain clone would share a lock with the original.
                AnswerState::Matched(matcher) => AnswerState::Matched(Box::new(matcher.deep_clone())),
            },
            mask: self.mask.clone(),
        }
    }
}

impl Grammar {
    pub(super) fn new(
        prompt: &Prompt,
        plan: Plan,
        matcher: Option<Matcher>,
        watch: Option<Watch>,
        begun: &str,
    ) -> Result<Self> {
        let tokenizer = Arc::clone(prompt.tokenizer());
        let vocabulary = Arc::clone(prompt.vocabulary()?);
        let close = tokenizer.id_of(THINK_CLOSE);
        let is_padded = prompt.release().pads_reasoning_with_newlines();
        let behind = if is_padded { tokenizer.encode_plain("\n\n")? } else { Vec::new() };
        let before = if is_padded { tokenizer.encode_plain("\n")? } else { Vec::new() };
        let closing: Vec<u32> = before.into_iter().chain(close).chain(behind.iter().copied()).collect();
        let tags = Tags { open: tokenizer.id_of(THINK_OPEN), close, closing: closing.into(), behind: behind.into() };
        let mut answer = match matcher {
            Some(matcher) => AnswerState::Matched(Box::new(matcher)),
            None => AnswerState::Free { watch, last: Vec::new() },
        };
        if let AnswerState::Matched(matcher) = &mut answer
            && !begun.is_empty()
        {
            let ids = tokenizer.encode_plain(begun)?;
            let fits = matcher.try_consume_tokens(&ids).is_ok_and(|count| count == ids.len());
            if !fits {
                let reason = "the text to continue does not begin a reply of the form that was asked for".to_owned();
                return Err(Error::Grammar { part: Part::Begun, reason });
            }
        }
        let phase = match (plan.reasoning_open && close.is_some(), plan.may_open_reasoning && close.is_some()) {
            (true, _) => Phase::Reasoning { num_tokens: 0 },
            (false, true) => Phase::Start,
            (false, false) => Phase::Answer,
        };
        let mask = vocabulary.all.clone();
        let mut grammar = Grammar {
            vocabulary,
            tokenizer,
            tags,
            budget: plan.reasoning_budget,
            reasoning_forbids: plan.reasoning_forbids,
            phase,
            answer,
            mask,
        };
        grammar.close_spent_reasoning();
        Ok(grammar)
    }

    /// Which tokens may come next.
    ///
    /// # Errors
    /// If the grammar turns out to be too complex, in words.
    pub fn allowed(&mut self) -> std::result::Result<Allowed<'_>, String> {
        match &self.phase {
            Phase::Reasoning { .. } => match &self.answer {
                AnswerState::Free { .. } => self.free(),
                AnswerState::Matched(_) => {
                    let forbidden = self.tags.open.iter().chain(&self.reasoning_forbids).copied();
                    all_but(&self.vocabulary.all, forbidden, &mut self.mask);
                    Ok(Allowed::Tokens(self.mask.as_slice()))
                }
            },
            Phase::Forced(ids, at) => {
                self.mask.set_all(false);
                self.mask.allow_token(ids[*at]);
                Ok(Allowed::Tokens(self.mask.as_slice()))
            }
            Phase::Answer => self.answer_tokens(),
            Phase::Start => {
                let open = self.tags.open.filter(|_| self.budget != Some(0));
                if matches!(self.answer, AnswerState::Free { .. }) {
                    return match self.tags.open {
                        Some(open) if self.budget == Some(0) => {
                            all_but(&self.vocabulary.all, [open], &mut self.mask);
                            Ok(Allowed::TokensOrEnd(self.mask.as_slice()))
                        }
                        _ => self.free(),
                    };
                }
                let may_end = matches!(self.answer_tokens()?, Allowed::TokensOrEnd(_));
                open.into_iter().for_each(|id| self.mask.allow_token(id));
                let words = self.mask.as_slice();
                Ok(if may_end { Allowed::TokensOrEnd(words) } else { Allowed::Tokens(words) })
            }
        }
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// If it was not allowed, or the grammar turns out to be too complex, in words.
    pub fn accept(&mut self, id: u32) -> std::result::Result<Progress, String> {
        match &mut self.phase {
            Phase::Start if Some(id) == self.tags.open => {
                self.phase = Phase::Reasoning { num_tokens: 0 };
                self.close_spent_reasoning();
                Ok(Progress::Open)
            }
            Phase::Start | Phase::Answer => {
                self.phase = Phase::Answer;
                self.accept_answer(id)
            }
            Phase::Reasoning { .. } if Some(id) == self.tags.close => {
                // A free answer brings its own newlines.
                let is_matched = matches!(self.answer, AnswerState::Matched(_));
                self.phase = match is_matched && !self.tags.behind.is_empty() {
                    true => Phase::Forced(Arc::clone(&self.tags.behind), 0),
                    false => Phase::Answer,
                };
                Ok(Progress::Open)
            }
            Phase::Reasoning { num_tokens } => {
                *num_tokens += 1;
                // Calls that begin within the reasoning end it.
                if let AnswerState::Free { .. } = self.answer {
                    let progress = self.accept_answer(id)?;
                    if let AnswerState::Matched(_) = self.answer {
                        self.phase = Phase::Answer;
                        return Ok(progress);
                    }
                }
                self.close_spent_reasoning();
                Ok(Progress::Open)
            }
            Phase::Forced(ids, at) => {
                if ids[*at] != id {
                    return Err(format!("token {id} came where {} was the only one", ids[*at]));
                }
                *at += 1;
                if *at == ids.len() {
                    self.phase = Phase::Answer;
                }
                Ok(Progress::Open)
            }
        }
    }

    /// Begins to close the reasoning if its budget is used up.
    fn close_spent_reasoning(&mut self) {
        if let (Phase::Reasoning { num_tokens }, Some(budget)) = (&self.phase, self.budget)
            && *num_tokens >= budget
        {
            self.phase = Phase::Forced(Arc::clone(&self.tags.closing), 0);
        }
    }

    fn answer_tokens(&mut self) -> std::result::Result<Allowed<'_>, String> {
        let AnswerState::Matched(matcher) = &mut self.answer else { return self.free() };
        if matcher.is_stopped() {
            self.mask.set_all(false);
            return Ok(Allowed::TokensOrEnd(self.mask.as_slice()));
        }
        let fail = |error: &dyn std::fmt::Display| vocabulary::plain(&error.to_string());
        let may_end = matcher.is_accepting().map_err(|error| fail(&error))?;
        self.mask = matcher.compute_mask().map_err(|error| fail(&error))?;
        self.mask.disallow_token(self.vocabulary.eos);
        let words = self.mask.as_slice();
        Ok(if may_end { Allowed::TokensOrEnd(words) } else { Allowed::Tokens(words) })
    }

    /// What may come where the text is free.
    fn free(&mut self) -> std::result::Result<Allowed<'_>, String> {
        let AnswerState::Free { watch: Some(watch), last } = &self.answer else { return Ok(Allowed::Anything) };
        let misplaced = watch.opener.as_ref().filter(|opener| !last.ends_with(opener.behind.as_bytes()));
        let mut forbidden = watch.forbidden.iter().copied().chain(misplaced.map(|opener| opener.id)).peekable();
        if forbidden.peek().is_none() {
            return Ok(Allowed::Anything);
        }
        all_but(&self.vocabulary.all, forbidden, &mut self.mask);
        Ok(Allowed::TokensOrEnd(self.mask.as_slice()))
    }

    fn accept_answer(&mut self, id: u32) -> std::result::Result<Progress, String> {
        match &mut self.answer {
            AnswerState::Free { watch: Some(Watch { opener: Some(opener), .. }), .. } if opener.id == id => {
                self.answer = AnswerState::Matched(Box::new(opener.calls.deep_clone()));
                Ok(Progress::Open)
            }
            AnswerState::Free { last, .. } => {
                last.clear();
                last.extend_from_slice(self.tokenizer.token_bytes(id));
                Ok(Progress::Open)
            }
            AnswerState::Matched(matcher) => {
                matcher.consume_token(id).map_err(|error| vocabulary::plain(&error.to_string()))?;
                Ok(if matcher.is_stopped() { Progress::Complete } else { Progress::Open })
            }
        }
    }
}

fn all_but(all: &SimpleVob, forbidden: impl IntoIterator<Item = u32>, mask: &mut SimpleVob) {
    mask.clone_from(all);
    forbidden.into_iter().for_each(|id| mask.disallow_token(id));
}
