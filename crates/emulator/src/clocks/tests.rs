use super::*;

fn clocks(num_warps: usize) -> Clocks {
    let mut clocks = Clocks::default();
    clocks.reset(num_warps);
    clocks
}

#[test]
fn threads_are_ordered_by_nothing_but_themselves() {
    let clocks = clocks(2);
    let access = clocks.access(0, 3);
    assert!(clocks.is_ordered_before(access, 0, 3));
    assert!(!clocks.is_ordered_before(access, 0, 4));
    assert!(!clocks.is_ordered_before(access, 1, 3));
    assert_eq!(clocks.unordered_lanes(0, 0b1011, access.clock, 0, 3), 0b0011);
    assert_eq!(clocks.unordered_lanes(0, 0b1011, access.clock, 1, 3), 0b1011);
}

#[test]
fn a_barrier_orders_what_came_before_it() {
    let mut clocks = clocks(2);
    let before = [clocks.access(0, 3), clocks.access(1, 31)];
    let mut barrier = VectorClock::default();
    clocks.release(0, u32::MAX, &mut barrier);
    clocks.release(1, u32::MAX, &mut barrier);
    // After the arrival, before the wait is over.
    let after = clocks.access(0, 3);
    clocks.acquire(0, u32::MAX, &barrier);
    clocks.acquire(1, u32::MAX, &barrier);
    for access in before {
        assert!((0..2).all(|warp| (0..32).all(|lane| clocks.is_ordered_before(access, warp, lane))));
    }
    assert!(!clocks.is_ordered_before(after, 1, 3));
    assert!(!clocks.is_ordered_before(after, 0, 4));
    assert_eq!(clocks.unordered_lanes(0, u32::MAX, before[0].clock, 1, 0), 0);
    assert_eq!(clocks.unordered_lanes(0, u32::MAX, after.clock, 1, 0), u32::MAX);
}

#[test]
fn only_those_who_arrived_are_known_and_only_those_who_waited_know() {
    let mut clocks = clocks(2);
    let before = clocks.access(0, 0).clock;
    let mut barrier = VectorClock::default();
    clocks.release(0, 0b01, &mut barrier);
    clocks.acquire(1, 0b10, &barrier);
    let access = |lane| Access { warp: 0, lane, clock: before };
    assert!(clocks.is_ordered_before(access(0), 1, 1));
    assert!(!clocks.is_ordered_before(access(1), 1, 1), "lane 1 did not arrive");
    assert!(!clocks.is_ordered_before(access(0), 1, 0), "lane 0 did not wait");
    // The lane that waited passes it on: to some lanes of its warp, then to all.
    clocks.warp_sync(1, 0b110);
    assert!(clocks.is_ordered_before(access(0), 1, 2));
    assert!(!clocks.is_ordered_before(access(0), 1, 3));
    clocks.warp_sync(1, u32::MAX);
    assert!((0..32).all(|lane| clocks.is_ordered_before(access(0), 1, lane)));
    assert!(!clocks.is_ordered_before(access(1), 1, 1));
}

#[test]
fn lanes_that_exited_are_not_waited_for() {
    let mut clocks = clocks(1);
    clocks.exit(0, 0xffff_0000);
    let access = clocks.access(0, 3);
    clocks.warp_sync(0, 0xffff);
    assert!(clocks.is_ordered_before(access, 0, 0));
    assert_eq!(clocks.warps[0].special, 0, "known to all who are left");
}

#[test]
fn what_all_lanes_learn_is_kept_once() {
    let mut clocks = clocks(2);
    let mut barrier = VectorClock::default();
    clocks.release(0, u32::MAX, &mut barrier);
    clocks.acquire(1, 0b100, &barrier);
    assert_eq!(clocks.warps[1].special, 0b100);
    clocks.acquire(1, u32::MAX, &barrier);
    assert_eq!(clocks.warps[1].special, 0);
}

#[test]
fn asynchronous_operations_are_known_once_waited_for() {
    let mut clocks = clocks(2);
    let first = clocks.asynchronous(40);
    let second = clocks.asynchronous(40);
    let other = clocks.asynchronous(41);
    assert!(clocks.is_asynchronous(first) && !clocks.is_asynchronous(clocks.access(1, 31)));
    assert!([first, second, other].iter().all(|access| !clocks.is_ordered_before(*access, 0, 0)));
    clocks.learn(0, 1, second);
    assert!(clocks.is_ordered_before(first, 0, 0), "the earlier one of the same thread");
    assert!(!clocks.is_ordered_before(other, 0, 0));
    assert!(!clocks.is_ordered_before(second, 0, 1));
    // What a lane waited for goes along when it arrives somewhere.
    let mut barrier = VectorClock::default();
    clocks.release(0, 1, &mut barrier);
    clocks.acquire(1, u32::MAX, &barrier);
    assert!(clocks.is_ordered_before(second, 1, 7));
}

#[test]
fn a_proxy_fence_stands_between_the_write_and_the_asynchronous_read() {
    let barrier = |clocks: &mut Clocks| {
        let mut barrier = VectorClock::default();
        (0..2).for_each(|warp| clocks.release(warp, u32::MAX, &mut barrier));
        (0..2).for_each(|warp| clocks.acquire(warp, u32::MAX, &barrier));
    };
    // By the writer before the barrier.
    let mut both = clocks(2);
    let write = both.access(0, 5);
    both.proxy_fence(0, u32::MAX);
    let late = both.access(0, 5);
    barrier(&mut both);
    assert!(both.is_visible_to_async(write, 1, 0));
    assert!(!both.is_visible_to_async(late, 1, 0), "written after the fence");
    // By the reader after the barrier.
    let mut both = clocks(2);
    let write = both.access(0, 5);
    barrier(&mut both);
    assert!(!both.is_visible_to_async(write, 1, 0));
    both.proxy_fence(1, 0b1);
    assert!(both.is_visible_to_async(write, 1, 0));
    assert!(!both.is_visible_to_async(write, 1, 1), "another lane fenced");
    // By the reader before the barrier: too early.
    let mut both = clocks(2);
    let write = both.access(0, 5);
    both.proxy_fence(1, u32::MAX);
    barrier(&mut both);
    assert!(!both.is_visible_to_async(write, 1, 0));
    // One's own write, and asynchronous ones.
    let own = both.access(0, 5);
    assert!(!both.is_visible_to_async(own, 0, 5));
    both.proxy_fence(0, 1 << 5);
    assert!(both.is_visible_to_async(own, 0, 5));
    let copy = both.asynchronous(0);
    assert!(both.is_visible_to_async(copy, 1, 0));
}

#[test]
fn a_reset_forgets() {
    let mut clocks = clocks(3);
    let mut barrier = VectorClock::default();
    (0..3).for_each(|warp| clocks.release(warp, u32::MAX, &mut barrier));
    (0..3).for_each(|warp| clocks.acquire(warp, 0b11, &barrier));
    clocks.exit(0, 1);
    clocks.asynchronous(3);
    clocks.reset(2);
    let mut fresh = Clocks::default();
    fresh.reset(2);
    for warp in 0..2 {
        assert_eq!(clocks.access(warp, 0), fresh.access(warp, 0));
        let access = Access { warp, lane: 9, clock: 1 };
        assert!(!clocks.is_ordered_before(access, 1 - warp, 0));
        assert!(!clocks.is_ordered_before(access, warp, 0));
        assert_eq!(clocks.warps[usize::from(warp)].live, u32::MAX);
    }
    assert_eq!(clocks.asynchronous(3).clock, 1);
}
