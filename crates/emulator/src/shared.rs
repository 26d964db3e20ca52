//! Shared memory of a block: its bytes, and for each what is known about its accesses.
//!
//! Every byte has its last write and the reads since then that no later read makes superfluous. An access is checked
//! against them: is it ordered after the last write, and, if it writes, after the reads? That is the algorithm of
//! FastTrack (Flanagan and Freund, PLDI 2009), with reads of one warp at one clock kept together as a mask of lanes.
//! Until something is reported, nothing is missed and nothing is reported wrongly, except this: of several lanes that
//! write the same value to the same bytes by one instruction, which is allowed, only the last is remembered.
//!
//! An asynchronous copy owns its destination from its start until it is waited for, and an asynchronous read its source.
//!
//! Sixteen bytes share one cell, which is split into words, and these into bytes, when an access covers only a part.

mod cells;
mod conflict;
#[cfg(test)]
mod tests;

use crate::clocks::{Access, Clocks};

use cells::{Cell, Cells};
pub(crate) use conflict::Conflict;
use conflict::{Deed, Kind};

/// Who makes an access: the thread, and the index of the instruction, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// Warp in the cluster, as in [`Clocks`].
    pub(crate) warp: u16,
    pub(crate) lane: u8,
    pub(crate) site: u32,
}

/// The way on which a copy reaches shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// That of ordinary accesses: `cp.async`.
    Generic,
    /// That of bulk copies, which does not see ordinary writes without `fence.proxy.async`.
    Asynchronous,
}

/// The shared memory of one block.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedMemory {
    bytes: Vec<u8>,
    cells: Cells,
}

type Result<T> = std::result::Result<T, Box<Conflict>>;

impl SharedMemory {
    /// Starts again with `len` bytes, all of them unwritten.
    pub(crate) fn reset(&mut self, len: usize) {
        self.bytes.clear();
        self.bytes.resize(len, 0);
        self.cells.reset(len);
    }

    /// A thread reads `out.len()` bytes: 1, 2, 4, 8 or 16.
    #[inline]
    pub(crate) fn read(&mut self, who: Who, clocks: &Clocks, offset: u32, out: &mut [u8]) -> Result<()> {
        let start = self.locate(offset, out.len(), Deed::Read)?;
        let now = clocks.access(who.warp, who.lane).clock;
        let mut known = None;
        self.cells
            .visit(start, out.len(), |cell, reads, _| {
                // Neighbours were mostly written together: what holds for one holds for the next.
                if known != Some(cell.state) {
                    cell.check_written()?;
                    cell.check_last_write(clocks, who)?;
                    known = Some(cell.state);
                }
                if cell.atomics {
                    reads.check(cell, Deed::Read, clocks, who)?;
                }
                reads.remember(cell, Deed::Read, now, clocks, who);
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::Read, start, out.len()))?;
        out.copy_from_slice(&self.bytes[start..start + out.len()]);
        Ok(())
    }

