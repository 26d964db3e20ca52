//! Integer arithmetic, logic, bit fields, comparisons, selections and moves.

use crate::harness::Kind::{self, Amount, I16, I32, I64, Pred};
use crate::harness::{Random, check, check_all};

/// Bits, kind of register, and names of unsigned, signed and untyped integers of a width.
const WIDTHS: [(u32, Kind, &str, &str, &str); 3] =
    [(16, I16, "u16", "s16", "b16"), (32, I32, "u32", "s32", "b32"), (64, I64, "u64", "s64", "b64")];

/// The value of the low `bits` of `x` as a type has it.
fn value(x: u64, bits: u32, is_signed: bool) -> i128 {
    let low = i128::from(x) & ((1 << bits) - 1);
    if is_signed && low >> (bits - 1) != 0 { low - (1 << bits) } else { low }
}

/// An instruction of every listed type, on the mathematical values.
fn on_values(names: &[&str], operands: usize, template: &str, f: impl Fn(&[i128], u32) -> i128) {
    let types = WIDTHS.iter().flat_map(|&(bits, kind, u, s, b)| [(bits, kind, u), (bits, kind, s), (bits, kind, b)]);
    for (bits, kind, name) in types.filter(|(_, _, name)| names.contains(name)) {
        check(&template.replace("{t}", name), kind, &vec![kind; operands], |words| {
            let values: Vec<i128> = words.iter().map(|&x| value(x, bits, name.starts_with('s'))).collect();
            f(&values, bits) as u64
        });
    }
}

const ALL: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];
const SIGNED: [&str; 3] = ["s16", "s32", "s64"];

#[test]
fn sums_and_products() {
    on_values(&ALL, 2, "add.{t} $d, $0, $1;", |v, _| v[0] + v[1]);
    on_values(&ALL, 2, "sub.{t} $d, $0, $1;", |v, _| v[0] - v[1]);
    on_values(&ALL, 2, "mul.lo.{t} $d, $0, $1;", |v, _| v[0].wrapping_mul(v[1]));
    on_values(&ALL, 2, "mul.hi.{t} $d, $0, $1;", |v, bits| high(v[0], v[1], bits));
    on_values(&ALL, 3, "mad.lo.{t} $d, $0, $1, $2;", |v, _| v[0].wrapping_mul(v[1]).wrapping_add(v[2]));
    on_values(&ALL, 3, "mad.hi.{t} $d, $0, $1, $2;", |v, bits| high(v[0], v[1], bits) + v[2]);
    for (name, is_signed) in [("u32", false), ("s32", true)] {
        let low = |x: u64| value(x, 24, is_signed);
        check(&format!("mul24.lo.{name} $d, $0, $1;"), I32, &[I32, I32], |v| (low(v[0]) * low(v[1])) as u64);
        check(&format!("mul24.hi.{name} $d, $0, $1;"), I32, &[I32, I32], |v| ((low(v[0]) * low(v[1])) >> 16) as u64);
    }
    on_values(&["s32"], 2, "add.sat.{t} $d, $0, $1;", |v, _| (v[0] + v[1]).clamp(-(1 << 31), (1 << 31) - 1));
    on_values(&["s32"], 2, "sub.sat.{t} $d, $0, $1;", |v, _| (v[0] - v[1]).clamp(-(1 << 31), (1 << 31) - 1));
    on_values(&["s32"], 3, "mad.hi.sat.{t} $d, $0, $1, $2;", |v, _| {
        (((v[0] * v[1]) >> 32) + v[2]).clamp(-(1 << 31), (1 << 31) - 1)
    });
    on_values(&ALL, 3, "sad.{t} $d, $0, $1, $2;", |v, _| v[2] + (v[0] - v[1]).abs());
    on_values(&["s32", "u32"], 1, "add.{t} $d, $0, -5;", |v, _| v[0] - 5);
    on_values(&["s64", "u64"], 1, "add.{t} $d, $0, -5;", |v, _| v[0] - 5);
}

/// The upper half of a product. Two unsigned factors of 64 bits have a product beyond `i128`.
fn high(a: i128, b: i128, bits: u32) -> i128 {
    match a.checked_mul(b) {
        Some(product) => product >> bits,
        None => ((a as u128 * b as u128) >> bits) as i128,
    }
}

