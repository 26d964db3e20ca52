//! The GPU's kernels against the formula in f64, and against themselves to the bit.

use cachalot_tensor::{Buffer, DType, Matrix, Tensor, View, ViewMut};
use cachalot_testkit::{Random, Tolerance, assert_close};
use half::bf16;

use super::cuda::{
    MlaAbsorbed, MlaKernels, MlaPlan, PARTIAL_TAIL, PLAN_ROWS, mla_absorbed as absorbed_on_gpu, mla_plan,
};
use super::{Mla, mla_absorbed};
use crate::act_quant::SCALE_GROUP;
use crate::act_quant::reference::quantise_group;
use crate::numerics::e4m3_to_f32;
use crate::paged_case::PagedCase;
use crate::rope_cache_write::FP8_RECORD_BYTES;
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::test_util::context;
use crate::{
    Bf16BatchedGemm, Bf16GemmKernels, Device, Error, NO_POSITION, ScaleFormat, WeightOrder, bf16_batched_gemm,
};

/// Limits of FlashMLA's tests for bf16 attention.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-3, rel: 2.0 / 128.0, cosine: 7e-6 };
/// What rows of no sequence hold before and after.
const UNTOUCHED: f32 = 123.0;
/// Elements of a query's head before its rotated part, which are not read.
const NOPE: usize = 8;
const GAP: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    rank: usize,
    rope: usize,
    block_size: usize,
    first_row: usize,
    /// `(seq_len, query_len)`
    seqs: &'static [(usize, usize)],
    topk: Option<usize>,
    num_slots: usize,
    /// Decides on the size of tiles.
    max_query_len: usize,
    is_fp8: bool,
}

/// The dimensions of the 671B model and a batch of decoding sequences, the last of which pads a graph.
const DECODE: Case = Case {
    heads: 16,
    rank: 512,
    rope: 64,
    block_size: 64,
    first_row: 0,
    seqs: &[(1, 1), (64, 1), (65, 1), (600, 1), (0, 0)],
    topk: None,
    num_slots: 100,
    max_query_len: 1,
    is_fp8: false,
};

const CASES: &[Case] = &[
    DECODE,
    // Verification of drafts: three splits with slots, and two without, because there are not enough of them.
    Case { seqs: &[(1100, 2), (20, 0), (514, 3)], max_query_len: 3, ..DECODE },
    // A chunk of a prompt beside a decoding sequence.
    Case { seqs: &[(130, 1), (100, 36), (0, 0)], first_row: 2, max_query_len: 36, ..DECODE },
    Case { heads: 128, seqs: &[(70, 1)], ..DECODE },
    Case { heads: 64, seqs: &[(130, 2)], max_query_len: 2, ..DECODE },
    Case { heads: 2, seqs: &[(40, 40), (130, 5)], first_row: 1, max_query_len: 40, ..DECODE },
    Case { heads: 2, seqs: &[(70, 3)], max_query_len: 3, ..DECODE },
    // Dimensions of small models.
    Case { heads: 3, rank: 40, rope: 8, block_size: 4, seqs: &[(9, 4), (30, 30)], max_query_len: 30, ..DECODE },
    Case { heads: 4, rank: 136, rope: 16, block_size: 7, seqs: &[(600, 2), (1, 1)], ..DECODE },
    Case { heads: 1, rank: 8, rope: 0, block_size: 1, seqs: &[(66, 1)], ..DECODE },
    Case { seqs: &[], ..DECODE },
    Case { seqs: &[(300, 2), (40, 3), (0, 0)], topk: Some(100), max_query_len: 3, first_row: 1, ..DECODE },
    Case { seqs: &[(900, 1)], topk: Some(600), ..DECODE },
    Case { heads: 128, seqs: &[(300, 1)], topk: Some(128), ..DECODE },
    Case { heads: 3, rank: 64, rope: 16, seqs: &[(150, 40)], topk: Some(24), max_query_len: 40, ..DECODE },
];

struct Inputs {
    case: Case,
    paged: PagedCase,
    num_tokens: usize,
    /// `[num_tokens, heads, rank + rope]`, as bf16 has them.
    q: Vec<f32>,
    topk_indices: Option<Vec<i32>>,
    scale: f32,
}

