use cachalot_tensor::{DType, View, ViewMut};
use cachalot_testkit::Random;

use super::{Indexer, NO_POSITION, indexer};
use crate::paged_case::PagedCase;
use crate::test_util::{context, contexts};
use crate::{Context, Device, Error};

/// Content of `out` before a call: rows of no sequence keep it.
const UNTOUCHED: i32 = -9;

struct Inputs {
    heads: usize,
    dim: usize,
    topk: usize,
    num_tokens: usize,
    paged: PagedCase,
    q: Vec<f32>,
    weights: Vec<f32>,
    scale: f32,
}

#[derive(Clone, Copy)]
struct Case {
    heads: usize,
    dim: usize,
    block_size: usize,
    dtype: DType,
    first_row: usize,
    /// `(seq_len, query_len)`
    seqs: &'static [(usize, usize)],
    topk: usize,
}

const ODD: Case = Case { heads: 3, dim: 20, block_size: 64, dtype: DType::F32, first_row: 0, seqs: &[(5, 5)], topk: 4 };

const CASES: &[Case] = &[
    ODD,
    Case { seqs: &[], ..ODD },
    Case { seqs: &[(1, 1), (3, 0), (4, 4)], ..ODD },
    Case { seqs: &[(63, 63), (64, 64), (65, 65)], topk: 16, ..ODD },
    Case { seqs: &[(130, 66), (100, 1), (40, 10)], topk: 33, first_row: 2, dtype: DType::BF16, ..ODD },
    Case { seqs: &[(50, 50)], topk: 200, ..ODD },
    Case { seqs: &[(9, 9)], topk: 1, heads: 1, dim: 1, block_size: 4, ..ODD },
    Case { seqs: &[(9, 9)], topk: 0, ..ODD },
    // More positions than one task takes, and heads by fours with one left.
    Case { seqs: &[(1200, 3), (600, 2)], topk: 512, heads: 5, dim: 33, ..ODD },
    // The dimensions of the 671B model.
    Case { seqs: &[(300, 2)], topk: 64, heads: 64, dim: 128, dtype: DType::BF16, ..ODD },
];

impl Inputs {
    /// Small integers: scores are exact in any order, and ties are frequent.
    fn new(case: Case, seed: u64) -> Self {
        let Case { heads, dim, block_size, dtype, first_row, seqs, topk } = case;
        let mut random = Random::new(seed);
        let keys = seqs.iter().map(|&(seq_len, query_len)| (random.integers(seq_len * dim, 2), query_len)).collect();
        let paged = PagedCase::with_keys(&mut random, dtype, [block_size, dim], first_row, keys);
        let num_tokens = first_row + seqs.iter().map(|&(_, query_len)| query_len).sum::<usize>() + 1;
        Inputs {
            heads,
            dim,
            topk,
            num_tokens,
            paged,
            q: random.integers(num_tokens * heads * dim, 2),
            weights: random.integers(num_tokens * heads, 3),
            scale: 0.125,
        }
    }

    fn run(&self, ctx: &Context) -> Vec<i32> {
        self.run_paged(ctx, &self.paged)
    }

    fn run_paged(&self, ctx: &Context, paged: &PagedCase) -> Vec<i32> {
        let mut out = vec![UNTOUCHED; self.num_tokens * self.topk];
        indexer(ctx, self.args(paged, &mut out)).expect("runs");
        out
    }

    fn args<'a>(&'a self, paged: &'a PagedCase, out: &'a mut [i32]) -> Indexer<'a> {
        Indexer {
            q: View::from_slice(&self.q, [self.num_tokens, self.heads, self.dim]).expect("q"),
            weights: View::from_slice(&self.weights, [self.num_tokens, self.heads]).expect("weights"),
            key_cache: paged.cache.view(),
            seqs: paged.seqs(),
            scale: self.scale,
            out: ViewMut::from_slice(out, [self.num_tokens, self.topk]).expect("out"),
        }
    }

    /// A position is chosen if fewer than `topk` visible ones beat it.
    fn naive(&self) -> Vec<i32> {
        let mut out = vec![UNTOUCHED; self.num_tokens * self.topk];
        for (seq, row, position) in self.paged.queries() {
            let score = |s: usize| -> f64 {
                let key = &self.paged.keys[seq][s * self.dim..][..self.dim];
                let of_head = |h: usize| {
                    let q = &self.q[(row * self.heads + h) * self.dim..][..self.dim];
                    let dot: f64 = q.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    f64::from(self.weights[row * self.heads + h]) * dot.max(0.0)
                };
                (0..self.heads).map(of_head).sum::<f64>() * f64::from(self.scale)
            };
            let scores: Vec<f64> = (0..=position).map(score).collect();
            let beats = |a: usize, b: usize| scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
            let chosen =
                (0..=position).filter(|&s| (0..=position).filter(|&other| beats(other, s)).count() < self.topk);
            let out = &mut out[row * self.topk..][..self.topk];
            out.fill(NO_POSITION);
            out.iter_mut().zip(chosen).for_each(|(slot, position)| *slot = position as i32);
        }
        out
    }
}

#[test]
fn the_best_visible_positions_are_chosen_on_every_device() {
    for (index, &case) in CASES.iter().enumerate() {
        let inputs = Inputs::new(case, index as u64);
        let expected = inputs.naive();
        for ctx in contexts() {
            assert_eq!(inputs.run(&ctx), expected, "case {index} on {}", ctx.device().name());
        }
    }
}

