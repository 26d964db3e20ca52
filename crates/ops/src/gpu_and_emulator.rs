//! The same PTX on a GPU and on the emulator.
//!
//! Equal to the bit is what the PTX ISA promises: copies, integers, conversions, and f32 sums, products, fused products, quotients
//! and roots, which it rounds as IEEE 754 does. So `rms_norm`, `layer_norm`, `act_quant`, `embedding`, `top_k`, `indexer_quant` and the
//! cache's latent elements are compared by their bytes. Compared within a tolerance are tensor cores, whose order of additions is not
//! defined, `ex2.approx` and `lg2.approx` in `swiglu`, `gate` and `sample`, and rotated elements, whose products ptxas may fuse with a
//! sum. `experts` rounds between its products, so that such differences grow: its own tests hold it against sums in f64 on either device.

use cachalot_tensor::{Buffer, DType, F8E4M3};
use cachalot_testkit::{Random, Tolerance, assert_close};
use half::bf16;

use crate::act_quant::Quantised;
use crate::embedding::cuda::{Embedding, EmbeddingKernel, embedding};
use crate::gate::cuda::{Gate, GateKernels, gate, num_logits};
use crate::indexer_logits::reference::IndexerCase;
use crate::layer_norm::cuda::{LayerNorm, LayerNormKernels, layer_norm};
use crate::mla::cuda::{MlaAbsorbed, MlaKernels, MlaPlan, PARTIAL_TAIL, PLAN_ROWS, mla_absorbed, mla_plan};
use crate::rms_norm::cuda::{RmsNorm, RmsNormKernels, rms_norm};
use crate::rope::yarn_inv_freq;
use crate::rope_cache_write::FP8_RECORD_BYTES;
use crate::swiglu::cuda::{SwiGlu, SwiGluKernel, swiglu};
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::{
    ActQuant, ActQuantKernel, Bf16BatchedGemm, Bf16Gemm, Bf16GemmKernels, Fp8Gemm, Fp8GemmKernels, IndexerLogits,
    IndexerLogitsKernel, IndexerQuant, IndexerQuantKernel, KeyPlace, RopeCacheWrite, RopeCacheWriteKernels, RopeLayout,
    Sample, SampleKernel, ScaleFormat, TopK, TopKKernel, TopKMerge, TopKMergeKernel, WeightOrder, act_quant,
    bf16_batched_gemm, bf16_gemm, fp8_gemm, indexer_logits, indexer_quant, rope_cache_write, sample, top_k,
    top_k_merge,
};

/// What a kernel wrote.
#[derive(Debug, PartialEq)]
struct Output {
    exact: Vec<u8>,
    close: Vec<f32>,
}

impl Output {
    fn exact(exact: Vec<u8>) -> Self {
        Output { exact, close: Vec::new() }
    }

    fn close(close: Vec<f32>) -> Self {
        Output { exact: Vec::new(), close }
    }
}

/// A kernel with inputs that are the same on every device.
type Case = (&'static str, fn(&TestGpu) -> Output);

const CASES: [Case; 15] = [
    ("embedding", looked_up),
    ("swiglu", gated),
    ("gate", routed),
    ("rms_norm", normed),
    ("act_quant", quantised),
    ("top_k", chosen),
    ("rope_cache_write", cached),
    ("fp8_gemm", multiplied_fp8),
    ("bf16_gemm", multiplied_bf16),
    ("bf16_batched_gemm", multiplied_by_head),
    ("mla_absorbed", attended),
    ("layer_norm", centred),
    ("sample", drawn),
    ("indexer_quant", quantised_for_indexer),
    ("indexer", chosen_by_indexer),
];

/// One rounding to bf16.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-5, rel: 1.0 / 256.0, cosine: 5e-6 };

const FORMATS: [ScaleFormat; 2] = [ScaleFormat::F32, ScaleFormat::Ue8m0];

#[test]
#[ignore = "needs a GPU: scripts/gpu-check runs it"]
fn they_agree() {
    let (real, emulated) = (TestGpu::real(), TestGpu::emulated());
    for (name, run) in CASES {
        let (real, emulated) = (run(&real), run(&emulated));
        let wrong = real.exact.iter().zip(&emulated.exact).filter(|(real, emulated)| real != emulated).count();
        assert_eq!(real.exact.len(), emulated.exact.len(), "{name}: bytes");
        assert_eq!(wrong, 0, "{name}: bytes of {} that differ between the GPU and the emulator", real.exact.len());
        assert_close(&real.close, &emulated.close, [real.close.len()], TOLERANCE);
    }
}

/// What makes the comparison mean something: each case writes, and the same each time.
#[test]
fn the_emulator_agrees_with_itself() {
    for (name, run) in CASES {
        let (first, second) = (run(&TestGpu::emulated()), run(&TestGpu::emulated()));
        assert!(first.exact.len() + first.close.len() > 0, "{name} writes nothing");
        assert!(first.close.iter().all(|value| value.is_finite()), "{name}");
        assert!(first == second, "{name} differs from run to run");
    }
}

fn bytes_of(device: &TestGpu, buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.num_bytes()];
    device.stream.download_bytes(buffer, &mut bytes).expect("a written buffer");
    bytes
}

