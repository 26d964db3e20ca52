//! Against the formula in f64, with and without residual.

use cachalot_tensor::{Buffer, DType, View};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::*;
use crate::reference_util::tensor;
use crate::test_util::{Strided, contexts, narrow, wide};

const EPS: f32 = 1e-6;

/// The formula in f64, of one row.
fn formula(r: &[f32], weight: &[f32]) -> Vec<f32> {
    let r = wide(r);
    let mean_square = r.iter().map(|r| r * r).sum::<f64>() / r.len() as f64;
    let factor = 1.0 / (mean_square + f64::from(EPS)).sqrt();
    narrow(r.iter().zip(wide(weight)).map(|(r, w)| w * r * factor).collect())
}

fn check(dtype: DType, [num_tokens, dim]: [usize; 2], size: f32, with_residual: bool) {
    let mut random = Random::new(dim as u64);
    let scaled = |values: Vec<f32>| values.into_iter().map(|v| v * size).collect::<Vec<f32>>();
    let (x, residual) = (scaled(random.gaussian(num_tokens * dim)), scaled(random.gaussian(num_tokens * dim)));
    let weight = random.vector(dtype, dim);
    let weight_f32 = tensor("test", &weight.view()).expect("floats").to_vec1::<f32>().expect("f32");
    let sum: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| residual + x).collect();
    let normed = if with_residual { &sum } else { &x };
    let expected: Vec<f32> = normed.chunks_exact(dim.max(1)).flat_map(|row| formula(row, &weight_f32)).collect();
    for ctx in contexts() {
        let x = Strided::new(&x, [num_tokens, dim]);
        let mut residual = Strided::new(&residual, [num_tokens, dim]);
        let mut out = Strided::nan([num_tokens, dim]);
        let args = RmsNorm {
            x: x.view(),
            weight: weight.view(),
            eps: EPS,
            residual: with_residual.then(|| residual.view_mut()),
            out: out.view_mut(),
        };
        rms_norm(&ctx, args).expect("valid arguments");
        assert_close(&out.into_values(), &expected, [num_tokens, dim], Tolerance::F32_SUM);
        if with_residual {
            assert_same_bits(&residual.into_values(), &sum, [num_tokens, dim]);
        }
    }
}

#[test]
fn agrees_with_the_formula() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in [[0, 8], [3, 0], [1, 1], [1, 7], [3, 16], [129, 65], [2, 7168]] {
            for with_residual in [false, true] {
                check(dtype, shape, 1.0, with_residual);
            }
        }
    }
}

#[test]
fn eps_carries_rows_near_zero() {
    check(DType::F32, [2, 64], 1e-4, false);
    check(DType::F32, [2, 64], 0.0, false);
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (num_tokens, dim) = (40, 513);
    let x = Random::new(5).gaussian(num_tokens * dim);
    let weight = Random::new(6).vector(DType::BF16, dim);
    for ctx in contexts() {
        let run = |x: &[f32]| {
            let shape = [x.len() / dim, dim];
            let mut out = vec![f32::NAN; x.len()];
            let args = RmsNorm {
                x: View::from_slice(x, shape).expect("whole rows"),
                weight: weight.view(),
                eps: EPS,
                residual: None,
                out: ViewMut::from_slice(&mut out, shape).expect("whole rows"),
            };
            rms_norm(&ctx, args).expect("valid arguments");
            out
        };
        let alone: Vec<f32> = x.chunks_exact(dim).flat_map(run).collect();
        assert_same_bits(&run(&x), &alone, [num_tokens, dim]);
    }
}

#[test]
fn nan_stays_in_its_row() {
    let weight = [1.0f32; 4];
    for ctx in contexts() {
        let mut out = [0.0f32; 8];
        let args = RmsNorm {
            x: View::from_slice(&[f32::NAN, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], [2, 4]).expect("eight values"),
            weight: View::from_slice(&weight, [4]).expect("four values"),
            eps: 0.0,
            residual: None,
            out: ViewMut::from_slice(&mut out, [2, 4]).expect("eight values"),
        };
        rms_norm(&ctx, args).expect("valid arguments");
        assert!(out[..4].iter().all(|v| v.is_nan()));
        assert_eq!(out[4..], [1.0; 4]);
    }
}

#[test]
fn refusals_name_the_argument() {
    for (weight, residual, out, message) in [
        (5, [2, 4], [2, 4], "rms_norm: `dim` is 5 in `weight`, 4 in `x`"),
        (4, [2, 4], [2, 5], "rms_norm: `dim` is 5 in `out`, 4 in `x`"),
        (4, [2, 4], [1, 4], "rms_norm: `num_tokens` is 1 in `out`, 2 in `x`"),
        (4, [3, 4], [2, 4], "rms_norm: `num_tokens` is 3 in `residual`, 2 in `x`"),
    ] {
        for ctx in contexts() {
            let buffer = |shape| Buffer::zeros(DType::F32, shape);
            let (x, weight) = (buffer([2, 4]), Buffer::zeros(DType::F32, [weight]));
            let (mut residual, mut out) = (buffer(residual), buffer(out));
            let (residual, out) = (Some(residual.view_mut()), out.view_mut());
            let args = RmsNorm { x: x.view(), weight: weight.view(), eps: EPS, residual, out };
            assert_eq!(rms_norm(&ctx, args).expect_err(message).to_string(), message);
        }
    }
}
