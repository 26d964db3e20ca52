//! Copies and matrix products that run beside the program, and what waits for them.

use super::access::Target;
use super::{LaneResult, Next, Step, lanes};
use crate::block::{MbarrierState, PendingBulk};
use crate::fault::Misuse;
use crate::program::{Address, AddressSpace, Bulk, BulkDirection, Mbarrier, Slot, WgmmaA, WgmmaOperands};
use crate::shared::Proxy;
use crate::tensor_map::TensorMap;
use crate::warp::{AsyncReads, Copy, Warp};
use crate::wgmma::{Descriptor, OperandA, wgmma_warp};

impl Step<'_, '_> {
    // ------------------------------------------------------------------------------------------------------- cp.async

    /// The data is read now and arrives when it is waited for: a missing wait is found, not hidden by luck.
    pub(super) fn copy_async(
        &mut self,
        destination: Address,
        source: Address,
        bytes: u8,
        source_bytes: Option<u32>,
    ) -> LaneResult<()> {
        let len = usize::from(bytes);
        for lane in lanes(self.active) {
            let (rank, offset) = self.shared_address(destination, lane)?;
            if rank != self.warp.rank {
                return Err((lane as u32, Misuse::OutOfBounds("`cp.async` writes to its own block only".to_owned())));
            }
            let from = match source_bytes {
                Some(slot) => self.warp.registers.b32[slot as usize][lane] as usize,
                None => len,
            };
            if from > len {
                return Err((lane as u32, Misuse::OutOfBounds(format!("{from} bytes of source for a copy of {len}"))));
            }
            let address = self.raw_address(source, lane);
            if !address.is_multiple_of(len as u64) {
                let message = format!("a copy of {len} bytes from {address:#x}, which is no multiple of {len}");
                return Err((lane as u32, Misuse::Misaligned(message)));
            }
            let mut data = [0; 16];
            let mut at = 0;
            // A source that is not whole is read in pieces of the sizes that memory knows.
            while at < from {
                let piece = 1usize << (usize::BITS - 1 - (from - at).leading_zeros());
                self.read_bytes(Target::Global(address + at as u64), lane, &mut data[at..at + piece])?;
                at += piece;
            }
            let id = self.cluster.new_id();
            let who = self.who(lane);
            let cluster = &mut *self.cluster;
            cluster.blocks[rank]
                .shared
                .begin_copy(who, &cluster.clocks, offset, len, id, Proxy::Generic)
                .map_err(|conflict| self.conflict(lane, conflict))?;
            self.warp.copies[lane].open.push(Copy { offset, bytes: data, len: bytes, id });
        }
        Ok(())
    }

    pub(super) fn copy_async_commit(&mut self) {
        for lane in lanes(self.active) {
            let copies = &mut self.warp.copies[lane];
            let open = std::mem::take(&mut copies.open);
            copies.groups.push_back(open);
        }
    }

    /// `keep` groups may still be under way; `None` waits for copies that no group holds, too.
    pub(super) fn copy_async_wait(&mut self, keep: Option<u32>) -> LaneResult<()> {
        for lane in lanes(self.active) {
            if keep.is_none() {
                let open = std::mem::take(&mut self.warp.copies[lane].open);
                self.warp.copies[lane].groups.push_back(open);
            }
            while self.warp.copies[lane].groups.len() > keep.unwrap_or(0) as usize {
                let group = self.warp.copies[lane].groups.pop_front().unwrap_or_default();
                let stamp = self.cluster.clocks.access(self.warp.index, lane as u8);
                for Copy { offset, bytes, len, id } in group {
                    self.cluster.blocks[self.warp.rank]
                        .shared
                        .finish_copy(offset, &bytes[..usize::from(len)], id, stamp)
                        .map_err(|conflict| self.conflict(lane, conflict))?;
                }
            }
        }
        Ok(())
    }

