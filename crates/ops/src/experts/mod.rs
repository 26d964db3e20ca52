//! The routed experts of a mixture-of-experts layer.
//!
//! Tokens are gathered by expert, so that an expert's weights are decoded once for all the tokens that chose it. A token's
//! experts are added in ascending order of their ids, so that its result does not depend on the other tokens.

pub(crate) mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{DType, Matrix, View, ViewMut};

use crate::dims::Dims;
use crate::numerics::Rows;
use crate::scratch::with_scratch;
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

impl Expert {
    fn check(&self, dims: &mut Dims) -> Result<()> {
        for (arg, matrix) in [("gate_proj", &self.gate_proj), ("up_proj", &self.up_proj)] {
            dims.bind(arg, "hidden_size", matrix.num_cols())?;
            dims.bind(arg, "moe_intermediate_size", matrix.num_rows())?;
            Rows::of_matrix(OP, matrix)?;
        }
        dims.bind("down_proj", "moe_intermediate_size", self.down_proj.num_cols())?;
        dims.bind("down_proj", "hidden_size", self.down_proj.num_rows())?;
        Rows::of_matrix(OP, &self.down_proj)?;
        Ok(())
    }
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
/// `silu(z) = z / (1 + exp(-z))`; all in f32. The terms
/// are added to `out` one by one, in ascending order of `e`; the order of a token's slots does not matter.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Range`] names an id that is no expert, negative ones
/// included; [`Error::Unsupported`] names a dtype. Experts that no token chose are not looked at.
///
/// # Source
/// DeepSeek-V3 report, section 2.1.2; DeepSeek-V3.2-Exp `inference/model.py`, classes `Expert` and `MoE`.
pub fn experts(ctx: &Context, args: Experts<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_tokens, _] = dims.bind_all("x", args.x.shape(), ["num_tokens", "hidden_size"])?;
    dims.bind_all("expert_ids", args.expert_ids.shape(), ["num_tokens", "num_experts_per_tok"])?;
    let [_, num_chosen] =
        dims.bind_all("expert_weights", args.expert_weights.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "hidden_size"])?;
    dims.f32("x", args.x.dtype())?;
    dims.dtype("expert_ids", args.expert_ids.dtype(), &[DType::I32], "I32")?;
    dims.f32("expert_weights", args.expert_weights.dtype())?;
    dims.f32("out", args.out.dtype())?;
    let limit = args.experts.len();
    with_scratch(limit, |seen| {
        seen.fill(0.0);
        for token in 0..num_tokens {
            for (slot, &id) in dims.tensor(args.expert_ids.row::<i32>(token))?.iter().enumerate() {
                // A negative id becomes a huge one, which is out of range all the same.
                let got = id as u32 as usize;
                if got >= limit {
                    return Err(Error::Range {
                        op: OP,
                        arg: "expert_ids",
                        index: token * num_chosen + slot,
                        got,
                        limit,
                    });
                }
                if std::mem::replace(&mut seen[got], 1.0) == 0.0 {
                    args.experts[got].check(&mut dims)?;
                }
            }
        }
        Ok(())
    })?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
