//! [`embedding`](super::embedding) on device memory: launches `kernels/embedding`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use crate::Result;
use crate::device_args::{aligned, count, multiple};
use crate::dims::Dims;

const OP: &str = "embedding";
/// Threads of a block, and the elements that one of them copies.
const THREADS: usize = 256;
const VECTOR: usize = 8;

params! {
    /// `EmbeddingParams` of `params.h`.
    struct EmbeddingParams: 48 {
        table: Address = 0,
        ids: Address = 8,
        out: Address = 16,
        table_stride: i64 = 24,
        out_stride: i64 = 32,
        num_rows: u32 = 40,
        dim: u32 = 44,
    }
}

/// Arguments of [`embedding`]. Rows may be strided, by a multiple of 8.
#[derive(Debug)]
pub struct Embedding<'a> {
    /// `[num_tokens]`, i32: a row of the table for each token.
    pub ids: View<'a>,
    /// `[vocab_size, hidden_size]`, bf16; `hidden_size` is a multiple of 8. Also hidden states of which some are wanted.
    pub table: View<'a>,
    /// `[num_tokens, hidden_size]`, bf16, overwritten.
    pub out: ViewMut<'a>,
}

/// The kernel of [`embedding`] on one GPU.
#[derive(Clone, Debug)]
pub struct EmbeddingKernel(Kernel<EmbeddingParams>);

impl EmbeddingKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(EmbeddingKernel(gpu.kernel("embedding/embedding", "embedding")?))
    }
}

/// Copies rows: `out[t,:] = table[ids[t],:]`.
///
/// Where an id is no row of the table, such as the -1 of a padding token, `out` keeps its row.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
pub fn embedding(stream: &Stream, kernel: &EmbeddingKernel, args: Embedding<'_>) -> Result<()> {
    let Embedding { ids, table, out } = args;
    let mut dims = Dims::new(OP);
    let [num_rows, dim] = dims.bind_all("table", table.shape(), ["vocab_size", "hidden_size"])?;
    let [num_tokens] = dims.bind_all("ids", ids.shape(), ["num_tokens"])?;
    dims.bind_all("out", out.shape(), ["num_tokens", "hidden_size"])?;
    dims.dtype("ids", ids.dtype(), &[DType::I32], "I32")?;
    dims.dtype("table", table.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("out", out.dtype(), &[DType::BF16], "BF16")?;
    multiple(OP, "hidden_size", dim, VECTOR, u32::MAX as usize, "multiples of 8")?;
    aligned(OP, "table", table, 16)?;
    aligned(OP, "out", out.as_view(), 16)?;
    if num_tokens == 0 || dim == 0 {
        return Ok(());
    }
    let params = EmbeddingParams {
        table: table.address(),
        ids: ids.address(),
        out: out.address(),
        table_stride: table.row_stride() as i64,
        out_stride: out.row_stride() as i64,
        num_rows: count(OP, "vocab_size", num_rows)?,
        dim: count(OP, "hidden_size", dim)?,
    };
    let pieces = count(OP, "hidden_size", dim.div_ceil(THREADS * VECTOR))?;
    let launch = Launch::new([count(OP, "num_tokens", num_tokens)?, pieces, 1], [THREADS as u32, 1, 1]);
    Ok(stream.launch(&kernel.0, launch, &params)?)
}
