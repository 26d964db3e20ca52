//! What a request may demand of its output beyond the sampling parameters.
//!
//! The engine knows no text, so it knows no grammar either: it asks a [`Constraint`] which tokens may come next, and tells it
//! which one came. The question is asked on worker threads while the model computes the logits that the answer is for, and
//! once per token: a preempted sequence keeps its constraint as it is, because its tokens stay what they are. Where a step may
//! give several tokens, because some are drafted, a copy of the constraint is led along the draft.
//!
//! # Ends
//!
//! A constraint says when the reply may end, not by which token. The engine adds the request's end tokens: where the reply may
//! end, all of them; elsewhere the end-of-sequence tokens are ruled out even if the mask has them. A stop token that the
//! client named and that the mask has stays, and ends the reply as the client wished. With `ignore_eos` only stop tokens end a
//! reply, so it goes on as long as its constraint lets it. A reply that is [complete](Progress::Complete) ends at once,
//! whatever `min_tokens` says; where it may go on, `min_tokens` keeps it from ending.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::panics;
use crate::{SamplingParams, TokenMask};

/// Decides, token by token, what the output of one request may be.
///
/// It is moved between threads, and never used by two at a time. A panic in it fails its request.
pub trait Constraint: Send {
    /// Which tokens may come next. `mask` arrives with any content; it counts only where the answer says so.
    ///
    /// # Errors
    /// Fails the request.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<Allowed, ConstraintError>;

    /// Takes the token that came: one that was allowed, and none that ended the reply.
    ///
    /// # Errors
    /// Fails the request.
    fn accept(&mut self, id: u32) -> Result<Progress, ConstraintError>;

    /// The same constraint, in the same state.
    fn boxed_clone(&self) -> Box<dyn Constraint>;
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every token, and the end.
    Anything,
    /// The tokens of the mask.
    Tokens,
    /// The tokens of the mask, or the end.
    TokensOrEnd,
}

/// Whether anything can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to come, or may be.
    Open,
    /// Nothing can follow: the reply ends here.
    Complete,
}

/// Why a constraint cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It says so itself.
    #[error("the constraint on the reply failed: {0}")]
    Failed(String),
    /// It panicked, which is a bug.
    #[error("the constraint on the reply panicked: {0}")]
    Panicked(String),
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

impl fmt::Debug for dyn Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// A sequence's constraint, and its answers for the tokens that the step in progress may give.
#[derive(Debug)]
pub(crate) struct Constrained {
    constraint: Box<dyn Constraint>,
    /// The first belongs to the next token, the others to the tokens after those of the draft.
    answers: Vec<Answer>,
    num_answers: usize,
    num_taken: usize,
}

#[derive(Debug)]
struct Answer {
    mask: TokenMask,
    /// What `mask` means.
    allowed: Result<Allowed, ConstraintError>,
}

impl Answer {
    fn contains(&self, id: u32) -> bool {
        match self.allowed {
            Ok(Allowed::Anything) => true,
            Ok(Allowed::Tokens | Allowed::TokensOrEnd) => self.mask.contains(id),
            Err(_) => false,
        }
    }
}

impl Constrained {
    pub(crate) fn new(constraint: Box<dyn Constraint>, vocab_size: usize) -> Self {
        let answer = Answer { mask: TokenMask::new(vocab_size), allowed: Ok(Allowed::Anything) };
        Constrained { constraint, answers: vec![answer], num_answers: 0, num_taken: 0 }
    }

    /// Finds out what may come next, and what may come after the tokens of a draft. A draft that goes against the constraint or
    /// ends the output is followed no further: nothing can come after it.
    pub(crate) fn prepare(&mut self, sampling: &SamplingParams, draft_ids: &[u32]) {
        (self.num_answers, self.num_taken) = (0, 0);
        self.ask(None, sampling);
        if draft_ids.is_empty() {
            return;
        }
        let Ok(mut fork) = guard(|| Ok(self.constraint.boxed_clone())) else { return };
        for &id in draft_ids {
            if !self.answers[self.num_answers - 1].contains(id)
                || sampling.stops_at(id)
                || guard(|| fork.accept(id)) != Ok(Progress::Open)
            {
                return;
            }
            self.ask(Some(&mut fork), sampling);
        }
    }

    /// Asks a constraint, the sequence's own or a fork of it.
    fn ask(&mut self, fork: Option<&mut Box<dyn Constraint>>, sampling: &SamplingParams) {
        if self.answers.len() == self.num_answers {
            let mask = TokenMask::new(self.answers[0].mask.vocab_size());
            self.answers.push(Answer { mask, allowed: Ok(Allowed::Anything) });
        }
        let constraint = fork.unwrap_or(&mut self.constraint);
        let Answer { mask, allowed } = &mut self.answers[self.num_answers];
        self.num_answers += 1;
        *allowed = guard(|| constraint.allowed(mask));
        let SamplingParams { stop_token_ids, eos_token_ids, ignore_eos, .. } = sampling;
        match allowed {
            Ok(Allowed::Tokens) => eos_token_ids.iter().for_each(|&id| mask.remove(id)),
            Ok(Allowed::TokensOrEnd) => {
                stop_token_ids.iter().for_each(|&id| mask.insert(id));
                let change = if *ignore_eos { TokenMask::remove } else { TokenMask::insert };
                eos_token_ids.iter().filter(|id| !stop_token_ids.contains(id)).for_each(|&id| change(mask, id));
            }
            Ok(Allowed::Anything) | Err(_) => {}
        }
    }

    /// The tokens that may come next; `None` are all.
    ///
    /// # Errors
    /// What the constraint answered.
    pub(crate) fn mask(&self) -> Result<Option<&TokenMask>, ConstraintError> {
        let answers = &self.answers[..self.num_answers];
        let Answer { mask, allowed } =
            answers.get(self.num_taken).expect("a sequence that samples was prepared in the same step");
        match allowed.clone()? {
            Allowed::Anything => Ok(None),
            Allowed::Tokens | Allowed::TokensOrEnd => Ok(Some(mask)),
        }
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// What the constraint says about it.
    pub(crate) fn accept(&mut self, id: u32) -> Result<Progress, ConstraintError> {
        self.num_taken += 1;
        guard(|| self.constraint.accept(id))
    }
}

/// A constraint that panicked is not asked again: its request fails.
fn guard<T>(call: impl FnOnce() -> Result<T, ConstraintError>) -> Result<T, ConstraintError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(ConstraintError::Panicked(panics::text(&*panic))))
}
