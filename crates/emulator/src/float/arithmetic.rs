//! Sums, products, quotients and roots, each rounded once.
//!
//! f32, f16 and bf16 operands are exact in f64, and so is a product. Of a sum f64 holds what is rounded to odd: of the
//! two f64 around the exact value the one whose last bit is set. Rounding that once more, to at most 51 digits, gives
//! what rounding the exact value would give (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
//! A quotient or root of f32 needs no such care. If it is not itself one of the values where rounding changes, f32
//! and the middles between them (25 digits), it differs from them by 2⁻⁵¹ of itself or more, and f64 rounds by 2⁻⁵³
//! at most: `a` - `t`·`b` or `a` - `t`², with `t` the 25 digits, is a multiple of the last of at most 50 digits.

use super::{Format, Rounding, Saturate, from_f64, to_f64};

/// The modifiers of an arithmetic instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    /// `.rn`, `.rz`, `.rm` or `.rp`.
    pub(crate) rounding: Rounding,
    /// `.ftz`: subnormal operands and results become zeros of their sign.
    pub(crate) ftz: bool,
    /// `.sat` or `.relu`.
    pub(crate) saturate: Saturate,
}

impl Mode {
    /// `.rn` and nothing else.
    pub(crate) const NEAREST: Mode = Mode { rounding: Rounding::NearestEven, ftz: false, saturate: Saturate::None };
}

/// `add.f32`.
#[inline]
pub(crate) fn add_f32(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (operand_f32(a, mode), operand_f32(b, mode));
    match mode.rounding {
        Rounding::NearestEven => result_f32(a + b, mode),
        rounding => result_f32(round_to_f32(sum(a.into(), b.into(), rounding), rounding), mode),
    }
}

/// `sub.f32`.
#[inline]
pub(crate) fn sub_f32(a: u32, b: u32, mode: Mode) -> u32 {
    add_f32(a, b ^ 1 << 31, mode)
}

/// `mul.f32`.
#[inline]
pub(crate) fn mul_f32(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (operand_f32(a, mode), operand_f32(b, mode));
    match mode.rounding {
        Rounding::NearestEven => result_f32(a * b, mode),
        rounding => result_f32(round_to_f32(f64::from(a) * f64::from(b), rounding), mode),
    }
}

/// `fma.f32`: `a` · `b` + `c`.
#[inline]
pub(crate) fn fma_f32(a: u32, b: u32, c: u32, mode: Mode) -> u32 {
    let (a, b, c) = (operand_f32(a, mode), operand_f32(b, mode), operand_f32(c, mode));
    let exact = sum(f64::from(a) * f64::from(b), c.into(), mode.rounding);
    result_f32(round_to_f32(exact, mode.rounding), mode)
}

/// `div.f32` with a rounding.
#[inline]
pub(crate) fn div_f32(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (operand_f32(a, mode), operand_f32(b, mode));
    match mode.rounding {
        Rounding::NearestEven => result_f32(a / b, mode),
        rounding => result_f32(round_to_f32(f64::from(a) / f64::from(b), rounding), mode),
    }
}

/// `rcp.f32` with a rounding.
#[inline]
pub(crate) fn rcp_f32(a: u32, mode: Mode) -> u32 {
    div_f32(1.0_f32.to_bits(), a, mode)
}

/// `sqrt.f32` with a rounding.
#[inline]
pub(crate) fn sqrt_f32(a: u32, mode: Mode) -> u32 {
    let a = operand_f32(a, mode);
    match mode.rounding {
        Rounding::NearestEven => result_f32(a.sqrt(), mode),
        rounding => result_f32(round_to_f32(f64::from(a).sqrt(), rounding), mode),
    }
}

/// `add.rn.f64`; `None` for the other roundings, as in all of these: no kernel has needed them.
#[inline]
pub(crate) fn add_f64(a: u64, b: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a, b, a], f64::from_bits(a) + f64::from_bits(b), rounding)
}

/// `sub.rn.f64`.
#[inline]
pub(crate) fn sub_f64(a: u64, b: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a, b, a], f64::from_bits(a) - f64::from_bits(b), rounding)
}

/// `mul.rn.f64`.
#[inline]
pub(crate) fn mul_f64(a: u64, b: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a, b, a], f64::from_bits(a) * f64::from_bits(b), rounding)
}

/// `fma.rn.f64`.
#[inline]
pub(crate) fn fma_f64(a: u64, b: u64, c: u64, rounding: Rounding) -> Option<u64> {
    let result = f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c));
    result_f64([a, b, c], result, rounding)
}

/// `div.rn.f64`.
#[inline]
pub(crate) fn div_f64(a: u64, b: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a, b, a], f64::from_bits(a) / f64::from_bits(b), rounding)
}

/// `rcp.rn.f64`.
#[inline]
pub(crate) fn rcp_f64(a: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a; 3], 1.0 / f64::from_bits(a), rounding)
}

