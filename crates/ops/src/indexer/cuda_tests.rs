//! Choices against the reference of `top_k`, from the logits that the kernel itself makes, and against the Reference on values
//! that were never quantised.

use cachalot_tensor::{DType, F8E4M3, View, ViewMut};
use cachalot_testkit::Random;
use half::bf16;

use super::cuda::{Indexer, IndexerKernels, indexer};
use super::{NO_POSITION, cuda};
use crate::indexer_logits::reference::{IndexerCase, Key};
use crate::indexer_quant::INDEX_HEAD_DIM;
use crate::paged_case::PagedCase;
use crate::rope::yarn_inv_freq;
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::test_util::context;
use crate::top_k::reference::top_k;
use crate::{
    Device, IndexerLogits, IndexerLogitsKernel, IndexerQuant, IndexerQuantKernel, LayerNorm, Rope, RopeLayout,
    ScaleFormat, indexer_logits, indexer_quant, layer_norm, rope,
};

/// What rows of padding keep.
const UNTOUCHED: i32 = -9;

/// Chooses in a workspace of `[rows, columns]`.
fn choose(device: &TestGpu, case: &IndexerCase, index_topk: usize, workspace: [usize; 2]) -> Vec<i32> {
    let kernels = IndexerKernels::new(&device.gpu).expect("the kernels");
    let on = case.on(device);
    let mut workspace = device.unwritten(DType::F32, workspace);
    let mut out = device.filled([case.num_tokens, index_topk], &vec![UNTOUCHED; case.num_tokens * index_topk]);
    let args = Indexer {
        q_codes: on.q_codes.view(),
        q_weights: on.q_weights.view(),
        cache: on.cache.view(),
        query_start_loc: on.query_start_loc.view(),
        seq_lens: on.seq_lens.view(),
        block_table: on.block_table.view(),
        positions: on.positions.view(),
        max_seq_len: case.max_seq_len(),
        workspace: workspace.view_mut(),
        out: out.view_mut(),
    };
    indexer(&device.stream, &kernels, args).expect("valid arguments");
    device.read(&out)
}

/// The logits of the whole step; 0 where a row does not see.
fn logits(device: &TestGpu, case: &IndexerCase) -> Vec<f32> {
    let kernel = IndexerLogitsKernel::new(&device.gpu).expect("the kernel");
    let on = case.on(device);
    let shape = [case.num_tokens, case.max_seq_len()];
    let mut logits = device.filled(shape, &vec![0.0f32; shape[0] * shape[1]]);
    let args = IndexerLogits {
        q_codes: on.q_codes.view(),
        q_weights: on.q_weights.view(),
        cache: on.cache.view(),
        query_start_loc: on.query_start_loc.view(),
        seq_lens: on.seq_lens.view(),
        block_table: on.block_table.view(),
        first_row: 0,
        first_position: 0,
        min_visible: 0,
        logits: logits.view_mut(),
    };
    indexer_logits(&device.stream, &kernel, args).expect("valid arguments");
    device.read(&logits)
}

fn check(device: &TestGpu, num_heads: usize, seqs: &[(usize, usize)], topks: &[usize]) {
    let case = IndexerCase::new(&mut Random::new(num_heads as u64), num_heads, seqs);
    let max_seq_len = case.max_seq_len();
    let logits = logits(device, &case);
    for &index_topk in topks {
        let mut expected = vec![UNTOUCHED; case.num_tokens * index_topk];
        for (_, row, position) in case.queries() {
            let choice = top_k(&logits[row * max_seq_len..][..=position], index_topk);
            expected[row * index_topk..][..index_topk].copy_from_slice(&choice);
        }
        let whole = [case.num_tokens, max_seq_len.next_multiple_of(4)];
        let workspaces = [whole, [1, index_topk + 128], [3, index_topk + 700]];
        for workspace in workspaces.map(|[rows, columns]| [rows, columns.next_multiple_of(4)]) {
            let chosen = choose(device, &case, index_topk, workspace);
            assert!(chosen == expected, "{num_heads} heads, {index_topk} of {seqs:?} in {workspace:?}");
        }
    }
}

#[test]
fn the_best_positions_in_any_workspace() {
    let device = TestGpu::new();
    let ragged = [(1, 1), (63, 1), (64, 2), (65, 3), (0, 0), (30, 0), (1000, 2)];
    for num_heads in [64, 4] {
        check(&device, num_heads, &ragged, &[24, 64, 2048]);
    }
    check(&device, 64, &[(5000, 2)], &[24, 64, 2048]);
    check(&device, 4, &[(5000, 3), (2050, 4)], &[2048]);
    check(&device, 4, &[(150, 150), (40, 40)], &[64]);
    check(&device, 4, &[(0, 0)], &[64]);
}

