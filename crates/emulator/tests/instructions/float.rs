//! Float arithmetic, comparisons and approximations of all formats.

use crate::exact::{BF16, F16, F32, Format, Rounding, quotient, root, sum};
use crate::harness::Kind::{self, I16, I32};
use crate::harness::{check, check_all};

const ROUNDINGS: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

/// An exact result as two parts.
type Exact = fn(&[f64]) -> (f64, f64);

fn add(v: &[f64]) -> (f64, f64) {
    sum(v[0], v[1])
}

fn sub(v: &[f64]) -> (f64, f64) {
    sum(v[0], -v[1])
}

/// Products of two floats of at most 24 digits are exact.
fn mul(v: &[f64]) -> (f64, f64) {
    (v[0] * v[1], 0.0)
}

fn fma(v: &[f64]) -> (f64, f64) {
    sum(v[0] * v[1], v[2])
}

/// The bits of a result. A sum that is exactly zero is negative when rounding down, unless both terms are positive.
fn rounded(format: Format, v: &[f64], exact: Exact, rounding: Rounding) -> u64 {
    let result = exact(v);
    let terms = match v {
        [a, b, c] => Some((a * b, *c)),
        [a, b] if exact as usize == add as Exact as usize => Some((*a, *b)),
        [a, b] if exact as usize == sub as Exact as usize => Some((*a, -*b)),
        _ => None,
    };
    if let (Some((a, b)), 0.0, Rounding::Down) = (terms, result.0, rounding)
        && (a.is_sign_negative() || b.is_sign_negative())
    {
        return format.sign();
    }
    format.round(result, rounding)
}

/// `.sat` and `.relu` on the bits of a result.
fn limited(format: Format, bits: u64, modifier: &str) -> u64 {
    let value = format.value(bits);
    match modifier {
        ".sat" if value.is_nan() || value <= 0.0 => 0,
        ".sat" => format.round((value.min(1.0), 0.0), Rounding::Nearest),
        ".relu" if value <= 0.0 => 0,
        _ => bits,
    }
}

fn operands(count: usize) -> &'static str {
    ["", "$0", "$0, $1", "$0, $1, $2"][count]
}

#[test]
fn arithmetic_of_f32() {
    let divide: Exact = |v| quotient(v[0], v[1]);
    let cases: [(&str, usize, Exact, bool); 7] = [
        ("add", 2, add, true),
        ("sub", 2, sub, true),
        ("mul", 2, mul, true),
        ("fma", 3, fma, true),
        ("div", 2, divide, false),
        ("rcp", 1, |v| quotient(1.0, v[0]), false),
        ("sqrt", 1, |v| root(v[0]), false),
    ];
    for (name, count, exact, may_saturate) in cases {
        for (rounding_name, rounding) in ROUNDINGS {
            for ftz in ["", ".ftz"] {
                for sat in if may_saturate { &["", ".sat"][..] } else { &[""] } {
                    let line = format!("{name}.{rounding_name}{ftz}{sat}.f32 $d, {};", operands(count));
                    check(&line, Kind::F32, &vec![Kind::F32; count], |v| {
                        let flush = |bits| if ftz.is_empty() { bits } else { F32.flush(bits) };
                        let values: Vec<f64> = v.iter().map(|&bits| F32.value(flush(bits))).collect();
                        flush(limited(F32, rounded(F32, &values, exact, rounding), sat))
                    });
                }
            }
        }
    }
    // Without a rounding the nearest is meant.
    check("add.f32 $d, $0, 0f3F800000;", Kind::F32, &[Kind::F32], |v| {
        F32.round(sum(F32.value(v[0]), 1.0), Rounding::Nearest)
    });
    check("mul.ftz.f32 $d, $0, $1;", Kind::F32, &[Kind::F32; 2], |v| {
        let of = |bits| F32.value(F32.flush(bits));
        F32.flush(F32.round((of(v[0]) * of(v[1]), 0.0), Rounding::Nearest))
    });
}

