//! Functions of CUDA C++ as nvcc compiles them, within the errors that NVIDIA documents.
//!
//! Source of the bounds: CUDA C++ Programming Guide 13.0, Mathematical Functions, in units of the last place.

use cachalot_emulator::{Launch, Machine, Module};
use cachalot_nvcc::{Nvcc, Options};

use crate::exact::{BF16, E4M3, F16, F32, Rounding, quotient, sum};
use crate::harness::{Kind, Random};

const THREADS: u32 = 512;

const SHORT_FORMATS: &str = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n#include <cuda_fp8.h>\n";
const GROUPS: &str = "#include <cooperative_groups.h>\n";

/// One compilation of many expressions of `x` and `y`.
struct Page(Module);

impl Page {
    /// Each expression with the type of its operands and its result.
    fn new<'a>(headers: &str, expressions: impl Iterator<Item = (&'a str, &'a str)>) -> Page {
        let mut text = headers.to_owned();
        for (index, (kind, expression)) in expressions.enumerate() {
            text += &format!(
                "static __device__ {kind} f{index}({kind} x, {kind} y) {{ return {expression}; }}\n\
                 extern \"C\" __global__ void k{index}(const {kind}* a, const {kind}* b, {kind}* d) {{\n\
                 int i = threadIdx.x;\nd[i] = f{index}(a[i], b[i]);\n}}\n"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("page.cu");
        std::fs::write(&source, text).unwrap();
        let ptx = Nvcc::find().unwrap().ptx(&source, "90a", &Options::default()).unwrap();
        Page(Module::parse(&ptx).unwrap())
    }

    /// Values of the expression with this place, whose type has `bytes`.
    fn run(&self, index: usize, [a, b]: [&[u64]; 2], bytes: usize) -> Vec<u64> {
        let machine = Machine::new(1);
        let [a, b] = [a, b].map(|words| {
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()[..bytes].to_vec()).collect();
            let address = machine.allocate(data.len() as u64).unwrap();
            machine.write(address, &data).unwrap();
            address
        });
        let mut out = vec![0; THREADS as usize * bytes];
        let d = machine.allocate(out.len() as u64).unwrap();
        let params: Vec<u8> = [a, b, d].iter().flat_map(|address| address.to_le_bytes()).collect();
        let launch = Launch { grid: [1; 3], block: [THREADS, 1, 1], cluster: [1; 3], shared_bytes: 0, params: &params };
        let kernel = self.0.kernel(&format!("k{index}")).unwrap();
        machine.launch(&kernel, launch).unwrap_or_else(|fault| panic!("{fault}"));
        machine.read(d, &mut out).unwrap();
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        out.chunks(bytes).map(word).collect()
    }
}

/// A number of either sign with a magnitude from 10^`low` to 10^`high`; positive only where `low` and `high` are given
/// for a function that has no other operands.
fn number(random: &mut Random, [low, high]: [f64; 2], is_positive: bool) -> f64 {
    let unit = random.next() as f64 / u64::MAX as f64;
    let magnitude = 10_f64.powf(low + (high - low) * unit);
    if is_positive || random.next() & 1 == 0 { magnitude } else { -magnitude }
}

/// The error function by its series, good to 1e-9 below 4.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return 1_f64.copysign(x);
    }
    let (mut term, mut total) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        total += term / f64::from(2 * n + 1);
    }
    total * std::f64::consts::FRAC_2_SQRT_PI
}

type Function = fn(f64, f64) -> f64;

