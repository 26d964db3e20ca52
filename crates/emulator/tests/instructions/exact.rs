//! Rounding by the book: an exact value, its two neighbours in a format, and the choice between them.

/// A binary format with sign, exponent and fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
    /// Bits of the largest finite value.
    pub(crate) max: u64,
    /// What a larger one becomes: infinity, or NaN where there is none.
    overflow: u64,
    pub(crate) nan: u64,
}

const fn format(exponent_bits: u32, fraction_bits: u32, max: u64, overflow: u64, nan: u64) -> Format {
    Format { exponent_bits, fraction_bits, max, overflow, nan }
}

pub(crate) const F16: Format = format(5, 10, 0x7bff, 0x7c00, 0x7fff);
pub(crate) const BF16: Format = format(8, 7, 0x7f7f, 0x7f80, 0x7fff);
pub(crate) const F32: Format = format(8, 23, 0x7f7f_ffff, 0x7f80_0000, 0x7fff_ffff);
pub(crate) const E4M3: Format = format(4, 3, 0x7e, 0x7f, 0x7f);
pub(crate) const E5M2: Format = format(5, 2, 0x7b, 0x7c, 0x7f);
pub(crate) const E2M1: Format = format(2, 1, 7, 7, 7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Away,
    Zero,
    Down,
    Up,
}

impl Format {
    pub(crate) fn sign(self) -> u64 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    pub(crate) fn value(self, bits: u64) -> f64 {
        let magnitude = bits & (self.sign() - 1);
        let (exponent, fraction) = (magnitude >> self.fraction_bits, magnitude & ((1 << self.fraction_bits) - 1));
        let fraction = fraction as f64 / 2_f64.powi(self.fraction_bits as i32);
        let value = if magnitude > self.max {
            if magnitude == self.overflow && self.overflow != self.nan { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            fraction * 2_f64.powi(self.min_exponent())
        } else {
            (1.0 + fraction) * 2_f64.powi(exponent as i32 - 1 + self.min_exponent())
        };
        if bits & self.sign() != 0 { -value } else { value }
    }

    pub(crate) fn flush(self, bits: u64) -> u64 {
        if bits & (self.sign() - 1) < 1 << self.fraction_bits { bits & self.sign() } else { bits }
    }

    /// The bits of `high` + `low`, where `low` is less than the last place of `high`.
    pub(crate) fn round(self, (high, low): (f64, f64), rounding: Rounding) -> u64 {
        if high.is_nan() {
            return self.nan;
        }
        let is_negative = high.is_sign_negative();
        let sign = if is_negative { self.sign() } else { 0 };
        if high == 0.0 {
            return sign;
        }
        if high.is_infinite() {
            return sign | self.overflow;
        }
        let (high, low) = if is_negative { (-high, -low) } else { (high, low) };
        let rounding = match rounding {
            Rounding::Down if is_negative => Rounding::Up,
            Rounding::Up if is_negative => Rounding::Zero,
            Rounding::Down => Rounding::Zero,
            other => other,
        };
        let mut exponent = ((high.to_bits() >> 52) as i32 - 1023).max(-1022);
        if low < 0.0 && high == 2_f64.powi(exponent) {
            exponent -= 1;
        }
        let exponent = exponent.max(self.min_exponent());
        let scaled = high * 2_f64.powi(self.fraction_bits as i32 - exponent);
        let is_just_below = low < 0.0 && scaled.fract() == 0.0;
        let below = if is_just_below { scaled - 1.0 } else { scaled.floor() };
        // How the rest compares with one half.
        let rest = (scaled - below).partial_cmp(&0.5).map(|order| order.then(low.partial_cmp(&0.0).unwrap()));
        let is_exact = scaled.fract() == 0.0 && low == 0.0;
        let is_up = !is_exact
            && match (rounding, rest.unwrap()) {
                (Rounding::Up, _) => true,
                (Rounding::Nearest, std::cmp::Ordering::Equal) => below % 2.0 == 1.0,
                (Rounding::Nearest | Rounding::Away, order) => order.is_ge(),
                _ => false,
            };
        let code = below as u64 + u64::from(is_up) + (((exponent - self.min_exponent()) as u64) << self.fraction_bits);
        let code = match rounding {
            _ if code <= self.max => code,
            Rounding::Zero => self.max,
            _ => self.overflow,
        };
        sign | code
    }
}

/// `a` + `b` as a rounded sum and what is missing.
pub(crate) fn sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, finite((a - (sum - part)) + (b - part)))
}

pub(crate) fn quotient(a: f64, b: f64) -> (f64, f64) {
    let quotient = a / b;
    (quotient, finite((-quotient).mul_add(b, a) / b))
}

pub(crate) fn root(a: f64) -> (f64, f64) {
    let root = a.sqrt();
    (root, finite((-root).mul_add(root, a) / (2.0 * root)))
}

/// Infinities, NaN and zeros are exact.
fn finite(low: f64) -> f64 {
    if low.is_finite() { low } else { 0.0 }
}
