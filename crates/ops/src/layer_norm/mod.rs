/// Arguments of [`layer_norm`]: the indexer's key norm.
pub struct LayerNorm<'a> {
    /// `[num_tokens, dim]`, f32.
    pub x: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub weight: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub bias: View<'a>,
    /// Added to the variance; 1e-6.
    pub eps: f32,
    /// `[num_tokens, dim]`, f32, overwritten.
    pub out: ViewMut<'a>,
}