#[test]
fn products_of_twice_the_width() {
    for (kind, wide, bits, names) in [(I16, I32, 16, ["u16", "s16"]), (I32, I64, 32, ["u32", "s32"])] {
        for name in names {
            let of = |x: u64| value(x, bits, name.starts_with('s'));
            check(&format!("mul.wide.{name} $d, $0, $1;"), wide, &[kind, kind], |v| (of(v[0]) * of(v[1])) as u64);
            check(&format!("mad.wide.{name} $d, $0, $1, $2;"), wide, &[kind, kind, wide], |v| {
                (of(v[0]) * of(v[1])).wrapping_add(v[2].into()) as u64
            });
        }
    }
}

#[test]
fn quotients_remainders_and_extremes() {
    // What a zero divisor gives is the machine's choice: all ones, and the dividend.
    on_values(&ALL, 2, "div.{t} $d, $0, $1;", |v, _| if v[1] == 0 { -1 } else { v[0] / v[1] });
    on_values(&ALL, 2, "rem.{t} $d, $0, $1;", |v, _| if v[1] == 0 { v[0] } else { v[0] % v[1] });
    on_values(&ALL, 2, "min.{t} $d, $0, $1;", |v, _| v[0].min(v[1]));
    on_values(&ALL, 2, "max.{t} $d, $0, $1;", |v, _| v[0].max(v[1]));
    on_values(&["s32"], 2, "min.{t}.relu $d, $0, $1;", |v, _| v[0].min(v[1]).max(0));
    on_values(&["s32"], 2, "max.relu.{t} $d, $0, $1;", |v, _| v[0].max(v[1]).max(0));
    on_values(&SIGNED, 1, "abs.{t} $d, $0;", |v, _| v[0].abs());
    on_values(&SIGNED, 1, "neg.{t} $d, $0;", |v, _| -v[0]);
    for (name, is_signed) in [("u16x2", false), ("s16x2", true)] {
        let halves = |v: &[u64], f: fn(i128, i128) -> i128| {
            let half = |shift: u32| {
                f(value(v[0] >> shift, 16, is_signed), value(v[1] >> shift, 16, is_signed)) as u64 & 0xffff
            };
            half(0) | half(16) << 16
        };
        check(&format!("min.{name} $d, $0, $1;"), I32, &[I32, I32], |v| halves(v, |a, b| a.min(b)));
        check(&format!("max.{name} $d, $0, $1;"), I32, &[I32, I32], |v| halves(v, |a, b| a.max(b)));
        check(&format!("add.{name} $d, $0, $1;"), I32, &[I32, I32], |v| halves(v, |a, b| a + b));
    }
    check("max.s16x2.relu $d, $0, $1;", I32, &[I32, I32], |v| {
        let half = |shift: u32| value(v[0] >> shift, 16, true).max(value(v[1] >> shift, 16, true)).max(0) as u64;
        half(0) | half(16) << 16
    });
}