impl Inputs {
    fn new(case: Case) -> Self {
        let row = case.rank + case.rope;
        let mut random = Random::new((case.heads * row) as u64);
        let paged = PagedCase::new(&mut random, DType::BF16, [case.block_size, row], case.first_row, case.seqs);
        // One row more than the sequences take, to be left alone.
        let num_tokens = case.first_row + case.seqs.iter().map(|&(_, query_len)| query_len).sum::<usize>() + 1;
        let mut q = vec![f32::NAN; num_tokens * case.heads * row];
        for (_, token, _) in paged.queries() {
            let values = f32s(&bf16s(&random.values(case.heads * row)));
            q[token * case.heads * row..][..case.heads * row].copy_from_slice(&values);
        }
        let topk_indices = case.topk.map(|topk| {
            let mut indices = vec![7; num_tokens * topk];
            for (index, (seq, token, _)) in paged.queries().into_iter().enumerate() {
                let chosen = &mut indices[token * topk..][..topk];
                chosen.fill(NO_POSITION);
                // Every fifth row chooses nothing. The others may choose beyond their own position.
                if index % 5 != 4 {
                    let mut positions = random.permutation(case.seqs[seq].0);
                    positions.truncate(topk);
                    positions.sort();
                    chosen.iter_mut().zip(positions).for_each(|(slot, position)| *slot = position as i32);
                }
            }
            indices
        });
        // Logits of size 1.
        Inputs { case, paged, num_tokens, q, topk_indices, scale: 3.0 / (row as f32).sqrt() }
    }

    /// Queries of the sequences of `paged`, which may be some of this case's, on the device.
    fn run(&self, device: &TestGpu, paged: &PagedCase, num_slots: usize, max_query_len: usize) -> Vec<f32> {
        let Case { heads, rank, rope, is_fp8, .. } = self.case;
        let n = self.num_tokens;
        let kernels = MlaKernels::new(&device.gpu).expect("the kernels");
        let (mut latent, mut q) = (Vec::new(), Vec::new());
        for head in self.q.chunks(rank + rope) {
            latent.extend(bf16s(&head[..rank]));
            q.extend([bf16::NAN; NOPE]);
            q.extend(bf16s(&head[rank..]));
        }
        let latent = device.strided([n, heads * rank], GAP, &latent, bf16::NAN);
        let q = device.strided([n, heads * (NOPE + rope)], GAP, &q, bf16::NAN);
        let out_row = heads * rank;
        let mark = bf16::from_f32(UNTOUCHED);
        let mut out = device.strided([n, out_row], GAP, &vec![mark; n * out_row], bf16::NAN);
        let cache = if is_fp8 { records(device, paged) } else { bf16_cache(device, paged) };
        let seqs = Seqs::new(device, paged);
        let topk_indices = self.topk_indices.as_ref().map(|indices| device.filled([n, indices.len() / n], indices));
        let mut plan = device.unwritten(DType::I32, [PLAN_ROWS, seqs.num_seqs + 1]);
        let mut partials = device.unwritten(DType::F32, [num_slots, rank + PARTIAL_TAIL]);
        let args = MlaPlan {
            query_start_loc: seqs.query_start_loc.view(),
            seq_lens: seqs.seq_lens.view(),
            num_heads: heads,
            max_query_len,
            index_topk: self.topk_indices.as_ref().map(|indices| indices.len() / n),
            num_slots,
            plan: plan.view_mut(),
        };
        mla_plan(&device.stream, &kernels, args).expect("valid arguments");
        let args = MlaAbsorbed {
            q_latent: latent.view().reshape_rows([n, heads, rank]),
            q: q.view().reshape_rows([n, heads, NOPE + rope]),
            kv_cache: cache.view(),
            query_start_loc: seqs.query_start_loc.view(),
            seq_lens: seqs.seq_lens.view(),
            block_table: seqs.block_table.view(),
            topk_indices: topk_indices.as_ref().map(Buffer::view),
            plan: plan.view(),
            max_query_len,
            softmax_scale: self.scale,
            partials: partials.view_mut(),
            out: out.view_mut().reshape_rows([n, heads, rank]),
        };
        absorbed_on_gpu(&device.stream, &kernels, args).expect("valid arguments");
        f32s(&device.read_strided(&out))
    }

    fn run_case(&self, device: &TestGpu) -> Vec<f32> {
        self.run(device, &self.paged, self.case.num_slots, self.case.max_query_len)
    }

