//! The GPU's kernel against the formula in f64, and its FP8 output against the quantiser's definition.

use cachalot_tensor::{DType, F8E4M3};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::cuda::{SwiGlu, SwiGluKernel, swiglu};
use crate::ScaleFormat;
use crate::act_quant::reference::quantise_group;
use crate::act_quant::{Quantised, SCALE_GROUP};
use crate::test_gpu::{TestGpu, bf16s, f32s};

const GAP: usize = 8;
const MARK: f32 = -77.0;
const CODE_MARK: F8E4M3 = F8E4M3(0x55);

/// One rounding to bf16, and f32's own errors before it.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-37, rel: 1.0 / 256.0 + 1e-5, cosine: 5e-6 };

/// Gates on the device. Rows in `padding` are NaN, and must stay as they are in the output.
fn check(
    device: &TestGpu,
    [num_tokens, dim]: [usize; 2],
    [gate, up]: [&[f32]; 2],
    padding: &[usize],
    scale_format: Option<ScaleFormat>,
) {
    let shape = [num_tokens, dim];
    let kernel = SwiGluKernel::new(&device.gpu).expect("the kernel");
    // Both in one buffer, as one GEMM writes them.
    let mut both = vec![bf16::NAN; 2 * num_tokens * dim];
    let mut slots: Vec<i32> = (0..num_tokens as i32).collect();
    for (token, slot) in slots.iter_mut().enumerate() {
        let row = token * dim..(token + 1) * dim;
        if padding.contains(&token) {
            *slot = -1;
        } else {
            both[2 * row.start..][..dim].copy_from_slice(&bf16s(&gate[row.clone()]));
            both[2 * row.start + dim..][..dim].copy_from_slice(&bf16s(&up[row]));
        }
    }
    let input = device.strided([num_tokens, 2 * dim], GAP, &both, bf16::NAN);
    let slot_mapping = device.filled([num_tokens], &slots);
    let mut out = device.strided(shape, GAP, &vec![bf16::from_f32(MARK); num_tokens * dim], bf16::NAN);
    let mut codes = device.strided(shape, GAP, &vec![CODE_MARK; num_tokens * dim], CODE_MARK);
    let num_groups = dim / SCALE_GROUP;
    let mut scales = device.strided([num_groups, num_tokens], GAP, &vec![MARK; num_groups * num_tokens], MARK);
    let quantised = scale_format.map(|scale_format| {
        let (values, scales) = (codes.view_mut(), scales.view_mut());
        Quantised { values, scales, scale_format }
    });
    let args = SwiGlu {
        gate: input.view().columns(0..dim),
        up: input.view().columns(dim..2 * dim),
        slot_mapping: (!padding.is_empty()).then(|| slot_mapping.view()),
        out: Some(out.view_mut()),
        quantised,
    };
    swiglu(&device.stream, &kernel, args).expect("valid arguments");

    let expected: Vec<f32> = (0..num_tokens * dim)
        .map(|index| {
            let [gate, up] = [gate, up].map(|values| f64::from(bf16::from_f32(values[index]).to_f32()));
            if padding.contains(&(index / dim)) { MARK } else { (gate / (1.0 + (-gate).exp()) * up) as f32 }
        })
        .collect();
    let out = f32s(&device.read_strided(&out));
    assert_close(&out, &expected, shape, TOLERANCE);
    let (codes, scales) = (device.read_strided(&codes), device.read_strided(&scales));
    let Some(scale_format) = scale_format else { return };
    for (index, group) in out.chunks(SCALE_GROUP).enumerate() {
        let (token, group_of_token) = (index / num_groups, index % num_groups);
        let (expected, scale) = match padding.contains(&token) {
            true => (vec![CODE_MARK; SCALE_GROUP], MARK),
            false => quantise_group(group, scale_format),
        };
        assert_same_bits(&[scales[group_of_token * num_tokens + token]], &[scale], [1]);
        assert_eq!(codes[index * SCALE_GROUP..][..SCALE_GROUP], expected, "token {token}, group {group_of_token}");
    }
}

#[test]
fn shapes() {
    let device = TestGpu::new();
    for (shape, padding) in [
        ([0, 128], &[][..]),
        ([3, 0], &[]),
        ([1, 128], &[]),
        ([1, 128], &[0]),
        ([7, 384], &[0, 5]),
        ([3, 2048], &[1]),
        ([2, 2176], &[]),
    ] {
        let mut random = Random::new(shape[1] as u64);
        let gate: Vec<f32> = random.gaussian(shape[0] * shape[1]).into_iter().map(|g| 4.0 * g).collect();
        let up = random.gaussian(shape[0] * shape[1]);
        for scale_format in [None, Some(ScaleFormat::F32), Some(ScaleFormat::Ue8m0)] {
            check(&device, shape, [&gate, &up], padding, scale_format);
        }
    }
    // What has no scales may have any multiple of 8.
    check(&device, [3, 72], [&[1.5; 216], &[-2.0; 216]], &[2], None);
}

#[test]
fn large_gates_neither_overflow_nor_vanish_too_early() {
    let device = TestGpu::new();
    let gate = [-1e30, -80.0, -20.0, -0.0, 0.0, 20.0, 80.0, 1e30];
    check(&device, [1, 8], [&gate, &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -2.0]], &[], None);
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let gate = [nan, 1.0, 1.0, infinity, 0.0, 0.0, 0.0, 0.0];
    check(&device, [1, 8], [&gate, &[1.0, nan, infinity, 1.0, 1.0, 1.0, 1.0, 1.0]], &[], None);
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = SwiGluKernel::new(&device.gpu).expect("the kernel");
    for (gate, up, slots, message) in [
        ([2, 8], [2, 16], 2, "swiglu: `intermediate_size` is 16 in `up`, 8 in `gate`"),
        ([2, 8], [2, 8], 3, "swiglu: `num_tokens` is 3 in `slot_mapping`, 2 in `gate`"),
        ([2, 12], [2, 12], 2, "swiglu: `intermediate_size` of 12 is not supported; supported: multiples of 8"),
        ([2, 72], [2, 72], 2, "swiglu: `intermediate_size` of 72 is not supported; supported: multiples of 128"),
    ] {
        let (gate, up) = (device.unwritten(DType::BF16, gate), device.unwritten(DType::BF16, up));
        let slots = device.unwritten(DType::I32, [slots]);
        let (mut values, mut scales) =
            (device.unwritten(DType::F8E4M3, gate.shape()), device.unwritten(DType::F32, [1, 2]));
        let (values, scales) = (values.view_mut(), scales.view_mut());
        let args = SwiGlu {
            gate: gate.view(),
            up: up.view(),
            slot_mapping: Some(slots.view()),
            out: None,
            quantised: Some(Quantised { values, scales, scale_format: ScaleFormat::F32 }),
        };
        assert_eq!(swiglu(&device.stream, &kernel, args).expect_err(message).to_string(), message);
    }
}
