//! Every dtype and odd shape against sums in f64; the order of sums; the meaning of scales.

use cachalot_tensor::{BlockScales, Buffer, DType, F8E4M3, Tensor};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::*;
use crate::reference_util::dequantise;
use crate::test_util::{Strided, contexts, wide};

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3];

fn check(dtype: DType, num_tokens: usize, [out_features, in_features]: [usize; 2], block: [usize; 2]) {
    let mut random = Random::new((out_features * in_features) as u64);
    let weight = random.matrix(dtype, [out_features, in_features], block);
    let x = random.gaussian(num_tokens * in_features);
    let weight_f32 = dequantise("test", &weight).expect("floats").to_vec2::<f32>().expect("f32");
    let dot = |t: usize, w: &[f32]| {
        let x = wide(&x[t * in_features..(t + 1) * in_features]);
        x.iter().zip(wide(w)).map(|(x, w)| x * w).sum::<f64>() as f32
    };
    let expected: Vec<f32> =
        (0..num_tokens).flat_map(|t| weight_f32.iter().map(|w| dot(t, w)).collect::<Vec<_>>()).collect();
    let strided = Strided::new(&x, [num_tokens, in_features]);
    for ctx in contexts() {
        let mut out = Strided::nan([num_tokens, out_features]);
        linear(&ctx, Linear { x: strided.view(), weight: &weight, out: out.view_mut() }).expect("valid arguments");
        assert_close(&out.into_values(), &expected, [num_tokens, out_features], Tolerance::F32_SUM);
    }
}

#[test]
fn agrees_with_sums_in_f64() {
    for dtype in DTYPES {
        for (num_tokens, shape) in [
            (0, [3, 5]),
            (1, [1, 1]),
            (1, [7, 1]),
            (7, [1, 7]),
            (1, [65, 129]),
            (2, [16, 16]),
            (5, [65, 129]),
            (4, [20, 128]),
            (9, [37, 576]),
            (3, [0, 8]),
            (2, [4, 0]),
        ] {
            check(dtype, num_tokens, shape, [128, 128]);
        }
        check(dtype, 1, [5, 7168], [128, 128]);
        check(dtype, 6, [5, 7168], [128, 128]);
    }
}

#[test]
fn blocks_of_any_size() {
    for block in [[1, 1], [3, 5], [128, 128], [16, 48], [1000, 1000]] {
        for num_tokens in [1, 6] {
            // The last block row and column are partial, as those of kv_a_proj_with_mqa (576 rows) are.
            check(DType::F8E4M3, num_tokens, [150, 200], block);
        }
    }
}

