//! Comparison of results, with a message that says where they differ.

use cachalot_tensor::Shape;

/// How far a result may be from the one expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Each element may be off by this much,
    pub abs: f32,
    /// plus this share of the expected element.
    pub rel: f32,
    /// `1 - 2·Σxy / (Σx² + Σy²)` over all finite elements: catches a small error that all elements share.
    pub cosine: f64,
}

impl Tolerance {
    /// No error at all (but `-0.0` equals `0.0`).
    pub const ZERO: Tolerance = Tolerance { abs: 0.0, rel: 0.0, cosine: 0.0 };

    /// f32 sums in another order.
    pub const F32_SUM: Tolerance = Tolerance { abs: 1e-5, rel: 1e-5, cosine: 1e-10 };
}

/// Panics unless `actual` is close to `expected`.
///
/// NaN and infinities must be at exactly the same places. The message names the coordinates of the worst element in
/// `shape`, and how many elements are beyond the tolerance.
///
/// # Panics
/// As said; also if a length is not that of the shape.
#[track_caller]
pub fn assert_close(actual: &[f32], expected: &[f32], shape: impl Into<Shape>, tolerance: Tolerance) {
    if let Err(message) = compare(actual, expected, shape.into(), tolerance) {
        panic!("{message}");
    }
}

/// Panics unless `actual` is `expected` to the bit, the payload of NaN included.
///
/// # Panics
/// As said; also if a length is not that of the shape.
#[track_caller]
pub fn assert_same_bits(actual: &[f32], expected: &[f32], shape: impl Into<Shape>) {
    let shape = shape.into();
    check_lengths(actual, expected, shape);
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        if actual.to_bits() != expected.to_bits() {
            panic!("at {:?} of {shape}: {actual:e}, expected exactly {expected:e}", coordinates(index, shape));
        }
    }
}

fn compare(actual: &[f32], expected: &[f32], shape: Shape, tolerance: Tolerance) -> Result<(), String> {
    check_lengths(actual, expected, shape);
    let (mut num_bad, mut worst, mut worst_excess) = (0, 0, f64::NEG_INFINITY);
    let (mut product, mut squares) = (0.0, 0.0);
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let (actual, expected) = (f64::from(actual), f64::from(expected));
        let excess = if actual.is_finite() && expected.is_finite() {
            product += actual * expected;
            squares += actual * actual + expected * expected;
            let allowed = f64::from(tolerance.abs) + f64::from(tolerance.rel) * expected.abs();
            (actual - expected).abs() - allowed
        } else if actual == expected || (actual.is_nan() && expected.is_nan()) {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
        if excess > 0.0 {
            num_bad += 1;
        }
        if excess > worst_excess {
            (worst, worst_excess) = (index, excess);
        }
    }
    if num_bad > 0 {
        let (actual, expected, at) = (actual[worst], expected[worst], coordinates(worst, shape));
        return Err(format!(
            "{num_bad} of {} elements are beyond {tolerance:?}; the worst, at {at:?} of {shape}: {actual:e}, expected \
             {expected:e}, off by {:e}",
            shape.num_elements(),
            (actual - expected).abs(),
        ));
    }
    let difference = if squares > 0.0 { 1.0 - 2.0 * product / squares } else { 0.0 };
    // The quotient itself is only good to some units in the last place.
    if difference > tolerance.cosine + 1e-15 {
        return Err(format!("{shape}: cosine difference {difference:e}, at most {:e}", tolerance.cosine));
    }
    Ok(())
}

#[track_caller]
fn check_lengths(actual: &[f32], expected: &[f32], shape: Shape) {
    let elements = shape.num_elements();
    assert!(
        actual.len() == elements && expected.len() == elements,
        "{} elements and {} expected ones for the shape {shape}",
        actual.len(),
        expected.len(),
    );
}

fn coordinates(mut index: usize, shape: Shape) -> Vec<usize> {
    let mut at: Vec<usize> = shape.dims().iter().rev().map(|&dim| (index % dim, index /= dim).0).collect();
    at.reverse();
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;

    fn check(actual: [f32; 6], expected: [f32; 6], tolerance: Tolerance, message: Option<&str>) {
        let result = compare(&actual, &expected, Shape::new(&[2, 3]), tolerance);
        match message {
            None => assert_eq!(result, Ok(())),
            Some(part) => {
                let text = result.expect_err("the difference is seen");
                assert!(text.contains(part), "`{part}` in `{text}`");
            }
        }
    }

    #[test]
    fn differences_are_found_and_located() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let loose = |abs, rel| Tolerance { abs, rel, cosine: 1.0 };
        check(x, x, Tolerance::ZERO, None);
        check([0.0; 6], [-0.0; 6], Tolerance::ZERO, None);
        let off = [1.0, 2.0, 3.0, 4.0, 5.5, 6.25];
        check(off, x, loose(0.5, 0.0), None);
        check(off, x, loose(0.4, 0.0), Some("1 of 6 elements are beyond"));
        check(off, x, loose(0.0, 0.0), Some("2 of 6 elements are beyond"));
        check(off, x, loose(0.0, 0.0), Some("the worst, at [1, 1] of [2, 3]: 5.5e0, expected 5e0, off by 5e-1"));
        check(off, x, loose(0.0, 0.1), None);
        check(off, x, loose(0.0, 0.09), Some("at [1, 1]"));
        check(x.map(|x| x * 1.01), x, Tolerance { abs: 0.0, rel: 0.02, cosine: 1e-6 }, Some("cosine difference 4.9"));
    }

    #[test]
    fn nan_and_infinity_must_be_in_their_places() {
        let x = [NAN, INF, -INF, 0.0, 0.0, 0.0];
        check(x, x, Tolerance::ZERO, None);
        let anything = Tolerance { abs: INF, rel: INF, cosine: 1.0 };
        check([0.0, INF, -INF, 0.0, 0.0, 0.0], x, anything, Some("at [0, 0]"));
        check([NAN, NAN, -INF, 0.0, 0.0, 0.0], x, anything, Some("at [0, 1]"));
        check([NAN, INF, INF, 0.0, 0.0, 0.0], x, anything, Some("at [0, 2]"));
        check([NAN, INF, -INF, 0.0, NAN, 0.0], x, anything, Some("at [1, 1]"));
    }

    #[test]
    #[should_panic(expected = "at [1] of [2]: -0e0, expected exactly 0e0")]
    fn bits_tell_the_zeros_apart() {
        assert_same_bits(&[1.0, -0.0], &[1.0, 0.0], [2]);
    }

    #[test]
    #[should_panic(expected = "2 elements and 3 expected ones for the shape [3]")]
    fn lengths_must_fit() {
        assert_close(&[0.0; 2], &[0.0; 3], [3], Tolerance::ZERO);
    }
}
