//! The plan of the Cpu device, in the memory of this machine.

use cachalot_model::BLOCK_SIZE;
use cachalot_model::footprint::{
    StepLimits, activation_bytes, kv_block_bytes, logits_bytes, max_num_logits, working_memory,
};
use cachalot_weights::{DeepseekV3Config, KvFormat};

use super::{Budget, Layout, Plan, Suggestion, Wish, format_name, grouped, size};
use crate::byte_size::ByteSize;

/// The program, tokenizer and grammars, connections and requests: some 20 MB with the embedded model, whose vocabulary is small.
const RESERVE_BYTES: u64 = 256 << 20;

/// Cache where the machine does not tell what it has.
const UNKNOWN_MEMORY_SHARE_BYTES: u64 = 1 << 30;
/// A small machine with a large model still gets this much, if it is there.
const LEAST_SHARE_BYTES: u64 = 1 << 30;
/// A small model does not fill a large machine with a cache that nobody asked for.
const MODEST_CACHE_BYTES: u64 = 256 << 20;

/// What the memory of a model on the Cpu follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuDemand<'a> {
    /// The model.
    pub(crate) config: &'a DeepseekV3Config,
    /// Bytes of the weights. They are mapped, so the operating system counts their memory as free.
    pub(crate) weight_bytes: u64,
    /// Numbers in the cache.
    pub(crate) kv_format: KvFormat,
    /// Size of the cache, if it was given.
    pub(crate) kv_cache_bytes: Option<u64>,
    /// The most tokens of one sequence, if it was given.
    pub(crate) max_model_len: Option<usize>,
    /// The most sequences at once.
    pub(crate) max_num_seqs: usize,
    /// The most tokens of one step.
    pub(crate) max_num_batched_tokens: usize,
    /// Tokens drafted per step; none leaves the MTP module out.
    pub(crate) speculative_tokens: usize,
    /// Threads that compute.
    pub(crate) num_threads: usize,
    /// Whether all of the cache is taken at start, so that a large one costs something before it is of use.
    pub(crate) takes_all_at_start: bool,
    /// Free memory, if the machine tells.
    pub(crate) available_bytes: Option<u64>,
}

/// What a model on the Cpu takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuPlan {
    /// By what takes it.
    pub(crate) budget: Budget,
    /// Bytes of one block of [`BLOCK_SIZE`] tokens.
    pub(crate) kv_block_bytes: u64,
    wish: Wish,
}

impl CpuPlan {
    /// From the configuration alone.
    pub(crate) fn new(demand: &CpuDemand<'_>) -> Self {
        let &CpuDemand { config, max_num_seqs, max_num_batched_tokens, speculative_tokens, .. } = demand;
        let mtp = speculative_tokens > 0;
        // A longer one is refused by the model, with the reason.
        let max_model_len = demand.max_model_len.unwrap_or(usize::MAX).min(config.max_position_embeddings);
        let max_num_logits = max_num_logits(max_num_batched_tokens, max_num_seqs, speculative_tokens);
        let limits = StepLimits { max_model_len, max_num_batched_tokens, max_num_logits };
        let kv_block_bytes = kv_block_bytes(config, demand.kv_format, mtp);
        let mut budget = Budget {
            weights: demand.weight_bytes,
            kv_cache: 0,
            activations: activation_bytes(config, limits, mtp),
            indexer_workspace: 0,
            workspaces: working_memory(config, limits, mtp).bytes(demand.num_threads),
            logits: logits_bytes(config.vocab_size, max_num_logits),
            reserve: RESERVE_BYTES,
            available: demand.available_bytes,
        };
        let wish = Wish { max_model_len, max_num_seqs, max_num_batched_tokens, speculative_tokens };
        let bytes = demand
            .kv_cache_bytes
            .unwrap_or_else(|| default_cache_bytes(demand, &budget, kv_block_bytes, max_model_len));
        budget.kv_cache = bytes / kv_block_bytes * kv_block_bytes;
        CpuPlan { budget, kv_block_bytes, wish }
    }

    /// Bytes of one sequence of the full length.
    fn sequence_bytes(&self) -> u64 {
        self.kv_block_bytes * self.wish.max_model_len.div_ceil(BLOCK_SIZE) as u64
    }

