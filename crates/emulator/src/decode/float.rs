//! Floating-point arithmetic, comparisons and approximations.

use super::arithmetic::width;
use super::{Decoder, Opcode, Refusal};
use crate::float::approximate::{Function, approximate, div_approx_f32, div_full_f32};
use crate::float::arithmetic::{self, Mode};
use crate::float::compare::{Comparison, Pick, PickMode, abs, compare, copysign, neg, pick};
use crate::float::{Format, Rounding, Saturate};
use crate::parse::Operand;
use crate::program::{Constant, Op, Slot};
use crate::registers::{Action, Args, Lane, Registers, binary, ternary, unary};

/// A rounding and the modifiers of a float instruction in [`Args::extra`].
const FTZ: u32 = 1 << 3;
const SATURATE_AT: u32 = 4;
const NAN: u32 = 1 << 7;
const XORSIGN: u32 = 1 << 8;
const FUNCTION_AT: u32 = 16;

const ROUNDINGS: [Rounding; 5] =
    [Rounding::NearestEven, Rounding::Zero, Rounding::Down, Rounding::Up, Rounding::NearestAway];
const SATURATIONS: [Saturate; 5] =
    [Saturate::None, Saturate::Zero1, Saturate::Relu, Saturate::Finite, Saturate::ReluFinite];
const FUNCTIONS: [(&str, Function); 8] = [
    ("ex2", Function::Ex2),
    ("lg2", Function::Lg2),
    ("sin", Function::Sin),
    ("cos", Function::Cos),
    ("tanh", Function::Tanh),
    ("rcp", Function::Rcp),
    ("rsqrt", Function::Rsqrt),
    ("sqrt", Function::Sqrt),
];
const COMPARISONS: [Comparison; 14] = [
    Comparison::Eq,
    Comparison::Ne,
    Comparison::Lt,
    Comparison::Le,
    Comparison::Gt,
    Comparison::Ge,
    Comparison::Equ,
    Comparison::Neu,
    Comparison::Ltu,
    Comparison::Leu,
    Comparison::Gtu,
    Comparison::Geu,
    Comparison::Num,
    Comparison::Nan,
];

/// The modifiers that an instruction spells.
pub(super) fn modifiers(opcode: Opcode<'_>) -> u32 {
    let rounding = opcode
        .one_of(&[
            ("rn", 0),
            ("rz", 1),
            ("rm", 2),
            ("rp", 3),
            ("rna", 4),
            ("rni", 0),
            ("rzi", 1),
            ("rmi", 2),
            ("rpi", 3),
        ])
        .unwrap_or(0);
    let saturate = match (opcode.has("sat"), opcode.has("relu"), opcode.has("satfinite")) {
        (true, ..) => 1,
        (_, true, true) => 4,
        (_, true, _) => 2,
        (_, _, true) => 3,
        _ => 0,
    };
    let flag = |name: &str, bit: u32| if opcode.has(name) { bit } else { 0 };
    rounding | flag("ftz", FTZ) | saturate << SATURATE_AT | flag("NaN", NAN) | flag("xorsign", XORSIGN)
}

pub(super) fn rounding(extra: u32) -> Rounding {
    ROUNDINGS[(extra & 7) as usize]
}

pub(super) fn saturate(extra: u32) -> Saturate {
    SATURATIONS[(extra >> SATURATE_AT & 7) as usize]
}

pub(super) fn ftz(extra: u32) -> bool {
    extra & FTZ != 0
}

fn mode(extra: u32) -> Mode {
    Mode { rounding: rounding(extra), ftz: ftz(extra), saturate: saturate(extra) }
}

/// Two values of a short format in a register, each on its own.
fn halves2(x: u32, y: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(x as u16, y as u16)) | u32::from(f((x >> 16) as u16, (y >> 16) as u16)) << 16
}

fn halves3(x: u32, y: u32, z: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(f(x as u16, y as u16, z as u16))
        | u32::from(f((x >> 16) as u16, (y >> 16) as u16, (z >> 16) as u16)) << 16
}

