//! The state of one block, and of the cluster it belongs to.

use std::collections::{BTreeMap, VecDeque};

use crate::clocks::{Clocks, VectorClock};
use crate::fault::Misuse;
use crate::memory::{Cursor, GlobalMemory};
use crate::program::Program;
use crate::shared::SharedMemory;

/// A barrier of a block or of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that have arrived in this phase.
    pub(crate) num_threads: u32,
    /// The same, each warp counted as 32.
    pub(crate) num_counted: u32,
    /// Threads that must arrive, if an instruction has said so.
    pub(crate) expected: Option<u32>,
    /// Phases that have ended.
    pub(crate) phase: u64,
    /// What those who arrived have done.
    pub(crate) arriving: VectorClock,
    /// What those who wait may know.
    pub(crate) completed: VectorClock,
    /// Predicates of `bar.red`: how many held, and of how many; and the same of the last phase.
    pub(crate) votes: (u32, u32),
    pub(crate) result: (u32, u32),
}

impl Barrier {
    /// Ends the phase if all have arrived; `num_alive` threads take part if no number is said.
    pub(crate) fn try_complete(&mut self, num_alive: u32) {
        let is_complete = match self.expected {
            Some(expected) => self.num_counted >= expected,
            None => self.num_threads >= num_alive,
        };
        if self.num_threads > 0 && is_complete {
            self.phase += 1;
            (self.num_threads, self.num_counted, self.expected) = (0, 0, None);
            self.result = std::mem::take(&mut self.votes);
            self.completed.join(&self.arriving);
            self.arriving.clear();
        }
    }
}

/// An `mbarrier` object.
#[derive(Debug, Default)]
pub(crate) struct MbarrierState {
    /// Arrivals that a phase needs, and those that are missing.
    pub(crate) count: u32,
    pub(crate) pending: i64,
    /// Bytes that are still expected.
    pub(crate) tx: i64,
    pub(crate) phase: u64,
    pub(crate) arriving: VectorClock,
    pub(crate) completed: VectorClock,
    /// The asynchronous thread whose operations report here.
    pub(crate) thread: usize,
}

impl MbarrierState {
    /// What an incomplete phase lacks; `None` if it has not begun.
    pub(crate) fn missing(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.pending > 0 && (self.pending < i64::from(self.count) || self.tx != 0) {
            parts.push(format!("lacks {} of {} arrivals", self.pending, self.count));
        }
        if self.tx > 0 {
            parts.push(format!("lacks {} bytes that it was told to expect", self.tx));
        }
        if self.tx < 0 {
            parts.push(format!("got {} bytes more than it was told to expect", -self.tx));
        }
        (!parts.is_empty()).then(|| parts.join(" and "))
    }

    /// Ends the phase if nothing is missing.
    pub(crate) fn try_complete(&mut self) -> Result<(), Misuse> {
        if self.pending < 0 {
            return Err(Misuse::Barrier(format!("more arrivals at an mbarrier than its {} in one phase", self.count)));
        }
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = i64::from(self.count);
            self.completed.join(&self.arriving);
            self.arriving.clear();
        }
        Ok(())
    }
}

/// One block.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) index: [u32; 3],
    pub(crate) shared: SharedMemory,
    pub(crate) barriers: Vec<Barrier>,
    /// By offset in shared memory.
    pub(crate) mbarriers: BTreeMap<u32, MbarrierState>,
    pub(crate) num_alive: u32,
    /// Accesses of this block's memory by threads of other blocks, until a thread of this block that is ordered after
    /// them has exited: by warp and lane, the clock and the instruction.
    pub(crate) visits: BTreeMap<(u16, u8), (u32, u32)>,
}

/// A bulk copy into shared memory that has not arrived.
#[derive(Debug)]
pub(crate) struct PendingBulk {
    pub(crate) id: u32,
    /// Block that gets the data, and where.
    pub(crate) rank: usize,
    pub(crate) parts: Vec<(u32, Vec<u8>)>,
    /// Offset of the `mbarrier` in that block, and the bytes it counts.
    pub(crate) mbarrier: u32,
    pub(crate) bytes: i64,
}

/// The blocks of a cluster and what they share.
pub(crate) struct Cluster<'a> {
    pub(crate) program: &'a Program,
    pub(crate) memory: &'a GlobalMemory,
    pub(crate) params: &'a [u8],
    pub(crate) warps_per_block: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) clocks: Clocks,
    pub(crate) cursor: Cursor,
    pub(crate) barrier: Barrier,
    pub(crate) num_alive: u32,
    pub(crate) bulk: VecDeque<PendingBulk>,
    pub(crate) next_id: u32,
    pub(crate) num_mbarriers: usize,
    /// Something happened that a waiting warp may have waited for.
    pub(crate) has_progress: bool,
    /// Instructions that warps have executed.
    pub(crate) num_instructions: u64,
}

impl Cluster<'_> {
    /// A number that no earlier asynchronous operation of the cluster has.
    pub(crate) fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Of a block that has no threads left: nobody else may still use its shared memory.
    pub(crate) fn check_exited(&self, rank: usize) -> Result<(), Misuse> {
        let block = &self.blocks[rank];
        if block.num_alive > 0 {
            return Ok(());
        }
        if self.bulk.iter().any(|bulk| bulk.rank == rank) {
            let message =
                "the block exits while a bulk copy into its shared memory is under way: nobody has waited for it";
            return Err(Misuse::NotWaited(message.to_owned()));
        }
        let Some((&(warp, lane), &(_, site))) = block.visits.first_key_value() else { return Ok(()) };
        let (of_rank, warp) = (usize::from(warp) / self.warps_per_block, usize::from(warp) % self.warps_per_block);
        let line = self.program.instructions.get(site as usize).map_or(0, |instruction| instruction.site.outer.line);
        Err(Misuse::Race(format!(
            "the block exits, and nothing orders that after the access of its shared memory by warp {warp} lane {lane} of block {of_rank} of the cluster at line {line}"
        )))
    }

    /// Lets bulk copies arrive: the oldest of those that report to this `mbarrier`, or the oldest of all. Returns whether
    /// there was one.
    pub(crate) fn deliver(&mut self, at: Option<(usize, u32)>) -> Result<bool, Misuse> {
        let position = match at {
            Some((rank, mbarrier)) => self.bulk.iter().position(|bulk| (bulk.rank, bulk.mbarrier) == (rank, mbarrier)),
            None => (!self.bulk.is_empty()).then_some(0),
        };
        let Some(bulk) = position.and_then(|position| self.bulk.remove(position)) else { return Ok(false) };
        let num_warps = self.warps_per_block * self.blocks.len();
        let block = &mut self.blocks[bulk.rank];
        let Some(mbarrier) = block.mbarriers.get_mut(&bulk.mbarrier) else {
            return Err(Misuse::Barrier("a bulk copy reports to an mbarrier that is gone".to_owned()));
        };
        let stamp = self.clocks.asynchronous(num_warps + mbarrier.thread);
        for (offset, bytes) in &bulk.parts {
            block
                .shared
                .finish_copy(*offset, bytes, bulk.id, stamp)
                .map_err(|conflict| conflict.into_misuse(self.warps_per_block, |_| None))?;
        }
        mbarrier.arriving.learn(stamp);
        mbarrier.tx -= bulk.bytes;
        mbarrier.try_complete()?;
        self.has_progress = true;
        Ok(true)
    }
}
