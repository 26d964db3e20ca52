//! Which accesses are ordered before which: vector clocks of the threads of a cluster.
//!
//! A warp has a clock that ticks whenever one of its lanes releases something; an access carries the warp, the lane and
//! the clock it was made at. Each lane knows of every lane the latest clock whose accesses are ordered before what it
//! does next. What a lane knows travels through a [`VectorClock`]: an arrival at a barrier releases into it, and a
//! completed wait acquires from it. Lanes of one warp are ordered by nothing else either: running in step is no promise
//! (PTX ISA, "Memory Consistency Model").
//!
//! What all lanes of a warp know is kept once, and what only some know beside it: a barrier of all threads then costs
//! one short loop per warp instead of one per thread.
//!
//! Asynchronous operations are threads of their own ([`Clocks::asynchronous`]), to which nobody is ordered by program
//! order. Ordinary accesses and those of the asynchronous proxy (bulk copies, `wgmma`) do not see one another without a
//! proxy fence, so beside what is known there is what is also visible to that proxy.
//!
//! Left out: order by `fence` and plain or atomic accesses alone (a flag in memory); only barriers make order here.

#[cfg(test)]
mod tests;

/// Threads of a warp.
pub(crate) const LANES: usize = 32;

/// One access: who made it, at which clock of its warp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Warp in the cluster (block rank × warps of a block + warp), or beyond the last warp for asynchronous operations.
    pub(crate) warp: u16,
    pub(crate) lane: u8,
    pub(crate) clock: u32,
}

/// For each lane of each warp a clock. Warps that nothing is known about yet have no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rows(Vec<[u32; LANES]>);

impl Rows {
    fn join(&mut self, other: &Rows) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), [0; LANES]);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine = (*mine).max(*theirs);
            }
        }
    }

    fn raise(&mut self, warp: usize, lanes: u32, clock: u32) {
        if self.0.len() <= warp {
            self.0.resize(warp + 1, [0; LANES]);
        }
        for (lane, mine) in self.0[warp].iter_mut().enumerate() {
            let new = if lanes >> lane & 1 != 0 { clock } else { 0 };
            *mine = (*mine).max(new);
        }
    }

    #[inline]
    fn get(&self, warp: usize, lane: usize) -> u32 {
        self.0.get(warp).map_or(0, |row| row[lane])
    }

    fn covers(&self, other: &Rows) -> bool {
        other.0.iter().enumerate().all(|(warp, row)| match self.0.get(warp) {
            Some(mine) => mine.iter().zip(row).all(|(mine, theirs)| mine >= theirs),
            None => row.iter().all(|clock| *clock == 0),
        })
    }
}

/// What a thread knows, or what a barrier passes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VectorClock {
    known: Rows,
    /// The part of it that the asynchronous proxy sees, too.
    visible: Rows,
}

impl VectorClock {
    /// Adds what `other` holds.
    pub(crate) fn join(&mut self, other: &VectorClock) {
        self.known.join(&other.known);
        self.visible.join(&other.visible);
    }

    /// Adds one access, and with it all earlier ones of its thread.
    pub(crate) fn learn(&mut self, access: Access) {
        self.known.raise(usize::from(access.warp), 1 << access.lane, access.clock);
    }

    /// Forgets everything, but keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.known.0.clear();
        self.visible.0.clear();
    }

    fn covers(&self, other: &VectorClock) -> bool {
        self.known.covers(&other.known) && self.visible.covers(&other.visible)
    }
}

/// The clocks of one cluster's threads.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    warps: Vec<Warp>,
    /// The last clock of each asynchronous thread.
    asynchronous: Vec<u32>,
    scratch: VectorClock,
}

#[derive(Debug)]
struct Warp {
    now: u32,
    /// Lanes that exist and have not exited.
    live: u32,
    /// What every live lane knows.
    common: VectorClock,
    /// What single lanes know beyond that; those whose bit in `special` is set.
    extra: Vec<VectorClock>,
    special: u32,
}

