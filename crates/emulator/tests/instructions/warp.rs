//! What lanes do together: shuffles, votes, matches, reductions, and the reductions of barriers.

use crate::harness::{Random, ptx, run};

/// Runs 32 lanes: `%r1` is the lane's word of the input, `%r2` its number; the low and the high word of the output are
/// `%r10` and `%r11`.
fn warp(body: &str, input: &[u64]) -> Vec<[u64; 2]> {
    let body = format!(
        "mov.u32 %r2, %tid.x;\nmad.wide.u32 %rd3, %r2, 8, %rd1;\nmad.wide.u32 %rd4, %r2, 8, %rd2;\n\
         ld.global.v2.u32 {{%r1, %r3}}, [%rd3];\nmov.u32 %r10, 0;\nmov.u32 %r11, 0;\nmov.pred %p1, 0;\n{body}\n\
         st.global.v2.u32 [%rd4], {{%r10, %r11}};\n"
    );
    let out = run(&ptx(&body), [1; 3], [32, 1, 1], input, 32);
    out.iter().map(|word| [word & 0xffff_ffff, word >> 32]).collect()
}

/// A line that only the lanes in a mask execute.
fn masked(mask: u32, line: &str) -> String {
    format!(
        "shr.u32 %r20, {mask:#x}, %r2;\nand.b32 %r20, %r20, 1;\nsetp.eq.u32 %p5, %r20, 0;\n@%p5 bra SKIP;\n{line}\nSKIP:\n"
    )
}

const MASKS: [u32; 5] = [u32::MAX, 0xffff, 0xaaaa_aaaa, 0x8000_0001, 0x0ff0_0ff0];

