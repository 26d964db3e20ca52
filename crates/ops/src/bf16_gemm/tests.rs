//! Odd shapes against sums in f64.

use cachalot_cuda::Gpu;
use cachalot_tensor::{Buffer, Element};
use cachalot_testkit::{Random, Tolerance, assert_close};
use half::bf16;

use super::*;
use crate::test_gpu::{TestGpu, bf16s, f32s};

/// What the columns beside x and the weight hold, and those beside out before and after.
const NAN: f32 = f32::NAN;

/// `[num_rows, num_cols]` values in rows of `stride`, NaN elsewhere.
fn strided<T: Element>(
    gpu: &Gpu,
    stream: &Stream,
    values: &[f32],
    [num_rows, num_cols, stride]: [usize; 3],
    convert: fn(f32) -> T,
) -> Buffer {
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

/// Heads of x with NaN behind their first `in_features`, weights and rows with NaN between them.
fn check_batched(
    [num_tokens, num_heads, x_dim]: [usize; 3],
    [in_features, out_features]: [usize; 2],
    weight_order: WeightOrder,
) {
    let device = TestGpu::new();
    let kernels = Bf16GemmKernels::new(&device.gpu).expect("the kernels");
    let mut random = Random::new((num_tokens * num_heads + in_features + out_features) as u64);
    let (x_row, out_row, weight_row) = (num_heads * x_dim, num_heads * out_features, in_features * out_features);
    let mut x = bf16s(&random.values(num_tokens * x_row));
    for head in x.chunks_mut(x_dim) {
        head[in_features..].fill(bf16::NAN);
    }
    let weight = bf16s(&random.values(num_heads * weight_row));
    let x_device = device.strided([num_tokens, x_row], 8, &x, bf16::NAN);
    let weight_device = device.strided([num_heads, weight_row], 16, &weight, bf16::NAN);
    let mut out = device.strided([num_tokens, out_row], 3, &vec![bf16::NAN; num_tokens * out_row], bf16::NAN);
    let weight_shape = match weight_order {
        WeightOrder::OutIn => [num_heads, out_features, in_features],
        WeightOrder::InOut => [num_heads, in_features, out_features],
    };
    let args = Bf16BatchedGemm {
        x: x_device.view().reshape_rows([num_tokens, num_heads, x_dim]),
        weight: weight_device.view().reshape_rows(weight_shape),
        weight_order,
        out: out.view_mut().reshape_rows([num_tokens, num_heads, out_features]),
    };
    bf16_batched_gemm(&device.stream, &kernels, args).expect("valid arguments");
    let mut expected = Vec::new();
    for (index, x) in f32s(&x).chunks(x_dim).enumerate() {
        let weight = &weight[index % num_heads * weight_row..][..weight_row];
        for o in 0..out_features {
            let weight = |i| match weight_order {
                WeightOrder::OutIn => weight[o * in_features + i],
                WeightOrder::InOut => weight[i * out_features + o],
            };
            expected.push((0..in_features).map(|i| f64::from(x[i]) * weight(i).to_f64()).sum::<f64>() as f32);
        }
    }
    let rounded = Tolerance { abs: 1e-4, rel: 1.0 / 256.0, cosine: 5e-6 };
    assert_close(&f32s(&device.read_strided(&out)), &expected, [num_tokens, num_heads, out_features], rounded);
}

#[test]
fn heads_have_weights_of_their_own() {
    use WeightOrder::{InOut, OutIn};
    // The two products of absorbed attention, then odd sizes.
    check_batched([5, 2, 192], [128, 512], InOut);
    check_batched([5, 2, 512], [512, 128], OutIn);
    for (x, weight, order) in [
        ([1, 1, 8], [8, 8], InOut),
        ([3, 4, 48], [40, 136], InOut),
        ([130, 3, 24], [24, 40], InOut),
        ([2, 3, 40], [40, 21], OutIn),
        ([129, 2, 72], [72, 130], OutIn),
        ([0, 2, 8], [8, 8], OutIn),
    ] {
        check_batched(x, weight, order);
    }
}

#[test]
fn batched_arguments_that_no_kernel_takes_are_named() {
    let device = TestGpu::new();
    let kernels = Bf16GemmKernels::new(&device.gpu).expect("the kernels");
    let refusal = |x: [usize; 3], weight: [usize; 3], weight_order, out: [usize; 3]| {
        let buffer = |shape| device.unwritten(DType::BF16, shape);
        let (x, weight, mut out) = (buffer(x), buffer(weight), buffer(out));
        let args = Bf16BatchedGemm { x: x.view(), weight: weight.view(), weight_order, out: out.view_mut() };
        bf16_batched_gemm(&device.stream, &kernels, args).expect_err("refused").to_string()
    };
    use WeightOrder::{InOut, OutIn};
    for (message, expected) in [
        (refusal([4, 2, 64], [3, 8, 64], OutIn, [4, 2, 8]), "`num_heads` is 3 in `weight`, 2 in `x`"),
        (refusal([4, 2, 64], [2, 64, 8], InOut, [4, 2, 16]), "`out_features` is 16 in `out`, 8 in `weight`"),
        (refusal([4, 2, 64], [2, 64, 12], InOut, [4, 2, 12]), "`columns of weight` of 12 is not supported"),
        (refusal([4, 2, 64], [2, 8, 72], OutIn, [4, 2, 8]), "`x_dim` of 64 with `in_features` of 72"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}
