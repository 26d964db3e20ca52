//! Sixteen f32 lanes, whatever the machine.
//!
//! A [`Kernel`] is written once against [`Simd`] and compiled for AVX-512, for AVX2 and for the build's baseline;
//! [`dispatch`] runs the widest that the processor has. The number of lanes is the same everywhere, so that the order in
//! which a kernel adds is the same everywhere; with FMA so are the results, to the bit.
//!
//! This is the only place of the crate with processor intrinsics.

#![allow(unsafe_code)]

use half::{bf16, f16};

/// Lanes of one vector.
pub(crate) const LANES: usize = 16;

/// Operations on vectors of [`LANES`] f32. A value of the implementing type is the proof that the processor can do them.
pub(crate) trait Simd: Copy {
    /// One vector.
    type F32s: Copy;

    /// Whether sixteen accumulators fit into the registers.
    const MANY_REGISTERS: bool;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::F32s;
    /// Reads a vector.
    fn load(self, values: &[f32; LANES]) -> Self::F32s;
    /// Reads a vector, widening each value exactly.
    fn load_bf16(self, values: &[bf16; LANES]) -> Self::F32s;
    /// Reads a vector, widening each value exactly.
    fn load_f16(self, values: &[f16; LANES]) -> Self::F32s;
    /// Prepares the factor of [`load_e4m3`](Self::load_e4m3).
    fn e4m3_scale(self, scale: f32) -> Self::F32s;
    /// Reads a vector of e4m3 values, each times the scale, rounded once. NaN stays NaN.
    fn load_e4m3(self, values: &[u8; LANES], scale: Self::F32s) -> Self::F32s;
    /// Writes a vector.
    fn store(self, values: Self::F32s, to: &mut [f32; LANES]);
    /// `a * b + c`, rounded once where the processor has FMA.
    fn mul_add(self, a: Self::F32s, b: Self::F32s, c: Self::F32s) -> Self::F32s;

    /// The sum of the lanes, halves first: lane `i` meets lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    #[inline(always)]
    fn sum(self, values: Self::F32s) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(values, &mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// A computation written against [`Simd`].
///
/// `run` and all that it calls down to the vector operations must be `#[inline(always)]`, or it is compiled for the
/// baseline, where every vector operation becomes a call. That excludes closures around vector operations, `array::map`
/// and `array::from_fn` among them, and calling `run` from one: call [`dispatch`] inside the closure instead.
pub(crate) trait Kernel {
    /// Result.
    type Output;
    /// Computes.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` on the widest vectors of this processor.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = x86::Avx512::detect() {
            return simd.run(kernel);
        }
        if let Some(simd) = x86::Avx2::detect() {
            return simd.run(kernel);
        }
    }
    kernel.run(Portable)
}