    /// The lane's copies arrive, and then it does.
    pub(super) fn copy_async_arrive(&mut self, address: Address, is_counted: bool) -> LaneResult<()> {
        self.copy_async_wait(None)?;
        for lane in lanes(self.active) {
            let (rank, offset) = self.shared_address(address, lane)?;
            // Without `.noinc` the phase waits for one more arrival, which is this one.
            let arrivals = if is_counted { 0 } else { 1 };
            self.arrive(rank, offset, lane, arrivals, 0)?;
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------- mbarrier

    pub(super) fn mbarrier(
        &mut self,
        what: Mbarrier,
        address: Address,
        state: Option<Slot>,
        done: Option<u32>,
        count: Option<u32>,
    ) -> LaneResult<Next> {
        let mut is_done = 0;
        for lane in lanes(self.active) {
            let (rank, offset) = self.shared_address(address, lane)?;
            if !offset.is_multiple_of(8) {
                return Err((lane as u32, Misuse::Misaligned(format!("an mbarrier at {offset:#x} of shared memory"))));
            }
            let count = count.map(|slot| self.warp.registers.b32[slot as usize][lane]);
            match what {
                Mbarrier::Init => self.mbarrier_init(rank, offset, lane, count.unwrap_or(1))?,
                Mbarrier::Invalidate => {
                    self.mbarrier_at(rank, offset, lane)?;
                    self.cluster.blocks[rank].mbarriers.remove(&offset);
                }
                Mbarrier::Arrive => {
                    let phase = self.arrive(rank, offset, lane, count.unwrap_or(1), 0)?;
                    if let Some(state) = state {
                        self.set_bits(state, lane, phase);
                    }
                }
                Mbarrier::ArriveExpectTx => {
                    let phase = self.arrive(rank, offset, lane, 1, i64::from(count.unwrap_or(0)))?;
                    if let Some(state) = state {
                        self.set_bits(state, lane, phase);
                    }
                }
                Mbarrier::ExpectTx => self.mbarrier_at(rank, offset, lane)?.tx += i64::from(count.unwrap_or(0)),
                Mbarrier::CompleteTx => {
                    let mbarrier = self.mbarrier_at(rank, offset, lane)?;
                    mbarrier.tx -= i64::from(count.unwrap_or(0));
                    mbarrier.try_complete().map_err(|misuse| (lane as u32, misuse))?;
                }
                Mbarrier::TestWait | Mbarrier::TryWait | Mbarrier::TestWaitParity | Mbarrier::TryWaitParity => {
                    let waited = match state {
                        Some(state) => self.bits(state, lane),
                        None => u64::from(count.unwrap_or(0) & 1),
                    };
                    let by_parity = state.is_none();
                    let is_over = |phase: u64| if by_parity { phase & 1 != waited } else { phase != waited };
                    // Copies that it waits for arrive as late as they can: when someone looks.
                    while !is_over(self.mbarrier_at(rank, offset, lane)?.phase)
                        && self.cluster.deliver(Some((rank, offset))).map_err(|misuse| (lane as u32, misuse))?
                    {
                    }
                    let cluster = &mut *self.cluster;
                    if let Some(mbarrier) =
                        cluster.blocks[rank].mbarriers.get(&offset).filter(|mbarrier| is_over(mbarrier.phase))
                    {
                        is_done |= 1 << lane;
                        cluster.clocks.acquire(usize::from(self.warp.index), 1 << lane, &mbarrier.completed);
                    }
                }
            }
        }
        let Some(done) = done else {
            self.cluster.has_progress = true;
            return Ok(Next::Step);
        };
        crate::registers::set_predicate(&mut self.warp.registers, done, self.active, is_done);
        Ok(if is_done == 0 { Next::Yield } else { Next::Step })
    }

    fn mbarrier_init(&mut self, rank: usize, offset: u32, lane: usize, count: u32) -> LaneResult<()> {
        if count == 0 || count >= 1 << 20 {
            return Err((
                lane as u32,
                Misuse::Barrier(format!("an mbarrier for {count} arrivals: 1 to 1,048,575 are")),
            ));
        }
        let who = self.who(lane);
        let cluster = &mut *self.cluster;
        cluster.blocks[rank]
            .shared
            .write(who, &cluster.clocks, offset, &[0; 8])
            .map_err(|conflict| self.conflict(lane, conflict))?;
        let thread = self.cluster.num_mbarriers;
        self.cluster.num_mbarriers += 1;
        let state = MbarrierState { count, pending: i64::from(count), thread, ..MbarrierState::default() };
        self.cluster.blocks[rank].mbarriers.insert(offset, state);
        Ok(())
    }

    /// An `mbarrier` that this thread may use: one that was initialised, and whose initialisation it knows of.
    fn mbarrier_at(&mut self, rank: usize, offset: u32, lane: usize) -> LaneResult<&mut MbarrierState> {
        self.check_is_there(rank, lane)?;
        let who = self.who(lane);
        let cluster = &mut *self.cluster;
        cluster.blocks[rank]
            .shared
            .atomic(who, &cluster.clocks, offset, 8, |old| old)
            .map_err(|conflict| self.conflict(lane, conflict))?;
        self.cluster.blocks[rank].mbarriers.get_mut(&offset).ok_or_else(|| {
            (lane as u32, Misuse::Uninitialised(format!("there is no mbarrier at {offset:#x} of shared memory")))
        })
    }

    /// Arrives `arrivals` times after `tx` more bytes are expected, and returns the phase of the arrival.
    fn arrive(&mut self, rank: usize, offset: u32, lane: usize, arrivals: u32, tx: i64) -> LaneResult<u64> {
        self.mbarrier_at(rank, offset, lane)?;
        self.visit(rank, lane);
        let cluster = &mut *self.cluster;
        let Some(mbarrier) = cluster.blocks[rank].mbarriers.get_mut(&offset) else { return Ok(0) };
        let phase = mbarrier.phase;
        cluster.clocks.release(usize::from(self.warp.index), 1 << lane, &mut mbarrier.arriving);
        mbarrier.tx += tx;
        mbarrier.pending -= i64::from(arrivals);
        mbarrier.try_complete().map_err(|misuse| (lane as u32, misuse))?;
        cluster.has_progress = true;
        Ok(phase)
    }

    // ----------------------------------------------------------------------------------------------------- bulk copies

    pub(super) fn bulk(&mut self, bulk: &Bulk) -> LaneResult<()> {
        for lane in lanes(self.active) {
            match bulk.direction {
                BulkDirection::GlobalToShared | BulkDirection::SharedToCluster => self.bulk_load(bulk, lane)?,
                BulkDirection::SharedToGlobal => self.bulk_store(bulk, lane)?,
            }
        }
        self.cluster.has_progress = true;
        Ok(())
    }

    fn coordinates(&self, bulk: &Bulk, lane: usize) -> Vec<i32> {
        bulk.coordinates.iter().map(|&slot| self.warp.registers.b32[slot as usize][lane] as i32).collect()
    }

    fn tensor_map(&mut self, address: Address, lane: usize) -> LaneResult<TensorMap> {
        let target = self.target(address, lane)?;
        let mut bytes = [0; 128];
        for (index, part) in bytes.chunks_mut(16).enumerate() {
            let part_target = match target {
                Target::Global(address) => Target::Global(address + 16 * index as u64),
                Target::Param(address) => Target::Param(address + 16 * index as u64),
                other => return Err((lane as u32, Misuse::OutOfBounds(format!("a tensor map at {other:x?}")))),
            };
            self.read_bytes(part_target, lane, part)?;
        }
        TensorMap::from_bytes(&bytes)
            .ok_or_else(|| (lane as u32, Misuse::Uninitialised("there is no tensor map at this address".to_owned())))
    }

    /// Size and alignment of a plain bulk copy.
    fn bulk_size(&self, bulk: &Bulk, addresses: &[u64], lane: usize) -> LaneResult<usize> {
        let size = bulk.size.map_or(0, |slot| self.warp.registers.b32[slot as usize][lane]);
        if !size.is_multiple_of(16) || addresses.iter().any(|address| !address.is_multiple_of(16)) {
            let message = format!("a bulk copy of {size} bytes at {addresses:x?}: all must be multiples of 16");
            return Err((lane as u32, Misuse::Misaligned(message)));
        }
        Ok(size as usize)
    }

    fn bulk_load(&mut self, bulk: &Bulk, lane: usize) -> LaneResult<()> {
        let (rank, offset) = self.shared_address(bulk.destination, lane)?;
        let Some(mbarrier) = bulk.mbarrier else { return Ok(()) };
        let (mbarrier_rank, mbarrier) = self.shared_address(mbarrier, lane)?;
        if mbarrier_rank != rank {
            let message = "the data and the mbarrier of a bulk copy lie in different blocks".to_owned();
            return Err((lane as u32, Misuse::OutOfBounds(message)));
        }
        let mut parts: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut total = 0;
        let mut source_reads = AsyncReads::default();
        if bulk.size.is_some() {
            let target = self.target(bulk.source, lane)?;
            let raw = self.raw_address(bulk.source, lane);
            let size = self.bulk_size(bulk, &[raw, offset.into()], lane)?;
            for at in (0..size).step_by(16) {
                let mut data = [0; 16];
                match target {
                    Target::Shared { rank, offset } => {
                        self.async_read(rank, offset + at as u32, lane, &mut data, &mut source_reads)?;
                    }
                    Target::Global(address) => self.read_bytes(Target::Global(address + at as u64), lane, &mut data)?,
                    other => return Err((lane as u32, Misuse::OutOfBounds(format!("a bulk copy from {other:x?}")))),
                }
                parts.push((offset + at as u32, data.to_vec()));
            }
            total = size as i64;
        } else {
            let map = self.tensor_map(bulk.source, lane)?;
            let start = self.coordinates(bulk, lane);
            let address = offset + crate::decode::SHARED_START;
            let pieces = map.pieces(&start, address).map_err(|message| (lane as u32, Misuse::Misaligned(message)))?;
            let fill = map.fill_bytes();
            for piece in pieces {
                let len = piece.bytes as usize;
                let mut data = fill[..len].to_vec();
                if let Some(address) = piece.global {
                    self.read_piece(address, lane, &mut data)?;
                }
                let mut at = 0;
                while at < len {
                    let offset = offset + piece.shared_offset + at as u32;
                    let part = piece_len(offset.into(), len - at);
                    parts.push((offset, data[at..at + part].to_vec()));
                    at += part;
                }
            }
            total += i64::from(map.box_bytes());
        }
        // What another block's memory lends is read at once: nothing tells its owner when the copy is done.
        self.end_reads(&source_reads, self.warp.rank, lane)?;
        let ranks = match bulk.multicast {
            Some(slot) => self.warp.registers.b32[slot as usize][lane] & 0xffff,
            None => 1 << rank,
        };
        for rank in lanes(ranks) {
            if rank >= self.cluster.blocks.len() {
                let message = format!("a copy to block {rank} of a cluster of {}", self.cluster.blocks.len());
                return Err((lane as u32, Misuse::OutOfBounds(message)));
            }
            self.mbarrier_at(rank, mbarrier, lane)?;
            let id = self.cluster.new_id();
            let who = self.who(lane);
            for (offset, data) in &parts {
                let cluster = &mut *self.cluster;
                cluster.blocks[rank]
                    .shared
                    .begin_copy(who, &cluster.clocks, *offset, data.len(), id, Proxy::Asynchronous)
                    .map_err(|conflict| self.conflict(lane, conflict))?;
            }
            self.cluster.bulk.push_back(PendingBulk { id, rank, parts: parts.clone(), mbarrier, bytes: total });
        }
        Ok(())
    }

    /// Bytes of global memory, in pieces that its checks know.
    fn read_piece(&mut self, address: u64, lane: usize, out: &mut [u8]) -> LaneResult<()> {
        let mut at = 0;
        while at < out.len() {
            let len = piece_len(address + at as u64, out.len() - at);
            self.read_bytes(Target::Global(address + at as u64), lane, &mut out[at..at + len])?;
            at += len;
        }
        Ok(())
    }

    fn bulk_store(&mut self, bulk: &Bulk, lane: usize) -> LaneResult<()> {
        let (rank, offset) = self.shared_address(bulk.source, lane)?;
        let mut reads = AsyncReads::default();
        let mut store = |step: &mut Self, from: u32, to: Option<u64>, len: usize| -> LaneResult<()> {
            let mut data = [0; 16];
            let mut at = 0;
            while at < len {
                let from = from + at as u32;
                let piece = piece_len(from.into(), len - at);
                step.async_read(rank, from, lane, &mut data[at..at + piece], &mut reads)?;
                at += piece;
            }
            let Some(address) = to else { return Ok(()) };
            let mut at = 0;
            while at < len {
                let piece = piece_len(address + at as u64, len - at);
                step.write_bytes(Target::Global(address + at as u64), lane, &data[at..at + piece])?;
                at += piece;
            }
            Ok(())
        };
        if bulk.size.is_some() {
            let address = self.raw_address(bulk.destination, lane);
            let size = self.bulk_size(bulk, &[address, offset.into()], lane)?;
            for at in (0..size).step_by(16) {
                store(self, offset + at as u32, Some(address + at as u64), 16)?;
            }
        } else {
            let map = self.tensor_map(Address { space: AddressSpace::Generic, ..bulk.destination }, lane)?;
            let start = self.coordinates(bulk, lane);
            let address = offset + crate::decode::SHARED_START;
            let pieces: Vec<_> =
                map.pieces(&start, address).map_err(|message| (lane as u32, Misuse::Misaligned(message)))?.collect();
            for piece in pieces {
                store(self, offset + piece.shared_offset, piece.global, piece.bytes as usize)?;
            }
        }
        self.warp.bulk_open[lane].parts.extend(reads.parts);
        Ok(())
    }

    /// A read of shared memory by the asynchronous proxy.
    fn async_read(
        &mut self,
        rank: usize,
        offset: u32,
        lane: usize,
        out: &mut [u8],
        reads: &mut AsyncReads,
    ) -> LaneResult<()> {
        let id = self.cluster.new_id();
        let who = self.who(lane);
        let len = out.len() as u32;
        let cluster = &mut *self.cluster;
        cluster.blocks[rank]
            .shared
            .begin_async_read(who, &cluster.clocks, offset, out, id)
            .map_err(|conflict| self.conflict(lane, conflict))?;
        reads.parts.push((offset, len, id));
        Ok(())
    }

    /// Reads of the asynchronous proxy are over, and the lane knows it.
    fn end_reads(&mut self, reads: &AsyncReads, rank: usize, lane: usize) -> LaneResult<()> {
        if reads.parts.is_empty() {
            return Ok(());
        }
        let stamp = self.cluster.clocks.access(self.warp.index, lane as u8);
        for &(offset, len, id) in &reads.parts {
            self.cluster.blocks[rank]
                .shared
                .end_async_read(offset, len as usize, id, stamp)
                .map_err(|conflict| self.conflict(lane, conflict))?;
        }
        Ok(())
    }

    pub(super) fn bulk_commit(&mut self) {
        for lane in lanes(self.active) {
            let open = std::mem::take(&mut self.warp.bulk_open[lane]);
            self.warp.bulk_groups[lane].push_back(open);
        }
    }

    pub(super) fn bulk_wait(&mut self, keep: u32) -> LaneResult<()> {
        for lane in lanes(self.active) {
            while self.warp.bulk_groups[lane].len() > keep as usize {
                let reads = self.warp.bulk_groups[lane].pop_front().unwrap_or_default();
                self.end_reads(&reads, self.warp.rank, lane)?;
            }
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------------------- wgmma

    pub(super) fn wgmma(&mut self, operands: &WgmmaOperands) -> LaneResult<()> {
        let lane = self.first();
        if !self.warp.products.is_fenced {
            let message = "`wgmma.fence` is missing before the first `wgmma` of a group".to_owned();
            return Err((lane, Misuse::NotWaited(message)));
        }
        let registers = &self.warp.registers;
        let descriptor = |slot: u32| {
            Descriptor::decode(registers.b64[slot as usize][lane as usize])
                .map_err(|message| (lane, Misuse::Unsupported(message)))
        };
        let a_registers: Vec<[u32; 32]>;
        let a = match &operands.a {
            WgmmaA::Registers(slots) => {
                if self.warp.is_pending(slots) {
                    let message = "A is a register that an earlier `wgmma` still computes".to_owned();
                    return Err((lane, Misuse::NotWaited(message)));
                }
                a_registers = slots.iter().map(|&slot| registers.b32[slot as usize]).collect();
                OperandA::Registers(&a_registers)
            }
            WgmmaA::Descriptor(slot) => OperandA::Shared(descriptor(*slot)?),
        };
        let b = descriptor(operands.b)?;
        let scale_d = super::read(&registers.predicates, operands.scale_d) >> lane & 1 != 0;
        let mut d: Vec<[u32; 32]> = operands.d.iter().map(|&slot| registers.b32[slot as usize]).collect();
        let id = self.cluster.new_id();
        let who = self.who(lane as usize);
        let rank = self.warp.rank;
        let warp_in_group = self.warp.first_thread as usize / 32 % 4;
        let mut parts = Vec::new();
        let mut read = |address: u32| {
            let mut out = [0; 16];
            let offset = address.wrapping_sub(crate::decode::SHARED_START);
            let cluster = &mut *self.cluster;
            cluster.blocks[rank].shared.begin_async_read(who, &cluster.clocks, offset, &mut out, id)?;
            parts.push((offset, 16, id));
            Ok(out)
        };
        let result = wgmma_warp(&operands.op, warp_in_group, &a, &b, scale_d, &mut read, &mut d);
        result.map_err(|conflict| self.conflict(lane as usize, conflict))?;
        for (&slot, value) in operands.d.iter().zip(d) {
            self.warp.registers.b32[slot as usize] = value;
        }
        let products = &mut self.warp.products;
        products.pending.resize(self.warp.registers.b32.len(), 0);
        for &slot in &operands.d {
            products.pending[slot as usize] += 1;
        }
        products.num_pending += operands.d.len();
        products.open.accumulators.extend(&operands.d);
        products.open.reads.parts.extend(parts);
        Ok(())
    }

    pub(super) fn wgmma_commit(&mut self) {
        let open = std::mem::take(&mut self.warp.products.open);
        self.warp.products.groups.push_back(open);
    }

    pub(super) fn wgmma_wait(&mut self, keep: u32) -> LaneResult<()> {
        let lane = self.first() as usize;
        while self.warp.products.groups.len() > keep as usize {
            let product = self.warp.products.groups.pop_front().unwrap_or_default();
            let stamp = self.cluster.clocks.asynchronous(self.warp.index.into());
            self.cluster.clocks.learn(self.warp.index.into(), self.active, stamp);
            for &(offset, len, id) in &product.reads.parts {
                self.cluster.blocks[self.warp.rank]
                    .shared
                    .end_async_read(offset, len as usize, id, stamp)
                    .map_err(|conflict| self.conflict(lane, conflict))?;
            }
            for slot in &product.accumulators {
                self.warp.products.pending[*slot as usize] -= 1;
            }
            self.warp.products.num_pending -= product.accumulators.len();
        }
        if keep == 0 {
            self.warp.products.is_fenced = false;
        }
        Ok(())
    }
}

/// A thread must not exit while a bulk store still reads the shared memory that goes with its block.
pub(super) fn check_nothing_is_left(warp: &Warp, exiting: u32) -> LaneResult<()> {
    for lane in lanes(exiting) {
        let is_reading = |reads: &AsyncReads| !reads.parts.is_empty();
        if is_reading(&warp.bulk_open[lane]) || warp.bulk_groups[lane].iter().any(is_reading) {
            let message = "the thread exits before a bulk store of its has read shared memory: `cp.async.bulk.wait_group` is missing";
            return Err((lane as u32, Misuse::NotWaited(message.to_owned())));
        }
    }
    Ok(())
}

/// The largest power of two, up to 16, that divides the address and is not longer than what is left.
fn piece_len(address: u64, left: usize) -> usize {
    let by_address = 1usize << address.trailing_zeros().min(4);
    let by_left = 1usize << (usize::BITS - 1 - left.leading_zeros()).min(4);
    by_address.min(by_left)
}