#[test]
fn a_row_alone_and_a_prefill_in_chunks_choose_the_same() {
    let device = TestGpu::new();
    let (num_heads, index_topk) = (64, 24);
    let case = IndexerCase::new(&mut Random::new(3), num_heads, &[(300, 10), (140, 40), (64, 1)]);
    let together = choose(&device, &case, index_topk, [100, 300]);
    for (seq, rows) in [(0, 0..1), (0, 7..10), (1, 10..11), (1, 41..44), (2, 50..51)] {
        let only = case.only(&mut Random::new(4), seq, rows.clone());
        let alone = choose(&device, &only, index_topk, [2, index_topk + 128]);
        let part = rows.start * index_topk..rows.end * index_topk;
        assert_eq!(alone[..part.len()], together[part], "sequence {seq}, rows {rows:?}");
    }
}

#[test]
fn too_small_a_workspace_is_refused() {
    let device = TestGpu::new();
    let case = IndexerCase::new(&mut Random::new(5), 4, &[(300, 1)]);
    let kernels = IndexerKernels::new(&device.gpu).expect("the kernels");
    let on = case.on(&device);
    for [rows, columns] in [[1, 64 + 124], [0, 300]] {
        let mut workspace = device.unwritten(DType::F32, [rows, columns]);
        let mut out = device.unwritten(DType::I32, [case.num_tokens, 64]);
        let args = Indexer {
            q_codes: on.q_codes.view(),
            q_weights: on.q_weights.view(),
            cache: on.cache.view(),
            query_start_loc: on.query_start_loc.view(),
            seq_lens: on.seq_lens.view(),
            block_table: on.block_table.view(),
            positions: on.positions.view(),
            max_seq_len: 300,
            workspace: workspace.view_mut(),
            out: out.view_mut(),
        };
        let error = cuda::indexer(&device.stream, &kernels, args).expect_err("too small").to_string();
        assert!(error.contains(&format!("`workspace` of {rows} rows of {columns} is not supported")), "{error}");
    }
}

/// bf16 activations of one sequence through `indexer_quant` and the indexer, and through the Reference in f32.
fn check_against_reference(device: &TestGpu, num_heads: usize, seq_len: usize, query_len: usize, index_topk: usize) {
    let mut random = Random::new(seq_len as u64);
    let q = bf16s(&random.gaussian(seq_len * num_heads * INDEX_HEAD_DIM));
    let key = bf16s(&random.gaussian(seq_len * INDEX_HEAD_DIM));
    let (norm_weight, norm_bias) = (random.gaussian(INDEX_HEAD_DIM), random.values(INDEX_HEAD_DIM));
    let weights = random.gaussian(seq_len * num_heads);
    let inv_freq = yarn_inv_freq(64, 10_000.0, None);
    let scale = (num_heads as f32 * INDEX_HEAD_DIM as f32).sqrt().recip();

    // Quantised, with all tokens written to the cache.
    let (q_codes, q_weights, keys) = {
        let kernel = IndexerQuantKernel::new(&device.gpu).expect("the kernel");
        let order: Vec<i32> = (0..seq_len as i32).collect();
        let order = device.filled([seq_len], &order);
        let q = device.filled([seq_len, num_heads, INDEX_HEAD_DIM], &q);
        let key = device.filled([seq_len, INDEX_HEAD_DIM], &key);
        let weights = device.filled([seq_len, num_heads], &weights);
        let (weight, bias) =
            (device.filled([INDEX_HEAD_DIM], &norm_weight), device.filled([INDEX_HEAD_DIM], &norm_bias));
        let inv_freq = device.filled([32], &inv_freq);
        let mut q_codes = device.unwritten(DType::F8E4M3, [seq_len, num_heads, INDEX_HEAD_DIM]);
        let mut q_weights = device.unwritten(DType::F32, [seq_len, num_heads]);
        let num_blocks = seq_len.div_ceil(64);
        let mut cache = device.filled([num_blocks, 64, 132], &vec![0u8; num_blocks * 64 * 132]);
        let args = IndexerQuant {
            q: q.view(),
            key: key.view(),
            norm_weight: weight.view(),
            norm_bias: bias.view(),
            eps: 1e-6,
            weights: weights.view(),
            weight_scale: scale,
            positions: order.view(),
            slot_mapping: order.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            scale_format: ScaleFormat::Ue8m0,
            q_codes: q_codes.view_mut(),
            q_weights: q_weights.view_mut(),
            cache: cache.view_mut(),
        };
        indexer_quant(&device.stream, &kernel, args).expect("valid arguments");
        let keys: Vec<Key> = device.read::<u8>(&cache).chunks(64 * 132).flat_map(keys_of_block).take(seq_len).collect();
        (device.read::<F8E4M3>(&q_codes), device.read::<f32>(&q_weights), keys)
    };
    let first = seq_len - query_len;
    let case = IndexerCase::with(
        &mut random,
        num_heads,
        q_codes[first * num_heads * INDEX_HEAD_DIM..].to_vec(),
        q_weights[first * num_heads..].to_vec(),
        vec![keys],
        &[query_len],
    );
    let chosen = choose(device, &case, index_topk, [query_len, index_topk + 256]);

    let q = rotated(&q, num_heads, &inv_freq);
    let key = rotated(&bf16s(&normed(&key, &norm_weight, &norm_bias)), 1, &inv_freq);
    let paged = PagedCase::with_keys(&mut random, DType::F32, [64, INDEX_HEAD_DIM], 0, vec![(key.clone(), query_len)]);
    let (q, weights) = (&q[first * num_heads * INDEX_HEAD_DIM..], &weights[first * num_heads..]);
    let mut expected = vec![NO_POSITION; query_len * index_topk];
    let args = super::Indexer {
        q: View::from_slice(q, [query_len, num_heads, INDEX_HEAD_DIM]).expect("q"),
        weights: View::from_slice(weights, [query_len, num_heads]).expect("weights"),
        key_cache: paged.cache.view(),
        seqs: paged.seqs(),
        scale,
        out: ViewMut::from_slice(&mut expected, [query_len, index_topk]).expect("out"),
    };
    super::indexer(&context(Device::Reference, 1), args).expect("runs");

    for row in 0..query_len {
        let place = row * index_topk..(row + 1) * index_topk;
        let (chosen, expected) = (&chosen[place.clone()], &expected[place]);
        let score = |position: i32| {
            let key = &key[position as usize * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM];
            let of_head = |head: usize| {
                let q = &q[(row * num_heads + head) * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM];
                weights[row * num_heads + head] * q.iter().zip(key).map(|(q, k)| q * k).sum::<f32>().max(0.0)
            };
            scale * (0..num_heads).map(of_head).sum::<f32>()
        };
        let swapped: Vec<i32> = chosen.iter().copied().filter(|position| !expected.contains(position)).collect();
        assert!(swapped.len() * 10 <= index_topk, "{} of {index_topk} differ", swapped.len());
        // Whoever is in the place of another is nearly as good as the last that was to be chosen.
        let scores: Vec<f32> = (0..=(first + row) as i32).map(score).collect();
        let mean = scores.iter().sum::<f32>() / scores.len() as f32;
        let deviation = (scores.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / scores.len() as f32).sqrt();
        let of_chosen = expected.iter().filter(|&&position| position != NO_POSITION);
        let last = of_chosen.map(|&position| scores[position as usize]).fold(f32::INFINITY, f32::min);
        for position in swapped {
            let short = (last - scores[position as usize]) / deviation;
            assert!(short < 0.2, "position {position} is {short} standard deviations below the last");
        }
    }
}

