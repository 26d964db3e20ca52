//! One request while the engine has it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use cachalot_model::BLOCK_SIZE;
use tokio::sync::mpsc::UnboundedSender;

use crate::block::BlockId;
use crate::block_hash::{BlockHash, BlockHasher};
use crate::constraint::Constrained;
use crate::mailbox::Submission;
use crate::sampler::TokenCounts;
use crate::{
    ConstraintError, Event, Failure, FinishReason, PositionLogprobs, Priority, Progress, Report, SamplingParams,
};

/// Names a request; later arrivals have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeqId(pub(crate) u64);

/// The place of a sequence among all others: when it came, put off by the handicap of its class. The smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    due: Instant,
    seq_id: SeqId,
}

/// The tokens of a request, how far they have been computed, and what its reader has still to be told.
///
/// Nothing here says whether the sequence is in prefill or in decode: it has tokens, of which some are computed. A preempted
/// sequence has none computed, and is otherwise as it was.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) seq_id: SeqId,
    pub(crate) priority: Priority,
    pub(crate) turn: Turn,
    pub(crate) deadline: Option<Instant>,
    pub(crate) sampling: SamplingParams,
    /// The prompt, then what was generated.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) num_prompt_tokens: usize,
    /// What the model may choose after `token_ids`, by a guess that the next step verifies.
    pub(crate) draft_ids: Vec<u32>,
    /// Tokens that the draft in progress is to have.
    pub(crate) draft_len: usize,
    /// Tokens of the draft from its start that this step has found to be right.
    pub(crate) num_right_drafts: usize,
    draft_outcome: Option<(usize, usize)>,
    /// Tokens whose keys are in the cache.
    pub(crate) num_computed_tokens: usize,
    /// Tokens that the step in progress computes, the draft's among them.
    pub(crate) num_scheduled_tokens: usize,
    /// Where the keys are; covers the scheduled tokens.
    pub(crate) blocks: Vec<BlockId>,
    /// Names of the full blocks, as far as their tokens are known; empty without a prefix cache.
    pub(crate) block_hashes: Vec<BlockHash>,
    /// The first of its blocks that are known to the pool or were found there.
    pub(crate) num_published_blocks: usize,
    /// Prompt tokens that were found in the cache when it was first scheduled.
    num_cached_tokens: Arc<AtomicU32>,
    /// While it waits: the block that it waits for, which another sequence is about to compute.
    pub(crate) awaited_hash: Option<BlockHash>,
    cache_salt: String,
    /// What the penalties need to know.
    pub(crate) counts: TokenCounts,
    /// Survives preemption, as the tokens do.
    pub(crate) constraint: Option<Constrained>,
    pub(crate) times: Times,
    pub(crate) num_preemptions: u32,
    /// Per place in a draft, how often it was verified, and how often it was right.
    num_drafted: Vec<u32>,
    num_accepted: Vec<u32>,
    prompt_logprobs: Vec<PositionLogprobs>,
    /// The first position whose prompt log-probabilities are not known yet. Survives preemption.
    next_prompt_row: usize,
    prompt_is_reported: bool,
    end: Option<End>,
    pub(crate) outlet: Outlet,
}

/// Where a sequence's events go.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// What happened in this step. Told once the step's accounts are closed.
    pending: Vec<Event>,
    events: UnboundedSender<Event>,
}