#[test]
fn a_row_alone_and_a_prefill_in_chunks_choose_the_same() {
    for (index, &case) in CASES.iter().enumerate() {
        let mut inputs = Inputs::new(case, index as u64);
        // Scores that round.
        inputs.q = Random::new(9).values(inputs.q.len());
        for ctx in contexts() {
            let together = inputs.run(&ctx);
            for (seq, row, _) in inputs.paged.queries().into_iter().step_by(3) {
                let end = inputs.paged.seqs().rows(seq).end.min(row + 3);
                for rows in [row..row + 1, row..end] {
                    let only = inputs.paged.only(&mut Random::new(row as u64), seq, rows.clone());
                    let part = rows.start * inputs.topk..rows.end * inputs.topk;
                    let alone = inputs.run_paged(&ctx, &only);
                    assert_eq!(alone[part.clone()], together[part], "case {index}, rows {rows:?}");
                }
            }
        }
        let one = inputs.run(&context(Device::Cpu, 1));
        assert_eq!(inputs.run(&context(Device::Cpu, 5)), one, "case {index}");
    }
}

/// One query at the last position; scores are what `weights`, `q` and `keys` make of one element per head.
#[track_caller]
fn check(q: &[f32], weights: &[f32], keys: &[f32], topk: usize, expected: &[i32]) {
    let paged = PagedCase::with_keys(&mut Random::new(0), DType::F32, [64, 1], 0, vec![(keys.to_vec(), 1)]);
    let inputs = Inputs {
        heads: q.len(),
        dim: 1,
        topk,
        num_tokens: 1,
        paged,
        q: q.to_vec(),
        weights: weights.to_vec(),
        scale: 1.0,
    };
    for ctx in contexts() {
        assert_eq!(inputs.run(&ctx), expected, "on {}", ctx.device().name());
    }
}

#[test]
fn relu_comes_before_the_weight() {
    // q·k = 1, -2, 3. With the weight -1: -1, 0, -3. Relu after the weight would prefer the second for its 2.
    check(&[1.0], &[-1.0], &[1.0, -2.0, 3.0], 2, &[0, 1]);
    // And the heads are summed after it: 2 - 1 = 1 and 0 + 3 = 3 against 4 + 0 = 4.
    check(&[1.0, -1.0], &[1.0, 1.0], &[1.0, -3.0, 4.0], 1, &[2]);
}

#[test]
fn one_set_of_positions_for_all_heads() {
    // Head 0 alone would choose position 0, head 1 alone position 1. There is one choice for both, by the sum.
    check(&[1.0, -1.0], &[1.0, 1.0], &[4.0, -5.0, 1.0], 1, &[1]);
}

#[test]
fn equal_scores_prefer_the_lowest_position() {
    check(&[1.0], &[1.0], &[0.0, -1.0, -2.0, -3.0, 5.0], 3, &[0, 1, 4]);
    // 0 and -0 are equal.
    check(&[1.0], &[-1.0], &[-1.0, 0.0, -1.0, 0.0], 2, &[0, 1]);
}

#[test]
fn nan_is_the_lowest_score_and_positions_stay_valid() {
    let nan = f32::NAN;
    check(&[1.0], &[-1.0], &[nan, 2.0, nan, 3.0, 1.0], 3, &[1, 3, 4]);
    check(&[1.0], &[-1.0], &[nan, 2.0, nan, 3.0, 1.0], 4, &[0, 1, 3, 4]);
    check(&[nan], &[1.0], &[1.0, 2.0, 3.0], 2, &[0, 1]);
    check(&[1.0], &[nan], &[1.0, 2.0, 3.0], 2, &[0, 1]);
    check(&[1.0], &[1.0], &[1.0, f32::INFINITY, 3.0, -f32::INFINITY], 2, &[1, 2]);
}

#[test]
fn bad_arguments_are_refused_by_name_and_nothing_is_written() {
    let inputs = Inputs::new(Case { seqs: &[(70, 3), (5, 5)], ..ODD }, 1);
    let check = |change: &dyn Fn(&mut Indexer<'_>), message: &str| {
        for ctx in contexts() {
            let mut out = vec![UNTOUCHED; inputs.num_tokens * inputs.topk];
            let mut args = inputs.args(&inputs.paged, &mut out);
            change(&mut args);
            let error: Error = indexer(&ctx, args).expect_err(message);
            assert_eq!(error.to_string(), format!("indexer: {message}"));
            assert!(out.iter().all(|&position| position == UNTOUCHED), "{message}: written to `out`");
        }
    };
    check(
        &|args| args.weights = View::from_slice(&[0.0f32; 36], [9, 4]).expect("weights"),
        "`index_n_heads` is 4 in `weights`, 3 in `q`",
    );
    check(
        &|args| args.key_cache = View::from_slice(&[0.0f32; 5 * 64 * 21], [5, 64, 21]).expect("keys"),
        "`index_head_dim` is 21 in `key_cache`, 20 in `q`",
    );
    check(
        &|args| args.key_cache = View::from_slice(&[0i32; 5 * 64 * 20], [5, 64, 20]).expect("keys"),
        "`key_cache` of I32 is not supported; supported: F32, BF16",
    );
    check(&|args| args.seqs.block_table = &[9; 6], "`block_table[0]` is 9, must be below 5");
    check(&|args| args.seqs.seq_lens = &[70, 4], "`query_start_loc[2]` is 8, must be below 8");
}
