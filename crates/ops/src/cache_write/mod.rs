/// Writes one row per token into a paged cache (the MLA latent with its rope key, or the indexer's key).
pub struct CacheWrite<'a> {
    /// `[num_tokens, dim]`, f32
    pub rows: View<'a>,
    /// `[num_tokens]`, `block * block_size + offset`
    pub slot_mapping: &'a [u32],
    /// `[num_blocks, block_size, dim]`, f32 or bf16 (round to nearest even)
    pub cache: ViewMut<'a>,
}
// NaN stays NaN; slots checked (Error::Range); duplicate slots: the last wins