    /// A thread writes `bytes`: 1, 2, 4, 8 or 16.
    pub(crate) fn write(&mut self, who: Who, clocks: &Clocks, offset: u32, bytes: &[u8]) -> Result<()> {
        let start = self.locate(offset, bytes.len(), Deed::Write)?;
        let stamp = clocks.access(who.warp, who.lane);
        let old = &self.bytes;
        self.cells
            .visit(start, bytes.len(), |cell, reads, range| {
                let value = &bytes[range.start - start..range.end - start];
                if !(cell.is_of_instruction(who, stamp.clock) && old[range] == *value) {
                    cell.check_last_write(clocks, who)?;
                }
                reads.check(cell, Deed::Write, clocks, who)?;
                reads.forget(cell);
                *cell = Cell::written(stamp, who.site);
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::Write, start, bytes.len()))?;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// An atomic operation on 2, 4 or 8 bytes: `change` makes the new value of the old one, which is returned.
    ///
    /// Atomic operations do not race with one another, but with ordinary accesses.
    pub(crate) fn atomic(
        &mut self,
        who: Who,
        clocks: &Clocks,
        offset: u32,
        len: usize,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<u64> {
        let start = self.locate(offset, len, Deed::Atomic)?;
        let now = clocks.access(who.warp, who.lane).clock;
        self.cells
            .visit(start, len, |cell, reads, _| {
                cell.check_written()?;
                cell.check_last_write(clocks, who)?;
                reads.check(cell, Deed::Atomic, clocks, who)?;
                reads.remember(cell, Deed::Atomic, now, clocks, who);
                cell.atomics = true;
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::Atomic, start, len))?;
        let mut word = [0; 8];
        word[..len].copy_from_slice(&self.bytes[start..start + len]);
        let old = u64::from_le_bytes(word);
        self.bytes[start..start + len].copy_from_slice(&change(old).to_le_bytes()[..len]);
        Ok(old)
    }

    /// A thread starts an asynchronous copy into `len` bytes. Until [`SharedMemory::finish_copy`] nobody may touch them.
    pub(crate) fn begin_copy(
        &mut self,
        who: Who,
        clocks: &Clocks,
        offset: u32,
        len: usize,
        id: u32,
        proxy: Proxy,
    ) -> Result<()> {
        let start = self.locate(offset, len, Deed::Copy)?;
        self.cells
            .visit(start, len, |cell, reads, _| {
                cell.check_last_write(clocks, who)?;
                if proxy == Proxy::Asynchronous {
                    cell.check_fence(clocks, who)?;
                }
                reads.check(cell, Deed::Copy, clocks, who)?;
                reads.forget(cell);
                *cell = Cell::pending(who, id);
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::Copy, start, len))
    }

    /// The copy `id`, or a part of it, has been waited for: its bytes arrive as if `stamp` had written them.
    ///
    /// `stamp` is the waiting thread for `cp.async`, whose waits are each thread's own, and [`Clocks::asynchronous`] for
    /// a copy that reports to an `mbarrier`. The place was checked when the copy began.
    pub(crate) fn finish_copy(&mut self, offset: u32, bytes: &[u8], id: u32, stamp: Access) -> Result<()> {
        let start = self.locate(offset, bytes.len(), Deed::Copy)?;
        self.cells
            .visit(start, bytes.len(), |cell, _, _| {
                if cell.is_pending(id) {
                    *cell = Cell::written(stamp, cell.site);
                }
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::Copy, start, bytes.len()))?;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// An operation of the asynchronous proxy, such as a matrix product of a warp group or a bulk store, reads
    /// `out.len()` bytes. Until [`SharedMemory::end_async_read`] nobody may overwrite them.
    pub(crate) fn begin_async_read(
        &mut self,
        who: Who,
        clocks: &Clocks,
        offset: u32,
        out: &mut [u8],
        id: u32,
    ) -> Result<()> {
        let start = self.locate(offset, out.len(), Deed::AsyncRead)?;
        let mut known = None;
        self.cells
            .visit(start, out.len(), |cell, reads, _| {
                if known != Some(cell.state) {
                    cell.check_written()?;
                    cell.check_last_write(clocks, who)?;
                    cell.check_fence(clocks, who)?;
                    known = Some(cell.state);
                }
                if cell.atomics {
                    reads.check(cell, Deed::Read, clocks, who)?;
                }
                reads.begin_async(cell, id, who);
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::AsyncRead, start, out.len()))?;
        out.copy_from_slice(&self.bytes[start..start + out.len()]);
        Ok(())
    }

    /// The asynchronous read `id` of these bytes has been waited for: from now on it counts as made by `stamp`, which is
    /// the waiting thread's, or an asynchronous thread's that those who waited have learnt of. Who knows of the read alone
    /// is not taken to know what came before it.
    pub(crate) fn end_async_read(&mut self, offset: u32, len: usize, id: u32, stamp: Access) -> Result<()> {
        let start = self.locate(offset, len, Deed::AsyncRead)?;
        self.cells
            .visit(start, len, |cell, reads, _| {
                reads.end_async(cell, id, stamp);
                Ok(())
            })
            .map_err(|trouble| trouble.conflict(Deed::AsyncRead, start, len))
    }

    /// Checks bounds and alignment. What is longer than 16 bytes is a bulk copy and aligned to 16.
    #[inline]
    fn locate(&self, offset: u32, len: usize, deed: Deed) -> Result<usize> {
        let start = offset as usize;
        if start > self.bytes.len() || len > self.bytes.len() - start {
            let reason = format!("shared memory has {} bytes", self.bytes.len());
            return Err(Conflict::of_place(Kind::OutOfBounds, deed, start, len, reason));
        }
        if !start.is_multiple_of(len.clamp(1, 16)) {
            let reason = format!("the address is no multiple of {}", len.min(16));
            return Err(Conflict::of_place(Kind::Misaligned, deed, start, len, reason));
        }
        Ok(start)
    }
}
