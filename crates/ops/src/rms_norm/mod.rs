//! Root-mean-square normalisation.

/// Arguments of [`rms_norm`].
pub struct RmsNorm<'a> {
    /// `[num_tokens, dim]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub weight: View<'a>,
    /// Added to the mean square; 1e-6 in every release.
    pub eps: f32,
    /// `[num_tokens, dim]`, f32: if given, `residual += x` first and the sum is normalised.
    pub residual: Option<ViewMut<'a>>,
    /// `[num_tokens, dim]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}
// pub fn rms_norm(ctx: &Context, args: RmsNorm<'_>) -> Result<()>
// r = residual + x (or x);  out = weight * r / sqrt(mean(r^2) + eps), sum in f32 (fixed order per row)
