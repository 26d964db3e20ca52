//! Every kernel on odd shapes against sums in f64.

use cachalot_cuda::Gpu;
use cachalot_tensor::{Buffer, Element, F8E4M3, Matrix, View};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::*;
use crate::test_gpu::TestGpu;

/// The same FP8 inputs: only the order of the sums and the rounding of the result differ.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-5, rel: 1.0 / 256.0, cosine: 5e-6 };

/// Columns of out and of the scales beside those that the kernel may touch.
const GAP: usize = 8;

/// One multiplication: what the host knows of it.
struct Case {
    shape: Fp8GemmShape,
    x: Vec<F8E4M3>,
    x_scale: Vec<f32>,
    weight: Matrix,
}

impl Case {
    fn new(num_tokens: usize, out_features: usize, in_features: usize) -> Self {
        let mut random = Random::new((num_tokens * out_features + in_features) as u64);
        let weight = random.matrix(DType::F8E4M3, [out_features, in_features], [SCALE_BLOCK; 2]);
        let codes = random.matrix(DType::F8E4M3, [num_tokens, in_features], [SCALE_BLOCK; 2]);
        // Codes spread evenly over magnitudes: their root mean square is near 112.
        let scales = in_features / SCALE_BLOCK * num_tokens;
        Case {
            shape: Fp8GemmShape { num_tokens, out_features, in_features },
            x: codes.values().as_slice::<F8E4M3>().expect("FP8").to_vec(),
            x_scale: random.values(scales).iter().map(|value| (1.0 + 0.5 * value) / 112.0).collect(),
            weight,
        }
    }

    /// The first tokens alone.
    fn first(&self, num_tokens: usize) -> Case {
        let Fp8GemmShape { num_tokens: stride, in_features, .. } = self.shape;
        Case {
            shape: Fp8GemmShape { num_tokens, ..self.shape },
            x: self.x[..num_tokens * in_features].to_vec(),
            x_scale: self.x_scale.chunks(stride).flat_map(|row| row[..num_tokens].to_vec()).collect(),
            weight: self.weight.clone(),
        }
    }

    fn expected(&self) -> Vec<f32> {
        let Fp8GemmShape { num_tokens, in_features, .. } = self.shape;
        let x = View::from_slice(&self.x, [num_tokens, in_features]).expect("one per element");
        let x_scale = View::from_slice(&self.x_scale, [in_features / SCALE_BLOCK, num_tokens]).expect("one per group");
        reference(x, x_scale, &self.weight).expect("FP8").iter().map(|&sum| sum as f32).collect()
    }

    /// Runs the kernel of `plan`, or the one that the operation chooses.
    fn run(&self, device: &mut Device, plan: Option<Fp8GemmPlan>) -> Vec<f32> {
        let Fp8GemmShape { num_tokens, out_features, in_features } = self.shape;
        let Device { gpu, stream, kernels } = device;
        let num_groups = in_features / SCALE_BLOCK;
        let scales = self.weight.scales().expect("FP8").scales.as_slice::<f32>().expect("f32");
        let codes = self.weight.values().as_slice::<F8E4M3>().expect("FP8");
        let upload = |shape, values: &[F8E4M3]| filled(gpu, stream, shape, values);
        let x = upload([num_tokens, in_features], &self.x);
        let weight = upload([out_features, in_features], codes);
        let weight_scale = filled(gpu, stream, [out_features.div_ceil(SCALE_BLOCK), num_groups], scales);
        let stride = num_tokens.next_multiple_of(4) + GAP;
        let x_scale: Vec<f32> = (0..num_groups)
            .flat_map(|group| {
                let row = &self.x_scale[group * num_tokens..(group + 1) * num_tokens];
                [row, &vec![f32::NAN; stride - num_tokens]].concat()
            })
            .collect();
        let x_scale = filled(gpu, stream, [num_groups, stride], &x_scale);
        let marks = vec![bf16::from_f32(-77.0); num_tokens * (out_features + GAP)];
        let mut out = filled(gpu, stream, [num_tokens, out_features + GAP], &marks);
        let args = Fp8Gemm {
            x: x.view(),
            x_scale: x_scale.view().columns(0..num_tokens),
            weight: weight.view(),
            weight_scale: weight_scale.view(),
            out: out.view_mut().columns(0..out_features),
        };
        let result = match plan {
            Some(plan) => kernels.run(stream, args, self.shape, plan),
            None => fp8_gemm(stream, kernels, args),
        };
        result.unwrap_or_else(|error| panic!("{plan:?}, {:?}: {error}", self.shape));
        let rows = stream.to_vec::<bf16>(&out).expect("the result");
        let mut values = Vec::new();
        for row in rows.chunks(out_features + GAP) {
            let (row, gap) = row.split_at(out_features);
            assert!(gap.iter().all(|&value| value == marks[0]), "{plan:?}, {:?}: columns beside out", self.shape);
            values.extend(row.iter().map(|value| value.to_f32()));
        }
        values
    }

