//! Loads, stores and atomics of all state spaces.

use super::{LaneResult, Step, lanes};
use crate::decode::SHARED_START;
use crate::decode::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::fault::Misuse;
use crate::program::{Address, AddressSpace, AtomicFn, Element, Slot};
use crate::shared::{Conflict, Who};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Global(u64),
    /// Block of the cluster, and offset in its shared memory.
    Shared {
        rank: usize,
        offset: u32,
    },
    Local(u64),
    Param(u64),
}

/// Shared addresses of another block hold its rank plus one above this bit.
const RANK_AT: u32 = 24;

impl Step<'_, '_> {
    /// The address of a lane, in the space's own numbering.
    pub(super) fn raw_address(&self, address: Address, lane: usize) -> u64 {
        match address.base {
            Slot::B64(slot) => self.warp.registers.b64[slot as usize][lane].wrapping_add_signed(address.offset),
            Slot::B32(slot) => {
                u64::from(self.warp.registers.b32[slot as usize][lane].wrapping_add_signed(address.offset as i32))
            }
        }
    }

    pub(super) fn target(&self, address: Address, lane: usize) -> LaneResult<Target> {
        let raw = self.raw_address(address, lane);
        match address.space {
            AddressSpace::Global => Ok(Target::Global(raw)),
            AddressSpace::Shared => self.shared_target(raw, lane),
            AddressSpace::Local => Ok(Target::Local(raw)),
            AddressSpace::Param => Ok(Target::Param(raw)),
            AddressSpace::Generic => {
                if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&raw) {
                    self.shared_target(raw - SHARED_WINDOW, lane)
                } else if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&raw) {
                    Ok(Target::Local(raw - LOCAL_WINDOW))
                } else if (PARAM_WINDOW..PARAM_WINDOW + WINDOW).contains(&raw) {
                    Ok(Target::Param(raw - PARAM_WINDOW))
                } else {
                    Ok(Target::Global(raw))
                }
            }
        }
    }

    fn shared_target(&self, raw: u64, lane: usize) -> LaneResult<Target> {
        let rank = match raw >> RANK_AT {
            0 => Some(self.warp.rank),
            rank => usize::try_from(rank - 1).ok().filter(|&rank| rank < self.cluster.blocks.len()),
        };
        let offset = (raw & ((1 << RANK_AT) - 1)).checked_sub(u64::from(SHARED_START));
        match (rank, offset) {
            (Some(rank), Some(offset)) => Ok(Target::Shared { rank, offset: offset as u32 }),
            _ => Err((lane as u32, Misuse::OutOfBounds(format!("{raw:#x} is no address of shared memory")))),
        }
    }

    /// An address that must be of shared memory: block and offset.
    pub(super) fn shared_address(&self, address: Address, lane: usize) -> LaneResult<(usize, u32)> {
        match self.target(address, lane)? {
            Target::Shared { rank, offset } => Ok((rank, offset)),
            other => Err((lane as u32, Misuse::OutOfBounds(format!("{other:x?} is not in shared memory")))),
        }
    }

    pub(super) fn who(&self, lane: usize) -> Who {
        Who { warp: self.warp.index, lane: lane as u8, site: self.pc }
    }

    /// The misuse of an access of shared memory, with the lines of both accesses.
    #[expect(clippy::boxed_local, reason = "memory gives it in a box, so that what goes well stays small")]
    pub(super) fn conflict(&self, lane: usize, conflict: Box<Conflict>) -> (u32, Misuse) {
        let program = self.cluster.program;
        let line_of = |site: u32| {
            let instruction = program.instructions.get(site as usize)?;
            let line = instruction.site.outer.line;
            (line != 0).then(|| format!("line {line}"))
        };
        (lane as u32, conflict.into_misuse(self.cluster.warps_per_block, line_of))
    }

    /// The shared memory of another block is there as long as a thread of that block is.
    pub(super) fn check_is_there(&self, rank: usize, lane: usize) -> LaneResult<()> {
        if rank != self.warp.rank && self.cluster.blocks[rank].num_alive == 0 {
            let message = format!("an access of the shared memory of block {rank} of the cluster, which has exited");
            return Err((lane as u32, Misuse::OutOfBounds(message)));
        }
        Ok(())
    }

    /// Notes an access of another block's shared memory, which that block must not exit before.
    pub(super) fn visit(&mut self, rank: usize, lane: usize) {
        if rank != self.warp.rank {
            let clock = self.cluster.clocks.access(self.warp.index, lane as u8).clock;
            self.cluster.blocks[rank].visits.insert((self.warp.index, lane as u8), (clock, self.pc));
        }
    }

    pub(super) fn read_bytes(&mut self, target: Target, lane: usize, out: &mut [u8]) -> LaneResult<()> {
        match target {
            Target::Global(address) => {
                self.cluster.memory.load(&mut self.cluster.cursor, address, out).map_err(|misuse| (lane as u32, misuse))
            }
            Target::Shared { rank, offset } => {
                self.check_is_there(rank, lane)?;
                self.visit(rank, lane);
                let who = self.who(lane);
                let cluster = &mut *self.cluster;
                let result = cluster.blocks[rank].shared.read(who, &cluster.clocks, offset, out);
                result.map_err(|conflict| self.conflict(lane, conflict))
            }
            Target::Local(address) => {
                let range = self.local_range(address, lane, out.len())?;
                if let Some(byte) = range.clone().find(|&byte| !self.warp.local_written[byte]) {
                    let message =
                        format!("nobody has written byte {:#x} of local memory", byte - range.start + address as usize);
                    return Err((lane as u32, Misuse::Uninitialised(message)));
                }
                out.copy_from_slice(&self.warp.local[range]);
                Ok(())
            }
            Target::Param(address) => {
                let end = address.checked_add(out.len() as u64);
                let params = self.cluster.params;
                let bytes = end.and_then(|end| params.get(address as usize..end as usize)).ok_or_else(|| {
                    let message = format!(
                        "a load of {} bytes at {address:#x} of {} bytes of parameters",
                        out.len(),
                        params.len()
                    );
                    (lane as u32, Misuse::OutOfBounds(message))
                })?;
                out.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn local_range(&self, address: u64, lane: usize, len: usize) -> LaneResult<std::ops::Range<usize>> {
        let size = u64::from(self.cluster.program.local_bytes);
        if !address.is_multiple_of(len as u64) {
            let message = format!("{len} bytes at {address:#x} of local memory: the address is no multiple of {len}");
            return Err((lane as u32, Misuse::Misaligned(message)));
        }
        if address >= size || len as u64 > size - address {
            let message = format!("{len} bytes at {address:#x} of {size} bytes of local memory");
            return Err((lane as u32, Misuse::OutOfBounds(message)));
        }
        let start = lane * size as usize + address as usize;
        Ok(start..start + len)
    }

    pub(super) fn write_bytes(&mut self, target: Target, lane: usize, bytes: &[u8]) -> LaneResult<()> {
        match target {
            Target::Global(address) => {
                self.cluster.has_progress = true;
                self.cluster
                    .memory
                    .store(&mut self.cluster.cursor, address, bytes)
                    .map_err(|misuse| (lane as u32, misuse))
            }
            Target::Shared { rank, offset } => {
                self.check_is_there(rank, lane)?;
                self.visit(rank, lane);
                let who = self.who(lane);
                let cluster = &mut *self.cluster;
                cluster.has_progress = true;
                let result = cluster.blocks[rank].shared.write(who, &cluster.clocks, offset, bytes);
                result.map_err(|conflict| self.conflict(lane, conflict))
            }
            Target::Local(address) => {
                let range = self.local_range(address, lane, bytes.len())?;
                self.warp.local[range.clone()].copy_from_slice(bytes);
                self.warp.local_written[range].fill(true);
                Ok(())
            }
            Target::Param(_) => Err((lane as u32, Misuse::OutOfBounds("parameters are not written".to_owned()))),
        }
    }

    pub(super) fn load(&mut self, address: Address, element: Element, registers: &[Slot]) -> LaneResult<()> {
        let bytes = usize::from(element.bytes);
        let len = bytes * registers.len();
        let mut buffer = [0; 32];
        for lane in lanes(self.active) {
            let target = self.target(address, lane)?;
            // More than sixteen bytes are read in two halves.
            for (half, out) in buffer[..len].chunks_mut(16).enumerate() {
                let target = shifted(target, 16 * half as u64);
                self.read_bytes(target, lane, out)?;
            }
            for (value, &slot) in buffer.chunks(bytes).zip(registers) {
                let mut word = [0; 8];
                word[..bytes].copy_from_slice(value);
                let mut bits = u64::from_le_bytes(word);
                if element.is_signed && bytes < 8 {
                    let unused = 64 - 8 * bytes as u32;
                    bits = ((bits << unused) as i64 >> unused) as u64;
                }
                match slot {
                    Slot::B32(slot) => self.warp.registers.b32[slot as usize][lane] = bits as u32,
                    Slot::B64(slot) => self.warp.registers.b64[slot as usize][lane] = bits,
                }
            }
        }
        Ok(())
    }

    pub(super) fn store(&mut self, address: Address, element: Element, registers: &[Slot]) -> LaneResult<()> {
        let bytes = usize::from(element.bytes);
        let len = bytes * registers.len();
        let mut buffer = [0; 32];
        for lane in lanes(self.active) {
            for (place, &slot) in buffer.chunks_mut(bytes).zip(registers) {
                place.copy_from_slice(&self.bits(slot, lane).to_le_bytes()[..bytes]);
            }
            let target = self.target(address, lane)?;
            for (half, part) in buffer[..len].chunks(16).enumerate() {
                self.write_bytes(shifted(target, 16 * half as u64), lane, part)?;
            }
        }
        Ok(())
    }

    pub(super) fn bits(&self, slot: Slot, lane: usize) -> u64 {
        match slot {
            Slot::B32(slot) => u64::from(self.warp.registers.b32[slot as usize][lane]),
            Slot::B64(slot) => self.warp.registers.b64[slot as usize][lane],
        }
    }

    pub(super) fn set_bits(&mut self, slot: Slot, lane: usize, bits: u64) {
        match slot {
            Slot::B32(slot) => self.warp.registers.b32[slot as usize][lane] = bits as u32,
            Slot::B64(slot) => self.warp.registers.b64[slot as usize][lane] = bits,
        }
    }

    pub(super) fn atomic(
        &mut self,
        address: Address,
        bytes: u8,
        operation: AtomicFn,
        d: Option<Slot>,
        b: Slot,
        c: Option<Slot>,
    ) -> LaneResult<()> {
        for lane in lanes(self.active) {
            let b = self.bits(b, lane);
            let c = c.map_or(0, |c| self.bits(c, lane));
            let old = match self.target(address, lane)? {
                Target::Global(address) => {
                    let cluster = &mut *self.cluster;
                    let change = |old| operation(old, b, c);
                    cluster
                        .memory
                        .atomic(&mut cluster.cursor, address, bytes.into(), change)
                        .map_err(|misuse| (lane as u32, misuse))?
                }
                Target::Shared { rank, offset } => {
                    self.check_is_there(rank, lane)?;
                    self.visit(rank, lane);
                    let who = self.who(lane);
                    let cluster = &mut *self.cluster;
                    cluster.blocks[rank]
                        .shared
                        .atomic(who, &cluster.clocks, offset, bytes.into(), |old| operation(old, b, c))
                        .map_err(|conflict| self.conflict(lane, conflict))?
                }
                other => {
                    return Err((lane as u32, Misuse::OutOfBounds(format!("an atomic operation at {other:x?}"))));
                }
            };
            // Who asks again and again for what is not there changes nothing.
            self.cluster.has_progress |= operation(old, b, c) != old;
            if let Some(d) = d {
                self.set_bits(d, lane, old);
            }
        }
        Ok(())
    }

    pub(super) fn map_to_rank(&mut self, d: Slot, a: Slot, rank: u32, is_generic: bool) -> LaneResult<()> {
        for lane in lanes(self.active) {
            let rank = u64::from(self.warp.registers.b32[rank as usize][lane]);
            if rank >= self.cluster.blocks.len() as u64 {
                let message = format!("block {rank} of a cluster of {}", self.cluster.blocks.len());
                return Err((lane as u32, Misuse::OutOfBounds(message)));
            }
            let address = self.bits(a, lane);
            let base = if is_generic { SHARED_WINDOW } else { 0 };
            let offset = address.wrapping_sub(base) & ((1 << RANK_AT) - 1);
            self.set_bits(d, lane, base + ((rank + 1) << RANK_AT) + offset);
        }
        Ok(())
    }
}

fn shifted(target: Target, by: u64) -> Target {
    match target {
        Target::Global(address) => Target::Global(address + by),
        Target::Shared { rank, offset } => Target::Shared { rank, offset: offset + by as u32 },
        Target::Local(address) => Target::Local(address + by),
        Target::Param(address) => Target::Param(address + by),
    }
}