/// A two-operand function on f16 or bf16, alone or in pairs.
macro_rules! short2 {
    ($kind:expr, $function:path) => {
        match $kind {
            "f16" => Some(
                (|r, a, m| {
                    let mode = mode(a.extra);
                    binary::<u16, u16, u16>(r, a, m, |x, y| $function(x, y, Format::F16, mode))
                }) as Action,
            ),
            "bf16" => Some(|r, a, m| {
                let mode = mode(a.extra);
                binary::<u16, u16, u16>(r, a, m, |x, y| $function(x, y, Format::Bf16, mode))
            }),
            "f16x2" => Some(|r, a, m| {
                let mode = mode(a.extra);
                binary::<u32, u32, u32>(r, a, m, |x, y| halves2(x, y, |x, y| $function(x, y, Format::F16, mode)))
            }),
            "bf16x2" => Some(|r, a, m| {
                let mode = mode(a.extra);
                binary::<u32, u32, u32>(r, a, m, |x, y| halves2(x, y, |x, y| $function(x, y, Format::Bf16, mode)))
            }),
            _ => None,
        }
    };
}

/// A function of f32 bits and a [`Mode`]: the plain mode is known when this is compiled.
macro_rules! f32_op {
    ($count:ident, $extra:expr, |$($x:ident),*| $function:path) => {
        if $extra == 0 {
            (|r, a, m| $count(r, a, m, |$($x: u32),*| $function($($x,)* Mode::NEAREST))) as Action
        } else {
            |r, a, m| {
                let mode = mode(a.extra);
                $count(r, a, m, |$($x: u32),*| $function($($x,)* mode));
            }
        }
    };
}

/// f64 is rounded to nearest only; the decoder has refused the others.
macro_rules! f64_op {
    ($count:ident, |$($x:ident),*| $function:path) => {
        (|r, a, m| $count(r, a, m, |$($x: u64),*| $function($($x,)* Rounding::NearestEven).unwrap_or_default())) as Action
    };
}

