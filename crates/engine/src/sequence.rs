//! One request while the engine has it.

use std::ops::Range;
use std::time::Instant;

use cachalot_model::BLOCK_SIZE;
use tokio::sync::mpsc::UnboundedSender;

use crate::block::BlockId;
use crate::constraint::Constrained;
use crate::mailbox::Submission;
use crate::sampler::TokenCounts;
use crate::{ConstraintError, Event, FinishReason, PositionLogprobs, Progress, SamplingParams};

/// Names a request; later arrivals have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeqId(pub(crate) u64);

/// The tokens of a request, how far they have been computed, and what its reader has still to be told.
///
/// Nothing here says whether the sequence is in prefill or in decode: it has tokens, of which some are computed. A preempted
/// sequence has none computed, and is otherwise as it was.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) seq_id: SeqId,
    pub(crate) sampling: SamplingParams,
    /// The prompt, then what was generated.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) num_prompt_tokens: usize,
    /// Tokens whose keys are in the cache.
    pub(crate) num_computed_tokens: usize,
    /// Tokens that the step in progress computes.
    pub(crate) num_scheduled_tokens: usize,
    /// Where the keys are; covers the scheduled tokens.
    pub(crate) blocks: Vec<BlockId>,
    /// What the penalties need to know.
    pub(crate) counts: TokenCounts,
    /// Survives preemption, as the tokens do.
    pub(crate) constraint: Option<Constrained>,
    pub(crate) times: Times,
    prompt_logprobs: Vec<PositionLogprobs>,
    /// The first position whose prompt log-probabilities are not known yet. Survives preemption.
    next_prompt_row: usize,
    prompt_is_reported: bool,
    has_ended: bool,
    /// What happened in this step. Told once the step's accounts are closed.
    pending: Vec<Event>,
    events: UnboundedSender<Event>,
}

/// When things happened to a sequence, for the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) arrival: Instant,
    pub(crate) first_scheduled: Option<Instant>,
    pub(crate) first_token: Option<Instant>,
    pub(crate) last_token: Option<Instant>,
}

impl Sequence {
    pub(crate) fn new(submission: Submission, vocab_size: usize) -> Self {
        let Submission { seq_id, request, events, arrival } = submission;
        Sequence {
            seq_id,
            counts: TokenCounts::new(&request.sampling, &request.prompt_ids),
            constraint: request.constraint.map(|constraint| Constrained::new(constraint, vocab_size)),
            num_prompt_tokens: request.prompt_ids.len(),
            sampling: request.sampling,
            token_ids: request.prompt_ids,
            num_computed_tokens: 0,
            num_scheduled_tokens: 0,
            blocks: Vec::new(),
            times: Times { arrival, first_scheduled: None, first_token: None, last_token: None },
            prompt_logprobs: Vec::new(),
            next_prompt_row: 0,
            prompt_is_reported: false,
            has_ended: false,
            pending: Vec::new(),
            events,
        }
    }

    pub(crate) fn num_uncomputed_tokens(&self) -> usize {
        self.token_ids.len() - self.num_computed_tokens
    }

    pub(crate) fn num_generated_tokens(&self) -> usize {
        self.token_ids.len() - self.num_prompt_tokens
    }

    /// Blocks that all of its tokens need.
    pub(crate) fn num_needed_blocks(&self) -> usize {
        self.token_ids.len().div_ceil(BLOCK_SIZE)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The most of the next tokens that a step can compute with so many tokens and so many rows of logits for prompt
    /// log-probabilities to spare.
    pub(crate) fn largest_chunk(&self, max_tokens: usize, max_prompt_rows: usize) -> usize {
        let chunk = self.num_uncomputed_tokens().min(max_tokens);
        let rows = self.prompt_rows(chunk);
        if rows.len() <= max_prompt_rows { chunk } else { rows.start + max_prompt_rows - self.num_computed_tokens }
    }

    /// The positions whose logits the next `num_tokens` tokens must give for prompt log-probabilities. Position `p` is about
    /// token `p + 1`, so the prompt's last position is not among them.
    pub(crate) fn prompt_rows(&self, num_tokens: usize) -> Range<usize> {
        if self.sampling.prompt_logprobs.is_none() {
            return 0..0;
        }
        let start = self.num_computed_tokens.max(self.next_prompt_row);
        let end = (self.num_computed_tokens + num_tokens).min(self.num_prompt_tokens - 1);
        start..end.max(start)
    }

    /// The position whose logits the scheduled tokens must give so that a token can be sampled.
    pub(crate) fn sample_row(&self) -> Option<usize> {
        let reaches_the_end = self.num_scheduled_tokens == self.num_uncomputed_tokens();
        (reaches_the_end && self.sampling.max_tokens > 0).then(|| self.token_ids.len() - 1)
    }

    /// Adds the log-probabilities of the next prompt token.
    pub(crate) fn push_prompt_logprobs(&mut self, logprobs: PositionLogprobs) {
        self.prompt_logprobs.push(logprobs);
        self.next_prompt_row += 1;
    }

    /// Notes that the whole prompt is computed, and tells it if it was asked for. Whether this is the first time.
    pub(crate) fn complete_prompt(&mut self) -> bool {
        let is_first_time = !std::mem::replace(&mut self.prompt_is_reported, true);
        if is_first_time && self.sampling.prompt_logprobs.is_some() {
            self.pending.push(Event::Prompt { logprobs: std::mem::take(&mut self.prompt_logprobs) });
        }
        is_first_time
    }

    /// Takes a sampled token, and ends the sequence if that was its last. Whether the token became part of the output.
    ///
    /// # Errors
    /// What the constraint says about the token, which is then no part of the output.
    pub(crate) fn push_token(
        &mut self,
        id: u32,
        logprobs: Option<PositionLogprobs>,
        max_model_len: usize,
    ) -> Result<bool, ConstraintError> {
        if self.stops_at(id) {
            self.finish(FinishReason::Stop { token_id: id });
            return Ok(false);
        }
        let progress = self.constraint.as_mut().map_or(Ok(Progress::Open), |constraint| constraint.accept(id))?;
        self.token_ids.push(id);
        self.counts.push(id);
        self.pending.push(Event::Token { id, logprobs });
        let is_long = self.num_generated_tokens() >= self.sampling.max_tokens as usize;
        if progress == Progress::Complete {
            self.finish(FinishReason::Complete);
        } else if is_long || self.token_ids.len() >= max_model_len {
            self.finish(FinishReason::Length);
        }
        Ok(true)
    }

    fn stops_at(&self, id: u32) -> bool {
        let SamplingParams { stop_token_ids, eos_token_ids, ignore_eos, .. } = &self.sampling;
        stop_token_ids.contains(&id) || (!ignore_eos && eos_token_ids.contains(&id))
    }

    /// Ends the sequence.
    pub(crate) fn finish(&mut self, reason: FinishReason) {
        self.end(Event::Finished { reason, num_cached_tokens: 0 });
    }

    /// Ends the sequence with an error.
    pub(crate) fn fail(&mut self, message: String) {
        self.end(Event::Failed { message });
    }

    fn end(&mut self, event: Event) {
        assert!(!self.has_ended, "a sequence ends once");
        self.has_ended = true;
        self.pending.push(event);
    }

    /// Tells the reader what has happened. A reader that is gone has cancelled, which the mailbox will say.
    pub(crate) fn deliver(&mut self) {
        for event in self.pending.drain(..) {
            let _ = self.events.send(event);
        }
    }
}
