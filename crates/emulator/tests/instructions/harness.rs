//! Runs one line of PTX over many operands, and compares with a definition.

use cachalot_emulator::{Kernel, Launch, Machine, Module};

/// What an operand is: the register that it lies in, and the values that are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 16, 32 or 64 bits of an integer.
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    F32,
    F64,
    /// A predicate: 0 or 1.
    Pred,
    /// A number of bits or a place among them, in 32 bits.
    Amount,
}

impl Kind {
    fn register(self) -> &'static str {
        match self {
            Kind::I16 | Kind::F16 | Kind::Bf16 => "b16",
            Kind::I64 | Kind::F64 => "b64",
            Kind::Pred => "pred",
            _ => "b32",
        }
    }

    pub(crate) fn mask(self) -> u64 {
        match self.register() {
            "b16" => 0xffff,
            "b64" => u64::MAX,
            "pred" => 1,
            _ => 0xffff_ffff,
        }
    }

    /// A value to try: one of the places where definitions bend, or anything.
    pub(crate) fn pick(self, random: &mut Random) -> u64 {
        let bits = random.next();
        let value = match self {
            Kind::F16x2 => return Kind::F16.pick(random) | Kind::F16.pick(random) << 16,
            Kind::Bf16x2 => return Kind::Bf16.pick(random) | Kind::Bf16.pick(random) << 16,
            Kind::F16 => float(random, 5, 10),
            Kind::Bf16 => float(random, 8, 7),
            Kind::F32 => float(random, 8, 23),
            Kind::F64 => float(random, 11, 52),
            Kind::Pred => bits,
            Kind::Amount => match bits % 4 {
                0 => random.next() % 33,
                1 => random.next() % 66,
                2 => *random.of(&[0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 287, 1 << 31, !0]),
                _ => random.next() % 300,
            },
            Kind::I16 | Kind::I32 | Kind::I64 => {
                let edges = [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000];
                match bits % 5 {
                    0 => *random.of(&edges),
                    1 => !*random.of(&edges),
                    2 => *random.of(&[1 << 63, u64::MAX >> 1, 0xffff_ffff, 0x1_0000_0000, 0x5555_5555_5555_5555]),
                    3 => random.next() >> (random.next() % 64),
                    _ => random.next(),
                }
            }
        };
        value & self.mask()
    }
}

/// A float: zeros, subnormals, infinities, NaN, powers of two and their neighbours, numbers of like size, or any bits.
fn float(random: &mut Random, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let sign = (random.next() & 1) << (exponent_bits + fraction_bits);
    let infinity = ((1 << exponent_bits) - 1) << fraction_bits;
    let one: u64 = ((1 << (exponent_bits - 1)) - 1) << fraction_bits;
    let fraction = random.next() & ((1 << fraction_bits) - 1);
    let magnitude = match random.next() % 8 {
        0 => *random.of(&[0, 1, (1 << fraction_bits) - 1, 1 << fraction_bits, infinity - 1, infinity]),
        1 => infinity | 1 << (fraction_bits - 1),
        2 => fraction,
        3 => one.wrapping_add(random.next() % 5).wrapping_sub(2),
        4 | 5 => one + fraction + ((random.next() % 7) << fraction_bits) - (3 << fraction_bits),
        6 => one + ((random.next() % 5) << fraction_bits),
        _ => random.next() & (infinity - 1),
    };
    sign | magnitude
}

/// A generator of test bits (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[(self.next() % values.len() as u64) as usize]
    }
}

/// PTX of one kernel `k` with two 64-bit parameters, in `%rd1` and `%rd2`.
pub(crate) fn ptx(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p0, .param .u64 p1)\n{{\n\
         .reg .pred %p<20>;\n.reg .b16 %rs<40>;\n.reg .b32 %r<60>;\n.reg .b64 %rd<40>;\n\
         ld.param.u64 %rd1, [p0];\nld.param.u64 %rd2, [p1];\n{body}\nret;\n}}\n"
    )
}

pub(crate) fn kernel(text: &str) -> Kernel {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    module.kernel("k").expect("the kernel is named k")
}

