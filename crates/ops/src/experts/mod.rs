//! The routed experts of a mixture-of-experts layer.
//!
//! Tokens are gathered by expert, so that each expert's weights are read once per step however many tokens chose it. Each
//! token's sum runs over its own experts in the order of its slots, so its result does not depend on the other tokens.

mod reference;

use cachalot_tensor::{DType, Matrix, View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Error, Result};

const OP: &str = "experts";

/// One expert: a SwiGLU MLP.
#[derive(Clone, Debug)]
pub struct Expert {
    /// `[moe_intermediate_size, hidden_size]`
    pub gate_proj: Matrix,
    /// `[moe_intermediate_size, hidden_size]`
    pub up_proj: Matrix,
    /// `[hidden_size, moe_intermediate_size]`
    pub down_proj: Matrix,
}

/// Arguments of [`experts`].
#[derive(Debug)]
pub struct Experts<'a> {
    /// `[num_tokens, hidden_size]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[n_routed_experts]`; weights are f32, f16, bf16, or FP8 with block scales.
    pub experts: &'a [Expert],
    /// `[num_tokens, num_experts_per_tok]`, i32: the experts of each token.
    pub expert_ids: View<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32: the weight of each.
    pub expert_weights: View<'a>,
    /// `[num_tokens, hidden_size]`, f32, added to (it holds the shared expert's output); rows may be strided.
    pub out: ViewMut<'a>,
}

/// Adds each token's weighted experts to `out`.
///
/// `out[t,:] += Σ_k expert_weights[t,k] · down_e (silu(gate_e x[t,:]) ⊙ (up_e x[t,:]))` with `e = expert_ids[t,k]`, where
/// `silu(z) = z / (1 + exp(-z))`; all in f32. The sum over `k` is taken first, in ascending `k`, and then added.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Range`] names an id that is no expert, negative ones
/// included; [`Error::Unsupported`] names a dtype.
///
/// # Source
/// DeepSeek-V3 report, section 2.1.2; DeepSeek-V3.2-Exp `inference/model.py`, classes `Expert` and `MoE`.
pub fn experts(ctx: &Context, args: Experts<'_>) -> Result<()> {
    let op = OP;
    let mut dims = Dims::new(op);
    let [num_tokens, _] = dims.bind_all("x", args.x.shape(), ["num_tokens", "hidden_size"])?;
    for expert in args.experts {
        dims.bind("gate_proj", "hidden_size", expert.gate_proj.num_cols())?;
        dims.bind("gate_proj", "moe_intermediate_size", expert.gate_proj.num_rows())?;
        dims.bind("up_proj", "hidden_size", expert.up_proj.num_cols())?;
        dims.bind("up_proj", "moe_intermediate_size", expert.up_proj.num_rows())?;
        dims.bind("down_proj", "moe_intermediate_size", expert.down_proj.num_cols())?;
        dims.bind("down_proj", "hidden_size", expert.down_proj.num_rows())?;
    }
    let [_, _] = dims.bind_all("expert_ids", args.expert_ids.shape(), ["num_tokens", "num_experts_per_tok"])?;
    let [_, num_chosen] =
        dims.bind_all("expert_weights", args.expert_weights.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "hidden_size"])?;
    dims.f32("x", args.x.dtype())?;
    dims.dtype("expert_ids", args.expert_ids.dtype(), &[DType::I32], "I32")?;
    dims.f32("expert_weights", args.expert_weights.dtype())?;
    dims.f32("out", args.out.dtype())?;
    let limit = args.experts.len();
    for token in 0..num_tokens {
        for (slot, &id) in dims.tensor(args.expert_ids.row::<i32>(token))?.iter().enumerate() {
            // A negative id becomes a huge one, which is out of range all the same.
            let got = id as u32 as usize;
            if got >= limit {
                return Err(Error::Range { op, arg: "expert_ids", index: token * num_chosen + slot, got, limit });
            }
        }
    }
    match ctx.device() {
        Device::Reference | Device::Cpu => reference::run(args),
    }
}
