//! The definition. Every token is routed on its own.

use candle_nn::ops::sigmoid;

use super::{Gate, OP};
use crate::Result;
use crate::order::best_first;
use crate::reference_util::{dequantise, tensor};

pub(super) fn run(args: Gate<'_>) -> Result<()> {
    let Gate { x, weight, bias, n_group, topk_group, norm_topk_prob, routed_scaling_factor, .. } = args;
    let (mut expert_ids, mut expert_weights) = (args.expert_ids, args.expert_weights);
    let num_chosen = expert_ids.shape().dims()[1];
    let weight = dequantise(OP, weight)?;
    let bias = bias.as_slice::<f32>().expect("the dtype is checked");
    for token in 0..x.shape().num_rows() {
        let x = tensor(OP, &x.rows(token..token + 1))?;
        let p = sigmoid(&x.matmul(&weight.t()?)?)?.squeeze(0)?.to_vec1::<f32>()?;
        let biased: Vec<f32> = p.iter().zip(bias).map(|(p, bias)| p + bias).collect();

        let group_size = biased.len() / n_group;
        let group_scores: Vec<f32> = biased
            .chunks(group_size)
            .map(|group| {
                let mut group = group.to_vec();
                group.sort_by(|&a, &b| best_first(a, b));
                group.iter().take(2).sum()
            })
            .collect();
        let kept_groups = best(&group_scores, 0..n_group, topk_group);
        let candidates = (0..biased.len()).filter(|expert| kept_groups.contains(&(expert / group_size)));
        let chosen = best(&biased, candidates, num_chosen);

        let mut weights: Vec<f32> = chosen.iter().map(|&expert| p[expert]).collect();
        if norm_topk_prob {
            let sum = weights.iter().sum::<f32>() + 1e-20;
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        for (slot, weight) in
            expert_weights.row_mut::<f32>(token).expect("the dtype is checked").iter_mut().zip(weights)
        {
            *slot = weight * routed_scaling_factor;
        }
        for (slot, expert) in expert_ids.row_mut::<i32>(token).expect("the dtype is checked").iter_mut().zip(chosen) {
            *slot = expert as i32;
        }
    }
    Ok(())
}

/// The `num_best` of `candidates`, which ascend, with the highest scores, best first.
fn best(scores: &[f32], candidates: impl Iterator<Item = usize>, num_best: usize) -> Vec<usize> {
    let mut candidates: Vec<usize> = candidates.collect();
    // The sort is stable: equal scores stay in ascending order.
    candidates.sort_by(|&a, &b| best_first(scores[a], scores[b]));
    candidates.truncate(num_best);
    candidates
}
