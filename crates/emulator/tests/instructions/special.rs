//! Registers that say where a thread is.

use crate::harness::{ptx, run};

#[test]
fn threads_know_their_place() {
    let names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%lanemask_eq",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_gt",
        "%lanemask_ge",
        "%cluster_ctarank",
        "%cluster_nctarank",
    ];
    let (grid, block) = ([3, 2, 4], [5, 3, 7]);
    let (num_blocks, num_threads) = (24, 105);
    // Places in the grid and the block, counted in the registers' own words.
    let mut body = String::from(
        "mov.u32 %r1, %ctaid.z;\nmov.u32 %r2, %ctaid.y;\nmad.lo.u32 %r1, %r1, 2, %r2;\nmov.u32 %r2, %ctaid.x;\n\
         mad.lo.u32 %r1, %r1, 3, %r2;\nmov.u32 %r3, %tid.z;\nmov.u32 %r2, %tid.y;\nmad.lo.u32 %r3, %r3, 3, %r2;\n\
         mov.u32 %r2, %tid.x;\nmad.lo.u32 %r3, %r3, 5, %r2;\nmad.lo.u32 %r1, %r1, 105, %r3;\n",
    );
    body += &format!("mad.wide.u32 %rd3, %r1, {}, %rd2;\n", 8 * names.len());
    for (index, name) in names.iter().enumerate() {
        body += &format!("mov.u32 %r4, {name};\nst.global.u32 [%rd3+{}], %r4;\n", 8 * index);
    }
    let out = run(&ptx(&body), grid, block, &[0], num_blocks * num_threads * names.len());
    for (place, found) in out.chunks(names.len()).enumerate() {
        let (block, thread) = ((place / num_threads) as u64, (place % num_threads) as u64);
        let lane = thread % 32;
        let below = (1 << lane) - 1;
        let expected = [
            thread % 5,
            thread / 5 % 3,
            thread / 15,
            5,
            3,
            7,
            block % 3,
            block / 3 % 2,
            block / 6,
            3,
            2,
            4,
            lane,
            thread / 32,
            4,
            1 << lane,
            below,
            below | 1 << lane,
            0xffff_ffff & !(below | 1 << lane),
            0xffff_ffff & !below,
            0,
            1,
        ];
        assert_eq!(found, expected, "block {block}, thread {thread}");
    }
}
