//! What is known about the accesses of each byte of shared memory.

use std::ops::Range;

use crate::clocks::{Access, Clocks};

use super::Who;
use super::conflict::{Deed, Earlier, Kind, Trouble, TroubleAt};

/// Bytes that share a cell as long as no access covers a part of them: what the widest access covers.
const LINE: usize = 16;
/// A line is split into words of four bytes, a word into bytes: both into four parts.
const WORD: usize = 4;
const PARTS: usize = 4;
/// Where a list of reads is longer than this, what the new one makes superfluous is looked for in the rest of it.
const SHORT_LIST: usize = 4;

/// All cells of one shared memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    lines: Vec<Cell>,
    /// The parts of lines and words that are split.
    split: Vec<[Cell; PARTS]>,
    unused_split: Vec<u32>,
    reads: Reads,
}

/// What is known about one line, or about one word or byte where the accesses differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) state: State,
    /// The instruction that wrote, or started the copy.
    pub(super) site: u32,
    /// First of the reads since then, 0 for none.
    reads: u32,
    /// Whether there are atomic operations among them.
    pub(super) atomics: bool,
}

/// The last write. Its fields are spelt out, not an [`Access`]: so it fits into eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Unwritten,
    Written {
        lane: u8,
        warp: u16,
        clock: u32,
    },
    /// The destination of a copy that is under way, and the thread that started it.
    Pending {
        lane: u8,
        warp: u16,
        id: u32,
    },
    /// Each part has a cell of its own.
    Split {
        index: u32,
    },
}

type Result<T> = std::result::Result<T, Trouble>;

impl Cell {
    pub(super) fn written(by: Access, site: u32) -> Cell {
        let Access { warp, lane, clock } = by;
        Cell { state: State::Written { lane, warp, clock }, site, ..Cell::default() }
    }

    pub(super) fn pending(by: Who, id: u32) -> Cell {
        let Who { warp, lane, site } = by;
        Cell { state: State::Pending { lane, warp, id }, site, ..Cell::default() }
    }

    fn is_split(&self) -> bool {
        matches!(self.state, State::Split { .. })
    }

    pub(super) fn is_pending(&self, copy: u32) -> bool {
        matches!(self.state, State::Pending { id, .. } if id == copy)
    }

    /// Whether another lane wrote this by the same instruction.
    pub(super) fn is_of_instruction(&self, who: Who, now: u32) -> bool {
        matches!(self.state, State::Written { warp, clock, .. } if warp == who.warp && clock == now)
            && self.site == who.site
    }

    pub(super) fn check_written(&self) -> Result<()> {
        match self.state {
            State::Unwritten => Err(Trouble { kind: Kind::Uninitialised, earlier: None }),
            _ => Ok(()),
        }
    }

    /// The last write comes before what `who` does now.
    #[inline]
    pub(super) fn check_last_write(&self, clocks: &Clocks, who: Who) -> Result<()> {
        match self.state {
            State::Unwritten | State::Split { .. } => Ok(()),
            State::Written { lane, warp, clock } => {
                let access = Access { warp, lane, clock };
                if clocks.is_ordered_before(access, who.warp, who.lane) {
                    return Ok(());
                }
                let deed = if clocks.is_asynchronous(access) { Deed::Copy } else { Deed::Write };
                Err(Trouble { kind: Kind::Race, earlier: Some(Earlier { deed, access, site: self.site }) })
            }
            State::Pending { lane, warp, .. } => {
                let earlier = Earlier { deed: Deed::Copy, access: Access { warp, lane, clock: 0 }, site: self.site };
                Err(Trouble { kind: Kind::NotWaited, earlier: Some(earlier) })
            }
        }
    }