#[test]
fn carries() {
    // The low halves set the carry that the high halves use; the sum is that of 128 bits.
    let wide = |v: &[u64]| (u128::from(v[1]) << 64 | u128::from(v[0]), u128::from(v[3]) << 64 | u128::from(v[2]));
    let halves = |x: u128| [x as u64, (x >> 64) as u64];
    let four = [I64; 4];
    for t in ["u64", "s64"] {
        check_all(&format!("add.cc.{t} $d, $0, $2; addc.{t} $e, $1, $3;"), [I64; 2], &four, |v| {
            halves(wide(v).0.wrapping_add(wide(v).1))
        });
        check_all(&format!("sub.cc.{t} $d, $0, $2; subc.{t} $e, $1, $3;"), [I64; 2], &four, |v| {
            halves(wide(v).0.wrapping_sub(wide(v).1))
        });
    }
    // The carry out of a word that got a carry.
    check_all("add.cc.u32 $d, $0, $1; addc.cc.u32 $d, $2, $3; addc.u32 $e, 0, 0;", [I32; 2], &[I32; 4], |v| {
        let low = (v[0] + v[1]) >> 32;
        let sum = v[2] + v[3] + low;
        [sum, sum >> 32]
    });
    check_all("sub.cc.u32 $d, $0, $1; subc.cc.u32 $d, $2, $3; subc.u32 $e, 0, 0;", [I32; 2], &[I32; 4], |v| {
        let borrow = u64::from(v[0] < v[1]);
        let difference = i128::from(v[2]) - i128::from(v[3]) - i128::from(borrow);
        [difference as u64, if difference < 0 { u64::MAX } else { 0 }]
    });
    // No borrow is a carry of 1, as nvcc's division of 128 bits has it.
    check_all("sub.cc.u32 $d, $0, $1; addc.u32 $e, 0, 0;", [I32; 2], &[I32; 2], |v| {
        [v[0].wrapping_sub(v[1]), u64::from(v[0] >= v[1])]
    });
    check_all("mad.lo.cc.u32 $d, $0, $1, $2; madc.hi.u32 $e, $0, $1, $3;", [I32; 2], &[I32; 4], |v| {
        let sum = (v[0] * v[1]).wrapping_add(v[3] << 32 | v[2]);
        [sum, sum >> 32]
    });
    check_all("mad.lo.cc.u64 $d, $0, $1, $2; madc.hi.u64 $e, $0, $1, $3;", [I64; 2], &four, |v| {
        halves((u128::from(v[0]) * u128::from(v[1])).wrapping_add(u128::from(v[3]) << 64 | u128::from(v[2])))
    });
}

#[test]
fn logic() {
    let types = ["b16", "b32", "b64"];
    on_values(&types, 2, "and.{t} $d, $0, $1;", |v, _| v[0] & v[1]);
    on_values(&types, 2, "or.{t} $d, $0, $1;", |v, _| v[0] | v[1]);
    on_values(&types, 2, "xor.{t} $d, $0, $1;", |v, _| v[0] ^ v[1]);
    on_values(&types, 1, "not.{t} $d, $0;", |v, _| !v[0]);
    on_values(&types, 1, "cnot.{t} $d, $0;", |v, _| i128::from(v[0] == 0));
    let mut random = Random(3);
    for table in (0..24).map(|_| random.next() & 255).chain([0, 255, 0x96, 0xe8, 0xca, 0xf0, 0xcc, 0xaa]) {
        // The table is indexed by one bit of each operand, the first one the highest.
        check(&format!("lop3.b32 $d, $0, $1, $2, {table:#x};"), I32, &[I32; 3], |v| {
            (0..32).fold(0, |bits, at| {
                let row = (v[0] >> at & 1) << 2 | (v[1] >> at & 1) << 1 | v[2] >> at & 1;
                bits | (table >> row & 1) << at
            })
        });
    }
    for (name, f) in [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)] {
        check(&format!("{name}.pred $d, $0, $1;"), Pred, &[Pred; 2], |v| f(v[0], v[1]));
    }
    check("not.pred $d, $0;", Pred, &[Pred], |v| !v[0]);
    check("mov.pred $d, $0;", Pred, &[Pred], |v| v[0]);
}

#[test]
fn shifts() {
    for (bits, kind, u, s, b) in WIDTHS {
        check(&format!("shl.{b} $d, $0, $1;"), kind, &[kind, Amount], |v| {
            if v[1] >= bits.into() { 0 } else { v[0] << v[1] }
        });
        for name in [u, s, b] {
            check(&format!("shr.{name} $d, $0, $1;"), kind, &[kind, Amount], |v| {
                let amount = v[1].min(bits.into());
                (value(v[0], bits, name == s) >> amount) as u64
            });
        }
    }
    for (mode, amount) in [("clamp", (|c| c.min(32)) as fn(u64) -> u64), ("wrap", |c| c & 31)] {
        let both = |v: &[u64]| v[1] << 32 | v[0];
        check(&format!("shf.l.{mode}.b32 $d, $0, $1, $2;"), I32, &[I32, I32, Amount], |v| {
            (u128::from(both(v)) << amount(v[2]) >> 32) as u64
        });
        check(&format!("shf.r.{mode}.b32 $d, $0, $1, $2;"), I32, &[I32, I32, Amount], |v| both(v) >> amount(v[2]));
    }
}

