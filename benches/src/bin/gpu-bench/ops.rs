//! Every op that has a kernel, on the shapes of the DeepSeek-V3 family.

use anyhow::Result;
use cachalot_ops::act_quant::{Quantised, SCALE_GROUP};
use cachalot_ops::embedding::cuda::{Embedding, EmbeddingKernel, embedding};
use cachalot_ops::experts::cuda::{ExpertWeights, Experts, ExpertsKernels, ExpertsShape, ExpertsWorkspace, experts};
use cachalot_ops::fp8_gemm::SCALE_BLOCK;
use cachalot_ops::gate::cuda::{Gate, GateKernels, gate, num_logits};
use cachalot_ops::indexer_quant::{INDEX_BLOCK_SIZE, INDEX_HEAD_DIM, INDEX_KEY_BYTES};
use cachalot_ops::layer_norm::cuda::{LayerNorm, LayerNormKernels, layer_norm};
use cachalot_ops::mla::cuda::{
    MlaAbsorbed, MlaKernels, MlaPlan, PARTIAL_TAIL, PLAN_ROWS, SPLIT, mla_absorbed, mla_plan,
};
use cachalot_ops::rms_norm::cuda::{RmsNorm, RmsNormKernels, rms_norm};
use cachalot_ops::rope::yarn_inv_freq;
use cachalot_ops::rope_cache_write::FP8_RECORD_BYTES;
use cachalot_ops::swiglu::cuda::{SwiGlu, SwiGluKernel, swiglu};
use cachalot_ops::{
    ActQuant, ActQuantKernel, Bf16BatchedGemm, Bf16Gemm, Bf16GemmKernels, Fp8Gemm, Fp8GemmKernels, IndexerLogits,
    IndexerLogitsKernel, IndexerQuant, IndexerQuantKernel, KeyPlace, RopeCacheWrite, RopeCacheWriteKernels, RopeLayout,
    Sample, SampleKernel, ScaleFormat, TopK, TopKKernel, TopKMerge, TopKMergeKernel, WeightOrder, act_quant,
    bf16_batched_gemm, bf16_gemm, fp8_gemm, indexer_logits, indexer_quant, rope_cache_write, sample, top_k,
    top_k_merge,
};
use cachalot_tensor::{DType, F8E4M3};
use cachalot_testkit::Random;

use crate::case::{Case, Data, Launcher, TensorCores, Work};

/// Rows and columns of the linear layers.
const LINEAR: [[usize; 2]; 6] = [[2112, 7168], [24576, 1536], [32768, 512], [7168, 16384], [4096, 7168], [7168, 2048]];
const NUM_TOKENS: [usize; 5] = [1, 8, 64, 128, 4096];
const NUM_HEADS: usize = 128;
const HEAD_DIM: usize = 192;
const LATENT_DIM: usize = 512;
const ROTARY_DIM: usize = 64;
const BLOCK_SIZE: usize = 64;
const TOP_K: usize = 2048;
const INDEX_NUM_HEADS: usize = 64;
const VOCAB_SIZE: usize = 129_280;
const HIDDEN_SIZE: usize = 7168;
const EXPERT_SIZE: usize = 2048;
const NUM_EXPERTS: usize = 256;
const NUM_CHOSEN: usize = 8;
/// Experts of one of 16 ranks: two copies of their weights fit the arena.
const RANK_EXPERTS: usize = 16;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for num_tokens in NUM_TOKENS {
        for dim in [7168, 1536, 512] {
            cases.push(rms_norm_case(num_tokens, dim, false));
            cases.push(rms_norm_case(num_tokens, dim, true));
        }
        for k in [7168, 16384] {
            cases.push(act_quant_case(num_tokens, k));
        }
    }
    for num_tokens in [1, 64, 512, 4096] {
        cases.push(embedding_case(num_tokens));
        cases.extend([2048, 18_432].map(|dim| swiglu_case(num_tokens, dim)));
        cases.push(gate_case(num_tokens));
    }
    cases.extend([1, 8, 32, 256].map(experts_case));
    for num_tokens in [1, 64, 4096] {
        cases.extend([false, true].map(|is_fp8| rope_case(num_tokens, is_fp8)));
    }
    for [n, k] in LINEAR {
        for m in NUM_TOKENS {
            cases.push(fp8_gemm_case([m, n, k]));
            cases.push(bf16_gemm_case([m, n, k]));
        }
    }
    for num_tokens in [1, 64, 4096] {
        cases.push(layer_norm_case(num_tokens));
        for num_heads in [16, NUM_HEADS] {
            cases.extend(
                [WeightOrder::InOut, WeightOrder::OutIn].map(|order| head_gemm_case(num_tokens, num_heads, order)),
            );
        }
    }
    for num_heads in [16, NUM_HEADS] {
        for [num_seqs, context] in [[1, 8192], [1, 131_072], [64, 4096]] {
            cases.extend([false, true].map(|is_fp8| mla_case([num_seqs, context, num_heads], is_fp8)));
        }
    }
    for num_rows in [1, 8, 64] {
        cases.extend([8192, 65_536, 131_072].map(|length| top_k_case(num_rows, length)));
        cases.push(sample_case(num_rows));
    }
    for num_tokens in [1, 64, 4096] {
        cases.push(indexer_quant_case(num_tokens));
    }
    // Decoding, and a chunk of a prompt.
    for (num_seqs, query_len, seq_len) in
        [(1, 1, 4096), (1, 1, 131_072), (8, 1, 65_536), (64, 1, 8192), (64, 2, 8192), (1, 512, 32_768)]
    {
        cases.push(indexer_logits_case(num_seqs, query_len, seq_len));
    }
    for num_rows in [1, 64, 512] {
        cases.push(top_k_merge_case(num_rows, 8192));
    }
    cases
}

