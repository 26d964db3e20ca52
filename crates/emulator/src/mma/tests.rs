//! Fragments written from the figures of the PTX ISA, element by element, and products by the definition.

use std::time::{Duration, Instant};

use super::testing::{Bits, Random, dot, nearest_f16, pack, value};
use super::*;

/// Row and column of element `i` of A in a lane, as the ISA writes it for elements of so many bytes.
fn isa_a(bytes: usize, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match (bytes, k) {
        (4, 4) => (if i == 0 { group } else { group + 8 }, thread),
        (4, 8) => (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 }),
        (2, 8) => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
        (2, 16) => (
            if i < 2 || (4..6).contains(&i) { group } else { group + 8 },
            if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 },
        ),
        (1, 16) => (if i < 4 { group } else { group + 8 }, thread * 4 + (i & 3)),
        (1, 32) => (
            if i < 4 || (8..12).contains(&i) { group } else { group + 8 },
            if i < 8 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 },
        ),
        other => panic!("no figure for {other:?}"),
    }
}

/// Row and column of element `i` of B in a lane.
fn isa_b(bytes: usize, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = match (bytes, k) {
        (4, 4) => thread,
        (4, 8) => [thread, thread + 4][i],
        (2, 8) => thread * 2 + i,
        (2, 16) => thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        (1, 16) => thread * 4 + i,
        (1, 32) => thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        other => panic!("no figure for {other:?}"),
    };
    (row, group)
}

/// Row and column of element `i` of C or D in a lane.
fn isa_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

fn parse(name: &str) -> Option<Mma> {
    Mma::parse(&name.split('.').skip(1).collect::<Vec<_>>())
}

/// Runs the instruction on registers and compares all of D with the definition.
fn check(name: &str, (a, b, c): (&Bits, &Bits, &Bits)) {
    let op = parse(name).unwrap_or_else(|| panic!("{name}"));
    let (bytes, k) = (op.a.bytes(), a.columns);
    let sum_bytes = if op.accumulator == Accumulator::F16 { 2 } else { 4 };
    let counts = op.registers();
    assert_eq!(counts, RegisterCounts { a: 16 * k * bytes / 128, b: 8 * k * bytes / 128, c: sum_bytes }, "{name}");
    let a_registers = pack(a, bytes, counts.a, |lane, i| isa_a(bytes, k, lane, i));
    let b_registers = pack(b, bytes, counts.b, |lane, i| isa_b(bytes, k, lane, i));
    let c_registers = pack(c, sum_bytes, counts.c, isa_c);
    let mut d_registers = vec![[0; 32]; counts.c];
    mma_sync(&op, &a_registers, &b_registers, &c_registers, &mut d_registers);
    let d = Bits::new(16, 8, |row, column| {
        let factors = (0..k).map(|k| (a.get(row, k), b.get(k, column)));
        dot((op.a, op.b, op.accumulator), factors, c.get(row, column))
    });
    assert_eq!(d_registers, pack(&d, sum_bytes, counts.c, isa_c), "{name}");
}

/// Every form that is executed.
fn forms() -> Vec<String> {
    let mut forms = Vec::new();
    for (k, types) in [(8, "f32.bf16.bf16.f32"), (16, "f32.bf16.bf16.f32"), (4, "f32.tf32.tf32.f32")] {
        forms.push(format!("mma.sync.aligned.m16n8k{k}.row.col.{types}"));
    }
    forms.push("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32".into());
    for sum in ["f16", "f32"] {
        for k in [8, 16] {
            forms.push(format!("mma.sync.aligned.m16n8k{k}.row.col.{sum}.f16.f16.{sum}"));
        }
        for k in [16, 32] {
            for a in ["e4m3", "e5m2"] {
                for b in ["e4m3", "e5m2"] {
                    forms.push(format!("mma.sync.aligned.m16n8k{k}.row.col.{sum}.{a}.{b}.{sum}"));
                }
            }
        }
    }
    for k in [16, 32] {
        for a in ["s8", "u8"] {
            for b in ["s8", "u8"] {
                for saturate in ["", "satfinite."] {
                    forms.push(format!("mma.sync.aligned.m16n8k{k}.row.col.{saturate}s32.{a}.{b}.s32"));
                }
            }
        }
    }
    forms
}