fn looked_up(device: &TestGpu) -> Output {
    let kernel = EmbeddingKernel::new(&device.gpu).expect("the kernel");
    let table = device.filled([5, 7168], &bf16s(&Random::new(9).gaussian(5 * 7168)));
    let ids = device.filled([3], &[4, 0, 4]);
    let mut out = device.unwritten(DType::BF16, [3, 7168]);
    let args = Embedding { ids: ids.view(), table: table.view(), out: out.view_mut() };
    embedding(&device.stream, &kernel, args).expect("valid arguments");
    Output::exact(bytes_of(device, &out))
}

fn gated(device: &TestGpu) -> Output {
    let kernel = SwiGluKernel::new(&device.gpu).expect("the kernel");
    let both = device.filled([3, 4096], &bf16s(&Random::new(10).gaussian(3 * 4096)));
    let mut out = device.unwritten(DType::BF16, [3, 2048]);
    let args = SwiGlu {
        gate: both.view().columns(0..2048),
        up: both.view().columns(2048..4096),
        slot_mapping: None,
        out: Some(out.view_mut()),
        quantised: None,
    };
    swiglu(&device.stream, &kernel, args).expect("valid arguments");
    Output::close(f32s(&device.read(&out)))
}

/// The ids are exact, too, because no two scores are nearly equal; their weights are not.
fn routed(device: &TestGpu) -> Output {
    let kernels = GateKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(11);
    let x = device.filled([3, 1024], &bf16s(&random.integers(3 * 1024, 2)));
    let weight: Vec<f32> = random.values(64 * 1024).iter().map(|weight| weight / 32.0).collect();
    let (weight, bias) = (device.filled([64, 1024], &bf16s(&weight)), device.filled([64], &random.values(64)));
    let mut logits = device.unwritten(DType::F32, [num_logits(3, 64, 1024)]);
    let (mut ids, mut weights) = (device.unwritten(DType::I32, [3, 8]), device.unwritten(DType::F32, [3, 8]));
    let args = Gate {
        x: x.view(),
        weight: weight.view(),
        bias: bias.view(),
        slot_mapping: None,
        n_group: 8,
        topk_group: 4,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        logits: logits.view_mut(),
        expert_ids: ids.view_mut(),
        expert_weights: weights.view_mut(),
    };
    gate(&device.stream, &kernels, args).expect("valid arguments");
    Output { exact: bytes_of(device, &ids), close: device.read(&weights) }
}

fn normed(device: &TestGpu) -> Output {
    let kernels = RmsNormKernels::new(&device.gpu).expect("the kernels");
    let mut bytes = Vec::new();
    for (dim, scale_format) in [(512, FORMATS[0]), (7168, FORMATS[0]), (7168, FORMATS[1]), (16_384, FORMATS[1])] {
        let mut random = Random::new(dim as u64);
        let x = device.filled([3, dim], &bf16s(&random.gaussian(3 * dim)));
        let weight = device.filled([dim], &random.gaussian(dim));
        let mut residual = device.filled([3, dim], &bf16s(&random.gaussian(3 * dim)));
        let (mut out, mut values) =
            (device.unwritten(DType::BF16, [3, dim]), device.unwritten(DType::F8E4M3, [3, dim]));
        let mut scales = device.unwritten(DType::F32, [dim / 128, 3]);
        let args = RmsNorm {
            x: x.view(),
            weight: weight.view(),
            eps: 1e-6,
            residual: Some(residual.view_mut()),
            out: Some(out.view_mut()),
            quantised: Some(Quantised { values: values.view_mut(), scales: scales.view_mut(), scale_format }),
        };
        rms_norm(&device.stream, &kernels, args).expect("valid arguments");
        bytes.extend([&residual, &out, &values, &scales].into_iter().flat_map(|buffer| bytes_of(device, buffer)));
    }
    Output::exact(bytes)
}

