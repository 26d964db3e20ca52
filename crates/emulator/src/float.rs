//! Floating-point formats, rounding and arithmetic, to the bit.
//!
//! A value is its bits, as a register holds them. Every operation computes the exact result, or one that rounds like
//! it, and rounds once; what a GPU only approximates (`ex2.approx`, ...) is more exact here than there.
//! Packed operands (`.f16x2`, ...) are taken apart by the caller, except in conversions, where [`convert_pair`] does it.
//!
//! - this file: formats, and conversions between them.
//! - [`arithmetic`]: `add`, `sub`, `mul`, `fma`, `div`, `rcp`, `sqrt`.
//! - [`approximate`]: `ex2`, `lg2`, `sin`, `cos`, `tanh`, and the `.approx` forms of division and roots.
//! - [`compare`]: `setp`, `min`, `max`, and what only touches the sign.
//! - [`integer`]: conversions from and to integers, and to integral values.
//!
//! Left out: stochastic rounding (`.rs`), `.s2f6x2`, and the directed roundings of `.f64` arithmetic.
//!
//! Source: PTX ISA 9.0, floating-point, half-precision and comparison instructions, and `cvt`; the bits of NaN from the
//! CUDA header math_constants.h.

pub(crate) mod approximate;
pub(crate) mod arithmetic;
pub(crate) mod compare;
pub(crate) mod integer;
#[cfg(test)]
mod tests;

/// Which of its two neighbours stands for a value between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `.rn`, `.rni`: the nearer; the even one of two that are equally near.
    NearestEven,
    /// `.rna`: the nearer; the larger magnitude of two that are equally near.
    NearestAway,
    /// `.rz`, `.rzi`.
    Zero,
    /// `.rm`, `.rmi`: towards minus infinity.
    Down,
    /// `.rp`, `.rpi`: towards plus infinity.
    Up,
}

/// What happens to results outside a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saturate {
    /// Nothing.
    None,
    /// `.satfinite`: what overflows, infinities included, becomes the largest finite value.
    Finite,
    /// `.sat`: to the range from 0 to 1; NaN becomes +0.
    Zero1,
    /// `.relu`: negative values and -0 become +0.
    Relu,
    /// `.relu.satfinite`.
    ReluFinite,
}

impl Saturate {
    #[inline]
    fn is_finite(self) -> bool {
        matches!(self, Saturate::Finite | Saturate::ReluFinite)
    }

    /// The part of saturation that does not depend on the format. As the bounds are values of every format, it is
    /// the same before rounding and after it.
    #[inline]
    fn clamp(self, value: f64) -> f64 {
        match self {
            Saturate::None | Saturate::Finite => value,
            // Written so that NaN and -0 fail the first comparison.
            Saturate::Zero1 => {
                if value > 0.0 {
                    value.min(1.0)
                } else {
                    0.0
                }
            }
            Saturate::Relu | Saturate::ReluFinite => {
                if value.is_sign_negative() && !value.is_nan() {
                    0.0
                } else {
                    value
                }
            }
        }
    }
}

/// How bits stand for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// 1 sign bit, 5 exponent bits, 10 fraction bits.
    F16,
    /// 1, 8, 7.
    Bf16,
    /// 1, 8, 10, in the upper 19 bits of a 32-bit register. The lower 13 are not read.
    Tf32,
    /// 1, 8, 23.
    F32,
    /// 1, 11, 52.
    F64,
    /// 1, 4, 3; no infinity, and NaN only where all bits but the sign are set.
    E4m3,
    /// 1, 5, 2.
    E5m2,
    /// 1, 2, 1; no infinity, no NaN.
    E2m1,
    /// 1, 2, 3, in the lower 6 bits of a byte; no infinity, no NaN.
    E2m3,
    /// 1, 3, 2, in the lower 6 bits of a byte; no infinity, no NaN.
    E3m2,
    /// 8 exponent bits alone: a power of two from 2⁻¹²⁷ to 2¹²⁷; all bits set is NaN.
    Ue8m0,
}

/// The numbers that define a format with sign, exponent and fraction.
#[derive(Clone, Copy)]
struct Layout {
    exponent_bits: u32,
    fraction_bits: u32,
    /// Unused bits below the fraction.
    padding_bits: u32,
    /// The magnitude, without padding, of the largest finite value.
    max: u64,
    /// The magnitude, without padding, of what overflows: infinity if there is one, else NaN, else `max`.
    overflow: u64,
    /// Whether `overflow` is an infinity.
    has_infinity: bool,
    /// NaN as PTX makes it, with sign and padding; the largest finite value where there is none.
    nan: u64,
}

impl Layout {
    /// A format whose largest exponent is kept for infinity and NaN, as in IEEE 754.
    const fn ieee(exponent_bits: u32, fraction_bits: u32, nan: u64) -> Layout {
        let infinity = ((1 << exponent_bits) - 1) << fraction_bits;
        let max = infinity - 1;
        Layout { exponent_bits, fraction_bits, padding_bits: 0, max, overflow: infinity, has_infinity: true, nan }
    }

