//! Attention by head and by rows. A task owns some heads of some rows, writes to no other, and keeps what it needs on the
//! way in its thread's scratch memory: the keys and values of one tile, or the queries and sums of a few rows.

use std::ops::Range;

use cachalot_tensor::{DType, Element, View, ViewMut};
use half::bf16;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::tile::{Queries, Softmax, TILE_KEYS, TILE_QUERIES, attend, weighted_sums};
use super::{Mla, MlaDims, visible};
use crate::columns::{ColumnBlock, column_blocks};
use crate::linear::cpu::multiply;
use crate::numerics::{Rows, Stored, decode};
use crate::paged::KeyRows;
use crate::rows::f32_row;
use crate::scratch::{StepDims, with_scratch};
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Context, PagedSeqs};

/// Heads of one task of the absorbed form at most: they share the reading of a key.
const TASK_HEADS: usize = 16;

/// Rows of one task of the absorbed form at most: they share the decoding of `kv_b_proj`.
const TASK_ROWS: usize = 32;

/// Everything but the output.
#[derive(Clone, Copy)]
struct Step<'a> {
    q: View<'a>,
    weight: Rows<'a>,
    cache: View<'a>,
    seqs: PagedSeqs<'a>,
    topk_indices: Option<View<'a>>,
    scale: f32,
    dims: MlaDims,
}

impl<'a> Step<'a> {
    fn new(args: Mla<'a>, dims: MlaDims) -> (Self, ViewMut<'a>) {
        let Mla { q, kv_b_proj, kv_cache, seqs, topk_indices, softmax_scale, out, .. } = args;
        let weight = Rows::of_matrix("mla", kv_b_proj).expect("the weight was checked");
        (Step { q, weight, cache: kv_cache, seqs, topk_indices, scale: softmax_scale, dims }, out)
    }

    /// The query of a head.
    fn query(&self, row: usize, head: usize) -> &'a [f32] {
        let len = self.dims.nope + self.dims.rope;
        &f32_row(&self.q, row)[head * len..][..len]
    }

    /// The positions that a row chose and sees, if it does not see all.
    fn chosen(&self, row: usize, position: usize) -> Option<&'a [i32]> {
        let topk_indices = self.topk_indices?;
        Some(visible(topk_indices.row(row).expect("the dtype was checked"), position))
    }

    /// The rows of `kv_b_proj` that make `k_nope`, and those that make `v`.
    fn weight_rows(&self, head: usize) -> (Range<usize>, Range<usize>) {
        let MlaDims { nope, v, .. } = self.dims;
        let first = head * (nope + v);
        (first..first + nope, first + nope..first + nope + v)
    }

    /// Calls `task(rows, heads, out)` for blocks of the rows of the step and of the heads, on the context's threads.
    fn for_each_task(
        &self,
        ctx: &Context,
        out: ViewMut<'_>,
        [task_rows, task_heads]: [usize; 2],
        task: impl Fn(Range<usize>, Range<usize>, &mut ColumnBlock<'_>) + Sync,
    ) {
        let rows = self.seqs.all_rows();
        let (row_stride, num_cols, v) = (out.row_stride(), out.shape().row_len(), self.dims.v);
        if rows.is_empty() || num_cols == 0 {
            return;
        }
        let out = out.rows(rows.clone()).into_strided_slice::<f32>().expect("the dtype was checked");
        ctx.pool().install(|| {
            out.par_chunks_mut(task_rows * row_stride).enumerate().for_each(|(block, out)| {
                let first = rows.start + block * task_rows;
                let rows = first..rows.end.min(first + task_rows);
                column_blocks(out, [rows.len(), num_cols], row_stride, task_heads * v).for_each(|mut out| {
                    let heads = out.columns().start / v..out.columns().end / v;
                    task(rows.clone(), heads, &mut out);
                });
            });
        });
    }
}

/// What [`attend_expanded`] keeps of a task at most: all rows of a step.
pub(crate) fn expanded_scratch(dims: &StepDims) -> usize {
    let key_len = dims.qk_nope_head_dim + dims.qk_rope_head_dim;
    let of_tile = TILE_KEYS * (dims.kv_lora_rank + key_len + dims.v_head_dim) + TILE_QUERIES * dims.v_head_dim;
    of_tile + 2 * dims.max_num_batched_tokens
}