fn quantised(device: &TestGpu) -> Output {
    let kernel = ActQuantKernel::new(&device.gpu).expect("the kernel");
    let mut bytes = Vec::new();
    for scale_format in FORMATS {
        // Every bf16, NaN and infinities included.
        let x: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let x = device.filled([8, 8192], &x);
        let mut values = device.unwritten(DType::F8E4M3, [8, 8192]);
        let mut scales = device.unwritten(DType::F32, [64, 8]);
        let out = Quantised { values: values.view_mut(), scales: scales.view_mut(), scale_format };
        act_quant(&device.stream, &kernel, ActQuant { x: x.view(), out }).expect("valid arguments");
        bytes.extend([bytes_of(device, &values), bytes_of(device, &scales)].concat());
    }
    Output::exact(bytes)
}

fn chosen(device: &TestGpu) -> Output {
    let kernel = TopKKernel::new(&device.gpu).expect("the kernel");
    let mut random = Random::new(5);
    let scores: Vec<f32> = (0..4 * 8192).map(|_| f32::from_bits(random.bits() as u32)).collect();
    let (scores, lengths) = (device.filled([4, 8192], &scores), device.filled([4], &[8192, 2049, 2048, 5]));
    let mut out = device.unwritten(DType::I32, [4, 2048]);
    let args = TopK { scores: scores.view(), lengths: lengths.view(), out: out.view_mut() };
    top_k(&device.stream, &kernel, args).expect("valid arguments");
    Output::exact(bytes_of(device, &out))
}

/// Both forms of the cache; what is not rotated is exact.
fn cached(device: &TestGpu) -> Output {
    let kernels = RopeCacheWriteKernels::new(&device.gpu).expect("the kernels");
    let mut output = Output { exact: Vec::new(), close: Vec::new() };
    for is_fp8 in [false, true] {
        let mut random = Random::new(6);
        let latent = device.filled([4, 512], &bf16s(&random.gaussian(4 * 512)));
        let key = device.filled([4, 64], &bf16s(&random.gaussian(4 * 64)));
        let mut q = device.filled([4, 16 * 192], &bf16s(&random.gaussian(4 * 16 * 192)));
        let positions = device.filled([4], &[0, 1, 4097, 163_839]);
        let slots = device.filled([4], &[3, 0, 2, 1]);
        let inv_freq = device.filled([32], &yarn_inv_freq(64, 10_000.0, None));
        let (dtype, row) = if is_fp8 { (DType::U8, FP8_RECORD_BYTES) } else { (DType::BF16, 576) };
        let mut cache = device.unwritten(dtype, [2, 2, row]);
        let args = RopeCacheWrite {
            q: Some(q.view_mut().reshape_rows([4, 16, 192])),
            rotary_start: 128,
            latent: latent.view(),
            key: key.view(),
            key_place: KeyPlace::AfterLatent,
            positions: positions.view(),
            slot_mapping: slots.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            layout: RopeLayout::Interleaved,
            cache: cache.view_mut(),
            scale_format: ScaleFormat::Ue8m0,
        };
        rope_cache_write(&device.stream, &kernels, args).expect("valid arguments");
        // The rotated key is the end of a row, the rotated part of a query the end of a head.
        for (bytes, row_bytes) in [(bytes_of(device, &cache), cache.num_bytes() / 4), (bytes_of(device, &q), 2 * 192)] {
            for row in bytes.chunks(row_bytes) {
                let (plain, rotated) = row.split_at(row_bytes - 2 * 64);
                output.exact.extend(plain);
                let rotated = rotated.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32());
                output.close.extend(rotated);
            }
        }
    }
    output
}

fn multiplied_fp8(device: &TestGpu) -> Output {
    let mut kernels = Fp8GemmKernels::new(&device.stream).expect("the kernels");
    let mut close = Vec::new();
    for num_tokens in [4, 40, 100, 132] {
        let mut random = Random::new(num_tokens as u64);
        let mut codes = |len: usize| -> Vec<F8E4M3> { (0..len).map(|_| F8E4M3(random.bits() as u8 & 0xbf)).collect() };
        let x = device.filled([num_tokens, 512], &codes(num_tokens * 512));
        let weight = device.filled([136, 512], &codes(136 * 512));
        let x_scale = device.filled([4, num_tokens], &vec![0.5f32; 4 * num_tokens]);
        let weight_scale = device.filled([2, 4], &[0.25f32; 8]);
        let mut out = device.unwritten(DType::BF16, [num_tokens, 136]);
        let args = Fp8Gemm {
            x: x.view(),
            x_scale: x_scale.view(),
            weight: weight.view(),
            weight_scale: weight_scale.view(),
            out: out.view_mut(),
        };
        fp8_gemm(&device.stream, &mut kernels, args).expect("valid arguments");
        close.extend(f32s(&device.read(&out)));
    }
    Output::close(close)
}