    fn row<'a>(&self, out: &'a [f32], token: usize) -> &'a [f32] {
        let row_len = self.case.heads * self.case.rank;
        &out[token * row_len..][..row_len]
    }

    /// The formula in f64.
    fn expected(&self) -> Vec<f32> {
        let Case { heads, rank, rope, topk, .. } = self.case;
        let mut out = vec![UNTOUCHED; self.num_tokens * heads * rank];
        for (seq, token, position) in self.paged.queries() {
            let keys: Vec<&[f32]> = self.paged.keys[seq].chunks(rank + rope).collect();
            let positions: Vec<usize> = match (&self.topk_indices, topk) {
                (Some(indices), Some(topk)) => indices[token * topk..][..topk]
                    .iter()
                    .filter_map(|&chosen| usize::try_from(chosen).ok().filter(|&chosen| chosen <= position))
                    .collect(),
                _ => (0..=position).collect(),
            };
            for head in 0..heads {
                let q = &self.q[(token * heads + head) * (rank + rope)..][..rank + rope];
                let logits: Vec<f64> = positions.iter().map(|&j| f64::from(self.scale) * dot(q, keys[j])).collect();
                let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(logit));
                let weights: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
                let mut sums = vec![0.0; rank];
                for (&j, weight) in positions.iter().zip(&weights) {
                    sums.iter_mut().zip(keys[j]).for_each(|(sum, &c)| *sum += weight * f64::from(c));
                }
                let weight: f64 = weights.iter().sum();
                let out = &mut out[(token * heads + head) * rank..][..rank];
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out = if weight > 0.0 { (sum / weight) as f32 } else { 0.0 });
            }
        }
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The sequences of a step on the device; entries of the block table past a sequence are -1.
struct Seqs {
    num_seqs: usize,
    query_start_loc: Buffer,
    seq_lens: Buffer,
    block_table: Buffer,
}

impl Seqs {
    fn new(device: &TestGpu, paged: &PagedCase) -> Self {
        let seqs = paged.seqs();
        let num_seqs = seqs.num_seqs();
        let upload = |values: &[u32]| {
            let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
            device.filled([values.len()], &values)
        };
        let block_table: Vec<i32> = seqs.block_table.iter().map(|&block| block as i32).collect();
        Seqs {
            num_seqs,
            query_start_loc: upload(seqs.query_start_loc),
            seq_lens: upload(seqs.seq_lens),
            block_table: device.filled([num_seqs, seqs.max_blocks], &block_table),
        }
    }
}

/// The cache as it is: NaN where there is no key.
fn bf16_cache(device: &TestGpu, paged: &PagedCase) -> Buffer {
    device.filled(paged.cache.shape(), paged.cache.view().as_slice::<bf16>().expect("is bf16"))
}

/// The cache as FP8 records.
fn records(device: &TestGpu, paged: &PagedCase) -> Buffer {
    let [num_blocks, block_size, row] = paged.cache.shape().dims().try_into().expect("three dimensions");
    let mut bytes = Vec::new();
    for row in paged.cache.view().as_slice::<bf16>().expect("is bf16").chunks(row) {
        let (latent, key) = row.split_at(512);
        let groups: Vec<_> =
            f32s(latent).chunks(SCALE_GROUP).map(|group| quantise_group(group, ScaleFormat::F32)).collect();
        bytes.extend(groups.iter().flat_map(|(codes, _)| codes.iter().map(|code| code.0)));
        bytes.extend(groups.iter().flat_map(|(_, scale)| scale.to_le_bytes()));
        bytes.extend(key.iter().flat_map(|value| value.to_le_bytes()));
    }
    device.filled([num_blocks, block_size, FP8_RECORD_BYTES], &bytes)
}

/// What the kernel makes of FP8 records of `keys`, `[_, 576]`.
fn decoded(keys: &[f32]) -> Vec<f32> {
    let mut decoded = keys.to_vec();
    for row in decoded.chunks_mut(576) {
        for group in row[..512].chunks_mut(SCALE_GROUP) {
            let (codes, scale) = quantise_group(group, ScaleFormat::F32);
            for (value, code) in group.iter_mut().zip(codes) {
                *value = bf16::from_f32(e4m3_to_f32(code) * scale).to_f32();
            }
        }
    }
    decoded
}

#[track_caller]
fn assert_same(got: &[f32], expected: &[f32], what: &str) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let differ = bits(got).iter().zip(bits(expected)).filter(|(got, expected)| **got != *expected).count();
    assert!(got.len() == expected.len() && differ == 0, "{what}: {differ} of {} differ", got.len());
}

#[test]
fn agrees_with_the_formula() {
    for &case in CASES {
        let inputs = Inputs::new(case);
        let shape = [inputs.num_tokens, case.heads, case.rank];
        assert_close(&inputs.run_case(&TestGpu::new()), &inputs.expected(), shape, TOLERANCE);
    }
}

