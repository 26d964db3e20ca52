//! Every rounded result against integers that hold the exact one.

use std::cmp::Ordering;

use super::super::arithmetic::*;
use super::super::{Format, Rounding, Saturate};
use super::{ROUNDINGS, Random, exact::Integer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
}

impl Op {
    fn run(self, [a, b, c]: [u32; 3], format: Format, mode: Mode) -> u32 {
        let [short_a, short_b, short_c] = [a, b, c].map(|bits| bits as u16);
        match (self, format) {
            (Op::Add, Format::F32) => add_f32(a, b, mode),
            (Op::Sub, Format::F32) => sub_f32(a, b, mode),
            (Op::Mul, Format::F32) => mul_f32(a, b, mode),
            (Op::Fma, Format::F32) => fma_f32(a, b, c, mode),
            (Op::Div, _) => div_f32(a, b, mode),
            (Op::Sqrt, _) => sqrt_f32(a, mode),
            (Op::Add, _) => add_short(short_a, short_b, format, mode).into(),
            (Op::Sub, _) => sub_short(short_a, short_b, format, mode).into(),
            (Op::Mul, _) => mul_short(short_a, short_b, format, mode).into(),
            (Op::Fma, _) => fma_short(short_a, short_b, short_c, format, mode).into(),
        }
    }

    /// How a number of units of 2⁻¹⁵⁰ compares with the exact result; `None` if that is no finite number.
    fn order(self, operands: [f32; 3]) -> Option<Box<dyn Fn(Integer) -> Ordering>> {
        if operands.iter().any(|operand| !operand.is_finite()) {
            return None;
        }
        let [a, b, c] = operands.map(units);
        match self {
            Op::Add | Op::Sub => {
                let sum = a.plus(if self == Op::Add { b } else { b.negate() }).shift(1);
                Some(Box::new(move |place| place.order(sum)))
            }
            Op::Mul | Op::Fma => {
                let c = if self == Op::Fma { c.shift(149) } else { Integer::new(false, 0) };
                let sum = a.times(b).plus(c);
                Some(Box::new(move |place| place.shift(148).order(sum)))
            }
            Op::Div if operands[1] == 0.0 => None,
            Op::Div => {
                let (a, b) = if b.is_negative() { (a.negate(), b.negate()) } else { (a, b) };
                let a = a.shift(150);
                Some(Box::new(move |place| place.times(b).order(a)))
            }
            Op::Sqrt if operands[0] < 0.0 => None,
            Op::Sqrt => {
                let a = a.shift(151);
                Some(Box::new(move |place| match place.is_negative() {
                    true => Ordering::Less,
                    false => place.times(place).order(a),
                }))
            }
        }
    }
}

/// A finite f32 in units of 2⁻¹⁴⁹, the smallest f32.
fn units(value: f32) -> Integer {
    let bits = value.to_bits();
    let (field, fraction) = (bits >> 23 & 0xff, u64::from(bits & 0x7f_ffff));
    let (significand, shift) = if field == 0 { (fraction, 0) } else { (fraction | 1 << 23, field - 1) };
    Integer::new(bits >> 31 == 1, significand).shift(shift)
}

/// A value of one of the three formats, all of which are part of f32.
fn to_f32(bits: u32, format: Format) -> f32 {
    match format {
        Format::Bf16 => half::bf16::from_bits(bits as u16).to_f32(),
        Format::F16 => half::f16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits(bits),
    }
}

/// The magnitude of infinity: the number of non-negative finite values.
fn infinity(format: Format) -> u32 {
    match format {
        Format::Bf16 => 0x7f80,
        Format::F16 => 0x7c00,
        _ => 0x7f80_0000,
    }
}

/// The value of a rank, its magnitude with its sign, in units of 2⁻¹⁴⁹. Infinity is where the next value would be.
fn place(rank: i64, format: Format) -> Integer {
    let magnitude = rank.unsigned_abs() as u32;
    let place = match format {
        _ if magnitude < infinity(format) => units(to_f32(magnitude, format)),
        Format::F16 => units(65536.0),
        _ => Integer::new(false, 1).shift(128 + 149),
    };
    if rank < 0 { place.negate() } else { place }
}

