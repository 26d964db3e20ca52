//! The interface between the engine and a model.

use crate::Batch;

/// A model that computes logits for a [`Batch`] and owns the caches that the batch's slots point into.
pub trait LanguageModel: Send {
    /// Number of logits per row.
    fn vocab_size(&self) -> usize;

    /// The most tokens that one sequence can have.
    fn max_model_len(&self) -> usize;

    /// Bytes of all caches that one block of [`BLOCK_SIZE`](crate::BLOCK_SIZE) tokens takes.
    fn kv_block_bytes(&self) -> usize;

    /// Takes the memory for `num_blocks` cache blocks and for steps of up to `max_num_batched_tokens` tokens with up to
    /// `max_num_logits` rows of logits. Called once, before the first step.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn allocate(&mut self, num_blocks: usize, max_num_batched_tokens: usize, max_num_logits: usize) -> Result<()>;

    /// Runs one step. `logits` is `[logits_indices.len(), vocab_size]`, row-major, overwritten.
    ///
    /// # Errors
    /// If the step failed; the caches of the batch's slots are then undefined.
    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()>;
}

/// Why a model could not be built or a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation refused its arguments or failed.
    #[error(transparent)]
    Op(#[from] cachalot_ops::Error),
    /// The checkpoint is not usable.
    #[error(transparent)]
    Weights(#[from] cachalot_weights::Error),
    /// The model was asked for something that it cannot do.
    #[error("{0}")]
    Invalid(String),
}

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
