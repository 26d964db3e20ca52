//! The tables of special cases, and values known to the last bit.

use super::super::Format;
use super::super::approximate::{Function, approximate, div_approx_f32, div_full_f32};

const INF: u64 = 0x7f80_0000;
const MINUS_INF: u64 = 0xff80_0000;
const MINUS_ZERO: u64 = 0x8000_0000;
const ONE: u64 = 0x3f80_0000;
const MINUS_ONE: u64 = 0xbf80_0000;
const NAN: u64 = 0x7fff_ffff;

#[test]
fn special_cases_are_those_of_the_ptx_isa() {
    use Function::*;
    // Results for -inf, -1, -0, +0, +inf.
    for (function, results) in [
        (Ex2, [0, 0x3f00_0000, ONE, ONE, INF]),
        (Lg2, [NAN, NAN, MINUS_INF, MINUS_INF, INF]),
        (Sin, [NAN, 0xbf57_6aa4, MINUS_ZERO, 0, NAN]),
        (Cos, [NAN, 0x3f0a_5140, ONE, ONE, NAN]),
        (Tanh, [MINUS_ONE, 0xbf42_f7d6, MINUS_ZERO, 0, ONE]),
        (Rcp, [MINUS_ZERO, MINUS_ONE, MINUS_INF, INF, 0]),
        (Sqrt, [NAN, NAN, MINUS_ZERO, 0, INF]),
        (Rsqrt, [NAN, NAN, MINUS_INF, INF, 0]),
    ] {
        let operands = [MINUS_INF, MINUS_ONE, MINUS_ZERO, 0, INF];
        for (operand, expected) in operands.into_iter().zip(results) {
            for ftz in [false, true] {
                let result = approximate(function, operand, Format::F32, ftz);
                assert_eq!(result, expected, "{function:?} {operand:#x}: {result:#x}");
            }
        }
        assert_eq!(approximate(function, 0xff80_0001, Format::F32, false), NAN, "{function:?}");
    }
}

#[test]
fn known_values() {
    use Function::*;
    for (function, operand, expected) in [
        (Ex2, 0.5, std::f32::consts::SQRT_2),
        (Ex2, -149.0, f32::from_bits(1)),
        (Ex2, 128.0, f32::INFINITY),
        (Lg2, 8.0, 3.0),
        (Lg2, f32::from_bits(1), -149.0),
        (Lg2, 10.0, std::f32::consts::LOG2_10),
        (Sin, std::f32::consts::FRAC_PI_6, 0.5),
        (Cos, std::f32::consts::PI, -1.0),
        (Tanh, 20.0, 1.0),
        (Rcp, 3.0, 1.0 / 3.0),
        (Rcp, f32::MAX, 1.0 / f32::MAX),
        (Sqrt, 2.0, std::f32::consts::SQRT_2),
        (Rsqrt, 2.0, std::f32::consts::FRAC_1_SQRT_2),
        (Rsqrt, f32::from_bits(4), 2_f32.powi(73) * std::f32::consts::SQRT_2),
    ] {
        let result = approximate(function, operand.to_bits().into(), Format::F32, false);
        assert_eq!(result as u32, expected.to_bits(), "{function:?} {operand}");
    }
    for (function, operand, format, expected) in [
        (Ex2, 0x3800, Format::F16, 0x3da8),
        (Ex2, 0xcc00, Format::F16, 0x0100),
        (Ex2, 0x4c00, Format::F16, 0x7c00),
        (Ex2, 0x3f00, Format::Bf16, 0x3fb5),
        (Tanh, 0x3c00, Format::F16, 0x3a18),
        (Tanh, 0xbf80, Format::Bf16, 0xbf43),
        (Tanh, 0xfc00, Format::F16, 0xbc00),
        (Ex2, 0x7c01, Format::F16, 0x7fff),
    ] {
        let result = approximate(function, operand, format, format == Format::Bf16);
        assert_eq!(result, expected, "{function:?} {operand:#x} {format:?}: {result:#x}");
    }
}

#[test]
fn subnormals_are_flushed_with_ftz() {
    use Function::*;
    for (function, operand, expected) in [
        (Rcp, 0x8000_0001, MINUS_INF),
        (Rsqrt, 1, INF),
        (Rsqrt, 0x8000_0001, MINUS_INF),
        (Lg2, 0x8000_0001, MINUS_INF),
        (Sqrt, 0x8000_0001, MINUS_ZERO),
        (Sin, 0x807f_ffff, MINUS_ZERO),
        (Rcp, 0xff00_0000, MINUS_ZERO),
        // 2⁻¹²⁶ is normal, 2⁻¹²⁷ is not.
        (Ex2, 0xc2fc_0000, 0x0080_0000),
        (Ex2, 0xc2fe_0000, 0),
    ] {
        let result = approximate(function, operand, Format::F32, true);
        assert_eq!(result, expected, "{function:?} {operand:#x}: {result:#x}");
    }
    assert_eq!(approximate(Ex2, 0xc2fe_0000, Format::F32, false), 0x0040_0000);
    assert_eq!(approximate(Lg2, 0x8000_0001, Format::F32, false), NAN);
}

#[test]
fn approximate_division_loses_huge_divisors() {
    let (one, inf, nan) = (ONE as u32, INF as u32, NAN as u32);
    let two_to_126 = 2_f32.powi(126).to_bits();
    for (a, b, approximate, full) in [
        (one, 0x4040_0000, 0x3eaa_aaab, 0x3eaa_aaab),
        (one, two_to_126, 0x0080_0000, 0x0080_0000),
        (two_to_126, two_to_126 + 1, 0, 0x3f7f_fffe),
        (two_to_126, (two_to_126 + 1) | 1 << 31, 0x8000_0000, 0xbf7f_fffe),
        (inf, two_to_126 + 1, nan, inf),
        (inf, two_to_126, inf, inf),
        (one, 0, inf, inf),
        (0, 0, nan, nan),
        (one, inf, 0, 0),
        (one, nan, nan, nan),
    ] {
        for ftz in [false, true] {
            assert_eq!(div_approx_f32(a, b, ftz), approximate, "{a:#x} / {b:#x}");
            assert_eq!(div_full_f32(a, b, ftz), full, "{a:#x} / {b:#x}");
        }
    }
    assert_eq!((div_full_f32(1, one, false), div_full_f32(1, one, true)), (1, 0));
}
