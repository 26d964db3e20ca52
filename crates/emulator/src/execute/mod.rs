//! Executes the instructions of one warp until it ends, must wait, or has had its turn.

mod access;
mod asynchronous;
mod together;

pub(crate) use together::NUM_BARRIERS;

use crate::block::Cluster;
use crate::clocks::Access;
use crate::fault::Misuse;
use crate::program::{Instruction, Logic, Op};
use crate::warp::{Group, GroupState, Warp};

/// Why a warp has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It may go on at once.
    Over,
    /// All its lanes wait for others.
    Waiting,
    /// It asked for something that is not there yet, and will ask again.
    Polling,
    Exited,
}

/// What a thread did wrong at which instruction.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) misuse: Misuse,
    pub(crate) pc: u32,
    pub(crate) lane: u32,
}

/// A lane and what it did wrong.
pub(crate) type LaneResult<T> = Result<T, (u32, Misuse)>;

/// What follows an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next instruction.
    Step,
    /// The instruction has set where its lanes go, or that they wait.
    Regroup,
    /// The next instruction, after other warps have had a turn.
    Yield,
}

/// Instructions of a turn.
const TURN: u32 = 4096;

/// Runs a warp for one turn.
pub(crate) fn run(cluster: &mut Cluster<'_>, warp: &mut Warp) -> Result<Turn, Stop> {
    let program = cluster.program;
    let mut left = TURN;
    wake(cluster, warp);
    loop {
        let Some(current) = warp.pick() else {
            if warp.groups.is_empty() {
                return Ok(Turn::Exited);
            }
            if let Some(group) = only_gathering(warp) {
                return Err(stuck(warp, group));
            }
            return Ok(Turn::Waiting);
        };
        let meeting = warp.next_meeting(current);
        let Group { mut pc, mask, .. } = warp.groups[current];
        loop {
            if left == 0 {
                warp.groups[current].pc = pc;
                return Ok(Turn::Over);
            }
            left -= 1;
            cluster.num_instructions += 1;
            let Some(instruction) = program.instructions.get(pc as usize) else {
                let message = "the kernel ends without `ret`".to_owned();
                return Err(Stop {
                    misuse: Misuse::Trap(message),
                    pc: pc.saturating_sub(1),
                    lane: mask.trailing_zeros(),
                });
            };
            let active = match instruction.guard {
                Some((slot, is_negated)) => {
                    let held = warp.registers.predicates[slot as usize];
                    mask & if is_negated { !held } else { held }
                }
                None => mask,
            };
            if warp.products.num_pending > 0
                && warp.is_pending(&instruction.uses)
                && !matches!(instruction.op, Op::Wgmma(_))
            {
                let message =
                    "a register that a `wgmma` still computes is used before its `wgmma.wait_group`".to_owned();
                return Err(Stop { misuse: Misuse::NotWaited(message), pc, lane: mask.trailing_zeros() });
            }
            // What touches nothing but registers goes on at once.
            match &instruction.op {
                Op::Pure(action, args) => {
                    if active != 0 {
                        action(&mut warp.registers, args, active);
                    }
                    pc += 1;
                }
                Op::Branch { target } if active == mask => {
                    if *target <= pc && meeting_matters(warp) {
                        warp.num_spins += 1;
                        warp.groups[current].pc = *target;
                        break;
                    }
                    pc = *target;
                }
                _ if active == 0 => pc += 1,
                Op::Exit => {
                    warp.groups[current].pc = pc + 1;
                    exit(cluster, warp, pc, active)?;
                    break;
                }
                _ => {
                    warp.groups[current].pc = pc;
                    let step =
                        Step { cluster: &mut *cluster, warp: &mut *warp, instruction, pc, current, mask, active };
                    match step.execute().map_err(|(lane, misuse)| Stop { misuse, pc, lane })? {
                        Next::Step => pc += 1,
                        Next::Regroup => break,
                        Next::Yield => {
                            warp.groups[current].pc = pc + 1;
                            return Ok(Turn::Polling);
                        }
                    }
                }
            }
            if pc >= meeting {
                warp.groups[current].pc = pc;
                break;
            }
        }
    }
}

/// Whether other lanes of the warp run elsewhere.
fn meeting_matters(warp: &Warp) -> bool {
    warp.groups.len() > 1
}