/// Expression, error, decimal exponents of the operands, whether they are positive, definition.
const OF_F32: [(&str, f64, [f64; 2], bool, Function); 46] = [
    ("sinf(x)", 2.0, [-3.0, 30.0], false, |x, _| x.sin()),
    ("cosf(x)", 2.0, [-3.0, 30.0], false, |x, _| x.cos()),
    ("tanf(x)", 4.0, [-3.0, 5.0], false, |x, _| x.tan()),
    ("({ float s, c; sincosf(x, &s, &c); y < 0 ? s : c; })", 2.0, [-3.0, 6.0], false, |x, y| {
        if y < 0.0 { x.sin() } else { x.cos() }
    }),
    ("sinpif(x)", 2.0, [-3.0, 1.0], false, |x, _| ((x % 2.0) * std::f64::consts::PI).sin()),
    ("expf(x)", 2.0, [-6.0, 2.1], false, |x, _| x.exp()),
    ("exp2f(x)", 2.0, [-6.0, 2.2], false, |x, _| x.exp2()),
    ("exp10f(x)", 2.0, [-6.0, 1.6], false, |x, _| 10_f64.powf(x)),
    ("expm1f(x)", 1.0, [-6.0, 2.0], false, |x, _| x.exp_m1()),
    ("logf(x)", 1.0, [-44.0, 38.0], true, |x, _| x.ln()),
    ("log2f(x)", 1.0, [-44.0, 38.0], true, |x, _| x.log2()),
    ("log10f(x)", 2.0, [-44.0, 38.0], true, |x, _| x.log10()),
    ("log1pf(x)", 1.0, [-9.0, 38.0], true, |x, _| x.ln_1p()),
    ("logf(x)", 1.0, [-1.0, 0.0], false, |x, _| x.ln()),
    ("powf(x, y)", 4.0, [-3.0, 1.5], true, f64::powf),
    ("powf(x, rintf(y))", 4.0, [-1.0, 1.0], false, |x, y| x.powf(y.round_ties_even())),
    ("tanhf(x)", 2.0, [-6.0, 2.0], false, |x, _| x.tanh()),
    ("sinhf(x)", 3.0, [-6.0, 1.9], false, |x, _| x.sinh()),
    ("coshf(x)", 2.0, [-6.0, 1.9], false, |x, _| x.cosh()),
    ("atanf(x)", 2.0, [-6.0, 10.0], false, |x, _| x.atan()),
    ("atan2f(x, y)", 3.0, [-6.0, 6.0], false, f64::atan2),
    ("asinf(x)", 2.0, [-6.0, 0.1], false, |x, _| x.asin()),
    ("erff(x)", 2.0, [-3.0, 1.0], false, |x, _| erf(x)),
    ("normcdff(x)", 5.0, [-3.0, 0.2], false, |x, _| 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))),
    ("cbrtf(x)", 1.0, [-30.0, 30.0], false, |x, _| x.cbrt()),
    ("hypotf(x, y)", 3.0, [-3.0, 30.0], false, f64::hypot),
    ("rsqrtf(x)", 2.0, [-30.0, 30.0], true, |x, _| 1.0 / x.sqrt()),
    ("sqrtf(x)", 0.0, [-44.0, 38.0], true, |x, _| x.sqrt()),
    ("x / y", 0.0, [-3.0, 3.0], false, |x, y| x / y),
    ("1.0f / x", 0.0, [-38.0, 38.0], false, |x, _| 1.0 / x),
    ("__fdividef(x, y)", 2.0, [-3.0, 3.0], false, |x, y| x / y),
    ("fmodf(x, y)", 0.0, [-3.0, 10.0], false, |x, y| x % y),
    ("remainderf(x, y)", 0.0, [-1.0, 1.0], false, |x, y| x - (x / y).round_ties_even() * y),
    ("floorf(x)", 0.0, [-3.0, 12.0], false, |x, _| x.floor()),
    ("ceilf(x)", 0.0, [-3.0, 12.0], false, |x, _| x.ceil()),
    ("roundf(x)", 0.0, [-1.0, 9.0], false, |x, _| x.round()),
    ("rintf(x)", 0.0, [-1.0, 9.0], false, |x, _| x.round_ties_even()),
    ("truncf(x)", 0.0, [-3.0, 12.0], false, |x, _| x.trunc()),
    ("fmaxf(x, fminf(y, 2.f))", 0.0, [-1.0, 1.0], false, |x, y| x.max(y.min(2.0))),
    ("copysignf(x, y)", 0.0, [-1.0, 1.0], false, f64::copysign),
    ("ldexpf(x, 3)", 0.0, [-3.0, 10.0], false, |x, _| x * 8.0),
    ("__saturatef(x)", 0.0, [-3.0, 2.0], false, |x, _| x.clamp(0.0, 1.0)),
    ("fdimf(x, y)", 0.0, [-3.0, 2.0], false, |x, y| (x - y).max(0.0)),
    ("1.f / (1.f + expf(-x))", 4.0, [-3.0, 1.5], false, |x, _| 1.0 / (1.0 + (-x).exp())),
    ("__expf(x)", 2.0 + 1.173 * 80.0, [-3.0, 1.9], false, |x, _| x.exp()),
    ("(float)(double)x * 3.0", 0.0, [-3.0, 3.0], false, |x, _| x * 3.0),
];

