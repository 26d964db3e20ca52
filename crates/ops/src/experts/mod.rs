/// One expert's SwiGLU MLP.
pub struct Expert {
    /// `[moe_intermediate_size, hidden_size]`
    pub gate_proj: Matrix,
    /// `[moe_intermediate_size, hidden_size]`
    pub up_proj: Matrix,
    /// `[hidden_size, moe_intermediate_size]`
    pub down_proj: Matrix,
}

/// Grouped expert MLP: out[t,:] += sum_k expert_weights[t,k] * expert[expert_ids[t,k]](x[t,:])
pub struct Experts<'a> {
    /// `[num_tokens, hidden_size]`, f32
    pub x: View<'a>,
    /// `[n_routed_experts]`
    pub experts: &'a [Expert],
    /// `[num_tokens, num_experts_per_tok]`, i32
    pub expert_ids: View<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32
    pub expert_weights: View<'a>,
    /// `[num_tokens, hidden_size]`, f32, added to (holds the shared expert's output)
    pub out: ViewMut<'a>,
}
