//! The limits that an engine is started with, and what follows from them.

use std::time::Duration;

use cachalot_model::footprint::{MAX_PROMPT_LOGPROB_ROWS, max_num_logits};
use cachalot_model::{BLOCK_SIZE, LanguageModel};

use crate::StartError;
use crate::speculation::MAX_AUTO_DRAFT_TOKENS;

/// What the engine may use. Raw wishes; [`Limits`] holds what was made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The most sequences that run at once.
    pub max_num_seqs: usize,
    /// The most tokens that one step computes; longer prompts are computed in chunks. At least `max_num_seqs`, so that
    /// every running sequence can advance in every step.
    pub max_num_batched_tokens: usize,
    /// The most tokens that one sequence can have, prompt included. `None` takes the model's own limit, or what fits into
    /// the cache if that is less.
    pub max_model_len: Option<usize>,
    /// Size of the paged cache.
    pub kv_cache: KvCacheSize,
    /// How many requests are accepted beyond the `max_num_seqs` that can run; the next one is refused with
    /// [`QueueFull`](crate::SubmitError::QueueFull).
    pub max_waiting: usize,
    /// Whether requests share what the cache holds of their prompts.
    pub prefix_cache: bool,
    /// How many tokens the MTP module drafts for a step to verify.
    pub speculative_tokens: SpeculativeTokens,
    /// How the attention of long prompts is computed.
    pub mla_prefill: MlaPrefill,
    /// What to do when the model fails in a step.
    pub on_fault: OnFault,
    /// A step that takes longer is taken to be stuck.
    pub step_timeout: Duration,
}

/// What to do when a step fails, by an error of the device, a panic in the model, or logits that are no numbers. The requests
/// that were in it fail in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// Forget everything that is cached, and go on; stop when it happens three times in a row.
    #[default]
    Restart,
    /// Stop at once.
    Exit,
}

/// How the attention of long prompts is computed. The two ways differ in the order of their sums only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MlaPrefill {
    /// As that of every other token, in the space of the latent. What a request yields then depends on the request alone, to the
    /// last bit: not on how its prompt was cut, what was cached of it, or whether it was preempted.
    #[default]
    Absorbed,
    /// With keys and values expanded from the latent where a step has 128 or more tokens of a prompt. With the 671B model that is
    /// less than a third of the multiplications per pair of query and key, which is felt from some thousand tokens on. In return a near-tie
    /// can go the other way when a prompt is cut otherwise.
    Expanded,
}

/// How many tokens are drafted. Drafts never change an output; they can make it come sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpeculativeTokens {
    /// As many as are worth it, by what is accepted and what it costs; none if the model has no MTP module.
    #[default]
    Auto,
    /// This many, from 0 to [`MAX_SPECULATIVE_TOKENS`].
    Fixed(usize),
}

impl SpeculativeTokens {
    /// The longest draft that comes of it.
    pub fn max_draft_tokens(self, has_mtp: bool) -> usize {
        match self {
            SpeculativeTokens::Auto if has_mtp => MAX_AUTO_DRAFT_TOKENS,
            SpeculativeTokens::Auto => 0,
            SpeculativeTokens::Fixed(num_tokens) => num_tokens,
        }
    }
}

/// The longest draft. Beyond a handful of tokens, what is accepted falls far below what it costs to verify.
pub const MAX_SPECULATIVE_TOKENS: usize = 16;

impl Default for EngineConfig {
    /// 64 sequences, 2,048 tokens a step, the model's own context, 1 GiB of cache, 512 requests waiting, a prefix cache,
    /// drafts where they are worth it, and tokens that depend on their request alone.
    fn default() -> Self {
        EngineConfig {
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
            max_model_len: None,
            kv_cache: KvCacheSize::Bytes(1 << 30),
            max_waiting: 512,
            prefix_cache: true,
            speculative_tokens: SpeculativeTokens::Auto,
            mla_prefill: MlaPrefill::Absorbed,
            on_fault: OnFault::Restart,
            step_timeout: Duration::from_secs(300),
        }
    }
}

/// Size of the paged cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// This many blocks of [`BLOCK_SIZE`] tokens.
    Blocks(usize),
    /// As many blocks as fit into this many bytes.
    Bytes(u64),
}

/// What an engine works within, derived once at start from its [`EngineConfig`] and its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most sequences that run at once.
    pub max_num_seqs: usize,
    /// The most tokens that one step computes.
    pub max_num_batched_tokens: usize,
    /// The most tokens that one sequence can have. So many always fit into the cache, so a sequence that runs alone can
    /// always finish.
    pub max_model_len: usize,
    /// Blocks of the paged cache.
    pub num_blocks: usize,
    /// Rows of logits for prompt log-probabilities that one step computes at most.
    pub max_prompt_logprob_rows: usize,
    /// Rows of logits that one step computes at most.
    pub max_num_logits: usize,
    /// The longest draft; 0 without speculation.
    pub max_draft_tokens: usize,
    /// The most requests that are accepted and have not ended.
    pub max_live: usize,
    /// The model's vocabulary.
    pub vocab_size: usize,
}

impl Limits {
    pub(crate) fn derive(config: &EngineConfig, model: &dyn LanguageModel) -> Result<Self, StartError> {
        let &EngineConfig { max_num_seqs, max_num_batched_tokens, max_model_len, kv_cache, max_waiting, .. } = config;
        if max_num_seqs == 0 {
            return Err(StartError::Zero("max_num_seqs"));
        }
        if max_num_batched_tokens < max_num_seqs {
            return Err(StartError::TooFewBatchedTokens { max_num_batched_tokens, max_num_seqs });
        }
        let block_bytes = model.kv_block_bytes();
        let num_blocks = match kv_cache {
            KvCacheSize::Blocks(num_blocks) => num_blocks,
            KvCacheSize::Bytes(bytes) => usize::try_from(bytes / block_bytes.max(1) as u64).unwrap_or(usize::MAX),
        };
        // Slots are numbered by u32.
        let num_blocks = num_blocks.min(u32::MAX as usize / BLOCK_SIZE);
        if num_blocks == 0 {
            return Err(StartError::NoBlocks { block_bytes });
        }
        let capacity = num_blocks * BLOCK_SIZE;
        let max_model_len = match max_model_len {
            Some(0) => return Err(StartError::Zero("max_model_len")),
            Some(wanted) if wanted > model.max_model_len() => {
                return Err(StartError::ContextTooLong { wanted, supported: model.max_model_len() });
            }
            Some(wanted) => wanted,
            None => model.max_model_len().min(capacity),
        };
        if capacity < max_model_len {
            let needed = max_model_len.div_ceil(BLOCK_SIZE);
            return Err(StartError::CacheTooSmall { num_blocks, needed, block_bytes, max_model_len });
        }
        let max_draft_tokens = config.speculative_tokens.max_draft_tokens(model.has_mtp());
        if max_draft_tokens > 0 && !model.has_mtp() {
            return Err(StartError::NoMtp);
        }
        if max_draft_tokens > MAX_SPECULATIVE_TOKENS {
            return Err(StartError::DraftTooLong { wanted: max_draft_tokens });
        }
        let max_prompt_logprob_rows = MAX_PROMPT_LOGPROB_ROWS.min(max_num_batched_tokens);
        Ok(Limits {
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            num_blocks,
            max_prompt_logprob_rows,
            max_num_logits: max_num_logits(max_num_batched_tokens, max_num_seqs, max_draft_tokens),
            max_draft_tokens,
            max_live: max_num_seqs + max_waiting,
            vocab_size: model.vocab_size(),
        })
    }
}
