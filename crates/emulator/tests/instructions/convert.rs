//! `cvt` between all pairs of number types.

use crate::exact::{BF16, E2M1, E4M3, E5M2, F16, F32, Format, Rounding};
use crate::harness::Kind::{self, I16, I32, I64};
use crate::harness::check;

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// The register of an integer; bytes lie in 16 bits.
fn register(bits: u32) -> Kind {
    match bits {
        64 => I64,
        32 => I32,
        _ => I16,
    }
}

fn integer(x: u64, bits: u32, is_signed: bool) -> i128 {
    let low = i128::from(x) & ((1 << bits) - 1);
    if is_signed && low >> (bits - 1) != 0 { low - (1 << bits) } else { low }
}

fn range(bits: u32, is_signed: bool) -> (i128, i128) {
    if is_signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

#[test]
fn integers_to_integers() {
    for (from, from_bits, from_signed) in INTEGERS {
        for (to, to_bits, to_signed) in INTEGERS {
            let value = |v: &[u64]| integer(v[0], from_bits, from_signed);
            // A result narrower than its register is extended as its type asks.
            check(&format!("cvt.{to}.{from} $d, $0;"), register(to_bits), &[register(from_bits)], |v| {
                integer(value(v) as u64, to_bits, to_signed) as u64
            });
            let (low, high) = range(to_bits, to_signed);
            check(&format!("cvt.sat.{to}.{from} $d, $0;"), register(to_bits), &[register(from_bits)], |v| {
                value(v).clamp(low, high) as u64
            });
        }
    }
    // Bytes out of and into registers of 32 bits.
    check("cvt.s32.s8 $d, $0;", I32, &[I32], |v| integer(v[0], 8, true) as u64);
    check("cvt.u8.u32 $d, $0;", I32, &[I32], |v| v[0] & 255);
}

/// Floats that are converted: name, register, value of the bits.
type Value = fn(u64) -> f64;
const FLOATS: [(&str, Kind, Value); 4] = [
    ("f16", Kind::F16, |bits| F16.value(bits)),
    ("bf16", Kind::Bf16, |bits| BF16.value(bits)),
    ("f32", Kind::F32, |bits| F32.value(bits)),
    ("f64", Kind::F64, f64::from_bits),
];

type Integral = fn(f64) -> f64;
const INTEGRAL: [(&str, Integral); 4] =
    [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];

const ROUNDINGS: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

#[test]
fn floats_to_integers() {
    for (from, kind, value) in FLOATS {
        for (to, bits, is_signed) in INTEGERS {
            for (rounding, integral) in INTEGRAL {
                check(&format!("cvt.{rounding}.{to}.{from} $d, $0;"), register(bits), &[kind], |v| {
                    let value = integral(value(v[0]));
                    if value.is_nan() {
                        // Zero, or the highest bit.
                        let is_top = from == "f64" || bits == 64;
                        return if is_top { integer(1 << (bits - 1), bits, is_signed) as u64 } else { 0 };
                    }
                    let (low, high) = range(bits, is_signed);
                    (value as i128).clamp(low, high) as u64
                });
            }
        }
    }
    check("cvt.rpi.ftz.s32.f32 $d, $0;", I32, &[Kind::F32], |v| {
        let value = F32.value(F32.flush(v[0])).ceil();
        if value.is_nan() { 0 } else { (value as i32) as u64 }
    });
}

/// An integer of up to 64 bits as two floats: one of 53 digits, and what is missing.
fn parts(value: i128) -> (f64, f64) {
    let high = value as f64;
    (high, (value - high as i128) as f64)
}

#[test]
fn integers_to_floats() {
    for (from, bits, is_signed) in INTEGERS {
        let value = |v: &[u64]| integer(v[0], bits, is_signed);
        for (rounding_name, rounding) in ROUNDINGS {
            check(&format!("cvt.{rounding_name}.f32.{from} $d, $0;"), Kind::F32, &[register(bits)], |v| {
                F32.round(parts(value(v)), rounding)
            });
        }
        for (to, kind, format) in [("f16", Kind::F16, F16), ("bf16", Kind::Bf16, BF16)] {
            check(&format!("cvt.rn.{to}.{from} $d, $0;"), kind, &[register(bits)], |v| {
                format.round(parts(value(v)), Rounding::Nearest)
            });
        }
        check(&format!("cvt.rn.f64.{from} $d, $0;"), Kind::F64, &[register(bits)], |v| (value(v) as f64).to_bits());
    }
    check("cvt.rn.sat.f32.s32 $d, $0;", Kind::F32, &[I32], |v| if v[0] as i32 > 0 { 0x3f80_0000 } else { 0 });
}

#[test]
fn floats_to_integral_floats() {
    for (rounding, integral) in INTEGRAL {
        for (name, kind, format) in [("f32", Kind::F32, F32), ("f16", Kind::F16, F16), ("bf16", Kind::Bf16, BF16)] {
            check(&format!("cvt.{rounding}.{name}.{name} $d, $0;"), kind, &[kind], |v| {
                format.round((integral(format.value(v[0])), 0.0), Rounding::Nearest)
            });
        }
        check(&format!("cvt.{rounding}.ftz.f32.f32 $d, $0;"), Kind::F32, &[Kind::F32], |v| {
            F32.round((integral(F32.value(F32.flush(v[0]))), 0.0), Rounding::Nearest)
        });
        check(&format!("cvt.{rounding}.f64.f64 $d, $0;"), Kind::F64, &[Kind::F64], |v| {
            let value = integral(f64::from_bits(v[0]));
            if value.is_nan() { 0xfff8 << 48 } else { value.to_bits() }
        });
    }
}

#[test]
fn floats_to_floats() {
    for (name, rounding) in ROUNDINGS {
        check(&format!("cvt.{name}.f32.f64 $d, $0;"), Kind::F32, &[Kind::F64], |v| {
            F32.round((f64::from_bits(v[0]), 0.0), rounding)
        });
    }
    for (to, kind, format) in [("f16", Kind::F16, F16), ("bf16", Kind::Bf16, BF16)] {
        for (name, rounding) in &ROUNDINGS[..2] {
            check(&format!("cvt.{name}.{to}.f32 $d, $0;"), kind, &[Kind::F32], |v| {
                format.round((F32.value(v[0]), 0.0), *rounding)
            });
            check(&format!("cvt.{name}.relu.{to}.f32 $d, $0;"), kind, &[Kind::F32], |v| {
                relu(format, format.round((F32.value(v[0]), 0.0), *rounding))
            });
        }
        check(&format!("cvt.f32.{to} $d, $0;"), Kind::F32, &[kind], |v| {
            F32.round((format.value(v[0]), 0.0), Rounding::Nearest)
        });
        check(&format!("cvt.rn.{to}.f64 $d, $0;"), kind, &[Kind::F64], |v| {
            format.round((f64::from_bits(v[0]), 0.0), Rounding::Nearest)
        });
        check(&format!("cvt.f64.{to} $d, $0;"), Kind::F64, &[kind], |v| wide(format.value(v[0])));
    }
    check("cvt.f64.f32 $d, $0;", Kind::F64, &[Kind::F32], |v| wide(F32.value(v[0])));
    check("cvt.ftz.f64.f32 $d, $0;", Kind::F64, &[Kind::F32], |v| wide(F32.value(F32.flush(v[0]))));
    for (line, ftz) in [("cvt.sat.f32.f32 $d, $0;", false), ("cvt.ftz.sat.f32.f32 $d, $0;", true)] {
        check(line, Kind::F32, &[Kind::F32], |v| {
            let value = F32.value(if ftz { F32.flush(v[0]) } else { v[0] });
            if value > 0.0 { F32.round((value.min(1.0), 0.0), Rounding::Nearest) } else { 0 }
        });
    }
    // tf32 has the digits of f16 and the exponents of f32: 13 bits of an f32 are not its.
    for (name, rounding) in [("rna", Rounding::Away), ("rn", Rounding::Nearest), ("rz", Rounding::Zero)] {
        check(&format!("cvt.{name}.tf32.f32 $d, $0;"), I32, &[Kind::F32], |v| {
            if F32.value(v[0]).is_nan() {
                return F32.nan;
            }
            let (kept, cut) = (v[0] >> 13, v[0] & 0x1fff);
            let is_up = match rounding {
                Rounding::Away => cut >= 0x1000,
                Rounding::Nearest => cut > 0x1000 || cut == 0x1000 && kept & 1 == 1,
                _ => false,
            };
            (kept + u64::from(is_up)) << 13
        });
    }
}

fn wide(value: f64) -> u64 {
    if value.is_nan() { 0xfff8 << 48 } else { value.to_bits() }
}

/// `.relu`: no negative values.
fn relu(format: Format, bits: u64) -> u64 {
    if format.value(bits) <= 0.0 { 0 } else { bits }
}

/// `.satfinite`: what is beyond the largest value becomes it.
fn satfinite(format: Format, value: f64, rounding: Rounding) -> u64 {
    let bits = format.round((value, 0.0), rounding);
    let is_beyond = !value.is_nan() && bits & (format.sign() - 1) > format.max;
    if is_beyond { bits & format.sign() | format.max } else { bits }
}

const PAIRS: [(&str, Format, u32); 2] = [("e4m3x2", E4M3, 8), ("e5m2x2", E5M2, 8)];

#[test]
fn pairs() {
    // The first operand goes into the upper half.
    for (to, kind, format) in [("f16x2", Kind::F16x2, F16), ("bf16x2", Kind::Bf16x2, BF16)] {
        for (name, rounding) in &ROUNDINGS[..2] {
            for modifier in ["", ".relu", ".satfinite", ".relu.satfinite"] {
                let one = |bits| {
                    let value = F32.value(bits);
                    let bits = if modifier.contains("satfinite") {
                        satfinite(format, value, *rounding)
                    } else {
                        format.round((value, 0.0), *rounding)
                    };
                    if modifier.contains("relu") { relu(format, bits) } else { bits }
                };
                // nvcc and the PTX ISA write `.satfinite` after `.relu`.
                check(&format!("cvt.{name}{modifier}.{to}.f32 $d, $0, $1;"), kind, &[Kind::F32; 2], |v| {
                    one(v[0]) << 16 | one(v[1])
                });
            }
        }
    }
    for (name, format, bits) in PAIRS {
        let mask = (1 << bits) - 1;
        for modifier in ["", ".relu"] {
            let narrow = |value: f64| {
                let bits = satfinite(format, value, Rounding::Nearest);
                if modifier == ".relu" { relu(format, bits) } else { bits }
            };
            check(&format!("cvt.rn.satfinite{modifier}.{name}.f32 $d, $0, $1;"), I16, &[Kind::F32; 2], |v| {
                narrow(F32.value(v[0])) << bits | narrow(F32.value(v[1]))
            });
            check(&format!("cvt.rn.satfinite{modifier}.{name}.f16x2 $d, $0;"), I16, &[Kind::F16x2], |v| {
                narrow(F16.value(v[0] >> 16)) << bits | narrow(F16.value(v[0] & 0xffff))
            });
            check(&format!("cvt.rn{modifier}.f16x2.{name} $d, $0;"), Kind::F16x2, &[I16], |v| {
                let widen = |bits| {
                    let bits = F16.round((format.value(bits), 0.0), Rounding::Nearest);
                    if modifier == ".relu" { relu(F16, bits) } else { bits }
                };
                widen(v[0] >> bits & mask) << 16 | widen(v[0] & mask)
            });
        }
    }
    // Powers of two without a sign: the exponent of an f32.
    check("cvt.rz.satfinite.ue8m0x2.f32 $d, $0, $1;", I16, &[Kind::F32; 2], |v| {
        let power = |bits: u64| if F32.value(bits).is_nan() { 255 } else { (bits >> 23 & 255).min(254) };
        power(v[0]) << 8 | power(v[1])
    });
    check("cvt.rp.satfinite.ue8m0x2.f32 $d, $0, $1;", I16, &[Kind::F32; 2], |v| {
        let power = |bits: u64| match F32.value(bits).abs() {
            value if value.is_nan() => 255,
            value => (0..254).find(|&code| 2_f64.powi(code - 127) >= value).unwrap_or(254) as u64,
        };
        power(v[0]) << 8 | power(v[1])
    });
    check("cvt.rn.bf16x2.ue8m0x2 $d, $0;", Kind::Bf16x2, &[I16], |v| {
        let power = |code: u64| match code {
            255 => BF16.nan,
            _ => BF16.round((2_f64.powi(code as i32 - 127), 0.0), Rounding::Nearest),
        };
        power(v[0] >> 8) << 16 | power(v[0] & 255)
    });
    // Two numbers of four bits in the low byte.
    check("cvt.rn.f16x2.e2m1x2 $d, $0;", Kind::F16x2, &[I16], |v| {
        let widen = |code| F16.round((E2M1.value(code), 0.0), Rounding::Nearest);
        widen(v[0] >> 4 & 15) << 16 | widen(v[0] & 15)
    });
}