#[test]
fn products_of_random_matrices() {
    let mut random = Random(1);
    for name in forms() {
        let op = parse(&name).unwrap_or_else(|| panic!("{name}"));
        for _ in 0..4 {
            let a = Bits::new(16, op.k, |_, _| random.element(op.a));
            let b = Bits::new(op.k, 8, |_, _| random.element(op.b));
            let c = Bits::new(16, 8, |_, _| random.sum(op.accumulator));
            check(&name, (&a, &b, &c));
        }
    }
}

#[test]
fn each_element_of_a_and_b_reaches_its_place() {
    // One 1 in A, and in B the number of the row: D shows where the 1 was.
    for k in [16, 32] {
        let name = format!("mma.sync.aligned.m16n8k{k}.row.col.s32.u8.u8.s32");
        let b = Bits::new(k, 8, |row, column| (row * 8 + column) as u32 % 251);
        let c = Bits::new(16, 8, |_, _| 0);
        for at in 0..16 * k {
            check(&name, (&Bits::new(16, k, |row, column| (row * k + column == at).into()), &b, &c));
        }
    }
}

#[test]
fn integers_wrap_or_saturate() {
    let ones = (&Bits::new(16, 16, |_, _| 1), &Bits::new(16, 8, |_, _| 1));
    let c = Bits::new(16, 8, |_, _| i32::MAX.cast_unsigned() - 15);
    for (form, expected) in [("", i32::MIN), ("satfinite.", i32::MAX)] {
        let name = format!("mma.sync.aligned.m16n8k16.row.col.{form}s32.s8.s8.s32");
        check(&name, (ones.0, ones.1, &c));
        let op = parse(&name).expect("executed");
        let mut d = [[0; 32]; 4];
        mma_sync(&op, &[[0x0101_0101; 32]; 2], &[[0x0101_0101; 32]], &[[i32::MAX.cast_unsigned() - 15; 32]; 4], &mut d);
        assert_eq!(d, [[expected.cast_unsigned(); 32]; 4], "{name}");
    }
}

#[test]
fn what_is_not_finite_comes_out_as_such() {
    let op = parse("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32").expect("executed");
    let product = |a: f32, b: f32, c: f32| {
        let pair = |value: f32| (value.to_bits() >> 16) * 0x1_0001;
        let mut d = [[0; 32]; 4];
        mma_sync(&op, &[[pair(a); 32]; 4], &[[pair(b); 32]; 2], &[[c.to_bits(); 32]; 4], &mut d);
        d[0][0]
    };
    assert_eq!(product(f32::INFINITY, 1.0, 0.0), f32::INFINITY.to_bits());
    assert_eq!(product(f32::INFINITY, 0.0, 0.0), 0x7fff_ffff);
    assert_eq!(product(f32::INFINITY, 1.0, f32::NEG_INFINITY), 0x7fff_ffff);
    assert_eq!(product(-2e38, 2e38, 1.0), f32::NEG_INFINITY.to_bits());
    // The products alone are above the largest f32; only the sum is rounded.
    let products = 16.0 * half::bf16::from_f32(3e37).to_f64();
    let (c, expected) = (-3.2e38f32, products - f64::from(3.2e38f32));
    assert_eq!(product(1.0, half::bf16::from_f32(3e37).to_f32(), c), (expected as f32).to_bits());
}

#[test]
fn every_small_float_means_what_it_should() {
    let same = |left: f64, right: f64| left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan();
    for (element, count) in
        [(Element::F16, 1u32 << 16), (Element::Bf16, 1 << 16), (Element::E4m3, 256), (Element::E5m2, 256)]
    {
        for bits in 0..count {
            assert!(same(element.decode(bits)[0], value(element, bits)), "{element:?} {bits:#x}");
        }
    }
}

