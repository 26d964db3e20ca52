//! What is not executed is refused by its name, before anything runs.

use cachalot_emulator::Module;

use crate::harness::ptx;

#[test]
fn instructions_that_are_not_executed() {
    for line in [
        "frobnicate.b32 %r1, %r2;",
        "add.rz.f64 %rd3, %rd4, %rd5;",
        "fma.rn.oob.f16x2 %r1, %r2, %r3, %r4;",
        "add.rn.f32x2 %rd3, %rd4, %rd5;",
        "prmt.b32.f4e %r1, %r2, %r3, %r4;",
        "lop3.or.b32 %r1|%p1, %r2, %r3, %r4, 0x80, %p2;",
        "max.f32 %r1, %r2, %r3, %r4;",
        "min.relu.u32 %r1, %r2, %r3;",
        "add.sat.u32 %r1, %r2, %r3;",
        "vabsdiff4.u32.u32.u32 %r1, %r2, %r3, %r4;",
        "cvt.rs.f16x2.f32 %r1, %r2, %r3, %r4;",
        "cvt.pack.sat.u8.s32.b32 %r1, %r2, %r3, %r4;",
        "cvt.rn.f32.q7 %r1, %r2;",
        "setp.eq.f16x2 %p1|%p2, %r1, %r2;",
        "set.eq.and.u32.f32 %r1, %r2, %r3, %p1;",
        "st.async.b32 [%r1], %r2;",
        "ld.global.b128 %rd3, [%rd4];",
        "atom.global.add.v2.f32 {%r1, %r2}, [%rd3], {%r4, %r5};",
        "atom.global.exch.b128 %rd3, [%rd4], %rd5;",
        "redux.sync.min.f32 %r1, %r2, -1;",
        "shfl.idx.b32 %r1, %r2, %r3, %r4;",
        "mov.u64 %rd3, %clock64;",
        "mov.u32 %r1, nowhere;",
        "mov.u32 %r1, %rd1;",
        "add.u64 %rd3, %r1, %rd4;",
        "add.u32 %r1, %r2;",
        "bra NOWHERE;",
        "call.uni elsewhere, ();",
        "ld.global.v2.u32 %r1, [%rd3];",
    ] {
        let message = match Module::parse(&ptx(line)) {
            Ok(_) => panic!("`{line}` is not refused"),
            Err(error) => error.to_string(),
        };
        // The instruction, its kernel and its line are named.
        let name = line.split([' ', ';']).next().unwrap();
        assert!(message.contains(name) && message.contains("`k`") && message.contains("line 12"), "{line}: {message}");
    }
}
