//! The GPU's kernel against the formula in f64.

use cachalot_tensor::DType;
use cachalot_testkit::{Random, Tolerance, assert_close};
use half::bf16;

use super::cuda::{LayerNorm, LayerNormKernels, layer_norm};
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::test_util::{narrow, wide};

const EPS: f32 = 1e-6;
const GAP: usize = 8;

/// One rounding to bf16, and f32's errors before it, which may be large against a sum with the bias.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-5, rel: 1.0 / 256.0 + 1e-5, cosine: 5e-6 };

fn formula(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let x = wide(x);
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
    narrow(x.iter().zip(wide(weight)).zip(wide(bias)).map(|((x, w), b)| w * (x - mean) * factor + b).collect())
}

fn check(device: &TestGpu, [num_tokens, dim]: [usize; 2], mean: f32, is_f32: bool) {
    let kernels = LayerNormKernels::new(&device.gpu).expect("the kernels");
    let shape = [num_tokens, dim];
    let mut random = Random::new(dim as u64);
    let x = bf16s(&random.gaussian(num_tokens * dim).iter().map(|x| x + mean).collect::<Vec<f32>>());
    let (weight, bias) = (random.gaussian(dim), random.gaussian(dim));
    let (x_bf16, x_f32) = (device.strided(shape, GAP, &x, bf16::NAN), device.strided(shape, GAP, &f32s(&x), f32::NAN));
    let (device_weight, device_bias) = (device.filled([dim], &weight), device.filled([dim], &bias));
    let mut out = device.strided(shape, GAP, &vec![bf16::NAN; num_tokens * dim], bf16::NAN);
    let args = LayerNorm {
        x: if is_f32 { x_f32.view() } else { x_bf16.view() },
        weight: device_weight.view(),
        bias: device_bias.view(),
        eps: EPS,
        out: out.view_mut(),
    };
    layer_norm(&device.stream, &kernels, args).expect("valid arguments");
    let expected: Vec<f32> = f32s(&x).chunks(dim.max(1)).flat_map(|row| formula(row, &weight, &bias)).collect();
    assert_close(&f32s(&device.read_strided(&out)), &expected, shape, TOLERANCE);
}

#[test]
fn agrees_with_the_formula() {
    let device = TestGpu::new();
    for is_f32 in [false, true] {
        for shape in [[0, 128], [3, 0], [1, 8], [2, 40], [5, 128], [129, 128], [3, 264], [2, 1024]] {
            check(&device, shape, 0.0, is_f32);
        }
        // The mean of squares minus the square of the mean would keep no digit.
        check(&device, [4, 128], 1000.0, is_f32);
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = LayerNormKernels::new(&device.gpu).expect("the kernels");
    for (dim, bias, out, message) in [
        (128, 120, [2, 128], "layer_norm: `dim` is 120 in `bias`, 128 in `x`"),
        (128, 128, [3, 128], "layer_norm: `num_tokens` is 3 in `out`, 2 in `x`"),
        (12, 12, [2, 12], "layer_norm: `dim` of 12 is not supported; supported: multiples of 8 up to 1024"),
    ] {
        let (x, weight) = (device.unwritten(DType::BF16, [2, dim]), device.unwritten(DType::F32, [dim]));
        let (bias, mut out) = (device.unwritten(DType::F32, [bias]), device.unwritten(DType::BF16, out));
        let (weight, bias, out) = (weight.view(), bias.view(), out.view_mut());
        let error = layer_norm(&device.stream, &kernels, LayerNorm { x: x.view(), weight, bias, eps: EPS, out });
        assert_eq!(error.expect_err(message).to_string(), message);
    }
}