    /// A format without infinity.
    const fn finite(exponent_bits: u32, fraction_bits: u32, max: u64, nan: u64) -> Layout {
        Layout { exponent_bits, fraction_bits, padding_bits: 0, max, overflow: nan, has_infinity: false, nan }
    }

    /// The exponent of the smallest normal value.
    #[inline]
    const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    #[inline]
    const fn sign_bit(self) -> u32 {
        self.exponent_bits + self.fraction_bits + self.padding_bits
    }
}

impl Format {
    /// Bits that a value takes in a register or in a pair.
    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Format::F64 => 64,
            Format::F32 | Format::Tf32 => 32,
            Format::F16 | Format::Bf16 => 16,
            Format::E4m3 | Format::E5m2 | Format::E2m3 | Format::E3m2 | Format::Ue8m0 => 8,
            Format::E2m1 => 4,
        }
    }

    /// NaN as PTX instructions make it; for formats without NaN the largest value, which `cvt` puts in its place.
    #[inline]
    pub(crate) const fn nan(self) -> u64 {
        match self {
            Format::Ue8m0 => 0xff,
            _ => self.layout().nan,
        }
    }

    /// `Ue8m0` has no layout of this kind; every caller turns it away before.
    #[inline]
    const fn layout(self) -> Layout {
        match self {
            Format::F16 => Layout::ieee(5, 10, 0x7fff),
            Format::Bf16 => Layout::ieee(8, 7, 0x7fff),
            Format::Tf32 => Layout { padding_bits: 13, ..Layout::ieee(8, 10, 0x7fff_ffff) },
            Format::F32 => Layout::ieee(8, 23, 0x7fff_ffff),
            Format::F64 => Layout::ieee(11, 52, 0xfff8_0000_0000_0000),
            Format::E5m2 => Layout::ieee(5, 2, 0x7f),
            Format::E4m3 => Layout::finite(4, 3, 0x7e, 0x7f),
            Format::E2m1 => Layout::finite(2, 1, 0x7, 0x7),
            Format::E2m3 => Layout::finite(2, 3, 0x1f, 0x1f),
            Format::E3m2 | Format::Ue8m0 => Layout::finite(3, 2, 0x1f, 0x1f),
        }
    }

    /// The sign bit alone.
    #[inline]
    const fn sign_mask(self) -> u64 {
        match self {
            Format::Ue8m0 => 0,
            _ => 1 << self.layout().sign_bit(),
        }
    }

    /// The largest finite value.
    #[inline]
    fn max(self) -> f64 {
        match self {
            Format::Ue8m0 => power_of_two(127),
            _ => to_f64(self.layout().max << self.layout().padding_bits, self),
        }
    }

    #[inline]
    fn is_nan(self, bits: u64) -> bool {
        match self {
            Format::Ue8m0 => bits & 0xff == 0xff,
            _ => {
                let layout = self.layout();
                let magnitude = (bits & (self.sign_mask() - 1)) >> layout.padding_bits;
                magnitude > layout.max && !(layout.has_infinity && magnitude == layout.overflow)
            }
        }
    }

    /// The bits, with a subnormal value replaced by zero of its sign (`.ftz`).
    #[inline]
    fn flush(self, bits: u64) -> u64 {
        let layout = self.layout();
        let sign = self.sign_mask();
        if bits & (sign - 1) < 1 << (layout.fraction_bits + layout.padding_bits) { bits & sign } else { bits }
    }
}

/// 2 to the power of `exponent`, which must be that of a normal f64.
#[inline]
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The value of `bits`, exactly. Bits above the format's are not read.
#[inline]
pub(crate) fn to_f64(bits: u64, format: Format) -> f64 {
    match format {
        Format::F64 => f64::from_bits(bits),
        Format::F32 => f64::from(f32::from_bits(bits as u32)),
        Format::Ue8m0 => match bits & 0xff {
            0xff => f64::NAN,
            code => power_of_two(code as i32 - 127),
        },
        _ => {
            let layout = format.layout();
            let magnitude = (bits & (format.sign_mask() - 1)) >> layout.padding_bits;
            let value = if magnitude > layout.max {
                if layout.has_infinity && magnitude == layout.overflow { f64::INFINITY } else { f64::NAN }
            } else {
                // Exponent and fraction where f64 has them mean the same, but for the difference of the biases;
                // subnormal values become subnormal first, and the product is exact.
                f64::from_bits(magnitude << (52 - layout.fraction_bits)) * power_of_two(1022 + layout.min_exponent())
            };
            if bits & format.sign_mask() == 0 { value } else { -value }
        }
    }
}

