//! Formats and roundings against slow definitions; the files below hold the tests of the other modules.

mod approximate;
mod arithmetic;
mod compare;
mod exact;
mod integer;

use super::*;

const ROUNDINGS: [Rounding; 5] =
    [Rounding::NearestEven, Rounding::NearestAway, Rounding::Zero, Rounding::Down, Rounding::Up];

/// Formats with sign, exponent and fraction that fit 16 bits, and the exponent bias, fraction bits and number of
/// non-negative finite values of each.
const SMALL: [(Format, i32, i32, u64); 7] = [
    (Format::F16, 15, 10, 0x7c00),
    (Format::Bf16, 127, 7, 0x7f80),
    (Format::E4m3, 7, 3, 0x7f),
    (Format::E5m2, 15, 2, 0x7c),
    (Format::E2m1, 1, 1, 8),
    (Format::E2m3, 1, 3, 32),
    (Format::E3m2, 3, 2, 32),
];

/// The definition of a format's non-negative values, as the standards write it.
fn value_of(code: u64, bias: i32, fraction_bits: i32) -> f64 {
    let exponent = (code >> fraction_bits) as i32;
    let fraction = (code % (1 << fraction_bits)) as f64 / 2_f64.powi(fraction_bits);
    match exponent {
        0 => fraction * 2_f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2_f64.powi(exponent - bias),
    }
}

/// A generator of test bits (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[test]
fn every_code_has_its_value_and_comes_back() {
    for (format, bias, fraction_bits, finite) in SMALL {
        let sign = format.sign_mask();
        for code in 0..finite {
            let value = value_of(code, bias, fraction_bits);
            for (bits, value) in [(code, value), (code | sign, -value)] {
                assert_eq!(to_f64(bits, format).to_bits(), value.to_bits(), "{format:?} {bits:#x}");
                for rounding in ROUNDINGS {
                    let back = from_f64(value, format, rounding, Saturate::None);
                    assert_eq!(back, bits, "{format:?} {value} {rounding:?}");
                }
            }
        }
        for code in finite..sign {
            let infinite = format.layout().has_infinity && code == finite;
            for (bits, infinity) in [(code, f64::INFINITY), (code | sign, f64::NEG_INFINITY)] {
                let value = to_f64(bits, format);
                assert_eq!(value.is_nan(), !infinite, "{format:?} {bits:#x}");
                assert!(value.is_nan() || value == infinity, "{format:?} {bits:#x}");
                assert_eq!(format.is_nan(bits), !infinite, "{format:?} {bits:#x}");
                let back = if infinite { bits } else { format.nan() };
                assert_eq!(from_f64(value, format, Rounding::NearestEven, Saturate::None), back);
            }
        }
    }
}

#[test]
fn half_precision_agrees_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (f16, bf16) = (half::f16::from_bits(bits).to_f64(), half::bf16::from_bits(bits).to_f64());
        for (value, format) in [(f16, Format::F16), (bf16, Format::Bf16)] {
            let ours = to_f64(bits.into(), format);
            assert!(ours.to_bits() == value.to_bits() || ours.is_nan() && value.is_nan(), "{format:?} {bits:#x}");
        }
    }
}

