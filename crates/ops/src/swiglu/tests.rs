//! Against the formula in f64.

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::{Random, Tolerance, assert_close};

use super::*;
use crate::test_util::{Strided, contexts};

fn check(gate: &[f32], up: &[f32], shape: [usize; 2]) {
    let expected: Vec<f32> = gate
        .iter()
        .zip(up)
        .map(|(&gate, &up)| (f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up)) as f32)
        .collect();
    for ctx in contexts() {
        let (gate, up) = (Strided::new(gate, shape), Strided::new(up, shape));
        let mut out = Strided::nan(shape);
        swiglu(&ctx, SwiGlu { gate: gate.view(), up: up.view(), out: out.view_mut() }).expect("valid arguments");
        assert_close(&out.into_values(), &expected, shape, Tolerance { abs: 1e-37, rel: 1e-6, cosine: 1e-12 });
    }
}

#[test]
fn agrees_with_the_formula() {
    for shape in [[0, 4], [4, 0], [1, 1], [1, 7], [129, 65], [3, 2048]] {
        let mut random = Random::new(shape[1] as u64);
        let gate: Vec<f32> = random.gaussian(shape[0] * shape[1]).into_iter().map(|g| 4.0 * g).collect();
        check(&gate, &random.gaussian(shape[0] * shape[1]), shape);
    }
}

#[test]
fn large_gates_neither_overflow_nor_vanish_too_early() {
    check(&[-1e30, -80.0, -20.0, -0.0, 0.0, 20.0, 80.0, 1e30], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -2.0], [2, 4]);
    check(&[f32::NAN, 1.0, 1.0, f32::INFINITY], &[1.0, f32::NAN, f32::INFINITY, 1.0], [1, 4]);
}

#[test]
fn refusals_name_the_argument() {
    for (up, out, message) in [
        ([2, 5], [2, 4], "swiglu: `intermediate_size` is 5 in `up`, 4 in `gate`"),
        ([2, 4], [1, 4], "swiglu: `num_tokens` is 1 in `out`, 2 in `gate`"),
    ] {
        for ctx in contexts() {
            let buffer = |shape| Buffer::zeros(DType::F32, shape);
            let (gate, up, mut out) = (buffer([2, 4]), buffer(up), buffer(out));
            let args = SwiGlu { gate: gate.view(), up: up.view(), out: out.view_mut() };
            assert_eq!(swiglu(&ctx, args).expect_err(message).to_string(), message);
        }
    }
}
