//! Element types of the factors and of the sum, and their bits.

use half::f16;

/// Type of the elements of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Bf16,
    F16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Element {
    /// By its name in PTX.
    pub(crate) fn parse(name: &str) -> Option<Element> {
        Some(match name {
            "bf16" => Element::Bf16,
            "f16" => Element::F16,
            "tf32" => Element::Tf32,
            "e4m3" => Element::E4m3,
            "e5m2" => Element::E5m2,
            "s8" => Element::S8,
            "u8" => Element::U8,
            _ => return None,
        })
    }

    /// Whether the ISA multiplies `a` by `b` into `sum`, in `mma` and `wgmma` alike.
    pub(crate) fn multiply(a: Element, b: Element, sum: Accumulator) -> bool {
        use Element::{Bf16, E4m3, E5m2, F16, S8, Tf32, U8};
        match (a, b) {
            (Bf16, Bf16) | (Tf32, Tf32) => sum == Accumulator::F32,
            (F16, F16) | (E4m3 | E5m2, E4m3 | E5m2) => matches!(sum, Accumulator::F32 | Accumulator::F16),
            (S8 | U8, S8 | U8) => matches!(sum, Accumulator::S32 | Accumulator::SaturatingS32),
            _ => false,
        }
    }

    /// Bytes of one element.
    pub(crate) fn bytes(self) -> usize {
        4 / self.per_word()
    }

    /// Elements in 32 bits.
    pub(crate) fn per_word(self) -> usize {
        match self {
            Element::Tf32 => 1,
            Element::Bf16 | Element::F16 => 2,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 4,
        }
    }

    /// The elements of one 32-bit register, lowest bits first, as the first [`Element::per_word`] of the result.
    pub(crate) fn decode(self, word: u32) -> [f64; 4] {
        let [low, high] = [word & 0xffff, word >> 16];
        let bytes = word.to_le_bytes();
        match self {
            Element::Bf16 => [bf16(low), bf16(high), 0.0, 0.0],
            Element::F16 => [small_float::<5, 10>(low), small_float::<5, 10>(high), 0.0, 0.0],
            // The ISA leaves the low 13 bits open; tensor cores ignore them.
            Element::Tf32 => [f64::from(f32::from_bits(word & 0xffff_e000)), 0.0, 0.0, 0.0],
            Element::E4m3 => bytes.map(e4m3),
            Element::E5m2 => bytes.map(|byte| small_float::<5, 2>(byte.into())),
            Element::S8 => bytes.map(|byte| f64::from(byte.cast_signed())),
            Element::U8 => bytes.map(f64::from),
        }
    }
}

/// Type of the elements of C and D, and what happens to an integer that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accumulator {
    F32,
    F16,
    S32,
    SaturatingS32,
}

impl Accumulator {
    /// By its name in PTX; `.satfinite` is for integers only.
    pub(crate) fn parse(name: &str, satfinite: bool) -> Option<Accumulator> {
        Some(match (name, satfinite) {
            ("f32", false) => Accumulator::F32,
            ("f16", false) => Accumulator::F16,
            ("s32", false) => Accumulator::S32,
            ("s32", true) => Accumulator::SaturatingS32,
            _ => return None,
        })
    }

    /// Registers of a 16×8 block.
    pub(crate) fn registers(self) -> usize {
        if self == Accumulator::F16 { 2 } else { 4 }
    }

    /// The two neighbours in a row that a lane holds, from one register of f16 or two of anything else.
    pub(crate) fn decode(self, registers: [u32; 2]) -> [f64; 2] {
        match self {
            Accumulator::F32 => registers.map(|bits| f64::from(f32::from_bits(bits))),
            Accumulator::F16 => [registers[0] & 0xffff, registers[0] >> 16].map(small_float::<5, 10>),
            Accumulator::S32 | Accumulator::SaturatingS32 => registers.map(|bits| f64::from(bits.cast_signed())),
        }
    }

    /// The inverse of [`Accumulator::decode`], rounded once; f16 leaves the second register 0.
    pub(crate) fn encode(self, values: [f64; 2]) -> [u32; 2] {
        match self {
            Accumulator::F32 => values.map(f32_bits),
            Accumulator::F16 => [f16_bits(values[0]) | f16_bits(values[1]) << 16, 0],
            // Sums of integers are exact in f64: 32 products of 16 bits and a 32-bit number.
            Accumulator::S32 => values.map(|value| value as i64 as u32),
            Accumulator::SaturatingS32 => values.map(|value| (value as i32).cast_unsigned()),
        }
    }
}

fn bf16(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits << 16))
}

/// E4M3 has no infinity, and NaN only where every bit but the sign is set.
fn e4m3(byte: u8) -> f64 {
    if byte & 0x7f == 0x7f {
        return f64::NAN;
    }
    let (sign, magnitude) = split::<4, 3>(byte.into());
    sign * magnitude
}

/// A number of `EXPONENT` and `MANTISSA` bits with the infinities and NaN of IEEE 754.
fn small_float<const EXPONENT: u32, const MANTISSA: u32>(bits: u32) -> f64 {
    let (sign, magnitude) = split::<EXPONENT, MANTISSA>(bits);
    let largest_exponent = (1 << EXPONENT) - 1;
    if bits >> MANTISSA & largest_exponent != largest_exponent {
        sign * magnitude
    } else if bits & ((1 << MANTISSA) - 1) == 0 {
        sign * f64::INFINITY
    } else {
        f64::NAN
    }
}

/// Sign and magnitude, the largest exponent taken for an ordinary one.
fn split<const EXPONENT: u32, const MANTISSA: u32>(bits: u32) -> (f64, f64) {
    let bias = (1u64 << (EXPONENT - 1)) - 1;
    let mantissa = u64::from(bits & ((1 << MANTISSA) - 1));
    let exponent = u64::from(bits >> MANTISSA & ((1 << EXPONENT) - 1));
    let magnitude = if exponent == 0 {
        let unit = f64::from_bits((1023 + 1 - bias - u64::from(MANTISSA)) << 52);
        mantissa as f64 * unit
    } else {
        f64::from_bits((exponent + 1023 - bias) << 52 | mantissa << (52 - MANTISSA))
    };
    let sign = if bits >> (EXPONENT + MANTISSA) & 1 == 0 { 1.0 } else { -1.0 };
    (sign, magnitude)
}

/// The nearest f32; every NaN becomes the canonical one of PTX arithmetic.
fn f32_bits(value: f64) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { (value as f32).to_bits() }
}

/// The nearest f16; every NaN becomes the canonical one of PTX arithmetic.
fn f16_bits(value: f64) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    // Rounding to f32 first would round twice. Towards zero, with the last bit telling that something was cut off, it is
    // as good as exact: f32 has more than two bits more than f16.
    let nearest = value as f32;
    let widened = f64::from(nearest);
    let odd = match widened.abs().total_cmp(&value.abs()) {
        std::cmp::Ordering::Equal => nearest,
        std::cmp::Ordering::Less => f32::from_bits(nearest.to_bits() | 1),
        std::cmp::Ordering::Greater => f32::from_bits((nearest.to_bits() - 1) | 1),
    };
    f16::from_f32(odd).to_bits().into()
}
