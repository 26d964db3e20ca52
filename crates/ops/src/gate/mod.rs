/// Routes tokens to experts: sigmoid scores, correction bias for the choice only, group-limited top-k (model-spec section 3).
pub struct Gate<'a> {
    /// `[num_tokens, hidden_size]`, f32
    pub x: View<'a>,
    /// `[n_routed_experts, hidden_size]`
    pub weight: &'a Matrix,
    /// `[n_routed_experts]`, f32: `e_score_correction_bias`
    pub bias: View<'a>,
    pub n_group: usize,
    pub topk_group: usize,
    pub norm_topk_prob: bool,
    pub routed_scaling_factor: f32,
    /// `[num_tokens, num_experts_per_tok]`, i32, overwritten: expert ids, best first
    pub expert_ids: ViewMut<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32, overwritten
    pub expert_weights: ViewMut<'a>,
}