/// Asserts that `bits` is what `rounding` makes of the exact result.
fn check(
    bits: u32,
    format: Format,
    rounding: Rounding,
    order: &dyn Fn(Integer) -> Ordering,
    what: &dyn Fn() -> String,
) {
    let sign = 1 << (format.bits() - 1);
    let magnitude = bits & (sign - 1);
    assert!(magnitude <= infinity(format), "{}: {bits:#x} is NaN", what());
    let rank = if bits & sign == 0 { i64::from(magnitude) } else { -i64::from(magnitude) };
    let most = i64::from(infinity(format));
    // Twice the middle of two values in units of 2⁻¹⁴⁹ is their sum: the middle in units of 2⁻¹⁵⁰.
    let middle = |a, b| order(place(a, format).plus(place(b, format)));
    let at = |rank| middle(rank, rank);
    // Infinities stand for everything beyond the largest value.
    let at_most_exact = |rank: i64| rank == -most || rank != most && at(rank).is_le();
    let above_exact = |rank: i64| rank == most || at(rank).is_gt();
    let at_least_exact = |rank: i64| rank == most || rank != -most && at(rank).is_ge();
    let below_exact = |rank: i64| rank == -most || at(rank).is_lt();
    let down = || rank < most && at_most_exact(rank) && above_exact(rank + 1);
    let up = || rank > -most && at_least_exact(rank) && below_exact(rank - 1);
    let nearest = |wins_tie_below: bool, wins_tie_above: bool| {
        let below = if rank == -most { Ordering::Less } else { middle(rank - 1, rank) };
        let above = if rank == most { Ordering::Greater } else { middle(rank, rank + 1) };
        (below.is_lt() || below.is_eq() && wins_tie_below) && (above.is_gt() || above.is_eq() && wins_tie_above)
    };
    let right = match rounding {
        Rounding::NearestEven => nearest(rank % 2 == 0, rank % 2 == 0),
        Rounding::NearestAway => nearest(rank > 0, rank < 0),
        Rounding::Down => down(),
        Rounding::Up => up(),
        Rounding::Zero => match at(0) {
            Ordering::Less => down(),
            Ordering::Equal => rank == 0,
            Ordering::Greater => up(),
        },
    };
    assert!(right, "{}: {bits:#x}, {rounding:?}", what());
}

/// Bits at which something changes: zeros, subnormals, ones, powers, the largest values.
fn hostile(format: Format) -> Vec<u32> {
    let fraction_bits = match format {
        Format::F16 => 10,
        Format::Bf16 => 7,
        _ => 23,
    };
    let (normal, infinity) = (1 << fraction_bits, infinity(format));
    let one = (infinity - normal) / 2 / normal * normal;
    let near = [0, normal, one, one / 2, one + normal, one + normal / 2, infinity - normal, infinity];
    let magnitudes = near.into_iter().flat_map(|bits: u32| [bits.saturating_sub(1), bits, bits + 1]);
    let magnitudes: Vec<u32> = magnitudes.filter(|&bits| bits < infinity).collect();
    let sign = 1 << (format.bits() - 1);
    magnitudes.iter().flat_map(|&bits| [bits, bits | sign]).collect()
}

/// Operands of all kinds: hostile ones, any bits, magnitudes around one, few digits (which make ties).
fn operand(random: &mut Random, format: Format, hostile: &[u32]) -> u32 {
    let bits = random.next() as u32 >> (32 - format.bits());
    let digits = match format {
        Format::F16 => 10,
        Format::Bf16 => 7,
        _ => 23,
    };
    let sign = 1 << (format.bits() - 1);
    let one = (infinity(format) - (1 << digits)) / 2;
    // The bits of a value between a half and four.
    let near_one = (bits & sign) | ((one & !((1 << digits) - 1)) - (1 << digits) + bits % (3 << digits));
    match random.next() % 4 {
        0 => hostile[random.next() as usize % hostile.len()],
        1 => bits,
        2 => near_one,
        _ => near_one & !((1 << (digits / 2)) - 1),
    }
}

fn check_op(op: Op, format: Format, cases: usize) {
    let hostile = hostile(format);
    let mut random = Random(op as u64 + 10);
    let mut checked = 0;
    let mut check_case = |operands: [u32; 3]| {
        let Some(order) = op.order(operands.map(|bits| to_f32(bits, format))) else { return };
        for rounding in ROUNDINGS {
            let bits = op.run(operands, format, Mode { rounding, ..Mode::NEAREST });
            check(bits, format, rounding, &*order, &|| format!("{op:?} {format:?} {operands:#x?}"));
        }
        checked += 1;
    };
    for &a in &hostile {
        for &b in &hostile {
            check_case([a, b, hostile[random.next() as usize % hostile.len()]]);
        }
    }
    for _ in 0..cases {
        let [a, b, c] = [(); 3].map(|()| operand(&mut random, format, &hostile));
        // Every other sum cancels all but the last digits.
        let near = match op {
            Op::Fma => op.run([a, b, 0], format, Mode::NEAREST),
            _ => a,
        };
        let near = (near ^ 1 << (format.bits() - 1)).wrapping_add((random.next() % 5) as u32).wrapping_sub(2);
        let near = near & (u32::MAX >> (32 - format.bits()));
        match (op, random.next() % 2) {
            (Op::Add, 0) => check_case([a, near, c]),
            (Op::Fma, 0) => check_case([a, b, near]),
            _ => check_case([a, b, c]),
        }
    }
    assert!(checked > cases / 3, "only {checked} of {cases} cases had a finite result");
}

