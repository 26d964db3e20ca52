//! The limits of the integer types, and integers that no float holds.

use super::super::integer::{Integer, from_integer, to_integer, to_integral};
use super::super::{Format, Rounding, Saturate};
use super::{ROUNDINGS, Random};

const fn signed(bits: u32) -> Integer {
    Integer { signed: true, bits }
}

const fn unsigned(bits: u32) -> Integer {
    Integer { signed: false, bits }
}

#[test]
fn floats_are_clamped_to_the_range_of_the_integer() {
    for (to, min, max) in [
        (signed(8), i8::MIN as u64, i8::MAX as u64),
        (signed(16), i16::MIN as u64, i16::MAX as u64),
        (signed(32), i32::MIN as u64, i32::MAX as u64),
        (signed(64), i64::MIN as u64, i64::MAX as u64),
        (unsigned(8), 0, u8::MAX.into()),
        (unsigned(16), 0, u16::MAX.into()),
        (unsigned(32), 0, u32::MAX.into()),
        (unsigned(64), 0, u64::MAX),
    ] {
        for rounding in ROUNDINGS {
            let convert = |value: f32| to_integer(value.to_bits().into(), Format::F32, to, rounding, false);
            assert_eq!((convert(f32::INFINITY), convert(f32::NEG_INFINITY)), (max, min), "{to:?}");
            assert_eq!((convert(1e30), convert(-1e30)), (max, min), "{to:?}");
            assert_eq!((convert(0.0), convert(-0.0), convert(100.0)), (0, 0, 100), "{to:?}");
            assert_eq!(convert(-7.0), if to.signed { -7_i64 as u64 } else { 0 }, "{to:?}");
            let limit = |value: f64| to_integer(value.to_bits(), Format::F64, to, rounding, false);
            if to.bits < 64 {
                assert_eq!((limit(max as f64), limit(max as f64 + 1.0)), (max, max), "{to:?}");
            }
            if to.bits == 32 && to.signed {
                assert_eq!(limit(-2147483648.0), min);
                assert_eq!(limit(-2147483649.0), min);
                assert_eq!(limit(-2147483647.0), min + 1);
            }
        }
        let nan = |format: Format, bits| to_integer(bits, format, to, Rounding::Zero, false);
        let highest = to.extend(1 << (to.bits - 1));
        assert_eq!(nan(Format::F64, 0x7ff8_0000_0000_0000), highest, "{to:?}");
        let narrow = if to.bits == 64 { highest } else { 0 };
        assert_eq!(nan(Format::F32, 0xffc0_0000), narrow, "{to:?}");
        assert_eq!(nan(Format::F16, 0x7e00), narrow, "{to:?}");
        assert_eq!(nan(Format::Bf16, 0x7fff), narrow, "{to:?}");
    }
}

#[test]
fn floats_are_rounded_to_integers() {
    use Rounding::*;
    for (value, even, away, zero, down, up) in [
        (2.5, 2, 3, 2, 2, 3),
        (3.5, 4, 4, 3, 3, 4),
        (-2.5, -2, -3, -2, -3, -2),
        (-0.5, 0, -1, 0, -1, 0),
        (0.49999997, 0, 0, 0, 0, 1),
        (8388609.0, 8388609, 8388609, 8388609, 8388609, 8388609),
        (-1e-40, 0, 0, 0, -1, 0),
    ] {
        for (rounding, expected) in [(NearestEven, even), (NearestAway, away), (Zero, zero), (Down, down), (Up, up)] {
            let bits = f32::to_bits(value).into();
            let integer = to_integer(bits, Format::F32, signed(32), rounding, false);
            assert_eq!(integer as i64, expected, "{value} {rounding:?}");
            let integral = to_integral(bits, Format::F32, rounding, Saturate::None, false);
            // The sign is kept, that of a zero too.
            assert_eq!(integral as u32, (expected as f32).copysign(value).to_bits(), "{value} {rounding:?}");
        }
    }
    assert_eq!(to_integer(1, Format::F32, signed(32), Up, false), 1);
    assert_eq!(to_integer(1, Format::F32, signed(32), Up, true), 0);
    assert_eq!(to_integral(1, Format::F32, Up, Saturate::None, true), 0);
    assert_eq!(to_integral(0x4020_0000, Format::F32, Up, Saturate::Zero1, false), 0x3f80_0000);
    assert_eq!(to_integral(0x4100, Format::F16, NearestEven, Saturate::None, false), 0x4000);
    assert_eq!(to_integral(0x7f80_0001, Format::F32, Zero, Saturate::None, false), 0x7fff_ffff);
}

