//! The GPU's kernel against the formula in f64.

use cachalot_tensor::{DType, F8E4M3};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::cuda::{RmsNorm, RmsNormKernels, rms_norm};
use crate::ScaleFormat;
use crate::act_quant::reference::quantise_group;
use crate::act_quant::{Quantised, SCALE_GROUP};
use crate::test_gpu::{TestGpu, bf16s, f32s};

const EPS: f32 = 1e-6;
const GAP: usize = 8;

/// One rounding to bf16, and f32's own errors before it.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-30, rel: 1.0 / 256.0 + 1e-5, cosine: 5e-6 };

/// What a case has besides `x`.
#[derive(Clone, Copy, Debug)]
struct With {
    weight: DType,
    residual: bool,
    quantised: Option<ScaleFormat>,
}

fn check(device: &TestGpu, [num_tokens, dim]: [usize; 2], size: f32, with: With) {
    let shape = [num_tokens, dim];
    let kernels = RmsNormKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new(dim as u64);
    let mut scaled = |len| bf16s(&random.gaussian(len).iter().map(|value| value * size).collect::<Vec<f32>>());
    let (x, before) = (scaled(num_tokens * dim), scaled(num_tokens * dim));
    let mut weight_f32 = random.gaussian(dim);
    let weight = match with.weight {
        DType::BF16 => {
            let rounded = bf16s(&weight_f32);
            weight_f32 = f32s(&rounded);
            device.filled([dim], &rounded)
        }
        _ => device.filled([dim], &weight_f32),
    };
    let input = device.strided(shape, GAP, &x, bf16::NAN);
    let mut residual = device.strided(shape, GAP, &before, bf16::NAN);
    let mut out = device.strided(shape, GAP, &vec![bf16::NAN; num_tokens * dim], bf16::NAN);
    let mut codes = device.strided(shape, GAP, &vec![F8E4M3(0x55); num_tokens * dim], F8E4M3(0x55));
    let num_groups = dim / SCALE_GROUP;
    let mut scales = device.strided([num_groups, num_tokens], GAP, &vec![-1.0; num_groups * num_tokens], -1.0f32);
    let args = RmsNorm {
        x: input.view(),
        weight: weight.view(),
        eps: EPS,
        residual: with.residual.then(|| residual.view_mut()),
        out: Some(out.view_mut()),
        quantised: with.quantised.map(|scale_format| Quantised {
            values: codes.view_mut(),
            scales: scales.view_mut(),
            scale_format,
        }),
    };
    rms_norm(&device.stream, &kernels, args).expect("valid arguments");

    let after = device.read_strided(&residual);
    let sums: Vec<bf16> = x.iter().zip(&before).map(|(x, r)| bf16::from_f32(x.to_f32() + r.to_f32())).collect();
    assert_eq!(after, if with.residual { sums.clone() } else { before }, "residual");
    let normed = f32s(if with.residual { &sums } else { &x });
    let expected: Vec<f32> = normed.chunks(dim.max(1)).flat_map(|row| formula(row, &weight_f32)).collect();
    let out = f32s(&device.read_strided(&out));
    assert_close(&out, &expected, shape, TOLERANCE);

    let Some(scale_format) = with.quantised else { return };
    let (codes, scales) = (device.read_strided(&codes), device.read_strided(&scales));
    for (index, group) in out.chunks(SCALE_GROUP).enumerate() {
        let (expected, scale) = quantise_group(group, scale_format);
        assert_same_bits(&[scales[index % num_groups * num_tokens + index / num_groups]], &[scale], [1]);
        assert_eq!(codes[index * SCALE_GROUP..][..SCALE_GROUP], expected, "group {index}");
    }
}

/// The formula in f64, of one row.
fn formula(r: &[f32], weight: &[f32]) -> Vec<f32> {
    let mean_square = r.iter().map(|&r| f64::from(r).powi(2)).sum::<f64>() / r.len() as f64;
    let factor = 1.0 / (mean_square + f64::from(EPS)).sqrt();
    r.iter().zip(weight).map(|(&r, &w)| (f64::from(w) * f64::from(r) * factor) as f32).collect()
}

#[test]
fn agrees_with_the_formula() {
    let device = TestGpu::new();
    for dim in [0, 8, 24, 512, 1536, 7168, 8200, 16384] {
        for weight in [DType::BF16, DType::F32] {
            for residual in [false, true] {
                check(&device, [2, dim], 1.0, With { weight, residual, quantised: None });
            }
        }
    }
    let with = With { weight: DType::BF16, residual: true, quantised: None };
    check(&device, [0, 512], 1.0, with);
    check(&device, [33, 128], 1.0, with);
    // eps carries rows near zero, and rows of zeros stay zeros.
    check(&device, [2, 128], 1e-4, with);
    check(&device, [2, 128], 0.0, with);
}

#[test]
fn quantises_what_it_would_write() {
    let device = TestGpu::new();
    for shape in [[1, 128], [3, 512], [5, 1536], [2, 7168], [1, 8320], [1, 16384]] {
        for scale_format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
            for residual in [false, true] {
                check(&device, shape, 1.0, With { weight: DType::BF16, residual, quantised: Some(scale_format) });
            }
        }
    }
    check(&device, [2, 256], 0.0, With { weight: DType::F32, residual: false, quantised: Some(ScaleFormat::Ue8m0) });
}

#[test]
fn nan_stays_in_its_row() {
    let device = TestGpu::new();
    let kernels = RmsNormKernels::new(&device.gpu).expect("the kernels");
    let mut x = vec![bf16::from_f32(2.0); 3 * 16];
    x[16 + 5] = bf16::NAN;
    let (x, weight) = (device.filled([3, 16], &x), device.filled([16], &[1.0f32; 16]));
    let mut out = device.unwritten(DType::BF16, [3, 16]);
    let (x, weight, out_view) = (x.view(), weight.view(), Some(out.view_mut()));
    let args = RmsNorm { x, weight, eps: 0.0, residual: None, out: out_view, quantised: None };
    rms_norm(&device.stream, &kernels, args).expect("valid arguments");
    let out = f32s(&device.read(&out));
    assert!(out[16..32].iter().all(|value| value.is_nan()));
    assert!(out[..16].iter().chain(&out[32..]).all(|&value| value == 1.0));
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = RmsNormKernels::new(&device.gpu).expect("the kernels");
    for (dim, weight, out, message) in [
        (128, 120, [2, 128], "rms_norm: `dim` is 120 in `weight`, 128 in `x`"),
        (128, 128, [3, 128], "rms_norm: `num_tokens` is 3 in `out`, 2 in `x`"),
        (12, 12, [2, 12], "rms_norm: `dim` of 12 is not supported; supported: multiples of 8 up to 16384"),
        (16392, 16392, [2, 16392], "rms_norm: `dim` of 16392 is not supported; supported: multiples of 8 up to 16384"),
    ] {
        let (x, weight) = (device.unwritten(DType::BF16, [2, dim]), device.unwritten(DType::F32, [weight]));
        let mut out = device.unwritten(DType::BF16, out);
        let (x, weight, out) = (x.view(), weight.view(), Some(out.view_mut()));
        let args = RmsNorm { x, weight, eps: EPS, residual: None, out, quantised: None };
        let error = rms_norm(&device.stream, &kernels, args).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
}
