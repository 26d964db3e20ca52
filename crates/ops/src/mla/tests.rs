use cachalot_tensor::{Buffer, DType, Matrix, Tensor, View, ViewMut};
use cachalot_testkit::{Random, Tolerance, assert_close};

use super::{Mla, mla_absorbed, mla_expanded};
use crate::paged_case::PagedCase;
use crate::reference_util::dequantise;
use crate::test_util::{Strided, context, contexts};
use crate::{Context, Device, Error, NO_POSITION, Result};

type Form = fn(&Context, Mla<'_>) -> Result<()>;

const FORMS: [(&str, Form); 2] = [("expanded", mla_expanded), ("absorbed", mla_absorbed)];

/// Content of `out` before a call: rows of no sequence keep it.
const UNTOUCHED: f32 = 12345.0;

#[derive(Clone, Copy)]
struct Case {
    heads: usize,
    nope: usize,
    rope: usize,
    v: usize,
    rank: usize,
    weight: DType,
    cache: DType,
    block_size: usize,
    first_row: usize,
    /// `(seq_len, query_len)`
    seqs: &'static [(usize, usize)],
    /// Entries of `topk_indices` per row.
    topk: Option<usize>,
}

/// Odd dimensions, nothing a multiple of a vector.
const ODD: Case = Case {
    heads: 3,
    nope: 24,
    rope: 8,
    v: 20,
    rank: 40,
    weight: DType::F32,
    cache: DType::F32,
    block_size: 64,
    first_row: 0,
    seqs: &[(5, 5)],
    topk: None,
};

/// The dimensions of a head of the 671B model.
const REAL: Case =
    Case { heads: 2, nope: 128, rope: 64, v: 128, rank: 512, weight: DType::F8E4M3, cache: DType::BF16, ..ODD };

const CASES: &[Case] = &[
    ODD,
    Case { seqs: &[], ..ODD },
    Case { seqs: &[(1, 1)], ..ODD },
    Case { seqs: &[(7, 0)], ..ODD },
    Case { seqs: &[(63, 63)], cache: DType::BF16, ..ODD },
    Case { seqs: &[(64, 64)], weight: DType::BF16, ..ODD },
    Case { seqs: &[(65, 65)], weight: DType::F8E4M3, ..ODD },
    Case { seqs: &[(130, 1)], weight: DType::F16, ..ODD },
    // Chunks in the middle of sequences, one that begins and one that ends at a block.
    Case { seqs: &[(130, 66), (100, 36), (128, 70)], first_row: 2, ..ODD },
    // Decode of a ragged batch, a sequence without queries between the others.
    Case { seqs: &[(1, 1), (64, 1), (200, 0), (65, 1), (129, 2)], cache: DType::BF16, first_row: 1, ..ODD },
    Case { seqs: &[(9, 4), (30, 30)], block_size: 4, ..ODD },
    Case { heads: 1, nope: 1, rope: 2, v: 1, rank: 1, seqs: &[(70, 70)], ..ODD },
    Case { heads: 17, seqs: &[(70, 3)], ..ODD },
    Case { seqs: &[(130, 66), (40, 40), (300, 1)], first_row: 1, topk: Some(16), ..ODD },
    Case { seqs: &[(150, 80)], topk: Some(1), ..ODD },
    Case { seqs: &[(20, 20)], topk: Some(64), cache: DType::BF16, ..ODD },
    Case { seqs: &[(130, 3), (64, 1)], ..REAL },
    Case { seqs: &[(300, 2)], topk: Some(100), ..REAL },
];

struct Inputs {
    case: Case,
    paged: PagedCase,
    num_tokens: usize,
    q: Vec<f32>,
    kv_b_proj: Matrix,
    topk_indices: Option<Vec<i32>>,
    scale: f32,
}

impl Inputs {
    fn new(case: Case, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let paged = PagedCase::new(
            &mut random,
            case.cache,
            [case.block_size, case.rank + case.rope],
            case.first_row,
            case.seqs,
        );
        // One row more than the sequences take, to be left alone.
        let num_tokens = case.first_row + case.seqs.iter().map(|&(_, query_len)| query_len).sum::<usize>() + 1;
        let mut q = vec![f32::NAN; num_tokens * case.heads * (case.nope + case.rope)];
        let row_len = case.heads * (case.nope + case.rope);
        for (_, row, _) in paged.queries() {
            q[row * row_len..][..row_len].copy_from_slice(&random.values(row_len));
        }
        let topk_indices = case.topk.map(|topk| {
            // Rows of no sequence are never read: an unordered row there does not matter.
            let mut indices = vec![7; num_tokens * topk];
            for (index, (seq, row, _)) in paged.queries().into_iter().enumerate() {
                let chosen = &mut indices[row * topk..][..topk];
                chosen.fill(NO_POSITION);
                // Every fifth row chooses nothing. The others may choose beyond their own position.
                if index % 5 != 4 {
                    let seq_len = case.seqs[seq].0;
                    let mut positions = random.permutation(seq_len);
                    positions.truncate(topk);
                    positions.sort();
                    chosen.iter_mut().zip(positions).for_each(|(slot, position)| *slot = position as i32);
                }
            }
            indices
        });
        let kv_b_proj = random.matrix(case.weight, [case.heads * (case.nope + case.v), case.rank], [16, 32]);
        Inputs { case, paged, num_tokens, q, kv_b_proj, topk_indices, scale: 0.7 }
    }

    fn run(&self, form: Form, ctx: &Context) -> Vec<f32> {
        self.run_paged(form, ctx, &self.paged)
    }

    /// Runs `form` over all rows of the step, of which those in `paged` take part.
    fn run_paged(&self, form: Form, ctx: &Context, paged: &PagedCase) -> Vec<f32> {
        let shape = [self.num_tokens, self.case.heads * self.case.v];
        let q = Strided::new(&self.q, [self.num_tokens, self.case.heads * (self.case.nope + self.case.rope)]);
        let mut out = Strided::new(&vec![UNTOUCHED; shape[0] * shape[1]], shape);
        form(ctx, self.args(q.view(), paged, out.view_mut())).expect("runs");
        out.into_values()
    }

    fn args<'a>(&'a self, q: View<'a>, paged: &'a PagedCase, out: ViewMut<'a>) -> Mla<'a> {
        let Case { heads, nope, rope, v, .. } = self.case;
        let n = self.num_tokens;
        Mla {
            q: q.reshape_rows([n, heads, nope + rope]),
            kv_b_proj: &self.kv_b_proj,
            kv_cache: paged.cache.view(),
            seqs: paged.seqs(),
            topk_indices: self
                .topk_indices
                .as_ref()
                .map(|indices| View::from_slice(indices, [n, indices.len() / n]).expect("topk_indices")),
            softmax_scale: self.scale,
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rope,
            v_head_dim: v,
            out: out.reshape_rows([n, heads, v]),
        }
    }

    fn row<'a>(&self, out: &'a [f32], row: usize) -> &'a [f32] {
        let row_len = self.case.heads * self.case.v;
        &out[row * row_len..][..row_len]
    }

    /// The formula in f64, one number at a time.
    fn naive(&self) -> Vec<f32> {
        let Case { heads, nope, rope, v, rank, topk, .. } = self.case;
        let w = dequantise("test", &self.kv_b_proj).expect("decodes").to_vec2::<f32>().expect("is f32");
        let mut out = vec![UNTOUCHED; self.num_tokens * heads * v];
        for (seq, row, position) in self.paged.queries() {
            let key = |j: usize| &self.paged.keys[seq][j * (rank + rope)..][..rank + rope];
            let sees = |j: usize| match (&self.topk_indices, topk) {
                (Some(indices), Some(topk)) => indices[row * topk..][..topk].contains(&(j as i32)),
                _ => true,
            };
            for h in 0..heads {
                let q = &self.q[(row * heads + h) * (nope + rope)..][..nope + rope];
                let expand = |j, i: usize| dot(&w[h * (nope + v) + i], &key(j)[..rank]);
                let mut numerators = vec![0.0; v];
                let mut denominator = 0.0;
                for j in (0..=position).filter(|&j| sees(j)) {
                    let of_latent: f64 = (0..nope).map(|i| f64::from(q[i]) * expand(j, i)).sum();
                    let logit = f64::from(self.scale) * (of_latent + dot(&q[nope..], &key(j)[rank..]));
                    denominator += logit.exp();
                    for (i, numerator) in numerators.iter_mut().enumerate() {
                        *numerator += logit.exp() * expand(j, nope + i);
                    }
                }
                let out = &mut out[(row * heads + h) * v..][..v];
                for (out, numerator) in out.iter_mut().zip(numerators) {
                    *out = if denominator > 0.0 { (numerator / denominator) as f32 } else { 0.0 };
                }
            }
        }
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[track_caller]
fn assert_same(got: &[f32], expected: &[f32], what: &str) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{what}: {got:?}, expected to the bit {expected:?}");
}