#[test]
fn integers_between_two_floats_are_rounded() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let value = random.next() >> (random.next() % 64);
        for (format, digits) in [(Format::F32, 24), (Format::F64, 53), (Format::Bf16, 8)] {
            // The floats around `value` are multiples of this.
            let step = 1_u128 << (64 - value.leading_zeros()).saturating_sub(digits);
            let below = u128::from(value) / step * step;
            let rest = u128::from(value) - below;
            let odd = below / step % 2 == 1;
            for negative in [false, true] {
                if negative && value > 1 << 63 {
                    continue;
                }
                let (register, from) =
                    if negative { (value.wrapping_neg(), signed(64)) } else { (value, unsigned(64)) };
                for rounding in ROUNDINGS {
                    let up = match rounding {
                        Rounding::NearestEven => 2 * rest > step || 2 * rest == step && odd,
                        Rounding::NearestAway => 2 * rest >= step && rest > 0,
                        Rounding::Zero => false,
                        Rounding::Down => negative && rest > 0,
                        Rounding::Up => !negative && rest > 0,
                    };
                    let magnitude = (below + if up { step } else { 0 }) as f64;
                    let expected = if negative && value > 0 { -magnitude } else { magnitude };
                    let bits = from_integer(register, from, format, rounding, Saturate::None);
                    assert_eq!(super::to_f64(bits, format), expected, "{value} {negative} {format:?} {rounding:?}");
                }
            }
        }
    }
}

#[test]
fn integers_at_their_limits() {
    let nearest = Rounding::NearestEven;
    for (register, from, format, rounding, expected) in [
        (0x80, signed(8), Format::F32, nearest, 0xc300_0000),
        (0x80, unsigned(8), Format::F32, nearest, 0x4300_0000),
        // The upper bits of a register are not part of a narrow integer.
        (0xffff_ff00_0000_0001, unsigned(32), Format::F32, nearest, 0x3f80_0000),
        (0x8000_0000, signed(32), Format::F32, nearest, 0xcf00_0000),
        (0x7fff_ffff, signed(32), Format::F32, nearest, 0x4f00_0000),
        (0x7fff_ffff, signed(32), Format::F32, Rounding::Zero, 0x4eff_ffff),
        (u64::MAX, unsigned(64), Format::F32, nearest, 0x5f80_0000),
        (u64::MAX, unsigned(64), Format::F64, Rounding::Down, 0x43ef_ffff_ffff_ffff),
        (1 << 63, signed(64), Format::F64, nearest, 0xc3e0_0000_0000_0000),
        (0, signed(32), Format::F32, Rounding::Down, 0),
        (65519, unsigned(32), Format::F16, nearest, 0x7bff),
        (65520, unsigned(32), Format::F16, nearest, 0x7c00),
        (100_000, signed(32), Format::F16, Rounding::Zero, 0x7bff),
    ] {
        let bits = from_integer(register, from, format, rounding, Saturate::None);
        assert_eq!(bits, expected, "{register:#x} {from:?} {format:?} {rounding:?}: {bits:#x}");
    }
    assert_eq!(from_integer(7, signed(32), Format::F32, nearest, Saturate::Zero1), 0x3f80_0000);
}
