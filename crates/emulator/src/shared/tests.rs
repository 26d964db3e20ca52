use super::conflict::Earlier;
use super::*;
use crate::clocks::VectorClock;
use crate::fault::Misuse;

mod model;

const ALL: u32 = u32::MAX;
/// An asynchronous thread.
const COPIES: usize = 5;

fn who(warp: u16, lane: u8) -> Who {
    Who { warp, lane, site: 100 * u32::from(warp) + u32::from(lane) }
}

/// A block of two warps with 64 bytes of shared memory.
struct Block {
    memory: SharedMemory,
    clocks: Clocks,
}

impl Block {
    fn new() -> Block {
        let mut block = Block { memory: SharedMemory::default(), clocks: Clocks::default() };
        block.memory.reset(64);
        block.clocks.reset(2);
        block
    }

    /// A block whose bytes are all 0x11, written before a barrier.
    fn written() -> Block {
        let mut block = Block::new();
        (0..4).for_each(|i| block.write(who(0, 0), 16 * i, &[0x11; 16]).unwrap());
        block.clocks.proxy_fence(0, ALL);
        block.barrier();
        block
    }

    fn barrier(&mut self) {
        let mut barrier = VectorClock::default();
        (0..2).for_each(|warp| self.clocks.release(warp, ALL, &mut barrier));
        (0..2).for_each(|warp| self.clocks.acquire(warp, ALL, &barrier));
    }

    fn read(&mut self, who: Who, offset: u32, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; len];
        self.memory.read(who, &self.clocks, offset, &mut out).map(|()| out)
    }

    fn write(&mut self, who: Who, offset: u32, bytes: &[u8]) -> Result<()> {
        self.memory.write(who, &self.clocks, offset, bytes)
    }

    fn add(&mut self, who: Who, offset: u32, len: usize, more: u64) -> Result<u64> {
        self.memory.atomic(who, &self.clocks, offset, len, |old| old.wrapping_add(more))
    }

    fn begin_copy(&mut self, who: Who, offset: u32, len: usize, id: u32, proxy: Proxy) -> Result<()> {
        self.memory.begin_copy(who, &self.clocks, offset, len, id, proxy)
    }

    fn begin_async_read(&mut self, who: Who, offset: u32, len: usize, id: u32) -> Result<Vec<u8>> {
        let mut out = vec![0; len];
        self.memory.begin_async_read(who, &self.clocks, offset, &mut out, id).map(|()| out)
    }
}

/// Says that `result` is this conflict with an access of this thread, if with any.
#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T>, kind: Kind, earlier: Option<(Deed, u16, u8)>) {
    let conflict = result.expect_err("this must be found");
    assert_eq!(conflict.kind, kind, "{conflict:?}");
    let found = conflict.earlier.map(|Earlier { deed, access, .. }| (deed, access.warp, access.lane));
    assert_eq!(found, earlier, "{conflict:?}");
}

#[test]
fn bounds_and_alignment() {
    let mut block = Block::written();
    for len in [1, 2, 4, 8, 16] {
        let end = 64 - len as u32;
        assert_eq!(block.read(who(0, 0), end, len).unwrap(), vec![0x11; len]);
        assert_conflict(block.read(who(0, 0), 64, len), Kind::OutOfBounds, None);
        assert_conflict(block.write(who(0, 0), !15, &vec![0; len]), Kind::OutOfBounds, None);
        if len > 1 {
            assert_conflict(block.read(who(0, 0), 1, len), Kind::Misaligned, None);
            assert_conflict(block.write(who(0, 0), len as u32 / 2, &vec![0; len]), Kind::Misaligned, None);
        }
    }
    assert_conflict(block.add(who(0, 0), 60, 8, 0), Kind::OutOfBounds, None);
    assert_conflict(block.add(who(0, 0), 2, 4, 0), Kind::Misaligned, None);
    assert_conflict(block.begin_copy(who(0, 0), 48, 32, 0, Proxy::Asynchronous), Kind::OutOfBounds, None);
    assert_conflict(block.begin_copy(who(0, 0), 8, 32, 0, Proxy::Asynchronous), Kind::Misaligned, None);
    assert_conflict(block.begin_copy(who(0, 0), 4, 8, 0, Proxy::Generic), Kind::Misaligned, None);
    assert_conflict(block.begin_async_read(who(0, 0), 8, 16, 0), Kind::Misaligned, None);
    let conflict = block.read(who(0, 0), 64, 4).unwrap_err();
    let message = "read of 4 bytes of shared memory at offset 0x40: shared memory has 64 bytes";
    assert_eq!(conflict.into_misuse(2, |_| None), Misuse::OutOfBounds(message.to_owned()));
}

