//! The one order of scores: highest first, NaN last. What is equal in it is ordered by index.

use std::cmp::Ordering;

/// Orders scores from the best to the worst. NaN is lower than any score, and 0 equals -0.
pub(crate) fn best_first(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
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
}