/// Not on the size of tiles, nor on splits being computed apart.
#[test]
fn the_plan_changes_nothing() {
    for case in [
        Case { seqs: &[(1100, 1), (520, 2)], ..DECODE },
        Case { seqs: &[(1100, 1), (520, 2)], topk: Some(700), ..DECODE },
        Case { heads: 5, rank: 136, rope: 16, block_size: 16, seqs: &[(1100, 3)], ..DECODE },
    ] {
        let inputs = Inputs::new(case);
        let run = |num_slots, max_query_len| inputs.run(&TestGpu::new(), &inputs.paged, num_slots, max_query_len);
        let expected = run(0, 1);
        for (num_slots, max_query_len) in [(200, 1), (200, 100), (0, 100), (60, 1)] {
            assert_same(&run(num_slots, max_query_len), &expected, &format!("{case:?}, {num_slots} slots"));
        }
    }
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    let case = Case { heads: 6, seqs: &[(130, 9), (600, 2), (3, 3), (65, 1)], max_query_len: 9, ..DECODE };
    for topk in [None, Some(50)] {
        let inputs = Inputs::new(Case { topk, ..case });
        let together = inputs.run_case(&TestGpu::new());
        for (seq, token, _) in inputs.paged.queries().into_iter().step_by(3) {
            let paged = inputs.paged.only(&mut Random::new(token as u64), seq, token..token + 1);
            for num_slots in [0, 50] {
                let alone = inputs.run(&TestGpu::new(), &paged, num_slots, 1);
                assert_same(inputs.row(&alone, token), inputs.row(&together, token), &format!("row {token}, {topk:?}"));
            }
        }
    }
}

#[test]
fn a_prefill_in_chunks_equals_the_whole_prefill() {
    let inputs = Inputs::new(Case { heads: 4, seqs: &[(150, 150)], max_query_len: 150, ..DECODE });
    let whole = inputs.run_case(&TestGpu::new());
    for chunks in [&[0, 1, 150][..], &[0, 63, 66, 149, 150]] {
        for chunk in chunks.windows(2) {
            let paged = inputs.paged.only(&mut Random::new(1), 0, chunk[0]..chunk[1]);
            let out = inputs.run(&TestGpu::new(), &paged, 100, chunk[1] - chunk[0]);
            for token in chunk[0]..chunk[1] {
                assert_same(inputs.row(&out, token), inputs.row(&whole, token), &format!("row {token} of {chunk:?}"));
            }
        }
    }
}

#[test]
fn choosing_all_visible_positions_equals_dense_attention() {
    let mut inputs = Inputs::new(Case { heads: 8, seqs: &[(140, 7), (560, 1)], max_query_len: 7, ..DECODE });
    let dense = inputs.run_case(&TestGpu::new());
    // All visible positions, and again with all later ones, which are beyond the queries' own.
    for beyond in [0, 600] {
        let mut indices = vec![NO_POSITION; inputs.num_tokens * 600];
        for (_, token, position) in inputs.paged.queries() {
            let visible = &mut indices[token * 600..][..600.min(position + 1 + beyond)];
            visible.iter_mut().zip(0..).for_each(|(slot, chosen)| *slot = chosen);
        }
        inputs.topk_indices = Some(indices);
        assert_same(&inputs.run_case(&TestGpu::new()), &dense, &format!("{beyond} beyond"));
    }
}

#[test]
fn a_row_that_sees_one_key_is_that_key() {
    let inputs = Inputs::new(Case { seqs: &[(1, 1)], ..DECODE });
    let out = inputs.run_case(&TestGpu::new());
    for head in inputs.row(&out, 0).chunks(512) {
        assert_same(head, &inputs.paged.keys[0][..512], "the latent");
    }
}

/// Logits far beyond the range of the exponential function in f32.
#[test]
fn large_logits_do_not_overflow() {
    let mut inputs = Inputs::new(Case { seqs: &[(600, 1)], ..DECODE });
    inputs.scale = 1e4;
    let out = inputs.run_case(&TestGpu::new());
    let largest = inputs.row(&out, 0).iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    assert!(largest.is_finite() && largest > 0.1, "{largest}");
}