/// `copies` times what `make` makes.
fn copies<T>(copies: usize, make: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    (0..copies).map(|_| make()).collect()
}

/// bf16 in, weights, and out; fused also the residual in and out, and FP8 with scales in place of bf16 out.
fn rms_norm_work(num_tokens: usize, dim: usize, is_fused: bool) -> Work {
    let per_token = if is_fused { 2 * dim + 4 * dim + dim + 4 * dim / SCALE_GROUP } else { 4 * dim };
    Work { bytes: num_tokens * per_token + 2 * dim, flops: 4 * num_tokens * dim }
}

fn rms_norm_case(num_tokens: usize, dim: usize, is_fused: bool) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = RmsNormKernels::new(data.gpu)?;
        let mut sets = copies(num_copies, || {
            let shape = [num_tokens, dim];
            let (values, scales) =
                (data.gpu.alloc(DType::F8E4M3, shape)?, data.gpu.alloc(DType::F32, [dim / SCALE_GROUP, num_tokens])?);
            Ok((data.bf16(shape)?, data.bf16([dim])?, data.bf16(shape)?, values, scales))
        })?;
        Ok(Box::new(move |stream, copy| {
            // The second bf16 buffer is the residual, or the output.
            let (x, weight, second, values, scales) = &mut sets[copy];
            let (residual, out, quantised) = if is_fused {
                let (values, scales) = (values.view_mut(), scales.view_mut());
                (Some(second.view_mut()), None, Some(Quantised { values, scales, scale_format: ScaleFormat::Ue8m0 }))
            } else {
                (None, Some(second.view_mut()), None)
            };
            let args = RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, residual, out, quantised };
            Ok(rms_norm(stream, &kernels, args)?)
        }))
    };
    Case {
        op: "rms_norm",
        shape: format!("{num_tokens}x{dim}"),
        variant: if is_fused { "+residual, to FP8" } else { "bf16" }.to_owned(),
        work: rms_norm_work(num_tokens, dim, is_fused),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// bf16 in, FP8 and scales out.
fn act_quant_work(num_tokens: usize, k: usize) -> Work {
    Work { bytes: num_tokens * (3 * k + 4 * k / SCALE_GROUP), flops: 2 * num_tokens * k }
}

fn act_quant_case(num_tokens: usize, k: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = ActQuantKernel::new(data.gpu)?;
        let mut sets = copies(num_copies, || {
            let values = data.gpu.alloc(DType::F8E4M3, [num_tokens, k])?;
            Ok((data.bf16([num_tokens, k])?, values, data.gpu.alloc(DType::F32, [k / SCALE_GROUP, num_tokens])?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (x, values, scales) = &mut sets[copy];
            let (values, scales) = (values.view_mut(), scales.view_mut());
            let out = Quantised { values, scales, scale_format: ScaleFormat::Ue8m0 };
            Ok(act_quant(stream, &kernel, ActQuant { x: x.view(), out })?)
        }))
    };
    Case {
        op: "act_quant",
        shape: format!("{num_tokens}x{k}"),
        variant: "UE8M0".to_owned(),
        work: act_quant_work(num_tokens, k),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// The rotated part of the queries in and out, latent and key in, a row of the cache out, position and slot.
fn rope_work(num_tokens: usize, is_fp8: bool) -> Work {
    let row = if is_fp8 { FP8_RECORD_BYTES } else { 2 * (LATENT_DIM + ROTARY_DIM) };
    let per_token = 4 * NUM_HEADS * ROTARY_DIM + 2 * (LATENT_DIM + ROTARY_DIM) + row + 8;
    Work { bytes: num_tokens * per_token, flops: 3 * num_tokens * (NUM_HEADS + 1) * ROTARY_DIM }
}

fn rope_case(num_tokens: usize, is_fp8: bool) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = RopeCacheWriteKernels::new(data.gpu)?;
        let order: Vec<i32> = (0..num_tokens as i32).collect();
        let inv_freq = data.filled([ROTARY_DIM / 2], &yarn_inv_freq(ROTARY_DIM, 10_000.0, None))?;
        let (positions, slots) = (data.filled([num_tokens], &order)?, data.filled([num_tokens], &order)?);
        let (dtype, row) = if is_fp8 { (DType::U8, FP8_RECORD_BYTES) } else { (DType::BF16, LATENT_DIM + ROTARY_DIM) };
        let mut sets = copies(num_copies, || {
            let q = data.bf16([num_tokens, NUM_HEADS, HEAD_DIM])?;
            let cache = data.gpu.alloc(dtype, [num_tokens.div_ceil(64), 64, row])?;
            Ok((q, data.bf16([num_tokens, LATENT_DIM])?, data.bf16([num_tokens, ROTARY_DIM])?, cache))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (q, latent, key, cache) = &mut sets[copy];
            let args = RopeCacheWrite {
                q: Some(q.view_mut()),
                rotary_start: HEAD_DIM - ROTARY_DIM,
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
            Ok(rope_cache_write(stream, &kernels, args)?)
        }))
    };
    Case {
        op: "rope_cache_write",
        shape: format!("{num_tokens} tokens, {NUM_HEADS} heads"),
        variant: if is_fp8 { "FP8 records" } else { "bf16 cache" }.to_owned(),
        work: rope_work(num_tokens, is_fp8),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// FP8 x and weight with their scales, bf16 out.
fn fp8_gemm_work([m, n, k]: [usize; 3]) -> Work {
    let scales = 4 * (m + n.div_ceil(SCALE_BLOCK)) * (k / SCALE_BLOCK);
    Work { bytes: m * k + n * k + 2 * m * n + scales, flops: 2 * m * n * k }
}

fn fp8_gemm_case([m, n, k]: [usize; 3]) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let mut kernels = Fp8GemmKernels::new(data.stream)?;
        let mut random = Random::new(3);
        // Below 2, of both signs: no code is NaN.
        let codes: Vec<F8E4M3> = (0..1 << 18).map(|_| F8E4M3(random.bits() as u8 & 0xbf)).collect();
        let num_groups = k / SCALE_BLOCK;
        let stride = m.next_multiple_of(4);
        let mut sets = copies(num_copies, || {
            let x_scale = data.filled([num_groups, stride], &[0.01f32])?;
            let weight_scale = data.filled([n.div_ceil(SCALE_BLOCK), num_groups], &[0.01f32])?;
            let (x, weight) = (data.filled([m, k], &codes)?, data.filled([n, k], &codes)?);
            Ok((x, x_scale, weight, weight_scale, data.gpu.alloc(DType::BF16, [m, n])?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (x, x_scale, weight, weight_scale, out) = &mut sets[copy];
            let args = Fp8Gemm {
                x: x.view(),
                x_scale: x_scale.view().columns(0..m),
                weight: weight.view(),
                weight_scale: weight_scale.view(),
                out: out.view_mut(),
            };
            Ok(fp8_gemm(stream, &mut kernels, args)?)
        }))
    };
    Case {
        op: "fp8_gemm",
        shape: format!("{m}x{n}x{k}"),
        variant: "blocks of 128".to_owned(),
        work: fp8_gemm_work([m, n, k]),
        tensor_cores: Some(TensorCores::Fp8),
        prepare: Box::new(prepare),
    }
}

/// Everything bf16.
fn bf16_gemm_work([m, n, k]: [usize; 3]) -> Work {
    Work { bytes: 2 * (m * k + n * k + m * n), flops: 2 * m * n * k }
}

fn bf16_gemm_case([m, n, k]: [usize; 3]) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = Bf16GemmKernels::new(data.gpu)?;
        let mut sets =
            copies(num_copies, || Ok((data.bf16([m, k])?, data.bf16([n, k])?, data.gpu.alloc(DType::BF16, [m, n])?)))?;
        Ok(Box::new(move |stream, copy| {
            let (x, weight, out) = &mut sets[copy];
            Ok(bf16_gemm(stream, &kernels, Bf16Gemm { x: x.view(), weight: weight.view(), out: out.view_mut() })?)
        }))
    };
    Case {
        op: "bf16_gemm",
        shape: format!("{m}x{n}x{k}"),
        variant: "mma.sync".to_owned(),
        work: bf16_gemm_work([m, n, k]),
        tensor_cores: Some(TensorCores::Bf16),
        prepare: Box::new(prepare),
    }
}

