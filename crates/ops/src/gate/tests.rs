use cachalot_tensor::{DType, Matrix, Tensor, View, ViewMut};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::{Gate, gate};
use crate::reference_util::dequantise;
use crate::test_util::{Strided, contexts};
use crate::{Context, Error};

#[derive(Clone, Copy, Debug)]
struct Rule {
    n_group: usize,
    topk_group: usize,
    num_experts_per_tok: usize,
    norm_topk_prob: bool,
    routed_scaling_factor: f32,
}

const RULE: Rule =
    Rule { n_group: 1, topk_group: 1, num_experts_per_tok: 1, norm_topk_prob: false, routed_scaling_factor: 1.0 };

fn run(ctx: &Context, x: &[f32], weight: &Matrix, bias: &[f32], rule: Rule) -> Result<(Vec<i32>, Vec<f32>), Error> {
    let num_tokens = x.len() / weight.num_cols();
    let shape = [num_tokens, rule.num_experts_per_tok];
    let x = Strided::new(x, [num_tokens, weight.num_cols()]);
    let mut expert_ids = vec![-7; num_tokens * rule.num_experts_per_tok];
    let mut expert_weights = vec![f32::NAN; num_tokens * rule.num_experts_per_tok];
    gate(
        ctx,
        Gate {
            x: x.view(),
            weight,
            bias: View::from_slice(bias, [bias.len()]).expect("bias"),
            n_group: rule.n_group,
            topk_group: rule.topk_group,
            norm_topk_prob: rule.norm_topk_prob,
            routed_scaling_factor: rule.routed_scaling_factor,
            expert_ids: ViewMut::from_slice(&mut expert_ids, shape).expect("ids"),
            expert_weights: ViewMut::from_slice(&mut expert_weights, shape).expect("weights"),
        },
    )?;
    Ok((expert_ids, expert_weights))
}

/// The rules of the published gate, one expert at a time, by marking what is taken.
fn naive(x: &[f32], weight: &Matrix, bias: &[f32], rule: Rule) -> (Vec<i32>, Vec<f32>) {
    let weight = dequantise("test", weight).expect("decodes").to_vec2::<f32>().expect("f32");
    let num_experts = weight.len();
    let group_size = num_experts / rule.n_group;
    let (mut all_ids, mut all_weights) = (Vec::new(), Vec::new());
    for x in x.chunks(weight[0].len()) {
        let p: Vec<f64> = weight
            .iter()
            .map(|row| {
                1.0 / (1.0 + (-row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()).exp())
            })
            .collect();
        let mut b: Vec<f64> = p.iter().zip(bias).map(|(p, &bias)| p + f64::from(bias)).collect();
        let group_score = |g: usize| {
            let group = &b[g * group_size..][..group_size];
            let mut best = f64::NEG_INFINITY;
            for i in 0..group_size {
                for j in i + 1..group_size {
                    best = best.max(group[i] + group[j]);
                }
            }
            if group_size == 1 { group[0] } else { best }
        };
        let scores: Vec<f64> = (0..rule.n_group).map(group_score).collect();
        // A group is out if `topk_group` others beat it.
        let beaten_by = |g: usize, of: &[f64]| {
            (0..of.len()).filter(|&other| of[other] > of[g] || (of[other] == of[g] && other < g)).count()
        };
        for (group, scores_of_group) in b.chunks_mut(group_size).enumerate() {
            if beaten_by(group, &scores) >= rule.topk_group {
                scores_of_group.fill(f64::NEG_INFINITY);
            }
        }
        let mut ids: Vec<usize> = (0..num_experts).filter(|&e| beaten_by(e, &b) < rule.num_experts_per_tok).collect();
        ids.sort_by_key(|&e| beaten_by(e, &b));
        let sum: f64 = ids.iter().map(|&e| p[e]).sum();
        let divisor = if rule.norm_topk_prob { sum } else { 1.0 };
        all_weights.extend(ids.iter().map(|&e| (p[e] / divisor * f64::from(rule.routed_scaling_factor)) as f32));
        all_ids.extend(ids.iter().map(|&e| e as i32));
    }
    (all_ids, all_weights)
}