    /// What to do where the machine does not have what the plan takes.
    pub(crate) fn advice(&self) -> String {
        let room = self.budget.room().unwrap_or(0) / self.kv_block_bytes * self.kv_block_bytes;
        let tokens = room / self.kv_block_bytes * BLOCK_SIZE as u64;
        if room >= self.sequence_bytes() {
            return format!("a cache of {tokens} tokens fits: --kv-cache-bytes {room}");
        }
        if room > 0 {
            return format!(
                "a cache of {tokens} tokens fits, and sequences of as many: --kv-cache-bytes {room} --max-model-len {tokens}"
            );
        }
        let least = self.budget.without_cache().saturating_add(self.sequence_bytes());
        format!(
            "a machine with {} of free memory holds it with one sequence of {} tokens; a smaller --max-num-batched-tokens takes \
             less than {} for activations and workspaces",
            size(least),
            self.wish.max_model_len,
            size(self.budget.activations + self.budget.workspaces)
        )
    }

    /// The whole plan, for people and programs.
    pub(crate) fn into_plan(self, model: String, num_threads: usize, kv_format: KvFormat) -> Plan {
        let room = self.budget.room().unwrap_or(self.budget.kv_cache);
        let layout = Layout::new("CPU", 1, self.budget, self.kv_block_bytes, room, self.wish);
        let memory = self
            .budget
            .available
            .map_or_else(|| "unknown memory".to_owned(), |available| format!("{} of free memory", ByteSize(available)));
        Plan {
            model,
            machine: format!("this machine: {memory}, CPU with {num_threads} threads"),
            wish: self.wish,
            kv_cache_dtype: format_name(kv_format),
            suggestion: self.suggestion(&layout),
            layouts: vec![layout],
        }
    }

    fn suggestion(&self, layout: &Layout) -> Suggestion {
        let Wish { max_model_len, max_num_seqs, .. } = self.wish;
        let longest = layout.context(1);
        if longest < max_model_len as u64 {
            let budget = self.budget;
            let least = budget.without_cache().saturating_add(self.sequence_bytes());
            let mut sentences = vec![format!(
                "One sequence of {} tokens does not fit: it takes {} with everything else, and {} are free.",
                grouped(max_model_len as u64),
                size(least),
                budget.available.map_or_else(|| "unknown".to_owned(), size)
            )];
            let mut options = Vec::new();
            if longest > 0 {
                sentences.push(format!("The longest that fits has {} tokens.", grouped(longest)));
                let cache = layout.num_blocks * self.kv_block_bytes;
                options = vec![format!("--max-model-len {longest}"), format!("--kv-cache-bytes {cache}")];
            } else {
                sentences.push(format!("A machine with {} of free memory would hold it.", size(least)));
            }
            return Suggestion { fits: false, sentences, options };
        }
        let wanted = self.sequence_bytes().saturating_mul(max_num_seqs as u64);
        let room = layout.num_blocks * self.kv_block_bytes;
        let mut sentences = vec![if wanted <= room {
            format!("All {max_num_seqs} sequences fit at full length, in {} of cache.", size(wanted))
        } else {
            format!(
                "{} of {max_num_seqs} sequences fit at full length; all of them with {} tokens each.",
                grouped(layout.sequences(max_model_len)),
                grouped(layout.context(max_num_seqs))
            )
        }];
        let taken = self.budget.kv_cache;
        if taken < wanted.min(room) {
            sentences.push(format!(
                "Unless told otherwise, serve takes {} of cache: {} tokens.",
                size(taken),
                grouped(taken / self.kv_block_bytes * BLOCK_SIZE as u64)
            ));
        }
        let options = vec![
            format!("--max-model-len {max_model_len}"),
            format!("--max-num-seqs {max_num_seqs}"),
            format!("--kv-cache-bytes {}", wanted.min(room)),
        ];
        Suggestion { fits: true, sentences, options }
    }
}

/// As much as all sequences can fill, but no more than a quarter of what everything else leaves free; and where it is all taken
/// at start, no more than there is, nor than the weights take or [`MODEST_CACHE_BYTES`]. A length that was asked for fits in any
/// case.
fn default_cache_bytes(demand: &CpuDemand<'_>, others: &Budget, kv_block_bytes: u64, max_model_len: usize) -> u64 {
    let of_sequence = kv_block_bytes.saturating_mul(max_model_len.div_ceil(BLOCK_SIZE) as u64);
    let wanted = of_sequence.saturating_mul(demand.max_num_seqs as u64);
    let room = others.room();
    let share = demand
        .available_bytes
        .zip(room)
        .map_or(UNKNOWN_MEMORY_SHARE_BYTES, |(available, room)| (room / 4).max(LEAST_SHARE_BYTES.min(available / 4)));
    let at_start = if demand.takes_all_at_start {
        demand.weight_bytes.max(MODEST_CACHE_BYTES).min(room.unwrap_or(u64::MAX))
    } else {
        u64::MAX
    };
    let least = if demand.max_model_len.is_some() { of_sequence } else { 0 };
    wanted.min(share).min(at_start).max(least)
}

#[cfg(test)]
mod tests;
