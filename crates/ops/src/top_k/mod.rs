//! Positions of the best scores: the second half of the [`indexer`](crate::indexer()) as GPUs run it.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::{DeviceView, DeviceViewMut, Stream};
use cachalot_tensor::DType;

pub use cuda::TopKKernel;

use crate::Result;
use crate::device_args::{aligned, contiguous};
use crate::dims::Dims;

const OP: &str = "top_k";

/// Arguments of [`top_k`].
#[derive(Debug)]
pub struct TopK<'a> {
    /// `[num_rows, max_length]`, f32; rows may be strided by a multiple of 4.
    pub scores: DeviceView<'a>,
    /// `[num_rows]`, i32, at most `max_length`: so many scores of a row count, the others are not read.
    pub lengths: DeviceView<'a>,
    /// `[num_rows, k]`, i32, contiguous, overwritten: the chosen positions ascending, then
    /// [`NO_POSITION`](crate::NO_POSITION).
    pub out: DeviceViewMut<'a>,
}

/// Chooses the `min(k, length)` best positions of each row.
///
/// Equal scores prefer the lowest position, 0 equals -0, NaN is lower than any score: the choice of
/// [`indexer`](crate::indexer()). A row of no more than `k` scores is chosen without being read.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
pub fn top_k(stream: &Stream, kernel: &TopKKernel, args: TopK<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_rows, _] = dims.bind_all("scores", args.scores.shape(), ["num_rows", "max_length"])?;
    dims.bind_all("lengths", args.lengths.shape(), ["num_rows"])?;
    let [_, k] = dims.bind_all("out", args.out.shape(), ["num_rows", "k"])?;
    dims.f32("scores", args.scores.dtype())?;
    dims.dtype("lengths", args.lengths.dtype(), &[DType::I32], "I32")?;
    dims.dtype("out", args.out.dtype(), &[DType::I32], "I32")?;
    aligned(OP, "scores", args.scores, 16)?;
    contiguous(OP, "out", args.out.as_view())?;
    if num_rows == 0 || k == 0 {
        return Ok(());
    }
    kernel.run(stream, args)
}
