//! Logits by [`linear`], shared among the threads by experts; then one token per task.

use std::cmp::Ordering;

use cachalot_tensor::ViewMut;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::Gate;
use crate::order::best_first;
use crate::scratch::with_scratch;
use crate::{Context, Linear, Result, linear};

pub(super) fn run(ctx: &Context, args: Gate<'_>) -> Result<()> {
    let Gate { x, weight, bias, n_group, topk_group, norm_topk_prob, routed_scaling_factor, .. } = args;
    let num_experts = weight.num_rows();
    let shape = args.expert_ids.shape();
    let (num_tokens, num_chosen) = (shape.num_rows(), shape.row_len());
    if shape.num_elements() == 0 {
        return Ok(());
    }
    let (id_stride, weight_stride) = (args.expert_ids.row_stride(), args.expert_weights.row_stride());
    let ids = args.expert_ids.into_strided_slice::<i32>().expect("the dtype was checked");
    let weights = args.expert_weights.into_strided_slice::<f32>().expect("the dtype was checked");
    let bias = bias.as_slice::<f32>().expect("the dtype was checked");

    with_scratch(num_tokens * num_experts, |scores| {
        let logits = ViewMut::from_slice(scores, [num_tokens, num_experts]).expect("a number per element");
        linear(ctx, Linear { x, weight, out: logits })?;
        let route = |((p, ids), weights): ((&mut [f32], &mut [i32]), &mut [f32])| {
            p.iter_mut().for_each(|p| *p = 1.0 / (1.0 + (-*p).exp()));
            let (ids, weights) = (&mut ids[..num_chosen], &mut weights[..num_chosen]);
            choose(p, bias, n_group, topk_group, ids);
            let mut sum = 0.0;
            for (weight, &id) in weights.iter_mut().zip(&*ids) {
                *weight = p[id as usize];
                sum += *weight;
            }
            let divisor = if norm_topk_prob { sum + 1e-20 } else { 1.0 };
            weights.iter_mut().for_each(|weight| *weight = *weight / divisor * routed_scaling_factor);
        };
        if num_tokens == 1 {
            route(((scores, ids), weights));
        } else {
            ctx.pool().install(|| {
                let rows = scores.par_chunks_mut(num_experts).zip(ids.par_chunks_mut(id_stride));
                rows.zip(weights.par_chunks_mut(weight_stride)).for_each(route);
            });
        }
        Ok(())
    })
}

/// Steps 1 to 3 of [`gate`](super::gate) for one token.
fn choose(p: &[f32], bias: &[f32], n_group: usize, topk_group: usize, ids: &mut [i32]) {
    let group_size = p.len() / n_group;
    with_scratch(p.len() + 2 * n_group, |scratch| {
        let (biased, scratch) = scratch.split_at_mut(p.len());
        let (group_scores, kept) = scratch.split_at_mut(n_group);
        for ((biased, p), bias) in biased.iter_mut().zip(p).zip(bias) {
            *biased = p + bias;
        }
        for (score, group) in group_scores.iter_mut().zip(biased.chunks_exact(group_size)) {
            *score = sum_of_best_two(group);
        }
        kept.fill(0.0);
        let mut group = None;
        for _ in 0..topk_group {
            group = next_best(group_scores, group, |_| true);
            kept[group.expect("topk_group is at most n_group")] = 1.0;
        }
        let mut expert = None;
        for id in ids {
            expert = next_best(biased, expert, |expert| kept[expert / group_size] == 1.0);
            *id = expert.expect("the groups hold num_experts_per_tok experts") as i32;
        }
    });
}

fn sum_of_best_two(group: &[f32]) -> f32 {
    let Some(best) = next_best(group, None, |_| true) else { return 0.0 };
    match next_best(group, Some(best), |_| true) {
        Some(second) => group[best] + group[second],
        None => group[best],
    }
}

/// The best candidate that comes after `previous`, in the order of scores and then of indices.
fn next_best(scores: &[f32], previous: Option<usize>, is_candidate: impl Fn(usize) -> bool) -> Option<usize> {
    let order = |a: usize, b: usize| best_first(scores[a], scores[b]).then(a.cmp(&b));
    let mut best = None;
    for index in (0..scores.len()).filter(|&index| is_candidate(index)) {
        let is_left = previous.is_none_or(|previous| order(previous, index) == Ordering::Less);
        // Indices ascend: on a tie the earlier one stays.
        if is_left && best.is_none_or(|best| best_first(scores[index], scores[best]) == Ordering::Less) {
            best = Some(index);
        }
    }
    best
}
