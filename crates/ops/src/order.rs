//! The one order of scores: highest first, NaN last. What is equal in it is ordered by index.

use std::cmp::Ordering;

/// Orders scores from the best to the worst. NaN is lower than any score, and 0 equals -0.
pub(crate) fn best_first(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// A number that is larger the better the score is, and equal for equal scores: [`best_first`] for sorting by integers.
pub(crate) fn sort_key(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    // Adding 0 turns -0 into 0. Magnitudes compare like integers; negative ones the other way around.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_first_then_nan_and_equal_ones_in_place() {
        let nan = f32::NAN;
        let scores = [nan, 0.0, -0.0, f32::NEG_INFINITY, 1.0, f32::INFINITY, -nan, 1.0];
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| best_first(scores[a], scores[b]));
        assert_eq!(order, [5, 4, 7, 1, 2, 3, 0, 6]);
    }

    #[test]
    fn sort_keys_have_the_same_order() {
        let (min, tiny) = (f32::MIN_POSITIVE, f32::from_bits(1));
        let scores = [
            f32::NAN,
            -f32::NAN,
            f32::NEG_INFINITY,
            f32::MIN,
            -1.5,
            -1.0,
            -min,
            -tiny,
            -0.0,
            0.0,
            tiny,
            min,
            1.0,
            f32::INFINITY,
        ];
        for a in scores {
            for b in scores {
                assert_eq!(sort_key(b).cmp(&sort_key(a)), best_first(a, b), "{a} and {b}");
            }
        }
    }
}