#[test]
fn arithmetic_of_f64() {
    // The first operand that is NaN comes through, quiet.
    let passed = |value: f64, v: &[u64]| match v.iter().find(|&&bits| f64::from_bits(bits).is_nan()) {
        Some(nan) => nan | 1 << 51,
        None if value.is_nan() => 0xfff8 << 48,
        None => value.to_bits(),
    };
    type Nearest = fn(&[f64]) -> f64;
    let cases: [(&str, usize, Nearest); 7] = [
        ("add.rn", 2, |v| v[0] + v[1]),
        ("sub.rn", 2, |v| v[0] - v[1]),
        ("mul.rn", 2, |v| v[0] * v[1]),
        ("fma.rn", 3, |v| v[0].mul_add(v[1], v[2])),
        ("div.rn", 2, |v| v[0] / v[1]),
        ("rcp.rn", 1, |v| 1.0 / v[0]),
        ("sqrt.rn", 1, |v| v[0].sqrt()),
    ];
    for (name, count, f) in cases {
        check(&format!("{name}.f64 $d, {};", operands(count)), Kind::F64, &vec![Kind::F64; count], |v| {
            passed(f(&v.iter().map(|&bits| f64::from_bits(bits)).collect::<Vec<f64>>()), v)
        });
    }
    check("rcp.approx.ftz.f64 $d, $0;", Kind::F64, &[Kind::F64], |v| {
        let cut = |bits: u64| if bits >> 52 & 0x7ff == 0 { bits & 1 << 63 } else { bits & !0xffff_ffff };
        let value = f64::from_bits(cut(v[0]));
        if value.is_nan() { 0xfff8 << 48 } else { cut((1.0 / value).to_bits()) }
    });
}

/// The short formats, alone and in pairs.
const SHORT: [(&str, Kind, Format, bool); 4] = [
    ("f16", Kind::F16, F16, false),
    ("bf16", Kind::Bf16, BF16, false),
    ("f16x2", Kind::F16x2, F16, true),
    ("bf16x2", Kind::Bf16x2, BF16, true),
];

/// `f` on the lower and the upper half of operands, or on the whole of single ones.
fn by_half(v: &[u64], is_pair: bool, f: impl Fn(&[u64]) -> u64) -> u64 {
    let half = |shift: u32| f(&v.iter().map(|&bits| bits >> shift & 0xffff).collect::<Vec<u64>>()) & 0xffff;
    if is_pair { half(0) | half(16) << 16 } else { half(0) }
}

#[test]
fn arithmetic_of_short_formats() {
    let cases: [(&str, usize, Exact); 7] = [
        ("add", 2, add),
        ("add.rn", 2, add),
        ("sub.rn", 2, sub),
        ("mul.rn", 2, mul),
        ("fma.rn", 3, fma),
        ("fma.rn.relu", 3, fma),
        ("fma.rn.sat", 3, fma),
    ];
    for (name, count, exact) in cases {
        for (kind_name, kind, format, is_pair) in SHORT {
            // bf16 is not saturated.
            let modifier = if name.ends_with("relu") {
                ".relu"
            } else if name.ends_with("sat") {
                ".sat"
            } else {
                ""
            };
            if modifier == ".sat" && kind_name.starts_with('b') {
                continue;
            }
            check(&format!("{name}.{kind_name} $d, {};", operands(count)), kind, &vec![kind; count], |v| {
                by_half(v, is_pair, |v| {
                    let values: Vec<f64> = v.iter().map(|&bits| format.value(bits)).collect();
                    limited(format, rounded(format, &values, exact, Rounding::Nearest), modifier)
                })
            });
        }
    }
}

/// What `min` or `max` gives of two values' bits.
fn extreme(format: Format, v: &[u64], name: &str, modifiers: &str) -> u64 {
    let sign = format.sign();
    let bits: Vec<u64> = v
        .iter()
        .map(|&bits| if modifiers.contains("ftz") { format.flush(bits) } else { bits })
        .map(|bits| if modifiers.contains("abs") { bits & !sign } else { bits })
        .collect();
    let (a, b) = (format.value(bits[0]), format.value(bits[1]));
    let result = match (a.is_nan(), b.is_nan()) {
        (true, true) => return format.nan,
        (true, _) | (_, true) if modifiers.contains("NaN") => return format.nan,
        (true, false) => bits[1],
        (false, true) => bits[0],
        // Zeros are ordered by their signs.
        _ => bits[usize::from((name == "min") != (a.total_cmp(&b).is_le()))],
    };
    if modifiers.contains("xorsign") { result | (v[0] ^ v[1]) & sign } else { result }
}

