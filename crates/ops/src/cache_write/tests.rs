//! Rows land in their slots and nowhere else.

use cachalot_tensor::Buffer;
use cachalot_testkit::{Random, assert_same_bits};
use half::bf16;

use super::*;
use crate::reference_util::tensor;
use crate::test_util::{Strided, contexts};

/// A cache of NaN.
fn empty(dtype: DType, shape: [usize; 3]) -> Buffer {
    let mut cache = Buffer::zeros(dtype, shape);
    match dtype {
        DType::BF16 => cache.view_mut().into_slice::<bf16>().expect("bf16").fill(bf16::NAN),
        _ => cache.view_mut().into_slice::<f32>().expect("f32").fill(f32::NAN),
    }
    cache
}

fn check(dtype: DType, rows: &[f32], slots: &[u32], shape: [usize; 3], tokens_by_slot: &[(usize, usize)]) {
    let dim = shape[2];
    let round = |value: f32| if dtype == DType::BF16 { bf16::from_f32(value).to_f32() } else { value };
    let mut expected = vec![f32::NAN; shape.iter().product()];
    for &(slot, token) in tokens_by_slot {
        for i in 0..dim {
            expected[slot * dim + i] = round(rows[token * dim + i]);
        }
    }
    for ctx in contexts() {
        let rows = Strided::new(rows, [slots.len(), dim]);
        let mut cache = empty(dtype, shape);
        let args = CacheWrite { rows: rows.view(), slot_mapping: slots, cache: cache.view_mut() };
        cache_write(&ctx, args).expect("valid arguments");
        let cached = tensor("test", &cache.view()).expect("floats").flatten_all().expect("contiguous");
        assert_same_bits(&cached.to_vec1::<f32>().expect("f32"), &expected, shape);
    }
}

#[test]
fn rows_land_in_their_slots() {
    for dtype in [DType::F32, DType::BF16] {
        let rows = Random::new(1).gaussian(3 * 7);
        check(dtype, &rows, &[9, 0, 4], [5, 2, 7], &[(9, 0), (0, 1), (4, 2)]);
        check(dtype, &[], &[], [5, 2, 7], &[]);
        check(dtype, &[], &[1, 1], [5, 2, 0], &[]);
        check(dtype, &[1.5], &[0], [1, 1, 1], &[(0, 0)]);
        let rows = Random::new(2).gaussian(130 * 65);
        let slots: Vec<u32> = (0..130).map(|token| token * 7 % 192).collect();
        let placed: Vec<(usize, usize)> = slots.iter().enumerate().map(|(t, &slot)| (slot as usize, t)).collect();
        check(dtype, &rows, &slots, [3, 64, 65], &placed);
    }
}

#[test]
fn the_later_of_two_tokens_stays() {
    for dtype in [DType::F32, DType::BF16] {
        check(dtype, &[1.0, 2.0, 3.0], &[2, 0, 2], [2, 2, 1], &[(0, 1), (2, 2)]);
    }
}

#[test]
fn bf16_rounds_to_nearest_even_and_keeps_nan() {
    let step = 2f32.powi(-8);
    for ctx in contexts() {
        let rows = [1.0 + step, 1.0 + 3.0 * step, f32::NAN, f32::INFINITY, 3.4e38];
        let mut cache = empty(DType::BF16, [1, 1, 5]);
        let rows = View::from_slice(&rows, [1, 5]).expect("five values");
        cache_write(&ctx, CacheWrite { rows, slot_mapping: &[0], cache: cache.view_mut() }).expect("valid arguments");
        let cached: Vec<f32> =
            cache.view().as_slice::<bf16>().expect("bf16").iter().map(|value| value.to_f32()).collect();
        assert_eq!(cached[..2], [1.0, 1.0 + 4.0 * step], "both were half way between two bf16");
        assert!(cached[2].is_nan());
        assert_eq!(cached[3..], [f32::INFINITY; 2], "the last rounds up past the largest bf16");
    }
}

#[test]
fn refusals_name_the_argument_and_write_nothing() {
    for (slots, cache, dtype, message) in [
        (vec![0, 10], [5, 2, 3], DType::F32, "cache_write: `slot_mapping[1]` is 10, must be below 10"),
        (vec![u32::MAX, 0], [5, 2, 3], DType::BF16, "cache_write: `slot_mapping[0]` is 4294967295, must be below 10"),
        (vec![0], [5, 2, 3], DType::F32, "cache_write: `num_tokens` is 1 in `slot_mapping`, 2 in `rows`"),
        (vec![0, 1], [5, 2, 4], DType::F32, "cache_write: `dim` is 4 in `cache`, 3 in `rows`"),
        (vec![0, 1], [5, 2, 3], DType::F16, "cache_write: `cache` of F16 is not supported; supported: F32, BF16"),
    ] {
        for ctx in contexts() {
            let (rows, mut cache) = ([1.0f32; 6], Buffer::zeros(dtype, cache));
            let rows = View::from_slice(&rows, [2, 3]).expect("six values");
            let args = CacheWrite { rows, slot_mapping: &slots, cache: cache.view_mut() };
            assert_eq!(cache_write(&ctx, args).expect_err(message).to_string(), message);
            assert!(cache.view().bytes().unwrap().iter().all(|&byte| byte == 0), "{message}");
        }
    }
}
