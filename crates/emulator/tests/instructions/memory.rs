//! Loads, stores and atomics of every width in every space.

use crate::exact::{BF16, F16, F32, Rounding, sum};
use crate::harness::Kind::{self, F64, I16, I32, I64};
use crate::harness::{Random, ptx, run};

/// Type, its bytes, whether it is signed.
const TYPES: [(&str, usize, bool); 15] = [
    ("u8", 1, false),
    ("s8", 1, true),
    ("b8", 1, false),
    ("u16", 2, false),
    ("s16", 2, true),
    ("b16", 2, false),
    ("f16", 2, false),
    ("u32", 4, false),
    ("s32", 4, true),
    ("b32", 4, false),
    ("f32", 4, false),
    ("u64", 8, false),
    ("s64", 8, true),
    ("b64", 8, false),
    ("f64", 8, false),
];

const REGISTERS: [(&str, &str, usize); 3] = [("b16", "%rs1", 2), ("b32", "%r1", 4), ("b64", "%rd9", 8)];

/// Spaces and addresses of the 16 bytes that a thread has in each.
const SPACES: [(&str, &str); 8] = [
    (".global", "%rd3"),
    ("", "%rd3"),
    (".shared", "%r40"),
    (".shared::cta", "%r40"),
    ("", "%rd20"),
    (".local", "%rd21"),
    ("", "%rd22"),
    (".volatile.global", "%rd3"),
];

const THREADS: u32 = 64;

/// `%rd3`, `%r40`, `%rd20`, `%rd21`, `%rd22`: 16 bytes of the thread; `%rd4`: its `words` of the output.
fn prologue(words: usize) -> String {
    format!(
        ".shared .align 16 .b8 buffer[{}];\n.local .align 16 .b8 depot[16];\n\
         mov.u32 %r50, %tid.x;\nshl.b32 %r51, %r50, 4;\nmad.wide.u32 %rd3, %r50, 16, %rd1;\n\
         mad.wide.u32 %rd4, %r50, {}, %rd2;\nmov.u32 %r40, buffer;\nadd.s32 %r40, %r40, %r51;\n\
         cvt.u64.u32 %rd19, %r40;\ncvta.shared.u64 %rd20, %rd19;\nmov.u64 %rd21, depot;\ncvta.local.u64 %rd22, %rd21;\n",
        16 * THREADS,
        8 * words
    )
}

fn words(seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    (0..2 * THREADS).map(|_| random.next()).collect()
}

/// Both words of the thread in all spaces.
const FILL: &str = "ld.global.v2.b64 {%rd5, %rd6}, [%rd3];\nst.shared.v2.b64 [%r40], {%rd5, %rd6};\n\
                    st.local.v2.b64 [%rd21], {%rd5, %rd6};\n";

#[test]
fn loads_extend_into_wider_registers() {
    for (index, (name, bytes, is_signed)) in TYPES.into_iter().enumerate() {
        for (file, register, width) in REGISTERS.into_iter().filter(|(_, _, width)| *width >= bytes) {
            let mut body = prologue(SPACES.len()) + FILL;
            for (at, (space, address)) in SPACES.into_iter().enumerate() {
                body += &format!(
                    "ld{space}.{name} {register}, [{address}+8];\nst.global.{file} [%rd4+{}], {register};\n",
                    8 * at
                );
            }
            let input = words(index as u64);
            let out = run(&ptx(&body), [1; 3], [THREADS, 1, 1], &input, THREADS as usize * SPACES.len());
            for (thread, found) in out.chunks(SPACES.len()).enumerate() {
                let unused = 64 - 8 * bytes;
                let word = input[2 * thread + 1];
                let value =
                    if is_signed { ((word << unused) as i64 >> unused) as u64 } else { word << unused >> unused };
                let expected = value & (u64::MAX >> (64 - 8 * width));
                for (found, space) in found.iter().zip(SPACES) {
                    assert_eq!(*found, expected, "ld{}.{name} into {file}, thread {thread}", space.0);
                }
            }
        }
    }
}