/// `sqrt.rn.f64`.
#[inline]
pub(crate) fn sqrt_f64(a: u64, rounding: Rounding) -> Option<u64> {
    result_f64([a; 3], f64::from_bits(a).sqrt(), rounding)
}

/// `add` of `F16` or `Bf16`.
#[inline]
pub(crate) fn add_short(a: u16, b: u16, format: Format, mode: Mode) -> u16 {
    let (a, b) = (operand_short(a, format, mode), operand_short(b, format, mode));
    result_short(sum(a, b, mode.rounding), format, mode)
}

/// `sub` of `F16` or `Bf16`.
#[inline]
pub(crate) fn sub_short(a: u16, b: u16, format: Format, mode: Mode) -> u16 {
    add_short(a, b ^ 1 << 15, format, mode)
}

/// `mul` of `F16` or `Bf16`.
#[inline]
pub(crate) fn mul_short(a: u16, b: u16, format: Format, mode: Mode) -> u16 {
    result_short(operand_short(a, format, mode) * operand_short(b, format, mode), format, mode)
}

/// `fma` of `F16` or `Bf16`: `a` · `b` + `c`.
#[inline]
pub(crate) fn fma_short(a: u16, b: u16, c: u16, format: Format, mode: Mode) -> u16 {
    let product = operand_short(a, format, mode) * operand_short(b, format, mode);
    result_short(sum(product, operand_short(c, format, mode), mode.rounding), format, mode)
}

/// The f32 that `rounding` makes of `value`.
#[inline]
pub(super) fn round_to_f32(value: f64, rounding: Rounding) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    match rounding {
        Rounding::NearestEven => nearest,
        Rounding::Down if back > value => nearest.next_down(),
        Rounding::Up if back < value => nearest.next_up(),
        Rounding::Zero if back.abs() > value.abs() => f32::from_bits(nearest.to_bits() - 1),
        // Half a step is exact in f64. Only a tie that went to the smaller magnitude is to be changed.
        Rounding::NearestAway => {
            let away = f32::from_bits(nearest.to_bits().wrapping_add(1));
            let tie = back.abs() < value.abs() && value - back == f64::from(away) - value;
            if tie { away } else { nearest }
        }
        Rounding::Down | Rounding::Up | Rounding::Zero => nearest,
    }
}

/// `a` + `b`, rounded to odd; `rounding` decides only the sign of a sum that is zero.
#[inline]
fn sum(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    if sum == 0.0 && rounding == Rounding::Down && (a.is_sign_negative() || b.is_sign_negative()) {
        return -0.0;
    }
    // Knuth's TwoSum: what `sum` lacks, exactly. NaN if `sum` is not finite.
    let b_in_sum = sum - a;
    let error = (a - (sum - b_in_sum)) + (b - b_in_sum);
    round_to_odd(sum, error)
}

/// `nearest` + `error`, rounded to odd, where `nearest` is the f64 that is nearest to that. Only the sign of `error`
/// matters; where `nearest` is not finite it must be NaN, and `nearest` is the result.
#[inline]
fn round_to_odd(nearest: f64, error: f64) -> f64 {
    let bits = nearest.to_bits();
    if error.is_nan() || error == 0.0 || bits & 1 == 1 {
        nearest
    } else if (error > 0.0) == (nearest > 0.0) {
        f64::from_bits(bits + 1)
    } else {
        f64::from_bits(bits - 1)
    }
}

#[inline]
fn operand_f32(bits: u32, mode: Mode) -> f32 {
    f32::from_bits(if mode.ftz { flush_f32(bits) } else { bits })
}

#[inline]
fn result_f32(value: f32, mode: Mode) -> u32 {
    let value = if mode.saturate == Saturate::None { value } else { mode.saturate.clamp(value.into()) as f32 };
    let bits = if value.is_nan() { Format::F32.nan() as u32 } else { value.to_bits() };
    if mode.ftz { flush_f32(bits) } else { bits }
}

#[inline]
fn flush_f32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// An f64 result, with NaN as the GPU makes it: the first operand that is NaN, made quiet.
#[inline]
fn result_f64(operands: [u64; 3], value: f64, rounding: Rounding) -> Option<u64> {
    if rounding != Rounding::NearestEven {
        return None;
    }
    if !value.is_nan() {
        return Some(value.to_bits());
    }
    let nan = operands.into_iter().find(|&bits| f64::from_bits(bits).is_nan());
    Some(nan.map_or(Format::F64.nan(), |bits| bits | 1 << 51))
}

#[inline]
fn operand_short(bits: u16, format: Format, mode: Mode) -> f64 {
    let bits = u64::from(bits);
    to_f64(if mode.ftz { format.flush(bits) } else { bits }, format)
}

#[inline]
fn result_short(value: f64, format: Format, mode: Mode) -> u16 {
    let bits = from_f64(value, format, mode.rounding, mode.saturate);
    (if mode.ftz { format.flush(bits) } else { bits }) as u16
}