    /// The asynchronous proxy sees the last write.
    pub(super) fn check_fence(&self, clocks: &Clocks, who: Who) -> Result<()> {
        let State::Written { lane, warp, clock } = self.state else {
            return Ok(());
        };
        let access = Access { warp, lane, clock };
        if clocks.is_visible_to_async(access, who.warp, who.lane) {
            return Ok(());
        }
        Err(Trouble { kind: Kind::Unfenced, earlier: Some(Earlier { deed: Deed::Write, access, site: self.site }) })
    }
}

impl Cells {
    pub(super) fn reset(&mut self, num_bytes: usize) {
        self.lines.clear();
        self.lines.resize(num_bytes.div_ceil(LINE), Cell::default());
        self.split.clear();
        self.unused_split.clear();
        self.reads.reset();
    }

    /// Calls `check` for each cell of a range of bytes, with the bytes that the cell stands for.
    #[inline]
    pub(super) fn visit(
        &mut self,
        start: usize,
        len: usize,
        mut check: impl FnMut(&mut Cell, &mut Reads, Range<usize>) -> Result<()>,
    ) -> std::result::Result<(), TroubleAt> {
        let end = start + len;
        let mut at = start;
        while at < end {
            let line = at / LINE;
            let next = (LINE * (line + 1)).min(end);
            let cell = &mut self.lines[line];
            if next - at == LINE && !cell.is_split() {
                check(cell, &mut self.reads, at..next).map_err(|trouble| trouble.at(at))?;
            } else {
                self.visit_words(line, at..next, &mut check)?;
            }
            at = next;
        }
        Ok(())
    }

    /// The same inside one line, which is split.
    #[inline]
    fn visit_words(
        &mut self,
        line: usize,
        bytes: Range<usize>,
        check: &mut impl FnMut(&mut Cell, &mut Reads, Range<usize>) -> Result<()>,
    ) -> std::result::Result<(), TroubleAt> {
        let index = self.split(self.lines[line]);
        self.lines[line] = Cell { state: State::Split { index }, ..Cell::default() };
        let mut at = bytes.start;
        while at < bytes.end {
            let next = (WORD * (at / WORD + 1)).min(bytes.end);
            let cell = &mut self.split[index as usize][at / WORD % PARTS];
            if next - at == WORD && !cell.is_split() {
                check(cell, &mut self.reads, at..next).map_err(|trouble| trouble.at(at))?;
            } else {
                let whole = *cell;
                self.split[index as usize][at / WORD % PARTS] = self.visit_bytes(whole, at..next, check)?;
            }
            at = next;
        }
        if let Some(whole) = self.unite(index) {
            self.lines[line] = whole;
        }
        Ok(())
    }

    /// The same inside one word, which is split; returns what becomes of its cell.
    fn visit_bytes(
        &mut self,
        word: Cell,
        bytes: Range<usize>,
        check: &mut impl FnMut(&mut Cell, &mut Reads, Range<usize>) -> Result<()>,
    ) -> std::result::Result<Cell, TroubleAt> {
        let index = self.split(word);
        for at in bytes {
            let cell = &mut self.split[index as usize][at % PARTS];
            check(cell, &mut self.reads, at..at + 1).map_err(|trouble| trouble.at(at))?;
        }
        Ok(self.unite(index).unwrap_or(Cell { state: State::Split { index }, ..Cell::default() }))
    }

    /// The cell for all parts, if they are alike. Parts that have reads or are split are not: no two share a list or an
    /// index.
    #[inline]
    fn unite(&mut self, index: u32) -> Option<Cell> {
        let parts = &self.split[index as usize];
        let first = parts[0];
        let alike = parts[1..].iter().all(|part| *part == first);
        alike.then(|| {
            self.unused_split.push(index);
            first
        })
    }

    /// Where the parts of a cell are; when it is split, each part gets a copy of what is known about the whole.
    #[inline]
    fn split(&mut self, whole: Cell) -> u32 {
        if let State::Split { index } = whole.state {
            return index;
        }
        let parts = [(); PARTS].map(|()| Cell { reads: self.reads.duplicate(whole.reads), ..whole });
        self.reads.release(whole.reads);
        if let Some(index) = self.unused_split.pop() {
            self.split[index as usize] = parts;
            return index;
        }
        self.split.push(parts);
        (self.split.len() - 1) as u32
    }