#[test]
fn both_forms_equal_the_formula_on_every_device() {
    for (index, &case) in CASES.iter().enumerate() {
        let inputs = Inputs::new(case, index as u64);
        let expected = inputs.naive();
        for ctx in contexts() {
            for (_, form) in FORMS {
                let shape = [inputs.num_tokens, case.heads, case.v];
                assert_close(&inputs.run(form, &ctx), &expected, shape, Tolerance::F32_SUM);
            }
        }
    }
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    for (index, &case) in CASES.iter().enumerate() {
        let inputs = Inputs::new(case, 100 + index as u64);
        for ctx in contexts() {
            for (name, form) in FORMS {
                let together = inputs.run(form, &ctx);
                for (seq, row, _) in inputs.paged.queries().into_iter().step_by(7) {
                    let paged = inputs.paged.only(&mut Random::new(row as u64), seq, row..row + 1);
                    let alone = inputs.run_paged(form, &ctx, &paged);
                    let what = format!("case {index}, row {row}, {name} on {}", ctx.device().name());
                    assert_same(inputs.row(&alone, row), inputs.row(&together, row), &what);
                }
            }
        }
    }
}

#[test]
fn a_prefill_in_chunks_equals_the_whole_prefill() {
    let case = Case { seqs: &[(150, 150)], cache: DType::BF16, weight: DType::F8E4M3, ..ODD };
    for topk in [None, Some(48)] {
        let inputs = Inputs::new(Case { topk, ..case }, 7);
        for ctx in contexts() {
            for (name, form) in FORMS {
                let whole = inputs.run(form, &ctx);
                for chunks in [&[0, 1, 150][..], &[0, 64, 128, 150], &[0, 63, 66, 67, 149, 150]] {
                    for chunk in chunks.windows(2) {
                        let paged = inputs.paged.only(&mut Random::new(1), 0, chunk[0]..chunk[1]);
                        let out = inputs.run_paged(form, &ctx, &paged);
                        for row in chunk[0]..chunk[1] {
                            let what = format!("row {row} of {chunk:?}, {name} on {}", ctx.device().name());
                            assert_same(inputs.row(&out, row), inputs.row(&whole, row), &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for case in [Case { seqs: &[(130, 66), (65, 1)], ..ODD }, Case { heads: 17, seqs: &[(70, 3), (1, 1)], ..ODD }] {
        let inputs = Inputs::new(case, 3);
        for (name, form) in FORMS {
            let one = inputs.run(form, &context(Device::Cpu, 1));
            for num_threads in [2, 5, 16] {
                let many = inputs.run(form, &context(Device::Cpu, num_threads));
                assert_same(&many, &one, &format!("{name} with {num_threads} threads"));
            }
        }
    }
}

#[test]
fn choosing_all_visible_positions_equals_dense_attention() {
    let mut inputs = Inputs::new(Case { seqs: &[(140, 75), (64, 1), (3, 3)], ..ODD }, 5);
    for ctx in contexts() {
        for (name, form) in FORMS {
            inputs.topk_indices = None;
            let dense = inputs.run(form, &ctx);
            // All visible positions, and again with all later ones, which are beyond the queries' own.
            for beyond in [0, 200] {
                let mut indices = vec![NO_POSITION; inputs.num_tokens * 200];
                for (_, row, position) in inputs.paged.queries() {
                    let visible = &mut indices[row * 200..][..200.min(position + 1 + beyond)];
                    visible.iter_mut().zip(0..).for_each(|(slot, chosen)| *slot = chosen);
                }
                inputs.topk_indices = Some(indices);
                let what = format!("{name} on {}, {beyond} beyond", ctx.device().name());
                assert_same(&inputs.run(form, &ctx), &dense, &what);
            }
        }
    }
}

#[test]
fn a_row_that_chooses_nothing_is_zero() {
    let mut inputs = Inputs::new(Case { seqs: &[(70, 3)], ..ODD }, 5);
    // Nothing; a position beyond the query's own; a position.
    inputs.topk_indices = Some(vec![NO_POSITION, NO_POSITION, 69, NO_POSITION, 3, 69, 0, 0]);
    for ctx in contexts() {
        for (name, form) in FORMS {
            let out = inputs.run(form, &ctx);
            let what = format!("{name} on {}", ctx.device().name());
            assert_same(inputs.row(&out, 0), &[0.0; 60], &what);
            assert_same(inputs.row(&out, 1), &[0.0; 60], &what);
            assert!(inputs.row(&out, 2).iter().all(|&value| value != 0.0), "{what}");
        }
    }
}

/// One head, one key: the output is that key's value, and `v` follows `k_nope` in `kv_b_proj`.
#[test]
fn v_comes_after_k_nope_in_each_head() {
    let case = Case { heads: 2, nope: 2, rope: 2, v: 3, rank: 1, seqs: &[(1, 1)], ..ODD };
    let mut inputs = Inputs::new(case, 0);
    let rows = [100.0, 100.0, 1.0, 2.0, 3.0, 100.0, 100.0, 4.0, 5.0, 6.0];
    inputs.kv_b_proj = Matrix::new(Tensor::from_slice::<f32>(&rows, [10, 1]).unwrap(), None).unwrap();
    inputs.paged = PagedCase::with_keys(&mut Random::new(0), DType::F32, [64, 3], 0, vec![(vec![1.0, 50.0, 50.0], 1)]);
    for ctx in contexts() {
        for (_, form) in FORMS {
            assert_eq!(inputs.row(&inputs.run(form, &ctx), 0), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
    }
}

/// Two keys that differ in one rope element alone: the query meets it with its own last elements.
#[test]
fn the_rope_part_is_last_in_the_query_and_in_the_cache() {
    let case = Case { heads: 1, nope: 1, rope: 2, v: 1, rank: 1, seqs: &[(2, 1)], ..ODD };
    let mut inputs = Inputs::new(case, 0);
    inputs.scale = 1.0;
    inputs.q[..3].copy_from_slice(&[0.0, 0.0, 2.0]);
    inputs.kv_b_proj = Matrix::new(Tensor::from_slice(&[1.0f32, 1.0], [2, 1]).unwrap(), None).unwrap();
    let keys = vec![0.0, 7.0, 0.0, 1.0, 7.0, 1.0];
    inputs.paged = PagedCase::with_keys(&mut Random::new(0), DType::F32, [64, 3], 0, vec![(keys, 1)]);
    // Logits 0 and 2, values 0 and 1.
    let expected = [(f64::exp(2.0) / (1.0 + f64::exp(2.0))) as f32];
    for ctx in contexts() {
        for (_, form) in FORMS {
            assert_close(inputs.row(&inputs.run(form, &ctx), 0), &expected, [1], Tolerance::F32_SUM);
        }
    }
}

/// Logits far beyond the range of `exp` in f32.
#[test]
fn large_logits_do_not_overflow() {
    let mut inputs = Inputs::new(Case { seqs: &[(130, 66)], ..ODD }, 9);
    inputs.scale = 1e4;
    for ctx in contexts() {
        for (name, form) in FORMS {
            let out = inputs.run(form, &ctx);
            let (_, row, _) = *inputs.paged.queries().last().unwrap();
            let largest = inputs.row(&out, row).iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            assert!(largest.is_finite() && largest > 0.01, "{name} on {}: {largest}", ctx.device().name());
        }
    }
}

#[test]
fn a_later_key_that_is_nan_does_not_reach_an_earlier_query() {
    let mut inputs = Inputs::new(Case { seqs: &[(70, 70)], ..ODD }, 2);
    let clean = inputs.paged.keys[0].clone();
    let mut poisoned = clean.clone();
    poisoned[66 * 48..67 * 48].fill(f32::NAN);
    for ctx in contexts() {
        for (name, form) in FORMS {
            let run = |inputs: &mut Inputs, keys: &Vec<f32>| {
                let mut random = Random::new(1);
                inputs.paged = PagedCase::with_keys(&mut random, DType::F32, [64, 48], 0, vec![(keys.clone(), 70)]);
                inputs.run(form, &ctx)
            };
            let (expected, got) = (run(&mut inputs, &clean), run(&mut inputs, &poisoned));
            let what = format!("{name} on {}", ctx.device().name());
            assert_same(&got[..66 * 60], &expected[..66 * 60], &what);
            assert!(got[66 * 60..70 * 60].iter().all(|value| value.is_nan()), "{what}: NaN is not hidden");
        }
    }
}

#[test]
fn bad_arguments_are_refused_by_name_and_nothing_is_written() {
    let inputs = Inputs::new(Case { seqs: &[(70, 3), (5, 5)], topk: Some(4), ..ODD }, 1);
    let f16_cache: &'static Buffer = Box::leak(Box::new(Buffer::zeros(DType::F16, [8, 64, 48])));
    let check = |change: &dyn Fn(&mut Mla<'_>), message: &str| {
        for ctx in contexts() {
            for (name, form) in FORMS {
                let mut out = vec![UNTOUCHED; inputs.num_tokens * 60];
                let q = View::from_slice(&inputs.q, [inputs.num_tokens, 96]).expect("q");
                let out_view = ViewMut::from_slice(&mut out, [inputs.num_tokens, 60]).expect("out");
                let mut args = inputs.args(q, &inputs.paged, out_view);
                change(&mut args);
                let error: Error = form(&ctx, args).expect_err(message);
                assert_eq!(error.to_string(), format!("mla_{name}: {message}"));
                assert!(out.iter().all(|&value| value == UNTOUCHED), "{message}: written to `out`");
            }
        }
    };
    check(&|args| args.qk_rope_head_dim = 9, "`qk_head_dim` is 33 in `qk_nope_head_dim + qk_rope_head_dim`, 32 in `q`");
    check(
        &|args| args.v_head_dim = 21,
        "`kv_b_proj rows` is 132 in `kv_b_proj`, 135 in `num_heads, qk_nope_head_dim and v_head_dim`",
    );
    check(
        &|args| (args.qk_nope_head_dim, args.qk_rope_head_dim, args.v_head_dim) = (23, 9, 21),
        "`kv_lora_rank + qk_rope_head_dim` is 48 in `kv_cache`, 49 in `kv_b_proj and qk_rope_head_dim`",
    );
    check(&|args| args.kv_cache = f16_cache.view(), "`kv_cache` of F16 is not supported; supported: F32, BF16");
    check(&|args| args.seqs.block_table = &[9; 6], "`block_table[0]` is 9, must be below 5");
    check(
        &|args| args.seqs.block_table = &[0; 5],
        "`num_seqs * max_blocks` is 5 in `block_table`, 6 in `seq_lens and max_blocks`",
    );
    check(&|args| args.seqs.seq_lens = &[200, 5], "`seq_lens[0]` is 200, must be below 193");
    check(&|args| args.seqs.seq_lens = &[70, 4], "`query_start_loc[2]` is 8, must be below 8");
    check(&|args| args.seqs.query_start_loc = &[0, 3, 10], "`query_start_loc[2]` is 10, must be below 10");
    check(&|args| args.seqs.query_start_loc = &[0, 3, 2], "`query_start_loc[1]` is 3, must be below 3");
    check(&|args| args.seqs.query_start_loc = &[0, 3], "`num_seqs + 1` is 2 in `query_start_loc`, 3 in `seq_lens`");
    for unordered in [[1, 1, -1, -1], [2, 1, -1, -1], [1, -1, 2, -1], [-2, 1, 2, 3]] {
        let indices: Vec<i32> = [[0, 1, 2, 3], unordered].into_iter().chain([[0; 4]; 7]).flatten().collect();
        check(
            &|args| {
                let indices: &'static [i32] = indices.clone().leak();
                args.topk_indices = Some(View::from_slice(indices, [9, 4]).expect("topk_indices"));
            },
            "an unordered row 1 of `topk_indices` is not supported; supported: strictly ascending positions, then -1",
        );
    }
}
