//! Which sequences a step computes, and how many tokens of each.
//!
//! Every sequence has a [`Turn`](crate::sequence::Turn): when it came, put off by the handicap of its class. Who has the
//! earlier turn goes first, everywhere. As a turn never changes and later arrivals get later ones, nobody waits forever.
//!
//! A step gives every sequence that generates its one token and its draft first; what is left of `max_num_batched_tokens` goes
//! to prompts, in chunks, the running ones before new ones. So a long prompt never stops the output of others, it only shares
//! the step with them; and its share is small enough that they hardly notice ([`Pace`]).
//!
//! A sequence is admitted when all blocks of its tokens are free, and room for what the running ones will probably generate
//! ([`Forecast`]). It takes its blocks at once: of two half-computed prompts that wait for each other's blocks none would ever
//! finish. Blocks that the cache has it shares instead. If a running sequence is just computing what it needs, it waits for
//! that, and others may pass.
//!
//! When a generating sequence needs a block and none is free, the one with the latest turn gives up its blocks and waits
//! again; it will be computed again, with what it had generated as if it were prompt, as far as its blocks are not in the cache
//! any more. The sequence with the earliest turn is therefore never preempted, and always finishes. A sequence of a higher class
//! that finds no room makes some in the same way, at the cost of those of lower classes.
//!
//! There are no tensors here, and no tokens are looked at, only counted.

use std::collections::{HashMap, VecDeque};

use cachalot_model::BLOCK_SIZE;

use crate::block::{BlockId, BlockPool, CacheHit};
use crate::block_hash::BlockHash;
use crate::forecast::Forecast;
use crate::pace::Pace;
use crate::sequence::{SeqId, Sequence, Turn};
use crate::{IntegrityError, Limits};

/// One block in so many stays free when a sequence is admitted beside others, whatever they are expected to need.
const MIN_FREE_SHARE: usize = 100;

/// The sequences that run and those that wait, and the blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    blocks: BlockPool,
    /// Sequences that hold blocks, in the order of their turns.
    running: Vec<Sequence>,
    /// Sequences that hold none, in the order of their turns.
    waiting: VecDeque<Sequence>,
    /// Blocks of prompts that running sequences are about to compute, and who does.
    awaited: HashMap<BlockHash, Turn, rustc_hash::FxBuildHasher>,
    forecast: Forecast,
    pub(crate) pace: Pace,
    num_preemptions: u64,
}