/// bf16 in, two f32 vectors, bf16 out.
fn layer_norm_work(num_tokens: usize) -> Work {
    Work { bytes: (4 * num_tokens + 8) * INDEX_HEAD_DIM, flops: 8 * num_tokens * INDEX_HEAD_DIM }
}

fn layer_norm_case(num_tokens: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = LayerNormKernels::new(data.gpu)?;
        let shape = [num_tokens, INDEX_HEAD_DIM];
        let (weight, bias) = (data.f32([INDEX_HEAD_DIM])?, data.f32([INDEX_HEAD_DIM])?);
        let mut sets = copies(num_copies, || Ok((data.bf16(shape)?, data.gpu.alloc(DType::BF16, shape)?)))?;
        Ok(Box::new(move |stream, copy| {
            let (x, out) = &mut sets[copy];
            let (weight, bias, out) = (weight.view(), bias.view(), out.view_mut());
            Ok(layer_norm(stream, &kernels, LayerNorm { x: x.view(), weight, bias, eps: 1e-6, out })?)
        }))
    };
    Case {
        op: "layer_norm",
        shape: format!("{num_tokens}x{INDEX_HEAD_DIM}"),
        variant: "bf16".to_owned(),
        work: layer_norm_work(num_tokens),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// The two projections of absorbed attention: queries into the space of the latent, the result out of it.
fn head_gemm_case(num_tokens: usize, num_heads: usize, weight_order: WeightOrder) -> Case {
    let nope = HEAD_DIM - ROTARY_DIM;
    let (x_dim, k, n) = match weight_order {
        WeightOrder::InOut => (HEAD_DIM, nope, LATENT_DIM),
        WeightOrder::OutIn => (LATENT_DIM, LATENT_DIM, nope),
    };
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = Bf16GemmKernels::new(data.gpu)?;
        let weight_shape = if weight_order == WeightOrder::InOut { [num_heads, k, n] } else { [num_heads, n, k] };
        let mut sets = copies(num_copies, || {
            let out = data.gpu.alloc(DType::BF16, [num_tokens, num_heads, n])?;
            Ok((data.bf16([num_tokens, num_heads, x_dim])?, data.bf16(weight_shape)?, out))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (x, weight, out) = &mut sets[copy];
            let args = Bf16BatchedGemm { x: x.view(), weight: weight.view(), weight_order, out: out.view_mut() };
            Ok(bf16_batched_gemm(stream, &kernels, args)?)
        }))
    };
    let one = bf16_gemm_work([num_tokens, n, k]);
    Case {
        op: "bf16_batched_gemm",
        shape: format!("{num_tokens}x{n}x{k}, {num_heads} heads"),
        variant: format!("{weight_order:?}"),
        work: Work { bytes: num_heads * one.bytes, flops: num_heads * one.flops },
        tensor_cores: Some(TensorCores::Bf16),
        prepare: Box::new(prepare),
    }
}

