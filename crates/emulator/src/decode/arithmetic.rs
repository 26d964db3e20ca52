//! Integer arithmetic, logic, moves, comparisons and selections.

use super::{Decoder, Opcode, Refusal};
use crate::parse::Operand;
use crate::program::{Logic, Op};
use crate::registers::{Action, Args, Lane, Registers, binary, compare, quaternary, ternary, unary, write};

/// Picks an action by the type that an instruction names: an expression with `$lane` as the type.
macro_rules! by_type {
    ($kind:expr, $lane:ident in [$($name:literal => $type:ty),* $(,)?], $action:expr) => {
        match $kind {
            $($name => { type $lane = $type; Some($action as Action) })*
            _ => None,
        }
    };
}

/// As [`by_type`], for all integers.
macro_rules! by_integer {
    ($kind:expr, $lane:ident, $action:expr) => {
        by_type!($kind, $lane in [
            "u16" => u16, "b16" => u16, "s16" => i16, "u32" => u32, "b32" => u32, "s32" => i32,
            "u64" => u64, "b64" => u64, "s64" => i64,
        ], $action)
    };
}

/// As [`by_type`], for the unsigned integer of the type's width.
macro_rules! by_width {
    ($kind:expr, $lane:ident, $action:expr) => {
        by_type!($kind, $lane in [
            "u16" => u16, "b16" => u16, "s16" => u16, "u32" => u32, "b32" => u32, "s32" => u32,
            "u64" => u64, "b64" => u64, "s64" => u64, "f32" => u32, "f64" => u64, "f16" => u16, "bf16" => u16,
        ], $action)
    };
}

