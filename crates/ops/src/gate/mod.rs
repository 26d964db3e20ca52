//! The router of a mixture-of-experts layer: which experts a token goes to, and with what weights.
//!
//! The order of the steps matters and is easily got wrong. The correction bias takes part in choosing, never in weighing. A
//! group is scored by the *sum of its two* best biased scores, because the bias makes a single one unreliable. Experts of
//! groups that lose are out, whatever their scores: they count as `-inf`, not as 0, since biased scores may be negative.
//! Everything is f32: a bf16 sigmoid creates ties.

mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{DType, Matrix, View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Error, Result};

const OP: &str = "gate";

/// Arguments of [`gate`].
#[derive(Debug)]
pub struct Gate<'a> {
    /// `[num_tokens, hidden_size]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[n_routed_experts, hidden_size]`: f32, f16, bf16, or FP8 with block scales.
    pub weight: &'a Matrix,
    /// `[n_routed_experts]`, f32: `e_score_correction_bias`.
    pub bias: View<'a>,
    /// Groups of `n_routed_experts / n_group` consecutive experts.
    pub n_group: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights, after that division.
    pub routed_scaling_factor: f32,
    /// `[num_tokens, num_experts_per_tok]`, i32, overwritten: expert ids, best biased score first.
    pub expert_ids: ViewMut<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32, overwritten: the weight of each.
    pub expert_weights: ViewMut<'a>,
}

/// Chooses each token's experts by sigmoid scores, correction bias and group-limited top-k.
///
/// 1. `p[t,:] = sigmoid(weight · x[t,:])`, `b[t,:] = p[t,:] + bias`
/// 2. The score of a group is the sum of its two highest `b` (of one, if it has one expert). The `topk_group` best groups stay.
/// 3. `expert_ids[t,:]` = the `num_experts_per_tok` highest `b` among the experts of those groups.
/// 4. `expert_weights[t,k] = p[t, expert_ids[t,k]]`, without the bias; divided by `Σ_k + 1e-20` if `norm_topk_prob`; times
///    `routed_scaling_factor`.
///
/// Equal scores prefer the lowest index, of groups and of experts. NaN is lower than any score, so the ids are always valid;
/// the weights of a NaN score are NaN.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] names a dtype, or the numbers of groups and
/// experts that do not allow a choice.
///
/// # Source
/// DeepSeek-V3 report, section 2.1.2; DeepSeek-V3.2-Exp `inference/model.py`, class `Gate`; the `1e-20` is Hugging Face's.
pub fn gate(ctx: &Context, args: Gate<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    dims.bind_all("x", args.x.shape(), ["num_tokens", "hidden_size"])?;
    let num_experts = args.weight.num_rows();
    dims.bind("weight", "n_routed_experts", num_experts)?;
    dims.bind("weight", "hidden_size", args.weight.num_cols())?;
    dims.bind_all("bias", args.bias.shape(), ["n_routed_experts"])?;
    let [_, num_chosen] =
        dims.bind_all("expert_ids", args.expert_ids.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("expert_weights", args.expert_weights.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.f32("x", args.x.dtype())?;
    dims.f32("bias", args.bias.dtype())?;
    dims.dtype("expert_ids", args.expert_ids.dtype(), &[DType::I32], "I32")?;
    dims.f32("expert_weights", args.expert_weights.dtype())?;

    check_choice(num_chosen, num_experts, args.topk_group, args.n_group)?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => cpu::run(ctx, args),
    }
}

/// Refuses numbers of groups and experts that do not allow a choice.
fn check_choice(num_chosen: usize, num_experts: usize, topk_group: usize, n_group: usize) -> Result<()> {
    let possible = n_group > 0
        && num_experts.is_multiple_of(n_group)
        && (1..=n_group).contains(&topk_group)
        && num_chosen <= topk_group * (num_experts / n_group);
    if possible {
        return Ok(());
    }
    Err(Error::Unsupported {
        op: OP,
        got: format!(
            "choosing {num_chosen} of {num_experts} experts from {topk_group} of {n_group} groups \
             (num_experts_per_tok, n_routed_experts, topk_group, n_group)"
        ),
        supported: "n_group that divides n_routed_experts, topk_group from 1 to n_group, num_experts_per_tok up to \
                    the experts in topk_group groups",
    })
}