/// `value` in `format`, rounded once; subnormal results are kept, NaN becomes [`Format::nan`].
///
/// What is too large for the format becomes infinity or the largest finite value, as the rounding says; with
/// [`Saturate::Finite`] always the latter. `Ue8m0` ignores the sign and knows only `.rz` and `.rp`, by magnitude.
#[inline]
pub(crate) fn from_f64(value: f64, format: Format, rounding: Rounding, saturate: Saturate) -> u64 {
    let value = saturate.clamp(value);
    if value.is_nan() {
        return format.nan();
    }
    let value = if saturate.is_finite() { value.clamp(-format.max(), format.max()) } else { value };
    match format {
        Format::F64 => value.to_bits(),
        Format::F32 => u64::from(arithmetic::round_to_f32(value, rounding).to_bits()),
        Format::Ue8m0 => power_code(value, rounding),
        _ => {
            let layout = format.layout();
            if value.is_infinite() {
                return sign_if(value.is_sign_negative(), layout) | layout.overflow << layout.padding_bits;
            }
            let bits = value.to_bits();
            let (field, fraction) = ((bits >> 52) as i32 & 0x7ff, bits & ((1 << 52) - 1));
            let (significand, exponent) = match field {
                0 => (fraction, -1074),
                _ => (fraction | 1 << 52, field - 1075),
            };
            round(value.is_sign_negative(), significand, exponent, layout, rounding)
        }
    }
}

/// ±`significand` · 2^`exponent`, rounded to a format.
#[inline]
fn round(negative: bool, significand: u64, exponent: i32, layout: Layout, rounding: Rounding) -> u64 {
    let sign = sign_if(negative, layout);
    if significand == 0 {
        return sign;
    }
    // The exponent of the value's leading bit, or that of the subnormals, and of the last bit that is kept.
    let leading = (exponent + 63 - significand.leading_zeros() as i32).max(layout.min_exponent());
    let last = leading - layout.fraction_bits as i32;
    let (kept, up) = if last <= exponent {
        (significand << (exponent - last), false)
    } else {
        // What is cut off, with the bit below the last one kept on top. Of what is further away it matters only that
        // it is not zero.
        let (kept, rest) = match last - exponent {
            shift @ 1..64 => (significand >> shift, significand << (64 - shift)),
            64 => (0, significand),
            _ => (0, 1),
        };
        let half = 1 << 63;
        let up = match rounding {
            Rounding::NearestEven => rest > half || rest == half && kept & 1 == 1,
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && rest != 0,
            Rounding::Up => !negative && rest != 0,
        };
        (kept, up)
    };
    // A normal value's leading bit is part of `kept` and adds one to the exponent field, as does a carry.
    let magnitude = (((leading - layout.min_exponent()) as u64) << layout.fraction_bits) + kept + u64::from(up);
    let magnitude = if magnitude <= layout.max {
        magnitude
    } else {
        match rounding {
            Rounding::Zero => layout.max,
            Rounding::Down if !negative => layout.max,
            Rounding::Up if negative => layout.max,
            _ => layout.overflow,
        }
    };
    sign | magnitude << layout.padding_bits
}

#[inline]
fn sign_if(negative: bool, layout: Layout) -> u64 {
    u64::from(negative) << layout.sign_bit()
}

/// The `Ue8m0` code of a magnitude.
fn power_code(value: f64, rounding: Rounding) -> u64 {
    let value = value.abs();
    if value <= power_of_two(-127) {
        return 0;
    }
    // An f64 of this size, infinity aside, is normal; infinity has the largest exponent field and overflows with it.
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let up = rounding == Rounding::Up && bits << 12 != 0;
    (exponent + i64::from(up) + 127).min(0xff) as u64
}

/// `cvt` from one float format to another. `ftz` flushes subnormal `F32` operands and results.
#[inline]
pub(crate) fn convert(bits: u64, from: Format, to: Format, rounding: Rounding, saturate: Saturate, ftz: bool) -> u64 {
    let bits = if ftz && from == Format::F32 { from.flush(bits) } else { bits };
    let result = from_f64(to_f64(bits, from), to, rounding, saturate);
    if ftz && to == Format::F32 { to.flush(result) } else { result }
}

/// `cvt` of two values into a pair: `upper`, the instruction's first source, goes into the upper half.
#[inline]
pub(crate) fn convert_to_pair(
    upper: u64,
    lower: u64,
    from: Format,
    to: Format,
    rounding: Rounding,
    saturate: Saturate,
) -> u64 {
    let convert = |bits| convert(bits, from, to, rounding, saturate, false);
    convert(upper) << to.bits() | convert(lower)
}

/// `cvt` of a pair into a pair, half by half (`cvt.rn.f16x2.e4m3x2`, ...).
#[inline]
pub(crate) fn convert_pair(pair: u64, from: Format, to: Format, rounding: Rounding, saturate: Saturate) -> u64 {
    convert_to_pair(pair >> from.bits(), pair, from, to, rounding, saturate)
}