#[test]
fn tf32_is_f32_without_thirteen_bits() {
    let mut random = Random(1);
    for _ in 0..10_000 {
        let bits = random.next() & 0xffff_ffff;
        let cut = f64::from(f32::from_bits(bits as u32 & !0x1fff));
        let value = to_f64(bits, Format::Tf32);
        // A NaN whose payload is in the cut bits alone reads as an infinity.
        assert!(value.to_bits() == cut.to_bits() || value.is_nan() && cut.is_nan(), "{bits:#x}");
    }
    let tf32 =
        |bits: u32, rounding| convert(bits.into(), Format::F32, Format::Tf32, rounding, Saturate::None, false) as u32;
    for (bits, even, away, zero) in [
        (0x3f80_0000, 0x3f80_0000, 0x3f80_0000, 0x3f80_0000),
        (0x3f80_1000, 0x3f80_0000, 0x3f80_2000, 0x3f80_0000),
        (0xbf80_1000, 0xbf80_0000, 0xbf80_2000, 0xbf80_0000),
        (0x3f80_0fff, 0x3f80_0000, 0x3f80_0000, 0x3f80_0000),
        (0x3f80_1001, 0x3f80_2000, 0x3f80_2000, 0x3f80_0000),
        (0x3f80_3000, 0x3f80_4000, 0x3f80_4000, 0x3f80_2000),
        (0x0000_1000, 0x0000_0000, 0x0000_2000, 0x0000_0000),
        (0x7f7f_ffff, 0x7f80_0000, 0x7f80_0000, 0x7f7f_e000),
        (0x7f80_0001, 0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff),
    ] {
        assert_eq!(tf32(bits, Rounding::NearestEven), even, "{bits:#x}");
        assert_eq!(tf32(bits, Rounding::NearestAway), away, "{bits:#x}");
        assert_eq!(tf32(bits, Rounding::Zero), zero, "{bits:#x}");
    }
}

/// The neighbours of a magnitude are `code` and `code + 1`, and `middle` is half way: which of the two it becomes.
fn slow_rounding(magnitude: f64, negative: bool, code: u64, below: f64, middle: f64, rounding: Rounding) -> u64 {
    let up = match rounding {
        Rounding::NearestEven => magnitude > middle || magnitude == middle && code % 2 == 1,
        Rounding::NearestAway => magnitude >= middle,
        Rounding::Zero => false,
        Rounding::Down => negative && magnitude > below,
        Rounding::Up => !negative && magnitude > below,
    };
    code + u64::from(up)
}