fn keys_of_block(block: &[u8]) -> Vec<Key> {
    let (codes, scales) = block.split_at(64 * INDEX_HEAD_DIM);
    let scales = scales.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let codes = codes.chunks(INDEX_HEAD_DIM).map(|codes| codes.iter().map(|&code| F8E4M3(code)).collect());
    codes.zip(scales).map(|(codes, scale)| Key { codes, scale }).collect()
}

fn rotated(x: &[bf16], num_heads: usize, inv_freq: &[f32]) -> Vec<f32> {
    let x = f32s(x);
    let num_tokens = x.len() / (num_heads * INDEX_HEAD_DIM);
    let shape = [num_tokens, num_heads, INDEX_HEAD_DIM];
    let positions: Vec<u32> = (0..num_tokens as u32).collect();
    let mut out = vec![0.0; x.len()];
    let args = Rope {
        x: View::from_slice(&x, shape).expect("x"),
        positions: &positions,
        inv_freq,
        attention_factor: 1.0,
        layout: RopeLayout::HalfSplit,
        rotary_start: 0,
        out: ViewMut::from_slice(&mut out, shape).expect("out"),
    };
    rope(&context(Device::Reference, 1), args).expect("runs");
    out
}

fn normed(x: &[bf16], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let x = f32s(x);
    let shape = [x.len() / INDEX_HEAD_DIM, INDEX_HEAD_DIM];
    let mut out = vec![0.0; x.len()];
    let args = LayerNorm {
        x: View::from_slice(&x, shape).expect("x"),
        weight: View::from_slice(weight, [INDEX_HEAD_DIM]).expect("weight"),
        bias: View::from_slice(bias, [INDEX_HEAD_DIM]).expect("bias"),
        eps: 1e-6,
        out: ViewMut::from_slice(&mut out, shape).expect("out"),
    };
    layer_norm(&context(Device::Reference, 1), args).expect("runs");
    out
}

#[test]
fn choices_are_those_of_the_reference_but_for_the_noise_of_fp8() {
    let device = TestGpu::new();
    check_against_reference(&device, 64, 300, 2, 64);
    check_against_reference(&device, 4, 1000, 3, 64);
    check_against_reference(&device, 4, 20, 2, 24);
}