impl Warp {
    /// Calls `learn` for what all lanes know if these are all, and otherwise for what each of `lanes` knows.
    fn learn(&mut self, lanes: u32, learn: impl Fn(&mut VectorClock)) {
        if lanes & self.live == self.live {
            learn(&mut self.common);
            for lane in bits(self.special) {
                if self.common.covers(&self.extra[lane]) {
                    self.extra[lane].clear();
                    self.special &= !(1 << lane);
                }
            }
        } else {
            if self.extra.is_empty() {
                self.extra.resize(LANES, VectorClock::default());
            }
            for lane in bits(lanes) {
                learn(&mut self.extra[lane]);
            }
            self.special |= lanes;
        }
    }

    #[inline]
    fn extra_of(&self, lane: usize) -> Option<&VectorClock> {
        (self.special >> lane & 1 != 0).then(|| &self.extra[lane])
    }
}

impl Clocks {
    /// Starts again, with `num_warps` warps of 32 lanes that know nothing of one another.
    pub(crate) fn reset(&mut self, num_warps: usize) {
        self.asynchronous.clear();
        self.warps.truncate(num_warps);
        for warp in &mut self.warps {
            (warp.now, warp.live, warp.special) = (1, u32::MAX, 0);
            warp.common.clear();
            warp.extra.iter_mut().for_each(VectorClock::clear);
        }
        let new = || Warp { now: 1, live: u32::MAX, common: VectorClock::default(), extra: Vec::new(), special: 0 };
        self.warps.resize_with(num_warps, new);
    }

    /// Lanes that have exited, or that the block does not have: the others need not wait for them to know the same.
    pub(crate) fn exit(&mut self, warp: usize, lanes: u32) {
        self.warps[warp].live &= !lanes;
    }

    /// The stamp of an access that this thread makes now.
    #[inline]
    pub(crate) fn access(&self, warp: u16, lane: u8) -> Access {
        Access { warp, lane, clock: self.warps[usize::from(warp)].now }
    }

    /// The stamp of the next operation of an asynchronous thread.
    ///
    /// Who knows one operation of an asynchronous thread is taken to know its earlier ones. Operations that complete in
    /// no order belong to different threads: one for each `mbarrier`, one for each warp's matrix products.
    pub(crate) fn asynchronous(&mut self, thread: usize) -> Access {
        if self.asynchronous.len() <= thread {
            self.asynchronous.resize(thread + 1, 0);
        }
        self.asynchronous[thread] += 1;
        let (warp, lane) = (self.warps.len() + thread / LANES, thread % LANES);
        Access { warp: warp as u16, lane: lane as u8, clock: self.asynchronous[thread] }
    }

    /// Whether an asynchronous operation made this access.
    #[inline]
    pub(crate) fn is_asynchronous(&self, access: Access) -> bool {
        usize::from(access.warp) >= self.warps.len()
    }

    /// An arrival: what `lanes` did and know goes into `into`.
    pub(crate) fn release(&mut self, warp: usize, lanes: u32, into: &mut VectorClock) {
        let state = &mut self.warps[warp];
        into.join(&state.common);
        for lane in bits(lanes & state.special) {
            into.join(&state.extra[lane]);
        }
        into.known.raise(warp, lanes, state.now);
        state.now += 1;
    }

    /// A completed wait: `lanes` learn what `from` holds. What only some lanes learn, the others do not know.
    pub(crate) fn acquire(&mut self, warp: usize, lanes: u32, from: &VectorClock) {
        self.warps[warp].learn(lanes, |clock| clock.join(from));
    }

    /// A completed wait for one asynchronous operation.
    pub(crate) fn learn(&mut self, warp: usize, lanes: u32, access: Access) {
        self.warps[warp].learn(lanes, |clock| clock.learn(access));
    }