#[test]
fn ids_and_weights_equal_the_published_rules_on_every_device() {
    let v3 =
        Rule { n_group: 8, topk_group: 4, num_experts_per_tok: 8, norm_topk_prob: true, routed_scaling_factor: 2.5 };
    let cases: [(usize, usize, usize, [f32; 2], Rule); 9] = [
        // (tokens, experts, hidden, size and mean of the bias, rule)
        (0, 8, 5, [0.1, 0.0], RULE),
        (1, 1, 1, [0.0, 0.0], RULE),
        (3, 5, 7, [0.1, 0.0], Rule { num_experts_per_tok: 5, ..RULE }),
        (
            4,
            6,
            33,
            [0.1, 0.0],
            Rule { num_experts_per_tok: 3, norm_topk_prob: true, routed_scaling_factor: 3.0, ..RULE },
        ),
        // Groups of one: the sum of the best two is the one.
        (9, 6, 40, [0.3, 0.0], Rule { n_group: 6, topk_group: 4, num_experts_per_tok: 3, ..RULE }),
        // All groups stay.
        (9, 12, 40, [0.3, 0.0], Rule { n_group: 4, topk_group: 4, num_experts_per_tok: 5, ..RULE }),
        // As many experts as the groups that stay hold.
        (9, 12, 40, [0.3, 0.0], Rule { n_group: 4, topk_group: 2, num_experts_per_tok: 6, ..RULE }),
        (70, 256, 72, [0.2, 0.0], v3),
        // Biased scores far below zero: what is masked must not come back as 0.
        (20, 64, 72, [1.0, -5.0], v3),
    ];
    for (index, (num_tokens, num_experts, hidden, [size, shift], rule)) in cases.into_iter().enumerate() {
        for dtype in [DType::F32, DType::BF16] {
            let mut random = Random::new(index as u64);
            let x = random.integers(num_tokens * hidden, 2);
            let weight = random.matrix(dtype, [num_experts, hidden], [1, 1]);
            let bias: Vec<f32> = random.values(num_experts).iter().map(|value| value * size + shift).collect();
            let (ids, weights) = naive(&x, &weight, &bias, rule);
            for ctx in contexts() {
                let (got_ids, got_weights) = run(&ctx, &x, &weight, &bias, rule).expect("runs");
                assert_eq!(got_ids, ids, "case {index}, {dtype} on {}", ctx.device().name());
                assert_close(&got_weights, &weights, [weights.len()], Tolerance::F32_SUM);
                // A token alone is routed as in the batch, to the bit.
                for token in 0..num_tokens.min(3) {
                    let (_, alone) = run(&ctx, &x[token * hidden..][..hidden], &weight, &bias, rule).expect("runs");
                    let together = &got_weights[token * alone.len()..][..alone.len()];
                    assert_same_bits(&alone, together, [alone.len()]);
                }
            }
        }
    }
}

