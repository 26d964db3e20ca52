//! Truth tables of comparisons, and `min` and `max` with NaN and zeros of both signs.

use super::super::Format;
use super::super::compare::*;

#[test]
fn comparisons() {
    use Comparison::*;
    // Whether they hold for less, equal, greater, NaN.
    for (comparison, expected) in [
        (Eq, [false, true, false, false]),
        (Ne, [true, false, true, false]),
        (Lt, [true, false, false, false]),
        (Le, [true, true, false, false]),
        (Gt, [false, false, true, false]),
        (Ge, [false, true, true, false]),
        (Equ, [false, true, false, true]),
        (Neu, [true, false, true, true]),
        (Ltu, [true, false, false, true]),
        (Leu, [true, true, false, true]),
        (Gtu, [false, false, true, true]),
        (Geu, [false, true, true, true]),
        (Num, [true, true, true, false]),
        (Nan, [false, false, false, true]),
    ] {
        for (format, one, two, nan) in [
            (Format::F32, 0x3f80_0000, 0x4000_0000, 0x7f80_0001),
            (Format::F64, 0x3ff0_0000_0000_0000, 0x4000_0000_0000_0000, 0xfff0_0000_0000_0001),
            (Format::F16, 0x3c00, 0x4000, 0xfe00),
            (Format::Bf16, 0x3f80, 0x4000, 0x7fff),
        ] {
            let holds = |a, b| compare(comparison, a, b, format, false);
            assert_eq!(
                [holds(one, two), holds(two, two), holds(two, one), holds(one, nan)],
                expected,
                "{comparison:?}"
            );
            assert_eq!([holds(nan, two), holds(nan, nan)], [expected[3]; 2], "{comparison:?} {format:?}");
            assert_eq!(holds(0, format.sign_mask()), expected[1], "{comparison:?} {format:?}: zeros are equal");
        }
    }
    assert!(compare(Gt, 1, 0, Format::F32, false));
    assert!(!compare(Gt, 1, 0, Format::F32, true));
}

#[test]
fn smaller_and_larger() {
    let plain = PickMode::default();
    for (format, one, inf, nan) in [
        (Format::F32, 0x3f80_0000, 0x7f80_0000, 0x7fff_ffff),
        (Format::F64, 0x3ff0_0000_0000_0000, 0x7ff0_0000_0000_0000, 0xfff8_0000_0000_0000),
        (Format::F16, 0x3c00, 0x7c00, 0x7fff),
        (Format::Bf16, 0x3f80, 0x7f80, 0x7fff),
    ] {
        let sign = format.sign_mask();
        let odd_nan = sign | inf | 1;
        for (a, b, min, max) in [
            (one, 0, 0, one),
            (one | sign, one, one | sign, one),
            (one | sign, inf | sign, inf | sign, one | sign),
            (sign, 0, sign, 0),
            (sign, sign, sign, sign),
            (1 | sign, sign, 1 | sign, sign),
            (inf, one, one, inf),
            (odd_nan, one, one, one),
            (odd_nan, odd_nan, nan, nan),
        ] {
            for (a, b) in [(a, b), (b, a)] {
                assert_eq!(pick(Pick::Min, a, b, format, plain), min, "min {a:#x} {b:#x} {format:?}");
                assert_eq!(pick(Pick::Max, a, b, format, plain), max, "max {a:#x} {b:#x} {format:?}");
            }
        }
        let strict = PickMode { nan: true, ..plain };
        assert_eq!(pick(Pick::Min, odd_nan, one, format, strict), nan);
        assert_eq!(pick(Pick::Max, one, odd_nan, format, strict), nan);
        assert_eq!(pick(Pick::Max, one, 0, format, strict), one);
        let xorsign = PickMode { xorsign_abs: true, ..plain };
        for (a, b, min, max) in [
            (one, inf | sign, one | sign, inf | sign),
            (one | sign, inf | sign, one, inf),
            (sign, 0, sign, sign),
            (odd_nan, one, one | sign, one | sign),
            (odd_nan, odd_nan, nan, nan),
        ] {
            assert_eq!(pick(Pick::Min, a, b, format, xorsign), min, "min {a:#x} {b:#x} {format:?}");
            assert_eq!(pick(Pick::Max, a, b, format, xorsign), max, "max {a:#x} {b:#x} {format:?}");
        }
    }
    let ftz = PickMode { ftz: true, ..plain };
    assert_eq!(pick(Pick::Min, 0x8000_0001, 1, Format::F32, ftz), 0x8000_0000);
    assert_eq!(pick(Pick::Max, 0x8000_0001, 1, Format::F32, ftz), 0);
}

#[test]
fn signs() {
    for (format, one) in
        [(Format::F16, 0x3c00), (Format::Bf16, 0x3f80), (Format::F32, 0x3f80_0000), (Format::F64, 1023 << 52)]
    {
        let minus = one | format.sign_mask();
        assert_eq!((abs(minus, format, false), abs(one, format, false)), (one, one));
        assert_eq!((neg(minus, format, false), neg(one, format, false)), (one, minus));
        let two = one + (one & one.wrapping_neg());
        assert_eq!(copysign(minus, two, format), two | format.sign_mask());
        assert_eq!(copysign(one, two | format.sign_mask(), format), two);
    }
    assert_eq!((abs(0x8000_0001, Format::F32, true), neg(1, Format::F32, true)), (0, 0x8000_0000));
}
