//! Multiplication of bf16 activations with the bf16 weight of a linear layer, or of one for each head, on tensor cores.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::Bf16GemmKernels;

use crate::device_args::multiple;
use crate::dims::Dims;
use crate::{Error, Result};

const OP: &str = "bf16_gemm";
const BATCHED_OP: &str = "bf16_batched_gemm";

/// Arguments of [`bf16_gemm`].
#[derive(Debug)]
pub struct Bf16Gemm<'a> {
    /// `[num_tokens, in_features]`, bf16. Rows start a multiple of 8 elements apart.
    pub x: View<'a>,
    /// `[out_features, in_features]`, bf16. Rows start a multiple of 8 elements apart.
    pub weight: View<'a>,
    /// `[num_tokens, out_features]`, bf16 or f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// A linear layer without bias: `out[t,o] = Σ_i x[t,i] * weight[o,i]`, summed in f32 in steps of 16 along `in_features`.
///
/// A token's result does not depend on the others. The kernel and what bounds it are in `kernels/bf16_gemm`.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] an `in_features` that is no multiple of 8, an
/// address or a distance of rows that is none of 16 bytes; [`Error::Cuda`].
pub fn bf16_gemm(stream: &Stream, kernels: &Bf16GemmKernels, args: Bf16Gemm<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_tokens, in_features] = dims.bind_all("x", args.x.shape(), ["num_tokens", "in_features"])?;
    let [out_features, _] = dims.bind_all("weight", args.weight.shape(), ["out_features", "in_features"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "out_features"])?;
    dims.dtype("x", args.x.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("weight", args.weight.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("out", args.out.dtype(), &[DType::BF16, DType::F32], "BF16, F32")?;
    check_k(in_features)?;
    check_operand("x", args.x)?;
    check_operand("weight", args.weight)?;
    check_out(&args.out)?;
    if num_tokens == 0 || out_features == 0 {
        return Ok(());
    }
    kernels.run(stream, args, [num_tokens, out_features, in_features])
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightOrder {
    /// `[out_features, in_features]`, as in a checkpoint: `W_UV` of latent attention.
    OutIn,
    /// `[in_features, out_features]`: `W_UK`, which the absorbed form multiplies from its other side.
    InOut,
}

/// Arguments of [`bf16_batched_gemm`].
#[derive(Debug)]
pub struct Bf16BatchedGemm<'a> {
    /// `[num_tokens, num_heads, x_dim]`, bf16: the first `in_features` of each head; the others are not read. `x_dim` is a multiple
    /// of 8, and so is the distance of rows.
    pub x: View<'a>,
    /// `[num_heads, out_features, in_features]` or `[num_heads, in_features, out_features]`, bf16; heads start a multiple of 8
    /// elements apart.
    pub weight: View<'a>,
    /// Which of the two; `out_features` of the second are a multiple of 8.
    pub weight_order: WeightOrder,
    /// `[num_tokens, num_heads, out_features]`, bf16, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// A linear layer for each head: `out[t,h,o] = Σ_i x[t,h,i] * weight[h,o,i]`, or `weight[h,i,o]`, as [`bf16_gemm`] does it.
///
/// # Errors
/// As [`bf16_gemm`].
pub fn bf16_batched_gemm(stream: &Stream, kernels: &Bf16GemmKernels, args: Bf16BatchedGemm<'_>) -> Result<()> {
    let mut dims = Dims::new(BATCHED_OP);
    let weight_dims = match args.weight_order {
        WeightOrder::OutIn => ["num_heads", "out_features", "in_features"],
        WeightOrder::InOut => ["num_heads", "in_features", "out_features"],
    };
    let [num_tokens, num_heads, x_dim] = dims.bind_all("x", args.x.shape(), ["num_tokens", "num_heads", "x_dim"])?;
    let [_, rows, columns] = dims.bind_all("weight", args.weight.shape(), weight_dims)?;
    let [_, _, out_features] = dims.bind_all("out", args.out.shape(), ["num_tokens", "num_heads", "out_features"])?;
    for (arg, dtype) in [("x", args.x.dtype()), ("weight", args.weight.dtype()), ("out", args.out.dtype())] {
        dims.dtype(arg, dtype, &[DType::BF16], "BF16")?;
    }
    let in_features = if args.weight_order == WeightOrder::OutIn { columns } else { rows };
    check_k(in_features)?;
    multiple(BATCHED_OP, "x_dim", x_dim, 8, u32::MAX as usize, "multiples of 8")?;
    multiple(BATCHED_OP, "columns of weight", columns, 8, u32::MAX as usize, "multiples of 8")?;
    if x_dim < in_features {
        let got = format!("`x_dim` of {x_dim} with `in_features` of {in_features}");
        return Err(Error::Unsupported { op: BATCHED_OP, got, supported: "heads of x that hold all in_features" });
    }
    check_operand("x", args.x)?;
    check_operand("weight", args.weight)?;
    check_out(&args.out)?;
    if num_tokens == 0 || num_heads == 0 || out_features == 0 {
        return Ok(());
    }
    kernels.run_batched(stream, args, [num_tokens, out_features, in_features])
}

fn check_k(in_features: usize) -> Result<()> {
    multiple(OP, "in_features", in_features, 8, u32::MAX as usize, "multiples of 8, 16 bytes")
}

fn check_operand(arg: &str, view: View<'_>) -> Result<()> {
    if view.address().0.is_multiple_of(16) && view.row_stride().is_multiple_of(8) {
        return Ok(());
    }
    let got = format!("`{arg}` at {:#x} with rows {} elements apart", view.address().0, view.row_stride());
    Err(Error::Unsupported { op: OP, got, supported: "addresses and rows at multiples of 8 elements" })
}

fn check_out(out: &ViewMut<'_>) -> Result<()> {
    if out.address().0.is_multiple_of(8) {
        return Ok(());
    }
    let got = format!("`out` at {:#x}", out.address().0);
    Err(Error::Unsupported { op: OP, got, supported: "addresses that are multiples of 8 bytes" })
}
