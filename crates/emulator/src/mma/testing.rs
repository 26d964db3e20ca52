//! Random matrices and their products, for the tests of `mma` and `wgmma`; shares no code with what it tests.

use half::{bf16, f16};

use super::{Accumulator, Element};

/// Repeatable random numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: i64, high: i64) -> i64 {
        low + i64::from(self.next()) % (high - low + 1)
    }

    /// Bits of a float with this many bits of mantissa, and an exponent near 0 so that sums stay exact in f64.
    fn float(&mut self, exponent_bits: u32, mantissa_bits: u32) -> u32 {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let exponent = (bias + self.range(-4, 4)) as u32;
        let mantissa = self.next() & ((1 << mantissa_bits) - 1);
        (self.next() & 1) << (exponent_bits + mantissa_bits) | exponent << mantissa_bits | mantissa
    }

    /// Bits of a finite element.
    pub(crate) fn element(&mut self, element: Element) -> u32 {
        match element {
            Element::Bf16 => self.float(8, 7),
            Element::F16 => self.float(5, 10),
            // With low bits that do not count.
            Element::Tf32 => self.float(8, 23),
            Element::E4m3 => match self.next() & 0xff {
                0x7f | 0xff => 0,
                bits => bits,
            },
            Element::E5m2 => self.float(5, 2),
            Element::S8 | Element::U8 => self.next() & 0xff,
        }
    }

    /// Bits of a finite element of C.
    pub(crate) fn sum(&mut self, accumulator: Accumulator) -> u32 {
        match accumulator {
            Accumulator::F32 => self.float(8, 23),
            Accumulator::F16 => self.float(5, 10),
            Accumulator::S32 => self.next(),
            // Often near the ends.
            Accumulator::SaturatingS32 => match self.next() % 3 {
                0 => i32::MAX.cast_unsigned() - self.next() % 10_000,
                1 => i32::MIN.cast_unsigned() + self.next() % 10_000,
                _ => self.next(),
            },
        }
    }
}

/// The bits of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    bits: Vec<u32>,
}

impl Bits {
    pub(crate) fn new(rows: usize, columns: usize, mut value: impl FnMut(usize, usize) -> u32) -> Bits {
        let bits = (0..rows * columns).map(|i| value(i / columns, i % columns)).collect();
        Bits { rows, columns, bits }
    }

    pub(crate) fn get(&self, row: usize, column: usize) -> u32 {
        assert!(row < self.rows && column < self.columns, "({row}, {column})");
        self.bits[row * self.columns + column]
    }
}

/// What the bits of an element mean.
pub(crate) fn value(element: Element, bits: u32) -> f64 {
    match element {
        Element::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Element::F16 => f16::from_bits(bits as u16).to_f64(),
        Element::Tf32 => f64::from(f32::from_bits(bits >> 13 << 13)),
        Element::E4m3 => {
            let (exponent, mantissa) = ((bits >> 3 & 15) as i32, f64::from(bits & 7));
            let magnitude = match (exponent, bits & 7) {
                (15, 7) => f64::NAN,
                (0, _) => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            if bits & 0x80 == 0 { magnitude } else { -magnitude }
        }
        // The upper byte of an f16.
        Element::E5m2 => f16::from_bits((bits as u16) << 8).to_f64(),
        Element::S8 => f64::from(bits as u8 as i8),
        Element::U8 => f64::from(bits as u8),
    }
}

/// The nearest of all f16, the even one of two.
pub(crate) fn nearest_f16(value: f64) -> u32 {
    let near = i32::from(f16::from_f64(value.abs()).to_bits());
    let best = (near - 1..=near + 1)
        .filter(|bits| (0..=0x7c00).contains(bits))
        .min_by(|&left, &right| {
            // Infinity counts as 2^16, the next step of the largest exponent.
            let distance = |bits: i32| {
                let rounded = if bits == 0x7c00 { 65536.0 } else { f16::from_bits(bits as u16).to_f64() };
                (rounded - value.abs()).abs()
            };
            distance(left).total_cmp(&distance(right)).then((left & 1).cmp(&(right & 1)))
        })
        .expect("one of three neighbours is in range");
    best as u32 | if value.is_sign_negative() { 0x8000 } else { 0 }
}

/// `sum(a[i]·b[i]) + c`, by the definition.
pub(crate) fn dot(
    (a, b, accumulator): (Element, Element, Accumulator),
    factors: impl Iterator<Item = (u32, u32)>,
    c: u32,
) -> u32 {
    let products = factors.map(|(x, y)| value(a, x) * value(b, y)).sum::<f64>();
    match accumulator {
        Accumulator::F32 => ((products + f64::from(f32::from_bits(c))) as f32).to_bits(),
        Accumulator::F16 => nearest_f16(products + f16::from_bits(c as u16).to_f64()),
        Accumulator::S32 => c.wrapping_add_signed(products as i32),
        Accumulator::SaturatingS32 => c.cast_signed().saturating_add(products as i32).cast_unsigned(),
    }
}

/// The registers of a fragment: `place` gives row and column of element `i` of a lane, lowest bits first.
pub(crate) fn pack(
    matrix: &Bits,
    bytes: usize,
    count: usize,
    place: impl Fn(usize, usize) -> (usize, usize),
) -> Vec<[u32; 32]> {
    let mut registers = vec![[0; 32]; count];
    for (register, words) in registers.iter_mut().enumerate() {
        for (lane, word) in words.iter_mut().enumerate() {
            for i in 0..4 / bytes {
                let (row, column) = place(lane, register * 4 / bytes + i);
                *word |= matrix.get(row, column) << (8 * bytes * i);
            }
        }
    }
    registers
}
