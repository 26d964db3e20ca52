/// Padding of [`Indexer::out`]: no position.
pub const NO_POSITION: i32 = -1;

/// DSA lightning indexer: scores each visible position and keeps the `index_topk` best.
pub struct Indexer<'a> {
    /// `[num_tokens, index_n_heads, index_head_dim]`, f32, rotated.
    pub q: View<'a>,
    /// `[num_tokens, index_n_heads]`, f32: raw output of weights_proj.
    pub weights: View<'a>,
    /// `[num_blocks, block_size, index_head_dim]`, f32 or bf16
    pub key_cache: View<'a>,
    pub seqs: PagedSeqs<'a>,
    /// Factor on the weights: index_n_heads^-0.5 * index_head_dim^-0.5
    pub scale: f32,
    /// `[num_tokens, index_topk]`, i32, overwritten: chosen positions ascending, then NO_POSITION.
    pub out: ViewMut<'a>,
}
// I[t,s] = scale * sum_h weights[t,h] * max(q[t,h].k[s], 0), s <= own position; ties -> lowest position. 
