//! Which sequences a step computes, and how many tokens of each.
//!
//! Sequences are served in the order of their arrival. A step gives every sequence that generates its one token first; what
//! is left of `max_num_batched_tokens` goes to prompts, in chunks, the running ones before new ones. So a long prompt never
//! stops the output of others, it only shares the step with them.
//!
//! A sequence is admitted when all blocks of its tokens are free, and takes them at once: of two half-computed prompts that
//! wait for each other's blocks none would ever finish. When a generating sequence needs a block and none is free, the one
//! that arrived last gives up its blocks and goes back to the front of the queue; it will be computed again, with what it
//! had generated as if it were prompt. The first to arrive is therefore never preempted, and always finishes.
//!
//! There are no tensors here, and no tokens are looked at, only counted.

use std::collections::VecDeque;

use crate::block::BlockPool;
use crate::sequence::{SeqId, Sequence};
use crate::{IntegrityError, Limits};

/// The sequences that run and those that wait, and the blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    blocks: BlockPool,
    /// Sequences that hold blocks, in the order of their arrival.
    running: Vec<Sequence>,
    /// Sequences that hold none, in the order of their arrival; all arrived after the running ones.
    waiting: VecDeque<Sequence>,
    num_preemptions: u64,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        Scheduler {
            blocks: BlockPool::new(limits.num_blocks),
            running: Vec::with_capacity(limits.max_num_seqs),
            waiting: VecDeque::new(),
            num_preemptions: 0,
            limits,
        }
    }

    /// Adds a sequence that arrived after all others. It fits into an empty cache, as the limits require.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Removes a sequence, wherever it is, and frees its blocks.
    pub(crate) fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        if let Ok(index) = self.running.binary_search_by_key(&seq_id, |sequence| sequence.seq_id) {
            let mut sequence = self.running.remove(index);
            self.blocks.free(&mut sequence.blocks);
            return Some(sequence);
        }
        let index = self.waiting.binary_search_by_key(&seq_id, |sequence| sequence.seq_id).ok()?;
        self.waiting.remove(index)
    }

    /// Decides what the next step computes: sets `num_scheduled_tokens` of every running sequence, 0 for those that sit this
    /// step out, and gives them the blocks for it.
    pub(crate) fn schedule(&mut self) {
        let mut num_tokens = self.limits.max_num_batched_tokens;
        let mut num_prompt_rows = self.limits.max_prompt_logprob_rows;
        self.schedule_generating(&mut num_tokens);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.num_uncomputed_tokens() > 1) {
            schedule_chunk(sequence, &mut num_tokens, &mut num_prompt_rows);
        }
        self.admit(&mut num_tokens, &mut num_prompt_rows);
        let is_idle = self.running.iter().all(|sequence| sequence.num_scheduled_tokens == 0);
        assert!(self.is_empty() || !is_idle, "the first to arrive can always be computed");
    }

    /// Schedules the sequences that lack one token, preempting the latest arrivals where blocks are short. Later arrivals
    /// come later here, so what is preempted has not been scheduled yet.
    fn schedule_generating(&mut self, num_tokens: &mut usize) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            sequence.num_scheduled_tokens = 0;
            if sequence.num_uncomputed_tokens() == 1 {
                if sequence.blocks.len() < sequence.num_needed_blocks() {
                    let Some(block) = self.blocks.allocate() else {
                        self.preempt_latest();
                        continue;
                    };
                    sequence.blocks.push(block);
                }
                sequence.num_scheduled_tokens = 1;
                *num_tokens -= 1;
            }
            index += 1;
        }
    }

    fn preempt_latest(&mut self) {
        let mut sequence = self.running.pop().expect("the sequence that needs a block is running");
        self.blocks.free(&mut sequence.blocks);
        sequence.num_computed_tokens = 0;
        sequence.num_scheduled_tokens = 0;
        self.num_preemptions += 1;
        self.waiting.push_front(sequence);
    }

    /// Starts waiting sequences while there is room for the first of them.
    fn admit(&mut self, num_tokens: &mut usize, num_prompt_rows: &mut usize) {
        while self.running.len() < self.limits.max_num_seqs
            && let Some(sequence) = self.waiting.front_mut()
        {
            let num_needed = sequence.num_needed_blocks();
            let num_kept_free = if self.running.is_empty() { 0 } else { self.blocks.watermark() };
            if self.blocks.num_free() < num_needed + num_kept_free
                || sequence.largest_chunk(*num_tokens, *num_prompt_rows) == 0
            {
                return;
            }
            schedule_chunk(sequence, num_tokens, num_prompt_rows);
            sequence.blocks.extend((0..num_needed).map_while(|_| self.blocks.allocate()));
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Removes the sequences that have ended into `ended`, and frees their blocks.
    pub(crate) fn release_ended(&mut self, ended: &mut Vec<Sequence>) {
        ended.extend(self.running.extract_if(.., |sequence| sequence.has_ended()));
        for sequence in ended {
            self.blocks.free(&mut sequence.blocks);
        }
    }

    /// Removes all sequences into `removed`, in the order of their arrival, and frees their blocks.
    pub(crate) fn release_all(&mut self, removed: &mut Vec<Sequence>) {
        removed.append(&mut self.running);
        removed.extend(self.waiting.drain(..));
        for sequence in removed {
            self.blocks.free(&mut sequence.blocks);
        }
    }

    /// The sequences that hold blocks, in the order of their arrival.
    pub(crate) fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The same, to be advanced.
    pub(crate) fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn num_blocks_in_use(&self) -> usize {
        self.blocks.num_blocks() - self.blocks.num_free()
    }

    pub(crate) fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    /// Checks that no block is lost or held twice, that sequences have the blocks that their keys need, and that the order of
    /// arrival is kept.
    pub(crate) fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.blocks.check_integrity(self.running.iter().flat_map(|sequence| &sequence.blocks))?;
        let fail = |sequence: &Sequence, what: &str| Err(IntegrityError(format!("{:?} {what}", sequence.seq_id)));
        for sequence in &self.running {
            let num_held = sequence.blocks.len() * cachalot_model::BLOCK_SIZE;
            if num_held < sequence.num_computed_tokens + sequence.num_scheduled_tokens {
                return fail(sequence, "has computed more tokens than its blocks hold");
            }
            if sequence.num_uncomputed_tokens() == 0 || sequence.has_ended() {
                return fail(sequence, "runs, but has nothing to compute");
            }
        }
        for sequence in &self.waiting {
            if !sequence.blocks.is_empty() || sequence.num_computed_tokens > 0 {
                return fail(sequence, "waits, but has computed tokens");
            }
        }
        let ids: Vec<_> = self.running.iter().chain(&self.waiting).map(|sequence| sequence.seq_id).collect();
        match ids.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => Err(IntegrityError(format!("{:?} stands before {:?}", pair[0], pair[1]))),
            None => Ok(()),
        }
    }
}

fn schedule_chunk(sequence: &mut Sequence, num_tokens: &mut usize, num_prompt_rows: &mut usize) {
    let chunk = sequence.largest_chunk(*num_tokens, *num_prompt_rows);
    *num_tokens -= chunk;
    *num_prompt_rows -= sequence.prompt_rows(chunk).len();
    sequence.num_scheduled_tokens = chunk;
}