/// Plain arrays, which the compiler vectorises as far as the baseline goes.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type F32s = [f32; LANES];

    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    #[inline(always)]
    fn load_bf16(self, values: &[bf16; LANES]) -> [f32; LANES] {
        values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }

    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> [f32; LANES] {
        values.map(f16::to_f32)
    }

    #[inline(always)]
    fn e4m3_scale(self, scale: f32) -> [f32; LANES] {
        [scale; LANES]
    }

    #[inline(always)]
    fn load_e4m3(self, values: &[u8; LANES], scale: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| crate::numerics::E4M3_TO_F32[values[lane] as usize] * scale[lane])
    }

    #[inline(always)]
    fn store(self, values: [f32; LANES], to: &mut [f32; LANES]) {
        *to = values;
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        // Without FMA in the baseline `mul_add` would be a call of the C library per lane.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
        } else {
            std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{Kernel, LANES, Simd};

    /// One 512-bit register per vector. Only [`Avx512::detect`] makes one.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// Two 256-bit registers per vector. Only [`Avx2::detect`] makes one.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    impl Avx512 {
        #[inline(always)]
        pub(super) fn detect() -> Option<Self> {
            let found =
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && Avx2::detect().is_some();
            found.then_some(Avx512(()))
        }

        #[inline(always)]
        pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
            fn inner<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
                kernel.run(simd)
            }
            // SAFETY: `self` comes from `detect`, which found the features that `inner` is compiled for.
            unsafe { inner(self, kernel) }
        }
    }

    impl Avx2 {
        #[inline(always)]
        pub(super) fn detect() -> Option<Self> {
            let found =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            found.then_some(Avx2(()))
        }

        #[inline(always)]
        pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn inner<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
                kernel.run(simd)
            }
            // SAFETY: `self` comes from `detect`, which found the features that `inner` is compiled for.
            unsafe { inner(self, kernel) }
        }
    }

    /// e4m3 as f16, 2^8 too small: the magnitude moves to below the sign, where the exponent bias is 15 instead of 7.
    /// Subnormals are exact and cost nothing extra; the two NaN codes become NaN.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn e4m3_to_f16(values: &[u8; LANES]) -> __m256i {
        // SAFETY: the caller vouches for AVX2; the load reads the 16 bytes of `values`, at any alignment.
        unsafe {
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(values.as_ptr().cast()));
            // The sign was widened with the number: bit 15 is right, bit 14 is one copy too many.
            let halves = _mm256_andnot_si256(_mm256_set1_epi16(0x4000), _mm256_slli_epi16(codes, 7));
            // One more in the last place of a magnitude of ones carries into bit 14: the exponent of NaN.
            let carry = _mm256_add_epi16(halves, _mm256_set1_epi16(0x0080));
            _mm256_or_si256(halves, _mm256_and_si256(carry, _mm256_set1_epi16(0x4000)))
        }
    }

    impl Simd for Avx512 {
        type F32s = __m512;

        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, values: &[f32; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; 16 f32 are read, at any alignment.
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }

        #[inline(always)]
        fn load_bf16(self, values: &[bf16; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; 16 values of two bytes are read, at any alignment.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }

        #[inline(always)]
        fn load_f16(self, values: &[f16; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; 16 values of two bytes are read, at any alignment.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
        }

        #[inline(always)]
        fn e4m3_scale(self, scale: f32) -> __m512 {
            self.splat(scale * 256.0)
        }

        #[inline(always)]
        fn load_e4m3(self, values: &[u8; LANES], scale: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F and AVX2.
            unsafe { _mm512_mul_ps(_mm512_cvtph_ps(e4m3_to_f16(values)), scale) }
        }

        #[inline(always)]
        fn store(self, values: __m512, to: &mut [f32; LANES]) {
            // SAFETY: `self` proves AVX-512F; 16 f32 are written, at any alignment.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    impl Simd for Avx2 {
        type F32s = [__m256; 2];

        const MANY_REGISTERS: bool = false;

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn load(self, values: &[f32; LANES]) -> [__m256; 2] {
            let [low, high] = halves(values);
            // SAFETY: `self` proves AVX2; twice 8 f32 are read, at any alignment.
            unsafe { [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())] }
        }

        #[inline(always)]
        fn load_bf16(self, values: &[bf16; LANES]) -> [__m256; 2] {
            let [low, high] = halves(values);
            // SAFETY: `self` proves AVX2; twice 8 values of two bytes are read, at any alignment.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(low.as_ptr().cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().cast()));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
            }
        }

        #[inline(always)]
        fn load_f16(self, values: &[f16; LANES]) -> [__m256; 2] {
            let [low, high] = halves(values);
            // SAFETY: `self` proves AVX2 and F16C; twice 8 values of two bytes are read, at any alignment.
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(low.as_ptr().cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(high.as_ptr().cast())),
                ]
            }
        }

        #[inline(always)]
        fn e4m3_scale(self, scale: f32) -> [__m256; 2] {
            self.splat(scale * 256.0)
        }

        #[inline(always)]
        fn load_e4m3(self, values: &[u8; LANES], scale: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2 and F16C.
            unsafe {
                let halves = e4m3_to_f16(values);
                let low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
                let high = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves));
                [_mm256_mul_ps(low, scale[0]), _mm256_mul_ps(high, scale[1])]
            }
        }

        #[inline(always)]
        fn store(self, values: [__m256; 2], to: &mut [f32; LANES]) {
            let (low, high) = to.split_at_mut(LANES / 2);
            // SAFETY: `self` proves AVX2; each half holds the 8 f32 that are written, at any alignment.
            unsafe {
                _mm256_storeu_ps(low.as_mut_ptr(), values[0]);
                _mm256_storeu_ps(high.as_mut_ptr(), values[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves FMA.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }

    #[inline(always)]
    fn halves<T>(values: &[T; LANES]) -> [&[T]; 2] {
        let (low, high) = values.split_at(LANES / 2);
        [low, high]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code through every load, against plain arithmetic, on every implementation that this machine has.
    #[inline(always)]
    fn check<S: Simd>(simd: S) {
        let stored = |vector: S::F32s| {
            let mut lanes = [0.0; LANES];
            simd.store(vector, &mut lanes);
            lanes.map(f32::to_bits).map(canonical_nan)
        };
        for scale in [1.0, 0.1, 3e-9] {
            for first in (0..=255u8).step_by(LANES) {
                let codes: [u8; LANES] = std::array::from_fn(|lane| first + lane as u8);
                let expected = codes.map(|code| crate::numerics::E4M3_TO_F32[code as usize] * scale);
                let got = stored(simd.load_e4m3(&codes, simd.e4m3_scale(scale)));
                assert_eq!(got, expected.map(f32::to_bits).map(canonical_nan), "codes from {first} times {scale}");
            }
        }
        for first in (0..=u16::MAX).step_by(LANES) {
            let bits: [u16; LANES] = std::array::from_fn(|lane| first + lane as u16);
            let (b, h) = (bits.map(bf16::from_bits), bits.map(f16::from_bits));
            assert_eq!(stored(simd.load_bf16(&b)), b.map(|v| canonical_nan(v.to_f32().to_bits())));
            assert_eq!(stored(simd.load_f16(&h)), h.map(|v| canonical_nan(v.to_f32().to_bits())));
        }
        let ramp: [f32; LANES] = std::array::from_fn(|lane| lane as f32 + 0.5);
        assert_eq!(stored(simd.load(&ramp)), ramp.map(f32::to_bits));
        let sum = simd.mul_add(simd.load(&ramp), simd.splat(2.0), simd.splat(1.0));
        assert_eq!(stored(sum), ramp.map(|v| (v * 2.0 + 1.0).to_bits()));
        assert_eq!(simd.sum(simd.load(&ramp)), 128.0);
        // The order of the sum is part of the contract: 1e8 and -1e8 are eight lanes apart and meet first.
        let mut order = [1.0; LANES];
        (order[3], order[11]) = (1e8, -1e8);
        assert_eq!(simd.sum(simd.load(&order)), 14.0);
    }

    fn canonical_nan(bits: u32) -> u32 {
        if f32::from_bits(bits).is_nan() { f32::NAN.to_bits() } else { bits }
    }

    #[test]
    fn all_implementations_agree() {
        struct Check;
        impl Kernel for Check {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                check(simd);
            }
        }
        check(Portable);
        dispatch(Check);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = x86::Avx2::detect() {
            simd.run(Check);
        }
    }
}
