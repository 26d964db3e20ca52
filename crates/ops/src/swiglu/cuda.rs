//! [`swiglu`](super::swiglu) on bf16 activations, as GPUs run it: launches `kernels/swiglu`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use crate::Result;
use crate::act_quant::Quantised;
use crate::device_args::{aligned, count, multiple};
use crate::dims::Dims;

const OP: &str = "swiglu";
/// Threads of a block, and the elements that one of them holds.
const THREADS: usize = 256;
const VECTOR: usize = 8;

params! {
    /// `SwiGluParams` of `params.h`.
    struct SwiGluParams: 96 {
        gate: Address = 0,
        up: Address = 8,
        slot_mapping: Address = 16,
        out: Address = 24,
        out_fp8: Address = 32,
        out_scales: Address = 40,
        gate_stride: i64 = 48,
        up_stride: i64 = 56,
        out_stride: i64 = 64,
        out_fp8_stride: i64 = 72,
        dim: u32 = 80,
        scale_stride: u32 = 84,
        scale_format: u32 = 88,
        padding: u32 = 92,
    }
}

/// Arguments of [`swiglu`]. Rows may be strided, by a multiple of 8: `gate` and `up` may be columns of one buffer.
#[derive(Debug)]
pub struct SwiGlu<'a> {
    /// `[num_tokens, intermediate_size]`, bf16; `intermediate_size` is a multiple of 8.
    pub gate: View<'a>,
    /// `[num_tokens, intermediate_size]`, bf16.
    pub up: View<'a>,
    /// `[num_tokens]`, i32: a row with a negative number is padding, which is neither read nor written.
    pub slot_mapping: Option<View<'a>>,
    /// `[num_tokens, intermediate_size]`, bf16, overwritten.
    pub out: Option<ViewMut<'a>>,
    /// What [`act_quant`](crate::act_quant()) makes of `out`, to the bit; `intermediate_size` is a multiple of 128 then.
    pub quantised: Option<Quantised<'a>>,
}

/// The kernel of [`swiglu`] on one GPU.
#[derive(Clone, Debug)]
pub struct SwiGluKernel(Kernel<SwiGluParams>);

impl SwiGluKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(SwiGluKernel(gpu.kernel("swiglu/swiglu", "swiglu")?))
    }
}

/// Gates one projection with another, in f32: `out = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`, rounded to bf16 once.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
///
/// # Source
/// DeepSeek-V3.2-Exp `inference/model.py`, classes `MLP` and `Expert`.
pub fn swiglu(stream: &Stream, kernel: &SwiGluKernel, args: SwiGlu<'_>) -> Result<()> {
    let SwiGlu { gate, up, slot_mapping, out, quantised } = args;
    let mut dims = Dims::new(OP);
    let [num_tokens, dim] = dims.bind_all("gate", gate.shape(), ["num_tokens", "intermediate_size"])?;
    multiple(OP, "intermediate_size", dim, VECTOR, u32::MAX as usize, "multiples of 8")?;
    for (arg, view) in [("gate", Some(gate)), ("up", Some(up)), ("out", out.as_ref().map(ViewMut::as_view))] {
        if let Some(view) = view {
            dims.bind_all(arg, view.shape(), ["num_tokens", "intermediate_size"])?;
            dims.dtype(arg, view.dtype(), &[DType::BF16], "BF16")?;
            aligned(OP, arg, view, 16)?;
        }
    }
    if let Some(slot_mapping) = slot_mapping {
        dims.bind_all("slot_mapping", slot_mapping.shape(), ["num_tokens"])?;
        dims.dtype("slot_mapping", slot_mapping.dtype(), &[DType::I32], "I32")?;
    }
    if let Some(quantised) = &quantised {
        quantised.check(OP, &mut dims, "intermediate_size", dim)?;
    }
    if num_tokens == 0 || dim == 0 {
        return Ok(());
    }

    let mut params = SwiGluParams {
        gate: gate.address(),
        up: up.address(),
        slot_mapping: slot_mapping.map_or(Address::NULL, |slots| slots.address()),
        out: out.as_ref().map_or(Address::NULL, ViewMut::address),
        out_fp8: Address::NULL,
        out_scales: Address::NULL,
        gate_stride: gate.row_stride() as i64,
        up_stride: up.row_stride() as i64,
        out_stride: out.as_ref().map_or(0, ViewMut::row_stride) as i64,
        out_fp8_stride: 0,
        dim: count(OP, "intermediate_size", dim)?,
        scale_stride: 0,
        scale_format: 0,
        padding: 0,
    };
    if let Some(Quantised { values, scales, scale_format }) = quantised {
        params.out_fp8 = values.address();
        params.out_fp8_stride = values.row_stride() as i64;
        params.out_scales = scales.address();
        params.scale_stride = count(OP, "stride of scales", scales.row_stride())?;
        params.scale_format = scale_format.code();
    }
    let pieces = count(OP, "intermediate_size", dim.div_ceil(THREADS * VECTOR))?;
    let launch = Launch::new([count(OP, "num_tokens", num_tokens)?, pieces, 1], [THREADS as u32, 1, 1]);
    Ok(stream.launch(&kernel.0, launch, &params)?)
}
