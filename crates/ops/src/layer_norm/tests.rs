//! Against the formula in f64.

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::{Random, Tolerance, assert_close};

use super::*;
use crate::reference_util::tensor;
use crate::test_util::{Strided, contexts, narrow, wide};

const EPS: f32 = 1e-6;

fn formula(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let x = wide(x);
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
    narrow(x.iter().zip(wide(weight)).zip(wide(bias)).map(|((x, w), b)| w * (x - mean) * factor + b).collect())
}

fn check(dtype: DType, [num_tokens, dim]: [usize; 2], mean: f32, tolerance: Tolerance) {
    let mut random = Random::new(dim as u64);
    let x: Vec<f32> = random.gaussian(num_tokens * dim).into_iter().map(|x| x + mean).collect();
    let (weight, bias) = (random.vector(dtype, dim), random.vector(dtype, dim));
    let values = |vector: View<'_>| tensor("test", &vector).expect("floats").to_vec1::<f32>().expect("f32");
    let (weight_f32, bias_f32) = (values(weight.view()), values(bias.view()));
    let expected: Vec<f32> = x.chunks_exact(dim.max(1)).flat_map(|row| formula(row, &weight_f32, &bias_f32)).collect();
    for ctx in contexts() {
        let x = Strided::new(&x, [num_tokens, dim]);
        let mut out = Strided::nan([num_tokens, dim]);
        let (weight, bias) = (weight.view(), bias.view());
        layer_norm(&ctx, LayerNorm { x: x.view(), weight, bias, eps: EPS, out: out.view_mut() }).expect("valid");
        assert_close(&out.into_values(), &expected, [num_tokens, dim], tolerance);
    }
}

#[test]
fn agrees_with_the_formula() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in [[0, 8], [3, 0], [1, 7], [3, 16], [129, 65], [5, 128]] {
            check(dtype, shape, 0.0, Tolerance::F32_SUM);
        }
    }
}

#[test]
fn a_single_element_becomes_its_bias() {
    check(DType::F32, [3, 1], 0.0, Tolerance::ZERO);
}

#[test]
fn a_large_mean_costs_no_digits() {
    // The mean of squares minus the square of the mean would keep none.
    check(DType::F32, [4, 128], 1000.0, Tolerance { abs: 2e-3, rel: 1e-3, cosine: 1e-6 });
}

#[test]
fn refusals_name_the_argument() {
    for (weight, bias, out, message) in [
        (5, 4, [2, 4], "layer_norm: `dim` is 5 in `weight`, 4 in `x`"),
        (4, 3, [2, 4], "layer_norm: `dim` is 3 in `bias`, 4 in `x`"),
        (4, 4, [3, 4], "layer_norm: `num_tokens` is 3 in `out`, 2 in `x`"),
    ] {
        for ctx in contexts() {
            let (x, mut out) = (Buffer::zeros(DType::F32, [2, 4]), Buffer::zeros(DType::F32, out));
            let (weight, bias) = (Buffer::zeros(DType::F32, [weight]), Buffer::zeros(DType::F32, [bias]));
            let (weight, bias) = (weight.view(), bias.view());
            let args = LayerNorm { x: x.view(), weight, bias, eps: EPS, out: out.view_mut() };
            assert_eq!(layer_norm(&ctx, args).expect_err(message).to_string(), message);
        }
    }
}