/// NaN in a sequence is seen there and nowhere else.
#[test]
fn nan_stays_in_its_sequence() {
    let case = Case { seqs: &[(70, 1), (70, 1)], ..DECODE };
    let mut inputs = Inputs::new(case);
    let mut keys: Vec<(Vec<f32>, usize)> = inputs.paged.keys.iter().map(|keys| (keys.clone(), 1)).collect();
    let clean = inputs.run_case(&TestGpu::new());
    keys[0].0[5 * 576..6 * 576].fill(f32::NAN);
    inputs.paged = PagedCase::with_keys(&mut Random::new(0), DType::BF16, [64, 576], 0, keys);
    let out = inputs.run_case(&TestGpu::new());
    assert!(inputs.row(&out, 0).iter().all(|value| value.is_nan()));
    assert_same(inputs.row(&out, 1), inputs.row(&clean, 1), "the other sequence");
}

/// To the bit what bf16 keys give that are what the records decode to.
#[test]
fn fp8_records_are_decoded() {
    for case in [
        Case { seqs: &[(65, 1), (0, 0), (530, 1)], ..DECODE },
        Case { seqs: &[(100, 5)], max_query_len: 5, first_row: 1, ..DECODE },
        Case { heads: 2, seqs: &[(300, 2)], topk: Some(70), ..DECODE },
        Case { heads: 64, seqs: &[(300, 1)], topk: Some(70), ..DECODE },
    ] {
        let inputs = Inputs::new(Case { is_fp8: true, ..case });
        let out = inputs.run_case(&TestGpu::new());
        let keys = inputs.paged.keys.iter().zip(case.seqs).map(|(keys, &(_, query_len))| (decoded(keys), query_len));
        let paged = PagedCase::with_keys(&mut Random::new(3), DType::BF16, [64, 576], case.first_row, keys.collect());
        let inputs = Inputs { case, paged, ..inputs };
        assert_same(&out, &inputs.run_case(&TestGpu::new()), &format!("{case:?}"));
        assert_close(&out, &inputs.expected(), [inputs.num_tokens, case.heads, 512], TOLERANCE);
    }
}