#[test]
fn bits_are_counted_and_found() {
    for (bits, kind, u, s, b) in &WIDTHS[1..] {
        let bits = *bits;
        let is_set = |x: u64, at: u32| x >> at & 1 != 0;
        check(&format!("popc.{b} $d, $0;"), I32, &[*kind], |v| (0..bits).filter(|&at| is_set(v[0], at)).count() as u64);
        check(&format!("clz.{b} $d, $0;"), I32, &[*kind], |v| {
            (0..bits).rev().take_while(|&at| !is_set(v[0], at)).count() as u64
        });
        check(&format!("brev.{b} $d, $0;"), *kind, &[*kind], |v| {
            (0..bits).fold(0, |reversed, at| reversed | (v[0] >> at & 1) << (bits - 1 - at))
        });
        for name in [u, s] {
            // The highest bit that differs from the sign of a signed operand.
            let found = |x: u64| {
                let skip = *name == *s && is_set(x, bits - 1);
                (0..bits).rev().find(|&at| is_set(x, at) != skip)
            };
            check(&format!("bfind.{name} $d, $0;"), I32, &[*kind], |v| found(v[0]).map_or(u64::MAX, u64::from));
            check(&format!("bfind.shiftamt.{name} $d, $0;"), I32, &[*kind], |v| {
                found(v[0]).map_or(u64::MAX, |at| u64::from(bits - 1 - at))
            });
        }
    }
}

#[test]
fn bit_fields() {
    for (bits, kind, u, s, b) in &WIDTHS[1..] {
        let (last, bits) = (u64::from(bits - 1), u64::from(*bits));
        for name in [u, s] {
            check(&format!("bfe.{name} $d, $0, $1, $2;"), *kind, &[*kind, Amount, Amount], |v| {
                let (at, len) = (v[1] & 255, v[2] & 255);
                let sign = if name == u || len == 0 { 0 } else { v[0] >> (at + len - 1).min(last) & 1 };
                (0..bits).fold(0, |field, bit| {
                    let is_inside = bit < len && at + bit <= last;
                    field | (if is_inside { v[0] >> (at + bit) & 1 } else { sign }) << bit
                })
            });
        }
        check(&format!("bfi.{b} $d, $0, $1, $2, $3;"), *kind, &[*kind, *kind, Amount, Amount], |v| {
            let (at, len) = (v[2] & 255, v[3] & 255);
            (0..len)
                .filter(|bit| at + bit <= last)
                .fold(v[1], |field, bit| field & !(1 << (at + bit)) | (v[0] >> bit & 1) << (at + bit))
        });
    }
}

#[test]
fn bytes() {
    check("prmt.b32 $d, $0, $1, $2;", I32, &[I32; 3], |v| {
        (0..4).fold(0, |result, at| {
            let selector = v[2] >> (4 * at) & 15;
            let byte = (v[1] << 32 | v[0]) >> (8 * (selector & 7)) & 255;
            result | (if selector < 8 { byte } else { 255 * (byte >> 7) }) << (8 * at)
        })
    });
    for (a, b) in [("u32", "u32"), ("s32", "s32"), ("u32", "s32"), ("s32", "u32")] {
        let (a_signed, b_signed) = (a == "s32", b == "s32");
        check(&format!("dp4a.{a}.{b} $d, $0, $1, $2;"), I32, &[I32; 3], |v| {
            let products = (0..4).map(|at| value(v[0] >> (8 * at), 8, a_signed) * value(v[1] >> (8 * at), 8, b_signed));
            (products.sum::<i128>() + i128::from(v[2])) as u64
        });
        for (half, first) in [("lo", 0), ("hi", 2)] {
            check(&format!("dp2a.{half}.{a}.{b} $d, $0, $1, $2;"), I32, &[I32; 3], |v| {
                let products = (0..2)
                    .map(|at| value(v[0] >> (16 * at), 16, a_signed) * value(v[1] >> (8 * (first + at)), 8, b_signed));
                (products.sum::<i128>() + i128::from(v[2])) as u64
            });
        }
    }
}

