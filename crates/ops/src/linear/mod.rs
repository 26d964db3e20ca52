/// Arguments of [`linear`].
pub struct Linear<'a> {
    /// `[num_tokens, in_features]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[out_features, in_features]`: f32, f16, bf16, or FP8 with block scales.
    pub weight: &'a Matrix,
    /// `[num_tokens, out_features]`, f32, overwritten.
    pub out: ViewMut<'a>,
}
// out[t,o] = sum_i x[t,i] * w[o,i], w = f8 * scale[o/128, i/128]; accumulation f32, the order for one (t,o) depends on
// in_features only, never on num_tokens.