#[test]
fn scale_inv_multiplies() {
    let values = Tensor::from_slice(&[F8E4M3(0x40)], [1, 1]).expect("one value");
    let scales = Tensor::from_slice(&[0.5f32], [1, 1]).expect("one value");
    let weight = Matrix::new(values, Some(BlockScales { scales, block: [128, 128] })).expect("one block");
    for ctx in contexts() {
        let mut out = [0.0];
        let (x, out_view) = (View::from_slice(&[3.0f32], [1, 1]), ViewMut::from_slice(&mut out, [1, 1]));
        linear(&ctx, Linear { x: x.expect("one"), weight: &weight, out: out_view.expect("one") }).expect("valid");
        assert_eq!(out, [3.0], "3 * (2 * 0.5)");
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for dtype in DTYPES {
        for [out_features, in_features] in [[33, 129], [19, 1536]] {
            let mut random = Random::new(4);
            let weight = random.matrix(dtype, [out_features, in_features], [128, 128]);
            let num_tokens = 11;
            let x = random.gaussian(num_tokens * in_features);
            let mut of_cpu = None;
            for ctx in contexts() {
                let run = |x: &[f32]| {
                    let num_tokens = x.len() / in_features;
                    let mut out = vec![f32::NAN; num_tokens * out_features];
                    let args = Linear {
                        x: View::from_slice(x, [num_tokens, in_features]).expect("whole rows"),
                        weight: &weight,
                        out: ViewMut::from_slice(&mut out, [num_tokens, out_features]).expect("whole rows"),
                    };
                    linear(&ctx, args).expect("valid arguments");
                    out
                };
                let together = run(&x);
                for chunk in [1, 2, 4, 7] {
                    let apart: Vec<f32> = x.chunks(chunk * in_features).flat_map(run).collect();
                    assert_same_bits(&apart, &together, [num_tokens, out_features]);
                }
                if ctx.device() == Device::Cpu {
                    let first = of_cpu.get_or_insert_with(|| together.clone());
                    assert_same_bits(&together, first, [num_tokens, out_features]);
                }
            }
        }
    }
}

#[test]
fn nan_reaches_its_own_outputs_only() {
    let mut values = vec![F8E4M3(0x38); 6 * 20];
    values[2 * 20 + 19] = F8E4M3(0x7f);
    let values = Tensor::from_slice(&values, [6, 20]).expect("120 values");
    let scales = Tensor::from_slice(&[1.0f32; 6], [3, 2]).expect("six values");
    let weight = Matrix::new(values, Some(BlockScales { scales, block: [2, 16] })).expect("blocks");
    let mut x = vec![1.0f32; 5 * 20];
    x[3 * 20 + 1] = f32::INFINITY;
    for ctx in contexts() {
        let mut out = vec![0.0; 5 * 6];
        let args = Linear {
            x: View::from_slice(&x, [5, 20]).expect("100 values"),
            weight: &weight,
            out: ViewMut::from_slice(&mut out, [5, 6]).expect("30 values"),
        };
        linear(&ctx, args).expect("valid arguments");
        for (index, value) in out.into_iter().enumerate() {
            match (index / 6, index % 6) {
                (_, 2) => assert!(value.is_nan(), "the weight of output 2 is NaN"),
                (3, _) => assert_eq!(value, f32::INFINITY),
                _ => assert_eq!(value, 20.0),
            }
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let mut random = Random::new(1);
    let bf16 = random.matrix(DType::BF16, [4, 6], [1, 1]);
    let unscaled = Matrix::new(random.matrix(DType::F8E4M3, [4, 6], [8, 8]).values().clone(), None).expect("a matrix");
    let bytes = Matrix::new(Tensor::from_slice(&[0u8; 24], [4, 6]).expect("24 values"), None).expect("a matrix");
    for (weight, x, x_dtype, out, message) in [
        (&bf16, [2, 5], DType::F32, [2, 4], "linear: `in_features` is 6 in `weight`, 5 in `x`"),
        (&bf16, [2, 6], DType::F32, [2, 5], "linear: `out_features` is 5 in `out`, 4 in `weight`"),
        (&bf16, [2, 6], DType::F32, [3, 4], "linear: `num_tokens` is 3 in `out`, 2 in `x`"),
        (&bf16, [2, 6], DType::BF16, [2, 4], "linear: `x` of BF16 is not supported; supported: F32"),
        (
            &unscaled,
            [2, 6],
            DType::F32,
            [2, 4],
            "linear: a F8_E4M3 weight without block scales is not supported; supported: F32, F16, BF16 without and \
             F8_E4M3 with block scales",
        ),
        (
            &bytes,
            [2, 6],
            DType::F32,
            [2, 4],
            "linear: a U8 weight without block scales is not supported; supported: F32, F16, BF16 without and F8_E4M3 \
             with block scales",
        ),
    ] {
        for ctx in contexts() {
            let (x, mut out) = (Buffer::zeros(x_dtype, x), Buffer::zeros(DType::F32, out));
            let error = linear(&ctx, Linear { x: x.view(), weight, out: out.view_mut() }).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }
}

#[test]
fn ranks_are_checked() {
    let weight = Random::new(1).matrix(DType::F32, [4, 6], [1, 1]);
    for ctx in contexts() {
        let (x, mut out) = (Buffer::zeros(DType::F32, [2, 3, 2]), Buffer::zeros(DType::F32, [2, 4]));
        let error = linear(&ctx, Linear { x: x.view(), weight: &weight, out: out.view_mut() }).expect_err("rank 3");
        assert_eq!(error.to_string(), "linear: `x` has shape [2, 3, 2], expected dimensions [num_tokens, in_features]");
    }
}