fn multiplied_bf16(device: &TestGpu) -> Output {
    let kernels = Bf16GemmKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(7);
    let x = device.filled([130, 256], &bf16s(&random.values(130 * 256)));
    let weight = device.filled([136, 256], &bf16s(&random.values(136 * 256)));
    let mut out = device.unwritten(DType::F32, [130, 136]);
    let args = Bf16Gemm { x: x.view(), weight: weight.view(), out: out.view_mut() };
    bf16_gemm(&device.stream, &kernels, args).expect("valid arguments");
    Output::close(device.read(&out))
}

fn multiplied_by_head(device: &TestGpu) -> Output {
    let kernels = Bf16GemmKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(9);
    let x = device.filled([17, 3, 192], &bf16s(&random.values(17 * 3 * 192)));
    let weight = device.filled([3, 128, 256], &bf16s(&random.values(3 * 128 * 256)));
    let mut out = device.unwritten(DType::BF16, [17, 3, 256]);
    let args =
        Bf16BatchedGemm { x: x.view(), weight: weight.view(), weight_order: WeightOrder::InOut, out: out.view_mut() };
    bf16_batched_gemm(&device.stream, &kernels, args).expect("valid arguments");
    Output::close(f32s(&device.read(&out)))
}

/// A sequence of three splits, with 16 and with 32 rows to a tile.
fn attended(device: &TestGpu) -> Output {
    let kernels = MlaKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(10);
    let mut close = Vec::new();
    for num_heads in [16, 128] {
        let q_latent = device.filled([1, num_heads, 512], &bf16s(&random.values(num_heads * 512)));
        let q = device.filled([1, num_heads, 64], &bf16s(&random.values(num_heads * 64)));
        let cache = device.filled([20, 64, 576], &bf16s(&random.values(20 * 64 * 576)));
        let block_table: Vec<i32> = random.permutation(20).into_iter().map(|block| block as i32).collect();
        let block_table = device.filled([1, 20], &block_table);
        let (query_start_loc, seq_lens) = (device.filled([2], &[0, 1]), device.filled([1], &[1200]));
        let (query_start_loc, seq_lens) = (query_start_loc.view(), seq_lens.view());
        let num_slots = 3 * num_heads;
        let mut plan = device.unwritten(DType::I32, [PLAN_ROWS, 2]);
        let plan_args = MlaPlan {
            query_start_loc,
            seq_lens,
            num_heads,
            max_query_len: 1,
            index_topk: None,
            num_slots,
            plan: plan.view_mut(),
        };
        mla_plan(&device.stream, &kernels, plan_args).expect("valid arguments");
        let mut partials = device.unwritten(DType::F32, [num_slots, 512 + PARTIAL_TAIL]);
        let mut out = device.unwritten(DType::BF16, [1, num_heads, 512]);
        let args = MlaAbsorbed {
            q_latent: q_latent.view(),
            q: q.view(),
            kv_cache: cache.view(),
            query_start_loc,
            seq_lens,
            block_table: block_table.view(),
            topk_indices: None,
            plan: plan.view(),
            max_query_len: 1,
            softmax_scale: 0.135,
            partials: partials.view_mut(),
            out: out.view_mut(),
        };
        mla_absorbed(&device.stream, &kernels, args).expect("valid arguments");
        close.extend(f32s(&device.read(&out)));
    }
    Output::close(close)
}

fn centred(device: &TestGpu) -> Output {
    let kernels = LayerNormKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(11);
    let x = device.filled([5, 128], &bf16s(&random.gaussian(5 * 128)));
    let (weight, bias) = (device.filled([128], &random.gaussian(128)), device.filled([128], &random.gaussian(128)));
    let mut out = device.unwritten(DType::BF16, [5, 128]);
    let args = LayerNorm { x: x.view(), weight: weight.view(), bias: bias.view(), eps: 1e-6, out: out.view_mut() };
    layer_norm(&device.stream, &kernels, args).expect("valid arguments");
    Output::exact(bytes_of(device, &out))
}