/// Bits of a type's register.
pub(super) fn width(kind: &str) -> u32 {
    match kind {
        "b64" | "u64" | "s64" | "f64" => 64,
        "pred" => 1,
        _ => 32,
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn arithmetic(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        // nvcc writes `max.s32.relu`, the PTX ISA `max.relu.s32`.
        let has_relu = opcode.has("relu");
        let kind = opcode.qualifiers().rfind(|part| *part != "relu").unwrap_or("");
        let bits = width(kind);
        let is_integer = matches!(kind.as_bytes().first(), Some(b'u' | b's' | b'b')) && !kind.starts_with("bf");
        match opcode.name() {
            "mov" => return self.mov(kind, operands),
            "setp" if kind != "f16" && kind != "bf16" && is_integer => return self.setp_integer(opcode, operands),
            "and" | "or" | "xor" | "not" if kind == "pred" => return self.predicate_logic(opcode.name(), operands),
            "selp" => {
                // The predicate may be negated: then the values change places.
                let [d, a, b, p] = operands else { return Err("`selp` takes three values".to_owned()) };
                let action = by_width!(kind, T, select::<T>).ok_or_else(|| format!("type `.{kind}`"))?;
                let (p, is_negated) = self.predicate(p)?;
                let (a, b) = if is_negated { (b, a) } else { (a, b) };
                let slots = [self.of_width(d, bits)?, self.of_width(a, bits)?, self.of_width(b, bits)?, p, 0];
                return Ok(Some(Op::Pure(action, Args { slots, extra: 0 })));
            }
            "mul" if is_integer && opcode.has("wide") => return self.multiply_wide(kind, operands),
            "mad" if is_integer && opcode.has("wide") => return self.multiply_add_wide(kind, operands),
            _ => {}
        }
        let one = |action: Option<Action>| action.map(|action| (action, vec![bits; 2]));
        let two = |action: Option<Action>| action.map(|action| (action, vec![bits; 3]));
        let three = |action: Option<Action>| action.map(|action| (action, vec![bits; 4]));
        // The amount of a shift and the fields of `bfe` are 32-bit whatever the type.
        let shift = |action: Option<Action>| action.map(|action| (action, vec![bits, bits, 32]));
        let mut extra = 0;
        let found = match opcode.name() {
            "add" | "min" | "max" if matches!(kind, "u16x2" | "s16x2") => {
                let action = two_halves(opcode.name(), kind, has_relu);
                return match action {
                    Some(action) => self.pure(action, operands, &[32; 3], 0),
                    None => Ok(None),
                };
            }
            "add" if is_integer && !opcode.has("sat") => {
                two(by_integer!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, T::wrapping_add)))
            }
            "add" if opcode.has("sat") && kind == "s32" => {
                two(Some(|r, a, m| binary::<i32, i32, i32>(r, a, m, i32::saturating_add)))
            }
            "sub" if is_integer && !opcode.has("sat") => {
                two(by_integer!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, T::wrapping_sub)))
            }
            "sub" if opcode.has("sat") && kind == "s32" => {
                two(Some(|r, a, m| binary::<i32, i32, i32>(r, a, m, i32::saturating_sub)))
            }
            "mul" if is_integer && opcode.has("lo") => {
                two(by_integer!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, T::wrapping_mul)))
            }
            "mul" if is_integer && opcode.has("hi") => two(high_product(kind)),
            "mul24" if opcode.has("hi") => two(by_type!(kind, T in ["u32" => u32, "s32" => i32], |r, a, m| {
                binary::<T, T, T>(r, a, m, |x, y| {
                    ((i64::from((x << 8) >> 8) * i64::from((y << 8) >> 8)) >> 16) as T
                })
            })),
            "mul24" if opcode.has("lo") => two(by_type!(kind, T in ["u32" => u32, "s32" => i32], |r, a, m| {
                binary::<T, T, T>(r, a, m, |x, y| ((x << 8) >> 8).wrapping_mul((y << 8) >> 8))
            })),
            "mad" if is_integer && opcode.has("lo") => three(by_integer!(kind, T, |r, a, m| {
                ternary::<T, T, T, T>(r, a, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z))
            })),
            "mad" if opcode.has("hi") && opcode.has("sat") && kind == "s32" => three(Some(|r, a, m| {
                ternary::<i32, i32, i32, i32>(r, a, m, |x, y, z| {
                    (((i64::from(x) * i64::from(y)) >> 32) as i32).saturating_add(z)
                });
            })),
            "mad" if opcode.has("hi") && !opcode.has("sat") => three(high_product_sum(kind)),
            // A divisor of zero gives all ones, as on the hardware.
            "div" if is_integer => two(by_integer!(kind, T, |r, a, m| {
                binary::<T, T, T>(r, a, m, |x, y| if y == 0 { !0 } else { x.wrapping_div(y) })
            })),
            "rem" if is_integer => two(by_integer!(kind, T, |r, a, m| {
                binary::<T, T, T>(r, a, m, |x, y| if y == 0 { x } else { x.wrapping_rem(y) })
            })),
            "abs" if is_integer => one(by_type!(kind, T in ["s16" => i16, "s32" => i32, "s64" => i64], |r, a, m| {
                unary::<T, T>(r, a, m, T::wrapping_abs)
            })),
            "neg" if is_integer => one(by_type!(kind, T in ["s16" => i16, "s32" => i32, "s64" => i64], |r, a, m| {
                unary::<T, T>(r, a, m, T::wrapping_neg)
            })),
            "min" | "max" if has_relu => two(match (opcode.name(), kind) {
                ("min", "s32") => Some(|r, a, m| binary::<i32, i32, i32>(r, a, m, |x, y| x.min(y).max(0))),
                ("max", "s32") => Some(|r, a, m| binary::<i32, i32, i32>(r, a, m, |x, y| x.max(y).max(0))),
                _ => None,
            }),
            "min" if is_integer => two(by_integer!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, |x, y| x.min(y)))),
            "max" if is_integer => two(by_integer!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, |x, y| x.max(y)))),
            "sad" => three(by_integer!(kind, T, |r, a, m| {
                ternary::<T, T, T, T>(r, a, m, |x, y, z| x.abs_diff(y).wrapping_add(z as _) as T)
            })),
            "and" => two(by_width!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, |x, y| x & y))),
            "or" => two(by_width!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, |x, y| x | y))),
            "xor" => two(by_width!(kind, T, |r, a, m| binary::<T, T, T>(r, a, m, |x, y| x ^ y))),
            "not" => one(by_width!(kind, T, |r, a, m| unary::<T, T>(r, a, m, |x| !x))),
            "cnot" => one(by_width!(kind, T, |r, a, m| unary::<T, T>(r, a, m, |x| T::from(x == 0)))),
            // Amounts beyond the width shift everything out.
            "shl" => shift(by_width!(kind, T, |r, a, m| {
                binary::<T, u32, T>(r, a, m, |x, y| x.checked_shl(y).unwrap_or(0))
            })),
            "shr" => shift(by_integer!(kind, T, |r, a, m| {
                binary::<T, u32, T>(r, a, m, |x, y| x >> y.min(T::BITS - 1) >> u32::from(y >= T::BITS))
            })),
            "shf" => {
                extra = u32::from(opcode.has("wrap"));
                three(Some(if opcode.has("l") { funnel_left } else { funnel_right }))
            }
            "lop3" => return self.lop3(opcode, operands),
            "popc" => narrow(
                by_type!(kind, T in ["b32" => u32, "b64" => u64], |r, a, m| {
                    unary::<T, u32>(r, a, m, T::count_ones)
                }),
                bits,
            ),
            "clz" => narrow(
                by_type!(kind, T in ["b32" => u32, "b64" => u64], |r, a, m| {
                    unary::<T, u32>(r, a, m, T::leading_zeros)
                }),
                bits,
            ),
            "bfind" => {
                extra = u32::from(opcode.has("shiftamt"));
                let action: Option<Action> = match kind {
                    "u32" => Some(|r, args, m| unary::<u32, u32>(r, args, m, |x| find_bit(x.into(), 32, args.extra))),
                    "s32" => Some(|r, args, m| {
                        unary::<i32, u32>(r, args, m, |x| find_bit((x ^ x >> 31) as u32 as u64, 32, args.extra));
                    }),
                    "u64" => Some(|r, args, m| unary::<u64, u32>(r, args, m, |x| find_bit(x, 64, args.extra))),
                    "s64" => Some(|r, args, m| {
                        unary::<i64, u32>(r, args, m, |x| find_bit((x ^ x >> 63) as u64, 64, args.extra));
                    }),
                    _ => None,
                };
                narrow(action, bits)
            }
            "brev" => one(by_type!(kind, T in ["b32" => u32, "b64" => u64], |r, a, m| {
                unary::<T, T>(r, a, m, T::reverse_bits)
            })),
            "bfe" => {
                extra = u32::from(kind.starts_with('s'));
                let action: Option<Action> = match kind {
                    "u32" | "s32" => Some(|r, args, m| {
                        ternary::<u32, u32, u32, u32>(r, args, m, |x, start, len| {
                            bit_field(x.into(), start & 255, len & 255, 32, args.extra != 0) as u32
                        });
                    }),
                    "u64" | "s64" => Some(|r, args, m| {
                        ternary::<u64, u32, u32, u64>(r, args, m, |x, start, len| {
                            bit_field(x, start & 255, len & 255, 64, args.extra != 0)
                        });
                    }),
                    _ => None,
                };
                action.map(|action| (action, vec![bits, bits, 32, 32]))
            }
            "bfi" => by_type!(kind, T in ["b32" => u32, "b64" => u64], |r, a, m| {
                quaternary::<T, T, u32, u32, T>(r, a, m, |value, into, start, len| {
                    let (start, len) = (start & 255, len & 255);
                    let ones = if len >= T::BITS { T::MAX } else { (1 << len) - 1 };
                    let field = ones.checked_shl(start).unwrap_or(0);
                    into & !field | value.checked_shl(start).unwrap_or(0) & field
                })
            })
            .map(|action| (action, vec![bits, bits, bits, 32, 32])),
            "prmt" if opcode.parts.len() == 2 => three(Some(permute)),
            "dp4a" => three(match (opcode.parts[1].as_str(), kind) {
                ("u32", "u32") => Some(dot4::<u8, u8>),
                ("s32", "s32") => Some(dot4::<i8, i8>),
                ("u32", "s32") => Some(dot4::<u8, i8>),
                ("s32", "u32") => Some(dot4::<i8, u8>),
                _ => None,
            }),
            "dp2a" if opcode.parts.len() == 4 => {
                extra = match opcode.parts[1].as_str() {
                    "lo" => 0,
                    "hi" => 16,
                    _ => return Ok(None),
                };
                three(match (opcode.parts[2].as_str(), kind) {
                    ("u32", "u32") => Some(dot2::<u16, u8>),
                    ("s32", "s32") => Some(dot2::<i16, i8>),
                    ("u32", "s32") => Some(dot2::<u16, i8>),
                    ("s32", "u32") => Some(dot2::<i16, u8>),
                    _ => None,
                })
            }
            _ => return Ok(None),
        };
        match found {
            Some((action, widths)) => self.pure(action, operands, &widths, extra),
            None => Ok(None),
        }
    }

    fn mov(&mut self, kind: &str, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let [d, a] = operands else { return Err("`mov` takes one value".to_owned()) };
        if kind == "pred" {
            let (a, d) = (self.predicate(a)?, self.predicate_result(d)?);
            return Ok(Some(Op::Predicate { logic: Logic::Or, d, a, b: a }));
        }
        let bits = width(kind);
        let (pieces, whole) = match (d, a) {
            (Operand::Vector(parts), whole) | (whole, Operand::Vector(parts)) => (parts, whole),
            _ => {
                let action: Action = if bits == 64 {
                    |r, a, m| unary::<u64, u64>(r, a, m, |x| x)
                } else {
                    |r, a, m| unary::<u32, u32>(r, a, m, |x| x)
                };
                return self.pure(action, operands, &[bits; 2], 0);
            }
        };
        let is_unpack = matches!(d, Operand::Vector(_));
        let piece_bits = bits / pieces.len() as u32;
        let mut slots = [0; 5];
        slots[0] = self.of_width(whole, bits)?;
        for (slot, piece) in slots[1..].iter_mut().zip(pieces) {
            *slot = self.b32(piece)?;
        }
        let action: Action = match (is_unpack, bits, piece_bits) {
            (true, 32, 16) => unpack::<u32, u16, 2>,
            (true, 64, 32) => unpack::<u64, u32, 2>,
            (true, 64, 16) => unpack::<u64, u16, 4>,
            (true, 32, 8) => unpack::<u32, u8, 4>,
            (false, 32, 16) => pack::<u32, u16, 2>,
            (false, 64, 32) => pack::<u64, u32, 2>,
            (false, 64, 16) => pack::<u64, u16, 4>,
            (false, 32, 8) => pack::<u32, u8, 4>,
            _ => return Err(format!("a `mov` of {} pieces in {bits} bits is not executed", pieces.len())),
        };
        Ok(Some(Op::Pure(action, Args { slots, extra: 0 })))
    }

    fn predicate_logic(&mut self, name: &str, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let d = self.predicate_result(operands.first().ok_or("no operands")?)?;
        let a = self.predicate(operands.get(1).ok_or("too few operands")?)?;
        if name == "not" {
            let a = (a.0, !a.1);
            return Ok(Some(Op::Predicate { logic: Logic::Or, d, a, b: a }));
        }
        let b = self.predicate(operands.get(2).ok_or("too few operands")?)?;
        let logic = match name {
            "and" => Logic::And,
            "or" => Logic::Or,
            _ => Logic::Xor,
        };
        Ok(Some(Op::Predicate { logic, d, a, b }))
    }

    fn setp_integer(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        type Test = fn(&Registers, &Args) -> u32;
        macro_rules! comparison {
            ($test:expr) => {
                match opcode.last() {
                    "u16" | "b16" => Some((|r, a| compare::<u16>(r, a, $test)) as Test),
                    "s16" => Some((|r, a| compare::<i16>(r, a, $test)) as Test),
                    "u32" | "b32" => Some((|r, a| compare::<u32>(r, a, $test)) as Test),
                    "s32" => Some((|r, a| compare::<i32>(r, a, $test)) as Test),
                    "u64" | "b64" => Some((|r, a| compare::<u64>(r, a, $test)) as Test),
                    "s64" => Some((|r, a| compare::<i64>(r, a, $test)) as Test),
                    _ => None,
                }
            };
        }
        let compare = match opcode.parts[1].as_str() {
            "eq" => comparison!(|a, b| a == b),
            "ne" => comparison!(|a, b| a != b),
            "lt" | "lo" => comparison!(|a, b| a < b),
            "le" | "ls" => comparison!(|a, b| a <= b),
            "gt" | "hi" => comparison!(|a, b| a > b),
            "ge" | "hs" => comparison!(|a, b| a >= b),
            _ => None,
        };
        let Some(compare) = compare else { return Ok(None) };
        self.setp(compare, opcode, operands).map(Some)
    }

    /// `setp.cmp[.bool].type p[|q], a, b[, [!]c]`
    pub(super) fn setp(
        &mut self,
        compare: fn(&Registers, &Args) -> u32,
        opcode: Opcode<'a>,
        operands: &'a [Operand],
    ) -> Result<Op, Refusal> {
        let bits = width(opcode.last());
        let (d, other) = match operands.first() {
            Some(Operand::Pair(d, other)) => (self.predicate_result(d)?, Some(self.predicate_result(other)?)),
            Some(d) => (self.predicate_result(d)?, None),
            None => return Err("no operands".to_owned()),
        };
        let [a, b] = [1, 2].map(|index| operands.get(index).ok_or("too few operands"));
        let slots = [d, self.of_width(a?, bits)?, self.of_width(b?, bits)?, 0, 0];
        let combine = match operands.get(3) {
            Some(c) => {
                let logic = opcode.one_of(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
                let (slot, is_negated) = self.predicate(c)?;
                Some((logic.ok_or("a predicate without `.and`, `.or` or `.xor`")?, slot, is_negated))
            }
            None => None,
        };
        Ok(Op::Setp { compare, args: Args { slots, extra: 0 }, other, combine })
    }

    fn multiply_wide(&mut self, kind: &str, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let (action, bits): (Action, _) = match kind {
            "u16" => (|r, a, m| binary::<u16, u16, u32>(r, a, m, |x, y| u32::from(x) * u32::from(y)), 32),
            "s16" => (|r, a, m| binary::<i16, i16, i32>(r, a, m, |x, y| i32::from(x) * i32::from(y)), 32),
            "u32" => (|r, a, m| binary::<u32, u32, u64>(r, a, m, |x, y| u64::from(x) * u64::from(y)), 64),
            "s32" => (|r, a, m| binary::<i32, i32, i64>(r, a, m, |x, y| i64::from(x) * i64::from(y)), 64),
            _ => return Ok(None),
        };
        self.pure(action, operands, &[bits, 32, 32], 0)
    }

    fn multiply_add_wide(&mut self, kind: &str, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let (action, bits): (Action, _) = match kind {
            "u16" => (
                |r, a, m| {
                    ternary::<u16, u16, u32, u32>(r, a, m, |x, y, z| (u32::from(x) * u32::from(y)).wrapping_add(z));
                },
                32,
            ),
            "s16" => (
                |r, a, m| {
                    ternary::<i16, i16, i32, i32>(r, a, m, |x, y, z| (i32::from(x) * i32::from(y)).wrapping_add(z));
                },
                32,
            ),
            "u32" => (
                |r, a, m| {
                    ternary::<u32, u32, u64, u64>(r, a, m, |x, y, z| (u64::from(x) * u64::from(y)).wrapping_add(z));
                },
                64,
            ),
            "s32" => (
                |r, a, m| {
                    ternary::<i32, i32, i64, i64>(r, a, m, |x, y, z| (i64::from(x) * i64::from(y)).wrapping_add(z));
                },
                64,
            ),
            _ => return Ok(None),
        };
        self.pure(action, operands, &[bits, 32, 32, bits], 0)
    }

    fn lop3(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let ([d, a, b, c, Operand::Integer(table)], 2) = (operands, opcode.parts.len()) else {
            return Err("only the plain form of `lop3` is executed".to_owned());
        };
        let action: Action = |r, args, m| {
            let table = args.extra;
            ternary::<u32, u32, u32, u32>(r, args, m, |a, b, c| {
                (0..8).filter(|row| table >> row & 1 != 0).fold(0, |bits, row| {
                    let term = |value: u32, bit: u32| if row & bit != 0 { value } else { !value };
                    bits | term(a, 4) & term(b, 2) & term(c, 1)
                })
            });
        };
        let slots = [self.b32(d)?, self.b32(a)?, self.b32(b)?, self.b32(c)?, 0];
        Ok(Some(Op::Pure(action, Args { slots, extra: *table as u32 })))
    }
}

