//! The state of one warp: its registers, and where its lanes are.
//!
//! Each lane may be at another instruction. Lanes at the same one form a [`Group`] and are executed together; of several
//! groups the one that is furthest behind goes first, so that lanes which took different ways meet again where the ways do.

use std::collections::VecDeque;

use crate::execute::Stop;
use crate::fault::Misuse;
use crate::program::{Constant, Program, Slot};
use crate::registers::Registers;

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Running,
    /// Waits at an instruction of the warp until the lanes in `required` are there. With `is_aligned` none of them may
    /// exit instead.
    Gathering {
        required: u32,
        is_aligned: bool,
    },
    /// Has arrived at a barrier of the block in this phase.
    AtBarrier {
        id: u32,
        phase: u64,
    },
    /// Waits for the phase of the cluster's barrier to end.
    AtClusterBarrier {
        phase: u64,
    },
}

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) state: GroupState,
}

/// A copy by `cp.async` that has not been waited for.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) offset: u32,
    pub(crate) bytes: [u8; 16],
    pub(crate) len: u8,
    pub(crate) id: u32,
}

/// The copies of a lane: those of the open group, and the committed groups, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    pub(crate) open: Vec<Copy>,
    pub(crate) groups: VecDeque<Vec<Copy>>,
}

/// Bulk stores, or matrix products, that still read shared memory: offset and length of each part, and the id.
#[derive(Clone, Debug, Default)]
pub(crate) struct AsyncReads {
    pub(crate) parts: Vec<(u32, u32, u32)>,
}

/// The matrix products of a warp that have not been waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Products {
    pub(crate) open: Product,
    pub(crate) groups: VecDeque<Product>,
    /// How many products still write each 32-bit slot; empty if there are none.
    pub(crate) pending: Vec<u16>,
    pub(crate) num_pending: usize,
    /// A `wgmma.fence` has been executed since registers could have been touched.
    pub(crate) is_fenced: bool,
}

/// A group of products.
#[derive(Clone, Debug, Default)]
pub(crate) struct Product {
    pub(crate) reads: AsyncReads,
    pub(crate) accumulators: Vec<u32>,
}

/// One warp.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub(crate) registers: Registers,
    pub(crate) groups: Vec<Group>,
    /// Lanes that exist and have not exited.
    pub(crate) alive: u32,
    /// In the cluster: rank of the block × warps of a block + warp.
    pub(crate) index: u16,
    /// Block of the cluster.
    pub(crate) rank: usize,
    /// Thread number of lane 0 in the block.
    pub(crate) first_thread: u32,
    /// Local memory of each lane, one after the other, and which of its bytes are written.
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
    pub(crate) copies: Vec<Copies>,
    /// Of each lane: bulk stores of the open group, and committed ones.
    pub(crate) bulk_open: Vec<AsyncReads>,
    pub(crate) bulk_groups: Vec<VecDeque<AsyncReads>>,
    pub(crate) products: Products,
    /// The phase of the cluster's barrier that this warp arrived in.
    pub(crate) cluster_phase: u64,
    /// Backward branches since another running group last had its turn.
    pub(crate) num_spins: u32,
}