impl<'a> Decoder<'a> {
    pub(super) fn float(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let kind = opcode.last();
        let Some(format) = format(kind) else { return Ok(None) };
        let bits = width(kind);
        let mut extra = modifiers(opcode);
        let name = opcode.name();
        let is_rounded = matches!(name, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt");
        if kind == "f64" && is_rounded && rounding(extra) != Rounding::NearestEven {
            return Err("f64 arithmetic is executed with rounding to nearest only".to_owned());
        }
        let is_approximate = opcode.has("approx");
        let action: Option<Action> = match (name, kind) {
            ("setp", _) => return self.setp_float(opcode, operands),
            ("set", _) => return self.set(opcode, operands),
            ("add", "f32") => Some(f32_op!(binary, extra, |x, y| arithmetic::add_f32)),
            ("sub", "f32") => Some(f32_op!(binary, extra, |x, y| arithmetic::sub_f32)),
            ("mul", "f32") => Some(f32_op!(binary, extra, |x, y| arithmetic::mul_f32)),
            ("fma" | "mad", "f32") => Some(f32_op!(ternary, extra, |x, y, z| arithmetic::fma_f32)),
            ("div", "f32") if is_approximate => {
                Some(|r, a, m| binary::<u32, u32, u32>(r, a, m, |x, y| div_approx_f32(x, y, ftz(a.extra))))
            }
            ("div", "f32") if opcode.has("full") => {
                Some(|r, a, m| binary::<u32, u32, u32>(r, a, m, |x, y| div_full_f32(x, y, ftz(a.extra))))
            }
            ("div", "f32") => Some(f32_op!(binary, extra, |x, y| arithmetic::div_f32)),
            ("rcp", "f32") if !is_approximate => Some(f32_op!(unary, extra, |x| arithmetic::rcp_f32)),
            ("sqrt", "f32") if !is_approximate => Some(f32_op!(unary, extra, |x| arithmetic::sqrt_f32)),
            ("add", "f64") => Some(f64_op!(binary, |x, y| arithmetic::add_f64)),
            ("sub", "f64") => Some(f64_op!(binary, |x, y| arithmetic::sub_f64)),
            ("mul", "f64") => Some(f64_op!(binary, |x, y| arithmetic::mul_f64)),
            ("fma" | "mad", "f64") => Some(f64_op!(ternary, |x, y, z| arithmetic::fma_f64)),
            ("div", "f64") => Some(f64_op!(binary, |x, y| arithmetic::div_f64)),
            ("rcp", "f64") if !is_approximate => Some(f64_op!(unary, |x| arithmetic::rcp_f64)),
            ("rcp", "f64") if opcode.has("ftz") => Some(|r, a, m| unary::<u64, u64>(r, a, m, gross_reciprocal)),
            ("sqrt", "f64") => Some(f64_op!(unary, |x| arithmetic::sqrt_f64)),
            ("add", _) => short2!(kind, arithmetic::add_short),
            ("sub", _) => short2!(kind, arithmetic::sub_short),
            ("mul", _) => short2!(kind, arithmetic::mul_short),
            ("fma", _) => match kind {
                "f16" => Some(|r, a, m| {
                    let mode = mode(a.extra);
                    ternary::<u16, u16, u16, u16>(r, a, m, |x, y, z| arithmetic::fma_short(x, y, z, Format::F16, mode));
                }),
                "bf16" => Some(|r, a, m| {
                    let mode = mode(a.extra);
                    ternary::<u16, u16, u16, u16>(r, a, m, |x, y, z| {
                        arithmetic::fma_short(x, y, z, Format::Bf16, mode)
                    });
                }),
                "f16x2" => Some(|r, a, m| {
                    let mode = mode(a.extra);
                    ternary::<u32, u32, u32, u32>(r, a, m, |x, y, z| {
                        halves3(x, y, z, |x, y, z| arithmetic::fma_short(x, y, z, Format::F16, mode))
                    });
                }),
                "bf16x2" => Some(|r, a, m| {
                    let mode = mode(a.extra);
                    ternary::<u32, u32, u32, u32>(r, a, m, |x, y, z| {
                        halves3(x, y, z, |x, y, z| arithmetic::fma_short(x, y, z, Format::Bf16, mode))
                    });
                }),
                _ => None,
            },
            ("min" | "max", _) => {
                if operands.len() != 3 {
                    return Err(format!("`{name}` of three values is not executed"));
                }
                extra |= u32::from(name == "max") << FUNCTION_AT;
                with_format(kind, PICK)
            }
            ("abs", _) => with_format(kind, ABS),
            ("neg", _) => with_format(kind, NEG),
            ("copysign", "f32") => Some(|r, a, m| {
                binary::<u32, u32, u32>(r, a, m, |x, y| copysign(x.into(), y.into(), Format::F32) as u32)
            }),
            ("copysign", "f64") => Some(|r, a, m| binary::<u64, u64, u64>(r, a, m, |x, y| copysign(x, y, Format::F64))),
            ("rcp", "f32") | ("ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt" | "sqrt", _) => {
                let index = FUNCTIONS.iter().position(|(known, _)| *known == name);
                extra |= (index.unwrap_or(0) as u32) << FUNCTION_AT;
                with_format(kind, APPROXIMATE)
            }
            _ => return Ok(None),
        };
        let Some(action) = action else { return Err(format!("type `.{kind}` (a float of {} bits)", format.bits())) };
        let known = ["rn", "rz", "rm", "rp", "ftz", "sat", "relu", "approx", "full", "NaN", "xorsign", "abs", kind];
        if let Some(unknown) = opcode.qualifiers().find(|part| !known.contains(part)) {
            return Err(format!("`{name}` with `.{unknown}` is not executed"));
        }
        let widths = vec![bits; operands.len()];
        self.pure(action, operands, &widths, extra)
    }

    /// `set.cmp.dtype.stype d, a, b`: a comparison whose result is all ones or 1.0, for each value of a pair.
    fn set(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let [_, comparison, modifiers @ .., to, from] = opcode.parts else { return Ok(None) };
        let (Some(index), [d, a, b]) = (comparison_index(comparison), operands) else { return Ok(None) };
        if !modifiers.iter().all(|part| part == "ftz") {
            return Ok(None);
        }
        let holds = match (to.as_str(), from.as_str()) {
            ("u32" | "s32", "f16x2" | "bf16x2") | ("u16" | "s16", "f16" | "bf16") => 0xffff,
            ("u32" | "s32", "f16" | "bf16" | "f32" | "f64") => u64::from(u32::MAX),
            ("f16", "f16" | "bf16") | ("f16x2", "f16x2" | "bf16x2") => 0x3c00,
            ("bf16", "f16" | "bf16") | ("bf16x2", "f16x2" | "bf16x2") => 0x3f80,
            ("f32", "f16" | "bf16" | "f32" | "f64") => u64::from(1_f32.to_bits()),
            _ => return Ok(None),
        };
        let action: Action = match from.as_str() {
            "f16" => |r, a, m| ternary::<u16, u16, u32, u32>(r, a, m, |x, y, one| set(x, y, one, Format::F16, a.extra)),
            "bf16" => {
                |r, a, m| ternary::<u16, u16, u32, u32>(r, a, m, |x, y, one| set(x, y, one, Format::Bf16, a.extra))
            }
            "f32" => |r, a, m| ternary::<u32, u32, u32, u32>(r, a, m, |x, y, one| set(x, y, one, Format::F32, a.extra)),
            "f64" => |r, a, m| ternary::<u64, u64, u32, u32>(r, a, m, |x, y, one| set(x, y, one, Format::F64, a.extra)),
            "f16x2" => |r, a, m| {
                ternary::<u32, u32, u32, u32>(r, a, m, |x, y, one| {
                    halves2(x, y, |x, y| set(x, y, one, Format::F16, a.extra) as u16)
                });
            },
            _ => |r, a, m| {
                ternary::<u32, u32, u32, u32>(r, a, m, |x, y, one| {
                    halves2(x, y, |x, y| set(x, y, one, Format::Bf16, a.extra) as u16)
                });
            },
        };
        let bits = width(from);
        let (Slot::B32(one) | Slot::B64(one)) = self.constant(Constant::Value(holds), false);
        let slots = [self.b32(d)?, self.of_width(a, bits)?, self.of_width(b, bits)?, one, 0];
        let extra = self::modifiers(opcode) | index << FUNCTION_AT;
        Ok(Some(Op::Pure(action, Args { slots, extra })))
    }

    fn setp_float(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let Some(index) = opcode.parts.get(1).and_then(|name| comparison_index(name)) else { return Ok(None) };
        let action: fn(&Registers, &Args) -> u32 = match opcode.last() {
            // What is compared most often is compared by the processor.
            "f32" if !opcode.has("ftz") => match opcode.parts[1].as_str() {
                "eq" => |r, a| crate::registers::compare::<f32>(r, a, |x, y| x == y),
                "lt" => |r, a| crate::registers::compare::<f32>(r, a, |x, y| x < y),
                "le" => |r, a| crate::registers::compare::<f32>(r, a, |x, y| x <= y),
                "gt" => |r, a| crate::registers::compare::<f32>(r, a, |x, y| x > y),
                "ge" => |r, a| crate::registers::compare::<f32>(r, a, |x, y| x >= y),
                _ => |r, a| setp::<u32>(r, a, Format::F32),
            },
            "f32" => |r, a| setp::<u32>(r, a, Format::F32),
            "f64" => |r, a| setp::<u64>(r, a, Format::F64),
            "f16" => |r, a| setp::<u16>(r, a, Format::F16),
            "bf16" => |r, a| setp::<u16>(r, a, Format::Bf16),
            kind => return Err(format!("`setp` of `.{kind}` is not executed")),
        };
        let mut op = self.setp(action, opcode, operands)?;
        if let Op::Setp { args, .. } = &mut op {
            args.extra = modifiers(opcode) | index << FUNCTION_AT;
        }
        Ok(Some(op))
    }
}

/// The place of a comparison in [`COMPARISONS`].
fn comparison_index(name: &str) -> Option<u32> {
    let names = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];
    names.iter().position(|known| *known == name).map(|index| index as u32)
}