/// Lets groups run whose barrier is through.
fn wake(cluster: &mut Cluster<'_>, warp: &mut Warp) {
    for index in 0..warp.groups.len() {
        let Group { pc, mask, state } = warp.groups[index];
        match state {
            GroupState::AtBarrier { id, phase } => {
                let barrier = &cluster.blocks[warp.rank].barriers[id as usize];
                if barrier.phase == phase {
                    continue;
                }
                cluster.clocks.acquire(usize::from(warp.index), mask, &barrier.completed);
                together::finish_reduction(&cluster.program.instructions[pc as usize].op, barrier.result, mask, warp);
            }
            GroupState::AtClusterBarrier { phase } => {
                if cluster.barrier.phase == phase {
                    continue;
                }
                cluster.clocks.acquire(usize::from(warp.index), mask, &cluster.barrier.completed);
            }
            GroupState::Running | GroupState::Gathering { .. } => continue,
        }
        warp.groups[index] = Group { pc: pc + 1, mask, state: GroupState::Running };
    }
}

/// A group that waits for lanes of its own warp which can no longer come, if all groups wait for such.
fn only_gathering(warp: &Warp) -> Option<Group> {
    let waits_for_warp = |group: &Group| matches!(group.state, GroupState::Gathering { .. });
    if warp.groups.iter().all(waits_for_warp) {
        return warp.groups.first().copied();
    }
    // Lanes at a barrier of the block go on some day, unless the barrier needs those that gather.
    None
}

/// The lanes of a warp wait for each other at different instructions.
pub(crate) fn stuck(warp: &Warp, group: Group) -> Stop {
    let others: Vec<String> = warp
        .groups
        .iter()
        .filter(|other| other.pc != group.pc)
        .map(|other| crate::warp::lane_list(other.mask))
        .collect();
    let message = format!(
        "lanes {} of the warp wait here for all of it, but lanes {} wait elsewhere",
        crate::warp::lane_list(group.mask),
        others.join(" and ")
    );
    Stop { misuse: Misuse::Barrier(message), pc: group.pc, lane: group.mask.trailing_zeros() }
}

/// Lanes of a warp exit at `pc`.
fn exit(cluster: &mut Cluster<'_>, warp: &mut Warp, pc: u32, exiting: u32) -> Result<(), Stop> {
    asynchronous::check_nothing_is_left(warp, exiting).map_err(|(lane, misuse)| Stop { misuse, pc, lane })?;
    warp.exit(exiting)?;
    let num = exiting.count_ones();
    let index = warp.index;
    cluster.has_progress = true;
    cluster.num_alive -= num;
    cluster.barrier.try_complete(cluster.num_alive);
    let block = &mut cluster.blocks[warp.rank];
    block.num_alive -= num;
    for barrier in &mut block.barriers {
        barrier.try_complete(block.num_alive);
    }
    let clocks = &cluster.clocks;
    block.visits.retain(|&(warp, lane), &mut (clock, _)| {
        let visit = Access { warp, lane, clock };
        !lanes(exiting).any(|lane| clocks.is_ordered_before(visit, index, lane as u8))
    });
    cluster.clocks.exit(usize::from(index), exiting);
    cluster.check_exited(warp.rank).map_err(|misuse| Stop { misuse, pc, lane: exiting.trailing_zeros() })
}

/// One instruction of one group of lanes.
struct Step<'s, 'c> {
    cluster: &'s mut Cluster<'c>,
    warp: &'s mut Warp,
    instruction: &'s Instruction,
    pc: u32,
    /// Index of the group.
    current: usize,
    /// Its lanes, and those whose guard lets them execute the instruction.
    mask: u32,
    active: u32,
}

