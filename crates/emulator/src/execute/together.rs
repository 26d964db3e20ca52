//! Instructions that lanes of a warp, warps of a block or blocks of a cluster execute together.

use super::{LaneResult, Next, Step, lanes};
use crate::fault::Misuse;
use crate::mma::{ldmatrix, mma_sync, movmatrix, stmatrix};
use crate::program::{BarrierReduction, BarrierUse, Op, Reduction, Shuffle, Slot, Vote};
use crate::registers::set_predicate;
use crate::warp::{Group, GroupState, Warp};

/// Barriers of a block.
pub(crate) const NUM_BARRIERS: usize = 16;

impl Step<'_, '_> {
    pub(super) fn together(mut self, op: &Op) -> LaneResult<Next> {
        // Lanes whose guard does not hold go on alone.
        if self.active != self.mask {
            let rest = self.mask & !self.active;
            self.warp.groups[self.current].mask = self.active;
            self.warp.groups.push(Group { pc: self.pc + 1, mask: rest, state: GroupState::Running });
            return Ok(Next::Regroup);
        }
        let (required, is_aligned) = match op {
            Op::Shuffle { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Redux { members, .. }
            | Op::Elect { members, .. }
            | Op::WarpSync { members } => return self.among_members(op, *members),
            Op::Barrier { is_aligned, .. } => (if *is_aligned { self.warp.alive } else { self.mask }, true),
            _ => (self.warp.alive, true),
        };
        if !self.warp.gather(self.current, required, is_aligned) {
            return Ok(Next::Regroup);
        }
        match op {
            Op::Barrier { what, id, count, reduction, is_aligned } => {
                return self.barrier(*what, *id, *count, *reduction, *is_aligned);
            }
            Op::ClusterArrive => self.cluster_arrive(),
            Op::ClusterWait => {
                let phase = self.warp.cluster_phase;
                if self.cluster.barrier.phase == phase {
                    self.warp.groups[self.current].state = GroupState::AtClusterBarrier { phase };
                    return Ok(Next::Regroup);
                }
                let warp = usize::from(self.warp.index);
                self.cluster.clocks.acquire(warp, self.active, &self.cluster.barrier.completed);
            }
            Op::Mma { op, d, a, b, c } => {
                let registers = &mut self.warp.registers.b32;
                let fetch =
                    |slots: &[u32]| -> Vec<[u32; 32]> { slots.iter().map(|&slot| registers[slot as usize]).collect() };
                let (a, b, c) = (fetch(a), fetch(b), fetch(c));
                let mut result = vec![[0; 32]; d.len()];
                mma_sync(op, &a, &b, &c, &mut result);
                for (&slot, value) in d.iter().zip(result) {
                    registers[slot as usize] = value;
                }
            }
            Op::LoadMatrix { address, order, d } => {
                let num_rows = 8 * d.len();
                let mut rows = [[0; 16]; 32];
                for (lane, row) in rows[..num_rows].iter_mut().enumerate() {
                    let target = self.target(*address, lane)?;
                    self.read_bytes(target, lane, row)?;
                }
                let mut registers = [[0; 32]; 4];
                ldmatrix(*order, &rows[..num_rows], &mut registers[..d.len()]);
                for (&slot, value) in d.iter().zip(registers) {
                    self.warp.registers.b32[slot as usize] = value;
                }
            }
            Op::StoreMatrix { address, order, a } => {
                let registers: Vec<[u32; 32]> = a.iter().map(|&slot| self.warp.registers.b32[slot as usize]).collect();
                let mut rows = [[0; 16]; 32];
                let num_rows = 8 * a.len();
                stmatrix(*order, &registers, &mut rows[..num_rows]);
                for (lane, row) in rows[..num_rows].iter().enumerate() {
                    let target = self.target(*address, lane)?;
                    self.write_bytes(target, lane, row)?;
                }
            }
            Op::MoveMatrix { d, a } => {
                let moved = movmatrix(&self.warp.registers.b32[*a as usize]);
                self.warp.registers.b32[*d as usize] = moved;
            }
            Op::Wgmma(operands) => self.wgmma(operands)?,
            Op::WgmmaFence => self.warp.products.is_fenced = true,
            Op::WgmmaCommit => self.wgmma_commit(),
            Op::WgmmaWait { keep } => self.wgmma_wait(*keep)?,
            // Everything else was executed before.
            other => return Err((self.first(), Misuse::Unsupported(format!("{other:?}")))),
        }
        Ok(Next::Step)
    }

    /// An instruction that says in a mask which lanes take part. Lanes with the same mask execute it together, and those
    /// with another mask for themselves.
    fn among_members(mut self, op: &Op, slot: u32) -> LaneResult<Next> {
        let masks = self.warp.registers.b32[slot as usize];
        let mut named = 0;
        for lane in lanes(self.active) {
            let mask = masks[lane];
            if mask >> lane & 1 == 0 {
                let message = format!("lane {lane} is not in the mask {mask:#x} of the instruction that it executes");
                return Err((lane as u32, Misuse::Barrier(message)));
            }
            named |= mask;
        }
        if !self.warp.gather(self.current, named & self.warp.alive, false) {
            return Ok(Next::Regroup);
        }
        let mut left = self.active;
        while left != 0 {
            let first = left.trailing_zeros();
            let mask = masks[first as usize];
            let same = lanes(left).filter(|&lane| masks[lane] == mask).fold(0, |same, lane| same | 1 << lane);
            let members = mask & self.warp.alive;
            if same != members {
                let lane = (members & !same).trailing_zeros();
                let own = masks[lane as usize];
                let message = format!(
                    "the mask of lanes is {own:#x} here, and {mask:#x} in lane {first}, which waits for this one"
                );
                return Err((lane, Misuse::Barrier(message)));
            }
            self.active = same;
            match op {
                Op::Shuffle { kind, d, valid, a, b, c, .. } => self.shuffle(*kind, *d, *valid, [*a, *b, *c], members),
                Op::Vote { kind, d, is_predicate, a, .. } => self.vote(*kind, *d, *is_predicate, *a, members),
                Op::Match { d, is_all, all, a, .. } => self.match_values(*d, *is_all, *all, *a, members),
                Op::Redux { kind, d, a, .. } => self.redux(*kind, *d, *a, members),
                Op::Elect { d, elected, .. } => {
                    self.set_all(*d, first);
                    set_predicate(&mut self.warp.registers, *elected, same, 1 << first);
                }
                // The one that is left: a barrier of the warp.
                _ => self.cluster.clocks.warp_sync(usize::from(self.warp.index), members),
            }
            left &= !same;
        }
        Ok(Next::Step)
    }

    /// `shfl.sync` as the PTX ISA's pseudo-code has it.
    fn shuffle(&mut self, kind: Shuffle, d: u32, valid: Option<u32>, [a, b, c]: [u32; 3], members: u32) {
        let registers = &mut self.warp.registers;
        let (values, amounts, limits) =
            (registers.b32[a as usize], registers.b32[b as usize], registers.b32[c as usize]);
        let mut is_valid = 0;
        let mut result = registers.b32[d as usize];
        for lane in lanes(self.active) {
            let (amount, limit) = (amounts[lane] & 31, limits[lane]);
            let (clamp, segment) = (limit & 31, limit >> 8 & 31);
            let lane_number = lane as u32;
            let (first, last) = (lane_number & segment, (lane_number & segment) | (clamp & !segment));
            let (source, is_inside) = match kind {
                Shuffle::Up => (lane_number.wrapping_sub(amount), lane_number as i32 - amount as i32 >= last as i32),
                Shuffle::Down => (lane_number + amount, lane_number + amount <= last),
                Shuffle::Butterfly => (lane_number ^ amount, lane_number ^ amount <= last),
                Shuffle::Index => (first | (amount & !segment), first | (amount & !segment) <= last),
            };
            let source = if is_inside { source & 31 } else { lane_number };
            is_valid |= u32::from(is_inside) << lane;
            // Lanes that do not take part have no defined value to give.
            result[lane] = if members >> source & 1 != 0 { values[source as usize] } else { 0xdead_beef };
        }
        registers.b32[d as usize] = result;
        if let Some(valid) = valid {
            set_predicate(registers, valid, self.active, is_valid);
        }
    }

    fn vote(&mut self, kind: Vote, d: Slot, is_predicate: bool, a: (u32, bool), members: u32) {
        let held = super::read(&self.warp.registers.predicates, a) & members;
        let Slot::B32(d) = d else { return };
        if !is_predicate {
            self.set_all(d, held);
            return;
        }
        let holds = match kind {
            Vote::All => held == members,
            Vote::Any => held != 0,
            Vote::Uniform | Vote::Ballot => held == members || held == 0,
        };
        set_predicate(&mut self.warp.registers, d, self.active, if holds { u32::MAX } else { 0 });
    }

    fn match_values(&mut self, d: u32, is_all: bool, all: Option<u32>, a: Slot, members: u32) {
        let values: Vec<u64> = (0..32).map(|lane| self.bits(a, lane)).collect();
        let same = |lane: usize| {
            lanes(members).filter(|&other| values[other] == values[lane]).fold(0, |mask, other| mask | 1 << other)
        };
        let first = same(members.trailing_zeros() as usize);
        let are_all_equal = first == members;
        for lane in lanes(self.active) {
            let value = if !is_all {
                same(lane)
            } else if are_all_equal {
                members
            } else {
                0
            };
            self.warp.registers.b32[d as usize][lane] = value;
        }
        if let Some(all) = all {
            set_predicate(&mut self.warp.registers, all, self.active, if are_all_equal { u32::MAX } else { 0 });
        }
    }

    fn redux(&mut self, kind: Reduction, d: u32, a: u32, members: u32) {
        let values = self.warp.registers.b32[a as usize];
        let reduced = lanes(members).map(|lane| values[lane]).reduce(|a, b| match kind {
            Reduction::Add => a.wrapping_add(b),
            Reduction::Min => a.min(b),
            Reduction::Max => a.max(b),
            Reduction::MinSigned => (a as i32).min(b as i32) as u32,
            Reduction::MaxSigned => (a as i32).max(b as i32) as u32,
            Reduction::And => a & b,
            Reduction::Or => a | b,
            Reduction::Xor => a ^ b,
        });
        self.set_all(d, reduced.unwrap_or(0));
    }

    fn barrier(
        &mut self,
        what: BarrierUse,
        id: u32,
        count: Option<u32>,
        reduction: Option<(BarrierReduction, (u32, bool))>,
        is_aligned: bool,
    ) -> LaneResult<Next> {
        let first = self.first();
        let value = |slot: u32| self.warp.registers.b32[slot as usize][first as usize];
        let (id, count) = (value(id), count.map(value));
        if id as usize >= NUM_BARRIERS {
            return Err((first, Misuse::Barrier(format!("barrier {id}: a block has {NUM_BARRIERS}"))));
        }
        if count.is_some_and(|count| count == 0 || !count.is_multiple_of(32)) {
            let message =
                format!("barrier {id} is to wait for {count:?} threads: that is no multiple of the warp's 32");
            return Err((first, Misuse::Barrier(message)));
        }
        let active = self.active;
        let holds = reduction.map(|(_, p)| super::read(&self.warp.registers.predicates, p) & active);
        let cluster = &mut *self.cluster;
        let block = &mut cluster.blocks[self.warp.rank];
        let num_alive = block.num_alive;
        let barrier = &mut block.barriers[id as usize];
        if barrier.num_threads > 0 && barrier.expected != count {
            let message =
                format!("barrier {id} waits for {:?} threads, and this warp wants {count:?}", barrier.expected);
            return Err((first, Misuse::Barrier(message)));
        }
        barrier.expected = count;
        barrier.num_threads += active.count_ones();
        barrier.num_counted += if is_aligned { 32 } else { active.count_ones() };
        if let Some(holds) = holds {
            barrier.votes.0 += holds.count_ones();
            barrier.votes.1 += active.count_ones();
        }
        cluster.clocks.release(usize::from(self.warp.index), active, &mut barrier.arriving);
        let phase = barrier.phase;
        barrier.try_complete(num_alive);
        cluster.has_progress = true;
        if what == BarrierUse::Arrive {
            return Ok(Next::Step);
        }
        if barrier.phase == phase {
            self.warp.groups[self.current].state = GroupState::AtBarrier { id, phase };
            return Ok(Next::Regroup);
        }
        cluster.clocks.acquire(usize::from(self.warp.index), active, &barrier.completed);
        let result = barrier.result;
        finish_reduction(&self.instruction.op, result, active, self.warp);
        Ok(Next::Step)
    }

    fn cluster_arrive(&mut self) {
        let cluster = &mut *self.cluster;
        self.warp.cluster_phase = cluster.barrier.phase;
        cluster.barrier.num_threads += self.active.count_ones();
        cluster.clocks.release(usize::from(self.warp.index), self.active, &mut cluster.barrier.arriving);
        let num_alive = cluster.num_alive;
        cluster.barrier.try_complete(num_alive);
        cluster.has_progress = true;
    }
}

/// Writes what `bar.red` has found into the registers of lanes that waited at it.
pub(super) fn finish_reduction(op: &Op, (held, of): (u32, u32), mask: u32, warp: &mut Warp) {
    let Op::Barrier { reduction: Some((reduction, _)), .. } = op else { return };
    let all = |holds: bool| if holds { u32::MAX } else { 0 };
    match *reduction {
        BarrierReduction::Count(d) => {
            for lane in lanes(mask) {
                warp.registers.b32[d as usize][lane] = held;
            }
        }
        BarrierReduction::All(d) => set_predicate(&mut warp.registers, d, mask, all(held == of)),
        BarrierReduction::Any(d) => set_predicate(&mut warp.registers, d, mask, all(held > 0)),
    }
}