/// What [`attend_absorbed`] keeps of a task at most.
pub(crate) fn absorbed_scratch(dims: &StepDims) -> usize {
    let (rows, heads) = (TASK_ROWS.min(dims.max_num_batched_tokens), TASK_HEADS.min(dims.num_attention_heads));
    rows * heads * (2 * dims.kv_lora_rank + dims.qk_rope_head_dim) + 2 * heads
}

pub(super) fn expanded(ctx: &Context, args: Mla<'_>, dims: MlaDims) {
    let (step, out) = Step::new(args, dims);
    // A head's keys are expanded once if no other task has that head: rows are only cut where heads are few.
    let row_blocks = ctx.pool().current_num_threads().div_ceil(dims.num_heads.max(1));
    let task_rows = step.seqs.all_rows().len().div_ceil(row_blocks).max(1);
    let dtype = step.cache.dtype();
    step.for_each_task(ctx, out, [task_rows, 1], |rows, heads, out| match dtype {
        DType::F32 => attend_expanded::<f32>(&step, rows, heads.start, out),
        _ => attend_expanded::<bf16>(&step, rows, heads.start, out),
    });
}

/// All of one head of `rows`: row `i` of `out` is row `rows.start + i` of the step.
fn attend_expanded<T: Element>(step: &Step<'_>, rows: Range<usize>, head: usize, out: &mut ColumnBlock<'_>)
where
    for<'a> &'a [T]: Stored,
{
    let MlaDims { nope, rope, v, rank, .. } = step.dims;
    let key_len = nope + rope;
    let lens = [TILE_KEYS * rank, TILE_KEYS * key_len, TILE_KEYS * v, TILE_QUERIES * v, 2 * rows.len()];
    with_scratch(lens.iter().sum(), |scratch| {
        let [latents, keys, values, sums, softmax] = split(scratch, lens);
        let softmax: &mut [Softmax] = bytemuck::cast_slice_mut(softmax);
        softmax.fill(Softmax::EMPTY);
        (0..rows.len()).for_each(|row| out.row_mut(row).fill(0.0));

        let (key_rows, value_rows) = step.weight_rows(head);
        for seq in step.seqs.seq_of(rows.start)..step.seqs.num_seqs() {
            let of_seq = step.seqs.rows(seq);
            let queries = of_seq.start.max(rows.start)..of_seq.end.min(rows.end);
            if queries.is_empty() {
                continue;
            }
            let cache = KeyRows::<T>::new(&step.seqs, seq, step.cache);
            let num_visible = step.seqs.position(seq, queries.end - 1) + 1;
            for start in (0..num_visible).step_by(TILE_KEYS) {
                let tile = start..num_visible.min(start + TILE_KEYS);
                dispatch(Gather { cache, tile: tile.clone(), rank, latents, keys, key_len });
                let latent = |j: usize| &latents[j * rank..][..rank];
                multiply(tile.len(), &latent, step.weight, key_rows.clone(), &mut |j, row, products| {
                    keys[j * key_len + row - key_rows.start..][..products.len()].copy_from_slice(products);
                });
                multiply(tile.len(), &latent, step.weight, value_rows.clone(), &mut |j, row, products| {
                    values[j * v + row - value_rows.start..][..products.len()].copy_from_slice(products);
                });
                // Earlier queries do not see this tile.
                let first_position = step.seqs.position(seq, queries.start);
                let queries = queries.start + start.saturating_sub(first_position)..queries.end;
                let first_row = rows.start;
                dispatch(ExpandedTile { step, seq, head, queries, tile, keys, values, sums, softmax, first_row, out });
            }
        }
        (0..rows.len()).for_each(|row| softmax[row].normalise(out.row_mut(row)));
    });
}

/// `latents[j,:]` and the last elements of `keys[j,:]` are what the cache holds at position `tile.start + j`.
struct Gather<'a, T> {
    cache: KeyRows<'a, T>,
    tile: Range<usize>,
    rank: usize,
    latents: &'a mut [f32],
    keys: &'a mut [f32],
    key_len: usize,
}