/// Runs kernel `k` of `text` on words in and out; the latter are zeros at first.
pub(crate) fn run(text: &str, grid: [u32; 3], block: [u32; 3], input: &[u64], num_out: usize) -> Vec<u64> {
    let machine = Machine::new(1);
    let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (a, b) = (machine.allocate(bytes.len().max(8) as u64).unwrap(), machine.allocate(8 * num_out as u64).unwrap());
    machine.write(a, &bytes).unwrap();
    machine.fill(b, 0, 8 * num_out as u64).unwrap();
    let params: Vec<u8> = [a, b].iter().flat_map(|address| address.to_le_bytes()).collect();
    let launch = Launch { grid, block, cluster: [1; 3], shared_bytes: 0, params: &params };
    machine.launch(&kernel(text), launch).unwrap_or_else(|fault| panic!("{fault} in\n{text}"));
    let mut out = vec![0; 8 * num_out];
    machine.read(b, &mut out).unwrap();
    out.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

const THREADS: usize = 512;
/// Unguarded, guarded, and with half of the lanes elsewhere.
const VARIANTS: usize = 3;

/// Compares one instruction (or a few), with `$d` and `$e` for its results and `$0`, `$1`, ... for its operands, with a definition
/// that gets the operands' bits and returns those of the results.
pub(crate) fn check_all<const N: usize>(
    instruction: &str,
    results: [Kind; N],
    operands: &[Kind],
    define: impl Fn(&[u64]) -> [u64; N],
) {
    let seed = instruction.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = Random(seed);
    // A word for the guard, then what the results hold before, then the operands.
    let words = 1 + N + operands.len();
    let mut input = Vec::new();
    for _ in 0..THREADS {
        input.push(random.next() & 1);
        for kind in results.iter().chain(operands) {
            input.push(kind.pick(&mut random));
        }
    }
    let text = kernel_of(instruction, &results, operands);
    let out = run(&text, [1; 3], [THREADS as u32, 1, 1], &input, THREADS * VARIANTS * N);
    for (thread, (words, found)) in input.chunks(words).zip(out.chunks(VARIANTS * N)).enumerate() {
        let (before, operands) = words[1..].split_at(N);
        let defined = define(operands);
        for (variant, found) in found.chunks(N).enumerate() {
            let is_executed = [true, words[0] != 0, words[0] == 0][variant];
            for ((result, kind), (defined, before)) in found.iter().zip(results).zip(defined.iter().zip(before)) {
                let expected = kind.mask() & if is_executed { *defined } else { *before };
                assert_eq!(
                    *result, expected,
                    "{instruction}: {result:#x}, not {expected:#x}, of {operands:x?} (thread {thread}, variant {variant})"
                );
            }
        }
    }
}

/// As [`check_all`], for one result.
pub(crate) fn check(instruction: &str, result: Kind, operands: &[Kind], define: impl Fn(&[u64]) -> u64) {
    check_all(instruction, [result], operands, |operands| [define(operands)]);
}

fn kernel_of(instruction: &str, results: &[Kind], operands: &[Kind]) -> String {
    let num_words = 1 + results.len() + operands.len();
    let mut text = instruction.to_owned();
    let mut lines = String::from("mov.u32 %r50, %tid.x;\n");
    lines += &format!("mad.wide.u32 %rd1, %r50, {}, %rd1;\n", 8 * num_words);
    lines += &format!("mad.wide.u32 %rd2, %r50, {}, %rd2;\n", 8 * results.len() * VARIANTS);
    lines += "ld.global.u32 %r51, [%rd1];\nsetp.ne.u32 %p19, %r51, 0;\n";
    let load = |kind: Kind, number: usize, word: usize| match kind.register() {
        "b16" => format!("ld.global.b16 %rs{number}, [%rd1+{}];\n", 8 * word),
        "b32" => format!("ld.global.b32 %r{number}, [%rd1+{}];\n", 8 * word),
        "b64" => format!("ld.global.b64 %rd{}, [%rd1+{}];\n", 10 + number, 8 * word),
        _ => format!("ld.global.u32 %r52, [%rd1+{}];\nsetp.ne.u32 %p{number}, %r52, 0;\n", 8 * word),
    };
    let name = |kind: Kind, number: usize| match kind.register() {
        "b16" => format!("%rs{number}"),
        "b32" => format!("%r{number}"),
        "b64" => format!("%rd{}", 10 + number),
        _ => format!("%p{number}"),
    };
    // Operands have the numbers from 3 on, results 1 and 2.
    for (index, &kind) in operands.iter().enumerate() {
        lines += &load(kind, 3 + index, 1 + results.len() + index);
        text = text.replace(&format!("${index}"), &name(kind, 3 + index));
    }
    for (index, &kind) in results.iter().enumerate() {
        text = text.replace(["$d", "$e"][index], &name(kind, 1 + index));
    }
    for variant in 0..VARIANTS {
        for (index, &kind) in results.iter().enumerate() {
            lines += &load(kind, 1 + index, 1 + index);
        }
        lines += &match variant {
            0 => format!("{text}\n"),
            1 => text.split_inclusive(';').map(|statement| format!("@%p19 {}\n", statement.trim())).collect(),
            _ => format!("@%p19 bra SKIP;\n{text}\nSKIP:\n"),
        };
        for (index, &kind) in results.iter().enumerate() {
            let at = 8 * (variant * results.len() + index);
            lines += &match kind.register() {
                "pred" => format!("selp.u32 %r53, 1, 0, %p{};\nst.global.u32 [%rd2+{at}], %r53;\n", 1 + index),
                register => format!("st.global.{register} [%rd2+{at}], {};\n", name(kind, 1 + index)),
            };
        }
    }
    ptx(&lines)
}