/// `one` if the comparison in `extra` holds.
fn set(x: impl Into<u64>, y: impl Into<u64>, one: u32, format: Format, extra: u32) -> u32 {
    let comparison = COMPARISONS[(extra >> FUNCTION_AT) as usize];
    if compare(comparison, x.into(), y.into(), format, ftz(extra)) { one } else { 0 }
}

/// `rcp.approx.ftz.f64`: of the upper words of operand and result, without subnormals.
fn gross_reciprocal(x: u64) -> u64 {
    let upper = |bits: u64| bits >> 32 << 32;
    let flushed = |bits: u64| if f64::from_bits(bits).is_subnormal() { bits & 1 << 63 } else { bits };
    let value = f64::from_bits(flushed(upper(x)));
    // NaN has the bits that it has as every result.
    if value.is_nan() { 0xfff8 << 48 } else { flushed(upper((1.0 / value).to_bits())) }
}

fn setp<T: Lane + Into<u64>>(registers: &Registers, args: &Args, format: Format) -> u32 {
    let comparison = COMPARISONS[(args.extra >> FUNCTION_AT) as usize];
    let is_flushed = ftz(args.extra);
    crate::registers::compare::<T>(registers, args, |x, y| compare(comparison, x.into(), y.into(), format, is_flushed))
}

