//! From raw options to the configuration that the libraries take. Nothing here changes after it was made.

use std::num::NonZeroUsize;
use std::time::Duration;

use cachalot_engine::{EngineConfig, MlaPrefill, OnFault, SpeculativeTokens};
use cachalot_ops::Device;
use cachalot_prompt::Release;
use cachalot_tensor::DType;

use crate::args::{KvCacheDtype, MlaForm, ModelArgs};
use crate::source::ModelSource;

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
    /// How the attention of long prompts is computed.
    pub(crate) mla_prefill: MlaPrefill,
    /// What to do when a step fails.
    pub(crate) on_fault: OnFault,
    /// A step that takes longer is stuck.
    pub(crate) step_timeout: Duration,
    /// Whether all memory is taken at start, and the model refused if the machine does not have it. Otherwise the system hands it
    /// out as it is used, and a short run starts at once.
    pub(crate) takes_all_at_start: bool,
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
            mla_prefill: match args.mla_prefill {
                MlaForm::Absorbed => MlaPrefill::Absorbed,
                MlaForm::Expanded => MlaPrefill::Expanded,
            },
            on_fault: OnFault::Restart,
            step_timeout: EngineConfig::default().step_timeout,
            takes_all_at_start: false,
        })
    }
}