#[test]
fn stores_write_the_low_bytes() {
    for (index, (name, bytes, _)) in TYPES.into_iter().enumerate() {
        for (file, register, _) in REGISTERS.into_iter().filter(|(_, _, width)| *width >= bytes) {
            let mut body = prologue(SPACES.len()) + FILL;
            body += &format!("ld.global.{file} {register}, [%rd3];\n");
            for (at, (space, address)) in SPACES.into_iter().enumerate() {
                // The second word is overwritten in part, and read again.
                let again = format!("{}.b64 %rd7, [{address}+8];\nst.global.b64 [%rd4+{}], %rd7;\n", "{ld}", 8 * at);
                body += &format!("st{space}.b64 [{address}+8], %rd6;\nst{space}.{name} [{address}+8], {register};\n");
                body += &again.replace("{ld}", &format!("ld{space}"));
            }
            let input = words(index as u64 + 50);
            let out = run(&ptx(&body), [1; 3], [THREADS, 1, 1], &input, THREADS as usize * SPACES.len());
            for (thread, found) in out.chunks(SPACES.len()).enumerate() {
                let mask = u64::MAX >> (64 - 8 * bytes);
                let expected = input[2 * thread] & mask | input[2 * thread + 1] & !mask;
                for (found, space) in found.iter().zip(SPACES) {
                    assert_eq!(*found, expected, "st{}.{name} from {file}, thread {thread}", space.0);
                }
            }
        }
    }
}

#[test]
fn vectors() {
    for (name, bytes, count) in [
        ("u8", 1, 2),
        ("b8", 1, 4),
        ("u16", 2, 2),
        ("b16", 2, 4),
        ("u32", 4, 2),
        ("f32", 4, 4),
        ("b64", 8, 2),
        ("b32", 4, 8),
        ("b64", 8, 4),
    ] {
        let register = |index: usize| match bytes {
            8 => format!("%rd{}", 10 + index),
            4 => format!("%r{}", 1 + index),
            _ => format!("%rs{}", 1 + index),
        };
        let list = (0..count).map(register).collect::<Vec<String>>().join(", ");
        let size = bytes * count;
        let address = format!(
            "mov.u32 %r50, %tid.x;\nmad.wide.u32 %rd3, %r50, {size}, %rd1;\nmad.wide.u32 %rd4, %r50, {size}, %rd2;\nadd.s64 %rd5, %rd3, 64;\n"
        );
        let stores: String =
            (0..count).map(|i| format!("st.global.{name} [%rd4+{}], {};\n", i * bytes, register(i))).collect();
        let loads: String =
            (0..count).map(|i| format!("ld.global.{name} {}, [%rd3+{}];\n", register(i), i * bytes)).collect();
        let input: Vec<u64> = words(count as u64).into_iter().chain(words(9)).collect();
        let num_out = size * THREADS as usize / 8;
        for body in [
            format!("{address}ld.global.v{count}.{name} {{{list}}}, [%rd5+-64];\n{stores}"),
            format!("{address}{loads}st.global.v{count}.{name} [%rd4], {{{list}}};\n"),
            format!(
                "{address}ld.global.nc.L1::no_allocate.v{count}.{name} {{{list}}}, [%rd3];\nst.v{count}.{name} [%rd4], {{{list}}};\n"
            ),
        ] {
            let out = run(&ptx(&body), [1; 3], [THREADS, 1, 1], &input, num_out);
            assert_eq!(out, input[..num_out], "v{count}.{name}");
        }
    }
}

#[test]
fn parameters_and_constants() {
    // The bytes of a parameter, by its own space and by generic address.
    let mut body = String::from("mov.b64 %rd5, p0;\ncvta.param.u64 %rd6, %rd5;\nst.global.u64 [%rd2], %rd1;\n");
    for at in 0..8 {
        body += &format!("ld.param.u8 %r1, [p0+{at}];\nst.global.u8 [%rd2+{}], %r1;\n", 8 + at);
        body += &format!("ld.u8 %r1, [%rd6+{at}];\nst.global.u8 [%rd2+{}], %r1;\n", 16 + at);
    }
    let out = run(&ptx(&body), [1; 3], [1; 3], &[0], 3);
    assert_ne!(out[0], 0);
    assert_eq!(out[1..], [out[0]; 2]);

    let text = ptx("mov.u64 %rd5, table;\nld.const.v2.u32 {%r1, %r2}, [%rd5+4];\nld.const.u32 %r3, [table];\n\
                    st.global.v4.u32 [%rd2], {%r1, %r2, %r3, %r3};\n");
    let text = text
        .replace(".visible", ".const .align 8 .b32 table[3] = {7, 8, 9};\n.visible")
        .replace("[%rd5+4]", "[%rd5+0]");
    assert_eq!(run(&text, [1; 3], [1; 3], &[0], 2), [8 << 32 | 7, 7 << 32 | 7]);
}