/// Keys, queries in and out.
fn mla_work([num_seqs, context, num_heads]: [usize; 3], is_fp8: bool) -> Work {
    let key = if is_fp8 { FP8_RECORD_BYTES } else { 2 * (LATENT_DIM + ROTARY_DIM) };
    let per_head = 2 * (2 * LATENT_DIM + ROTARY_DIM);
    Work {
        bytes: num_seqs * (context * key + num_heads * per_head),
        flops: 2 * num_seqs * num_heads * context * (2 * LATENT_DIM + ROTARY_DIM),
    }
}

/// One token of each sequence.
fn mla_case([num_seqs, context, num_heads]: [usize; 3], is_fp8: bool) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = MlaKernels::new(data.gpu)?;
        let counted: Vec<i32> = (0..=num_seqs as i32).collect();
        let query_start_loc = data.filled([num_seqs + 1], &counted)?;
        let seq_lens = data.filled([num_seqs], &[context as i32])?;
        let blocks_per_seq = context.div_ceil(BLOCK_SIZE);
        let blocks: Vec<i32> = (0..(num_seqs * blocks_per_seq) as i32).collect();
        let block_table = data.filled([num_seqs, blocks_per_seq], &blocks)?;
        let num_slots = num_seqs * num_heads * context.div_ceil(SPLIT);
        let mut plan = data.gpu.alloc(DType::I32, [PLAN_ROWS, num_seqs + 1])?;
        let args = MlaPlan {
            query_start_loc: query_start_loc.view(),
            seq_lens: seq_lens.view(),
            num_heads,
            max_query_len: 1,
            index_topk: None,
            num_slots,
            plan: plan.view_mut(),
        };
        mla_plan(data.stream, &kernels, args)?;
        let mut partials = data.gpu.alloc(DType::F32, [num_slots, LATENT_DIM + PARTIAL_TAIL])?;
        // Codes of 1, scales of 2 and a key of 1.
        let record = [[0x38; 512].as_slice(), &[0, 0, 0, 0x40].repeat(4), &[0x80, 0x3f].repeat(64)].concat();
        let mut sets = copies(num_copies, || {
            let cache = match is_fp8 {
                true => data.filled([blocks.len(), BLOCK_SIZE, FP8_RECORD_BYTES], &record)?,
                false => data.bf16([blocks.len(), BLOCK_SIZE, LATENT_DIM + ROTARY_DIM])?,
            };
            let (q_latent, q) =
                (data.bf16([num_seqs, num_heads, LATENT_DIM])?, data.bf16([num_seqs, num_heads, ROTARY_DIM])?);
            Ok((cache, q_latent, q, data.gpu.alloc(DType::BF16, [num_seqs, num_heads, LATENT_DIM])?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (cache, q_latent, q, out) = &mut sets[copy];
            let args = MlaAbsorbed {
                q_latent: q_latent.view(),
                q: q.view(),
                kv_cache: cache.view(),
                query_start_loc: query_start_loc.view(),
                seq_lens: seq_lens.view(),
                block_table: block_table.view(),
                topk_indices: None,
                plan: plan.view(),
                max_query_len: 1,
                softmax_scale: 0.01,
                partials: partials.view_mut(),
                out: out.view_mut(),
            };
            Ok(mla_absorbed(stream, &kernels, args)?)
        }))
    };
    Case {
        op: "mla_absorbed",
        shape: format!("{num_seqs} of {context}, {num_heads} heads"),
        variant: if is_fp8 { "FP8 records" } else { "bf16 cache" }.to_owned(),
        work: mla_work([num_seqs, context, num_heads], is_fp8),
        tensor_cores: Some(TensorCores::Bf16),
        prepare: Box::new(prepare),
    }
}