fn random_words(seed: u64, f: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut random = Random(seed);
    (0..32).map(|_| f(random.next())).collect()
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> + Clone {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

#[test]
fn shuffles() {
    // Word: the value, and the lane or distance, larger than a warp in some lanes.
    let input = random_words(1, |bits| bits & 0x3f_ffff_ffff);
    for kind in ["up", "down", "bfly", "idx"] {
        for width in [32, 16, 8, 4, 2, 1] {
            for clamp in if kind == "up" { [0, 3] } else { [31, 5] } {
                for mask in MASKS {
                    let c = (32 - width) << 8 | clamp;
                    let line = format!(
                        "shfl.sync.{kind}.b32 %r10|%p1, %r1, %r3, {c:#x}, {mask:#x};\nselp.u32 %r11, 1, 0, %p1;"
                    );
                    let out = warp(&masked(mask, &line), &input);
                    for lane in lanes(mask) {
                        // The pseudo-code of the PTX ISA.
                        let (b, segment, at) = ((input[lane] >> 32) as i32 & 31, 32 - width, lane as i32);
                        let last = at & segment | clamp & !segment;
                        let (from, holds) = match kind {
                            "up" => (at - b, at - b >= last),
                            "down" => (at + b, at + b <= last),
                            "bfly" => (at ^ b, at ^ b <= last),
                            _ => (at & segment | b & !segment, at & segment | b & !segment <= last),
                        };
                        let from = if holds { from as usize } else { lane };
                        assert_eq!(out[lane][1], holds.into(), "{kind} {c:#x} {mask:#x} lane {lane}");
                        if mask >> from & 1 != 0 {
                            let value = input[from] & 0xffff_ffff;
                            assert_eq!(out[lane][0], value, "{kind} {c:#x} {mask:#x} lane {lane}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn votes() {
    for (seed, allowed) in [(1, 3), (2, 0), (3, 1)] {
        // All, none and some hold.
        let input = random_words(seed, |bits| match allowed {
            0 => 0,
            1 => 1,
            _ => bits & 1,
        });
        for mask in MASKS {
            for not in ["", "!"] {
                let held = lanes(mask)
                    .filter(|&lane| (input[lane] != 0) != (not == "!"))
                    .fold(0, |bits, lane| bits | 1 << lane);
                let cases = [("all", held == mask), ("any", held != 0), ("uni", held == mask || held == 0)];
                for (name, holds) in cases {
                    let line = format!(
                        "setp.ne.u32 %p2, %r1, 0;\nvote.sync.{name}.pred %p1, {not}%p2, {mask:#x};\nselp.u32 %r10, 1, 0, %p1;"
                    );
                    let out = warp(&masked(mask, &line), &input);
                    assert!(lanes(mask).all(|lane| out[lane][0] == holds.into()), "{name} {not} {mask:#x}");
                }
                let line = format!("setp.ne.u32 %p2, %r1, 0;\nvote.sync.ballot.b32 %r10, {not}%p2, {mask:#x};");
                let out = warp(&masked(mask, &line), &input);
                assert!(lanes(mask).all(|lane| out[lane][0] == held.into()), "ballot {not} {mask:#x}");
            }
        }
    }
}

#[test]
fn matches() {
    for (seed, range) in [(1, 3), (2, 1), (3, u64::MAX)] {
        let input = random_words(seed, |bits| ((bits % range) << 32) | (bits % range));
        for mask in MASKS {
            for (name, operand) in [("b32", "%r1"), ("b64", "%rd6")] {
                let same = |lane: usize| {
                    lanes(mask)
                        .filter(|&other| input[other] == input[lane])
                        .fold(0_u64, |bits, other| bits | 1 << other)
                };
                let any = format!("mov.b64 %rd6, {{%r1, %r3}};\nmatch.any.sync.{name} %r10, {operand}, {mask:#x};");
                let out = warp(&masked(mask, &any), &input);
                assert!(lanes(mask).all(|lane| out[lane][0] == same(lane)), "any.{name} {mask:#x}");
                let all = format!(
                    "mov.b64 %rd6, {{%r1, %r3}};\nmatch.all.sync.{name} %r10|%p1, {operand}, {mask:#x};\nselp.u32 %r11, 1, 0, %p1;"
                );
                let out = warp(&masked(mask, &all), &input);
                let are_equal = lanes(mask).all(|lane| same(lane) == mask.into());
                let expected = if are_equal { [mask.into(), 1] } else { [0, 0] };
                assert!(lanes(mask).all(|lane| out[lane] == expected), "all.{name} {mask:#x}");
            }
        }
    }
}

#[test]
fn reductions() {
    type Fold = fn(u32, u32) -> u32;
    let cases: [(&str, Fold); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (name, fold) in cases {
        for mask in MASKS {
            // Few bits are set in some lanes and few are not in others, so that `and` and `or` are not trivial.
            let input = random_words(
                mask.into(),
                |bits| if bits >> 63 != 0 { bits | 0xffff_fff0 } else { bits & 0x8000_00ff } & 0xffff_ffff,
            );
            let out = warp(&masked(mask, &format!("redux.sync.{name} %r10, %r1, {mask:#x};")), &input);
            let expected = lanes(mask).map(|lane| input[lane] as u32).reduce(fold).unwrap();
            assert!(lanes(mask).all(|lane| out[lane][0] == expected.into()), "{name} {mask:#x}");
        }
    }
}

#[test]
fn one_lane_is_elected_and_the_active_ones_are_known() {
    for mask in MASKS {
        let line = format!("elect.sync %r10|%p1, {mask:#x};\nselp.u32 %r11, 1, 0, %p1;");
        let out = warp(&masked(mask, &line), &[0; 32]);
        // Which lane it is is not said, only that it is one and always the same.
        let leader = out[mask.trailing_zeros() as usize][0];
        assert_eq!(mask >> leader & 1, 1, "{mask:#x}");
        assert!(lanes(mask).all(|lane| out[lane] == [leader, u64::from(lane as u64 == leader)]), "{mask:#x}");
        let out = warp(&masked(mask, "activemask.b32 %r10;"), &[0; 32]);
        assert!(lanes(mask).all(|lane| out[lane][0] == mask.into()), "{mask:#x}");
        assert!(lanes(!mask).all(|lane| out[lane] == [0, 0]), "{mask:#x}");
    }
}

#[test]
fn barriers_reduce() {
    // 96 threads of which some hold; the barrier of another number of threads leaves the third warp out.
    for (seed, keep) in [(1, 1), (2, 0), (3, 2)] {
        let input: Vec<u64> = {
            let mut random = Random(seed);
            (0..96).map(|_| [random.next() & 1, 0, 1][((keep + 2) % 3) as usize]).collect()
        };
        for (barrier, threads) in [("3", 96), ("3, 64", 64)] {
            let body = format!(
                "mov.u32 %r2, %tid.x;\nmad.wide.u32 %rd3, %r2, 8, %rd1;\nmad.wide.u32 %rd4, %r2, 24, %rd2;\n\
                 ld.global.u32 %r1, [%rd3];\nsetp.ne.u32 %p2, %r1, 0;\nsetp.ge.u32 %p3, %r2, {threads};\n@%p3 bra SKIP;\n\
                 bar.red.popc.u32 %r10, {barrier}, %p2;\nbar.red.and.pred %p4, {barrier}, !%p2;\n\
                 barrier.cta.red.or.pred %p5, {barrier}, %p2;\nselp.u32 %r11, 1, 0, %p4;\nselp.u32 %r12, 1, 0, %p5;\n\
                 st.global.u32 [%rd4], %r10;\nst.global.u32 [%rd4+8], %r11;\nst.global.u32 [%rd4+16], %r12;\nSKIP:\n"
            );
            let out = run(&ptx(&body), [1; 3], [96, 1, 1], &input, 3 * 96);
            let held = input[..threads].iter().filter(|&&word| word != 0).count() as u64;
            let expected = [held, u64::from(held == 0), u64::from(held != 0)];
            assert!(
                out.chunks(3).take(threads).all(|found| found == expected),
                "{barrier}: {expected:?} {:?}",
                &out[..3]
            );
        }
    }
}
