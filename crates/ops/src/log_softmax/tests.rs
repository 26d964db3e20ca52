//! Against the formula in f64, with masked, huge and impossible logits.

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::{Random, Tolerance, assert_close};

use super::*;
use crate::test_util::{Strided, contexts, narrow, wide};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn formula(x: &[f32]) -> Vec<f32> {
    let x = wide(x);
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    narrow(x.iter().map(|x| x - max - log_sum).collect())
}

fn check(x: &[f32], shape: [usize; 2]) {
    let expected: Vec<f32> = x.chunks_exact(shape[1].max(1)).flat_map(formula).collect();
    for ctx in contexts() {
        let x = Strided::new(x, shape);
        let mut out = Strided::nan(shape);
        log_softmax(&ctx, LogSoftmax { x: x.view(), out: out.view_mut() }).expect("valid arguments");
        assert_close(&out.into_values(), &expected, shape, Tolerance { abs: 2e-5, rel: 1e-6, cosine: 1e-10 });
    }
}

#[test]
fn agrees_with_the_formula() {
    for shape in [[0, 4], [3, 0], [1, 1], [1, 7], [129, 65], [2, 129_280]] {
        let x: Vec<f32> = Random::new(3).gaussian(shape[0] * shape[1]).into_iter().map(|x| 5.0 * x).collect();
        check(&x, shape);
    }
}

#[test]
fn large_logits_do_not_overflow() {
    check(&[1e4, 1e4 - 1.0, -1e4, 3e38, -3e38, 0.0], [2, 3]);
}

#[test]
fn masked_logits_stay_masked() {
    check(&[-INF, 1.0, 2.0, -INF], [1, 4]);
}

#[test]
fn rows_without_a_distribution_are_nan() {
    for row in [[-INF; 3], [INF, 0.0, 1.0], [NAN, 0.0, 1.0], [0.0, NAN, INF]] {
        for ctx in contexts() {
            let x = [row, [0.0; 3]].concat();
            let mut out = [0.0; 6];
            let (x, to) = (View::from_slice(&x, [2, 3]), ViewMut::from_slice(&mut out, [2, 3]));
            let args = LogSoftmax { x: x.expect("six values"), out: to.expect("six values") };
            log_softmax(&ctx, args).expect("valid arguments");
            assert!(out[..3].iter().all(|v| v.is_nan()), "{row:?} on {:?}: {out:?}", ctx.device());
            assert!(out[3..].iter().all(|v| (v + 3f32.ln()).abs() < 1e-6), "{row:?} on {:?}: {out:?}", ctx.device());
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    for (out, dtype, message) in [
        ([2, 5], DType::F32, "log_softmax: `vocab_size` is 5 in `out`, 4 in `x`"),
        ([3, 4], DType::F32, "log_softmax: `num_rows` is 3 in `out`, 2 in `x`"),
        ([2, 4], DType::F16, "log_softmax: `out` of F16 is not supported; supported: F32"),
    ] {
        for ctx in contexts() {
            let (x, mut out) = (Buffer::zeros(DType::F32, [2, 4]), Buffer::zeros(dtype, out));
            let error = log_softmax(&ctx, LogSoftmax { x: x.view(), out: out.view_mut() }).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }
}