impl<'a, T: Element> Kernel for Gather<'a, T>
where
    &'a [T]: Stored,
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (j, position) in self.tile.enumerate() {
            let (c, k_pe) = self.cache.row(position).split_at(self.rank);
            decode(simd, c, &mut self.latents[j * self.rank..][..self.rank]);
            decode(simd, k_pe, &mut self.keys[(j + 1) * self.key_len - k_pe.len()..][..k_pe.len()]);
        }
    }
}

/// Lets `queries` of sequence `seq` meet the keys of one tile of positions.
struct ExpandedTile<'a, 'o> {
    step: &'a Step<'a>,
    seq: usize,
    head: usize,
    queries: Range<usize>,
    tile: Range<usize>,
    /// `[tile, nope + rope]`
    keys: &'a [f32],
    /// `[tile, v]`
    values: &'a [f32],
    /// `[TILE_QUERIES, v]`, working memory.
    sums: &'a mut [f32],
    /// Of rows `first_row..` of the step, as `out`.
    softmax: &'a mut [Softmax],
    first_row: usize,
    out: &'a mut ColumnBlock<'o>,
}

impl Kernel for ExpandedTile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let tile = self.tile.clone();
        let mut row = self.queries.start;
        while row < self.queries.end {
            let position = self.step.seqs.position(self.seq, row);
            match self.step.chosen(row, position) {
                None if S::MANY_REGISTERS && position + 1 >= tile.end && self.queries.end - row >= TILE_QUERIES => {
                    self.attend::<S, TILE_QUERIES>(simd, row, tile.len(), &|j| j);
                    row += TILE_QUERIES;
                }
                None => {
                    self.attend::<S, 1>(simd, row, tile.end.min(position + 1) - tile.start, &|j| j);
                    row += 1;
                }
                Some(chosen) => {
                    let before = |limit: usize| chosen.partition_point(|&position| (position as usize) < limit);
                    let chosen = &chosen[before(tile.start)..before(tile.end)];
                    if !chosen.is_empty() {
                        self.attend::<S, 1>(simd, row, chosen.len(), &|j| chosen[j] as usize - tile.start);
                    }
                    row += 1;
                }
            }
        }
    }
}

impl ExpandedTile<'_, '_> {
    /// Lets the queries of rows `row..row + T` meet the keys `index(0)..index(num_keys)` of the tile.
    #[inline(always)]
    fn attend<S: Simd, const T: usize>(
        &mut self,
        simd: S,
        row: usize,
        num_keys: usize,
        index: &impl Fn(usize) -> usize,
    ) {
        let MlaDims { nope, rope, v, .. } = self.step.dims;
        let first = row - self.first_row;
        let queries = std::array::from_fn(|t| self.step.query(row + t, self.head));
        let key = |j: usize| &self.keys[index(j) * (nope + rope)..][..nope + rope];
        let value = |j: usize| &self.values[index(j) * v..][..v];
        let softmax = self.softmax[first..].first_chunk_mut::<T>().expect("a state for each query");
        let mut sums: [&mut [f32]; T] = chunks_mut(self.sums, v);
        for (t, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(self.out.row_mut(first + t));
        }
        let scale = self.step.scale;
        attend(simd, Queries { scale, queries, softmax, sums }, num_keys, &key, &value);
        for (t, sums) in self.sums.chunks_exact(v).take(T).enumerate() {
            self.out.row_mut(first + t).copy_from_slice(sums);
        }
    }
}

pub(super) fn absorbed(ctx: &Context, args: Mla<'_>, dims: MlaDims) {
    let (step, out) = Step::new(args, dims);
    let num_rows = step.seqs.all_rows().len();
    // As few tasks as share the work well: the more rows and heads a task has, the less is read twice.
    let num_tasks = 3 * ctx.pool().current_num_threads();
    let task_heads = (dims.num_heads * num_rows / num_tasks).next_multiple_of(TILE_QUERIES).clamp(1, TASK_HEADS);
    let task_rows = (num_rows * dims.num_heads.div_ceil(task_heads) / num_tasks).clamp(1, TASK_ROWS);
    let dtype = step.cache.dtype();
    step.for_each_task(ctx, out, [task_rows, task_heads], |rows, heads, out| match dtype {
        DType::F32 => attend_absorbed::<f32>(&step, rows, heads, out),
        _ => attend_absorbed::<bf16>(&step, rows, heads, out),
    });
}