/// An action with a 32-bit result of one operand.
fn narrow(action: Option<Action>, bits: u32) -> Option<(Action, Vec<u32>)> {
    action.map(|action| (action, vec![32, bits]))
}

fn select<T: Lane>(registers: &mut Registers, args: &Args, mask: u32) {
    let chosen = registers.predicates[args.slots[3] as usize];
    let (a, b) = (T::read(registers, args.slots[1]), T::read(registers, args.slots[2]));
    write(registers, args.slots[0], mask, |lane| T::from_word(if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] }));
}

fn high_product(kind: &str) -> Option<Action> {
    Some(match kind {
        "u16" => |r, a, m| binary::<u16, u16, u16>(r, a, m, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
        "s16" => |r, a, m| binary::<i16, i16, i16>(r, a, m, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16),
        "u32" => |r, a, m| binary::<u32, u32, u32>(r, a, m, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
        "s32" => |r, a, m| binary::<i32, i32, i32>(r, a, m, |x, y| ((i64::from(x) * i64::from(y)) >> 32) as i32),
        "u64" => |r, a, m| binary::<u64, u64, u64>(r, a, m, |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64),
        "s64" => |r, a, m| binary::<i64, i64, i64>(r, a, m, |x, y| ((i128::from(x) * i128::from(y)) >> 64) as i64),
        _ => return None,
    })
}

fn high_product_sum(kind: &str) -> Option<Action> {
    macro_rules! sum {
        ($narrow:ty, $wide:ty) => {
            Some(|r, a, m| {
                ternary::<$narrow, $narrow, $narrow, $narrow>(r, a, m, |x, y, z| {
                    (((<$wide>::from(x) * <$wide>::from(y)) >> <$narrow>::BITS) as $narrow).wrapping_add(z)
                });
            })
        };
    }
    match kind {
        "u16" => sum!(u16, u32),
        "s16" => sum!(i16, i32),
        "u32" => sum!(u32, u64),
        "s32" => sum!(i32, i64),
        "u64" => sum!(u64, u128),
        "s64" => sum!(i64, i128),
        _ => None,
    }
}

/// Two integers of 16 bits in a register, each on its own.
fn two_halves(name: &str, kind: &str, has_relu: bool) -> Option<Action> {
    macro_rules! halves {
        ($half:ty, $function:expr) => {
            Some(|r, a, m| {
                let f: fn($half, $half) -> $half = $function;
                binary::<u32, u32, u32>(r, a, m, |x, y| {
                    let high = f((x >> 16) as $half, (y >> 16) as $half) as u16;
                    u32::from(high) << 16 | u32::from(f(x as $half, y as $half) as u16)
                });
            })
        };
    }
    match (name, kind, has_relu) {
        ("add", _, false) => halves!(u16, u16::wrapping_add),
        ("min", "u16x2", false) => halves!(u16, |x, y| x.min(y)),
        ("max", "u16x2", false) => halves!(u16, |x, y| x.max(y)),
        ("min", "s16x2", false) => halves!(i16, |x, y| x.min(y)),
        ("max", "s16x2", false) => halves!(i16, |x, y| x.max(y)),
        ("min", "s16x2", true) => halves!(i16, |x, y| x.min(y).max(0)),
        ("max", "s16x2", true) => halves!(i16, |x, y| x.max(y).max(0)),
        _ => None,
    }
}

fn funnel_left(registers: &mut Registers, args: &Args, mask: u32) {
    let wraps = args.extra != 0;
    ternary::<u32, u32, u32, u32>(registers, args, mask, |low, high, amount| {
        let amount = if wraps { amount & 31 } else { amount.min(32) };
        let both = u64::from(high) << 32 | u64::from(low);
        ((both << amount) >> 32) as u32
    });
}

fn funnel_right(registers: &mut Registers, args: &Args, mask: u32) {
    let wraps = args.extra != 0;
    ternary::<u32, u32, u32, u32>(registers, args, mask, |low, high, amount| {
        let amount = if wraps { amount & 31 } else { amount.min(32) };
        ((u64::from(high) << 32 | u64::from(low)) >> amount) as u32
    });
}

/// The bits `start .. start + len` of a value of `bits` bits. Bits past its end, and past the field in a signed result, are
/// copies of the field's highest bit (of the value's, if that lies past the end) if `is_signed`, else 0.
fn bit_field(x: u64, start: u32, len: u32, bits: u32, is_signed: bool) -> u64 {
    let low = |count: u32| if count >= 64 { u64::MAX } else { (1 << count) - 1 };
    let sign = is_signed && len > 0 && x >> (start + len - 1).min(bits - 1) & 1 != 0;
    let inside = len.min(bits.saturating_sub(start));
    let field = if inside == 0 { 0 } else { x >> start & low(inside) };
    if sign { field | !low(inside) } else { field }
}

/// Position of the highest bit of a value of `bits` bits that is set, or how far it must be shifted to the top; all ones if
/// there is none.
fn find_bit(x: u64, bits: u32, is_shift: u32) -> u32 {
    match x.checked_ilog2() {
        None => u32::MAX,
        Some(position) if is_shift == 0 => position,
        Some(position) => bits - 1 - position,
    }
}

fn permute(registers: &mut Registers, args: &Args, mask: u32) {
    ternary::<u32, u32, u32, u32>(registers, args, mask, |a, b, selector| {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        u32::from_le_bytes(std::array::from_fn(|index| {
            let nibble = selector >> (4 * index) & 15;
            let byte = bytes[(nibble & 7) as usize];
            // The high bit of a nibble spreads the sign of its byte.
            if nibble & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte }
        }))
    });
}

fn dot4<A: Truncate + Into<i32>, B: Truncate + Into<i32>>(registers: &mut Registers, args: &Args, mask: u32) {
    ternary::<u32, u32, u32, u32>(registers, args, mask, |a, b, c| {
        let product = |at: u32| {
            let (a, b): (i32, i32) = (A::truncate(u64::from(a >> at)).into(), B::truncate(u64::from(b >> at)).into());
            a * b
        };
        c.wrapping_add([0, 8, 16, 24].map(product).iter().sum::<i32>() as u32)
    });
}

/// Two numbers of 16 bits by two of the second operand's bytes, from the bit in `extra` on.
fn dot2<A: Truncate + Into<i32>, B: Truncate + Into<i32>>(registers: &mut Registers, args: &Args, mask: u32) {
    ternary::<u32, u32, u32, u32>(registers, args, mask, |a, b, c| {
        let product = |index: u32| {
            let byte = b >> (args.extra + 8 * index);
            let (a, b): (i32, i32) =
                (A::truncate(u64::from(a >> (16 * index))).into(), B::truncate(byte.into()).into());
            a * b
        };
        c.wrapping_add(product(0) as u32).wrapping_add(product(1) as u32)
    });
}

/// Slot 0 is the whole, the others are its `N` pieces, the lowest first.
fn pack<W: Lane + Truncate, P: Lane + Into<u64>, const N: usize>(registers: &mut Registers, args: &Args, mask: u32) {
    let pieces: [[P::Word; 32]; N] = std::array::from_fn(|piece| P::read(registers, args.slots[piece + 1]));
    write(registers, args.slots[0], mask, |lane| {
        let piece = |piece: usize| P::from_word(pieces[piece][lane]).into() << (piece * 8 * size_of::<P>());
        W::truncate((0..N).fold(0, |bits, index| bits | piece(index)))
    });
}

fn unpack<W: Lane + Into<u64>, P: Lane + Truncate, const N: usize>(registers: &mut Registers, args: &Args, mask: u32) {
    let whole = W::read(registers, args.slots[0]);
    for piece in 0..N {
        write(registers, args.slots[piece + 1], mask, |lane| {
            P::truncate(W::from_word(whole[lane]).into() >> (piece * 8 * size_of::<P>()))
        });
    }
}

trait Truncate {
    fn truncate(bits: u64) -> Self;
}
macro_rules! truncate {
    ($($type:ident)*) => {$(
        impl Truncate for $type {
            fn truncate(bits: u64) -> Self {
                bits as $type
            }
        }
    )*};
}
truncate!(u8 i8 u16 i16 u32 u64);
