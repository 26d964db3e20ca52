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

    /// Whether the model has a multi-token-prediction module, so that [`forward_mtp`](Self::forward_mtp) can draft.
    fn has_mtp(&self) -> bool {
        false
    }

    /// Runs the MTP module: for each of the batch's tokens, it takes the token itself and the hidden state of the position
    /// before, writes its own keys to the batch's slots, and predicts the token that comes next.
    ///
    /// A row is about position `p`: `positions` and `slot_mapping` are those of `p`, `input_ids` has the token at `p + 1`, and
    /// `hidden_states` says where the hidden state of `p` is. Row `j` of `logits`, `[logits_indices.len(), vocab_size]`,
    /// overwritten, predicts the token at `p + 2`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and if there is no MTP module.
    fn forward_mtp(&mut self, batch: &Batch, hidden_states: HiddenStates<'_>, logits: &mut [f32]) -> Result<()> {
        let _ = (batch, hidden_states, logits);
        Err(Error::Invalid("the model has no MTP module".into()))
    }
}

/// Where [`LanguageModel::forward_mtp`] takes a hidden state for each of its rows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenStates<'a> {
    /// `[num_tokens]`: rows of the batch that [`LanguageModel::forward`] computed last; the main model's output after its
    /// final norm.
    Main(&'a [u32]),
    /// `[num_tokens]`: rows of the logits that [`LanguageModel::forward_mtp`] computed last; the module's own output after its
    /// norm, which stands in for the hidden state that the main model will compute.
    Mtp(&'a [u32]),
}

impl HiddenStates<'_> {
    /// The rows, wherever they are.
    pub fn rows(&self) -> &[u32] {
        match self {
            HiddenStates::Main(rows) | HiddenStates::Mtp(rows) => rows,
        }
    }
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
