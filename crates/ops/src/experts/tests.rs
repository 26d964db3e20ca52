use cachalot_tensor::{DType, Matrix, View};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::{Expert, Experts, experts};
use crate::reference_util::dequantise;
use crate::test_util::{Strided, context, contexts};
use crate::{Context, Device, Error};

struct Case {
    num_tokens: usize,
    hidden: usize,
    intermediate: usize,
    ids: Vec<i32>,
    weights: Vec<f32>,
    x: Vec<f32>,
    before: Vec<f32>,
    experts: Vec<Expert>,
}

impl Case {
    /// `sizes` are those of tokens, slots, experts, `hidden_size`, `moe_intermediate_size`.
    fn new(seed: u64, sizes: [usize; 5], dtypes: [DType; 3]) -> Self {
        let [num_tokens, num_chosen, num_experts, hidden, intermediate] = sizes;
        let mut random = Random::new(seed);
        let mut matrix = |dtype, shape| random.matrix(dtype, shape, [16, 32]);
        let experts = (0..num_experts)
            .map(|_| Expert {
                gate_proj: matrix(dtypes[0], [intermediate, hidden]),
                up_proj: matrix(dtypes[1], [intermediate, hidden]),
                down_proj: matrix(dtypes[2], [hidden, intermediate]),
            })
            .collect();
        Case {
            num_tokens,
            hidden,
            intermediate,
            ids: (0..num_tokens)
                .flat_map(|_| random.permutation(num_experts)[..num_chosen].to_vec())
                .map(|id| id as i32)
                .collect(),
            weights: random.values(num_tokens * num_chosen),
            x: random.values(num_tokens * hidden).into_iter().map(|value| 3.0 * value).collect(),
            before: random.values(num_tokens * hidden),
            experts,
        }
    }

    fn run(&self, ctx: &Context) -> Vec<f32> {
        self.run_tokens(ctx, 0..self.num_tokens).expect("runs")
    }

    fn run_tokens(&self, ctx: &Context, tokens: std::ops::Range<usize>) -> Result<Vec<f32>, Error> {
        let part = |len: usize| tokens.start * len..tokens.end * len;
        let num_chosen = self.ids.len() / self.num_tokens.max(1);
        let shape = [tokens.len(), self.hidden];
        let x = Strided::new(&self.x[part(self.hidden)], shape);
        let mut out = Strided::new(&self.before[part(self.hidden)], shape);
        experts(
            ctx,
            Experts {
                x: x.view(),
                experts: &self.experts,
                expert_ids: View::from_slice(&self.ids[part(num_chosen)], [tokens.len(), num_chosen]).expect("ids"),
                expert_weights: View::from_slice(&self.weights[part(num_chosen)], [tokens.len(), num_chosen])
                    .expect("weights"),
                out: out.view_mut(),
            },
        )?;
        Ok(out.into_values())
    }

    /// The formula in f64, one number at a time.
    fn naive(&self) -> Vec<f32> {
        let decode = |matrix: &Matrix| dequantise("test", matrix).expect("decodes").to_vec2::<f32>().expect("f32");
        let num_chosen = self.ids.len() / self.num_tokens.max(1);
        let mut out: Vec<f64> = self.before.iter().map(|&value| f64::from(value)).collect();
        for (id, expert) in self.experts.iter().enumerate() {
            let [gate, up, down] = [&expert.gate_proj, &expert.up_proj, &expert.down_proj].map(decode);
            for (pair, _) in self.ids.iter().enumerate().filter(|&(_, &chosen)| chosen as usize == id) {
                let token = pair / num_chosen;
                let x = &self.x[token * self.hidden..][..self.hidden];
                let times_x = |row: &[f32]| row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
                for i in 0..self.intermediate {
                    let (g, u) = (times_x(&gate[i]), times_x(&up[i]));
                    let activated = g / (1.0 + (-g).exp()) * u;
                    for (o, row) in down.iter().enumerate() {
                        out[token * self.hidden + o] += f64::from(self.weights[pair]) * f64::from(row[i]) * activated;
                    }
                }
            }
        }
        out.into_iter().map(|value| value as f32).collect()
    }
}

const F32: [DType; 3] = [DType::F32; 3];
const FP8: [DType; 3] = [DType::F8E4M3; 3];

