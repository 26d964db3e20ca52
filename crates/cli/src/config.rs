//! From raw options to the configuration that the libraries take. Nothing here changes after it was made.

use std::num::NonZeroUsize;
use std::time::Duration;

use cachalot_engine::{EngineConfig, OnFault, SpeculativeTokens};
use cachalot_model::BLOCK_SIZE;
use cachalot_ops::Device;
use cachalot_prompt::Release;
use cachalot_tensor::DType;

use crate::args::{KvCacheDtype, ModelArgs};
use crate::source::ModelSource;

/// Cache where the machine does not tell what it has.
const UNKNOWN_MEMORY_SHARE_BYTES: u64 = 1 << 30;
/// A small machine with a large model still gets this much, if it is there.
const LEAST_SHARE_BYTES: u64 = 1 << 30;

/// Which model, and how it is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// Where the files are.
    pub(crate) source: ModelSource,
    /// Where the operations run.
    pub(crate) device: Device,
    /// Threads that compute; one per core if `None`.
    pub(crate) num_threads: Option<NonZeroUsize>,
    /// The release, if it is not to be told from the files.
    pub(crate) release: Option<Release>,
    /// The most tokens of one sequence; `None` leaves it to the model and the memory.
    pub(crate) max_model_len: Option<usize>,
    /// The most tokens of one step.
    pub(crate) max_num_batched_tokens: usize,
    /// Size of the cache; `None` derives it from the memory that is free once the model is loaded.
    pub(crate) kv_cache_bytes: Option<u64>,
    /// Element type of the cache.
    pub(crate) kv_cache_dtype: DType,
    /// The most sequences that run at once.
    pub(crate) max_num_seqs: usize,
    /// The most requests that wait.
    pub(crate) max_waiting: usize,
    /// Whether requests share what the cache holds of their prompts.
    pub(crate) prefix_cache: bool,
    /// How many tokens are drafted for each step to verify.
    pub(crate) speculative_tokens: SpeculativeTokens,
    /// What to do when a step fails.
    pub(crate) on_fault: OnFault,
    /// A step that takes longer is stuck.
    pub(crate) step_timeout: Duration,
}

impl ModelConfig {
    /// The configuration for a command that runs up to `max_num_seqs` sequences and lets `max_waiting` more wait.
    ///
    /// # Errors
    /// If the model cannot be found.
    pub(crate) fn new(args: &ModelArgs, max_num_seqs: usize, max_waiting: usize) -> anyhow::Result<Self> {
        let kv_cache_dtype = match args.kv_cache_dtype {
            KvCacheDtype::Bf16 => DType::BF16,
            KvCacheDtype::F32 => DType::F32,
        };
        Ok(ModelConfig {
            source: ModelSource::find(args.model.as_deref())?,
            device: args.device,
            num_threads: args.threads,
            release: args.release,
            max_model_len: args.max_model_len.map(NonZeroUsize::get),
            max_num_batched_tokens: args.max_num_batched_tokens.get(),
            kv_cache_bytes: args.kv_cache_bytes.map(|size| size.0),
            kv_cache_dtype,
            max_num_seqs,
            max_waiting,
            prefix_cache: true,
            speculative_tokens: args.speculative_tokens,
            on_fault: OnFault::Restart,
            step_timeout: EngineConfig::default().step_timeout,
        })
    }
}

/// What the default size of the cache follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheDemand {
    /// Bytes of one block of [`BLOCK_SIZE`] tokens.
    pub(crate) block_bytes: u64,
    /// The most sequences that run at once.
    pub(crate) max_num_seqs: usize,
    /// The most tokens of one sequence.
    pub(crate) max_model_len: usize,
    /// Bytes of the weights. They are mapped, so the operating system counts their memory as free.
    pub(crate) weight_bytes: u64,
    /// Free memory, if the machine tells.
    pub(crate) available_bytes: Option<u64>,
}

impl CacheDemand {
    /// As much as all sequences can fill, but no more than a quarter of what the weights leave free.
    pub(crate) fn default_bytes(&self) -> u64 {
        let blocks = self.max_num_seqs.saturating_mul(self.max_model_len.div_ceil(BLOCK_SIZE));
        let wanted = self.block_bytes.saturating_mul(blocks as u64);
        let share = self.available_bytes.map_or(UNKNOWN_MEMORY_SHARE_BYTES, |available| {
            let beside_the_weights = available.saturating_sub(self.weight_bytes) / 4;
            beside_the_weights.max(LEAST_SHARE_BYTES.min(available / 4))
        });
        wanted.min(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_takes_what_is_needed_up_to_a_share_of_the_memory() {
        const GIB: u64 = 1 << 30;
        let small = CacheDemand {
            block_bytes: 1 << 20,
            max_num_seqs: 2,
            max_model_len: 100,
            weight_bytes: 0,
            available_bytes: Some(16 * GIB),
        };
        let check = |demand: CacheDemand, expected: u64| assert_eq!(demand.default_bytes(), expected, "{demand:?}");
        check(small, 4 << 20);
        let large = CacheDemand { max_model_len: 163_840, max_num_seqs: 64, ..small };
        check(large, 4 * GIB);
        check(CacheDemand { weight_bytes: 8 * GIB, ..large }, 2 * GIB);
        check(CacheDemand { weight_bytes: 15 * GIB, ..large }, GIB);
        check(CacheDemand { weight_bytes: 99 * GIB, available_bytes: Some(2 * GIB), ..large }, GIB / 2);
        check(CacheDemand { available_bytes: None, ..large }, GIB);
        check(CacheDemand { max_num_seqs: usize::MAX, ..large }, 4 * GIB);
    }
}