/// The `heads` of `rows`: row `i` of `out` is row `rows.start + i` of the step.
fn attend_absorbed<T: Element>(step: &Step<'_>, rows: Range<usize>, heads: Range<usize>, out: &mut ColumnBlock<'_>)
where
    for<'a> &'a [T]: Stored,
{
    let MlaDims { nope, rope, v, rank, .. } = step.dims;
    let query_len = rank + rope;
    // Of one row.
    let (queries_len, latents_len) = (heads.len() * query_len, heads.len() * rank);
    let lens = [rows.len() * queries_len, rows.len() * latents_len, 2 * heads.len()];
    with_scratch(lens.iter().sum(), |scratch| {
        let [queries, latents, softmax] = split(scratch, lens);
        let softmax: &mut [Softmax] = bytemuck::cast_slice_mut(softmax);

        for (h, head) in heads.clone().enumerate() {
            for (queries, row) in queries.chunks_exact_mut(queries_len).zip(rows.clone()) {
                let (q_lat, q_pe) = queries[h * query_len..][..query_len].split_at_mut(rank);
                q_lat.fill(0.0);
                q_pe.copy_from_slice(&step.query(row, head)[nope..]);
            }
            let (key_rows, _) = step.weight_rows(head);
            let q_nope = |i: usize| &step.query(rows.start + i, head)[..nope];
            add_transposed(&q_nope, step.weight, key_rows, &mut queries[h * query_len..], queries_len, rank);
        }

        let of_rows = queries.chunks_exact(queries_len).zip(latents.chunks_exact_mut(latents_len));
        for (row, (queries, latents)) in rows.clone().zip(of_rows) {
            let seq = step.seqs.seq_of(row);
            let position = step.seqs.position(seq, row);
            latents.fill(0.0);
            softmax.fill(Softmax::EMPTY);
            let cache = KeyRows::<T>::new(&step.seqs, seq, step.cache);
            let chosen = step.chosen(row, position);
            dispatch(AbsorbedRow { cache, rank, scale: step.scale, position, chosen, queries, latents, softmax });
            latents.chunks_exact_mut(rank).zip(&*softmax).for_each(|(latents, softmax)| softmax.normalise(latents));
        }

        for (h, head) in heads.enumerate() {
            let (_, value_rows) = step.weight_rows(head);
            let latent = |i: usize| &latents[i * latents_len + h * rank..][..rank];
            multiply(rows.len(), &latent, step.weight, value_rows.clone(), &mut |i, row, products| {
                out.row_mut(i)[h * v + row - value_rows.start..][..products.len()].copy_from_slice(products);
            });
        }
    });
}

/// `out[i,:] += Σ_d x(i)[d] · weight[rows.start + d,:]`, where row `i` of `out` starts at `i * row_stride` and has `rank`
/// elements: the product with the transpose of those rows.
fn add_transposed<'x>(
    x: &dyn Fn(usize) -> &'x [f32],
    weight: Rows<'_>,
    rows: Range<usize>,
    out: &mut [f32],
    row_stride: usize,
    rank: usize,
) {
    let first = rows.start;
    match weight {
        Rows::F32(values, _) => {
            dispatch(AddTransposed { x, row: |d| &values[(first + d) * rank..][..rank], out, row_stride, rank });
        }
        Rows::F16(values, _) => {
            dispatch(AddTransposed { x, row: |d| &values[(first + d) * rank..][..rank], out, row_stride, rank });
        }
        Rows::BF16(values, _) => {
            dispatch(AddTransposed { x, row: |d| &values[(first + d) * rank..][..rank], out, row_stride, rank });
        }
        Rows::F8(weight) => dispatch(AddTransposed { x, row: |d| weight.row(first + d), out, row_stride, rank }),
    }
}

