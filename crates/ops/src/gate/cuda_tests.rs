//! The GPU's kernels against the definition: the same ids, and weights as close as f32 sums are.

use cachalot_tensor::{Buffer, DType, Matrix, Tensor, View, ViewMut};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::cuda::{Gate, GateKernels, gate, num_logits};
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::test_util::context;
use crate::{Device, Result};

const GAP: usize = 8;

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
const V3: Rule =
    Rule { n_group: 8, topk_group: 4, num_experts_per_tok: 8, norm_topk_prob: true, routed_scaling_factor: 2.5 };

struct Case {
    hidden: usize,
    x: Vec<bf16>,
    weight: Vec<bf16>,
    bias: Vec<f32>,
    rule: Rule,
}

impl Case {
    /// `sizes` are those of tokens, experts, `hidden_size`; the bias is `shift` plus or minus `size`.
    fn new(sizes: [usize; 3], [size, shift]: [f32; 2], rule: Rule) -> Case {
        let [num_tokens, num_experts, hidden] = sizes;
        let mut random = Random::new((num_tokens * num_experts + hidden) as u64);
        let factor = 1.0 / (hidden as f32).sqrt();
        Case {
            hidden,
            x: bf16s(&random.integers(num_tokens * hidden, 2)),
            weight: bf16s(&random.values(num_experts * hidden).iter().map(|w| w * factor).collect::<Vec<_>>()),
            bias: random.values(num_experts).iter().map(|value| value * size + shift).collect(),
            rule,
        }
    }

