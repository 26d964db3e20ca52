//! Codes, scales, weights and cache against the definition.

use cachalot_tensor::F8E4M3;
use cachalot_testkit::{Random, assert_same_bits};
use half::bf16;

use super::reference::{layer_norm, rotate_and_mix};
use super::*;
use crate::act_quant::reference::quantise_group;
use crate::numerics::e4m3_to_f32;
use crate::rope::yarn_inv_freq;
use crate::test_gpu::{TestGpu, bf16s, f32s};

const GAP: usize = 8;
/// What is in outputs that must not be written.
const MARK: u8 = 0xab;
const NUM_BLOCKS: usize = 2;
const WEIGHT_SCALE: f32 = 0.25;

/// Positions and slots: the first and the last token of the longest context, the edges of blocks, and two padding tokens.
const TOKENS: [(i32, i32); 6] = [(0, 64), (1, 0), (77, -1), (105_700, 63), (163_839, 127), (3, -7)];

#[derive(Clone)]
struct Inputs {
    num_heads: usize,
    tokens: Vec<(i32, i32)>,
    q: Vec<bf16>,
    key: Vec<bf16>,
    norm_weight: Vec<f32>,
    norm_bias: Vec<f32>,
    eps: f32,
    weights: Vec<f32>,
    scale_format: ScaleFormat,
}

/// What the kernel wrote.
struct Outputs {
    q_codes: Vec<F8E4M3>,
    q_weights: Vec<f32>,
    cache: Vec<u8>,
}

impl Inputs {
    /// Values of different sizes, as activations have them.
    fn gaussian(num_heads: usize, tokens: &[(i32, i32)], scale_format: ScaleFormat) -> Self {
        let mut random = Random::new(num_heads as u64);
        let num_tokens = tokens.len();
        let mut q = random.gaussian(num_tokens * num_heads * INDEX_HEAD_DIM);
        q.chunks_mut(INDEX_HEAD_DIM).for_each(|vector| vector[70] *= 20.0);
        let key: Vec<f32> = random.gaussian(num_tokens * INDEX_HEAD_DIM).iter().map(|x| 3.0 * x + 1.0).collect();
        Inputs {
            num_heads,
            tokens: tokens.to_vec(),
            q: bf16s(&q),
            key: bf16s(&key),
            norm_weight: random.values(INDEX_HEAD_DIM),
            norm_bias: random.values(INDEX_HEAD_DIM),
            eps: 1e-6,
            weights: random.gaussian(num_tokens * num_heads),
            scale_format,
        }
    }

    fn run(&self, device: &TestGpu) -> Outputs {
        let kernel = IndexerQuantKernel::new(&device.gpu).expect("the kernel");
        let (num_tokens, num_heads) = (self.tokens.len(), self.num_heads);
        let q = device.strided([num_tokens, num_heads * INDEX_HEAD_DIM], GAP, &self.q, bf16::NAN);
        let key = device.strided([num_tokens, INDEX_HEAD_DIM], GAP, &self.key, bf16::NAN);
        let weights = device.strided([num_tokens, num_heads], 3, &self.weights, f32::NAN);
        let norm_weight = device.filled([INDEX_HEAD_DIM], &self.norm_weight);
        let norm_bias = device.filled([INDEX_HEAD_DIM], &self.norm_bias);
        let inv_freq = device.filled([NUM_PAIRS], &inv_freq());
        let positions: Vec<i32> = self.tokens.iter().map(|token| token.0).collect();
        let slots: Vec<i32> = self.tokens.iter().map(|token| token.1).collect();
        let (positions, slots) = (device.filled([num_tokens], &positions), device.filled([num_tokens], &slots));
        let mut q_codes = device.unwritten(DType::F8E4M3, [num_tokens, num_heads, INDEX_HEAD_DIM]);
        let mut q_weights = device.unwritten(DType::F32, [num_tokens, num_heads]);
        let mut cache = device.unwritten(DType::U8, [NUM_BLOCKS, INDEX_BLOCK_SIZE, INDEX_KEY_BYTES]);
        for buffer in [&mut q_codes, &mut q_weights, &mut cache] {
            device.stream.fill(buffer, MARK).expect("no gaps");
        }
        let args = IndexerQuant {
            q: q.view().reshape_rows([num_tokens, num_heads, INDEX_HEAD_DIM]),
            key: key.view(),
            norm_weight: norm_weight.view(),
            norm_bias: norm_bias.view(),
            eps: self.eps,
            weights: weights.view(),
            weight_scale: WEIGHT_SCALE,
            positions: positions.view(),
            slot_mapping: slots.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            scale_format: self.scale_format,
            q_codes: q_codes.view_mut(),
            q_weights: q_weights.view_mut(),
            cache: cache.view_mut(),
        };
        indexer_quant(&device.stream, &kernel, args).expect("valid arguments");
        Outputs { q_codes: device.read(&q_codes), q_weights: device.read(&q_weights), cache: device.read(&cache) }
    }