/// One token whose logits are `logits`, on every device: ids and weights must be these.
#[track_caller]
fn check(logits: &[f32], bias: &[f32], rule: Rule, ids: &[i32], weights: &[f32]) {
    let weight = Matrix::new(Tensor::from_slice(logits, [logits.len(), 1]).unwrap(), None).unwrap();
    for ctx in contexts() {
        let (got_ids, got_weights) = run(&ctx, &[1.0], &weight, bias, rule).expect("runs");
        assert_eq!(got_ids, ids, "on {}", ctx.device().name());
        assert_close(&got_weights, weights, [weights.len()], Tolerance::F32_SUM);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn the_bias_takes_part_in_the_choice_and_not_in_the_weights() {
    let rule = Rule { num_experts_per_tok: 2, ..RULE };
    check(&[0.0, 1.0, 2.0], &[5.0, 0.0, 0.0], rule, &[0, 2], &[0.5, sigmoid(2.0)]);
}

#[test]
fn a_group_is_scored_by_the_sum_of_its_two_best() {
    // The best single expert is in the first group, the best two together in the second.
    let rule = Rule { n_group: 2, topk_group: 1, ..RULE };
    check(&[3.0, -9.0, -9.0, 1.0, 1.5, -9.0], &[0.0; 6], rule, &[4], &[sigmoid(1.5)]);
    // A third one does not count.
    check(&[1.0, 1.0, -9.0, 0.9, 0.9, 0.9], &[0.0; 6], rule, &[0], &[sigmoid(1.0)]);
}

#[test]
fn experts_of_lost_groups_count_as_minus_infinity_and_not_as_zero() {
    // The first group wins; its second expert is chosen although its biased score is below zero.
    let rule = Rule { n_group: 2, topk_group: 1, num_experts_per_tok: 2, ..RULE };
    check(&[4.0, 0.0, 1.0, 1.0], &[3.0, -2.0, -0.9, -0.9], rule, &[0, 1], &[sigmoid(4.0), 0.5]);
}

#[test]
fn equal_scores_prefer_the_lowest_index() {
    let rule = Rule { n_group: 4, topk_group: 2, num_experts_per_tok: 3, ..RULE };
    check(&[0.0; 8], &[0.0; 8], rule, &[0, 1, 2], &[0.5; 3]);
    // The last two groups lead and are equal, as are their experts.
    check(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], &[0.0; 8], rule, &[4, 5, 6], &[sigmoid(1.0); 3]);
}

#[test]
fn weights_are_normalised_and_then_scaled() {
    let rule = Rule { num_experts_per_tok: 2, norm_topk_prob: true, routed_scaling_factor: 2.5, ..RULE };
    let sum = 0.5 + sigmoid(1.0);
    check(&[0.0, 1.0, -1.0], &[0.0; 3], rule, &[1, 0], &[sigmoid(1.0) / sum * 2.5, 0.5 / sum * 2.5]);
    // All probabilities are 0: the epsilon keeps 0/0 away.
    check(&[-200.0; 3], &[0.0; 3], rule, &[0, 1], &[0.0, 0.0]);
}

#[test]
fn nan_is_the_lowest_score_and_ids_stay_valid() {
    let nan = f32::NAN;
    let rule = Rule { num_experts_per_tok: 3, ..RULE };
    check(&[nan, -3.0, nan, 0.0], &[0.0; 4], rule, &[3, 1, 0], &[0.5, sigmoid(-3.0), nan]);
    check(&[nan; 4], &[0.0; 4], rule, &[0, 1, 2], &[nan; 3]);
    // A NaN in the bias does the same to the choice and nothing to the weights.
    check(&[0.0; 4], &[nan, 0.0, nan, 0.0], rule, &[1, 3, 0], &[0.5; 3]);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let weight = Random::new(0).matrix(DType::F32, [6, 4], [1, 1]);
    let check = |num_bias: usize, rule: Rule, message: &str| {
        for ctx in contexts() {
            let error = run(&ctx, &[0.0; 8], &weight, &vec![0.0; num_bias], rule).expect_err(message);
            assert!(error.to_string().starts_with(&format!("gate: {message}")), "{error}");
        }
    };
    check(5, RULE, "`n_routed_experts` is 5 in `bias`, 6 in `weight`");
    let choosing = |rule: Rule, message: &str| check(6, rule, message);
    choosing(Rule { n_group: 4, ..RULE }, "choosing 1 of 6 experts from 1 of 4 groups");
    choosing(Rule { n_group: 0, ..RULE }, "choosing 1 of 6 experts from 1 of 0 groups");
    choosing(Rule { topk_group: 0, ..RULE }, "choosing 1 of 6 experts from 0 of 1 groups");
    choosing(Rule { topk_group: 2, ..RULE }, "choosing 1 of 6 experts from 2 of 1 groups");
    choosing(
        Rule { n_group: 3, topk_group: 2, num_experts_per_tok: 5, ..RULE },
        "choosing 5 of 6 experts from 2 of 3 groups",
    );
}