#[test]
fn addresses_know_their_space() {
    let mut body = prologue(1) + "mov.b64 %rd23, p0;\ncvta.param.u64 %rd23, %rd23;\nmov.u32 %r1, 0;\n";
    let mut bit = 0;
    let mut expected = 0;
    for (space, own) in
        [("global", "%rd3"), ("shared", "%rd20"), ("shared::cta", "%rd20"), ("local", "%rd22"), ("param", "%rd23")]
    {
        for address in ["%rd3", "%rd20", "%rd22", "%rd23"] {
            body += &format!("isspacep.{space} %p1, {address};\n@%p1 or.b32 %r1, %r1, {};\n", 1 << bit);
            expected |= u64::from(own == address) << bit;
            bit += 1;
        }
    }
    // And back: the windows' own addresses.
    body += "cvta.to.shared.u64 %rd24, %rd20;\nsetp.ne.u64 %p1, %rd24, %rd19;\n@%p1 mov.u32 %r1, 0;\n\
             cvta.to.local.u64 %rd24, %rd22;\nsetp.ne.u64 %p1, %rd24, %rd21;\n@%p1 mov.u32 %r1, 0;\n\
             cvta.to.global.u64 %rd24, %rd3;\nsetp.ne.u64 %p1, %rd24, %rd3;\n@%p1 mov.u32 %r1, 0;\nst.global.u32 [%rd4], %r1;\n";
    assert_eq!(run(&ptx(&body), [1; 3], [THREADS, 1, 1], &words(1), THREADS as usize), [expected; THREADS as usize]);
}

/// What an atomic operation writes, from the old value and its operands.
type Change = fn(u64, u64, u64) -> u64;

fn halves(a: u64, b: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    f(a & 0xffff, b & 0xffff) | f(a >> 16, b >> 16) << 16
}