#[test]
fn math_functions_of_f32() {
    let page = Page::new("", OF_F32.iter().map(|case| ("float", case.0)));
    for (index, (expression, bound, exponents, is_positive, define)) in OF_F32.into_iter().enumerate() {
        let mut random = Random(index as u64);
        let mut operand = || -> Vec<u64> {
            (0..THREADS).map(|_| u64::from((number(&mut random, exponents, is_positive) as f32).to_bits())).collect()
        };
        let (a, b) = (operand(), operand());
        let out = page.run(index, [&a, &b], 4);
        for ((&x, &y), &found) in a.iter().zip(&b).zip(&out) {
            let exact = f64::from(define(F32.value(x), F32.value(y)) as f32);
            check_error(
                expression,
                [F32.value(x), F32.value(y)],
                F32.value(found),
                exact,
                bound,
                (-126, 23, f32::MAX.into()),
            );
        }
    }
}

/// `found` is within `bound` units in the last place of `exact`, the rounded exact value; the format has a least exponent,
/// fraction bits and a maximum.
fn check_error(
    name: &str,
    operands: [f64; 2],
    found: f64,
    exact: f64,
    bound: f64,
    (least, digits, max): (i32, i32, f64),
) {
    let exponent = ((exact.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least);
    let error = (found - exact).abs() / (2_f64.powi(exponent) * 2_f64.powi(-digits));
    // A value at the edge of the format may be the largest or infinite.
    let overflows = exact.abs() >= max && found.abs() >= max && found.is_sign_negative() == exact.is_sign_negative();
    let is_good = error <= bound || overflows || found.is_nan() && exact.is_nan();
    assert!(is_good, "{name} of {operands:?} is {found:e}, not {exact:e}: {error} units in the last place");
}

/// Division and remainder of integers, bytes, and the intrinsics: exact.
#[test]
fn integer_functions() {
    type Define = fn(i128, i128) -> i128;
    let cases: [(&str, &str, Define); 40] = [
        ("int", "y ? x / y : 0", |x, y| if y == 0 { 0 } else { x / y }),
        ("int", "y ? x % y : 0", |x, y| if y == 0 { 0 } else { x % y }),
        ("int", "x / 7", |x, _| x / 7),
        ("unsigned", "x / 7", |x, _| x / 7),
        ("unsigned", "y ? x / y : 0", |x, y| if y == 0 { 0 } else { x / y }),
        ("unsigned", "x % 10", |x, _| x % 10),
        ("long long", "y ? x / y : 0", |x, y| if y == 0 { 0 } else { x / y }),
        ("long long", "y ? x % y : 0", |x, y| if y == 0 { 0 } else { x % y }),
        ("unsigned long long", "y ? x / y : 0", |x, y| if y == 0 { 0 } else { x / y }),
        ("unsigned long long", "x % 1000", |x, _| x % 1000),
        ("short", "x * y + 3", |x, y| x * y + 3),
        ("signed char", "x - y", |x, y| x - y),
        ("unsigned char", "x >> (y & 7)", |x, y| x >> (y & 7)),
        ("int", "__mulhi(x, y)", |x, y| (x * y) >> 32),
        ("unsigned", "__umulhi(x, y)", |x, y| (x * y) >> 32),
        ("long long", "__mul64hi(x, y)", |x, y| (x * y) >> 64),
        ("unsigned", "__funnelshift_l(x, y, 5)", |x, y| y << 5 | x >> 27),
        ("unsigned", "__funnelshift_r(x, y, 5)", |x, y| y << 27 | x >> 5),
        ("unsigned", "x << 13 | x >> 19", |x, _| i128::from((x as u32).rotate_left(13))),
        ("unsigned", "__byte_perm(x, y, 0x2531)", |x, y| {
            let bytes = y << 32 | x;
            (bytes >> 8 & 255) | (bytes >> 24 & 255) << 8 | (bytes >> 40 & 255) << 16 | (bytes >> 16 & 255) << 24
        }),
        ("unsigned", "__brev(x)", |x, _| (x as u32).reverse_bits().into()),
        ("unsigned", "__clz(x)", |x, _| (x as u32).leading_zeros().into()),
        ("unsigned", "__ffs(x)", |x, _| if x == 0 { 0 } else { i128::from((x as u32).trailing_zeros() + 1) }),
        (
            "unsigned long long",
            "__ffsll(x)",
            |x, _| if x == 0 { 0 } else { i128::from((x as u64).trailing_zeros() + 1) },
        ),
        ("unsigned long long", "__popcll(x)", |x, _| (x as u64).count_ones().into()),
        ("int", "__sad(x, y, 3)", |x, y| (x - y).abs() + 3),
        ("int", "__hadd(x, y)", |x, y| (x + y) >> 1),
        ("int", "__rhadd(x, y)", |x, y| (x + y + 1) >> 1),
        ("int", "abs(x)", |x, _| x.abs()),
        ("int", "min(x, max(y, -4))", |x, y| x.min(y.max(-4))),
        ("long long", "llabs(x)", |x, _| x.abs()),
        ("int", "__vimax3_s32(x, y, 3)", |x, y| x.max(y).max(3)),
        ("int", "__vimax_s32_relu(x, y)", |x, y| x.max(y).max(0)),
        ("int", "__viaddmax_s32(x, y, 3)", |x, y| i128::from((x as i32).wrapping_add(y as i32)).max(3)),
        ("int", "__dp4a(x, y, 7)", |x, y| {
            7 + (0..4).map(|at| i128::from((x >> (8 * at)) as i8) * i128::from((y >> (8 * at)) as i8)).sum::<i128>()
        }),
        ("int", "__dp2a_hi(x, y, 7)", |x, y| {
            7 + (0..2)
                .map(|at| i128::from((x >> (16 * at)) as i16) * i128::from((y >> (16 + 8 * at)) as i8))
                .sum::<i128>()
        }),
        ("unsigned", "__vmaxs2(x, y)", |x, y| {
            let half = |at: i32| i128::from(((x >> at) as i16).max((y >> at) as i16) as u16);
            half(0) | half(16) << 16
        }),
        ("long long", "(long long)(((__int128)x * y) >> 40)", |x, y| (x * y) >> 40),
        ("unsigned long long", "(unsigned long long)(((unsigned __int128)x << 40 | y) / (y | 1))", |x, y| {
            (x << 40 | y) / (y | 1)
        }),
        ("long long", "(long long)(((__int128)x + y) >> 1)", |x, y| (x + y) >> 1),
    ];
    let page = Page::new("", cases.iter().map(|case| (case.0, case.1)));
    for (index, (kind, expression, define)) in cases.into_iter().enumerate() {
        let (bits, is_signed) = match kind {
            "signed char" => (8, true),
            "unsigned char" => (8, false),
            "short" => (16, true),
            "int" => (32, true),
            "unsigned" => (32, false),
            "long long" => (64, true),
            _ => (64, false),
        };
        let mask = u64::MAX >> (64 - bits);
        let mut random = Random(index as u64);
        let mut operand = || -> Vec<u64> { (0..THREADS).map(|_| Kind::I64.pick(&mut random) & mask).collect() };
        let (a, b) = (operand(), operand());
        let out = page.run(index, [&a, &b], bits / 8);
        for ((&x, &y), &found) in a.iter().zip(&b).zip(&out) {
            let value = |x: u64| {
                if is_signed && x >> (bits - 1) != 0 { i128::from(x) - (1 << bits) } else { i128::from(x) }
            };
            assert_eq!(found, define(value(x), value(y)) as u64 & mask, "{kind} {expression} of {x:#x}, {y:#x}");
        }
    }
}

/// Functions of f64 that are not calls.
#[test]
fn math_functions_of_f64() {
    let cases: [(&str, f64, [f64; 2], bool, Function); 10] = [
        ("exp(x)", 1.0, [-6.0, 2.8], false, |x, _| x.exp()),
        ("log(x)", 1.0, [-300.0, 300.0], true, |x, _| x.ln()),
        ("tanh(x)", 2.0, [-6.0, 2.0], false, |x, _| x.tanh()),
        ("sqrt(x)", 0.0, [-300.0, 300.0], true, |x, _| x.sqrt()),
        ("rsqrt(x)", 1.0, [-300.0, 300.0], true, |x, _| 1.0 / x.sqrt()),
        ("x / y", 0.0, [-100.0, 100.0], false, |x, y| x / y),
        ("fmod(x, y)", 0.0, [-1.0, 5.0], false, |x, y| x % y),
        ("floor(x)", 0.0, [-3.0, 18.0], false, |x, _| x.floor()),
        ("(double)(long long)x + (double)(unsigned)fabs(y)", 0.0, [0.0, 9.0], false, |x, y| {
            x.trunc() + y.abs().trunc()
        }),
        ("fma(x, y, 1.0)", 0.0, [-3.0, 3.0], false, |x, y| x.mul_add(y, 1.0)),
    ];
    let page = Page::new("", cases.iter().map(|case| ("double", case.0)));
    for (index, (expression, bound, exponents, is_positive, define)) in cases.into_iter().enumerate() {
        let mut random = Random(index as u64);
        let mut operand =
            || -> Vec<u64> { (0..THREADS).map(|_| number(&mut random, exponents, is_positive).to_bits()).collect() };
        let (a, b) = (operand(), operand());
        let out = page.run(index, [&a, &b], 8);
        for ((&x, &y), &found) in a.iter().zip(&b).zip(&out) {
            let operands = [f64::from_bits(x), f64::from_bits(y)];
            let exact = define(operands[0], operands[1]);
            // The definition is itself off by up to one unit where it is not exact.
            let own = if bound > 0.0 { 1.0 } else { 0.0 };
            check_error(expression, operands, f64::from_bits(found), exact, bound + own, (-1022, 52, f64::MAX));
        }
    }
}

/// The short formats: operators and intrinsics of the CUDA headers, all rounded once.
#[test]
fn functions_of_short_formats() {
    type Define = fn(u64, u64) -> u64;
    const NEAREST: Rounding = Rounding::Nearest;
    let cases: [(&str, &str, Kind, Define); 20] = [
        ("__half", "x + y", Kind::F16, |x, y| F16.round(sum(F16.value(x), F16.value(y)), NEAREST)),
        ("__half", "x * y", Kind::F16, |x, y| F16.round((F16.value(x) * F16.value(y), 0.0), NEAREST)),
        ("__half", "x / y", Kind::F16, |x, y| F16.round(quotient(F16.value(x), F16.value(y)), NEAREST)),
        ("__half", "__hfma(x, y, x)", Kind::F16, |x, y| {
            F16.round(sum(F16.value(x) * F16.value(y), F16.value(x)), NEAREST)
        }),
        ("__half", "x < y ? x : y", Kind::F16, |x, y| if F16.value(x) < F16.value(y) { x } else { y }),
        ("__half", "__hmax_nan(x, x)", Kind::F16, |x, _| if F16.value(x).is_nan() { F16.nan } else { x }),
        ("__half", "hfloor(x)", Kind::F16, |x, _| F16.round((F16.value(x).floor(), 0.0), NEAREST)),
        ("__half", "__int2half_rn(__half2int_rz(x))", Kind::F16, |x, _| {
            let value = F16.value(x);
            F16.round((f64::from(value as i32), 0.0), NEAREST)
        }),
        ("__half", "__heq(x, y) || __hisnan(x) ? __half(1.f) : __half(2.f)", Kind::F16, |x, y| {
            if F16.value(x) == F16.value(y) || F16.value(x).is_nan() { 0x3c00 } else { 0x4000 }
        }),
        ("__half2", "__hgt2(x, y)", Kind::F16x2, |x, y| {
            by_half(x, y, |x, y| if F16.value(x) > F16.value(y) { 0x3c00 } else { 0 })
        }),
        ("__half2", "__hadd2(x, y)", Kind::F16x2, |x, y| {
            by_half(x, y, |x, y| F16.round(sum(F16.value(x), F16.value(y)), NEAREST))
        }),
        ("__nv_bfloat16", "x + y", Kind::Bf16, |x, y| BF16.round(sum(BF16.value(x), BF16.value(y)), NEAREST)),
        ("__nv_bfloat16", "x * y", Kind::Bf16, |x, y| BF16.round((BF16.value(x) * BF16.value(y), 0.0), NEAREST)),
        ("__nv_bfloat16", "x == y ? x : y", Kind::Bf16, |x, y| if BF16.value(x) == BF16.value(y) { x } else { y }),
        ("__nv_bfloat16", "__float2bfloat16_rz(__bfloat162float(x) * 3.f)", Kind::Bf16, |x, _| {
            let product = F32.round((BF16.value(x) * 3.0, 0.0), NEAREST);
            BF16.round((F32.value(product), 0.0), Rounding::Zero)
        }),
        ("__nv_bfloat162", "__hgt2(x, y)", Kind::Bf16x2, |x, y| {
            by_half(x, y, |x, y| if BF16.value(x) > BF16.value(y) { 0x3f80 } else { 0 })
        }),
        ("__nv_bfloat162", "__hfma2_relu(x, y, x)", Kind::Bf16x2, |x, y| {
            by_half(x, y, |x, y| {
                let bits = BF16.round(sum(BF16.value(x) * BF16.value(y), BF16.value(x)), NEAREST);
                if BF16.value(bits) <= 0.0 { 0 } else { bits }
            })
        }),
        ("__nv_bfloat162", "__floats2bfloat162_rn(__low2float(y), __high2float(x))", Kind::Bf16x2, |x, y| {
            let clean = |bits| if BF16.value(bits).is_nan() { BF16.nan } else { bits };
            clean(y & 0xffff) | clean(x >> 16) << 16
        }),
        ("__half", "__half(__nv_fp8_e4m3(x))", Kind::F16, |x, _| {
            let value = F16.value(x);
            let bits = E4M3.round((value, 0.0), NEAREST);
            let is_beyond = bits & 0x7f > E4M3.max && !value.is_nan();
            let bits = if is_beyond { bits & 0x80 | E4M3.max } else { bits };
            F16.round((E4M3.value(bits), 0.0), NEAREST)
        }),
        ("__half2", "__hmin2(x, x)", Kind::F16x2, |x, _| {
            by_half(x, x, |x, _| if F16.value(x).is_nan() { F16.nan } else { x })
        }),
    ];
    let page = Page::new(SHORT_FORMATS, cases.iter().map(|case| (case.0, case.1)));
    for (index, (kind_name, expression, kind, define)) in cases.into_iter().enumerate() {
        let bytes = kind.mask().count_ones() as usize / 8;
        let mut random = Random(index as u64);
        let mut operand = || -> Vec<u64> { (0..THREADS).map(|_| kind.pick(&mut random)).collect() };
        let (a, b) = (operand(), operand());
        let out = page.run(index, [&a, &b], bytes);
        for ((&x, &y), &found) in a.iter().zip(&b).zip(&out) {
            assert_eq!(found, define(x, y), "{kind_name} {expression} of {x:#x}, {y:#x}");
        }
    }
}

fn by_half(x: u64, y: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    f(x & 0xffff, y & 0xffff) | f(x >> 16, y >> 16) << 16
}

/// Warps and blocks by the functions of CUDA C++ and of cooperative groups.
#[test]
fn groups_of_threads() {
    type Define = fn(&[u64], usize) -> u64;
    let cases: [(&str, Define); 5] = [
        (
            "({ auto tile = cooperative_groups::tiled_partition<32>(cooperative_groups::this_thread_block()); unsigned s = x; \
             for (int k = 16; k; k /= 2) s += tile.shfl_xor(s, k); s + tile.thread_rank(); })",
            |x, thread| x[thread / 32 * 32..][..32].iter().sum::<u64>() + thread as u64 % 32,
        ),
        (
            "({ unsigned r = 99; if (x & 1) { auto some = cooperative_groups::coalesced_threads(); \
             r = some.thread_rank() * 100 + some.size(); } r; })",
            |x, thread| {
                let warp = &x[thread / 32 * 32..][..32];
                let odd = |words: &[u64]| words.iter().filter(|&&word| word & 1 != 0).count() as u64;
                if x[thread] & 1 != 0 { odd(&warp[..thread % 32]) * 100 + odd(warp) } else { 99 }
            },
        ),
        ("__reduce_max_sync(~0u, x) + (unsigned)__syncthreads_count(x & 1)", |x, thread| {
            let odd = x.iter().filter(|&&word| word & 1 != 0).count() as u64;
            x[thread / 32 * 32..][..32].iter().max().unwrap() + odd
        }),
        ("__shfl_up_sync(~0u, x, 1, 16)", |x, thread| x[if thread % 16 == 0 { thread } else { thread - 1 }]),
        ("__popc(__ballot_sync(~0u, x > 500)) + __popc(__match_any_sync(~0u, x & 3))", |x, thread| {
            let warp = &x[thread / 32 * 32..][..32];
            let large = warp.iter().filter(|&&word| word > 500).count();
            (large + warp.iter().filter(|&&word| word & 3 == x[thread] & 3).count()) as u64
        }),
    ];
    let page = Page::new(GROUPS, cases.iter().map(|case| ("unsigned", case.0)));
    let mut random = Random(1);
    let input: Vec<u64> = (0..THREADS).map(|_| random.next() % 1000).collect();
    for (index, (expression, define)) in cases.into_iter().enumerate() {
        let out = page.run(index, [&input, &input], 4);
        for (thread, &found) in out.iter().enumerate() {
            assert_eq!(found, define(&input, thread), "{expression} in thread {thread}");
        }
    }
}
