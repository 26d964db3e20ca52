//! Both layouts against the rotation in f64, and the frequencies against published values.

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

use super::*;
use crate::test_util::{Strided, contexts};

const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Interleaved, RopeLayout::HalfSplit];

struct Case {
    /// num_tokens, num_heads, head_dim
    shape: [usize; 3],
    rotary_start: usize,
    rotary_dim: usize,
    attention_factor: f32,
}

fn check(Case { shape, rotary_start, rotary_dim, attention_factor }: Case, layout: RopeLayout) {
    let [num_tokens, num_heads, head_dim] = shape;
    let mut random = Random::new(shape.iter().sum::<usize>() as u64);
    let x = random.gaussian(num_tokens * num_heads * head_dim);
    let positions = random.ids(num_tokens, 163_840);
    let inv_freq = yarn_inv_freq(rotary_dim, 10_000.0, Some(&DEEPSEEK_V3));
    let mut expected = x.clone();
    for (row, head) in expected.chunks_exact_mut(head_dim.max(1)).enumerate() {
        for (j, inv_freq) in inv_freq.iter().enumerate() {
            let [first, second] = match layout {
                RopeLayout::Interleaved => [2 * j, 2 * j + 1],
                RopeLayout::HalfSplit => [j, j + rotary_dim / 2],
            };
            // The angle is an f32 by definition; what follows is exact to f64.
            let (sin, cos) = f64::from(positions[row / num_heads] as f32 * inv_freq).sin_cos();
            let (a, b) = (f64::from(head[rotary_start + first]), f64::from(head[rotary_start + second]));
            head[rotary_start + first] = ((a * cos - b * sin) * f64::from(attention_factor)) as f32;
            head[rotary_start + second] = ((a * sin + b * cos) * f64::from(attention_factor)) as f32;
        }
    }
    for ctx in contexts() {
        let strided = Strided::new(&x, [num_tokens, num_heads * head_dim]);
        let mut out = Strided::nan([num_tokens, num_heads * head_dim]);
        let args = Rope {
            x: strided.view().reshape_rows(shape),
            positions: &positions,
            inv_freq: &inv_freq,
            attention_factor,
            layout,
            rotary_start,
            out: out.view_mut().reshape_rows(shape),
        };
        rope(&ctx, args).expect("valid arguments");
        assert_close(&out.into_values(), &expected, shape, Tolerance { abs: 1e-6, rel: 1e-6, cosine: 1e-12 });
    }
}

#[test]
fn agrees_with_the_rotation_in_f64() {
    for layout in LAYOUTS {
        for (shape, rotary_start, rotary_dim) in [
            ([0, 2, 8], 0, 8),
            ([1, 1, 2], 0, 2),
            ([3, 5, 192], 128, 64),
            ([3, 64, 128], 0, 64),
            ([65, 1, 64], 0, 64),
            ([129, 3, 7], 1, 4),
            ([2, 2, 5], 5, 0),
        ] {
            check(Case { shape, rotary_start, rotary_dim, attention_factor: 1.0 }, layout);
        }
        check(Case { shape: [4, 2, 32], rotary_start: 8, rotary_dim: 16, attention_factor: 1.25 }, layout);
    }
}

/// One head at position 1 with a quarter turn per position in the first pair and no turn in the others.
fn quarter_turn(layout: RopeLayout, rotary_start: usize) -> Vec<[f32; 8]> {
    let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let run = |ctx: &Context| {
        let mut out = [f32::NAN; 8];
        let args = Rope {
            x: View::from_slice(&x, [1, 1, 8]).expect("eight values"),
            positions: &[1],
            inv_freq: &[std::f32::consts::FRAC_PI_2, 0.0, 0.0],
            attention_factor: 1.0,
            layout,
            rotary_start,
            out: ViewMut::from_slice(&mut out, [1, 1, 8]).expect("eight values"),
        };
        rope(ctx, args).expect("valid arguments");
        out.map(|value| (value * 1e4).round() / 1e4)
    };
    contexts().iter().map(run).collect()
}

#[test]
fn rope_main_is_interleaved() {
    for out in quarter_turn(RopeLayout::Interleaved, 2) {
        assert_eq!(out, [1.0, 2.0, -4.0, 3.0, 5.0, 6.0, 7.0, 8.0], "elements 2 and 3 are a pair");
    }
}

#[test]
fn rope_indexer_is_half_split() {
    for out in quarter_turn(RopeLayout::HalfSplit, 0) {
        assert_eq!(out, [-4.0, 2.0, 3.0, 1.0, 5.0, 6.0, 7.0, 8.0], "elements 0 and 3 of six are a pair");
    }
}

