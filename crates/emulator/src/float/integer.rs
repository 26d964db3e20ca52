//! Conversions between floats and integers, and to integral floats.

use super::{Format, Rounding, Saturate, from_f64, round, to_f64};

/// An integer type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer {
    /// `.s` or `.u`.
    pub(crate) signed: bool,
    /// 8, 16, 32 or 64.
    pub(crate) bits: u32,
}

impl Integer {
    /// The lower bits of `register`, extended to 64 as the type asks.
    #[inline]
    pub(crate) fn extend(self, register: u64) -> u64 {
        let unused = 64 - self.bits;
        if self.signed { ((register << unused) as i64 >> unused) as u64 } else { register << unused >> unused }
    }
}

/// `cvt` to an integer: rounded, then clamped to the type's range; extended to 64 bits.
///
/// NaN gives 0 if the source is not `F64` and the type has less than 64 bits, else only the highest bit is set
/// (PTX ISA, `cvt`, integer notes). `ftz` flushes subnormal `F32` operands.
#[inline]
pub(crate) fn to_integer(bits: u64, from: Format, to: Integer, rounding: Rounding, ftz: bool) -> u64 {
    let value = to_f64(if ftz && from == Format::F32 { from.flush(bits) } else { bits }, from);
    if value.is_nan() {
        return if from == Format::F64 || to.bits == 64 { to.extend(1 << (to.bits - 1)) } else { 0 };
    }
    let value = integral(value, rounding);
    // `as` clamps to 64 bits.
    if to.signed {
        let max = i64::MAX >> (64 - to.bits);
        (value as i64).clamp(-max - 1, max) as u64
    } else {
        (value as u64).min(u64::MAX >> (64 - to.bits))
    }
}

/// `cvt` from an integer in the lower bits of `register`.
#[inline]
pub(crate) fn from_integer(register: u64, from: Integer, to: Format, rounding: Rounding, saturate: Saturate) -> u64 {
    let value = from.extend(register);
    let negative = from.signed && (value as i64) < 0;
    let magnitude = if negative { value.wrapping_neg() } else { value };
    let result = round(negative, magnitude, 0, to.layout(), rounding);
    match saturate {
        Saturate::None => result,
        _ => from_f64(to_f64(result, to), to, rounding, saturate),
    }
}

/// `cvt.rni.f32.f32` and its like: the nearest integral value in the rounding's direction, with the operand's sign.
#[inline]
pub(crate) fn to_integral(bits: u64, format: Format, rounding: Rounding, saturate: Saturate, ftz: bool) -> u64 {
    let value = to_f64(if ftz { format.flush(bits) } else { bits }, format);
    from_f64(integral(value, rounding), format, Rounding::Zero, saturate)
}

#[inline]
fn integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}