#[test]
fn unwritten_bytes_are_not_read() {
    let mut block = Block::new();
    assert_conflict(block.read(who(0, 0), 0, 4), Kind::Uninitialised, None);
    block.write(who(0, 0), 0, &[1, 2]).unwrap();
    assert_eq!(block.read(who(0, 0), 0, 2).unwrap(), [1, 2]);
    let conflict = block.read(who(0, 0), 0, 4).unwrap_err();
    let message = "read of 4 bytes of shared memory at offset 0x0: nobody has written byte 0x2";
    assert_eq!(conflict.into_misuse(2, |_| None), Misuse::Uninitialised(message.to_owned()));
    assert_conflict(block.add(who(0, 0), 0, 4, 1), Kind::Uninitialised, None);
    assert_conflict(block.begin_async_read(who(0, 0), 16, 16, 0), Kind::Uninitialised, None);
    block.write(who(0, 0), 2, &[3, 4]).unwrap();
    assert_eq!(block.read(who(0, 0), 0, 4).unwrap(), [1, 2, 3, 4]);
    // What an earlier block wrote is not there.
    block.memory.reset(64);
    assert_conflict(block.read(who(0, 0), 0, 4), Kind::Uninitialised, None);
}

#[test]
fn a_read_comes_after_the_write() {
    let mut block = Block::new();
    block.write(who(0, 3), 8, &[1, 2, 3, 4]).unwrap();
    assert_eq!(block.read(who(0, 3), 8, 4).unwrap(), [1, 2, 3, 4]);
    let conflict = block.read(who(1, 0), 8, 4).unwrap_err();
    let line = |site| (site == 3).then(|| "kernel.cu:12".to_owned());
    let message = "read of 4 bytes of shared memory at offset 0x8: nothing orders it after the write by warp 0 lane 3 \
                   of block 0 of the cluster at kernel.cu:12 (byte 0x8)";
    assert_eq!(conflict.into_misuse(2, line), Misuse::Race(message.to_owned()));
    assert_conflict(block.read(who(0, 4), 11, 1), Kind::Race, Some((Deed::Write, 0, 3)));
    // `bar.warp.sync` is enough for the lanes of the warp, and only for them.
    block.clocks.warp_sync(0, ALL);
    assert_eq!(block.read(who(0, 4), 11, 1).unwrap(), [4]);
    assert_conflict(block.read(who(1, 0), 8, 4), Kind::Race, Some((Deed::Write, 0, 3)));
    block.barrier();
    assert_eq!(block.read(who(1, 0), 8, 4).unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_write_comes_after_the_reads() {
    let mut block = Block::written();
    for lane in 0..32 {
        block.read(who(1, lane), 0, 16).unwrap();
    }
    block.read(who(0, 7), 4, 4).unwrap();
    assert_conflict(block.write(who(0, 7), 0, &[0; 16]), Kind::Race, Some((Deed::Read, 1, 0)));
    // One lane of those that read arrives at a barrier: the others are not ordered by that.
    let mut barrier = VectorClock::default();
    block.clocks.release(1, 1, &mut barrier);
    block.clocks.acquire(0, ALL, &barrier);
    assert_conflict(block.write(who(0, 7), 0, &[0; 16]), Kind::Race, Some((Deed::Read, 1, 1)));
    block.barrier();
    block.write(who(0, 7), 0, &[0; 16]).unwrap();
}

#[test]
fn older_reads_of_a_warp_are_not_forgotten() {
    let mut block = Block::written();
    for lane in 0..32 {
        block.read(who(1, lane), 0, 4).unwrap();
    }
    // Lane 0 goes on alone: it arrives somewhere, reads again, and arrives again.
    let mut barrier = VectorClock::default();
    block.clocks.release(1, 1, &mut barrier);
    block.read(who(1, 0), 0, 4).unwrap();
    block.clocks.release(1, 1, &mut barrier);
    block.clocks.acquire(0, ALL, &barrier);
    assert_conflict(block.write(who(0, 0), 0, &[0; 4]), Kind::Race, Some((Deed::Read, 1, 1)));
}

#[test]
fn a_write_comes_after_the_write() {
    let mut block = Block::new();
    block.write(who(0, 1), 0, &[1; 16]).unwrap();
    block.write(who(0, 1), 0, &[2; 16]).unwrap();
    assert_conflict(block.write(who(1, 1), 12, &[3; 4]), Kind::Race, Some((Deed::Write, 0, 1)));
    assert_conflict(block.write(who(0, 2), 0, &[3; 4]), Kind::Race, Some((Deed::Write, 0, 1)));
    block.barrier();
    block.write(who(1, 1), 12, &[3; 4]).unwrap();
}

#[test]
fn lanes_may_write_the_same_value_together() {
    let together = |lane| Who { warp: 0, lane, site: 9 };
    let mut block = Block::new();
    block.write(together(1), 0, &[7; 4]).unwrap();
    block.write(together(2), 0, &[7; 4]).unwrap();
    assert_conflict(block.write(together(3), 0, &[7, 7, 8, 7]), Kind::Race, Some((Deed::Write, 0, 2)));
    assert_conflict(block.write(who(0, 3), 0, &[7; 4]), Kind::Race, Some((Deed::Write, 0, 2)));
    assert_conflict(block.write(Who { warp: 1, ..together(3) }, 0, &[7; 4]), Kind::Race, Some((Deed::Write, 0, 2)));
}

#[test]
fn neighbours_in_a_word_are_told_apart() {
    let mut block = Block::new();
    for lane in 0..32 {
        block.write(who(0, lane), u32::from(lane), &[lane]).unwrap();
        block.write(who(1, lane), 32 + u32::from(lane), &[lane]).unwrap();
    }
    for lane in 0..32 {
        assert_eq!(block.read(who(0, lane), u32::from(lane), 1).unwrap(), [lane]);
    }
    assert_conflict(block.read(who(0, 5), 4, 2), Kind::Race, Some((Deed::Write, 0, 4)));
    block.barrier();
    assert_eq!(block.read(who(0, 5), 4, 4).unwrap(), [4, 5, 6, 7]);
    block.write(who(1, 5), 3, &[0]).unwrap();
    assert_conflict(block.write(who(1, 5), 7, &[0]), Kind::Race, Some((Deed::Read, 0, 5)));
}

#[test]
fn what_is_written_whole_is_whole_again() {
    let mut block = Block::new();
    block.write(who(0, 0), 0, &[1; 4]).unwrap();
    for _ in 0..10 {
        block.write(who(0, 0), 0, &[1]).unwrap();
        block.write(who(0, 0), 2, &[1; 2]).unwrap();
        block.write(who(0, 1), 4, &[1; 4]).unwrap();
        block.write(who(0, 0), 0, &[1; 4]).unwrap();
        assert_eq!(block.memory.cells.num_split(), (2, 1), "the line is split, the word no longer");
        block.clocks.warp_sync(0, ALL);
        block.write(who(0, 0), 0, &[1; 16]).unwrap();
        assert_eq!(block.memory.cells.num_split(), (2, 2), "both places are free");
        block.clocks.warp_sync(0, ALL);
    }
}

#[test]
fn atomics_race_with_plain_accesses_only() {
    let mut block = Block::written();
    assert_eq!(block.add(who(0, 0), 0, 4, 0x100).unwrap(), 0x1111_1111);
    assert_eq!(block.add(who(1, 0), 0, 4, 0xffff_0000).unwrap(), 0x1111_1211);
    assert_eq!(block.add(who(1, 1), 8, 8, 1).unwrap(), 0x1111_1111_1111_1111);
    assert_eq!(block.add(who(1, 1), 16, 2, 0xf000).unwrap(), 0x1111);
    assert_conflict(block.read(who(0, 0), 0, 4), Kind::Race, Some((Deed::Atomic, 1, 0)));
    assert_conflict(block.write(who(0, 0), 0, &[0; 4]), Kind::Race, Some((Deed::Atomic, 1, 0)));
    block.barrier();
    assert_eq!(block.read(who(0, 0), 0, 4).unwrap(), 0x1110_1211_u32.to_le_bytes());
    assert_eq!(block.read(who(0, 0), 16, 4).unwrap(), [0x11, 0x01, 0x11, 0x11]);
    assert_conflict(block.add(who(1, 0), 0, 4, 1), Kind::Race, Some((Deed::Read, 0, 0)));
    block.write(who(0, 1), 32, &[0; 4]).unwrap();
    assert_conflict(block.add(who(1, 0), 32, 4, 1), Kind::Race, Some((Deed::Write, 0, 1)));
}

#[test]
fn lanes_that_read_in_turn_with_another_warp_are_all_remembered() {
    let mut block = Block::written();
    for (warp, lane) in [(0, 0), (1, 0), (0, 1)] {
        block.read(who(warp, lane), 0, 4).unwrap();
    }
    let mut barrier = VectorClock::default();
    block.clocks.release(0, 0b10, &mut barrier);
    block.clocks.acquire(1, ALL, &barrier);
    assert_conflict(block.write(who(1, 0), 0, &[0; 4]), Kind::Race, Some((Deed::Read, 0, 0)));
}

/// Kernels run long, so what is remembered must not grow with the number of accesses.
#[test]
fn superfluous_reads_are_forgotten() {
    // Written in between.
    let mut block = Block::written();
    for _ in 0..100 {
        block.read(who(0, 0), 0, 16).unwrap();
        block.write(who(0, 0), 0, &[0; 16]).unwrap();
    }
    assert_eq!(block.memory.cells.num_reads(), 1);
    // Read by a warp whose lane 0 alone arrives at barriers: its other lanes are not ordered.
    let mut block = Block::written();
    for _ in 0..100 {
        (0..32).for_each(|lane| _ = block.read(who(0, lane), 0, 16).unwrap());
        block.clocks.release(0, 1, &mut VectorClock::default());
    }
    assert!(block.memory.cells.num_reads() <= 4, "{}", block.memory.cells.num_reads());
    // Read by one thread after the other, with a barrier between.
    let mut block = Block::written();
    for thread in 0..64 {
        block.read(who(thread / 32, (thread % 32) as u8), 0, 16).unwrap();
        block.barrier();
    }
    assert!(block.memory.cells.num_reads() <= 6, "{}", block.memory.cells.num_reads());
    // Read asynchronously.
    let mut block = Block::written();
    for id in 0..100 {
        block.begin_async_read(who(0, 0), 0, 16, id).unwrap();
        let stamp = block.clocks.asynchronous(0);
        block.memory.end_async_read(0, 16, id, stamp).unwrap();
    }
    assert_eq!(block.memory.cells.num_reads(), 2);
}

/// An atomic operation does not hide the read before it from another atomic operation.
#[test]
fn a_read_before_an_atomic_is_not_forgotten() {
    let mut block = Block::written();
    block.read(who(0, 0), 0, 4).unwrap();
    block.add(who(0, 0), 0, 4, 1).unwrap();
    assert_conflict(block.add(who(1, 0), 0, 4, 1), Kind::Race, Some((Deed::Read, 0, 0)));
}

#[test]
fn the_destination_of_a_copy_is_not_touched_before_its_wait() {
    let mut block = Block::written();
    block.begin_copy(who(0, 2), 16, 16, 1, Proxy::Generic).unwrap();
    let copy = Some((Deed::Copy, 0, 2));
    assert_conflict(block.read(who(0, 2), 16, 4), Kind::NotWaited, copy);
    assert_conflict(block.write(who(1, 0), 28, &[0; 4]), Kind::NotWaited, copy);
    assert_conflict(block.add(who(0, 2), 20, 4, 1), Kind::NotWaited, copy);
    assert_conflict(block.begin_copy(who(0, 2), 16, 16, 2, Proxy::Generic), Kind::NotWaited, copy);
    assert_conflict(block.begin_async_read(who(0, 2), 16, 16, 1), Kind::NotWaited, copy);
    let conflict = block.read(who(0, 2), 24, 4).unwrap_err();
    let message = "read of 4 bytes of shared memory at offset 0x18: nobody has waited for the asynchronous copy by \
                   warp 0 lane 2 of block 0 of the cluster (byte 0x18)";
    assert_eq!(conflict.into_misuse(2, |_| None), Misuse::NotWaited(message.to_owned()));
    block.read(who(0, 2), 32, 4).unwrap();
    // The wait is each thread's own: the others need a barrier after it.
    let stamp = block.clocks.access(0, 2);
    block.memory.finish_copy(16, &[5; 16], 1, stamp).unwrap();
    assert_eq!(block.read(who(0, 2), 16, 4).unwrap(), [5; 4]);
    assert_conflict(block.read(who(0, 3), 16, 4), Kind::Race, Some((Deed::Write, 0, 2)));
    block.barrier();
    assert_eq!(block.read(who(0, 3), 16, 4).unwrap(), [5; 4]);
}

#[test]
fn a_copy_is_ordered_after_earlier_accesses() {
    let mut block = Block::written();
    block.read(who(1, 1), 0, 4).unwrap();
    assert_conflict(block.begin_copy(who(0, 0), 0, 16, 1, Proxy::Asynchronous), Kind::Race, Some((Deed::Read, 1, 1)));
    block.write(who(1, 1), 16, &[0; 4]).unwrap();
    assert_conflict(block.begin_copy(who(0, 0), 16, 16, 1, Proxy::Generic), Kind::Race, Some((Deed::Write, 1, 1)));
}

#[test]
fn a_bulk_copy_is_seen_by_those_who_waited() {
    let mut block = Block::written();
    block.begin_copy(who(0, 0), 0, 64, 1, Proxy::Asynchronous).unwrap();
    let stamp = block.clocks.asynchronous(COPIES);
    block.memory.finish_copy(0, &[6; 64], 1, stamp).unwrap();
    let conflict = block.read(who(0, 0), 0, 4).unwrap_err();
    let message = "read of 4 bytes of shared memory at offset 0x0: nothing orders it after the asynchronous copy at \
                   line 0 (byte 0x0)";
    assert_eq!(conflict.into_misuse(2, |site| Some(format!("line {site}"))), Misuse::Race(message.to_owned()));
    block.clocks.learn(1, ALL, stamp);
    assert_eq!(block.read(who(1, 9), 0, 4).unwrap(), [6; 4]);
    // What a bulk copy wrote, the asynchronous proxy sees without a fence.
    assert_eq!(block.begin_async_read(who(1, 9), 16, 16, 2).unwrap(), [6; 16]);
    // A part of a copy, for instance a row of a tensor, may arrive on its own.
    block.barrier();
    block.begin_copy(who(0, 0), 32, 32, 2, Proxy::Asynchronous).unwrap();
    let stamp = block.clocks.asynchronous(COPIES);
    block.memory.finish_copy(32, &[7; 16], 2, stamp).unwrap();
    block.clocks.learn(0, ALL, stamp);
    block.read(who(0, 0), 32, 16).unwrap();
    assert_conflict(block.read(who(0, 0), 48, 16), Kind::NotWaited, Some((Deed::Copy, 0, 0)));
}

#[test]
fn the_source_of_an_asynchronous_read_is_not_overwritten_before_its_wait() {
    let mut block = Block::written();
    block.begin_async_read(who(0, 0), 0, 16, 1).unwrap();
    block.begin_async_read(who(1, 0), 0, 16, 2).unwrap();
    block.read(who(1, 0), 0, 16).unwrap();
    let read = Some((Deed::AsyncRead, 1, 0));
    assert_conflict(block.write(who(1, 0), 0, &[0; 4]), Kind::NotWaited, read);
    assert_conflict(block.add(who(1, 0), 0, 4, 1), Kind::NotWaited, read);
    assert_conflict(block.begin_copy(who(1, 0), 0, 16, 1, Proxy::Asynchronous), Kind::NotWaited, read);
    // The wait of one warp says nothing about the other's read.
    let stamps = [block.clocks.asynchronous(0), block.clocks.asynchronous(1)];
    block.memory.end_async_read(0, 16, 2, stamps[1]).unwrap();
    block.clocks.learn(1, ALL, stamps[1]);
    assert_conflict(block.write(who(1, 0), 0, &[0; 4]), Kind::NotWaited, Some((Deed::AsyncRead, 0, 0)));
    block.memory.end_async_read(0, 16, 1, stamps[0]).unwrap();
    block.clocks.learn(0, ALL, stamps[0]);
    // Nor does it reach the other warp without a barrier.
    let conflict = block.write(who(1, 0), 0, &[0; 4]).unwrap_err();
    assert_eq!((conflict.kind, conflict.earlier.unwrap().deed), (Kind::Race, Deed::AsyncRead));
    let mut barrier = VectorClock::default();
    block.clocks.release(0, 1, &mut barrier);
    block.clocks.acquire(1, ALL, &barrier);
    // The arrival of one lane of those that waited is enough.
    block.write(who(1, 0), 0, &[0; 16]).unwrap();
}

#[test]
fn ordinary_writes_need_a_proxy_fence_before_asynchronous_operations() {
    let mut block = Block::written();
    block.write(who(0, 1), 0, &[2; 16]).unwrap();
    block.write(who(0, 1), 16, &[2; 16]).unwrap();
    block.barrier();
    let write = Some((Deed::Write, 0, 1));
    assert_conflict(block.begin_async_read(who(1, 0), 0, 16, 1), Kind::Unfenced, write);
    assert_conflict(block.begin_copy(who(1, 0), 16, 16, 1, Proxy::Asynchronous), Kind::Unfenced, write);
    let conflict = block.begin_async_read(who(1, 0), 0, 16, 1).unwrap_err();
    let message = "asynchronous read of 16 bytes of shared memory at offset 0x0: no `fence.proxy.async` makes visible \
                   to it the write by warp 0 lane 1 of block 0 of the cluster (byte 0x0)";
    assert_eq!(conflict.into_misuse(2, |_| None), Misuse::Race(message.to_owned()));
    block.begin_copy(who(1, 0), 16, 16, 1, Proxy::Generic).unwrap();
    block.clocks.proxy_fence(1, 1);
    block.begin_async_read(who(1, 0), 0, 16, 1).unwrap();
}

#[test]
fn another_block_of_the_cluster_is_named() {
    let mut block = Block::new();
    block.clocks.reset(8);
    block.write(who(7, 1), 0, &[2; 4]).unwrap();
    let misuse = block.read(who(1, 0), 0, 4).unwrap_err().into_misuse(4, |_| None);
    assert!(misuse.to_string().contains("by warp 3 lane 1 of block 1 of the cluster"), "{misuse}");
}