    /// How many cells have been split at once, and how many of their places are free now.
    #[cfg(test)]
    pub(super) fn num_split(&self) -> (usize, usize) {
        (self.split.len(), self.unused_split.len())
    }

    /// How many records of reads there have been at once.
    #[cfg(test)]
    pub(super) fn num_reads(&self) -> usize {
        self.reads.records.len() - 1
    }
}

/// Reads since the last write: for each cell a list, linked by indices; index 0 ends it.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    records: Vec<Read>,
    unused: u32,
}

/// Reads, or atomic operations, by lanes of one warp at one clock.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    warp: u16,
    kind: ReadKind,
    /// For an asynchronous read that has not been waited for: its id.
    clock: u32,
    lanes: u32,
    site: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReadKind {
    #[default]
    Plain,
    Atomic,
    /// An asynchronous read that is under way.
    Pending,
    /// An asynchronous read that has been waited for.
    Waited,
}

impl ReadKind {
    fn deed(self) -> Deed {
        match self {
            ReadKind::Plain => Deed::Read,
            ReadKind::Atomic => Deed::Atomic,
            ReadKind::Pending | ReadKind::Waited => Deed::AsyncRead,
        }
    }

    /// Whether a later access that nothing orders after this one is wrong.
    fn excludes(self, later: Deed) -> bool {
        match later {
            Deed::Write | Deed::Copy => true,
            Deed::Atomic => self != ReadKind::Atomic,
            Deed::Read | Deed::AsyncRead => self == ReadKind::Atomic,
        }
    }
}

impl Reads {
    fn reset(&mut self) {
        self.records.clear();
        // Index 0 stands for the end of a list. Its clock is 0, which no access has.
        self.records.push(Read::default());
        self.unused = 0;
    }

    /// Everything in the cell's list that excludes `deed` comes before what `who` does now.
    #[inline]
    pub(super) fn check(&self, cell: &Cell, deed: Deed, clocks: &Clocks, who: Who) -> Result<()> {
        let mut at = cell.reads;
        while at != 0 {
            let Read { warp, kind, clock, lanes, site, next } = self.records[at as usize];
            if kind.excludes(deed) {
                let unordered = match kind {
                    ReadKind::Pending => lanes,
                    _ => clocks.unordered_lanes(warp, lanes, clock, who.warp, who.lane),
                };
                if unordered != 0 {
                    let access = Access { warp, lane: unordered.trailing_zeros() as u8, clock };
                    let kind_of = if kind == ReadKind::Pending { Kind::NotWaited } else { Kind::Race };
                    return Err(Trouble { kind: kind_of, earlier: Some(Earlier { deed: kind.deed(), access, site }) });
                }
            }
            at = next;
        }
        Ok(())
    }

    /// Adds a read or an atomic operation that `who` makes at clock `now`.
    #[inline]
    pub(super) fn remember(&mut self, cell: &mut Cell, deed: Deed, now: u32, clocks: &Clocks, who: Who) {
        let kind = if deed == Deed::Atomic { ReadKind::Atomic } else { ReadKind::Plain };
        let head = &mut self.records[cell.reads as usize];
        if head.warp == who.warp && head.clock == now && head.kind == kind {
            head.lanes |= 1 << who.lane;
            head.site = who.site;
        } else {
            self.remember_first(cell, kind, now, clocks, who);
        }
    }