/// With the projections on both sides, against the operation of the other devices.
#[test]
fn the_whole_operation_agrees_with_the_reference() {
    const HEADS: usize = 2;
    let case = Case { heads: HEADS, seqs: &[(70, 3), (130, 1)], max_query_len: 3, ..DECODE };
    let inputs = Inputs::new(case);
    let n = inputs.num_tokens;
    let mut random = Random::new(11);
    // The row of no sequence must not be NaN: the projections do it with the others.
    let q = bf16s(&random.values(n * HEADS * 192));
    let weight = bf16s(&random.values(HEADS * 256 * 512).iter().map(|value| value / 16.0).collect::<Vec<f32>>());
    let softmax_scale = 0.135;

    let kv_b_proj =
        Matrix::new(Tensor::from_slice(&weight, [HEADS * 256, 512]).expect("a matrix"), None).expect("bf16");
    let (q_f32, mut expected) = (f32s(&q), vec![0.0; n * HEADS * 128]);
    let args = Mla {
        q: View::from_slice(&q_f32, [n, HEADS, 192]).expect("queries"),
        kv_b_proj: &kv_b_proj,
        kv_cache: inputs.paged.cache.view(),
        seqs: inputs.paged.seqs(),
        topk_indices: None,
        softmax_scale,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        out: ViewMut::from_slice(&mut expected, [n, HEADS, 128]).expect("values"),
    };
    mla_absorbed(&context(Device::Reference, 1), args).expect("runs");

    let device = TestGpu::new();
    let (gemm, kernels) =
        (Bf16GemmKernels::new(&device.gpu).expect("kernels"), MlaKernels::new(&device.gpu).expect("kernels"));
    let weight = device.filled([HEADS, 256 * 512], &weight);
    let (w_uk, w_uv) = (weight.view().columns(0..128 * 512), weight.view().columns(128 * 512..256 * 512));
    let q = device.filled([n, HEADS, 192], &q);
    let mut q_latent = device.unwritten(DType::BF16, [n, HEADS, 512]);
    let mut o_latent = device.filled([n, HEADS, 512], &vec![bf16::ZERO; n * HEADS * 512]);
    let mut out = device.unwritten(DType::BF16, [n, HEADS, 128]);
    let args = Bf16BatchedGemm {
        x: q.view(),
        weight: w_uk.reshape_rows([HEADS, 128, 512]),
        weight_order: WeightOrder::InOut,
        out: q_latent.view_mut(),
    };
    bf16_batched_gemm(&device.stream, &gemm, args).expect("valid arguments");
    let seqs = Seqs::new(&device, &inputs.paged);
    let cache = bf16_cache(&device, &inputs.paged);
    let mut plan = device.unwritten(DType::I32, [PLAN_ROWS, seqs.num_seqs + 1]);
    let mut partials = device.unwritten(DType::F32, [0, 512 + PARTIAL_TAIL]);
    let (query_start_loc, seq_lens) = (seqs.query_start_loc.view(), seqs.seq_lens.view());
    let args = MlaPlan {
        query_start_loc,
        seq_lens,
        num_heads: HEADS,
        max_query_len: 3,
        index_topk: None,
        num_slots: 0,
        plan: plan.view_mut(),
    };
    mla_plan(&device.stream, &kernels, args).expect("valid arguments");
    let args = MlaAbsorbed {
        q_latent: q_latent.view(),
        q: q.view(),
        kv_cache: cache.view(),
        query_start_loc,
        seq_lens,
        block_table: seqs.block_table.view(),
        topk_indices: None,
        plan: plan.view(),
        max_query_len: 3,
        softmax_scale,
        partials: partials.view_mut(),
        out: o_latent.view_mut(),
    };
    absorbed_on_gpu(&device.stream, &kernels, args).expect("valid arguments");
    let args = Bf16BatchedGemm {
        x: o_latent.view(),
        weight: w_uv.reshape_rows([HEADS, 128, 512]),
        weight_order: WeightOrder::OutIn,
        out: out.view_mut(),
    };
    bf16_batched_gemm(&device.stream, &gemm, args).expect("valid arguments");
    // Two roundings to bf16 more than attention alone, of 512 summands each.
    let tolerance = Tolerance { abs: 4e-3, rel: 2.0 / 128.0, cosine: 2e-5 };
    assert_close(&f32s(&device.read(&out)), &expected, [n, HEADS, 128], tolerance);
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = MlaKernels::new(&device.gpu).expect("the kernels");
    let bf16 = |shape: [usize; 3]| device.unwritten(DType::BF16, shape);
    let i32 = |len: usize| device.unwritten(DType::I32, [len]);
    let (q_latent, q, cache) = (bf16([2, 4, 512]), bf16([2, 4, 192]), bf16([3, 64, 576]));
    let (starts, lens) = (i32(2), i32(1));
    let (table, plan) = (device.unwritten(DType::I32, [1, 2]), device.unwritten(DType::I32, [PLAN_ROWS, 2]));
    let check = |change: &dyn Fn(&mut MlaAbsorbed<'_>), message: &str| {
        let (mut partials, mut out) = (device.unwritten(DType::F32, [0, 516]), bf16([2, 4, 512]));
        let mut args = MlaAbsorbed {
            q_latent: q_latent.view(),
            q: q.view(),
            kv_cache: cache.view(),
            query_start_loc: starts.view(),
            seq_lens: lens.view(),
            block_table: table.view(),
            topk_indices: None,
            plan: plan.view(),
            max_query_len: 1,
            softmax_scale: 1.0,
            partials: partials.view_mut(),
            out: out.view_mut(),
        };
        change(&mut args);
        let error: Error = absorbed_on_gpu(&device.stream, &kernels, args).expect_err(message);
        let error = error.to_string();
        assert!(error.starts_with("mla_absorbed: ") && error.contains(message), "{error}");
    };
    let leak = |buffer: Buffer| -> View<'static> { Box::leak(Box::new(buffer)).view() };
    let (short_q, odd_cache) = (leak(bf16([2, 4, 48])), leak(bf16([3, 64, 580])));
    let (other_lens, byte_cache) = (leak(i32(2)), leak(device.unwritten(DType::U8, [3, 64, 576])));
    let (no_choice, latent) = (leak(device.unwritten(DType::I32, [2, 0])), leak(bf16([2, 4, 256])));
    check(&|args| args.q = short_q, "`qk_head_dim` of 48, a cache of 3 x 64 x 576");
    check(
        &|args| args.kv_cache = odd_cache,
        "`qk_rope_head_dim` of 68 is not supported; supported: multiples of 8 up to 64",
    );
    check(&|args| args.kv_cache = byte_cache, "`row` is 656 in `FP8 records`, 576 in `kv_cache`");
    check(&|args| args.seq_lens = other_lens, "`num_seqs` is 2 in `seq_lens`, 1 in `block_table`");
    check(&|args| args.topk_indices = Some(no_choice), "`index_topk` of 0");
    check(&|args| args.q_latent = latent, "`kv_lora_rank + tail` is 516 in `partials`, 260 in `kv_lora_rank`");
}
