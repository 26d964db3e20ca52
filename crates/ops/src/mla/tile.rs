//! Attention to one tile of keys at a time (online softmax), for one or several queries that see the same keys.
//!
//! How many queries go together changes no result: each has its own accumulators, and each accumulator meets the keys in
//! ascending order.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::numerics::{Stored, dots, store};
use crate::simd::{LANES, Simd};

/// Keys of one tile.
pub(super) const TILE_KEYS: usize = 64;

/// Queries that go together where the machine has registers for their sums.
pub(super) const TILE_QUERIES: usize = 4;

/// The softmax of one query over the keys met so far: the largest logit, and `Σ_j exp(logit_j - max)`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Softmax {
    max: f32,
    sum: f32,
}

impl Softmax {
    /// No key met.
    pub(super) const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Divides the weighted sum of the values by the sum of the weights; zeros if no key was met.
    #[inline(always)]
    pub(super) fn normalise(self, sums: &mut [f32]) {
        // The largest logit counts for 1, so the sum of any keys at all is not below 1.
        let divisor = if self.sum == 0.0 { 1.0 } else { self.sum };
        sums.iter_mut().for_each(|sum| *sum /= divisor);
    }
}

/// `T` queries, and what they have gathered from the keys met so far.
pub(super) struct Queries<'a, const T: usize> {
    /// Factor on the logits.
    pub(super) scale: f32,
    /// The queries.
    pub(super) queries: [&'a [f32]; T],
    /// Their softmax.
    pub(super) softmax: &'a mut [Softmax; T],
    /// `sums[t] = Σ_j exp(logit_j - max) · value(j)`, with `logit_j = scale · queries[t]·key(j)`.
    pub(super) sums: [&'a mut [f32]; T],
}

/// Lets queries meet the keys `0..num_keys`, from 1 to [`TILE_KEYS`], which all of them see.
#[inline(always)]
pub(super) fn attend<S: Simd, K: Stored, V: Stored, const T: usize>(
    simd: S,
    Queries { scale, queries, softmax, sums }: Queries<'_, T>,
    num_keys: usize,
    key: &impl Fn(usize) -> K,
    value: &impl Fn(usize) -> V,
) {
    // What is past the last key weighs exp(-inf) = 0.
    let mut weights = [[f32::NEG_INFINITY; TILE_KEYS]; T];
    let mut j = 0;
    while j < num_keys {
        if num_keys - j >= 4 {
            let logits = dots(simd, std::array::from_fn::<_, 4, _>(|r| key(j + r)), queries);
            for (r, logits) in logits.into_iter().enumerate() {
                (0..T).for_each(|t| weights[t][j + r] = logits[t] * scale);
            }
            j += 4;
        } else {
            let [logits] = dots(simd, [key(j)], queries);
            (0..T).for_each(|t| weights[t][j] = logits[t] * scale);
            j += 1;
        }
    }
    let mut factors = [1.0; T];
    for t in 0..T {
        let max = largest(&weights[t], softmax[t].max);
        if max != softmax[t].max {
            factors[t] = (softmax[t].max - max).exp();
        }
        let sum = exp_and_sum(simd, &mut weights[t], max);
        softmax[t] = Softmax { max, sum: softmax[t].sum * factors[t] + sum };
    }
    weighted_sums(simd, weights.each_ref().map(|weights| &weights[..num_keys]), value, factors, sums);
}

/// The largest of `values` and `other`. NaN is passed over; it comes out of `exp` again.
#[inline(always)]
fn largest(values: &[f32; TILE_KEYS], other: f32) -> f32 {
    let mut lanes = [other; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.into_iter().fold(other, |max, lane| if lane > max { lane } else { max })
}

/// Replaces each value by `exp(value - max)`; returns their sum.
#[inline(always)]
fn exp_and_sum<S: Simd>(simd: S, values: &mut [f32; TILE_KEYS], max: f32) -> f32 {
    let (one, max) = (simd.splat(1.0), simd.splat(-max));
    let mut sum = simd.splat(0.0);
    for values in values.as_chunks_mut::<LANES>().0 {
        let weights = exp(simd, simd.mul_add(simd.load(values), one, max));
        simd.store(weights, values);
        sum = simd.mul_add(weights, one, sum);
    }
    simd.sum(sum)
}

/// `exp(x)` for `x <= 0`, within two units in the last place; 0 below -87, where results would soon be subnormal. NaN
/// stays NaN.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::F32s) -> S::F32s {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the lowest bits: x = n ln 2 + r, |r| <= ln 2 / 2.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first has so few bits that its products with n are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let one = simd.splat(1.0);
    let shifted = simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), simd.splat(ROUND));
    let n = simd.mul_add(shifted, one, simd.splat(-ROUND));
    let r = simd.mul_add(n, simd.splat(-LN_2_HIGH), x);
    let r = simd.mul_add(n, simd.splat(-LN_2_LOW), r);
    // The Taylor series; what it leaves out is below 6e-9.
    let mut power = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = simd.mul_add(power, r, simd.splat(coefficient));
    }
    let (mut xs, mut ns, mut powers) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    simd.store(x, &mut xs);
    simd.store(shifted, &mut ns);
    simd.store(power, &mut powers);
    for lane in 0..LANES {
        let two_to_the_n = ns[lane].to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        powers[lane] = if xs[lane] < -87.0 { 0.0 } else { powers[lane] * f32::from_bits(two_to_the_n) };
    }
    simd.load(&powers)
}

