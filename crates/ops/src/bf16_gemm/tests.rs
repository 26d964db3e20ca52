//! Odd shapes against sums in f64.

use cachalot_cuda::{DeviceBuffer, Gpu};
use cachalot_tensor::Element;
use cachalot_testkit::{Random, Tolerance, assert_close};
use half::bf16;

use super::*;
use crate::test_gpu::TestGpu;

/// What the columns beside x and the weight hold, and those beside out before and after.
const NAN: f32 = f32::NAN;

/// `[num_rows, num_cols]` values in rows of `stride`, NaN elsewhere.
fn strided<T: Element>(
    gpu: &Gpu,
    stream: &Stream,
    values: &[f32],
    [num_rows, num_cols, stride]: [usize; 3],
    convert: fn(f32) -> T,
) -> DeviceBuffer {
    let mut padded = vec![convert(NAN); num_rows * stride];
    for (row, values) in padded.chunks_mut(stride).zip(values.chunks(num_cols)) {
        row.iter_mut().zip(values).for_each(|(to, &value)| *to = convert(value));
    }
    let mut buffer = gpu.alloc(T::DTYPE, [num_rows, stride]).expect("room in the arena");
    stream.upload(&mut buffer, &padded).expect("one value per element");
    buffer
}

fn check<T: Element>(
    [num_tokens, out_features, in_features]: [usize; 3],
    out_stride: usize,
    tolerance: Tolerance,
    narrow: fn(f32) -> T,
    wide: fn(T) -> f32,
) {
    let TestGpu { gpu, stream } = TestGpu::new();
    let kernels = Bf16GemmKernels::new(&gpu).expect("the kernels");
    let mut random = Random::new((num_tokens * out_features + in_features) as u64);
    let mut rounded =
        |len: usize| -> Vec<f32> { random.values(len).iter().map(|&value| bf16::from_f32(value).to_f32()).collect() };
    let (x, w) = (rounded(num_tokens * in_features), rounded(out_features * in_features));
    let x_buffer = strided(&gpu, &stream, &x, [num_tokens, in_features, in_features + 8], bf16::from_f32);
    let w_buffer = strided(&gpu, &stream, &w, [out_features, in_features, in_features + 16], bf16::from_f32);
    let mut out = strided(&gpu, &stream, &[], [num_tokens, out_features, out_stride], narrow);
    let args = Bf16Gemm {
        x: x_buffer.view().columns(0..in_features),
        weight: w_buffer.view().columns(0..in_features),
        out: out.view_mut().columns(0..out_features),
    };
    bf16_gemm(&stream, &kernels, args).expect("valid arguments");
    let actual: Vec<f32> = stream.to_vec::<T>(&out).expect("the result").into_iter().map(wide).collect();
    let mut expected = vec![NAN; num_tokens * out_stride];
    for (row, x) in expected.chunks_mut(out_stride).zip(x.chunks(in_features)) {
        for (sum, w) in row.iter_mut().zip(w.chunks(in_features)) {
            *sum = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32;
        }
    }
    assert_close(&actual, &expected, [num_tokens, out_stride], tolerance);
}

#[test]
fn agrees_with_sums_in_f64() {
    let rounded = Tolerance { abs: 1e-4, rel: 1.0 / 256.0, cosine: 5e-6 };
    for (shape, out_stride) in [
        ([1, 1, 8], 1),
        ([2, 7, 64], 8),
        ([17, 130, 72], 131),
        ([129, 131, 200], 133),
        // The yardstick of the emulator's speed.
        ([256, 512, 512], 512),
    ] {
        check(shape, out_stride, rounded, bf16::from_f32, bf16::to_f32);
    }
    let exact = Tolerance { abs: 1e-4, rel: 1e-5, cosine: 1e-10 };
    for (shape, out_stride) in [([1, 1, 8], 1), ([5, 130, 72], 136), ([130, 7, 264], 9)] {
        check(shape, out_stride, exact, |value| value, |value| value);
    }
}

#[test]
fn arguments_that_no_kernel_takes_are_named() {
    let TestGpu { gpu, stream } = TestGpu::new();
    let kernels = Bf16GemmKernels::new(&gpu).expect("the kernels");
    let buffer = |dtype, shape: [usize; 2]| gpu.alloc(dtype, shape).expect("room in the arena");
    let (x, weight, narrow) =
        (buffer(DType::BF16, [4, 64]), buffer(DType::BF16, [6, 64]), buffer(DType::BF16, [4, 60]));
    let (mut out, mut codes) = (buffer(DType::BF16, [4, 6]), buffer(DType::F8E4M3, [4, 6]));
    let mut refusal = |x, weight, into_codes| {
        let out = if into_codes { codes.view_mut() } else { out.view_mut() };
        bf16_gemm(&stream, &kernels, Bf16Gemm { x, weight, out }).expect_err("refused").to_string()
    };
    let (x, weight) = (x.view(), weight.view());
    for (message, expected) in [
        (refusal(narrow.view(), weight, false), "`in_features` is 64 in `weight`, 60 in `x`"),
        (refusal(x.columns(0..12), weight.columns(0..12), false), "`in_features` of 12 is not supported"),
        (refusal(x.columns(4..12), weight.columns(0..8), false), "`x` at "),
        (refusal(narrow.view().columns(0..8), weight.columns(0..8), false), "with rows 60 elements apart"),
        (refusal(x, weight.rows(0..5), false), "`out_features` is 6 in `out`, 5 in `weight`"),
        (refusal(x, weight, true), "`out` of F8_E4M3 is not supported; supported: BF16, F32"),
    ] {
        assert!(message.starts_with("bf16_gemm: ") && message.contains(expected), "{message}");
    }
}
