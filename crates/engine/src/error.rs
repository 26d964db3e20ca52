//! Why an engine does not start and why a request is refused.

use cachalot_model::BLOCK_SIZE;

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A limit that must be at least 1.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// A step could not advance every running sequence.
    #[error(
        "max_num_batched_tokens is {max_num_batched_tokens}, less than max_num_seqs {max_num_seqs}: a step must be able to \
         advance every sequence by a token; raise the first or lower the second"
    )]
    TooFewBatchedTokens {
        /// As configured.
        max_num_batched_tokens: usize,
        /// As configured.
        max_num_seqs: usize,
    },
    /// The context asked for is longer than the model can compute.
    #[error("max_model_len is {wanted}, but the model supports at most {supported} tokens")]
    ContextTooLong {
        /// As configured.
        wanted: usize,
        /// By the model.
        supported: usize,
    },
    /// The cache is smaller than one block.
    #[error(
        "the KV cache has no blocks: one block of {BLOCK_SIZE} tokens takes {block_bytes} bytes; enlarge the cache"
    )]
    NoBlocks {
        /// Bytes of one block.
        block_bytes: usize,
    },
    /// One sequence of full length would not fit.
    #[error(
        "the KV cache has {num_blocks} blocks of {BLOCK_SIZE} tokens, but one sequence of max_model_len {max_model_len} needs \
         {needed} ({} bytes); enlarge the cache or lower max_model_len to {}",
        *needed as u64 * *block_bytes as u64,
        num_blocks * BLOCK_SIZE
    )]
    CacheTooSmall {
        /// Blocks that the configured size gives.
        num_blocks: usize,
        /// Blocks that are needed at least.
        needed: usize,
        /// Bytes of one block.
        block_bytes: usize,
        /// Tokens of the longest sequence.
        max_model_len: usize,
    },
    /// Drafts were asked for.
    #[error(
        "the model has no MTP module, so it cannot draft tokens: leave speculation off, or use a checkpoint that has one"
    )]
    NoMtp,
    /// A draft longer than any that is worth it.
    #[error("drafts of {wanted} tokens are asked for; they can have at most {}", crate::MAX_SPECULATIVE_TOKENS)]
    DraftTooLong {
        /// As configured.
        wanted: usize,
    },
    /// The model could not take its memory.
    #[error("the model could not allocate its memory: {0}")]
    Model(#[from] cachalot_model::Error),
    /// There are no threads for what is done beside the model.
    #[error("could not start the threads that work beside the model: {0}")]
    SideThreads(#[source] rayon::ThreadPoolBuildError),
    /// The operating system gave no thread.
    #[error("could not start the engine's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why a request was refused. Nothing of it was kept.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests as the engine accepts are already waiting or running.
    #[error(
        "the engine is busy: {max_live} requests are running or waiting, and no more are accepted; try again later"
    )]
    QueueFull {
        /// Requests that may be accepted and unfinished at a time.
        max_live: usize,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down and accepts no more requests")]
    ShuttingDown,
    /// The engine has stopped after repeated failures.
    #[error("the engine has stopped: {0}")]
    Unhealthy(String),
    /// There is nothing to continue.
    #[error("the prompt is empty; it must have at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error(
        "the prompt has {num_prompt_tokens} tokens, which leaves no room for output in the context of {max_model_len} tokens; \
         shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        num_prompt_tokens: usize,
        /// The most tokens that one sequence can have.
        max_model_len: usize,
    },
    /// A token id that the model does not have.
    #[error("{field} has token id {token_id}, but the vocabulary has {vocab_size} tokens (0 to {})", vocab_size - 1)]
    TokenOutOfRange {
        /// `prompt_ids` or `logit_bias`.
        field: &'static str,
        /// The offending id.
        token_id: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// A sampling parameter outside its range.
    #[error("{0}")]
    InvalidParams(String),
}

/// What [`Engine::check_integrity`](crate::Engine::check_integrity) has found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's accounts do not agree: {0}")]
pub struct IntegrityError(pub(crate) String);
