//! What one step computes.

/// Tokens in one block of the paged caches.
pub const BLOCK_SIZE: usize = 64;

/// The tokens of one step and where their keys live; names as in vLLM's `CommonAttentionMetadata`.
///
/// A sequence is described by counts alone, so prefill, a chunk of a prefill and decode are the same thing here.
/// The vectors keep their capacity from step to step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[num_tokens]`: the tokens of this step, sequence by sequence.
    pub input_ids: Vec<u32>,
    /// `[num_tokens]`: position of each token in its sequence.
    pub positions: Vec<u32>,
    /// `[num_seqs + 1]`: the tokens of sequence `s` are `query_start_loc[s]..query_start_loc[s + 1]`.
    pub query_start_loc: Vec<u32>,
    /// `[num_seqs]`: tokens of each sequence including those of this step.
    pub seq_lens: Vec<u32>,
    /// `[num_seqs, max_blocks]`, row-major: physical block of each logical block; entries past the sequence are not read.
    pub block_table: Vec<u32>,
    /// Row length of `block_table`.
    pub max_blocks: usize,
    /// `[num_tokens]`: where each token's key goes, `block * BLOCK_SIZE + offset`.
    pub slot_mapping: Vec<u32>,
    /// `[num_logits]`: the rows (indices into `input_ids`) whose logits are wanted, ascending.
    pub logits_indices: Vec<u32>,
    /// The first sequences of the batch, this many, run absorbed MLA; the rest run expanded MLA. The runner puts decoding
    /// sequences and short chunks first.
    pub num_absorbed_seqs: usize,
}

impl Batch {
    /// Tokens in the step.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Sequences in the step.
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.positions.clear();
        self.query_start_loc.clear();
        self.seq_lens.clear();
        self.block_table.clear();
        self.slot_mapping.clear();
        self.logits_indices.clear();
        self.max_blocks = 0;
        self.num_absorbed_seqs = 0;
    }
}
