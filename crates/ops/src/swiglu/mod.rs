/// out = silu(gate) * up
pub struct SwiGlu<'a> {
    /// `[num_tokens, intermediate_size]`, f32
    pub gate: View<'a>,
    /// same
    pub up: View<'a>,
    /// same, overwritten
    pub out: ViewMut<'a>,
}