#[test]
fn sums_of_f32_are_rounded_once() {
    check_op(Op::Add, Format::F32, 120_000);
    check_op(Op::Sub, Format::F32, 10_000);
}

#[test]
fn products_of_f32_are_rounded_once() {
    check_op(Op::Mul, Format::F32, 120_000);
}

#[test]
fn fused_products_of_f32_are_rounded_once() {
    check_op(Op::Fma, Format::F32, 120_000);
}

#[test]
fn quotients_of_f32_are_rounded_once() {
    check_op(Op::Div, Format::F32, 120_000);
}

#[test]
fn roots_of_f32_are_rounded_once() {
    check_op(Op::Sqrt, Format::F32, 240_000);
}

#[test]
fn short_results_are_rounded_once() {
    for format in [Format::F16, Format::Bf16] {
        for op in [Op::Add, Op::Sub, Op::Mul, Op::Fma] {
            check_op(op, format, 30_000);
        }
    }
}

#[test]
fn signs_of_zeros() {
    let (zero, minus, one, minus_one) = (0, 0x8000_0000, 0x3f80_0000, 0xbf80_0000);
    for rounding in ROUNDINGS {
        let mode = Mode { rounding, ..Mode::NEAREST };
        // A sum of opposites is +0, but -0 when rounding down.
        let opposite = if rounding == Rounding::Down { minus } else { zero };
        for (a, b, expected) in [
            (zero, zero, zero),
            (minus, minus, minus),
            (zero, minus, opposite),
            (minus, zero, opposite),
            (one, minus_one, opposite),
            (minus_one, one, opposite),
        ] {
            assert_eq!(add_f32(a, b, mode), expected, "{a:#x} + {b:#x} {rounding:?}");
            assert_eq!(sub_f32(a, b ^ minus, mode), expected, "{a:#x} - -{b:#x} {rounding:?}");
            assert_eq!(fma_f32(a, one, b, mode), expected, "fma {a:#x} {b:#x} {rounding:?}");
            let [short_a, short_b, expected] = [a, b, expected].map(|bits| (bits >> 16) as u16);
            assert_eq!(add_short(short_a, short_b, Format::Bf16, mode), expected, "bf16 {a:#x} + {b:#x} {rounding:?}");
        }
        assert_eq!(mul_f32(minus, one, mode), minus);
        assert_eq!(mul_f32(minus, minus_one, mode), zero);
        assert_eq!(div_f32(zero, minus_one, mode), minus);
        assert_eq!(div_f32(one, 0xff80_0000, mode), minus);
        assert_eq!(sqrt_f32(minus, mode), minus);
    }
}

#[test]
fn infinities_and_nan() {
    let (inf, minus_inf, nan, one) = (0x7f80_0000, 0xff80_0000, 0x7fff_ffff, 0x3f80_0000);
    for rounding in ROUNDINGS {
        let mode = Mode { rounding, ..Mode::NEAREST };
        assert_eq!(add_f32(inf, one, mode), inf);
        assert_eq!(add_f32(inf, minus_inf, mode), nan);
        assert_eq!(add_f32(0xffc1_2345, one, mode), nan);
        assert_eq!(add_f32(one, 0x7f80_0001, mode), nan);
        assert_eq!(mul_f32(inf, 0, mode), nan);
        assert_eq!(mul_f32(minus_inf, one, mode), minus_inf);
        assert_eq!(fma_f32(inf, 0, one, mode), nan);
        assert_eq!(fma_f32(inf, one, minus_inf, mode), nan);
        assert_eq!(fma_f32(one, one, minus_inf, mode), minus_inf);
        assert_eq!(div_f32(one, 0, mode), inf);
        assert_eq!(div_f32(one, 0x8000_0000, mode), minus_inf);
        assert_eq!(div_f32(0, 0, mode), nan);
        assert_eq!(div_f32(inf, inf, mode), nan);
        assert_eq!(rcp_f32(0x8000_0000, mode), minus_inf);
        assert_eq!(rcp_f32(0x4080_0000, mode), 0x3e80_0000);
        assert_eq!(sqrt_f32(inf, mode), inf);
        assert_eq!(sqrt_f32(0xbf80_0000, mode), nan);
        for (format, inf) in [(Format::F16, 0x7c00), (Format::Bf16, 0x7f80)] {
            assert_eq!(add_short(inf, 1, format, mode), inf);
            assert_eq!(sub_short(inf, inf, format, mode), 0x7fff);
            assert_eq!(fma_short(inf, 0, 0, format, mode), 0x7fff);
            assert_eq!(mul_short(0xffff, 0, format, mode), 0x7fff);
        }
    }
}