    /// `bar.warp.sync`: `lanes` tell one another what they did and know.
    pub(crate) fn warp_sync(&mut self, warp: usize, lanes: u32) {
        let state = &mut self.warps[warp];
        if lanes & state.live == state.live {
            for lane in bits(lanes & state.special) {
                state.common.join(&state.extra[lane]);
            }
            for lane in bits(state.special) {
                state.extra[lane].clear();
            }
            state.special = 0;
            state.common.known.raise(warp, lanes, state.now);
            state.now += 1;
        } else {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            self.release(warp, lanes, &mut scratch);
            self.acquire(warp, lanes, &scratch);
            self.scratch = scratch;
        }
    }

    /// `fence.proxy.async`: all that `lanes` did and know becomes visible to the asynchronous operations that are ordered
    /// after the fence.
    pub(crate) fn proxy_fence(&mut self, warp: usize, lanes: u32) {
        let state = &mut self.warps[warp];
        let VectorClock { known, visible } = &mut state.common;
        if lanes & state.live == state.live {
            visible.join(known);
            visible.raise(warp, lanes, state.now);
            for lane in bits(state.special) {
                let VectorClock { known, visible } = &mut state.extra[lane];
                visible.join(known);
            }
        } else {
            let (common, now) = (std::mem::take(known), state.now);
            state.learn(lanes, |clock| {
                let VectorClock { known, visible } = clock;
                visible.join(known);
                visible.join(&common);
                visible.raise(warp, lanes, now);
            });
            state.common.known = common;
        }
        state.now += 1;
    }

    /// Whether `access` comes before whatever this thread does next.
    #[inline]
    pub(crate) fn is_ordered_before(&self, access: Access, warp: u16, lane: u8) -> bool {
        let Access { warp: of_warp, lane: of_lane, clock } = access;
        if of_warp == warp && of_lane == lane {
            return true;
        }
        let (of_warp, of_lane) = (usize::from(of_warp), usize::from(of_lane));
        let state = &self.warps[usize::from(warp)];
        state.common.known.get(of_warp, of_lane) >= clock
            || state.extra_of(usize::from(lane)).is_some_and(|extra| extra.known.get(of_warp, of_lane) >= clock)
    }

    /// Those of `lanes` of a warp whose accesses at `clock` do not come before what this thread does next.
    #[inline]
    pub(crate) fn unordered_lanes(&self, of_warp: u16, lanes: u32, clock: u32, warp: u16, lane: u8) -> u32 {
        if lanes.is_power_of_two() {
            let access = Access { warp: of_warp, lane: lanes.trailing_zeros() as u8, clock };
            return if self.is_ordered_before(access, warp, lane) { 0 } else { lanes };
        }
        let own = if of_warp == warp { 1 << lane } else { 0 };
        let state = &self.warps[usize::from(warp)];
        let late = |row: Option<&[u32; LANES]>| row.map_or(u32::MAX, |row| lanes_below(row, clock));
        let of_warp = usize::from(of_warp);
        let mut unordered = lanes & !own & late(state.common.known.0.get(of_warp));
        if unordered != 0
            && let Some(extra) = state.extra_of(usize::from(lane))
        {
            unordered &= late(extra.known.0.get(of_warp));
        }
        unordered
    }

    /// Whether an asynchronous operation that this thread starts now sees what `access` wrote, if it comes before.
    pub(crate) fn is_visible_to_async(&self, access: Access, warp: u16, lane: u8) -> bool {
        let Access { warp: of_warp, lane: of_lane, clock } = access;
        let (of_warp, of_lane) = (usize::from(of_warp), usize::from(of_lane));
        let state = &self.warps[usize::from(warp)];
        self.is_asynchronous(access)
            || state.common.visible.get(of_warp, of_lane) >= clock
            || state.extra_of(usize::from(lane)).is_some_and(|extra| extra.visible.get(of_warp, of_lane) >= clock)
    }
}

/// The lanes whose clock is below `clock`.
#[inline]
fn lanes_below(row: &[u32; LANES], clock: u32) -> u32 {
    row.iter().enumerate().fold(0, |lanes, (lane, of_lane)| lanes | u32::from(*of_lane < clock) << lane)
}

/// The lanes of a mask.
pub(crate) fn bits(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < u32::BITS).then_some(lane as usize)
    })
}