impl Step<'_, '_> {
    fn execute(mut self) -> LaneResult<Next> {
        match &self.instruction.op {
            Op::Pure(action, args) => action(&mut self.warp.registers, args, self.active),
            Op::Setp { compare, args, other, combine } => {
                let registers = &mut self.warp.registers;
                let holds = compare(registers, args);
                let combined = |holds: u32, predicates: &[u32]| match combine {
                    None => holds,
                    Some((logic, slot, is_negated)) => apply(*logic, holds, read(predicates, (*slot, *is_negated))),
                };
                let (d, opposite) = (combined(holds, &registers.predicates), combined(!holds, &registers.predicates));
                crate::registers::set_predicate(registers, args.slots[0], self.active, d);
                if let Some(other) = other {
                    crate::registers::set_predicate(registers, *other, self.active, opposite);
                }
            }
            Op::Predicate { logic, d, a, b } => {
                let predicates = &self.warp.registers.predicates;
                let value = apply(*logic, read(predicates, *a), read(predicates, *b));
                crate::registers::set_predicate(&mut self.warp.registers, *d, self.active, value);
            }
            Op::Branch { target } => return Ok(self.split(self.active, *target)),
            Op::BranchIndexed { index, targets } => return self.branch_indexed(*index, targets),
            Op::Trap(message) => return Err((self.first(), Misuse::Trap(message.clone()))),
            Op::Nop => {}
            Op::Yield => return Ok(Next::Yield),
            Op::Load { address, element, registers } => {
                self.load(*address, *element, registers)?;
            }
            Op::Store { address, element, registers } => {
                self.store(*address, *element, registers)?;
            }
            Op::Atomic { address, bytes, operation, d, b, c } => {
                self.atomic(*address, *bytes, *operation, *d, *b, *c)?
            }
            Op::MapToRank { d, a, rank, is_generic } => self.map_to_rank(*d, *a, *rank, *is_generic)?,
            Op::ActiveMask { d } => self.set_all(*d, self.active),
            Op::FenceProxyAsync => self.cluster.clocks.proxy_fence(usize::from(self.warp.index), self.active),
            Op::CopyAsync { destination, source, bytes, source_bytes } => {
                self.copy_async(*destination, *source, *bytes, *source_bytes)?;
            }
            Op::CopyAsyncCommit => self.copy_async_commit(),
            Op::CopyAsyncWait { keep } => self.copy_async_wait(*keep)?,
            Op::CopyAsyncArrive { address, is_counted } => self.copy_async_arrive(*address, *is_counted)?,
            Op::Mbarrier { what, address, state, done, count } => {
                return self.mbarrier(*what, *address, *state, *done, *count);
            }
            Op::Bulk(bulk) => self.bulk(bulk)?,
            Op::BulkCommit => self.bulk_commit(),
            Op::BulkWait { keep } => self.bulk_wait(*keep)?,
            op => return self.together(op),
        }
        Ok(Next::Step)
    }

    fn first(&self) -> u32 {
        self.active.trailing_zeros()
    }

    /// Writes one value to a 32-bit register of all active lanes.
    fn set_all(&mut self, slot: u32, value: u32) {
        let register = &mut self.warp.registers.b32[slot as usize];
        for lane in lanes(self.active) {
            register[lane] = value;
        }
    }

    /// Sends `lanes` to `target` and the others of the group on.
    fn split(&mut self, lanes: u32, target: u32) -> Next {
        let group = &mut self.warp.groups[self.current];
        if lanes == self.mask {
            group.pc = target;
        } else {
            group.mask = self.mask & !lanes;
            group.pc = self.pc + 1;
            self.warp.groups.push(Group { pc: target, mask: lanes, state: GroupState::Running });
        }
        if target <= self.pc {
            self.warp.num_spins += 1;
        }
        Next::Regroup
    }

    fn branch_indexed(mut self, index: u32, targets: &[u32]) -> LaneResult<Next> {
        let indices = self.warp.registers.b32[index as usize];
        let group = self.warp.groups.remove(self.current);
        let rest = self.mask & !self.active;
        if rest != 0 {
            self.warp.groups.push(Group { pc: self.pc + 1, mask: rest, ..group });
        }
        let mut left = self.active;
        while left != 0 {
            let lane = left.trailing_zeros();
            let index = indices[lane as usize];
            let Some(&target) = targets.get(index as usize) else {
                return Err((lane, Misuse::OutOfBounds(format!("branch {index} of a list of {}", targets.len()))));
            };
            let same = lanes(left).filter(|&lane| indices[lane] == index).fold(0, |mask, lane| mask | 1 << lane);
            self.warp.groups.push(Group { pc: target, mask: same, state: GroupState::Running });
            left &= !same;
        }
        self.active = 0;
        Ok(Next::Regroup)
    }
}

/// The lanes of a predicate that hold, negated if asked.
fn read(predicates: &[u32], (slot, is_negated): (u32, bool)) -> u32 {
    let held = predicates[slot as usize];
    if is_negated { !held } else { held }
}

fn apply(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The lanes of a mask.
fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    crate::clocks::bits(mask)
}