#[test]
fn f16_sums_are_rounded_once() {
    let mut random = Random(2);
    let bits = |value: f64| Accumulator::F16.encode([value, 0.0])[0];
    // Just above a tie: rounding to f32 first would make it one.
    assert_eq!(bits(1.0 + 2f64.powi(-11) + 2f64.powi(-40)), 0x3c01);
    assert_eq!(bits(1.0 + 2f64.powi(-11)), 0x3c00);
    assert_eq!(bits(65519.999), 0x7bff);
    assert_eq!(bits(65520.0), 0x7c00);
    assert_eq!(bits(-1e300), 0xfc00);
    assert_eq!(bits(-1e-300), 0x8000);
    assert_eq!(bits(f64::NAN), 0x7fff);
    for _ in 0..20_000 {
        let mantissa = 1.0 + f64::from(random.next()) / 2f64.powi(32);
        let value = mantissa * 2f64.powi(random.range(-26, 16) as i32);
        assert_eq!(bits(value), nearest_f16(value), "{value}");
    }
}

#[test]
fn other_forms_are_refused() {
    for name in [
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.col.row.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "mma.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32",
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64",
    ] {
        assert_eq!(parse(name), None, "{name}");
    }
}

#[test]
fn a_product_takes_microseconds() {
    let op = parse("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32").expect("executed");
    let (a, b) = ([[0x3f80_4000; 32]; 4], [[0x3f80_4000; 32]; 2]);
    let mut d = [[0; 32]; 4];
    // The fastest of many short runs: the machine may be busy.
    let fastest = (0..50).map(|_| {
        let start = Instant::now();
        for _ in 0..100 {
            let c = d;
            mma_sync(&op, &a, &b, &c, &mut d);
        }
        start.elapsed() / 100
    });
    let fastest = fastest.min().expect("fifty runs");
    assert!(fastest < Duration::from_micros(3), "{fastest:?} for one m16n8k16");
}

/// Element `(row, column)` of matrix `m` for the tests of moves: no two are alike.
fn element(matrix: usize, row: usize, column: usize) -> u16 {
    (matrix * 4096 + row * 64 + column * 2 + 1) as u16
}

fn matrix_rows(count: usize) -> Vec<[u8; 16]> {
    let row = |i: usize| std::array::from_fn(|byte| element(i / 8, i % 8, byte / 2).to_le_bytes()[byte % 2]);
    (0..8 * count).map(row).collect()
}

#[test]
fn ldmatrix_and_stmatrix_move_each_element_to_its_place() {
    for count in [1, 2, 4] {
        let rows = matrix_rows(count);
        for order in [MatrixOrder::Rows, MatrixOrder::Columns] {
            let mut registers = vec![[0; 32]; count];
            ldmatrix(order, &rows, &mut registers);
            for (matrix, register) in registers.iter().enumerate() {
                for (lane, word) in register.iter().enumerate() {
                    for i in 0..2 {
                        // ISA: a row belongs to four lanes, two elements each; .trans swaps rows and columns.
                        let (row, column) = (lane / 4, lane % 4 * 2 + i);
                        let expected = match order {
                            MatrixOrder::Rows => element(matrix, row, column),
                            MatrixOrder::Columns => element(matrix, column, row),
                        };
                        assert_eq!((word >> (16 * i)) as u16, expected, "{order:?} lane {lane}");
                    }
                }
            }
            let mut stored = vec![[0; 16]; 8 * count];
            stmatrix(order, &registers, &mut stored);
            assert_eq!(stored, rows, "{order:?}");
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let register = |place: fn(usize, usize) -> u16| {
        std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            u32::from(place(row, column)) | u32::from(place(row, column + 1)) << 16
        })
    };
    let a = register(|row, column| element(0, row, column));
    assert_eq!(movmatrix(&a), register(|row, column| element(0, column, row)));
}

#[test]
fn ldmatrix_gives_the_fragments_that_mma_takes() {
    // A 16×16 of f16 row by row: x4 with the matrices in the order that every kernel uses.
    let a = Bits::new(16, 16, |row, column| half::f16::from_f32((row * 16 + column) as f32).to_bits().into());
    let rows: Vec<[u8; 16]> = (0..32)
        .map(|i| {
            let (row, column) = (i % 16, i / 16 * 8);
            std::array::from_fn(|byte| a.get(row, column + byte / 2).to_le_bytes()[byte % 2])
        })
        .collect();
    let mut registers = [[0; 32]; 4];
    ldmatrix(MatrixOrder::Rows, &rows, &mut registers);
    assert_eq!(registers.to_vec(), pack(&a, 2, 4, |lane, i| isa_a(2, 16, lane, i)));
}