/// At temperature 0 the token is exact too; its log-probability is not.
fn drawn(device: &TestGpu) -> Output {
    let kernel = SampleKernel::new(&device.gpu).expect("the kernel");
    let logits = device.filled([2, 4100], &Random::new(8).gaussian(2 * 4100));
    let temperatures = device.filled([2], &[0.0f32; 2]);
    let uniforms = device.filled([2, 2], &[0; 4]);
    let mut tokens = device.unwritten(DType::I32, [2]);
    let (mut logprobs, mut maxima) = (device.unwritten(DType::F32, [2]), device.unwritten(DType::F32, [2]));
    let args = Sample {
        logits: logits.view(),
        temperatures: temperatures.view(),
        uniforms: uniforms.view(),
        tokens: tokens.view_mut(),
        logprobs: logprobs.view_mut(),
        maxima: maxima.view_mut(),
    };
    sample(&device.stream, &kernel, args).expect("valid arguments");
    Output { exact: [bytes_of(device, &tokens), bytes_of(device, &maxima)].concat(), close: device.read(&logprobs) }
}

/// At position 0 nothing is rotated, and everything is exact.
fn quantised_for_indexer(device: &TestGpu) -> Output {
    let kernel = IndexerQuantKernel::new(&device.gpu).expect("the kernel");
    let mut bytes = Vec::new();
    for scale_format in FORMATS {
        let mut random = Random::new(9);
        let q = device.filled([2, 20, 128], &bf16s(&random.gaussian(2 * 20 * 128)));
        let key = device.filled([2, 128], &bf16s(&random.gaussian(2 * 128)));
        let (weight, bias) = (device.filled([128], &random.gaussian(128)), device.filled([128], &random.gaussian(128)));
        let weights = device.filled([2, 20], &random.gaussian(2 * 20));
        let (positions, slots) = (device.filled([2], &[0, 0]), device.filled([2], &[0, 70]));
        let inv_freq = device.filled([32], &yarn_inv_freq(64, 10_000.0, None));
        let mut q_codes = device.unwritten(DType::F8E4M3, [2, 20, 128]);
        let mut q_weights = device.unwritten(DType::F32, [2, 20]);
        let mut cache = device.filled([2, 64, 132], &[0u8; 2 * 64 * 132]);
        let args = IndexerQuant {
            q: q.view(),
            key: key.view(),
            norm_weight: weight.view(),
            norm_bias: bias.view(),
            eps: 1e-6,
            weights: weights.view(),
            weight_scale: 0.01,
            positions: positions.view(),
            slot_mapping: slots.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            scale_format,
            q_codes: q_codes.view_mut(),
            q_weights: q_weights.view_mut(),
            cache: cache.view_mut(),
        };
        indexer_quant(&device.stream, &kernel, args).expect("valid arguments");
        bytes.extend([&q_codes, &q_weights, &cache].into_iter().flat_map(|buffer| bytes_of(device, buffer)));
    }
    Output::exact(bytes)
}

/// The logits are close; the positions chosen from the same scores a stretch at a time are exact.
fn chosen_by_indexer(device: &TestGpu) -> Output {
    let (logits_kernel, merge_kernel) =
        (IndexerLogitsKernel::new(&device.gpu).expect("logits"), TopKMergeKernel::new(&device.gpu).expect("top_k"));
    let mut random = Random::new(10);
    let case = IndexerCase::new(&mut random, 64, &[(300, 40), (130, 2)]);
    let on = case.on(device);
    let mut logits = device.filled([case.num_tokens, 300], &vec![0.0f32; case.num_tokens * 300]);
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
    indexer_logits(&device.stream, &logits_kernel, args).expect("valid arguments");

    let (positions, num_tokens) = (device.filled([2], &[8191, 2048]), device.filled([1], &[2]));
    let mut out = device.unwritten(DType::I32, [2, 2048]);
    let mut exact = Vec::new();
    for first_position in [0, 4096] {
        let scores: Vec<f32> = (0..2 * 6144).map(|_| f32::from_bits(random.bits() as u32)).collect();
        let mut scores = device.filled([2, 6144], &scores);
        let args = TopKMerge {
            scores: scores.view_mut().columns(0..4096 + 2048.min(first_position)),
            first_row: 0,
            first_position,
            positions: positions.view(),
            num_tokens: num_tokens.view(),
            out: out.view_mut(),
        };
        top_k_merge(&device.stream, &merge_kernel, args).expect("valid arguments");
        exact.extend([&out, &scores].into_iter().flat_map(|buffer| bytes_of(device, buffer)));
    }
    Output { exact, close: device.read(&logits) }
}
