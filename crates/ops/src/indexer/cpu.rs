//! Scores of some rows at a time, shared among the threads by row and by range of positions; then one choice per task.

use cachalot_tensor::{DType, Element};
use half::bf16;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::{Indexer, choose_all};
use crate::Context;
use crate::numerics::{Stored, dots};
use crate::order::sort_key;
use crate::paged::KeyRows;
use crate::rows::f32_row;
use crate::scratch::{StepDims, with_scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Scores that are kept at once, if one row does not need more: 4 MiB.
const SCORES: usize = 1 << 20;

/// Positions of one task.
const TASK_POSITIONS: usize = 512;

/// The most scores that are kept at once, in whole tasks.
pub(crate) fn scores_scratch(dims: &StepDims) -> usize {
    let row_len = dims.max_model_len.next_multiple_of(TASK_POSITIONS);
    // Shorter rows than the longest one fill what is kept at once just as well.
    row_len.max(SCORES.min(row_len * dims.max_num_batched_tokens))
}

pub(super) fn run(ctx: &Context, args: Indexer<'_>) {
    match args.key_cache.dtype() {
        DType::F32 => run_typed::<f32>(ctx, args),
        _ => run_typed::<bf16>(ctx, args),
    }
}

fn run_typed<T: Element>(ctx: &Context, args: Indexer<'_>)
where
    for<'a> &'a [T]: Stored,
{
    let Indexer { q, weights, key_cache, seqs, scale, out } = args;
    let rows = seqs.all_rows();
    let index_topk = out.shape().row_len();
    if rows.is_empty() || index_topk == 0 {
        return;
    }
    let num_visible = |row: usize| seqs.position(seqs.seq_of(row), row) + 1;
    // Scores take part of a row of this many numbers, in whole tasks.
    let row_len = rows.clone().map(num_visible).max().unwrap_or(0).next_multiple_of(TASK_POSITIONS);
    let rows_at_once = (SCORES / row_len).clamp(1, rows.len());

    let row_stride = out.row_stride();
    let out = out.rows(rows.clone()).into_strided_slice::<i32>().expect("the dtype was checked");
    with_scratch(rows_at_once * row_len, |scores| {
        ctx.pool().install(|| {
            for (first, out) in rows.step_by(rows_at_once).zip(out.chunks_mut(rows_at_once * row_stride)) {
                let num_rows = out.len().div_ceil(row_stride);
                let tasks = scores[..num_rows * row_len].par_chunks_mut(TASK_POSITIONS).enumerate();
                tasks.for_each(|(task, scores)| {
                    let (row, start) = (first + task * TASK_POSITIONS / row_len, task * TASK_POSITIONS % row_len);
                    let num_visible = num_visible(row);
                    if num_visible > index_topk && num_visible > start {
                        let scores = &mut scores[..TASK_POSITIONS.min(num_visible - start)];
                        let keys = KeyRows::<T>::new(&seqs, seqs.seq_of(row), key_cache);
                        let (q, weights) = (f32_row(&q, row), f32_row(&weights, row));
                        dispatch(Score { q, weights, scale, keys, start, scores });
                    }
                });
                let choices = out.par_chunks_mut(row_stride).zip(scores.par_chunks(row_len)).enumerate();
                choices.for_each(|(row, (out, scores))| {
                    choose(&scores[..num_visible(first + row)], &mut out[..index_topk]);
                });
            }
        });
    });
}

/// `scores[i] = scale · Σ_h weights[h] · max(q[h,:]·keys[start + i], 0)`
struct Score<'a, T> {
    q: &'a [f32],
    weights: &'a [f32],
    scale: f32,
    keys: KeyRows<'a, T>,
    start: usize,
    scores: &'a mut [f32],
}

impl<'a, T: Element> Kernel for Score<'a, T>
where
    &'a [T]: Stored,
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut position = self.start;
        let (quads, rest) = self.scores.as_chunks_mut::<4>();
        for scores in quads {
            let keys = std::array::from_fn(|i| self.keys.row(position + i));
            *scores = score(simd, self.q, self.weights, self.scale, keys);
            position += 4;
        }
        for score_of_one in rest {
            [*score_of_one] = score(simd, self.q, self.weights, self.scale, [self.keys.row(position)]);
            position += 1;
        }
    }
}

/// The scores of `R` keys. Heads are added in ascending order, four dot products at a time where there are registers.
#[inline(always)]
fn score<S: Simd, W: Stored, const R: usize>(
    simd: S,
    q: &[f32],
    weights: &[f32],
    scale: f32,
    keys: [W; R],
) -> [f32; R] {
    let head_dim = keys[0].len();
    let mut sums = [0.0; R];
    let mut head = 0;
    while head < weights.len() {
        if S::MANY_REGISTERS && weights.len() - head >= 4 {
            let q = std::array::from_fn::<_, 4, _>(|h| &q[(head + h) * head_dim..][..head_dim]);
            add_heads(&mut sums, &weights[head..], dots(simd, keys, q));
            head += 4;
        } else {
            add_heads(&mut sums, &weights[head..], dots(simd, keys, [&q[head * head_dim..][..head_dim]]));
            head += 1;
        }
    }
    sums.map(|sum| sum * scale)
}

#[inline(always)]
fn add_heads<const R: usize, const T: usize>(sums: &mut [f32; R], weights: &[f32], products: [[f32; T]; R]) {
    for (sum, products) in sums.iter_mut().zip(products) {
        for (weight, product) in weights.iter().zip(products) {
            // Not `max`, which would turn NaN into 0.
            *sum += weight * if product < 0.0 { 0.0 } else { product };
        }
    }
}

/// Writes the positions of the best scores, ascending, and the padding.
fn choose(scores: &[f32], out: &mut [i32]) {
    let num_chosen = out.len();
    if scores.len() <= num_chosen {
        return choose_all(scores.len(), out);
    }
    with_scratch(scores.len(), |scratch| {
        let keys = bytemuck::cast_slice_mut::<f32, u32>(scratch);
        keys.iter_mut().zip(scores).for_each(|(key, &score)| *key = sort_key(score));
        // Everything better than the last one chosen is chosen; of its equals the first ones, as many as there is room for.
        let (_, &mut last, better) = keys.select_nth_unstable(scores.len() - num_chosen);
        let mut equals = num_chosen - better.iter().filter(|&&key| key > last).count();
        let mut chosen = out.iter_mut();
        for (position, &score) in (0..).zip(scores) {
            let key = sort_key(score);
            if key > last || (key == last && equals > 0) {
                equals -= usize::from(key == last);
                *chosen.next().expect("num_chosen positions qualify") = position;
            }
        }
    });
}