    fn check(&self, device: &mut Device, plan: Option<Fp8GemmPlan>) {
        let shape = [self.shape.num_tokens, self.shape.out_features];
        assert_close(&self.run(device, plan), &self.expected(), shape, TOLERANCE);
    }
}

/// A GPU and what is made once on it.
struct Device {
    gpu: Gpu,
    stream: Stream,
    kernels: Fp8GemmKernels,
}

impl Device {
    fn new() -> Self {
        let TestGpu { gpu, stream } = TestGpu::new();
        let kernels = Fp8GemmKernels::new(&stream).expect("the kernels");
        Device { gpu, stream, kernels }
    }
}

fn filled<T: Element>(gpu: &Gpu, stream: &Stream, shape: [usize; 2], values: &[T]) -> Buffer {
    let mut buffer = gpu.alloc(T::DTYPE, shape).expect("room in the arena");
    stream.upload(&mut buffer, values).expect("one value per element");
    buffer
}

#[test]
fn few_tokens_by_mma() {
    let mut device = Device::new();
    for (max_tokens, num_splits, [num_tokens, out_features, in_features]) in [
        (8, 1, [1, 8, 128]),
        (8, 1, [2, 64, 256]),
        (8, 3, [7, 72, 1536]),
        (16, 2, [16, 128, 1536]),
        (32, 2, [17, 576, 256]),
        (64, 4, [64, 72, 512]),
        (64, 1, [33, 200, 640]),
    ] {
        let case = Case::new(num_tokens, out_features, in_features);
        case.check(&mut device, Some(Fp8GemmPlan::Small { max_tokens, num_splits }));
    }
}

#[test]
fn few_tokens_by_wgmma() {
    let mut device = Device::new();
    for (max_tokens, num_splits, [num_tokens, out_features, in_features]) in [
        (16, 1, [1, 8, 128]),
        (16, 3, [7, 72, 1536]),
        (16, 2, [16, 576, 256]),
        (64, 2, [17, 128, 1536]),
        (64, 4, [64, 64, 512]),
        (128, 2, [65, 136, 512]),
        (128, 1, [128, 72, 1024]),
    ] {
        let case = Case::new(num_tokens, out_features, in_features);
        case.check(&mut device, Some(Fp8GemmPlan::Sm90Small { max_tokens, num_splits }));
    }
}

#[test]
fn many_tokens_by_mma() {
    let mut device = Device::new();
    for [num_tokens, out_features, in_features] in
        [[1, 8, 128], [2, 64, 256], [17, 128, 640], [65, 72, 256], [129, 576, 256]]
    {
        Case::new(num_tokens, out_features, in_features).check(&mut device, Some(Fp8GemmPlan::Large));
    }
}

