//! The random stream of a request.
//!
//! A request's `n`-th token is chosen with the number that belongs to `(seed, n)`, computed on the spot by a counter-based
//! generator. There is no state to carry, so neither the neighbours in the batch nor a preemption change what a seed yields.

/// Philox4x32-10: ten rounds over a 128-bit counter with a 64-bit key.
///
/// # Source
/// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let multiply = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let ([mut x0, mut x1, mut x2, mut x3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (high0, low0) = multiply(MULTIPLIERS[0], x0);
        let (high1, low1) = multiply(MULTIPLIERS[1], x2);
        (x0, x1, x2, x3) = (high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0);
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [x0, x1, x2, x3]
}

/// A number in `[0, 1)`, a multiple of 2⁻⁵³, that depends on the seed and the index only.
pub(crate) fn uniform(seed: u64, index: u64) -> f64 {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let [index0, index1] = halves(index);
    let [low, high, _, _] = philox4x32([index0, index1, 0, 0], halves(seed));
    let bits = (u64::from(high) << 32) | u64::from(low);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the generator's first implementation.
    #[test]
    fn philox_gives_the_known_answers() {
        let check = |counter, key, expected| assert_eq!(philox4x32(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn uniform_is_pinned() {
        // What a seed yields is part of the interface: these change only with a note in the changelog.
        let check = |seed, index, bits: u64| assert_eq!(uniform(seed, index), bits as f64 / (1u64 << 53) as f64);
        check(0, 0, 0xe169_c58d_6627_e8d5 >> 11);
        assert_ne!(uniform(0, 1), uniform(1, 0));
        assert_ne!(uniform(1 << 32, 0), uniform(0, 0));
        assert_ne!(uniform(0, 1 << 32), uniform(0, 0));
    }

    #[test]
    fn uniform_is_uniform() {
        // 64 cells of 1,000 expected: the chi-squared statistic has mean 63 and deviation 11.2.
        let mut counts = [0u32; 64];
        for index in 0..64_000 {
            counts[(uniform(42, index) * 64.0) as usize] += 1;
        }
        let chi_squared: f64 = counts.iter().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
        assert!((30.0..120.0).contains(&chi_squared), "{chi_squared}");
    }
}