#[test]
fn the_sum_over_experts_equals_the_formula_on_every_device() {
    let mixed = [DType::BF16, DType::F16, DType::F8E4M3];
    let cases = [
        // (tokens, slots, experts, hidden, intermediate), weights
        ([0, 2, 4, 8, 8], F32),
        ([1, 1, 1, 1, 1], F32),
        ([1, 3, 8, 40, 33], mixed),
        ([2, 4, 4, 65, 20], FP8),
        ([7, 3, 16, 33, 70], F32),
        ([40, 4, 6, 48, 36], FP8),
        ([3, 0, 4, 8, 8], F32),
        // More pairs than one window holds, and experts that go on in the next one.
        ([1100, 2, 3, 6, 5], F32),
        // More columns than one task has.
        ([5, 2, 3, 300, 600], FP8),
    ];
    for (index, (sizes, dtypes)) in cases.into_iter().enumerate() {
        let case = Case::new(index as u64, sizes, dtypes);
        let expected = case.naive();
        for ctx in contexts() {
            assert_close(&case.run(&ctx), &expected, [case.num_tokens, case.hidden], Tolerance::F32_SUM);
        }
    }
}

#[test]
fn a_token_alone_equals_the_token_in_a_batch_on_any_number_of_threads() {
    for (sizes, dtypes) in [([40, 4, 6, 48, 36], FP8), ([1100, 2, 3, 6, 5], F32), ([5, 2, 3, 300, 600], FP8)] {
        let case = Case::new(5, sizes, dtypes);
        for ctx in contexts() {
            let together = case.run(&ctx);
            for token in (0..case.num_tokens).step_by(1 + case.num_tokens / 20) {
                let alone = case.run_tokens(&ctx, token..token + 1).expect("runs");
                assert_same_bits(&alone, &together[token * case.hidden..][..case.hidden], [case.hidden]);
            }
        }
        let one = case.run(&context(Device::Cpu, 1));
        for num_threads in [2, 7] {
            assert_same_bits(&case.run(&context(Device::Cpu, num_threads)), &one, [case.num_tokens, case.hidden]);
        }
    }
}

#[test]
fn the_order_of_slots_changes_nothing_and_an_id_listed_twice_counts_twice() {
    let mut case = Case::new(8, [2, 3, 5, 40, 24], FP8);
    // The same experts and weights for both tokens, in another order; the third slot repeats the first.
    case.ids = vec![4, 1, 4, 1, 4, 4];
    case.weights = vec![0.5, 0.25, 0.5, 0.25, 0.5, 0.5];
    let (x, before) = (case.x[..40].to_vec(), case.before[..40].to_vec());
    case.x[40..].copy_from_slice(&x);
    case.before[40..].copy_from_slice(&before);
    let expected = case.naive();
    for ctx in contexts() {
        let out = case.run(&ctx);
        assert_close(&out, &expected, [2, 40], Tolerance::F32_SUM);
        assert_same_bits(&out[40..], &out[..40], [40]);
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let check = |change: &dyn Fn(&mut Case), message: &str| {
        let mut case = Case::new(1, [3, 2, 5, 40, 24], FP8);
        change(&mut case);
        for ctx in contexts() {
            let error = case.run_tokens(&ctx, 0..3).expect_err(message);
            assert_eq!(error.to_string(), format!("experts: {message}"));
        }
    };
    check(&|case| case.ids[3] = 5, "`expert_ids[3]` is 5, must be below 5");
    check(&|case| case.ids[4] = -1, "`expert_ids[4]` is 4294967295, must be below 5");
    let transpose = |case: &mut Case| {
        let id = case.ids[0] as usize;
        case.experts[id].down_proj = case.experts[id].up_proj.clone();
    };
    check(&transpose, "`moe_intermediate_size` is 40 in `down_proj`, 24 in `gate_proj`");
    let drop_scales = |case: &mut Case| {
        let id = case.ids[0] as usize;
        case.experts[id].up_proj = Matrix::new(case.experts[id].up_proj.values().clone(), None).expect("is a matrix");
    };
    check(
        &drop_scales,
        "a F8_E4M3 weight without block scales is not supported; supported: F32, F16, BF16 without and F8_E4M3 with block \
         scales",
    );
    // An expert that nobody chose is not looked at.
    let mut case = Case::new(1, [3, 2, 5, 40, 24], FP8);
    case.ids = vec![0; 6];
    case.experts[1].up_proj = case.experts[1].down_proj.clone();
    assert!(case.run_tokens(&context(Device::Cpu, 2), 0..3).is_ok());
}