impl Outlet {
    pub(crate) fn has_news(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells the reader what has happened. A reader that is gone has cancelled, which the mailbox will say.
    pub(crate) fn deliver(&mut self) {
        for event in self.pending.drain(..) {
            let _ = self.events.send(event);
        }
    }
}

/// How a sequence has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Failed,
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
        let Submission { seq_id, request, block_hashes, num_cached_tokens, events, arrival } = submission;
        Sequence {
            seq_id,
            priority: request.priority,
            turn: Turn { due: arrival + request.priority.handicap(), seq_id },
            deadline: request.timeout.and_then(|timeout| arrival.checked_add(timeout)),
            counts: TokenCounts::new(&request.sampling, &request.prompt_ids),
            constraint: request.constraint.map(|constraint| Constrained::new(constraint, vocab_size)),
            num_prompt_tokens: request.prompt_ids.len(),
            sampling: request.sampling,
            token_ids: request.prompt_ids,
            draft_ids: Vec::new(),
            draft_len: 0,
            num_right_drafts: 0,
            draft_outcome: None,
            num_computed_tokens: 0,
            num_scheduled_tokens: 0,
            blocks: Vec::new(),
            block_hashes,
            num_published_blocks: 0,
            num_cached_tokens,
            awaited_hash: None,
            cache_salt: request.cache_salt,
            times: Times { arrival, first_scheduled: None, first_token: None, last_token: None },
            num_preemptions: 0,
            num_drafted: Vec::new(),
            num_accepted: Vec::new(),
            prompt_logprobs: Vec::new(),
            next_prompt_row: 0,
            prompt_is_reported: false,
            end: None,
            outlet: Outlet { pending: Vec::new(), events },
        }
    }

    pub(crate) fn num_uncomputed_tokens(&self) -> usize {
        self.token_ids.len() - self.num_computed_tokens
    }

    /// Notes that so many tokens of its blocks were found in the cache, which counts when it has not been computed before.
    pub(crate) fn note_cached_tokens(&mut self, num_tokens: usize) {
        if self.times.first_scheduled.is_none() {
            self.num_cached_tokens.store(num_tokens as u32, Ordering::Relaxed);
        }
    }

    /// Prompt tokens that were found in the cache when it was first scheduled.
    pub(crate) fn num_cached_tokens(&self) -> u32 {
        self.num_cached_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn num_generated_tokens(&self) -> usize {
        self.token_ids.len() - self.num_prompt_tokens
    }

    /// Whether it lacks nothing but its latest token: its next step gives it a new one.
    pub(crate) fn is_generating(&self) -> bool {
        self.num_uncomputed_tokens() == 1
    }

    /// Blocks that all of its tokens need.
    pub(crate) fn num_needed_blocks(&self) -> usize {
        self.token_ids.len().div_ceil(BLOCK_SIZE)
    }

    /// The hashes of the blocks that it need not compute if they are in the cache. The last token must be computed, whatever is
    /// there: its logits are wanted. So must every position whose log-probabilities are.
    pub(crate) fn reusable_hashes(&self) -> &[BlockHash] {
        let wants_prompt_rows =
            self.sampling.prompt_logprobs.is_some() && self.next_prompt_row + 1 < self.num_prompt_tokens;
        let num_blocks = if wants_prompt_rows { 0 } else { (self.token_ids.len() - 1) / BLOCK_SIZE };
        &self.block_hashes[..num_blocks.min(self.block_hashes.len())]
    }

    /// Names the blocks that its latest tokens have filled.
    pub(crate) fn extend_hashes(&mut self, hasher: &BlockHasher) {
        hasher.extend(&mut self.block_hashes, &self.cache_salt, &self.token_ids);
    }

    /// The most tokens that a draft can have: the output ends with the last of them that is accepted and one more.
    pub(crate) fn largest_draft(&self, max_model_len: usize) -> usize {
        let num_left = (self.sampling.max_tokens as usize).saturating_sub(self.num_generated_tokens());
        num_left.min(max_model_len - self.token_ids.len()).saturating_sub(1)
    }

    /// Whether the draft in progress is to have more tokens than it has.
    pub(crate) fn lacks_draft(&self) -> bool {
        self.draft_ids.len() < self.draft_len
    }

    /// Closes the account of the draft that this step has verified, if there was one: how many tokens it had, and how many of
    /// them, from its start, were right.
    pub(crate) fn close_draft(&mut self) -> Option<(usize, usize)> {
        self.note_draft();
        self.draft_outcome.take()
    }

    fn note_draft(&mut self) {
        if self.draft_ids.is_empty() {
            return;
        }
        let (num_drafted, num_accepted) = (self.draft_ids.len(), std::mem::take(&mut self.num_right_drafts));
        self.draft_ids.clear();
        self.draft_outcome = Some((num_drafted, num_accepted));
        for (counts, num) in [(&mut self.num_drafted, num_drafted), (&mut self.num_accepted, num_accepted)] {
            if counts.len() < num_drafted {
                counts.resize(num_drafted, 0);
            }
            counts[..num].iter_mut().for_each(|count| *count += 1);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether it has ended with an error, so that what its blocks hold is not to be trusted.
    pub(crate) fn has_failed(&self) -> bool {
        self.end == Some(End::Failed)
    }

    /// The most tokens after the first `start` that a step can compute with so many tokens and so many rows of logits for
    /// prompt log-probabilities to spare.
    pub(crate) fn largest_chunk(&self, start: usize, max_tokens: usize, max_prompt_rows: usize) -> usize {
        let chunk = (self.token_ids.len() - start).min(max_tokens);
        let rows = self.prompt_rows(start, chunk);
        if rows.len() <= max_prompt_rows { chunk } else { rows.start + max_prompt_rows - start }
    }

    /// The positions whose logits the `num_tokens` tokens from `start` on must give for prompt log-probabilities. Position `p`
    /// is about token `p + 1`, so the prompt's last position is not among them.
    pub(crate) fn prompt_rows(&self, start: usize, num_tokens: usize) -> Range<usize> {
        if self.sampling.prompt_logprobs.is_none() {
            return 0..0;
        }
        let end = (start + num_tokens).min(self.num_prompt_tokens - 1);
        let start = start.max(self.next_prompt_row);
        start..end.max(start)
    }

    /// The positions whose logits the scheduled tokens must give so that tokens can be chosen: that of the last token, and
    /// those of the draft.
    pub(crate) fn sample_rows(&self) -> Range<usize> {
        let end = self.num_computed_tokens + self.num_scheduled_tokens;
        let start = if self.sampling.max_tokens > 0 { self.token_ids.len() - 1 } else { end };
        start.min(end)..end
    }

    /// The token at a scheduled position.
    pub(crate) fn scheduled_id(&self, position: usize) -> u32 {
        let num_tokens = self.token_ids.len();
        if position < num_tokens { self.token_ids[position] } else { self.draft_ids[position - num_tokens] }
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
            self.outlet.pending.push(Event::Prompt { logprobs: std::mem::take(&mut self.prompt_logprobs) });
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
        if self.sampling.stops_at(id) {
            self.finish(FinishReason::Stop { token_id: id });
            return Ok(false);
        }
        let progress = self.constraint.as_mut().map_or(Ok(Progress::Open), |constraint| constraint.accept(id))?;
        self.token_ids.push(id);
        self.counts.push(id);
        self.outlet.pending.push(Event::Token { id, logprobs });
        let is_long = self.num_generated_tokens() >= self.sampling.max_tokens as usize;
        if progress == Progress::Complete {
            self.finish(FinishReason::Complete);
        } else if is_long || self.token_ids.len() >= max_model_len {
            self.finish(FinishReason::Length);
        }
        Ok(true)
    }

    /// Ends the sequence.
    pub(crate) fn finish(&mut self, reason: FinishReason) {
        let end = Instant::now();
        self.note_draft();
        let report = Report {
            num_cached_tokens: self.num_cached_tokens(),
            num_drafted: std::mem::take(&mut self.num_drafted),
            num_accepted: std::mem::take(&mut self.num_accepted),
            num_preemptions: self.num_preemptions,
            arrival: self.times.arrival,
            first_scheduled: self.times.first_scheduled.unwrap_or(end),
            first_token: self.times.first_token,
            end,
        };
        tracing::debug!(
            seq_id = self.seq_id.0,
            ?reason,
            num_prompt_tokens = self.num_prompt_tokens,
            num_cached_tokens = report.num_cached_tokens,
            num_generated_tokens = self.num_generated_tokens(),
            num_drafted_tokens = report.num_drafted.iter().sum::<u32>(),
            num_accepted_tokens = report.num_accepted.iter().sum::<u32>(),
            num_preemptions = self.num_preemptions,
            queue_s = (report.first_scheduled - report.arrival).as_secs_f64(),
            total_s = (end - report.arrival).as_secs_f64(),
            "request finished"
        );
        self.end(End::Finished, Event::Finished { reason, report: Box::new(report) });
    }

    /// Ends the sequence with an error.
    pub(crate) fn fail(&mut self, failure: Failure, message: String) {
        tracing::debug!(
            seq_id = self.seq_id.0,
            ?failure,
            message,
            num_prompt_tokens = self.num_prompt_tokens,
            num_generated_tokens = self.num_generated_tokens(),
            total_s = self.times.arrival.elapsed().as_secs_f64(),
            "request failed"
        );
        self.end(End::Failed, Event::Failed { failure, message });
    }

    fn end(&mut self, end: End, event: Event) {
        assert!(self.end.is_none(), "a sequence ends once");
        self.end = Some(end);
        self.outlet.pending.push(event);
    }
}
