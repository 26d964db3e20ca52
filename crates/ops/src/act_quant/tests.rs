//! Codes and scales against the definition, bit for bit.

use cachalot_tensor::F8E4M3;
use cachalot_testkit::{Random, assert_same_bits};
use half::bf16;

use super::reference::quantise_group;
use super::*;
use crate::test_gpu::{TestGpu, bf16s, f32s};

/// Columns beside those that the kernel may touch, and what they hold.
const GAP: usize = 8;
const MARK: f32 = -77.0;

/// Quantises `x` on the device and compares it with the definition.
fn check(device: &TestGpu, [num_tokens, k]: [usize; 2], x: &[f32], scale_format: ScaleFormat) {
    let kernel = ActQuantKernel::new(&device.gpu).expect("the kernel");
    let x = bf16s(x);
    let input = device.strided([num_tokens, k], GAP, &x, bf16::NAN);
    let mut values = device.strided([num_tokens, k], GAP, &vec![F8E4M3(0x55); num_tokens * k], F8E4M3(0x55));
    let num_groups = k / SCALE_GROUP;
    let mut scales = device.strided([num_groups, num_tokens], GAP, &vec![MARK; num_groups * num_tokens], MARK);
    let out = Quantised { values: values.view_mut(), scales: scales.view_mut(), scale_format };
    act_quant(&device.stream, &kernel, ActQuant { x: input.view(), out }).expect("valid arguments");
    let (values, scales) = (device.read_strided(&values), device.read_strided(&scales));
    for (index, group) in f32s(&x).chunks(SCALE_GROUP).enumerate() {
        let (token, group_of_token) = (index / num_groups, index % num_groups);
        let (expected, scale) = quantise_group(group, scale_format);
        assert_same_bits(&[scales[group_of_token * num_tokens + token]], &[scale], [1]);
        assert_eq!(values[index * SCALE_GROUP..][..SCALE_GROUP], expected, "token {token}, group {group_of_token}");
    }
}

#[test]
fn shapes() {
    let device = TestGpu::new();
    for shape in [[0, 128], [3, 0], [1, 128], [3, 256], [5, 2176], [2, 7168], [1, 18432]] {
        let x = Random::new(shape[1] as u64).gaussian(shape[0] * shape[1]);
        for scale_format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
            check(&device, shape, &x, scale_format);
        }
    }
}

#[test]
fn hostile_values() {
    let device = TestGpu::new();
    let group = |values: &[f32]| values.iter().copied().cycle().take(SCALE_GROUP).collect::<Vec<f32>>();
    let max = bf16::MAX.to_f32();
    let mut groups = vec![
        group(&[0.0]),
        group(&[-0.0, 0.0]),
        group(&[1e-30, -1e-39]),
        group(&[9e-5, 1e-4, 1.1e-4]),
        group(&[f32::NAN, 1.0, -2.0]),
        group(&[f32::NAN]),
        group(&[f32::INFINITY, 1.0, -1.0]),
        group(&[f32::NEG_INFINITY, 0.0]),
        group(&[max, -max, 1.0]),
    ];
    for exponent in -20..20 {
        groups.push(group(&[448.0, -447.0, 232.0, 216.0, 17.0, 1.0].map(|value| value * 2f32.powi(exponent))));
    }
    let x = groups.concat();
    for scale_format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
        check(&device, [groups.len(), SCALE_GROUP], &x, scale_format);
        check(&device, [1, x.len()], &x, scale_format);
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = ActQuantKernel::new(&device.gpu).expect("the kernel");
    for (dtype, x, values, scales, message) in [
        (DType::BF16, [2, 128], [2, 256], [1, 2], "act_quant: `k` is 256 in `values`, 128 in `x`"),
        (DType::BF16, [2, 256], [2, 256], [2, 3], "act_quant: `num_tokens` is 3 in `scales`, 2 in `x`"),
        (DType::BF16, [2, 256], [2, 256], [1, 2], "act_quant: `k / 128` is 1 in `scales`, 2 in `values`"),
        (
            DType::BF16,
            [2, 192],
            [2, 192],
            [1, 2],
            "act_quant: `k` of 192 is not supported; supported: multiples of 128",
        ),
        (DType::F32, [2, 128], [2, 128], [1, 2], "act_quant: `x` of F32 is not supported; supported: BF16"),
    ] {
        let x = device.unwritten(dtype, x);
        let (mut values, mut scales) = (device.unwritten(DType::F8E4M3, values), device.unwritten(DType::F32, scales));
        let (values, scales) = (values.view_mut(), scales.view_mut());
        let out = Quantised { values, scales, scale_format: ScaleFormat::F32 };
        let error = act_quant(&device.stream, &kernel, ActQuant { x: x.view(), out }).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
    let x = device.unwritten(DType::BF16, [2, 260]);
    let (mut values, mut scales) = (device.unwritten(DType::F8E4M3, [2, 256]), device.unwritten(DType::F32, [2, 2]));
    let out = Quantised { values: values.view_mut(), scales: scales.view_mut(), scale_format: ScaleFormat::F32 };
    let x = x.view().columns(0..256);
    let error = act_quant(&device.stream, &kernel, ActQuant { x, out }).expect_err("rows at odd places").to_string();
    assert!(error.contains("with rows 520 bytes apart is not supported; supported: rows at multiples of 16 bytes"));
}