#[test]
fn modifiers_of_arithmetic() {
    let one = 0x3f80_0000;
    let ftz = Mode { ftz: true, ..Mode::NEAREST };
    for (what, result, expected) in [
        ("a subnormal operand", add_f32(0x807f_ffff, 0x8000_0000, ftz), 0x8000_0000),
        ("a subnormal factor", mul_f32(0x007f_ffff, 0x7f00_0000, ftz), 0),
        ("a subnormal addend", fma_f32(one, 0x8080_0000, 1, ftz), 0x8080_0000),
        ("a subnormal result", mul_f32(0x8080_0000, 0x3f00_0000, ftz), 0x8000_0000),
        ("the smallest normal result", mul_f32(0x0080_0000, one, ftz), 0x0080_0000),
        ("a subnormal divisor", div_f32(one, 1, ftz), 0x7f80_0000),
        ("a subnormal root", sqrt_f32(0x8000_0001, ftz), 0x8000_0000),
        ("kept without ftz", mul_f32(0x8080_0000, 0x3f00_0000, Mode::NEAREST), 0x8040_0000),
    ] {
        assert_eq!(result, expected, "{what}: {result:#x}");
    }
    let f16 = |a, b| add_short(a, b, Format::F16, ftz);
    assert_eq!((f16(0x83ff, 0x8000), f16(0x0401, 0x8400)), (0x8000, 0));
    let sat = Mode { saturate: Saturate::Zero1, ..Mode::NEAREST };
    for (what, result, expected) in [
        ("above", add_f32(one, one, sat), one),
        ("below", sub_f32(0, one, sat), 0),
        ("minus zero", mul_f32(one, 0x8000_0000, sat), 0),
        ("NaN", fma_f32(0x7f80_0000, 0, one, sat), 0),
        ("within", mul_f32(one, 0x3f00_0000, sat), 0x3f00_0000),
        ("f16", add_short(0x3c00, 0x3c00, Format::F16, sat).into(), 0x3c00),
    ] {
        assert_eq!(result, expected, "{what}: {result:#x}");
    }
    let relu = Mode { saturate: Saturate::Relu, ..Mode::NEAREST };
    assert_eq!(fma_short(0xbf80, 0x3f80, 0x0000, Format::Bf16, relu), 0);
    assert_eq!(fma_short(0x3f80, 0x4000, 0x0000, Format::Bf16, relu), 0x4000);
    assert_eq!(fma_short(0x7f80, 0x0000, 0x0000, Format::Bf16, relu), 0x7fff);
}

#[test]
fn f64_is_rounded_to_nearest_and_keeps_the_first_nan() {
    let bits = f64::to_bits;
    let nearest = Rounding::NearestEven;
    let tiny = 2_f64.powi(-52);
    for (result, expected) in [
        (add_f64(bits(1.0), bits(tiny / 2.0), nearest), bits(1.0)),
        (sub_f64(bits(1.0), bits(3.0), nearest), bits(-2.0)),
        (mul_f64(bits(1.5), bits(-2.0), nearest), bits(-3.0)),
        // The product alone would be rounded to one.
        (fma_f64(bits(1.0 + tiny), bits(1.0 - tiny), bits(-1.0), nearest), bits(-tiny * tiny)),
        (div_f64(bits(1.0), bits(4.0), nearest), bits(0.25)),
        (rcp_f64(bits(-0.0), nearest), bits(f64::NEG_INFINITY)),
        (sqrt_f64(bits(2.25), nearest), bits(1.5)),
        (sqrt_f64(bits(-1.0), nearest), 0xfff8_0000_0000_0000),
        (add_f64(bits(1.0), 0x7ff0_0000_0000_0005, nearest), 0x7ff8_0000_0000_0005),
        (fma_f64(bits(1.0), 0x7ff8_0000_0000_0001, 0x7ff8_0000_0000_0002, nearest), 0x7ff8_0000_0000_0001),
    ] {
        assert_eq!(result, Some(expected));
    }
    for rounding in [Rounding::Zero, Rounding::Down, Rounding::Up] {
        assert_eq!(add_f64(bits(1.0), bits(1.0), rounding), None);
    }
}
