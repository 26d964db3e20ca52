//! Clocks and shared memory against a naive specification, in random programs.
//!
//! The specification gives every thread a full vector clock and every byte its full history. An access must be refused
//! if and only if the specification has a reason, and for one of its reasons.

use super::*;

const WARPS: usize = 3;
/// Few lanes, so that they meet often.
const LIVE: [usize; 4] = [0, 1, 7, 31];
const ASYNC_THREADS: usize = 40;
const THREADS: usize = 32 * WARPS + ASYNC_THREADS;
const BYTES: usize = 48;
/// So many of which are used in half of the programs, for more to happen at the same place.
const FEW_BYTES: usize = 16;
const BARRIERS: usize = 3;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }

    /// Some of the live lanes: all of them, one, or any.
    fn lanes(&mut self) -> Vec<usize> {
        match self.below(4) {
            0 | 1 => LIVE.to_vec(),
            2 => vec![LIVE[self.below(LIVE.len())]],
            _ => {
                let mask = 1 + self.below(15);
                (0..LIVE.len()).filter(|i| mask >> i & 1 != 0).map(|i| LIVE[i]).collect()
            }
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn mask(lanes: &[usize]) -> u32 {
    lanes.iter().fold(0, |mask, lane| mask | 1 << lane)
}

#[derive(Clone)]
struct Knowledge {
    known: Vec<u32>,
    visible: Vec<u32>,
}

impl Knowledge {
    fn none() -> Knowledge {
        Knowledge { known: vec![0; THREADS], visible: vec![0; THREADS] }
    }

    fn join(&mut self, other: &Knowledge) {
        let pairs = self.known.iter_mut().zip(&other.known).chain(self.visible.iter_mut().zip(&other.visible));
        pairs.for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
    }
}

/// One access in a byte's history.
#[derive(Clone, Copy)]
struct Event {
    deed: Deed,
    thread: usize,
    clock: u32,
    /// Under way, with this id.
    pending: Option<u32>,
}

struct Model {
    now: Vec<u32>,
    threads: Vec<Knowledge>,
    barriers: Vec<Knowledge>,
    history: Vec<Vec<Event>>,
    bytes: [u8; BYTES],
}

fn is_read(deed: Deed) -> bool {
    matches!(deed, Deed::Read | Deed::AsyncRead)
}

fn is_store(deed: Deed) -> bool {
    matches!(deed, Deed::Write | Deed::Copy)
}

impl Model {
    fn new() -> Model {
        Model {
            now: vec![1; THREADS],
            threads: vec![Knowledge::none(); THREADS],
            barriers: vec![Knowledge::none(); BARRIERS],
            history: vec![Vec::new(); BYTES],
            bytes: [0; BYTES],
        }
    }

    fn release(&mut self, threads: &[usize]) -> Knowledge {
        let mut released = Knowledge::none();
        for thread in threads {
            released.join(&self.threads[*thread]);
            released.known[*thread] = self.now[*thread];
            self.now[*thread] += 1;
        }
        released
    }

    fn acquire(&mut self, threads: &[usize], from: &Knowledge) {
        threads.iter().for_each(|thread| self.threads[*thread].join(from));
    }

    fn proxy_fence(&mut self, threads: &[usize]) {
        for thread in threads {
            let Knowledge { known, visible } = &mut self.threads[*thread];
            visible.iter_mut().zip(known).for_each(|(visible, known)| *visible = (*visible).max(*known));
            // The lanes that execute the fence together make one another's accesses visible.
            threads.iter().for_each(|other| visible[*other] = self.now[*other]);
        }
        threads.iter().for_each(|thread| self.now[*thread] += 1);
    }

    /// Why this access is wrong.
    fn reasons(&self, thread: usize, deed: Deed, proxy: Proxy, start: usize, len: usize) -> Vec<Kind> {
        let mut reasons = Vec::new();
        let Knowledge { known, visible } = &self.threads[thread];
        for history in &self.history[start..start + len] {
            let last_write = history.iter().rev().find(|event| is_store(event.deed));
            if last_write.is_none() && !is_store(deed) {
                reasons.push(Kind::Uninitialised);
            }
            for event in history.iter().filter(|event| !(is_read(deed) && is_read(event.deed))) {
                let both_atomic = deed == Deed::Atomic && event.deed == Deed::Atomic;
                if event.pending.is_some() {
                    reasons.push(Kind::NotWaited);
                } else if !both_atomic && event.thread != thread && known[event.thread] < event.clock {
                    reasons.push(Kind::Race);
                }
            }
            let by_async_proxy = deed == Deed::AsyncRead || deed == Deed::Copy && proxy == Proxy::Asynchronous;
            if let Some(Event { thread: writer, clock, .. }) = last_write
                && by_async_proxy
                && *writer < 32 * WARPS
                && visible[*writer] < *clock
            {
                reasons.push(Kind::Unfenced);
            }
        }
        reasons
    }

    /// The operation that is under way with this id counts as made by `thread` now.
    fn finish(&mut self, id: u32, thread: usize) {
        for event in self.history.iter_mut().flatten().filter(|event| event.pending == Some(id)) {
            *event = Event { thread, clock: self.now[thread], pending: None, ..*event };
        }
    }
}

/// An asynchronous operation that is under way.
struct Flight {
    id: u32,
    start: usize,
    len: usize,
    deed: Deed,
    warp: usize,
    lane: usize,
}

/// The specification and what is held against it, in one random program.
struct Program {
    random: Random,
    model: Model,
    memory: SharedMemory,
    clocks: Clocks,
    barriers: Vec<VectorClock>,
    flights: Vec<Flight>,
    /// How many bytes are used, and in how many of 8 cases an access is a read.
    num_bytes: usize,
    num_reads: usize,
    allowed: u32,
    refused: u32,
}

impl Program {
    fn new(seed: u64) -> Program {
        let mut memory = SharedMemory::default();
        memory.reset(BYTES);
        let mut clocks = Clocks::default();
        clocks.reset(WARPS);
        (0..WARPS).for_each(|warp| clocks.exit(warp, !mask(&LIVE)));
        let mut random = Random(seed);
        let num_bytes = if random.below(2) == 0 { FEW_BYTES } else { BYTES };
        let num_reads = random.below(8);
        Program {
            random,
            model: Model::new(),
            memory,
            clocks,
            barriers: vec![VectorClock::default(); BARRIERS],
            flights: Vec::new(),
            num_bytes,
            num_reads,
            allowed: 0,
            refused: 0,
        }
    }

    fn synchronise(&mut self) {
        let Program { random, model, clocks, barriers, .. } = self;
        let warp = random.below(WARPS);
        let lanes = random.lanes();
        let threads: Vec<usize> = lanes.iter().map(|lane| 32 * warp + lane).collect();
        let barrier = random.below(BARRIERS);
        match random.below(6) {
            0 => {
                clocks.release(warp, mask(&lanes), &mut barriers[barrier]);
                let released = model.release(&threads);
                model.barriers[barrier].join(&released);
            }
            1 => {
                clocks.acquire(warp, mask(&lanes), &barriers[barrier]);
                let from = model.barriers[barrier].clone();
                model.acquire(&threads, &from);
            }
            2 => {
                clocks.warp_sync(warp, mask(&lanes));
                let released = model.release(&threads);
                model.acquire(&threads, &released);
            }
            3 => {
                clocks.proxy_fence(warp, mask(&lanes));
                model.proxy_fence(&threads);
            }
            4 => {
                let mut block = VectorClock::default();
                (0..WARPS).for_each(|warp| clocks.release(warp, mask(&LIVE), &mut block));
                (0..WARPS).for_each(|warp| clocks.acquire(warp, mask(&LIVE), &block));
                let everyone: Vec<usize> = (0..WARPS).flat_map(|warp| LIVE.map(|lane| 32 * warp + lane)).collect();
                let released = model.release(&everyone);
                model.acquire(&everyone, &released);
            }
            _ if self.flights.is_empty() => {}
            _ => self.wait(&lanes, barrier),
        }
    }

    /// An asynchronous operation completes: for the thread that started it, or for some lanes and at a barrier.
    fn wait(&mut self, lanes: &[usize], barrier: usize) {
        let Program { random, model, memory, clocks, barriers, flights, .. } = self;
        let Flight { id, start, len, deed, warp, lane } = flights.swap_remove(random.below(flights.len()));
        let stamp = if random.below(2) == 0 {
            model.finish(id, 32 * warp + lane);
            clocks.access(warp as u16, lane as u8)
        } else {
            let thread = random.below(ASYNC_THREADS);
            let stamp = clocks.asynchronous(thread);
            let thread = 32 * WARPS + thread;
            model.now[thread] = stamp.clock;
            model.finish(id, thread);
            clocks.learn(warp, mask(lanes), stamp);
            lanes.iter().for_each(|lane| model.threads[32 * warp + lane].known[thread] = stamp.clock);
            barriers[barrier].learn(stamp);
            model.barriers[barrier].known[thread] = stamp.clock;
            stamp
        };
        if deed == Deed::Copy {
            let bytes = random.bytes(len);
            memory.finish_copy(start as u32, &bytes, id, stamp).unwrap();
            model.bytes[start..start + len].copy_from_slice(&bytes);
        } else {
            memory.end_async_read(start as u32, len, id, stamp).unwrap();
        }
    }

    fn access(&mut self, step: u32) {
        let Program { random, model, memory, clocks, .. } = self;
        let deeds = [Deed::Write, Deed::Write, Deed::Atomic, Deed::Copy, Deed::AsyncRead];
        let is_read = random.below(8) < self.num_reads;
        let deed = if is_read { Deed::Read } else { deeds[random.below(deeds.len())] };
        let len = match deed {
            Deed::Read | Deed::Write => 1 << random.below(5),
            Deed::Atomic => 2 << random.below(3),
            Deed::Copy => 4 << random.below(3),
            Deed::AsyncRead => 16,
        };
        let start = len * random.below(self.num_bytes / len);
        let proxy = if len == 16 && random.below(2) == 0 { Proxy::Asynchronous } else { Proxy::Generic };
        let (warp, lane) = (random.below(WARPS), LIVE[random.below(LIVE.len())]);
        let thread = 32 * warp + lane;
        // Each step is another instruction: lanes that write the same value together have a test of their own.
        let who = Who { warp: warp as u16, lane: lane as u8, site: step };
        let bytes = random.bytes(len);
        let reasons = model.reasons(thread, deed, proxy, start, len);
        // A refused access ends a kernel, so it may leave anything behind: it is tried on a copy.
        let mut copy = memory.clone();
        let target = if reasons.is_empty() { memory } else { &mut copy };
        let offset = start as u32;
        let mut out = vec![0; len];
        let result = match deed {
            Deed::Read => target.read(who, clocks, offset, &mut out),
            Deed::Write => target.write(who, clocks, offset, &bytes),
            Deed::Atomic => target.atomic(who, clocks, offset, len, |old| old ^ 0x55).map(|old| {
                out.copy_from_slice(&old.to_le_bytes()[..len]);
            }),
            Deed::Copy => target.begin_copy(who, clocks, offset, len, step, proxy),
            Deed::AsyncRead => target.begin_async_read(who, clocks, offset, &mut out, step),
        };
        let place = format!("step {step}, {deed} of {len} bytes at {start} by {who:?}");
        if let Err(conflict) = result {
            assert!(reasons.contains(&conflict.kind), "{place}: {conflict:?} is not among {reasons:?}");
            self.refused += 1;
            return;
        }
        assert!(reasons.is_empty(), "{place}: not found: {reasons:?}");
        self.allowed += 1;
        let range = start..start + len;
        match deed {
            Deed::Read | Deed::AsyncRead => assert_eq!(out, model.bytes[range.clone()], "{place}"),
            Deed::Atomic => {
                assert_eq!(out, model.bytes[range.clone()], "{place}");
                model.bytes[start] ^= 0x55;
            }
            Deed::Write => model.bytes[range.clone()].copy_from_slice(&bytes),
            Deed::Copy => {}
        }
        let under_way = matches!(deed, Deed::Copy | Deed::AsyncRead);
        if under_way {
            self.flights.push(Flight { id: step, start, len, deed, warp, lane });
        }
        let event = Event { deed, thread, clock: model.now[thread], pending: under_way.then_some(step) };
        for history in &mut model.history[range] {
            if deed == Deed::Copy {
                // All of it comes before the copy, and so before whatever comes after the copy, also where a thread
                // knows of the copy alone.
                history.clear();
            }
            history.push(event);
        }
    }
}

#[test]
fn random_programs_are_judged_as_the_specification_judges_them() {
    let (mut allowed, mut refused) = (0, 0);
    for seed in 0..1000 {
        let mut program = Program::new(seed);
        // Programs that synchronise often and programs that do not.
        let rate = 2 + program.random.below(12);
        for step in 1..=300 {
            if program.random.below(16) < rate {
                program.synchronise();
            } else {
                program.access(step);
            }
        }
        allowed += program.allowed;
        refused += program.refused;
    }
    assert!(allowed > 40_000 && refused > 40_000, "{allowed} allowed, {refused} refused: too few to say anything");
}
