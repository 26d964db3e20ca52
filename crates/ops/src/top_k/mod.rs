//! Positions of the best scores: the second half of the [`indexer`](crate::indexer()) as GPUs run it.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::{TopKKernel, TopKMergeKernel};

use crate::device_args::{aligned, contiguous};
use crate::dims::Dims;
use crate::{Error, Result};

const OP: &str = "top_k";
const MERGE_OP: &str = "top_k_merge";

/// Arguments of [`top_k`].
#[derive(Debug)]
pub struct TopK<'a> {
    /// `[num_rows, max_length]`, f32; rows may be strided by a multiple of 4.
    pub scores: View<'a>,
    /// `[num_rows]`, i32, at most `max_length`: so many scores of a row count, the others are not read.
    pub lengths: View<'a>,
    /// `[num_rows, k]`, i32, contiguous, overwritten: the chosen positions ascending, then
    /// [`NO_POSITION`](crate::NO_POSITION).
    pub out: ViewMut<'a>,
}

/// Chooses the `min(k, length)` best positions of each row.
///
/// Equal scores prefer the lowest position, 0 equals -0, NaN is lower than any score: the choice of
/// [`indexer`](crate::indexer()). A row of no more than `k` scores is chosen without being read.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`]
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`].
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

/// Arguments of [`top_k_merge`].
#[derive(Debug)]
pub struct TopKMerge<'a> {
    /// `[num_rows, num_carried + num_positions]`, f32, with `num_carried = min(k, first_position)`; rows may be strided by a
    /// multiple of 4. The scores chosen so far, then those of the positions from `first_position` on. Those of the new choice
    /// are moved to the front.
    pub scores: ViewMut<'a>,
    /// The token of the first row.
    pub first_row: usize,
    /// The position of the first new score.
    pub first_position: usize,
    /// `[num_tokens]`, i32: a token sees the positions up to its own. Scores past it are not read.
    pub positions: View<'a>,
    /// `[1]`, i32: tokens from there on are padding, of which nothing is read or written. It is the last element of
    /// `query_start_loc`.
    pub num_tokens: View<'a>,
    /// `[num_tokens, k]`, i32, contiguous: the choice so far, and then the new one: positions ascending, then
    /// [`NO_POSITION`](crate::NO_POSITION). Calls with ascending `first_position`, the first of them 0, make the choice
    /// of all positions.
    pub out: ViewMut<'a>,
}

/// Extends the choice of the `k` best positions by a stretch of positions, so that a few scores of a row are enough to choose
/// from any number of them. The choice is that of [`top_k`] from all scores at once.
///
/// A token that sees no more than `k` positions gets them all, and its scores are not read.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Range`] rows past the last token, [`Error::Unsupported`] the
/// dtype, size or stride that the kernel does not take; [`Error::Cuda`].
pub fn top_k_merge(stream: &Stream, kernel: &TopKMergeKernel, args: TopKMerge<'_>) -> Result<()> {
    let mut dims = Dims::new(MERGE_OP);
    let [num_rows, num_scores] = dims.bind_all("scores", args.scores.shape(), ["num_rows", "num_scores"])?;
    let [num_tokens] = dims.bind_all("positions", args.positions.shape(), ["num_tokens"])?;
    let [_, k] = dims.bind_all("out", args.out.shape(), ["num_tokens", "k"])?;
    dims.bind("one number", "1", 1)?;
    dims.bind_all("num_tokens", args.num_tokens.shape(), ["1"])?;
    dims.f32("scores", args.scores.dtype())?;
    for (arg, view) in [("positions", args.positions), ("num_tokens", args.num_tokens), ("out", args.out.as_view())] {
        dims.dtype(arg, view.dtype(), &[DType::I32], "I32")?;
    }
    aligned(MERGE_OP, "scores", args.scores.as_view(), 16)?;
    contiguous(MERGE_OP, "out", args.out.as_view())?;
    let (got, limit) = (args.first_row + num_rows, num_tokens + 1);
    if got >= limit {
        return Err(Error::Range { op: MERGE_OP, arg: "first_row + num_rows", index: 0, got, limit });
    }
    let num_carried = k.min(args.first_position);
    if num_scores < num_carried {
        let got = format!("`num_scores` of {num_scores}");
        return Err(Error::Unsupported { op: MERGE_OP, got, supported: "room for the carried scores" });
    }
    if num_rows == 0 || k == 0 {
        return Ok(());
    }
    kernel.run(stream, num_scores - num_carried, args)
}