    /// Runs it, and calls `check` with each vector that was to be written, its codes, and its scale.
    fn check(&self, device: &TestGpu, check: impl Fn(&[f32], &[F8E4M3], f32)) {
        let outputs = self.run(device);
        let num_heads = self.num_heads;
        let mut slots: Vec<i32> = Vec::new();
        for (token, &(position, slot)) in self.tokens.iter().enumerate() {
            let codes = &outputs.q_codes[token * num_heads * INDEX_HEAD_DIM..][..num_heads * INDEX_HEAD_DIM];
            let weights = &outputs.q_weights[token * num_heads..][..num_heads];
            if slot < 0 {
                assert!(codes.iter().all(|code| code.0 == MARK), "queries of a padding token");
                assert!(weights.iter().all(|weight| weight.to_bits().to_le_bytes() == [MARK; 4]), "its weights");
                continue;
            }
            slots.push(slot);
            for head in 0..num_heads {
                let vector = token * num_heads + head;
                let x = f32s(&self.q[vector * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM]);
                let expected = rotate_and_mix(&x, position as u32, &inv_freq());
                let codes = &codes[head * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM];
                // The scale is known from the weight, but for the last bit.
                let scale = weights[head] / (self.weights[vector] * WEIGHT_SCALE);
                check(&expected, codes, scale);
            }
            let (codes, scale) = key_at(&outputs.cache, slot);
            let key = f32s(&self.key[token * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM]);
            let normed = layer_norm(&key, &self.norm_weight, &self.norm_bias, self.eps);
            check(&rotate_and_mix(&normed, position as u32, &inv_freq()), &codes, scale);
        }
        for slot in (0..(NUM_BLOCKS * INDEX_BLOCK_SIZE) as i32).filter(|slot| !slots.contains(slot)) {
            let (codes, scale) = key_at(&outputs.cache, slot);
            assert!(codes.iter().all(|code| code.0 == MARK), "slot {slot} belongs to no token");
            assert_eq!(scale.to_bits().to_le_bytes(), [MARK; 4], "slot {slot}");
        }
    }
}

fn inv_freq() -> Vec<f32> {
    yarn_inv_freq(2 * NUM_PAIRS, 10_000.0, None)
}

/// Codes and scale of a slot.
fn key_at(cache: &[u8], slot: i32) -> (Vec<F8E4M3>, f32) {
    let (block, offset) = (slot as usize / INDEX_BLOCK_SIZE, slot as usize % INDEX_BLOCK_SIZE);
    let block = &cache[block * INDEX_BLOCK_SIZE * INDEX_KEY_BYTES..][..INDEX_BLOCK_SIZE * INDEX_KEY_BYTES];
    let (codes, scales) = block.split_at(INDEX_BLOCK_SIZE * INDEX_HEAD_DIM);
    let codes = codes[offset * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM].iter().map(|&code| F8E4M3(code)).collect();
    (codes, f32::from_le_bytes(scales[4 * offset..][..4].try_into().expect("four bytes")))
}

/// What rounds is within one rounding of bf16 before the quantisation, and the code is the nearest.
fn check_close(expected: &[f32], codes: &[F8E4M3], scale: f32, scale_format: ScaleFormat) {
    let scale_of = |factor: f32| {
        let group: Vec<f32> = expected.iter().map(|x| x * factor).collect();
        quantise_group(&group, scale_format).1
    };
    let scales = [1.0 - 1.0 / 128.0, 1.0 + 1.0 / 128.0].map(scale_of);
    assert!(scales[0] * 0.999_999 <= scale && scale <= scales[1] * 1.000_001, "scale {scale}, expected {scales:?}");
    let (mut error, mut size) = (0.0, 0.0);
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (&code, &x) in codes.iter().zip(expected) {
        let value = e4m3_to_f32(code) * scale;
        let limit = x.abs() / 12.0 + scale / 512.0 + largest / 256.0;
        assert!((value - x).abs() <= limit, "{value}, expected {x} within {limit}");
        error += f64::from(value - x).powi(2);
        size += f64::from(x).powi(2);
    }
    assert!((error / size).sqrt() < 0.04, "relative error {}", (error / size).sqrt());
}

#[test]
fn values_that_round() {
    let device = TestGpu::new();
    for num_heads in [1, 4, 13, 64] {
        for format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
            let inputs = Inputs::gaussian(num_heads, &TOKENS, format);
            inputs.check(&device, |expected, codes, scale| check_close(expected, codes, scale, format));
        }
    }
    Inputs::gaussian(4, &[], ScaleFormat::Ue8m0).check(&device, |_, _, _| panic!("no tokens"));
}

