//! (token, slot) pairs sorted by expert, taken in windows of bounded size. Each window is two passes over its experts: the
//! threads share the rows of `gate_proj` and `up_proj`, then those of `down_proj`.

use cachalot_tensor::View;
use rayon::iter::ParallelIterator;

use super::Experts;
use crate::Context;
use crate::columns::{ColumnBlock, column_blocks};
use crate::linear::cpu::multiply;
use crate::numerics::Rows;
use crate::rows::f32_row;
use crate::scratch::with_scratch;
use crate::swiglu::silu;

/// Pairs in a window. It bounds the memory for the activations between the two passes, 16 MiB for the 671B model, and is
/// several times what one expert gets from a large step.
pub(crate) const WINDOW_PAIRS: usize = 2048;

pub(super) fn run(ctx: &Context, args: Experts<'_>) {
    let Experts { x, experts, expert_ids, expert_weights, out } = args;
    let (num_pairs, num_chosen) = (expert_ids.shape().num_elements(), expert_ids.shape().row_len());
    if num_pairs == 0 || out.shape().row_len() == 0 {
        return;
    }
    let rows = |matrix| Rows::of_matrix(super::OP, matrix).expect("the weights of chosen experts were checked");
    let hidden_size = out.shape().row_len();
    let [num_tokens, row_stride] = [out.shape().num_rows(), out.row_stride()];
    let out = out.into_strided_slice::<f32>().expect("the dtype was checked");

    with_scratch(num_pairs + experts.len() + 1, |scratch| {
        let (pairs, ends) = bytemuck::cast_slice_mut::<f32, u32>(scratch).split_at_mut(num_pairs);
        sort_by_expert(&expert_ids, pairs, ends);
        let expert_of = |pair: u32| {
            let (token, slot) = (pair as usize / num_chosen, pair as usize % num_chosen);
            expert_ids.row::<i32>(token).expect("the dtype was checked")[slot] as usize
        };
        let token_of = |pair: u32| pair as usize / num_chosen;
        let weight_of = |pair: u32| f32_row(&expert_weights, token_of(pair))[pair as usize % num_chosen];
        for window in pairs.chunks(WINDOW_PAIRS) {
            // Each run of pairs of one expert, and where in the window it starts.
            let runs = || {
                window.chunk_by(|&a, &b| expert_of(a) == expert_of(b)).scan(0, |next, run: &[u32]| {
                    let first = *next;
                    *next += run.len();
                    Some((first, &experts[expert_of(run[0])], run))
                })
            };
            let intermediate_size = experts[expert_of(window[0])].gate_proj.num_rows();
            if intermediate_size == 0 {
                continue;
            }
            with_scratch(window.len() * intermediate_size, |activated| {
                let shape = [window.len(), intermediate_size];
                let block = columns_per_task(ctx, intermediate_size);
                ctx.pool().install(|| {
                    column_blocks(activated, shape, intermediate_size, block).for_each(|mut activated| {
                        for (first, expert, run) in runs() {
                            let x = |index: usize| f32_row(&x, token_of(run[index]));
                            activate(
                                x,
                                run.len(),
                                first,
                                rows(&expert.gate_proj),
                                rows(&expert.up_proj),
                                &mut activated,
                            );
                        }
                    });
                });
                let activated = View::from_slice(activated, shape).expect("a number per element");
                let block = columns_per_task(ctx, hidden_size);
                ctx.pool().install(|| {
                    column_blocks(out, [num_tokens, hidden_size], row_stride, block).for_each(|mut out| {
                        let columns = out.columns();
                        for (first, expert, run) in runs() {
                            let x = |index: usize| f32_row(&activated, first + index);
                            let mut add = |index: usize, row: usize, products: &[f32]| {
                                let pair = run[index];
                                let out = &mut out.row_mut(token_of(pair))[row - columns.start..];
                                let weight = weight_of(pair);
                                out.iter_mut().zip(products).for_each(|(out, product)| *out += weight * product);
                            };
                            multiply(run.len(), &x, rows(&expert.down_proj), columns.clone(), &mut add);
                        }
                    });
                });
            });
        }
    });
}

/// `activated[first + i, r] = silu(gate[r]·x(i)) · (up[r]·x(i))` for the columns `r` of `activated` and all `i < num_rows`.
fn activate<'x>(
    x: impl Fn(usize) -> &'x [f32],
    num_rows: usize,
    first: usize,
    gate: Rows<'_>,
    up: Rows<'_>,
    activated: &mut ColumnBlock<'_>,
) {
    let columns = activated.columns();
    multiply(num_rows, &x, gate, columns.clone(), &mut |index, row, products| {
        activated.row_mut(first + index)[row - columns.start..][..products.len()].copy_from_slice(products);
    });
    multiply(num_rows, &x, up, columns.clone(), &mut |index, row, products| {
        let gates = &mut activated.row_mut(first + index)[row - columns.start..];
        gates.iter_mut().zip(products).for_each(|(gate, up)| *gate = silu(*gate) * up);
    });
}

/// Columns of one task: few enough to share among the threads, many enough that rows of `x` are read again while they
/// are still in the cache. No result depends on it.
fn columns_per_task(ctx: &Context, num_cols: usize) -> usize {
    (num_cols / (8 * ctx.pool().current_num_threads())).next_multiple_of(16).clamp(16, 128)
}

/// Writes the numbers of all (token, slot) pairs to `pairs`, ascending by expert and then by number: a counting sort.
/// `ends` is working memory, one longer than there are experts.
fn sort_by_expert(expert_ids: &View<'_>, pairs: &mut [u32], ends: &mut [u32]) {
    let ids = || {
        let rows = 0..expert_ids.shape().num_rows();
        rows.flat_map(|token| expert_ids.row::<i32>(token).expect("the dtype was checked")).map(|&id| id as usize)
    };
    ends.fill(0);
    for id in ids() {
        ends[id + 1] += 1;
    }
    for id in 1..ends.len() {
        ends[id] += ends[id - 1];
    }
    // `ends[id]` is now where the pairs of `id` start, and moves to their end.
    for (pair, id) in (0..).zip(ids()) {
        pairs[ends[id] as usize] = pair;
        ends[id] += 1;
    }
}