#[test]
fn many_tokens_by_wgmma() {
    let mut device = Device::new();
    for (block_m, num_blocks, [num_tokens, out_features, in_features]) in [
        (128, 1, [1, 8, 128]),
        (128, 1, [65, 72, 896]),
        (128, 3, [129, 576, 256]),
        (256, 1, [2, 64, 128]),
        (256, 5, [129, 576, 256]),
        (256, 1, [300, 200, 512]),
        // More tokens than a panel of tiles has.
        (128, 3, [1600, 136, 128]),
    ] {
        let case = Case::new(num_tokens, out_features, in_features);
        case.check(&mut device, Some(Fp8GemmPlan::Sm90 { block_m, num_blocks }));
    }
}

#[test]
fn the_operation_chooses_a_kernel() {
    let mut device = Device::new();
    for num_tokens in [0, 1, 40, 100, 130] {
        Case::new(num_tokens, 136, 512).check(&mut device, None);
    }
}

#[test]
fn a_token_does_not_depend_on_the_others_among_few() {
    let mut device = Device::new();
    let case = Case::new(50, 72, 1024);
    let all = case.run(&mut device, None);
    for num_tokens in [1, 16, 17] {
        let alone = case.first(num_tokens).run(&mut device, None);
        assert_same_bits(&alone, &all[..num_tokens * 72], [num_tokens, 72]);
    }
}

#[test]
fn what_is_no_number_stays_in_its_row() {
    let mut device = Device::new();
    let mut case = Case::new(3, 64, 256);
    case.x[256 + 5] = F8E4M3(0x7f);
    for plan in [
        Fp8GemmPlan::Small { max_tokens: 8, num_splits: 2 },
        Fp8GemmPlan::Sm90Small { max_tokens: 16, num_splits: 2 },
        Fp8GemmPlan::Large,
        Fp8GemmPlan::Sm90 { block_m: 128, num_blocks: 1 },
    ] {
        let out = case.run(&mut device, Some(plan));
        assert!(out.iter().enumerate().all(|(at, value)| value.is_nan() == (at / 64 == 1)), "{plan}");
    }
}

#[test]
fn arguments_that_disagree_are_named() {
    let Device { gpu, stream, mut kernels } = Device::new();
    let buffer = |dtype, shape: [usize; 2]| gpu.alloc(dtype, shape).expect("room in the arena");
    let (x, weight) = (buffer(DType::F8E4M3, [4, 256]), buffer(DType::F8E4M3, [136, 256]));
    let (x_scale, weight_scale) = (buffer(DType::F32, [2, 8]), buffer(DType::F32, [2, 2]));
    let (odd, other) = (buffer(DType::F8E4M3, [4, 128]), buffer(DType::F32, [2, 6]));
    let wide = buffer(DType::F32, [4, 256]);
    let mut out = buffer(DType::BF16, [4, 140]);
    let mut refusal = |x, x_scale, weight_scale, num_columns| {
        let out = out.view_mut().columns(0..num_columns);
        let args = Fp8Gemm { x, x_scale, weight: weight.view(), weight_scale, out };
        fp8_gemm(&stream, &mut kernels, args).expect_err("refused").to_string()
    };
    let (x, x_scale, weight_scale) = (x.view(), x_scale.view().columns(0..4), weight_scale.view());
    for (message, expected) in [
        (refusal(odd.view(), x_scale, weight_scale, 136), "`in_features` is 256 in `weight`, 128 in `x`"),
        (refusal(x, x_scale.columns(0..3), weight_scale, 136), "`num_tokens` is 3 in `x_scale`, 4 in `x`"),
        (
            refusal(x, x_scale, weight_scale.rows(0..1), 136),
            "`out_features / 128` is 1 in `weight_scale`, 2 in `weight`",
        ),
        (refusal(x, x_scale, weight_scale, 128), "`out_features` is 128 in `out`, 136 in `weight`"),
        (refusal(x, x_scale, weight_scale, 136), "with rows 140 elements apart is not supported"),
        (refusal(x, other.view().columns(0..4), weight_scale, 136), "with rows 6 elements apart is not supported"),
        (refusal(wide.view(), x_scale, weight_scale, 136), "`x` of F32 is not supported; supported: F8_E4M3"),
    ] {
        assert!(message.starts_with("fp8_gemm: ") && message.contains(expected), "{message}");
    }
}