pub(super) fn format(kind: &str) -> Option<Format> {
    Some(match kind {
        "f16" | "f16x2" => Format::F16,
        "bf16" | "bf16x2" => Format::Bf16,
        "f32" => Format::F32,
        "f64" => Format::F64,
        _ => return None,
    })
}

/// One action per type.
struct PerFormat {
    f16: Action,
    bf16: Action,
    f16x2: Action,
    bf16x2: Action,
    f32: Action,
    f64: Action,
}

fn with_format(kind: &str, actions: PerFormat) -> Option<Action> {
    Some(match kind {
        "f16" => actions.f16,
        "bf16" => actions.bf16,
        "f16x2" => actions.f16x2,
        "bf16x2" => actions.bf16x2,
        "f32" => actions.f32,
        "f64" => actions.f64,
        _ => return None,
    })
}

/// Actions of every type from a function of bits, the format and the modifiers.
macro_rules! per_format1 {
    ($function:expr) => {
        PerFormat {
            f16: |r, a, m| unary::<u16, u16>(r, a, m, |x| $function(x.into(), Format::F16, a.extra) as u16),
            bf16: |r, a, m| unary::<u16, u16>(r, a, m, |x| $function(x.into(), Format::Bf16, a.extra) as u16),
            f16x2: |r, a, m| {
                unary::<u32, u32>(r, a, m, |x| halves2(x, x, |x, _| $function(x.into(), Format::F16, a.extra) as u16));
            },
            bf16x2: |r, a, m| {
                unary::<u32, u32>(r, a, m, |x| halves2(x, x, |x, _| $function(x.into(), Format::Bf16, a.extra) as u16));
            },
            f32: |r, a, m| unary::<u32, u32>(r, a, m, |x| $function(x.into(), Format::F32, a.extra) as u32),
            f64: |r, a, m| unary::<u64, u64>(r, a, m, |x| $function(x, Format::F64, a.extra)),
        }
    };
}

macro_rules! per_format2 {
    ($function:expr) => {
        PerFormat {
            f16: |r, a, m| {
                binary::<u16, u16, u16>(r, a, m, |x, y| $function(x.into(), y.into(), Format::F16, a.extra) as u16);
            },
            bf16: |r, a, m| {
                binary::<u16, u16, u16>(r, a, m, |x, y| $function(x.into(), y.into(), Format::Bf16, a.extra) as u16);
            },
            f16x2: |r, a, m| {
                binary::<u32, u32, u32>(r, a, m, |x, y| {
                    halves2(x, y, |x, y| $function(x.into(), y.into(), Format::F16, a.extra) as u16)
                });
            },
            bf16x2: |r, a, m| {
                binary::<u32, u32, u32>(r, a, m, |x, y| {
                    halves2(x, y, |x, y| $function(x.into(), y.into(), Format::Bf16, a.extra) as u16)
                });
            },
            f32: |r, a, m| {
                binary::<u32, u32, u32>(r, a, m, |x, y| $function(x.into(), y.into(), Format::F32, a.extra) as u32);
            },
            f64: |r, a, m| binary::<u64, u64, u64>(r, a, m, |x, y| $function(x, y, Format::F64, a.extra)),
        }
    };
}

const ABS: PerFormat = per_format1!(|x: u64, format: Format, extra: u32| abs(x, format, ftz(extra)));
const NEG: PerFormat = per_format1!(|x: u64, format: Format, extra: u32| neg(x, format, ftz(extra)));
const APPROXIMATE: PerFormat = per_format1!(|x: u64, format: Format, extra: u32| {
    approximate(FUNCTIONS[(extra >> FUNCTION_AT) as usize].1, x, format, ftz(extra))
});
const PICK: PerFormat = per_format2!(|x: u64, y: u64, format: Format, extra: u32| {
    let which = if extra >> FUNCTION_AT != 0 { Pick::Max } else { Pick::Min };
    let mode = PickMode { ftz: ftz(extra), nan: extra & NAN != 0, xorsign_abs: extra & XORSIGN != 0 };
    pick(which, x, y, format, mode)
});