#[test]
fn the_smaller_and_the_larger() {
    for name in ["min", "max"] {
        for modifiers in ["", ".ftz", ".NaN", ".ftz.NaN", ".xorsign.abs", ".NaN.xorsign.abs"] {
            check(&format!("{name}{modifiers}.f32 $d, $0, $1;"), Kind::F32, &[Kind::F32; 2], |v| {
                extreme(F32, v, name, modifiers)
            });
        }
        for (kind_name, kind, format, is_pair) in SHORT {
            for modifiers in ["", ".NaN", ".xorsign.abs"] {
                check(&format!("{name}{modifiers}.{kind_name} $d, $0, $1;"), kind, &[kind; 2], |v| {
                    by_half(v, is_pair, |v| extreme(format, v, name, modifiers))
                });
            }
        }
        check(&format!("{name}.f64 $d, $0, $1;"), Kind::F64, &[Kind::F64; 2], |v| {
            let [a, b] = [0, 1].map(|index: usize| f64::from_bits(v[index]));
            match (a.is_nan(), b.is_nan()) {
                (true, true) => 0xfff8 << 48,
                (true, false) => v[1],
                (false, true) => v[0],
                _ => v[usize::from((name == "min") != a.total_cmp(&b).is_le())],
            }
        });
    }
}

#[test]
fn signs() {
    for (kind_name, kind, format, is_pair) in SHORT {
        let sign = format.sign();
        check(&format!("neg.{kind_name} $d, $0;"), kind, &[kind], |v| by_half(v, is_pair, |v| v[0] ^ sign));
        check(&format!("abs.{kind_name} $d, $0;"), kind, &[kind], |v| by_half(v, is_pair, |v| v[0] & !sign));
    }
    let sign = 1 << 31;
    check("neg.f32 $d, $0;", Kind::F32, &[Kind::F32], |v| v[0] ^ sign);
    check("neg.ftz.f32 $d, $0;", Kind::F32, &[Kind::F32], |v| F32.flush(v[0]) ^ sign);
    check("abs.f32 $d, $0;", Kind::F32, &[Kind::F32], |v| v[0] & !sign);
    check("abs.ftz.f32 $d, $0;", Kind::F32, &[Kind::F32], |v| F32.flush(v[0]) & !sign);
    check("neg.f64 $d, $0;", Kind::F64, &[Kind::F64], |v| v[0] ^ 1 << 63);
    check("abs.f64 $d, $0;", Kind::F64, &[Kind::F64], |v| v[0] & !(1 << 63));
    // The sign of the first operand on the second.
    check("copysign.f32 $d, $0, $1;", Kind::F32, &[Kind::F32; 2], |v| v[0] & sign | v[1] & !sign);
    check("copysign.f64 $d, $0, $1;", Kind::F64, &[Kind::F64; 2], |v| v[0] & 1 << 63 | v[1] & !(1 << 63));
}

type Test = fn(f64, f64) -> bool;

const COMPARISONS: [(&str, Test); 14] = [
    ("eq", |a, b| a == b),
    ("ne", |a, b| a != b && !unordered(a, b)),
    ("lt", |a, b| a < b),
    ("le", |a, b| a <= b),
    ("gt", |a, b| a > b),
    ("ge", |a, b| a >= b),
    ("equ", |a, b| a == b || unordered(a, b)),
    ("neu", |a, b| a != b),
    ("ltu", |a, b| a < b || unordered(a, b)),
    ("leu", |a, b| a <= b || unordered(a, b)),
    ("gtu", |a, b| a > b || unordered(a, b)),
    ("geu", |a, b| a >= b || unordered(a, b)),
    ("num", |a, b| !unordered(a, b)),
    ("nan", unordered),
];

fn unordered(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan()
}

