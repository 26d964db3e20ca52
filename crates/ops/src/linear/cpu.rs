//! Tiles of weight rows, shared among the threads; each tile is decoded once for all tokens.
//!
//! One token: the weight is decoded in registers, four rows at a time, and the memory's bandwidth is the bound. Several
//! tokens: four rows are decoded into a thread's scratch memory and multiplied with all tokens, four at a time where the
//! machine has registers for sixteen sums. Every path adds in the order that [`dots`] defines.

use std::ops::Range;

use cachalot_tensor::{View, ViewMut};
use rayon::iter::ParallelIterator;

use crate::Context;
use crate::columns::column_blocks;
use crate::numerics::{Decoded, Rows, Stored, decode, dots};
use crate::rows::f32_row;
use crate::scratch::with_scratch;
use crate::simd::{Kernel, Simd, dispatch};

/// Weight rows of one task: little enough to share evenly, enough that a pass over the tokens is not lost time.
pub(crate) const TASK_ROWS: usize = 16;

/// Weight rows that are multiplied at once.
const TILE_ROWS: usize = 4;

/// Tokens that are multiplied at once.
const TILE_TOKENS: usize = 4;

pub(super) fn run(ctx: &Context, x: View<'_>, weight: Rows<'_>, out: ViewMut<'_>) {
    let (num_tokens, out_features) = (out.shape().num_rows(), out.shape().row_len());
    let row_stride = out.row_stride();
    let out = out.into_strided_slice().expect("the dtype was checked");
    ctx.pool().install(|| {
        column_blocks(out, [num_tokens, out_features], row_stride, TASK_ROWS).for_each(|mut out| {
            let rows = out.columns();
            let first_row = rows.start;
            multiply(num_tokens, &|token| f32_row(&x, token), weight, rows, &mut |token, row, products| {
                out.row_mut(token)[row - first_row..][..products.len()].copy_from_slice(products);
            });
        });
    });
}

/// Calls `put(t, r, products)` with `products[i] = x(t) · weight[r + i]`, until each token `t < num_tokens` has met each of
/// `rows` once, on the calling thread.
///
/// `x(t)` is the row of token `t`, wherever it comes from; the products may go anywhere.
///
/// # Panics
/// If there are no such rows, or if the length of a row of `x` is not that of the rows of `weight`.
pub(crate) fn multiply<'x>(
    num_tokens: usize,
    x: &dyn Fn(usize) -> &'x [f32],
    weight: Rows<'_>,
    rows: Range<usize>,
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    match weight {
        Rows::F32(values, len) => multiply_stored(num_tokens, x, |r| &values[r * len..(r + 1) * len], len, rows, put),
        Rows::F16(values, len) => multiply_stored(num_tokens, x, |r| &values[r * len..(r + 1) * len], len, rows, put),
        Rows::BF16(values, len) => multiply_stored(num_tokens, x, |r| &values[r * len..(r + 1) * len], len, rows, put),
        Rows::F8(weight) => multiply_stored(num_tokens, x, |r| weight.row(r), weight.num_cols, rows, put),
    }
}

/// [`multiply`] for one dtype; rows of the weight have `len` elements.
fn multiply_stored<'x, W: Stored>(
    num_tokens: usize,
    x: &dyn Fn(usize) -> &'x [f32],
    row: impl Fn(usize) -> W,
    len: usize,
    rows: Range<usize>,
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    if num_tokens == 1 {
        return dispatch(Tiles { num_tokens, x, row, rows, put });
    }
    for first in rows.clone().step_by(TASK_ROWS) {
        let task = first..rows.end.min(first + TASK_ROWS);
        with_scratch(task.len() * len, |decoded| {
            dispatch(Decode { row: &row, rows: task.clone(), len, out: decoded });
            let block = row(first).block();
            let row = |r: usize| Decoded { values: &decoded[(r - first) * len..][..len], block };
            dispatch(Tiles { num_tokens, x, row, rows: task, put });
        });
    }
}

/// `out[r - rows.start,:] = row(r)` for all `r` in `rows`.
struct Decode<'a, F> {
    row: &'a F,
    rows: Range<usize>,
    len: usize,
    out: &'a mut [f32],
}

impl<W: Stored, F: Fn(usize) -> W> Kernel for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let first = self.rows.start;
        for r in self.rows {
            decode(simd, (self.row)(r), &mut self.out[(r - first) * self.len..][..self.len]);
        }
    }
}

/// All products of tokens and `rows`, in tiles as large as the registers allow.
struct Tiles<'a, 'x, F> {
    num_tokens: usize,
    x: &'a dyn Fn(usize) -> &'x [f32],
    row: F,
    rows: Range<usize>,
    put: &'a mut dyn FnMut(usize, usize, &[f32]),
}

impl<W: Stored, F: Fn(usize) -> W> Kernel for Tiles<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Tiles { num_tokens, x, row, rows, put } = self;
        let mut token = 0;
        while token < num_tokens {
            if S::MANY_REGISTERS && num_tokens - token >= TILE_TOKENS {
                row_tiles::<S, W, TILE_TOKENS>(simd, token, x, &row, rows.clone(), put);
                token += TILE_TOKENS;
            } else {
                row_tiles::<S, W, 1>(simd, token, x, &row, rows.clone(), put);
                token += 1;
            }
        }
    }
}

/// The products of tokens `token..token + T` and `rows`.
#[inline(always)]
fn row_tiles<'x, S: Simd, W: Stored, const T: usize>(
    simd: S,
    token: usize,
    x: &dyn Fn(usize) -> &'x [f32],
    row: &impl Fn(usize) -> W,
    rows: Range<usize>,
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    let xs: [&[f32]; T] = std::array::from_fn(|t| x(token + t));
    let mut r = rows.start;
    while r < rows.end {
        if rows.end - r >= TILE_ROWS {
            let products = dots(simd, std::array::from_fn::<_, TILE_ROWS, _>(|i| row(r + i)), xs);
            put_each(token, r, &products, put);
            r += TILE_ROWS;
        } else {
            put_each(token, r, &dots(simd, [row(r)], xs), put);
            r += 1;
        }
    }
}

/// `products[r][t]` is that of row `row + r` and token `token + t`.
#[inline(always)]
fn put_each<const R: usize, const T: usize>(
    token: usize,
    row: usize,
    products: &[[f32; T]; R],
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    for t in 0..T {
        put(token + t, row, &products.map(|of_row| of_row[t]));
    }
}