const ATOMICS: [(&str, &str, Kind, Change); 33] = [
    ("add", "u32", I32, |a, b, _| a + b),
    ("add", "s32", I32, |a, b, _| a + b),
    ("add", "u64", I64, |a, b, _| a.wrapping_add(b)),
    ("add", "f32", Kind::F32, |a, b, _| F32.round(sum(F32.value(a), F32.value(b)), Rounding::Nearest)),
    ("add", "f64", F64, |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ("add.noftz", "f16", Kind::F16, |a, b, _| F16.round(sum(F16.value(a), F16.value(b)), Rounding::Nearest)),
    ("add.noftz", "bf16", Kind::Bf16, |a, b, _| BF16.round(sum(BF16.value(a), BF16.value(b)), Rounding::Nearest)),
    ("add.noftz", "f16x2", Kind::F16x2, |a, b, _| {
        halves(a, b, |a, b| F16.round(sum(F16.value(a), F16.value(b)), Rounding::Nearest))
    }),
    ("add.noftz", "bf16x2", Kind::Bf16x2, |a, b, _| {
        halves(a, b, |a, b| BF16.round(sum(BF16.value(a), BF16.value(b)), Rounding::Nearest))
    }),
    ("and", "b32", I32, |a, b, _| a & b),
    ("or", "b32", I32, |a, b, _| a | b),
    ("xor", "b32", I32, |a, b, _| a ^ b),
    ("and", "b64", I64, |a, b, _| a & b),
    ("or", "b64", I64, |a, b, _| a | b),
    ("xor", "b64", I64, |a, b, _| a ^ b),
    ("exch", "b32", I32, |_, b, _| b),
    ("exch", "b64", I64, |_, b, _| b),
    ("min", "u32", I32, |a, b, _| a.min(b)),
    ("min", "s32", I32, |a, b, _| if (a as i32) < b as i32 { a } else { b }),
    ("min", "u64", I64, |a, b, _| a.min(b)),
    ("min", "s64", I64, |a, b, _| if (a as i64) < b as i64 { a } else { b }),
    ("max", "u32", I32, |a, b, _| a.max(b)),
    ("max", "s32", I32, |a, b, _| if (a as i32) > b as i32 { a } else { b }),
    ("max", "u64", I64, |a, b, _| a.max(b)),
    ("max", "s64", I64, |a, b, _| if (a as i64) > b as i64 { a } else { b }),
    ("inc", "u32", I32, |a, b, _| if a >= b { 0 } else { a + 1 }),
    ("dec", "u32", I32, |a, b, _| if a == 0 || a > b { b } else { a - 1 }),
    ("cas", "b16", I16, |a, b, c| if a == b { c } else { a }),
    ("cas", "b32", I32, |a, b, c| if a == b { c } else { a }),
    ("cas", "b64", I64, |a, b, c| if a == b { c } else { a }),
    ("cas", "u32", I32, |a, b, c| if a == b { c } else { a }),
    ("cas", "u64", I64, |a, b, c| if a == b { c } else { a }),
    ("exch", "f32", I32, |_, b, _| b),
];

#[test]
fn atomics() {
    let spaces = [
        (".global", "%rd3"),
        ("", "%rd3"),
        (".shared", "%r40"),
        ("", "%rd20"),
        (".gpu.global", "%rd3"),
        (".relaxed.cta.shared", "%r40"),
    ];
    for (name, kind_name, kind, change) in ATOMICS {
        let [old, b, c, file] = match kind.mask().count_ones() {
            64 => ["%rd10", "%rd11", "%rd12", "b64"],
            32 => ["%r10", "%r11", "%r12", "b32"],
            _ => ["%rs10", "%rs11", "%rs12", "b16"],
        };
        for (space, address) in spaces {
            for result in ["atom", "red"] {
                if result == "red" && matches!(name, "cas" | "exch") {
                    continue;
                }
                // Four words in: the old value, b, c, nothing. Two out: what the instruction returns, the new value.
                let mut body = prologue(2).replace("%r50, 16, %rd1", "%r50, 32, %rd1");
                let own = space.trim_start_matches(".gpu").trim_start_matches(".relaxed.cta");
                body += &format!(
                    "ld.global.{file} {old}, [%rd3];\nld.global.{file} {b}, [%rd3+8];\nld.global.{file} {c}, [%rd3+16];\n"
                );
                if file == "b16" {
                    // Leaves copies of the sign above the operand's 16 bits, where nothing counts.
                    body += &format!("neg.s16 {b}, {b};\nneg.s16 {b}, {b};\n");
                }
                body += &format!("st{own}.{file} [{address}], {old};\n");
                let rest = if name == "cas" { format!("{b}, {c}") } else { b.to_owned() };
                let to = if result == "atom" { format!("{old}, ") } else { String::new() };
                body += &format!("{result}{space}.{name}.{kind_name} {to}[{address}], {rest};\n");
                body += &format!(
                    "st.global.{file} [%rd4], {old};\nld{own}.{file} {b}, [{address}];\nst.global.{file} [%rd4+8], {b};\n"
                );
                let mut random = Random(u64::from(kind.mask().count_ones()));
                let input: Vec<u64> = (0..THREADS)
                    .flat_map(|thread| {
                        let [old, b, c] = [0; 3].map(|_| kind.pick(&mut random));
                        // What is expected is there in half of the threads.
                        let b = if name == "cas" && thread % 2 == 0 { old } else { b };
                        [old, b, c, 0]
                    })
                    .collect();
                let text = ptx(&body);
                let out = run(&text, [1; 3], [THREADS, 1, 1], &input, 2 * THREADS as usize);
                for (words, found) in input.chunks(4).zip(out.chunks(2)) {
                    let [old, b, c, _] = *words else { unreachable!("chunks of four") };
                    let new = change(old, b, c) & kind.mask();
                    // Which NaN comes out of a sum of f64 is not said.
                    if kind == F64 && f64::from_bits(new).is_nan() {
                        assert!(f64::from_bits(found[1]).is_nan(), "{old:#x} {b:#x}");
                        continue;
                    }
                    assert_eq!(found, [old, new], "{result}{space}.{name}.{kind_name} {old:#x}, {b:#x}, {c:#x}");
                }
            }
        }
    }
}

#[test]
fn threads_add_to_one_word() {
    for (space, address) in [(".global", "%rd5"), (".shared", "%r41")] {
        let body = prologue(1)
            + "mad.wide.u32 %rd5, %r50, 0, %rd1;\nmov.u32 %r41, buffer;\nsetp.ne.u32 %p1, %r50, 0;\n\
               @!%p1 st.shared.u32 [%r41], 0;\nbar.sync 0;\n"
            + &format!("atom{space}.add.u32 %r1, [{address}], 3;\nst.global.u32 [%rd4], %r1;\n");
        let mut out = run(&ptx(&body), [1; 3], [THREADS, 1, 1], &[0; 2], THREADS as usize);
        out.sort_unstable();
        assert_eq!(out, (0..u64::from(THREADS)).map(|index| 3 * index).collect::<Vec<u64>>());
    }
}
