/// Which elements a rotation pairs. Never a default: main attention is interleaved, the V3.2 indexer is half-split.
pub enum RopeLayout {
    /// Pairs `(2j, 2j+1)`.
    Interleaved,
    /// Pairs `(j, j + rotary_dim/2)` (NeoX).
    HalfSplit,
}

/// Arguments of [`rope`].
pub struct Rope<'a> {
    /// `[num_tokens, num_heads, head_dim]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[num_tokens]`
    pub positions: &'a [u32],
    /// `[rotary_dim / 2]`, radians per position. (f32 angle = f32(pos) * inv_freq, f32 cos/sin)
    pub inv_freq: &'a [f32],
    /// Factor on cos and sin: 1 for every DeepSeek V3 release.
    pub attention_factor: f32,
    /// Pairing.
    pub layout: RopeLayout,
    /// First rotated element of each head; the `rotary_dim` elements from here are rotated, the others copied.
    pub rotary_start: usize,
    /// `[num_tokens, num_heads, head_dim]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}