    /// The same where the list does not begin with reads of this warp at this clock.
    ///
    /// Drops what the new record makes superfluous: earlier accesses of this lane and, to keep the list short, all those
    /// of the same kind that come before it, as whatever comes after the new one comes after them, too. (Not of another
    /// kind: an atomic operation excludes less than a read.)
    fn remember_first(&mut self, cell: &mut Cell, kind: ReadKind, now: u32, clocks: &Clocks, who: Who) {
        let mut new = Read { warp: who.warp, kind, clock: now, lanes: 1 << who.lane, site: who.site, next: 0 };
        // Lanes of this warp that a newer record has; newer ones stand before older ones.
        let mut newer = new.lanes;
        let (mut previous, mut at, mut kept) = (0, cell.reads, 0);
        while at != 0 {
            let record = &mut self.records[at as usize];
            let next = record.next;
            let mut superfluous = false;
            if record.kind == kind {
                if record.warp == who.warp {
                    if record.clock == now {
                        new.lanes |= record.lanes;
                    }
                    record.lanes &= !newer;
                    newer |= record.lanes;
                    superfluous = record.lanes == 0 || record.clock == now;
                }
                superfluous |= kept >= SHORT_LIST
                    && clocks.unordered_lanes(record.warp, record.lanes, record.clock, who.warp, who.lane) == 0;
            }
            if superfluous {
                self.unlink(cell, previous, at);
            } else {
                previous = at;
                kept += 1;
            }
            at = next;
        }
        new.next = cell.reads;
        cell.reads = self.add(new);
    }

    /// Adds an asynchronous read that is under way.
    pub(super) fn begin_async(&mut self, cell: &mut Cell, id: u32, who: Who) {
        let Who { warp, lane, site } = who;
        let read = Read { warp, kind: ReadKind::Pending, clock: id, lanes: 1 << lane, site, next: cell.reads };
        cell.reads = self.add(read);
    }

    /// The asynchronous read `id` is over: it counts as one of `stamp`.
    pub(super) fn end_async(&mut self, cell: &mut Cell, id: u32, stamp: Access) {
        let lanes = 1 << stamp.lane;
        let mut site = None;
        let (mut previous, mut at) = (0, cell.reads);
        while at != 0 {
            let Read { warp, kind, clock, next, site: of_read, .. } = self.records[at as usize];
            let over = kind == ReadKind::Pending && clock == id;
            // An earlier one of the same thread is known to everyone who knows this one.
            let earlier = kind == ReadKind::Waited && warp == stamp.warp && self.records[at as usize].lanes == lanes;
            if over {
                site = Some(of_read);
            }
            if over || earlier {
                self.unlink(cell, previous, at);
            } else {
                previous = at;
            }
            at = next;
        }
        if let Some(site) = site {
            let Access { warp, clock, .. } = stamp;
            cell.reads = self.add(Read { warp, kind: ReadKind::Waited, clock, lanes, site, next: cell.reads });
        }
    }

    /// Empties the cell's list.
    pub(super) fn forget(&mut self, cell: &mut Cell) {
        self.release(cell.reads);
        cell.reads = 0;
    }

    fn unlink(&mut self, cell: &mut Cell, previous: u32, at: u32) {
        let next = self.records[at as usize].next;
        if previous == 0 {
            cell.reads = next;
        } else {
            self.records[previous as usize].next = next;
        }
        self.records[at as usize].next = self.unused;
        self.unused = at;
    }

    fn add(&mut self, read: Read) -> u32 {
        let index = self.unused;
        if index == 0 {
            self.records.push(read);
            return (self.records.len() - 1) as u32;
        }
        self.unused = self.records[index as usize].next;
        self.records[index as usize] = read;
        index
    }

    fn duplicate(&mut self, list: u32) -> u32 {
        let (mut first, mut last, mut at) = (0, 0, list);
        while at != 0 {
            let read = self.records[at as usize];
            let copy = self.add(Read { next: 0, ..read });
            if last == 0 {
                first = copy;
            } else {
                self.records[last as usize].next = copy;
            }
            (last, at) = (copy, read.next);
        }
        first
    }

    /// Gives the records of a list back.
    fn release(&mut self, list: u32) {
        let mut at = list;
        while at != 0 {
            let next = self.records[at as usize].next;
            self.records[at as usize].next = self.unused;
            self.unused = at;
            at = next;
        }
    }
}
