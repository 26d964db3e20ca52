//! The `.approx` instructions: computed in f64 and rounded once, so more exact than a GPU, which errs by up to a few
//! units in the last place. A kernel must not depend on those units; their special cases are those of the PTX ISA.

use super::{Format, Rounding, Saturate, arithmetic, from_f64, power_of_two, to_f64};

/// An instruction of one operand that a GPU only approximates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// 2 to the power of the operand.
    Ex2,
    /// The logarithm to base 2.
    Lg2,
    /// The sine of an angle in radians.
    Sin,
    /// The cosine of an angle in radians.
    Cos,
    /// The hyperbolic tangent.
    Tanh,
    /// The reciprocal.
    Rcp,
    /// The square root.
    Sqrt,
    /// The reciprocal of the square root.
    Rsqrt,
}

/// `function` of a value, in its format.
#[inline]
pub(crate) fn approximate(function: Function, bits: u64, format: Format, ftz: bool) -> u64 {
    let value = to_f64(if ftz { format.flush(bits) } else { bits }, format);
    let result = match function {
        Function::Ex2 => value.exp2(),
        Function::Lg2 => value.log2(),
        Function::Sin => value.sin(),
        Function::Cos => value.cos(),
        Function::Tanh => value.tanh(),
        Function::Rcp => 1.0 / value,
        Function::Sqrt => value.sqrt(),
        Function::Rsqrt => 1.0 / value.sqrt(),
    };
    let result = from_f64(result, format, Rounding::NearestEven, Saturate::None);
    if ftz { format.flush(result) } else { result }
}

/// `div.approx.f32`: the quotient, except that a divisor above 2¹²⁶ counts as infinite.
#[inline]
pub(crate) fn div_approx_f32(a: u32, b: u32, ftz: bool) -> u32 {
    let divisor = f64::from(f32::from_bits(b)).abs();
    let huge = divisor > power_of_two(126) && divisor.is_finite();
    let b = if huge { b & 0x8000_0000 | 0x7f80_0000 } else { b };
    div_full_f32(a, b, ftz)
}

/// `div.full.f32`: the quotient.
#[inline]
pub(crate) fn div_full_f32(a: u32, b: u32, ftz: bool) -> u32 {
    arithmetic::div_f32(a, b, arithmetic::Mode { ftz, ..arithmetic::Mode::NEAREST })
}