    /// One token with these logits, which bf16 must hold.
    fn of_logits(logits: &[f32], bias: &[f32], rule: Rule) -> Case {
        let weight: Vec<f32> = logits.iter().flat_map(|&logit| [logit, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
        let x = bf16s(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        Case { hidden: 8, x, weight: bf16s(&weight), bias: bias.to_vec(), rule }
    }

    /// The first tokens alone.
    fn first(&self, num_tokens: usize) -> Case {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        Case { x: self.x[..num_tokens * self.hidden].to_vec(), weight, bias, ..*self }
    }

    fn num_tokens(&self) -> usize {
        self.x.len() / self.hidden
    }

    /// What the definition says of the tokens that are no padding.
    fn expected(&self, padding: &[usize]) -> (Vec<i32>, Vec<f32>) {
        let (num_tokens, num_experts, slots) = (self.num_tokens(), self.bias.len(), self.rule.num_experts_per_tok);
        let weight = Tensor::from_slice(&f32s(&self.weight), [num_experts, self.hidden]).expect("a weight");
        let weight = Matrix::new(weight, None).expect("a matrix");
        let (mut ids, mut weights) = (vec![0; num_tokens * slots], vec![0.0; num_tokens * slots]);
        let x = f32s(&self.x);
        let args = super::Gate {
            x: View::from_slice(&x, [num_tokens, self.hidden]).expect("tokens"),
            weight: &weight,
            bias: View::from_slice(&self.bias, [num_experts]).expect("a bias"),
            n_group: self.rule.n_group,
            topk_group: self.rule.topk_group,
            norm_topk_prob: self.rule.norm_topk_prob,
            routed_scaling_factor: self.rule.routed_scaling_factor,
            expert_ids: ViewMut::from_slice(&mut ids, [num_tokens, slots]).expect("ids"),
            expert_weights: ViewMut::from_slice(&mut weights, [num_tokens, slots]).expect("weights"),
        };
        super::gate(&context(Device::Reference, 1), args).expect("valid arguments");
        for token in padding {
            ids[token * slots..][..slots].fill(-1);
            weights[token * slots..][..slots].fill(0.0);
        }
        (ids, weights)
    }

    /// Rows of x in `padding` are NaN.
    fn run(&self, device: &TestGpu, padding: &[usize]) -> (Vec<i32>, Vec<f32>) {
        let kernels = GateKernels::new(&device.gpu).expect("the kernels");
        let (num_tokens, num_experts) = (self.num_tokens(), self.bias.len());
        let shape = [num_tokens, self.rule.num_experts_per_tok];
        let num_chosen = shape[0] * shape[1];
        let (mut x, mut slots) = (self.x.clone(), vec![7; num_tokens]);
        for &token in padding {
            x[token * self.hidden..][..self.hidden].fill(bf16::NAN);
            slots[token] = -1;
        }
        let x = device.strided([num_tokens, self.hidden], GAP, &x, bf16::NAN);
        let weight = device.strided([num_experts, self.hidden], GAP, &self.weight, bf16::NAN);
        let (bias, slots) = (device.filled([num_experts], &self.bias), device.filled([num_tokens], &slots));
        let mut logits = device.unwritten(DType::F32, [num_logits(num_tokens, num_experts, self.hidden)]);
        let mut ids = device.strided(shape, GAP, &vec![-7; num_chosen], -7);
        let mut weights = device.strided(shape, GAP, &vec![f32::NAN; num_chosen], f32::NAN);
        let args = Gate {
            x: x.view(),
            weight: weight.view(),
            bias: bias.view(),
            slot_mapping: (!padding.is_empty()).then(|| slots.view()),
            n_group: self.rule.n_group,
            topk_group: self.rule.topk_group,
            norm_topk_prob: self.rule.norm_topk_prob,
            routed_scaling_factor: self.rule.routed_scaling_factor,
            logits: logits.view_mut(),
            expert_ids: ids.view_mut(),
            expert_weights: weights.view_mut(),
        };
        gate(&device.stream, &kernels, args).expect("valid arguments");
        (device.read_strided(&ids), device.read_strided(&weights))
    }

    #[track_caller]
    fn check(&self, device: &TestGpu, padding: &[usize]) {
        let (ids, weights) = self.run(device, padding);
        let (expected_ids, expected_weights) = self.expected(padding);
        assert_eq!(ids, expected_ids, "{:?}", self.rule);
        assert_close(&weights, &expected_weights, [weights.len()], Tolerance::F32_SUM);
    }
}

#[test]
fn shapes() {
    let device = TestGpu::new();
    for (sizes, bias, rule, padding) in [
        ([0, 8, 8], [0.1, 0.0], RULE, &[][..]),
        ([1, 1, 8], [0.0, 0.0], RULE, &[]),
        ([3, 5, 72], [0.1, 0.0], Rule { num_experts_per_tok: 5, ..RULE }, &[1]),
        // Groups of one: the sum of the best two is the one.
        ([9, 6, 40], [0.3, 0.0], Rule { n_group: 6, topk_group: 4, num_experts_per_tok: 3, ..RULE }, &[]),
        // All groups stay.
        ([9, 12, 40], [0.3, 0.0], Rule { n_group: 4, topk_group: 4, num_experts_per_tok: 5, ..RULE }, &[]),
        // As many experts as the groups that stay hold.
        ([9, 12, 40], [0.3, 0.0], Rule { n_group: 4, topk_group: 2, num_experts_per_tok: 6, ..RULE }, &[0, 8]),
        // Two blocks of tokens, and a part of a row that is not full.
        ([70, 72, 520], [0.2, 0.0], Rule { norm_topk_prob: true, num_experts_per_tok: 4, ..RULE }, &[63, 64, 69]),
        // Biased scores far below zero: what is masked must not come back as 0.
        ([20, 64, 72], [1.0, -5.0], V3, &[]),
        ([7, 256, 7168], [0.2, 0.0], V3, &[2]),
    ] {
        Case::new(sizes, bias, rule).check(&device, padding);
    }
}

#[test]
fn ties_masks_and_what_is_no_number() {
    let device = TestGpu::new();
    let nan = f32::NAN;
    let choose = |n_group, topk_group, num_experts_per_tok| Rule { n_group, topk_group, num_experts_per_tok, ..RULE };
    for (logits, bias, rule) in [
        // The bias takes part in the choice and not in the weights.
        (&[0.0, 1.0, 2.0][..], &[5.0, 0.0, 0.0][..], choose(1, 1, 2)),
        // The best single expert is in the first group, the best two together in the second; a third one does not count.
        (&[3.0, -9.0, -9.0, 1.0, 1.5, -9.0], &[0.0; 6], choose(2, 1, 1)),
        (&[1.0, 1.0, -9.0, 0.75, 0.75, 0.75], &[0.0; 6], choose(2, 1, 1)),
        // The first group wins; its second expert is chosen although its biased score is below zero.
        (&[4.0, 0.0, 1.0, 1.0], &[3.0, -2.0, -0.9, -0.9], choose(2, 1, 2)),
        (&[0.0; 8], &[0.0; 8], choose(4, 2, 3)),
        (&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], &[0.0; 8], choose(4, 2, 3)),
        // Equal experts in more than one lane's share of them.
        (&[0.0; 80], &[0.25; 80], choose(5, 3, 40)),
        (&[0.0, 1.0, -1.0], &[0.0; 3], Rule { norm_topk_prob: true, routed_scaling_factor: 2.5, ..choose(1, 1, 2) }),
        // All probabilities are 0: the epsilon keeps 0/0 away.
        (&[-200.0; 3], &[0.0; 3], Rule { norm_topk_prob: true, ..choose(1, 1, 2) }),
        (&[nan, -3.0, nan, 0.0], &[0.0; 4], choose(1, 1, 3)),
        (&[nan; 4], &[0.0; 4], choose(1, 1, 3)),
        (&[0.0; 4], &[nan, 0.0, nan, 0.0], choose(1, 1, 3)),
        // A group that NaN makes the worst, as the sum of its two best.
        (&[nan, 5.0, -1.0, -1.0], &[0.0; 4], choose(2, 1, 2)),
    ] {
        Case::of_logits(logits, bias, rule).check(&device, &[]);
    }
}

#[test]
fn a_token_does_not_depend_on_the_others() {
    let device = TestGpu::new();
    // More tokens than the parts of a row have blocks of their own for.
    let rule = Rule { num_experts_per_tok: 3, norm_topk_prob: true, ..RULE };
    let case = Case::new([1030, 8, 1032], [0.2, 0.0], rule);
    let (ids, weights) = case.run(&device, &[]);
    for num_tokens in [1, 65] {
        let (first_ids, first_weights) = case.first(num_tokens).run(&device, &[]);
        assert_eq!(first_ids, ids[..num_tokens * 3]);
        assert_same_bits(&first_weights, &weights[..num_tokens * 3], [num_tokens, 3]);
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = GateKernels::new(&device.gpu).expect("the kernels");
    let run = |x: &Buffer, num_bias: usize, num_logits: usize, rule: Rule| -> Result<()> {
        let hidden = x.shape().dims()[1];
        let (weight, bias) = (device.unwritten(DType::BF16, [6, hidden]), device.unwritten(DType::F32, [num_bias]));
        let mut logits = device.unwritten(DType::F32, [num_logits]);
        let shape = [x.shape().dims()[0], rule.num_experts_per_tok];
        let (mut ids, mut weights) = (device.unwritten(DType::I32, shape), device.unwritten(DType::F32, shape));
        let args = Gate {
            x: x.view(),
            weight: weight.view(),
            bias: bias.view(),
            slot_mapping: None,
            n_group: rule.n_group,
            topk_group: rule.topk_group,
            norm_topk_prob: rule.norm_topk_prob,
            routed_scaling_factor: rule.routed_scaling_factor,
            logits: logits.view_mut(),
            expert_ids: ids.view_mut(),
            expert_weights: weights.view_mut(),
        };
        gate(&device.stream, &kernels, args)
    };
    let x = device.unwritten(DType::BF16, [2, 16]);
    for (x, num_bias, num_logits, rule, message) in [
        (&x, 5, 12, RULE, "`n_routed_experts` is 5 in `bias`, 6 in `weight`"),
        (&x, 6, 11, RULE, "`logits` of 11 elements is not supported; supported: as many as `num_logits` says"),
        (&x, 6, 12, Rule { n_group: 4, ..RULE }, "choosing 1 of 6 experts from 1 of 4 groups"),
        (&device.unwritten(DType::BF16, [2, 12]), 6, 12, RULE, "`hidden_size` of 12 is not supported"),
        (&device.unwritten(DType::F32, [2, 16]), 6, 12, RULE, "`x` of F32 is not supported; supported: BF16"),
    ] {
        let error = run(x, num_bias, num_logits, rule).expect_err(message).to_string();
        assert!(error.starts_with(&format!("gate: {message}")), "{error}");
    }
}