#[test]
fn selections() {
    for (_, kind, u, s, b) in WIDTHS {
        for name in [u, s, b] {
            check(&format!("selp.{name} $d, $0, $1, $2;"), kind, &[kind, kind, Pred], |v| v[usize::from(v[2] == 0)]);
        }
    }
    check("selp.f32 $d, $0, $1, !$2;", I32, &[I32, I32, Pred], |v| v[usize::from(v[2] != 0)]);
    check(
        "selp.f64 $d, 0d3FF0000000000000, $0, $1;",
        I64,
        &[I64, Pred],
        |v| if v[1] != 0 { 0x3ff << 52 } else { v[0] },
    );
}

#[test]
fn comparisons() {
    type Test = fn(i128, i128) -> bool;
    let signed: [(&str, Test); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    let unsigned: [(&str, Test); 4] =
        [("lo", |a, b| a < b), ("ls", |a, b| a <= b), ("hi", |a, b| a > b), ("hs", |a, b| a >= b)];
    type Combine = fn(bool, bool) -> bool;
    let combinations: [(&str, Combine); 3] = [("and", |t, c| t && c), ("or", |t, c| t || c), ("xor", |t, c| t != c)];
    for (bits, kind, u, s, b) in WIDTHS {
        let mut cases = Vec::new();
        cases.extend(signed[..2].iter().map(|test| (b, test)));
        cases.extend(signed.iter().flat_map(|test| [(u, test), (s, test)]));
        cases.extend(unsigned.iter().map(|test| (u, test)));
        for (name, (comparison, test)) in cases {
            // Equal operands are rare among random ones: the second is the first in half of the cases.
            let of = |x: u64| value(x, bits, name == s);
            let operands = |v: &[u64]| (of(v[0]), if v[2] != 0 { of(v[0]) } else { of(v[1]) });
            let second = format!("selp.{b} $1, $0, $1, $2;");
            check(&format!("{second} setp.{comparison}.{name} $d, $0, $1;"), Pred, &[kind, kind, Pred], |v| {
                test(operands(v).0, operands(v).1).into()
            });
            for (logic, combine) in combinations {
                for not in ["", "!"] {
                    let line = format!("{second} setp.{comparison}.{logic}.{name} $d|$e, $0, $1, {not}$3;");
                    check_all(&line, [Pred; 2], &[kind, kind, Pred, Pred], |v| {
                        let (t, c) = (test(operands(v).0, operands(v).1), (v[3] != 0) != (not == "!"));
                        [combine(t, c).into(), combine(!t, c).into()]
                    });
                }
            }
        }
    }
    check_all("setp.lt.s32 $d|$e, $0, -1;", [Pred; 2], &[I32], |v| {
        let is_less = (v[0] as i32) < -1;
        [is_less.into(), (!is_less).into()]
    });
}

#[test]
fn moves() {
    for (_, kind, u, s, b) in WIDTHS {
        for name in [u, s, b] {
            check(&format!("mov.{name} $d, $0;"), kind, &[kind], |v| v[0]);
        }
    }
    check("mov.b32 $d, {$0, $1};", I32, &[I16; 2], |v| v[0] | v[1] << 16);
    check("mov.b64 $d, {$0, $1};", I64, &[I32; 2], |v| v[0] | v[1] << 32);
    check("mov.b64 $d, {$0, $1, $2, $3};", I64, &[I16; 4], |v| v[0] | v[1] << 16 | v[2] << 32 | v[3] << 48);
    check_all("mov.b32 {$d, $e}, $0;", [I16; 2], &[I32], |v| [v[0], v[0] >> 16]);
    check_all("mov.b64 {$d, $e}, $0;", [I32; 2], &[I64], |v| [v[0], v[0] >> 32]);
    check_all("mov.b64 {_, $d, _, $e}, $0;", [I16; 2], &[I64], |v| [v[0] >> 16, v[0] >> 48]);
    check("mov.f32 $d, 0fBF800000;", I32, &[], |_| 0xbf80_0000);
    check("mov.u64 $d, -2;", I64, &[], |_| u64::MAX - 1);
}