struct AddTransposed<'a, 'x, F> {
    x: &'a dyn Fn(usize) -> &'x [f32],
    row: F,
    out: &'a mut [f32],
    row_stride: usize,
    rank: usize,
}

impl<W: Stored, F: Fn(usize) -> W> Kernel for AddTransposed<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AddTransposed { x, row, out, row_stride, rank } = self;
        let num_rows = out.len().div_ceil(row_stride);
        let mut i = 0;
        for out in out.chunks_mut(TILE_QUERIES * row_stride) {
            let num_here = TILE_QUERIES.min(num_rows - i);
            if S::MANY_REGISTERS && num_here == TILE_QUERIES {
                let xs: [&[f32]; TILE_QUERIES] = std::array::from_fn(|t| x(i + t));
                let mut chunks = out.chunks_mut(row_stride);
                let sums = [(); TILE_QUERIES].map(|()| &mut chunks.next().expect("TILE_QUERIES rows")[..rank]);
                weighted_sums(simd, xs, &row, [1.0; TILE_QUERIES], sums);
            } else {
                for (t, out) in out.chunks_mut(row_stride).enumerate() {
                    weighted_sums(simd, [x(i + t)], &row, [1.0], [&mut out[..rank]]);
                }
            }
            i += num_here;
        }
    }
}

/// Lets the heads of one row meet the cache rows that it sees.
struct AbsorbedRow<'a, T> {
    cache: KeyRows<'a, T>,
    rank: usize,
    scale: f32,
    position: usize,
    chosen: Option<&'a [i32]>,
    /// `[heads, rank + rope]`
    queries: &'a [f32],
    /// `[heads, rank]`
    latents: &'a mut [f32],
    /// `[heads]`
    softmax: &'a mut [Softmax],
}

impl<'a, T: Element> Kernel for AbsorbedRow<'a, T>
where
    &'a [T]: Stored,
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AbsorbedRow { cache, rank, scale, position, chosen, queries, latents, softmax } = self;
        let num_heads = softmax.len();
        let query_len = queries.len() / num_heads;
        let num_keys = chosen.map_or(position + 1, <[i32]>::len);
        for start in (0..num_keys).step_by(TILE_KEYS) {
            let len = TILE_KEYS.min(num_keys - start);
            let mut rows: [&[T]; TILE_KEYS] = [&[]; TILE_KEYS];
            for (j, row) in rows[..len].iter_mut().enumerate() {
                *row = cache.row(chosen.map_or(start + j, |chosen| chosen[start + j] as usize));
            }
            let (key, value) = (|j: usize| rows[j], |j: usize| &rows[j][..rank]);
            let query = |head: usize| &queries[head * query_len..][..query_len];
            let mut head = 0;
            while head < num_heads {
                if S::MANY_REGISTERS && num_heads - head >= TILE_QUERIES {
                    let queries: [&[f32]; TILE_QUERIES] = std::array::from_fn(|t| query(head + t));
                    let softmax = softmax[head..].first_chunk_mut().expect("TILE_QUERIES heads are left");
                    let sums = chunks_mut(&mut latents[head * rank..], rank);
                    attend(simd, Queries { scale, queries, softmax, sums }, len, &key, &value);
                    head += TILE_QUERIES;
                } else {
                    let softmax = softmax[head..].first_chunk_mut().expect("a head is left");
                    let sums = chunks_mut(&mut latents[head * rank..], rank);
                    attend(simd, Queries { scale, queries: [query(head)], softmax, sums }, len, &key, &value);
                    head += 1;
                }
            }
        }
    }
}

/// The first `T` pieces of `len` elements.
#[inline(always)]
fn chunks_mut<const T: usize>(values: &mut [f32], len: usize) -> [&mut [f32]; T] {
    let mut chunks = values.chunks_exact_mut(len);
    [(); T].map(|()| chunks.next().expect("the caller has T pieces"))
}

/// Pieces of the given lengths, one after the other.
fn split<const N: usize>(mut values: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|len| {
        let (piece, rest) = std::mem::take(&mut values).split_at_mut(len);
        values = rest;
        piece
    })
}