#[test]
fn comparisons() {
    for (name, test) in COMPARISONS {
        check_all(&format!("setp.{name}.f32 $d|$e, $0, $1;"), [Kind::Pred; 2], &[Kind::F32; 2], |v| {
            let holds = test(F32.value(v[0]), F32.value(v[1]));
            [holds.into(), (!holds).into()]
        });
        check(
            &format!("setp.{name}.xor.ftz.f32 $d, $0, $1, !$2;"),
            Kind::Pred,
            &[Kind::F32, Kind::F32, Kind::Pred],
            |v| {
                let of = |bits| F32.value(F32.flush(bits));
                (test(of(v[0]), of(v[1])) != (v[2] == 0)).into()
            },
        );
        check(&format!("setp.{name}.f64 $d, $0, $1;"), Kind::Pred, &[Kind::F64; 2], |v| {
            test(f64::from_bits(v[0]), f64::from_bits(v[1])).into()
        });
        for (kind_name, kind, format, is_pair) in SHORT {
            let holds = |v: &[u64]| test(format.value(v[0]), format.value(v[1]));
            if !is_pair {
                check(&format!("setp.{name}.{kind_name} $d, $0, $1;"), Kind::Pred, &[kind; 2], |v| holds(v).into());
            }
            let one = if format.max == F16.max { 0x3c00 } else { 0x3f80 };
            check(&format!("set.{name}.{kind_name}.{kind_name} $d, $0, $1;"), kind, &[kind; 2], |v| {
                by_half(v, is_pair, |v| if holds(v) { one } else { 0 })
            });
            let (mask, result) = if is_pair { ("u32", I32) } else { ("u16", I16) };
            check(&format!("set.{name}.{mask}.{kind_name} $d, $0, $1;"), result, &[kind; 2], |v| {
                by_half(v, is_pair, |v| if holds(v) { 0xffff } else { 0 })
            });
        }
        check(&format!("set.{name}.u32.f32 $d, $0, $1;"), I32, &[Kind::F32; 2], |v| {
            if test(F32.value(v[0]), F32.value(v[1])) { u64::MAX } else { 0 }
        });
        check(&format!("set.{name}.ftz.f32.f32 $d, $0, $1;"), I32, &[Kind::F32; 2], |v| {
            let of = |bits| F32.value(F32.flush(bits));
            if test(of(v[0]), of(v[1])) { 0x3f80_0000 } else { 0 }
        });
    }
    // Equal operands are rare among random ones.
    check("setp.eq.f32 $d, $0, $0;", Kind::Pred, &[Kind::F32], |v| (!F32.value(v[0]).is_nan()).into());
    check("setp.lt.f32 $d, $0, $0;", Kind::Pred, &[Kind::F32], |_| 0);
}

/// What a GPU approximates is here the rounded value.
#[test]
fn approximations() {
    type Function = fn(f64) -> f64;
    let cases: [(&str, Function); 7] = [
        ("ex2", f64::exp2),
        ("lg2", f64::log2),
        ("sin", f64::sin),
        ("cos", f64::cos),
        ("tanh", f64::tanh),
        ("rsqrt", |x| 1.0 / x.sqrt()),
        ("sqrt", f64::sqrt),
    ];
    for (name, f) in cases {
        for ftz in ["", ".ftz"] {
            check(&format!("{name}.approx{ftz}.f32 $d, $0;"), Kind::F32, &[Kind::F32], |v| {
                let flush = |bits| if ftz.is_empty() { bits } else { F32.flush(bits) };
                flush(F32.round((f(F32.value(flush(v[0]))), 0.0), Rounding::Nearest))
            });
        }
    }
    check("rcp.approx.ftz.f32 $d, $0;", Kind::F32, &[Kind::F32], |v| {
        F32.flush(F32.round(quotient(1.0, F32.value(F32.flush(v[0]))), Rounding::Nearest))
    });
    for name in ["div.full", "div.approx"] {
        check(&format!("{name}.f32 $d, $0, $1;"), Kind::F32, &[Kind::F32; 2], |v| {
            let (a, b) = (F32.value(v[0]), F32.value(v[1]));
            // A divisor above 2¹²⁶ counts as infinite.
            let is_huge = name == "div.approx" && b.abs() > 2_f64.powi(126);
            let b = if is_huge { f64::INFINITY.copysign(b) } else { b };
            F32.round(quotient(a, b), Rounding::Nearest)
        });
    }
    for (kind_name, kind, format, is_pair) in SHORT {
        for (name, f) in [("ex2.approx", f64::exp2 as Function), ("tanh.approx", f64::tanh)] {
            let ftz = if name == "ex2.approx" && kind_name.starts_with('b') { ".ftz" } else { "" };
            check(&format!("{name}{ftz}.{kind_name} $d, $0;"), kind, &[kind], |v| {
                by_half(v, is_pair, |v| {
                    let flush = |bits| if ftz.is_empty() { bits } else { format.flush(bits) };
                    flush(format.round((f(format.value(flush(v[0]))), 0.0), Rounding::Nearest))
                })
            });
        }
    }
}