/// What a step has left to give.
struct Budget {
    num_tokens: usize,
    num_prompt_rows: usize,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        Scheduler {
            blocks: BlockPool::new(limits.num_blocks),
            running: Vec::with_capacity(limits.max_num_seqs),
            waiting: VecDeque::new(),
            awaited: HashMap::default(),
            forecast: Forecast::default(),
            pace: Pace::default(),
            num_preemptions: 0,
            limits,
        }
    }

    /// Adds a sequence. It fits into an empty cache, as the limits require.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        let index = self.waiting.partition_point(|other| other.turn < sequence.turn);
        self.waiting.insert(index, sequence);
    }

    /// Removes a sequence, wherever it is, and frees its blocks.
    pub(crate) fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        if let Some(index) = self.running.iter().position(|sequence| sequence.seq_id == seq_id) {
            let mut sequence = self.running.remove(index);
            self.release(&mut sequence);
            return Some(sequence);
        }
        let index = self.waiting.iter().position(|sequence| sequence.seq_id == seq_id)?;
        self.waiting.remove(index)
    }

    /// Decides what the next step computes: sets `num_scheduled_tokens` of every running sequence, 0 for those that sit this
    /// step out, and gives them the blocks for it.
    pub(crate) fn schedule(&mut self) {
        self.make_room();
        let mut budget = Budget {
            num_tokens: self.limits.max_num_batched_tokens,
            num_prompt_rows: self.limits.max_prompt_logprob_rows,
        };
        let num_generating = self.schedule_generating(&mut budget);
        if num_generating > 0 {
            budget.num_tokens = self.pace.limit(budget.num_tokens);
        }
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.is_generating()) {
            schedule_chunk(sequence, &mut budget);
        }
        self.admit(&mut budget);
        let is_idle = self.running.iter().all(|sequence| sequence.num_scheduled_tokens == 0);
        assert!(self.is_empty() || !is_idle, "the first in turn can always be computed");
    }

    /// Lets a sequence that has found no room take it from those of lower classes with later turns, if that is enough.
    fn make_room(&mut self) {
        while let (Some(first), Some(last)) = (self.waiting.front(), self.running.last()) {
            let gives_way = |other: &&Sequence| other.priority > first.priority && other.turn > first.turn;
            if !gives_way(&last) {
                return;
            }
            let has_seat = self.running.len() < self.limits.max_num_seqs;
            let hashes = first.reusable_hashes();
            let hit = self.blocks.look_up(hashes);
            // It would not start yet: room that it took now would go back to those it was taken from.
            if hashes.get(hit.num_blocks).is_some_and(|hash| is_awaited_before(&self.awaited, hash, first.turn)) {
                return;
            }
            let num_needed = first.num_needed_blocks() - hit.num_blocks;
            let num_free = self.blocks.num_free() - hit.num_free_blocks;
            let num_given: usize = self.running.iter().filter(gives_way).map(|sequence| sequence.blocks.len()).sum();
            if (has_seat && num_free >= num_needed) || num_free + num_given < num_needed {
                return;
            }
            self.preempt_last();
        }
    }

    /// Schedules the sequences that generate, preempting from the last one on where blocks are short. Later turns come later
    /// here, so what is preempted has not been scheduled yet. Returns how many there are.
    fn schedule_generating(&mut self, budget: &mut Budget) -> usize {
        let mut num_left = self.running.iter().filter(|sequence| sequence.is_generating()).count();
        let mut num_generating = 0;
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            sequence.num_scheduled_tokens = 0;
            if sequence.is_generating() {
                if sequence.blocks.len() < sequence.num_needed_blocks() {
                    let Some(block) = self.blocks.allocate() else {
                        num_left -= usize::from(self.running.last().is_some_and(Sequence::is_generating));
                        self.preempt_last();
                        continue;
                    };
                    sequence.blocks.push(block);
                }
                // A draft takes what is left when everyone has a token, and what its blocks hold.
                num_left -= 1;
                let room_in_step = budget.num_tokens - 1 - num_left;
                let room_in_blocks = sequence.blocks.len() * BLOCK_SIZE - sequence.token_ids.len();
                sequence.draft_ids.truncate(room_in_step.min(room_in_blocks));
                sequence.num_scheduled_tokens = 1 + sequence.draft_ids.len();
                budget.num_tokens -= sequence.num_scheduled_tokens;
                num_generating += 1;
            }
            index += 1;
        }
        num_generating
    }

    fn preempt_last(&mut self) {
        let mut sequence = self.running.pop().expect("the sequence that needs a block is running");
        self.release(&mut sequence);
        sequence.draft_ids.clear();
        sequence.num_computed_tokens = 0;
        sequence.num_scheduled_tokens = 0;
        sequence.num_published_blocks = 0;
        sequence.num_preemptions += 1;
        self.num_preemptions += 1;
        self.push(sequence);
    }

    /// Starts waiting sequences, in turn, while there is room.
    fn admit(&mut self, budget: &mut Budget) {
        let mut index = 0;
        while self.running.len() < self.limits.max_num_seqs
            && let Some(sequence) = self.waiting.get_mut(index)
        {
            let turn = sequence.turn;
            let is_awaited = |hash: &BlockHash| is_awaited_before(&self.awaited, hash, turn);
            if sequence.awaited_hash.as_ref().is_some_and(is_awaited) {
                index += 1;
                continue;
            }
            let hashes = sequence.reusable_hashes();
            let hit = self.blocks.look_up(hashes);
            let next = hashes.get(hit.num_blocks).copied().filter(is_awaited);
            sequence.awaited_hash = next;
            if next.is_some() {
                index += 1;
                continue;
            }
            let num_new_blocks = sequence.num_needed_blocks() - hit.num_blocks;
            let num_kept_free = match self.running.len() {
                0 => 0,
                _ => {
                    let growing = self.running.iter().chain([&*sequence]);
                    self.forecast.num_blocks(growing).max(self.limits.num_blocks / MIN_FREE_SHARE)
                }
            };
            if self.blocks.num_free() - hit.num_free_blocks < num_new_blocks + num_kept_free {
                return;
            }
            let start = hit.num_blocks * BLOCK_SIZE;
            if sequence.largest_chunk(start, budget.num_tokens, budget.num_prompt_rows) == 0 {
                return;
            }
            let mut sequence = self.waiting.remove(index).expect("it was just looked at");
            self.take_blocks(&mut sequence, hit);
            schedule_chunk(&mut sequence, budget);
            let place = self.running.partition_point(|other| other.turn < sequence.turn);
            self.running.insert(place, sequence);
        }
    }

    /// Gives a sequence the blocks of all its tokens, those first that need not be computed.
    fn take_blocks(&mut self, sequence: &mut Sequence, hit: CacheHit) {
        let Scheduler { blocks, awaited, .. } = self;
        let (shared, missing) = sequence.block_hashes.split_at(hit.num_blocks);
        sequence.blocks.extend(shared.iter().map_while(|&hash| blocks.share(hash)));
        let num_needed = sequence.num_needed_blocks();
        sequence.blocks.extend((hit.num_blocks..num_needed).map_while(|_| blocks.allocate()));
        assert_eq!(sequence.blocks.len(), num_needed, "there was room");
        for &hash in missing {
            awaited.entry(hash).or_insert(sequence.turn);
        }
        sequence.num_computed_tokens = hit.num_blocks * BLOCK_SIZE;
        sequence.num_published_blocks = hit.num_blocks;
        sequence.note_cached_tokens(sequence.num_computed_tokens);
    }

    /// Takes the blocks that drafts of `num_tokens` need into which nothing else fits, as far as they are free.
    pub(crate) fn reserve_for_draft(&mut self, index: usize, num_tokens: usize) -> usize {
        let sequence = &mut self.running[index];
        let num_tokens_then = sequence.token_ids.len() + num_tokens;
        let num_missing = num_tokens_then.div_ceil(BLOCK_SIZE).saturating_sub(sequence.blocks.len());
        sequence.blocks.extend((0..num_missing).map_while(|_| self.blocks.allocate()));
        num_tokens.min((sequence.blocks.len() * BLOCK_SIZE).saturating_sub(sequence.token_ids.len()))
    }

    /// Makes the blocks known that sequences have filled.
    pub(crate) fn publish_full_blocks(&mut self) {
        let Scheduler { blocks, awaited, running, .. } = self;
        for sequence in running.iter_mut().filter(|sequence| !sequence.has_failed()) {
            let num_full = (sequence.num_computed_tokens / BLOCK_SIZE).min(sequence.block_hashes.len());
            for block in sequence.num_published_blocks..num_full {
                let hash = sequence.block_hashes[block];
                blocks.publish(&sequence.blocks[block], hash);
                awaited.remove(&hash);
            }
            sequence.num_published_blocks = sequence.num_published_blocks.max(num_full);
        }
    }

    /// Forgets what the cache holds: it may be wrong.
    pub(crate) fn forget_cached_blocks(&mut self) {
        self.blocks.forget_all();
    }

    /// Frees the blocks of a sequence that stops running, and lets go those that waited for them.
    fn release(&mut self, sequence: &mut Sequence) {
        for hash in sequence.block_hashes.iter().skip(sequence.num_published_blocks) {
            if self.awaited.get(hash) == Some(&sequence.turn) {
                self.awaited.remove(hash);
            }
        }
        self.blocks.free(&mut sequence.blocks);
    }

    /// Removes the sequences that have ended into `ended`, and frees their blocks.
    pub(crate) fn release_ended(&mut self, ended: &mut Vec<Sequence>) {
        let num_before = ended.len();
        ended.extend(self.running.extract_if(.., |sequence| sequence.has_ended()));
        ended.extend(extract_if(&mut self.waiting, |sequence| sequence.has_ended()));
        for sequence in &mut ended[num_before..] {
            self.release(sequence);
            self.forecast.note_output(sequence);
        }
    }

    /// Removes all sequences into `removed`, and frees their blocks.
    pub(crate) fn release_all(&mut self, removed: &mut Vec<Sequence>) {
        let num_before = removed.len();
        removed.append(&mut self.running);
        removed.extend(self.waiting.drain(..));
        for sequence in &mut removed[num_before..] {
            self.release(sequence);
        }
    }

    /// The sequences that hold blocks, in turn.
    pub(crate) fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The same, to be advanced.
    pub(crate) fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// All sequences, the running ones first.
    pub(crate) fn sequences_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.running.iter_mut().chain(&mut self.waiting)
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

    pub(crate) fn num_blocks_cached(&self) -> usize {
        self.blocks.num_cached()
    }

    pub(crate) fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    /// Checks that no block is lost or held more often than counted, that sequences have the blocks that their keys need and
    /// write to none that another one holds, and that the order of turns is kept.
    pub(crate) fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.blocks.check_integrity(self.running.iter().flat_map(|sequence| &sequence.blocks))?;
        let fail = |sequence: &Sequence, what: &str| Err(IntegrityError(format!("{:?} {what}", sequence.seq_id)));
        let mut holders: HashMap<u32, u32> = HashMap::new();
        for block in self.running.iter().flat_map(|sequence| &sequence.blocks) {
            *holders.entry(block.index()).or_default() += 1;
        }
        for sequence in &self.running {
            let num_held = sequence.blocks.len() * BLOCK_SIZE;
            if num_held < sequence.num_computed_tokens + sequence.num_scheduled_tokens {
                return fail(sequence, "has computed more tokens than its blocks hold");
            }
            if sequence.num_uncomputed_tokens() == 0 || sequence.has_ended() {
                return fail(sequence, "runs, but has nothing to compute");
            }
            let written = &sequence.blocks[sequence.num_computed_tokens / BLOCK_SIZE..];
            if written.iter().any(|block: &BlockId| holders[&block.index()] != 1) {
                return fail(sequence, "writes to a block that another one holds");
            }
        }
        for sequence in &self.waiting {
            if !sequence.blocks.is_empty() || sequence.num_computed_tokens > 0 {
                return fail(sequence, "waits, but has computed tokens");
            }
        }
        let is_in_turn = |pair: &[Turn]| pair[0] < pair[1];
        let running: Vec<_> = self.running.iter().map(|sequence| sequence.turn).collect();
        let waiting: Vec<_> = self.waiting.iter().map(|sequence| sequence.turn).collect();
        if !running.windows(2).all(is_in_turn) || !waiting.windows(2).all(is_in_turn) {
            return Err(IntegrityError(format!("out of turn: {running:?} run, {waiting:?} wait")));
        }
        let turns: Vec<_> = running.iter().collect();
        match self.awaited.values().find(|turn| !turns.contains(turn)) {
            Some(turn) => Err(IntegrityError(format!("a block is awaited from {turn:?}, which does not run"))),
            None => Ok(()),
        }
    }
}

/// Whether a sequence with an earlier turn is about to compute the block.
fn is_awaited_before(
    awaited: &HashMap<BlockHash, Turn, rustc_hash::FxBuildHasher>,
    hash: &BlockHash,
    turn: Turn,
) -> bool {
    awaited.get(hash).is_some_and(|earlier| *earlier < turn)
}

fn schedule_chunk(sequence: &mut Sequence, budget: &mut Budget) {
    let start = sequence.num_computed_tokens;
    let chunk = sequence.largest_chunk(start, budget.num_tokens, budget.num_prompt_rows);
    budget.num_tokens -= chunk;
    budget.num_prompt_rows -= sequence.prompt_rows(start, chunk).len();
    sequence.num_scheduled_tokens = chunk;
}

/// `VecDeque` has no `extract_if` yet.
fn extract_if(waiting: &mut VecDeque<Sequence>, mut is_wanted: impl FnMut(&Sequence) -> bool) -> Vec<Sequence> {
    let indices: Vec<usize> = (0..waiting.len()).rev().filter(|&index| is_wanted(&waiting[index])).collect();
    indices.into_iter().filter_map(|index| waiting.remove(index)).collect()
}
