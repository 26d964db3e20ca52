/// The sequences of a step over a paged cache; names as in vLLM's `CommonAttentionMetadata`.
#[derive(Clone, Copy, Debug)]
pub struct PagedSeqs<'a> {
    /// `[num_seqs + 1]`: rows `query_start_loc[s]..query_start_loc[s+1]` of the step's tokens belong to sequence `s`. The
    /// first entry need not be 0, so that a range of sequences of a larger step can be passed.
    pub query_start_loc: &'a [u32],
    /// `[num_seqs]`: tokens of each sequence including those of this step. Query row `i` of sequence `s` is at position
    /// `seq_lens[s] - query_len + i` and sees the positions up to its own.
    pub seq_lens: &'a [u32],
    /// `[num_seqs, max_blocks]`: physical block of each 64-token logical block; entries past the sequence are never read.
    pub block_table: &'a [u32],
    /// Row length of `block_table`.
    pub max_blocks: usize,
}

/// Arguments of [`mla_expanded`] and [`mla_absorbed`], which compute the same attention in two ways.
pub struct Mla<'a> {
    /// `[num_tokens, num_heads, qk_nope_head_dim + qk_rope_head_dim]`, f32, rope part rotated. nope FIRST.
    pub q: View<'a>,
    /// `[num_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank]`; per head: nope rows, then v rows
    pub kv_b_proj: &'a Matrix,
    /// `[num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]`, f32 or bf16: normed latent, then rotated rope key.
    pub kv_cache: View<'a>,
    /// sequences
    pub seqs: PagedSeqs<'a>,
    /// `[num_tokens, index_topk]`, i32: the positions (in the sequence) that each query attends to, ascending, then
    /// NO_POSITION (-1) padding. `None` attends to all positions up to the query's own. (both masks apply: > own position is ignored)
    pub topk_indices: Option<View<'a>>,
    /// Factor on the logits, YaRN's mscale^2 included.
    pub softmax_scale: f32,
    /// sizes
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    /// `[num_tokens, num_heads, v_head_dim]`, f32, overwritten.
    pub out: ViewMut<'a>,
}
// A row with no valid key gives zeros.