/// Small integers at position 0: every sum is exact, so codes and scales are those of the definition to the bit.
#[test]
fn values_that_do_not_round() {
    let device = TestGpu::new();
    let mut random = Random::new(5);
    let (num_heads, num_tokens) = (64, 3);
    let balanced = |random: &mut Random| -> Vec<f32> {
        random.permutation(INDEX_HEAD_DIM).iter().map(|&place| if place % 2 == 0 { 1.0 } else { -1.0 }).collect()
    };
    let inputs = Inputs {
        num_heads,
        tokens: vec![(0, 5), (0, 70), (0, 127)],
        q: bf16s(&random.integers(num_tokens * num_heads * INDEX_HEAD_DIM, 3)),
        // Mean 0 and variance 1.
        key: bf16s(&(0..num_tokens).flat_map(|_| balanced(&mut random)).collect::<Vec<_>>()),
        norm_weight: random.integers(INDEX_HEAD_DIM, 3),
        norm_bias: random.integers(INDEX_HEAD_DIM, 3),
        eps: 0.0,
        // Powers of two: the scale can be read off the product.
        weights: (0..num_tokens * num_heads).map(|i| if i % 2 == 0 { 4.0 } else { -0.5 }).collect(),
        scale_format: ScaleFormat::Ue8m0,
    };
    for scale_format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
        Inputs { scale_format, ..inputs.clone() }.check(&device, |expected, codes, scale| {
            let (expected, expected_scale) = quantise_group(expected, scale_format);
            assert_eq!(codes, expected);
            assert_same_bits(&[scale], &[expected_scale], [1]);
        });
    }
}

#[test]
fn products_of_rotated_vectors_are_those_of_the_vectors() {
    let mut random = Random::new(6);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let (a, b) = (f32s(&bf16s(&random.gaussian(128))), f32s(&bf16s(&random.gaussian(128))));
    let (mixed_a, mixed_b) = (rotate_and_mix(&a, 9, &inv_freq()), rotate_and_mix(&b, 9, &inv_freq()));
    assert!((dot(&a, &b) - dot(&mixed_a, &mixed_b)).abs() < 0.1);
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = IndexerQuantKernel::new(&device.gpu).expect("the kernel");
    let run = |q: [usize; 3], frequencies: usize, cache: [usize; 3], weights: DType| {
        let [num_tokens, num_heads, head_dim] = q;
        let q = device.unwritten(DType::BF16, q);
        let key = device.unwritten(DType::BF16, [num_tokens, head_dim]);
        let norm = device.unwritten(DType::F32, [head_dim]);
        let weights = device.unwritten(weights, [num_tokens, num_heads]);
        let index = device.unwritten(DType::I32, [num_tokens]);
        let inv_freq = device.unwritten(DType::F32, [frequencies]);
        let mut q_codes = device.unwritten(DType::F8E4M3, [num_tokens, num_heads, head_dim]);
        let mut q_weights = device.unwritten(DType::F32, [num_tokens, num_heads]);
        let mut cache = device.unwritten(DType::U8, cache);
        let args = IndexerQuant {
            q: q.view(),
            key: key.view(),
            norm_weight: norm.view(),
            norm_bias: norm.view(),
            eps: 1e-6,
            weights: weights.view(),
            weight_scale: 1.0,
            positions: index.view(),
            slot_mapping: index.view(),
            inv_freq: inv_freq.view(),
            attention_factor: 1.0,
            scale_format: ScaleFormat::Ue8m0,
            q_codes: q_codes.view_mut(),
            q_weights: q_weights.view_mut(),
            cache: cache.view_mut(),
        };
        indexer_quant(&device.stream, &kernel, args).expect_err("wrong arguments").to_string()
    };
    for (error, message) in [
        (run([2, 4, 64], 32, [2, 64, 132], DType::F32), "`index_head_dim` is 64 in `q`, 128 in `supported`"),
        (run([2, 4, 128], 16, [2, 64, 132], DType::F32), "`rotary_dim / 2` is 16 in `inv_freq`, 32 in `supported`"),
        (run([2, 4, 128], 32, [2, 32, 132], DType::F32), "`block_size` is 32 in `cache`, 64 in `supported`"),
        (run([2, 4, 128], 32, [2, 64, 128], DType::F32), "`key_bytes` is 128 in `cache`, 132 in `supported`"),
        (run([2, 4, 128], 32, [2, 64, 132], DType::BF16), "`weights` of BF16 is not supported; supported: F32"),
    ] {
        assert_eq!(error, format!("indexer_quant: {message}"));
    }
}