/// `sums[t] = factors[t] · sums[t] + Σ_j weights[t][j] · row(j)`, `j` ascending.
#[inline(always)]
pub(super) fn weighted_sums<S: Simd, V: Stored, const T: usize>(
    simd: S,
    weights: [&[f32]; T],
    row: &impl Fn(usize) -> V,
    factors: [f32; T],
    mut sums: [&mut [f32]; T],
) {
    if weights[0].is_empty() {
        return;
    }
    let (len, block_len) = (sums[0].len(), row(0).block().max(1));
    let mut start = 0;
    for block in 0..len.div_ceil(block_len) {
        let end = len.min(start + block_len);
        while end - start >= 4 * LANES {
            columns::<S, V, T, 4>(simd, weights, row, factors, &mut sums, block, start);
            start += 4 * LANES;
        }
        while end - start >= LANES {
            columns::<S, V, T, 1>(simd, weights, row, factors, &mut sums, block, start);
            start += LANES;
        }
        if start < end {
            for ((weights, factor), sums) in weights.into_iter().zip(factors).zip(&mut sums) {
                last_columns(simd, weights, row, factor, sums, block, start..end);
            }
            start = end;
        }
    }
}

/// The part of [`weighted_sums`] for `C` vectors of columns from `start`.
#[inline(always)]
fn columns<S: Simd, V: Stored, const T: usize, const C: usize>(
    simd: S,
    weights: [&[f32]; T],
    row: &impl Fn(usize) -> V,
    factors: [f32; T],
    sums: &mut [&mut [f32]; T],
    block: usize,
    start: usize,
) {
    let nothing = simd.splat(0.0);
    let mut accumulators = [[nothing; C]; T];
    for ((accumulators, sums), factor) in accumulators.iter_mut().zip(sums.iter()).zip(factors) {
        let (sums, factor) = ((&**sums).vectors(start, C), simd.splat(factor));
        for (accumulator, sum) in accumulators.iter_mut().zip(sums) {
            *accumulator = simd.mul_add(simd.load(sum), factor, nothing);
        }
    }
    let num_rows = weights[0].len();
    for j in 0..num_rows {
        let row = row(j);
        let (scale, vectors) = (row.scale(simd, block), row.vectors(start, C));
        let mut values = [nothing; C];
        for (c, value) in values.iter_mut().enumerate() {
            *value = V::load_vector(simd, vectors, c, scale);
        }
        for (accumulators, weights) in accumulators.iter_mut().zip(weights) {
            let weight = simd.splat(weights[j]);
            for (accumulator, value) in accumulators.iter_mut().zip(values) {
                *accumulator = simd.mul_add(weight, value, *accumulator);
            }
        }
    }
    for (accumulators, sums) in accumulators.into_iter().zip(sums) {
        for (accumulator, sum) in accumulators.into_iter().zip(sums[start..].as_chunks_mut().0) {
            simd.store(accumulator, sum);
        }
    }
}

/// The part of [`weighted_sums`] for one query and fewer columns than a vector has.
#[inline(always)]
fn last_columns<S: Simd, V: Stored>(
    simd: S,
    weights: &[f32],
    row: &impl Fn(usize) -> V,
    factor: f32,
    sums: &mut [f32],
    block: usize,
    columns: Range<usize>,
) {
    let nothing = simd.splat(0.0);
    let sum = Stored::load(&*sums, simd, columns.start, columns.end, nothing);
    let mut accumulator = simd.mul_add(sum, simd.splat(factor), nothing);
    for (j, &weight) in weights.iter().enumerate() {
        let row = row(j);
        let value = row.load(simd, columns.start, columns.end, row.scale(simd, block));
        accumulator = simd.mul_add(simd.splat(weight), value, accumulator);
    }
    store(simd, accumulator, &mut sums[columns]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, dispatch};

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            simd.store(exp(simd, simd.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_is_good_to_two_units_in_the_last_place() {
        for step in 0..=870_000u32 {
            let x = -(step as f32) / 10_000.0;
            let [got, ..] = if step % 16 == 0 { dispatch(Exp([x; LANES])) } else { continue };
            let expected = f64::from(x).exp();
            let error = ((f64::from(got) - expected) / expected).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) is {got:e}, expected {expected:e}");
        }
    }

    #[test]
    fn exp_of_special_values() {
        let mut x = [0.0; LANES];
        x[..6].copy_from_slice(&[-0.0, -87.1, -1e30, f32::NEG_INFINITY, f32::NAN, -f32::MIN_POSITIVE]);
        let got = dispatch(Exp(x));
        assert_eq!(got[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(got[4].is_nan());
        assert_eq!(got[5..7], [1.0, 1.0]);
    }
}