#[test]
fn position_zero_changes_nothing() {
    let x = Random::new(1).gaussian(2 * 16);
    for ctx in contexts() {
        for layout in LAYOUTS {
            let mut out = vec![f32::NAN; 32];
            let args = Rope {
                x: View::from_slice(&x, [1, 2, 16]).expect("32 values"),
                positions: &[0],
                inv_freq: &yarn_inv_freq(16, 10_000.0, None),
                attention_factor: 1.0,
                layout,
                rotary_start: 0,
                out: ViewMut::from_slice(&mut out, [1, 2, 16]).expect("32 values"),
            };
            rope(&ctx, args).expect("valid arguments");
            assert_same_bits(&out, &x, [1, 2, 16]);
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    for (positions, rotary_start, out, dtype, message) in [
        (3, 0, [2, 1, 8], DType::F32, "rope: `num_tokens` is 2 in `out`, 3 in `x`"),
        (2, 0, [3, 1, 8], DType::F32, "rope: `num_tokens` is 2 in `positions`, 3 in `x`"),
        (3, 0, [3, 2, 8], DType::F32, "rope: `num_heads` is 2 in `out`, 1 in `x`"),
        (3, 0, [3, 1, 9], DType::F32, "rope: `head_dim` is 9 in `out`, 8 in `x`"),
        (3, 0, [3, 1, 8], DType::BF16, "rope: `out` of BF16 is not supported; supported: F32"),
        (3, 5, [3, 1, 8], DType::F32, "rope: `rotary_dim` is 4 in `inv_freq`, at most 3 from `rotary_start` 5 on"),
        (3, 9, [3, 1, 8], DType::F32, "rope: `rotary_dim` is 4 in `inv_freq`, at most 0 from `rotary_start` 9 on"),
    ] {
        for ctx in contexts() {
            let (x, mut out) = (Buffer::zeros(DType::F32, [3, 1, 8]), Buffer::zeros(dtype, out));
            let args = Rope {
                x: x.view(),
                positions: &vec![0; positions],
                inv_freq: &[0.0; 2],
                attention_factor: 1.0,
                layout: RopeLayout::Interleaved,
                rotary_start,
                out: out.view_mut(),
            };
            assert_eq!(rope(&ctx, args).expect_err(message).to_string(), message);
        }
    }
}

/// The rope_scaling of the DeepSeek-V3 releases.
const DEEPSEEK_V3: Yarn =
    Yarn { factor: 40.0, original_max_position_embeddings: 4096, beta_fast: 32.0, beta_slow: 1.0 };

#[test]
fn yarn_frequencies_of_deepseek_v3() {
    let inv_freq = yarn_inv_freq(64, 10_000.0, Some(&DEEPSEEK_V3));
    assert_eq!(inv_freq.len(), 32);
    for (j, expected) in [
        (0, 1.0),
        (1, 7.498942e-1),
        (10, 5.623413e-2),
        (11, 3.900693e-2),
        (16, 5.5e-3),
        (20, 7.905694e-4),
        (22, 1.778279e-4),
        (23, 3.333804e-5),
        (31, 3.333804e-6),
    ] {
        assert!((inv_freq[j] / expected - 1.0).abs() < 5e-7, "inv_freq[{j}] = {}, expected {expected}", inv_freq[j]);
    }
}

#[test]
fn yarn_leaves_fast_frequencies_and_divides_slow_ones() {
    for (rotary_dim, theta, yarn) in [
        (64, 10_000.0, DEEPSEEK_V3),
        (128, 1e6, Yarn { factor: 4.0, original_max_position_embeddings: 32_768, beta_fast: 32.0, beta_slow: 1.0 }),
        // All frequencies turn often enough; none does; the bounds meet.
        (8, 10.0, Yarn { factor: 2.0, original_max_position_embeddings: 1 << 20, beta_fast: 32.0, beta_slow: 1.0 }),
        (8, 1e9, Yarn { factor: 2.0, original_max_position_embeddings: 1, beta_fast: 32.0, beta_slow: 1.0 }),
        (2, 1e9, Yarn { factor: 2.0, original_max_position_embeddings: 7, beta_fast: 1.0, beta_slow: 1.0 }),
    ] {
        let plain = yarn_inv_freq(rotary_dim, theta, None);
        let scaled = yarn_inv_freq(rotary_dim, theta, Some(&yarn));
        let ratios: Vec<f64> = plain.iter().zip(&scaled).map(|(plain, scaled)| f64::from(plain / scaled)).collect();
        assert!(ratios.is_sorted_by(|a, b| *a <= b + 1e-5), "{yarn:?}: {ratios:?}");
        assert!(ratios.iter().all(|ratio| (1.0 - 1e-6..=yarn.factor + 1e-5).contains(ratio)), "{yarn:?}: {ratios:?}");
    }
    let unscaled = Yarn { factor: 1.0, ..DEEPSEEK_V3 };
    assert_eq!(yarn_inv_freq(64, 10_000.0, Some(&unscaled)), yarn_inv_freq(64, 10_000.0, None));
}