impl Warp {
    /// A warp at its first instruction, with registers that hold what they start with.
    pub(crate) fn reset(&mut self, program: &Program, alive: u32, symbols: &[u64]) {
        let Registers { b32, b64, predicates } = &mut self.registers;
        // What nobody has written is not zero by chance.
        b32.clear();
        b32.resize(program.num_b32 as usize, [0xbaad_f00d; 32]);
        b64.clear();
        b64.resize(program.num_b64 as usize, [0xbaad_f00d_baad_f00d; 32]);
        predicates.clear();
        predicates.resize(program.num_predicates as usize, 0);
        for &(slot, constant) in &program.constants {
            let value = match constant {
                Constant::Value(value) => value,
                Constant::Symbol(index) => symbols[index],
            };
            match slot {
                Slot::B32(slot) => b32[slot as usize] = [value as u32; 32],
                Slot::B64(slot) => b64[slot as usize] = [value; 32],
            }
        }
        self.alive = alive;
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: alive, state: GroupState::Running });
        let local = program.local_bytes as usize * 32;
        self.local.clear();
        self.local.resize(local, 0);
        self.local_written.clear();
        self.local_written.resize(local, false);
        self.copies.clear();
        self.copies.resize(32, Copies::default());
        self.bulk_open.clear();
        self.bulk_open.resize(32, AsyncReads::default());
        self.bulk_groups.clear();
        self.bulk_groups.resize(32, VecDeque::new());
        self.products = Products::default();
        self.num_spins = 0;
    }

    /// The running group that goes next: the one furthest behind, or after many turns of a loop the one furthest ahead, as
    /// the others may wait for it. Groups at the same instruction become one.
    pub(crate) fn pick(&mut self) -> Option<usize> {
        const MOST_SPINS: u32 = 1000;
        self.merge();
        let running = self.groups.iter().enumerate().filter(|(_, group)| group.state == GroupState::Running);
        if self.num_spins > MOST_SPINS {
            self.num_spins = 0;
            return running.max_by_key(|(_, group)| group.pc).map(|(index, _)| index);
        }
        running.min_by_key(|(_, group)| group.pc).map(|(index, _)| index)
    }

    fn merge(&mut self) {
        let mut index = 0;
        while index < self.groups.len() {
            let Group { pc, mask, state } = self.groups[index];
            let same = self.groups[..index].iter().position(|group| group.pc == pc && group.state == state);
            match same {
                Some(same) => {
                    self.groups[same].mask |= mask;
                    self.groups.remove(index);
                }
                None => index += 1,
            }
        }
    }

    /// The first instruction at which another running group waits for this one to come, beyond `pc`.
    pub(crate) fn next_meeting(&self, current: usize) -> u32 {
        let pc = self.groups[current].pc;
        let others = self
            .groups
            .iter()
            .enumerate()
            .filter(|&(index, group)| index != current && group.state == GroupState::Running && group.pc > pc);
        others.map(|(_, group)| group.pc).min().unwrap_or(u32::MAX)
    }

    /// Brings the group `current` to an instruction that needs all lanes in `required`. Returns whether they are all
    /// here, and then in this group; else the group waits.
    pub(crate) fn gather(&mut self, current: usize, required: u32, is_aligned: bool) -> bool {
        let Group { pc, mask, .. } = self.groups[current];
        if required & !mask == 0 {
            return true;
        }
        let waiting = self.groups.iter().enumerate().position(|(index, group)| {
            index != current && group.pc == pc && matches!(group.state, GroupState::Gathering { .. })
        });
        let mut current = current;
        if let Some(waiting) = waiting {
            let all = mask | self.groups[waiting].mask;
            self.groups[waiting].mask = all;
            self.groups.remove(current);
            current = if waiting > current { waiting - 1 } else { waiting };
            if required & !all == 0 {
                // It will come here again as one group.
                self.groups[current].state = GroupState::Running;
                return false;
            }
        }
        self.groups[current].state = GroupState::Gathering { required, is_aligned };
        false
    }

    /// Takes lanes away that have exited.
    ///
    /// # Errors
    /// If other lanes wait for them at an instruction that all must execute; it is named.
    pub(crate) fn exit(&mut self, lanes: u32) -> Result<(), Stop> {
        self.alive &= !lanes;
        for group in &mut self.groups {
            group.mask &= !lanes;
        }
        self.groups.retain(|group| group.mask != 0);
        for group in &mut self.groups {
            if let GroupState::Gathering { required, is_aligned } = &mut group.state {
                if *is_aligned && *required & lanes != 0 {
                    let message = format!(
                        "lanes {} of the warp exit without reaching this instruction, at which lanes {} wait for the whole warp",
                        lane_list(*required & lanes),
                        lane_list(group.mask)
                    );
                    let lane = group.mask.trailing_zeros();
                    return Err(Stop { misuse: Misuse::Barrier(message), pc: group.pc, lane });
                }
                *required &= !lanes;
                if *required & !group.mask == 0 {
                    group.state = GroupState::Running;
                }
            }
        }
        Ok(())
    }

    /// Whether products still write a slot that an instruction names.
    pub(crate) fn is_pending(&self, uses: &[u32]) -> bool {
        self.products.num_pending > 0
            && uses.iter().any(|&slot| self.products.pending.get(slot as usize).is_some_and(|&count| count > 0))
    }
}

/// `0-15, 17`
pub(crate) fn lane_list(mask: u32) -> String {
    let mut parts = Vec::new();
    let mut lane = 0;
    while lane < 32 {
        if mask >> lane & 1 == 0 {
            lane += 1;
            continue;
        }
        let first = lane;
        while lane < 32 && mask >> lane & 1 != 0 {
            lane += 1;
        }
        parts.push(if lane - first == 1 { first.to_string() } else { format!("{first}-{}", lane - 1) });
    }
    parts.join(", ")
}
