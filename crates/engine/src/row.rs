//! Passes over one row of logits, each a loop that the compiler turns into vector instructions.
//!
//! Every sum has an order that depends on the length of the row alone.

use crate::sampler::SampleError;

/// Independent lanes of a running maximum or sum.
const LANES: usize = 16;

/// Elements that are looked at together: whole vectors, small enough to be looked at again.
pub(crate) const CHUNK: usize = 256;

/// The largest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Peak {
    /// Where it stands first.
    pub(crate) id: u32,
    pub(crate) logit: f32,
}

/// Finds the largest logit, the first of equals.
///
/// # Errors
/// If a logit is NaN or +∞, or all are −∞.
pub(crate) fn peak(logits: &[f32]) -> Result<Peak, SampleError> {
    let mut best = f32::NEG_INFINITY;
    let mut best_start = 0;
    let mut has_nan = false;
    for (chunk, start) in logits.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let (max, chunk_has_nan) = max_and_nan(chunk);
        has_nan |= chunk_has_nan;
        if max > best {
            (best, best_start) = (max, start);
        }
    }
    if has_nan || best == f32::INFINITY {
        return Err(SampleError::NotFinite);
    }
    if best == f32::NEG_INFINITY {
        return Err(SampleError::NothingLeft);
    }
    let offset =
        logits[best_start..].iter().position(|&logit| logit == best).expect("the largest logit is in its chunk");
    Ok(Peak { id: (best_start + offset) as u32, logit: best })
}

/// The largest element that is a number, and whether one is not.
fn max_and_nan(chunk: &[f32]) -> (f32, bool) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    // As numbers, so that the lanes stay vectors.
    let mut nans = [0u32; LANES];
    let (vectors, rest) = chunk.as_chunks::<LANES>();
    for vector in vectors {
        for ((max, nan), &x) in maxima.iter_mut().zip(&mut nans).zip(vector) {
            *max = if x > *max { x } else { *max };
            *nan |= u32::from(x.is_nan());
        }
    }
    let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    (max, nans.iter().any(|&nan| nan != 0) || rest.iter().any(|x| x.is_nan()))
}

/// The largest element of a chunk without NaN.
pub(crate) fn max(chunk: &[f32]) -> f32 {
    max_and_nan(chunk).0
}

/// `weights[i] = exp((logits[i] − max) · scale)`, with `max` the largest logit and `0 < scale < ∞`.
pub(crate) fn exponentials(logits: &[f32], max: f32, scale: f32, weights: &mut [f32]) {
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        *weight = exp_of_negative((logit - max) * scale);
    }
}

/// `exp(x)` for `x ≤ 0`, within 2 units in the last place; 0 below −87, where f32 leaves its normal range.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; `exp(r)` is its Taylor polynomial of degree 7, the error of which is below
/// 0.35⁸ / 8! = 6e-9. The standard library's `exp` is a call per element, which keeps the loop from being vectorised.
fn exp_of_negative(x: f32) -> f32 {
    /// 1.5·2²³: adding it leaves a number near 0 rounded to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with so few bits that `n · LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let polynomial = 1.0 / 5040.0;
    let polynomial = polynomial * r + 1.0 / 720.0;
    let polynomial = polynomial * r + 1.0 / 120.0;
    let polynomial = polynomial * r + 1.0 / 24.0;
    let polynomial = polynomial * r + 1.0 / 6.0;
    let polynomial = polynomial * r + 0.5;
    let polynomial = polynomial * r + 1.0;
    let polynomial = polynomial * r + 1.0;
    // 2ⁿ: n is in the low bits of `shifted`, and moves into the exponent; what stands above it is shifted out.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { polynomial * power }
}

/// The sum of each chunk of [`CHUNK`] elements, and of all.
pub(crate) fn chunk_sums(weights: &[f32], sums: &mut Vec<f64>) -> f64 {
    sums.clear();
    sums.extend(weights.chunks(CHUNK).map(sum));
    sums.iter().sum()
}

fn sum(chunk: &[f32]) -> f64 {
    let mut sums = [0.0f32; LANES];
    let (vectors, rest) = chunk.as_chunks::<LANES>();
    for vector in vectors {
        for (sum, &x) in sums.iter_mut().zip(vector) {
            *sum += x;
        }
    }
    sums.iter().chain(rest).map(|&x| f64::from(x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_the_first_of_the_largest() {
        let check = |logits: &[(usize, f32)], expected: Result<(u32, f32), SampleError>| {
            // Odd lengths, so that the largest also stands in the rest of a chunk and in the last chunk.
            let mut row = vec![-1.0; 3 * CHUNK + 21];
            for &(id, logit) in logits {
                row[id] = logit;
            }
            assert_eq!(peak(&row).map(|peak| (peak.id, peak.logit)), expected, "{logits:?}");
        };
        check(&[], Ok((0, -1.0)));
        check(&[(5, 2.0)], Ok((5, 2.0)));
        check(&[(700, 2.0), (400, 2.0), (401, 2.0)], Ok((400, 2.0)));
        check(&[(788, 2.0)], Ok((788, 2.0)));
        check(&[(5, f32::NEG_INFINITY), (6, 3.0)], Ok((6, 3.0)));
        check(&[(6, 3.0), (1, f32::NAN)], Err(SampleError::NotFinite));
        check(&[(6, 3.0), (788, f32::NAN)], Err(SampleError::NotFinite));
        check(&[(6, f32::INFINITY)], Err(SampleError::NotFinite));
        assert_eq!(peak(&[f32::NEG_INFINITY; 40]), Err(SampleError::NothingLeft));
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = 0.0f32;
        while x > -87.0 {
            let (got, expected) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!((got / expected - 1.0).abs() < 2.4e-7, "exp({x}) = {expected}, got {got}");
            x -= 0.000_913;
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-87.1), 0.0);
        assert_eq!(exp_of_negative(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn sums_cover_every_element() {
        let weights: Vec<f32> = (0..2 * CHUNK + 19).map(|i| i as f32).collect();
        let mut sums = Vec::new();
        let expected: usize = (0..weights.len()).sum();
        assert_eq!(chunk_sums(&weights, &mut sums), expected as f64);
        assert_eq!(sums.len(), 3);
    }
}
