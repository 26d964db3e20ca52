//! `cvt`: between all pairs of number types.

use super::float::{ftz, modifiers, rounding, saturate};
use super::{Decoder, Opcode, Refusal};
use crate::float::integer::{Integer, from_integer, to_integer, to_integral};
use crate::float::{Format, convert, convert_pair, convert_to_pair};
use crate::parse::Operand;
use crate::program::Op;
use crate::registers::{Action, binary, unary};

/// How a register's bits stand for one number, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Integer(Integer),
    Float(Format),
    Pair(Format),
}

const fn integer(signed: bool, bits: u32) -> Number {
    Number::Integer(Integer { signed, bits })
}

/// Types by their place in [`Args::extra`](crate::registers::Args::extra).
const NUMBERS: [(&str, Number); 24] = [
    ("u8", integer(false, 8)),
    ("s8", integer(true, 8)),
    ("u16", integer(false, 16)),
    ("s16", integer(true, 16)),
    ("u32", integer(false, 32)),
    ("s32", integer(true, 32)),
    ("u64", integer(false, 64)),
    ("s64", integer(true, 64)),
    ("f16", Number::Float(Format::F16)),
    ("bf16", Number::Float(Format::Bf16)),
    ("tf32", Number::Float(Format::Tf32)),
    ("f32", Number::Float(Format::F32)),
    ("f64", Number::Float(Format::F64)),
    ("f16x2", Number::Pair(Format::F16)),
    ("bf16x2", Number::Pair(Format::Bf16)),
    ("e4m3x2", Number::Pair(Format::E4m3)),
    ("e5m2x2", Number::Pair(Format::E5m2)),
    ("e2m1x2", Number::Pair(Format::E2m1)),
    ("e2m3x2", Number::Pair(Format::E2m3)),
    ("e3m2x2", Number::Pair(Format::E3m2)),
    ("ue8m0x2", Number::Pair(Format::Ue8m0)),
    ("b8", integer(false, 8)),
    ("b16", integer(false, 16)),
    ("b32", integer(false, 32)),
];
const FROM_AT: u32 = 16;
const TO_AT: u32 = 24;
/// `.rni`, `.rzi`, ...: to an integral value.
const INTEGRAL: u32 = 1 << 12;

fn number(extra: u32, at: u32) -> Number {
    NUMBERS[(extra >> at & 31) as usize].1
}

fn convert_bits(x: u64, extra: u32) -> u64 {
    let (rounding, saturate) = (rounding(extra), saturate(extra));
    match (number(extra, FROM_AT), number(extra, TO_AT)) {
        (Number::Integer(from), Number::Integer(to)) => {
            let value = from.extend(x);
            to.extend(if saturate == crate::float::Saturate::None { value } else { clamp(value, from, to) })
        }
        (Number::Integer(from), Number::Float(to)) => from_integer(x, from, to, rounding, saturate),
        (Number::Float(from), Number::Integer(to)) => to_integer(x, from, to, rounding, ftz(extra)),
        (Number::Float(from), Number::Float(to)) if from == to && extra & INTEGRAL != 0 => {
            to_integral(x, from, rounding, saturate, ftz(extra))
        }
        (Number::Float(from), Number::Float(to)) => convert(x, from, to, rounding, saturate, ftz(extra)),
        (Number::Pair(from), Number::Pair(to)) => convert_pair(x, from, to, rounding, saturate),
        // The decoder lets no other combination pass.
        _ => 0,
    }
}

/// `value`, extended from `from`, in the range of `to`.
fn clamp(value: u64, from: Integer, to: Integer) -> u64 {
    let value = if from.signed { i128::from(value as i64) } else { i128::from(value) };
    let (low, high) = match to.signed {
        true => (-(1i128 << (to.bits - 1)), (1i128 << (to.bits - 1)) - 1),
        false => (0, (1i128 << to.bits) - 1),
    };
    value.clamp(low, high) as u64
}

impl<'a> Decoder<'a> {
    pub(super) fn convert(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        if opcode.name() != "cvt" || opcode.has("pack") {
            return Ok(None);
        }
        let mut kinds = opcode.qualifiers().rev();
        let (from_name, to_name) = (kinds.next().unwrap_or(""), kinds.next().unwrap_or(""));
        let index =
            |name: &str| NUMBERS.iter().position(|(known, _)| *known == name).ok_or_else(|| format!("type `.{name}`"));
        let (from_index, to_index) = (index(from_name)?, index(to_name)?);
        let (from, to) = (NUMBERS[from_index].1, NUMBERS[to_index].1);
        let is_integral = ["rni", "rzi", "rmi", "rpi"].iter().any(|name| opcode.has(name));
        let mut extra = modifiers(opcode) | (from_index as u32) << FROM_AT | (to_index as u32) << TO_AT;
        extra |= if is_integral { INTEGRAL } else { 0 };
        if opcode.has("rs") || opcode.has("scaled") {
            return Err("this rounding is not executed".to_owned());
        }
        let width = |number| match number {
            Number::Integer(Integer { bits: 64, .. }) | Number::Float(Format::F64) => 64,
            _ => 32,
        };
        if let (Number::Float(Format::F32), Number::Pair(_)) = (from, to) {
            // The first source goes into the upper half.
            let action: Action = |r, a, m| {
                let (Number::Float(from), Number::Pair(to)) = (number(a.extra, FROM_AT), number(a.extra, TO_AT)) else {
                    return;
                };
                let (rounding, saturate) = (rounding(a.extra), saturate(a.extra));
                binary::<u32, u32, u32>(r, a, m, |x, y| {
                    convert_to_pair(x.into(), y.into(), from, to, rounding, saturate) as u32
                });
            };
            return self.pure(action, operands, &[32; 3], extra);
        }
        let is_known = matches!(
            (from, to),
            (Number::Integer(_) | Number::Float(_), Number::Integer(_) | Number::Float(_))
                | (Number::Pair(_), Number::Pair(_))
        );
        if !is_known {
            return Err(format!("a conversion from `.{from_name}` to `.{to_name}` is not executed"));
        }
        let is_plain = extra & 0xffff & !INTEGRAL == 0;
        let action: Action = match (to_name, from_name) {
            // The commonest are done by the processor.
            ("u64" | "s64", "u32") if is_plain => |r, a, m| unary::<u32, u64>(r, a, m, u64::from),
            ("u64" | "s64", "s32") if is_plain => |r, a, m| unary::<i32, i64>(r, a, m, i64::from),
            ("u32" | "s32", "u64" | "s64") if is_plain => |r, a, m| unary::<u64, u32>(r, a, m, |x| x as u32),
            ("f32", "bf16") if is_plain => |r, a, m| {
                // Canonical NaN as everywhere.
                unary::<u16, f32>(r, a, m, |x| {
                    let value = f32::from_bits(u32::from(x) << 16);
                    if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value }
                });
            },
            _ => match (width(from), width(to)) {
                (64, 64) => |r, a, m| unary::<u64, u64>(r, a, m, |x| convert_bits(x, a.extra)),
                (64, _) => |r, a, m| unary::<u64, u32>(r, a, m, |x| convert_bits(x, a.extra) as u32),
                (_, 64) => |r, a, m| unary::<u32, u64>(r, a, m, |x| convert_bits(x.into(), a.extra)),
                _ => |r, a, m| unary::<u32, u32>(r, a, m, |x| convert_bits(x.into(), a.extra) as u32),
            },
        };
        self.pure(action, operands, &[width(to), width(from)], extra)
    }
}