/// Scores in, positions out.
fn top_k_work(num_rows: usize, length: usize) -> Work {
    Work { bytes: 4 * num_rows * (length + TOP_K + 1), flops: 0 }
}

fn top_k_case(num_rows: usize, length: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = TopKKernel::new(data.gpu)?;
        let lengths = data.filled([num_rows], &[length as i32])?;
        let mut sets =
            copies(num_copies, || Ok((data.f32([num_rows, length])?, data.gpu.alloc(DType::I32, [num_rows, TOP_K])?)))?;
        Ok(Box::new(move |stream, copy| {
            let (scores, out) = &mut sets[copy];
            let args = TopK { scores: scores.view(), lengths: lengths.view(), out: out.view_mut() };
            Ok(top_k(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "top_k",
        shape: format!("{num_rows}x{length}"),
        variant: format!("k {TOP_K}"),
        work: top_k_work(num_rows, length),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// Logits, temperature and random number in; token, log-probability and maximum out.
fn sample_work(num_seqs: usize) -> Work {
    Work { bytes: num_seqs * (4 * VOCAB_SIZE + 4 + 8 + 12), flops: 0 }
}

fn sample_case(num_seqs: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = SampleKernel::new(data.gpu)?;
        let temperatures = data.filled([num_seqs], &[0.7f32])?;
        let uniforms = data.filled([num_seqs, 2], &[1 << 30])?;
        let mut sets = copies(num_copies, || {
            let one = |dtype| data.gpu.alloc(dtype, [num_seqs]);
            Ok((data.f32([num_seqs, VOCAB_SIZE])?, one(DType::I32)?, one(DType::F32)?, one(DType::F32)?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (logits, tokens, logprobs, maxima) = &mut sets[copy];
            let args = Sample {
                logits: logits.view(),
                temperatures: temperatures.view(),
                uniforms: uniforms.view(),
                tokens: tokens.view_mut(),
                logprobs: logprobs.view_mut(),
                maxima: maxima.view_mut(),
            };
            Ok(sample(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "sample",
        shape: format!("{num_seqs}x{VOCAB_SIZE}"),
        variant: "temperature 0.7".to_owned(),
        work: sample_work(num_seqs),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// Queries and weights in and quantised out, the key in and its place in the cache out, position and slot.
fn indexer_quant_work(num_tokens: usize) -> Work {
    let per_token = INDEX_NUM_HEADS * (3 * INDEX_HEAD_DIM + 8) + 2 * INDEX_HEAD_DIM + INDEX_KEY_BYTES + 8;
    // Seven steps of the Hadamard transform, and the quantisation.
    Work { bytes: num_tokens * per_token, flops: 9 * num_tokens * (INDEX_NUM_HEADS + 1) * INDEX_HEAD_DIM }
}

fn indexer_quant_case(num_tokens: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = IndexerQuantKernel::new(data.gpu)?;
        let order: Vec<i32> = (0..num_tokens as i32).collect();
        let (positions, slots) = (data.filled([num_tokens], &order)?, data.filled([num_tokens], &order)?);
        let inv_freq = data.filled([ROTARY_DIM / 2], &yarn_inv_freq(ROTARY_DIM, 10_000.0, None))?;
        let norm = data.filled([INDEX_HEAD_DIM], &[1.0f32])?;
        let q_shape = [num_tokens, INDEX_NUM_HEADS, INDEX_HEAD_DIM];
        let mut sets = copies(num_copies, || {
            let (q, key) = (data.bf16(q_shape)?, data.bf16([num_tokens, INDEX_HEAD_DIM])?);
            let weights = data.f32([num_tokens, INDEX_NUM_HEADS])?;
            let q_codes = data.gpu.alloc(DType::F8E4M3, q_shape)?;
            let q_weights = data.gpu.alloc(DType::F32, [num_tokens, INDEX_NUM_HEADS])?;
            let num_blocks = num_tokens.div_ceil(INDEX_BLOCK_SIZE);
            let cache = data.gpu.alloc(DType::U8, [num_blocks, INDEX_BLOCK_SIZE, INDEX_KEY_BYTES])?;
            Ok((q, key, weights, q_codes, q_weights, cache))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (q, key, weights, q_codes, q_weights, cache) = &mut sets[copy];
            let args = IndexerQuant {
                q: q.view(),
                key: key.view(),
                norm_weight: norm.view(),
                norm_bias: norm.view(),
                eps: 1e-6,
                weights: weights.view(),
                weight_scale: 0.011,
                positions: positions.view(),
                slot_mapping: slots.view(),
                inv_freq: inv_freq.view(),
                attention_factor: 1.0,
                scale_format: ScaleFormat::Ue8m0,
                q_codes: q_codes.view_mut(),
                q_weights: q_weights.view_mut(),
                cache: cache.view_mut(),
            };
            Ok(indexer_quant(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "indexer_quant",
        shape: format!("{num_tokens} tokens, {INDEX_NUM_HEADS} heads"),
        variant: "UE8M0".to_owned(),
        work: indexer_quant_work(num_tokens),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// The keys of each sequence once, the queries, and a score for each query and position.
fn indexer_logits_work(num_seqs: usize, query_len: usize, seq_len: usize) -> Work {
    let num_rows = num_seqs * query_len;
    let queries = num_rows * INDEX_NUM_HEADS * (INDEX_HEAD_DIM + 4);
    Work {
        bytes: num_seqs * seq_len * INDEX_KEY_BYTES + queries + 4 * num_rows * seq_len,
        flops: 2 * num_rows * seq_len * INDEX_NUM_HEADS * INDEX_HEAD_DIM,
    }
}

fn indexer_logits_case(num_seqs: usize, query_len: usize, seq_len: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = IndexerLogitsKernel::new(data.gpu)?;
        let (num_rows, blocks_per_seq) = (num_seqs * query_len, seq_len / INDEX_BLOCK_SIZE);
        let starts: Vec<i32> = (0..=num_seqs).map(|seq| (seq * query_len) as i32).collect();
        let table: Vec<i32> = (0..(num_seqs * blocks_per_seq) as i32).collect();
        let (starts, lens) = (data.filled([num_seqs + 1], &starts)?, data.filled([num_seqs], &[seq_len as i32])?);
        let table = data.filled([num_seqs, blocks_per_seq], &table)?;
        let mut random = Random::new(4);
        // Below 2 as codes and small as scales: nothing is NaN.
        let codes: Vec<u8> = (0..1 << 18).map(|_| random.bits() as u8 & 0xbf).collect();
        let q: Vec<F8E4M3> = codes.iter().map(|&code| F8E4M3(code)).collect();
        let mut sets = copies(num_copies, || {
            let q_codes = data.filled([num_rows, INDEX_NUM_HEADS, INDEX_HEAD_DIM], &q)?;
            let q_weights = data.f32([num_rows, INDEX_NUM_HEADS])?;
            let cache = data.filled([num_seqs * blocks_per_seq, INDEX_BLOCK_SIZE, INDEX_KEY_BYTES], &codes)?;
            Ok((q_codes, q_weights, cache, data.gpu.alloc(DType::F32, [num_rows, seq_len])?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (q_codes, q_weights, cache, logits) = &mut sets[copy];
            let args = IndexerLogits {
                q_codes: q_codes.view(),
                q_weights: q_weights.view(),
                cache: cache.view(),
                query_start_loc: starts.view(),
                seq_lens: lens.view(),
                block_table: table.view(),
                first_row: 0,
                first_position: 0,
                min_visible: TOP_K + 1,
                logits: logits.view_mut(),
            };
            Ok(indexer_logits(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "indexer_logits",
        shape: format!("{num_seqs}x{query_len} rows, {seq_len} positions"),
        variant: format!("{INDEX_NUM_HEADS} heads"),
        work: indexer_logits_work(num_seqs, query_len, seq_len),
        tensor_cores: Some(TensorCores::Fp8),
        prepare: Box::new(prepare),
    }
}

/// Carried and new scores in; the chosen scores and positions out.
fn top_k_merge_work(num_rows: usize, stretch: usize) -> Work {
    Work { bytes: 4 * num_rows * (TOP_K + stretch + 2 * TOP_K), flops: 0 }
}

fn top_k_merge_case(num_rows: usize, stretch: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = TopKMergeKernel::new(data.gpu)?;
        let positions = data.filled([num_rows], &[2 * stretch as i32 - 1])?;
        let num_tokens = data.filled([1], &[num_rows as i32])?;
        let mut sets = copies(num_copies, || {
            let out = data.filled([num_rows, TOP_K], &[0i32])?;
            Ok((data.f32([num_rows, TOP_K + stretch])?, out))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (scores, out) = &mut sets[copy];
            let args = TopKMerge {
                scores: scores.view_mut(),
                first_row: 0,
                first_position: stretch,
                positions: positions.view(),
                num_tokens: num_tokens.view(),
                out: out.view_mut(),
            };
            Ok(top_k_merge(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "top_k_merge",
        shape: format!("{num_rows}x{stretch}"),
        variant: format!("k {TOP_K}"),
        work: top_k_merge_work(num_rows, stretch),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// Rows read and written, and their numbers.
fn embedding_work(num_tokens: usize, dim: usize) -> Work {
    Work { bytes: num_tokens * (4 * dim + 4), flops: 0 }
}

fn embedding_case(num_tokens: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = EmbeddingKernel::new(data.gpu)?;
        let ids: Vec<i32> = (0..num_tokens as i32).rev().collect();
        let ids = data.filled([num_tokens], &ids)?;
        let mut sets = copies(num_copies, || {
            let shape = [num_tokens, HIDDEN_SIZE];
            Ok((data.bf16(shape)?, data.gpu.alloc(DType::BF16, shape)?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (table, out) = &mut sets[copy];
            let args = Embedding { ids: ids.view(), table: table.view(), out: out.view_mut() };
            Ok(embedding(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "embedding",
        shape: format!("{num_tokens}x{HIDDEN_SIZE}"),
        variant: "bf16".to_owned(),
        work: embedding_work(num_tokens, HIDDEN_SIZE),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// Two bf16 in, FP8 and scales out.
fn swiglu_work(num_tokens: usize, dim: usize) -> Work {
    Work { bytes: num_tokens * (5 * dim + 4 * dim / SCALE_GROUP), flops: 4 * num_tokens * dim }
}

fn swiglu_case(num_tokens: usize, dim: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernel = SwiGluKernel::new(data.gpu)?;
        let mut sets = copies(num_copies, || {
            let values = data.gpu.alloc(DType::F8E4M3, [num_tokens, dim])?;
            let scales = data.gpu.alloc(DType::F32, [dim / SCALE_GROUP, num_tokens])?;
            Ok((data.bf16([num_tokens, 2 * dim])?, values, scales))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (both, values, scales) = &mut sets[copy];
            let (values, scales) = (values.view_mut(), scales.view_mut());
            let args = SwiGlu {
                gate: both.view().columns(0..dim),
                up: both.view().columns(dim..2 * dim),
                slot_mapping: None,
                out: None,
                quantised: Some(Quantised { values, scales, scale_format: ScaleFormat::Ue8m0 }),
            };
            Ok(swiglu(stream, &kernel, args)?)
        }))
    };
    Case {
        op: "swiglu",
        shape: format!("{num_tokens}x{dim}"),
        variant: "to FP8, UE8M0".to_owned(),
        work: swiglu_work(num_tokens, dim),
        tensor_cores: None,
        prepare: Box::new(prepare),
    }
}

/// x and weight in bf16 and the bias in, ids and weights out.
fn gate_work(num_tokens: usize) -> Work {
    let bytes = 2 * (num_tokens + NUM_EXPERTS) * HIDDEN_SIZE + 4 * NUM_EXPERTS + 8 * num_tokens * NUM_CHOSEN;
    Work { bytes, flops: 2 * num_tokens * NUM_EXPERTS * HIDDEN_SIZE }
}

fn gate_case(num_tokens: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = GateKernels::new(data.gpu)?;
        let bias = data.filled([NUM_EXPERTS], &[0.0f32])?;
        let mut sets = copies(num_copies, || {
            let logits = data.gpu.alloc(DType::F32, [num_logits(num_tokens, NUM_EXPERTS, HIDDEN_SIZE)])?;
            let shape = [num_tokens, NUM_CHOSEN];
            let chosen = (data.gpu.alloc(DType::I32, shape)?, data.gpu.alloc(DType::F32, shape)?);
            Ok((data.bf16([num_tokens, HIDDEN_SIZE])?, data.bf16([NUM_EXPERTS, HIDDEN_SIZE])?, logits, chosen))
        })?;
        Ok(Box::new(move |stream, copy| {
            let (x, weight, logits, (ids, weights)) = &mut sets[copy];
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
            Ok(gate(stream, &kernels, args)?)
        }))
    };
    Case {
        op: "gate",
        shape: format!("{num_tokens}x{NUM_EXPERTS}x{HIDDEN_SIZE}"),
        variant: "8 of 256, 4 of 8 groups".to_owned(),
        work: gate_work(num_tokens),
        tensor_cores: Some(TensorCores::Bf16),
        prepare: Box::new(prepare),
    }
}

/// The weights of the experts that are chosen, FP8 x, and bf16 out read and written; scales are small beside them.
fn experts_work(num_tokens: usize) -> Work {
    let num_pairs = num_tokens * NUM_CHOSEN;
    let weights = 3 * HIDDEN_SIZE * EXPERT_SIZE;
    let bytes = num_pairs.min(RANK_EXPERTS) * weights + num_tokens * HIDDEN_SIZE * 5;
    Work { bytes, flops: 2 * num_pairs * weights }
}

/// The experts of one rank, each of which gets as many tokens as the others.
fn experts_case(num_tokens: usize) -> Case {
    let prepare = move |data: &Data<'_>, num_copies: usize| -> Result<Launcher> {
        let kernels = ExpertsKernels::new(data.gpu)?;
        let shape = ExpertsShape {
            max_tokens: num_tokens,
            num_experts_per_tok: NUM_CHOSEN,
            n_routed_experts: RANK_EXPERTS,
            hidden_size: HIDDEN_SIZE,
            moe_intermediate_size: EXPERT_SIZE,
        };
        let mut workspace = ExpertsWorkspace::new(data.gpu, shape)?;
        let mut random = Random::new(3);
        // Below 2, of both signs: no code is NaN.
        let codes: Vec<F8E4M3> = (0..1 << 18).map(|_| F8E4M3(random.bits() as u8 & 0xbf)).collect();
        let ids: Vec<i32> = (0..num_tokens * NUM_CHOSEN).map(|pair| (pair % RANK_EXPERTS) as i32).collect();
        let (ids, weights) =
            (data.filled([num_tokens, NUM_CHOSEN], &ids)?, data.filled([num_tokens, NUM_CHOSEN], &[0.1f32])?);
        let [hidden_blocks, expert_blocks] = [HIDDEN_SIZE / SCALE_BLOCK, EXPERT_SIZE / SCALE_BLOCK];
        let mut sets = copies(num_copies, || {
            let gate_up = data.filled([RANK_EXPERTS, 2 * EXPERT_SIZE, HIDDEN_SIZE], &codes)?;
            let gate_up_scales = data.filled([RANK_EXPERTS, 2 * expert_blocks, hidden_blocks], &[0.01f32])?;
            let down = data.filled([RANK_EXPERTS, HIDDEN_SIZE, EXPERT_SIZE], &codes)?;
            let down_scales = data.filled([RANK_EXPERTS, hidden_blocks, expert_blocks], &[0.01f32])?;
            let x_scale = data.filled([hidden_blocks, num_tokens], &[0.01f32])?;
            let x = (data.filled([num_tokens, HIDDEN_SIZE], &codes)?, x_scale);
            Ok((x, [gate_up, gate_up_scales], [down, down_scales], data.bf16([num_tokens, HIDDEN_SIZE])?))
        })?;
        Ok(Box::new(move |stream, copy| {
            let ((x, x_scale), gate_up, down, out) = &mut sets[copy];
            let args = Experts {
                x: x.view(),
                x_scale: x_scale.view(),
                gate_up_proj: ExpertWeights { values: gate_up[0].view(), scales: gate_up[1].view() },
                down_proj: ExpertWeights { values: down[0].view(), scales: down[1].view() },
                expert_ids: ids.view(),
                expert_weights: weights.view(),
                scale_format: ScaleFormat::Ue8m0,
                out: out.view_mut(),
            };
            Ok(experts(stream, &kernels, &mut workspace, args)?)
        }))
    };
    Case {
        op: "experts",
        shape: format!("{num_tokens} tokens, 8 of {RANK_EXPERTS} experts, {HIDDEN_SIZE}x{EXPERT_SIZE}"),
        variant: "five launches".to_owned(),
        work: experts_work(num_tokens),
        tensor_cores: Some(TensorCores::Fp8),
        prepare: Box::new(prepare),
    }
}

#[cfg(test)]
mod tests {
    use cachalot_cuda::Gpu;

    use super::*;

    #[test]
    fn bytes_are_those_at_the_heads_of_the_kernels() {
        // What one more token costs: kernels/OP/OP.cu.
        let more = |work: fn(usize) -> Work| work(2).bytes - work(1).bytes;
        assert_eq!(more(|tokens| rms_norm_work(tokens, 7168, false)), 28 << 10);
        assert_eq!(more(|tokens| act_quant_work(tokens, 7168)), 21_728);
        assert_eq!(more(|tokens| embedding_work(tokens, 7168)), (28 << 10) + 4);
        assert_eq!(more(|tokens| swiglu_work(tokens, 2048)), 5 * 2048 + 4 * 16);
        assert_eq!(more(gate_work), 2 * 7168 + 8 * 8);
        assert_eq!(experts_work(1).bytes, 8 * 44_040_192 + 5 * 7168);
        assert_eq!(more(|tokens| rope_work(tokens, false)), 32_768 + 2 * 1152 + 8);
        assert_eq!(fp8_gemm_work([1, 128, 256]), Work { bytes: 256 + 128 * 256 + 256 + 4 * 4, flops: 65_536 });
        assert_eq!(bf16_gemm_work([2, 8, 16]), Work { bytes: 2 * (32 + 128 + 16), flops: 512 });
        assert_eq!(more(layer_norm_work), 512);
        assert_eq!(mla_work([1, 2, 16], false).bytes - mla_work([1, 1, 16], false).bytes, 1152);
        assert_eq!(mla_work([1, 2, 1], true).flops - mla_work([1, 1, 1], true).flops, 2176);
        assert_eq!(top_k_work(1, 8192).bytes, 4 * (8192 + 2048 + 1));
        assert_eq!(more(indexer_quant_work), 64 * 392 + 256 + 132 + 8);
        assert_eq!(indexer_logits_work(1, 1, 131_072).bytes - 4 * 131_072 - 64 * 132, 17_301_504);
        assert_eq!(sample_work(8).bytes, 8 * (4 * 129_280 + 24));
    }

    #[test]
    fn the_smallest_case_of_each_op_launches() {
        let mut ops = Vec::new();
        for case in cases().iter().filter(|case| case.work.bytes < 1 << 20) {
            if !ops.contains(&case.op) {
                ops.push(case.op);
                let gpu = Gpu::emulated(64 << 20).expect("the emulator");
                let stream = gpu.stream().expect("a stream");
                let mut launch = (case.prepare)(&Data { gpu: &gpu, stream: &stream }, 2).expect("room in the arena");
                launch(&stream, 1).expect("valid arguments");
            }
        }
        assert_eq!(
            ops,
            [
                "rms_norm",
                "act_quant",
                "embedding",
                "swiglu",
                "rope_cache_write",
                "layer_norm",
                "top_k",
                "sample",
                "indexer_quant",
                "indexer_logits",
                "top_k_merge"
            ]
        );
    }
}
