//! Rows of activations, and the threads that share them.

use cachalot_tensor::{View, ViewMut};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::Context;

/// Elements below which one thread is done before others have woken up.
const SERIAL_ELEMENTS: usize = 8192;

/// Row `row` of an f32 view, all dimensions but the first flattened.
///
/// # Panics
/// If there is no such row, or if the view is not f32, which callers check with `Dims::f32`.
pub(crate) fn f32_row<'a>(view: &View<'a>, row: usize) -> &'a [f32] {
    view.row(row).expect("the dtype was checked")
}

/// Calls `f(row, elements)` for every row of `out`, on the context's threads if the rows are worth it.
///
/// # Panics
/// If the view is not f32, which callers check with `Dims::f32`.
pub(crate) fn for_each_row(ctx: &Context, out: ViewMut<'_>, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (shape, row_stride) = (out.shape(), out.row_stride());
    if shape.num_elements() == 0 {
        return;
    }
    let values = out.into_strided_slice::<f32>().expect("the dtype was checked");
    let each = |(row, values): (usize, &mut [f32])| f(row, &mut values[..shape.row_len()]);
    if shape.num_rows() == 1 || shape.num_elements() < SERIAL_ELEMENTS {
        values.chunks_mut(row_stride).enumerate().for_each(each);
    } else {
        ctx.pool().install(|| values.par_chunks_mut(row_stride).enumerate().for_each(each));
    }
}