#[test]
fn values_between_two_codes_are_rounded_to_one_of_them() {
    for (format, bias, fraction_bits, finite) in SMALL {
        let layout = format.layout();
        for code in 0..finite {
            // One step above the largest value is where the next would be.
            let (below, above) = (value_of(code, bias, fraction_bits), value_of(code + 1, bias, fraction_bits));
            let middle = (below + above) / 2.0;
            let near = [below.next_up(), middle.next_down(), middle, middle.next_up(), above.next_down()];
            for magnitude in near {
                for (rounding, negative) in ROUNDINGS.into_iter().flat_map(|r| [(r, false), (r, true)]) {
                    let expected = slow_rounding(magnitude, negative, code, below, middle, rounding);
                    let value = if negative { -magnitude } else { magnitude };
                    let sign = if negative { format.sign_mask() } else { 0 };
                    let free = if expected == finite { layout.overflow } else { expected };
                    let held = expected.min(finite - 1);
                    for (saturate, expected) in [(Saturate::None, free), (Saturate::Finite, held)] {
                        let bits = from_f64(value, format, rounding, saturate);
                        assert_eq!(bits, sign | expected, "{format:?} {value:e} {rounding:?} {saturate:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn f32_is_rounded_like_the_other_formats() {
    // Two ways to the same bits: the comparison of neighbours for f32, and the integer rounding of all formats.
    let layout = Format::F32.layout();
    let mut random = Random(2);
    let check = |value: f64| {
        let bits = value.to_bits();
        let (significand, exponent) = match (bits >> 52) as i32 & 0x7ff {
            0 => (bits & ((1 << 52) - 1), -1074),
            field => (bits & ((1 << 52) - 1) | 1 << 52, field - 1075),
        };
        for rounding in ROUNDINGS {
            let expected = round(value < 0.0, significand, exponent, layout, rounding);
            let got = from_f64(value, Format::F32, rounding, Saturate::None);
            assert_eq!(got, expected, "{value:e} {rounding:?}");
        }
    };
    for _ in 0..100_000 {
        // Exponents from below the smallest subnormal to above the largest value.
        let exponent = 1023 - 155 + random.next() % 290;
        let sign = random.next() << 63;
        let fraction = (random.next() & ((1 << 52) - 1)) >> (random.next() % 2 * 23) << (random.next() % 2 * 29);
        check(f64::from_bits(sign | exponent << 52 | fraction & ((1 << 52) - 1)));
        let low = f32::from_bits(random.next() as u32 & 0x7f7f_ffff);
        let middle = (f64::from(low) + f64::from(low.next_up()).min(power_of_two(128))) / 2.0;
        for value in [middle, middle.next_up(), middle.next_down()] {
            check(value);
            check(-value);
        }
    }
    for value in [1e-300, -1e-300, 1e300, -1e300, f64::from_bits(1), 2_f64.powi(-150), 2_f64.powi(-149)] {
        check(value);
    }
}

#[test]
fn results_outside_a_range() {
    let nan = f64::NAN;
    for (value, format, saturate, expected) in [
        (-0.5, Format::F16, Saturate::Zero1, 0),
        (-0.0, Format::F16, Saturate::Zero1, 0),
        (0.5, Format::F16, Saturate::Zero1, 0x3800),
        (1.5, Format::F32, Saturate::Zero1, 0x3f80_0000),
        (nan, Format::F32, Saturate::Zero1, 0),
        (nan, Format::F32, Saturate::None, 0x7fff_ffff),
        (nan, Format::F16, Saturate::Relu, 0x7fff),
        (nan, Format::Bf16, Saturate::None, 0x7fff),
        (nan, Format::E4m3, Saturate::Finite, 0x7f),
        (nan, Format::E5m2, Saturate::Finite, 0x7f),
        (nan, Format::E2m1, Saturate::Finite, 0x7),
        (nan, Format::E2m3, Saturate::Finite, 0x1f),
        (-1.0, Format::Bf16, Saturate::Relu, 0),
        (-0.0, Format::Bf16, Saturate::Relu, 0),
        (f64::NEG_INFINITY, Format::Bf16, Saturate::Relu, 0),
        (f64::INFINITY, Format::Bf16, Saturate::Relu, 0x7f80),
        (f64::INFINITY, Format::Bf16, Saturate::ReluFinite, 0x7f7f),
        (-1e9, Format::F16, Saturate::Finite, 0xfbff),
        (f64::INFINITY, Format::F32, Saturate::Finite, 0x7f7f_ffff),
        (1e300, Format::F32, Saturate::None, 0x7f80_0000),
        (500.0, Format::E4m3, Saturate::Finite, 0x7e),
        (-500.0, Format::E4m3, Saturate::Finite, 0xfe),
        (f64::NEG_INFINITY, Format::E5m2, Saturate::Finite, 0xfb),
        (f64::NEG_INFINITY, Format::E5m2, Saturate::None, 0xfc),
        (464.0, Format::E4m3, Saturate::None, 0x7e),
        (465.0, Format::E4m3, Saturate::None, 0x7f),
        (100.0, Format::E2m1, Saturate::Finite, 0x7),
        (nan, Format::F64, Saturate::None, 0xfff8_0000_0000_0000),
    ] {
        let bits = from_f64(value, format, Rounding::NearestEven, saturate);
        assert_eq!(bits, expected, "{value} {format:?} {saturate:?}");
    }
}

#[test]
fn powers_of_two_without_a_sign() {
    for code in 0..=254 {
        let value = to_f64(code, Format::Ue8m0);
        assert_eq!(value, 2_f64.powi(code as i32 - 127));
        for value in [value, -value] {
            assert_eq!(from_f64(value, Format::Ue8m0, Rounding::Up, Saturate::Finite), code);
            assert_eq!(from_f64(value, Format::Ue8m0, Rounding::Zero, Saturate::Finite), code);
        }
        let above = value.next_up();
        assert_eq!(from_f64(above, Format::Ue8m0, Rounding::Zero, Saturate::Finite), code);
        assert_eq!(from_f64(above, Format::Ue8m0, Rounding::Up, Saturate::Finite), (code + 1).min(254));
        assert_eq!(from_f64(above, Format::Ue8m0, Rounding::Up, Saturate::None), code + 1);
    }
    assert!(to_f64(0xff, Format::Ue8m0).is_nan());
    for (value, saturate, expected) in [
        (0.0, Saturate::Finite, 0),
        (1e-300, Saturate::Finite, 0),
        (f64::INFINITY, Saturate::Finite, 254),
        (f64::INFINITY, Saturate::None, 255),
        (f64::NAN, Saturate::Finite, 255),
    ] {
        assert_eq!(from_f64(value, Format::Ue8m0, Rounding::Up, saturate), expected, "{value}");
    }
    // 2⁻¹²⁷ is subnormal in bf16.
    assert_eq!(convert_pair(0xff00, Format::Ue8m0, Format::Bf16, Rounding::NearestEven, Saturate::None), 0x7fff_0040);
}

#[test]
fn the_first_source_goes_into_the_upper_half() {
    let (one, two) = (1.0_f32.to_bits().into(), 2.0_f32.to_bits().into());
    let rounding = Rounding::NearestEven;
    for (format, expected) in [
        (Format::E4m3, 0x3840),
        (Format::E5m2, 0x3c40),
        (Format::F16, 0x3c00_4000),
        (Format::Bf16, 0x3f80_4000),
        (Format::E2m1, 0x24),
    ] {
        let pair = convert_to_pair(one, two, Format::F32, format, rounding, Saturate::Finite);
        assert_eq!(pair, expected, "{format:?}");
        let wide = convert_pair(pair, format, Format::F16, rounding, Saturate::None);
        assert_eq!(wide, 0x3c00_4000, "{format:?}");
        assert_eq!(convert_pair(wide, Format::F16, format, rounding, Saturate::Finite), expected, "{format:?}");
    }
}

#[test]
fn ftz_in_conversions_touches_only_f32() {
    let convert = |bits, from, to, ftz| convert(bits, from, to, Rounding::NearestEven, Saturate::None, ftz);
    for (bits, from, to, kept, flushed) in [
        // The smallest f16 is normal in f32, the smallest bf16 is not.
        (0x8001, Format::F16, Format::F32, 0xb380_0000, 0xb380_0000),
        (0x8001, Format::Bf16, Format::F32, 0x8001_0000, 0x8000_0000),
        (0x8001_0000, Format::F32, Format::Bf16, 0x8001, 0x8000),
        (0x8000_0001, Format::F32, Format::F64, 0xb6a0_0000_0000_0000, 0x8000_0000_0000_0000),
        (0xb6a0_0000_0000_0000, Format::F64, Format::F32, 0x8000_0001, 0x8000_0000),
        (0x3380_0000, Format::F32, Format::F16, 0x0001, 0x0001),
        (0x8000_0001, Format::F32, Format::F32, 0x8000_0001, 0x8000_0000),
    ] {
        assert_eq!(convert(bits, from, to, false), kept, "{bits:#x} {from:?} {to:?}");
        assert_eq!(convert(bits, from, to, true), flushed, "{bits:#x} {from:?} {to:?} ftz");
    }
}

#[test]
fn a_significand_of_64_bits_may_lie_wholly_below_the_last_place() {
    // The smallest e2m1 is a half: 2⁻², and a little more or less, are the middle below it and its surroundings.
    let layout = Format::E2m1.layout();
    for (significand, exponent, even, away, up) in [
        (1 << 63, -65, 0, 1, 1),
        ((1 << 63) + 1, -65, 1, 1, 1),
        ((1 << 63) - 1, -65, 0, 0, 1),
        (u64::MAX, -66, 0, 0, 1),
        (u64::MAX, -65, 1, 1, 1),
        (1, -1074, 0, 0, 1),
    ] {
        let round = |rounding| round(false, significand, exponent, layout, rounding);
        assert_eq!(round(Rounding::NearestEven), even, "{significand:#x} {exponent}");
        assert_eq!(round(Rounding::NearestAway), away, "{significand:#x} {exponent}");
        assert_eq!(round(Rounding::Up), up, "{significand:#x} {exponent}");
        assert_eq!(round(Rounding::Down), 0, "{significand:#x} {exponent}");
    }
}
