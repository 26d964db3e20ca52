//! Global memory: allocations, bounds and what has been written.
//!
//! Bytes lie in words of 64 bits that are read and written atomically, so blocks on several host threads may race on
//! them as they may on a GPU: every aligned access of at most 8 bytes happens at once, and an atomic operation agrees
//! with plain accesses of every size. Beside each word stands one bit per byte that says whether the byte has been
//! written. Words come in chunks that are made at the first store into them: a large arena costs what is used of it.
//!
//! Addresses are never given out twice, and unmapped bytes lie between any two allocations, so that a stray or stale
//! pointer does not hit something else. Left out: races between blocks on global memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fault::Misuse;

#[cfg(test)]
mod tests;

/// Where the first allocation lies: an address that no host pointer of a small program has and that is no small number.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
/// Allocations begin at multiples of this, as those of `cudaMalloc` do, and at least as many unmapped bytes lie between.
const ALIGNMENT: u64 = 256;
/// No GPU has more; a larger request is a mistake in a size.
const MAX_BYTES: u64 = 1 << 40;
const CHUNK_WORDS: usize = 8192;
/// A cursor remembers so many allocations: a kernel reads a few arrays in turn.
const CURSOR_EXTENTS: usize = 4;

/// The global memory of one emulated GPU.
#[derive(Debug)]
pub(crate) struct GlobalMemory {
    space: RwLock<Space>,
    /// Counts the changes that make what cursors remember untrue.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Space {
    next: u64,
    allocations: BTreeMap<u64, Allocation>,
    /// Address and size of what has been freed, so that a use after free can be named.
    freed: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Allocation {
    storage: Arc<Storage>,
    /// Start and end of the carved regions, from the first [`GlobalMemory::carve`] on.
    regions: Option<BTreeMap<u64, u64>>,
}

/// A part of memory inside which every access is in bounds: an allocation that has no regions, or one region.
#[derive(Clone, Debug)]
struct Extent {
    start: u64,
    end: u64,
    storage: Arc<Storage>,
}

/// What one reader of memory remembers of the allocations that it met last.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    extents: Vec<Extent>,
    last: usize,
    generation: u64,
}

impl GlobalMemory {
    pub(crate) fn new() -> GlobalMemory {
        let space = Space { next: FIRST_ADDRESS, allocations: BTreeMap::new(), freed: BTreeMap::new() };
        GlobalMemory { space: RwLock::new(space), generation: AtomicU64::new(0) }
    }

    /// Takes `bytes` bytes, all of them unwritten, and returns their address.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64, Misuse> {
        if bytes > MAX_BYTES {
            let message = format!("an allocation of {bytes} bytes: the emulator gives at most {MAX_BYTES} at once");
            return Err(Misuse::OutOfBounds(message));
        }
        let mut space = self.write_space();
        let base = space.next;
        space.next = (base + bytes).next_multiple_of(ALIGNMENT) + ALIGNMENT;
        let storage = Arc::new(Storage::new(base, bytes));
        space.allocations.insert(base, Allocation { storage, regions: None });
        Ok(base)
    }

    /// Gives the allocation at `addr` back; its addresses stay invalid.
    pub(crate) fn free(&self, addr: u64) -> Result<(), Misuse> {
        let mut space = self.write_space();
        let Some(allocation) = space.allocations.remove(&addr) else {
            return Err(Misuse::OutOfBounds(format!("free of {addr:#x}: {}", space.around(addr, 0))));
        };
        space.freed.insert(addr, allocation.storage.len);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Makes `len` bytes at `addr`, inside one allocation, a region with bounds of its own.
    ///
    /// From then on only the carved regions of that allocation may be accessed, and no access may cross their edges.
    pub(crate) fn carve(&self, addr: u64, len: u64) -> Result<(), Misuse> {
        let mut space = self.write_space();
        let around = || format!("carving {len} bytes at {addr:#x}: ");
        let Some(allocation) = space.allocation_of_mut(addr, len) else {
            return Err(Misuse::OutOfBounds(around() + &space.around(addr, len)));
        };
        let regions = allocation.regions.get_or_insert_default();
        // An empty region has no bytes, but its address is taken: two regions at one address could not be told apart.
        let end = addr + len.max(1);
        if let Some((start, other)) = regions.range(..end).next_back()
            && (*other).max(start + 1) > addr
        {
            let size = other - start;
            return Err(Misuse::OutOfBounds(format!("{}overlaps the region of {size} bytes at {start:#x}", around())));
        }
        regions.insert(addr, addr + len);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The host writes `bytes`.
    pub(crate) fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Misuse> {
        let extent = self.find(addr, bytes.len() as u64, "host write")?;
        let mut rest = bytes;
        for (offset, len) in pieces(addr - extent.storage.base, bytes.len() as u64) {
            let (piece, tail) = rest.split_at(len);
            extent.storage.put(offset, len, to_bits(piece));
            rest = tail;
        }
        Ok(())
    }

    /// The host reads; bytes that nobody has written are an error for it, too.
    pub(crate) fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Misuse> {
        let extent = self.find(addr, out.len() as u64, "host read")?;
        let mut rest = out;
        for (offset, len) in pieces(addr - extent.storage.base, rest.len() as u64) {
            let (value, unwritten) = extent.storage.get(offset, len);
            if unwritten != 0 {
                return Err(extent.uninitialised(extent.storage.base + offset, len, unwritten, "host read"));
            }
            let (piece, tail) = rest.split_at_mut(len);
            piece.copy_from_slice(&value.to_le_bytes()[..len]);
            rest = tail;
        }
        Ok(())
    }

    /// The host sets `len` bytes to `byte`.
    pub(crate) fn fill(&self, addr: u64, byte: u8, len: u64) -> Result<(), Misuse> {
        let extent = self.find(addr, len, "host fill")?;
        for (offset, len) in pieces(addr - extent.storage.base, len) {
            extent.storage.put(offset, len, u64::from_le_bytes([byte; 8]));
        }
        Ok(())
    }

    /// Copies `len` bytes; what is unwritten in the source becomes unwritten in the destination.
    pub(crate) fn copy(&self, to: u64, from: u64, len: u64) -> Result<(), Misuse> {
        let source = self.find(from, len, "host copy from")?;
        let target = self.find(to, len, "host copy to")?;
        if len > 0 && from < to + len && to < from + len {
            return Err(Misuse::OutOfBounds(format!(
                "host copy of {len} bytes from {from:#x} to {to:#x}: they overlap"
            )));
        }
        let mut done = 0;
        while done < len {
            let (read, write) = (from + done - source.storage.base, to + done - target.storage.base);
            // A piece crosses no edge of a word on either side; it has at most 8 bytes.
            let piece = (8 - read % 8).min(8 - write % 8).min(len - done);
            let (value, unwritten) = source.storage.get(read, piece as usize);
            target.storage.put(write, piece as usize, value);
            target.storage.forget(write, unwritten);
            done += piece;
        }
        Ok(())
    }

    /// Makes `len` bytes unwritten again, for memory that gets another use.
    pub(crate) fn mark_unwritten(&self, addr: u64, len: u64) -> Result<(), Misuse> {
        let extent = self.find(addr, len, "marking as unwritten")?;
        for (offset, len) in pieces(addr - extent.storage.base, len) {
            extent.storage.forget(offset, low_bits(len));
        }
        Ok(())
    }

    /// A kernel loads 1, 2, 4, 8 or 16 bytes.
    pub(crate) fn load(&self, cursor: &mut Cursor, addr: u64, out: &mut [u8]) -> Result<(), Misuse> {
        if out.len() == 16 {
            let [low, high] = self.load_16(cursor, addr)?;
            out[..8].copy_from_slice(&low.to_le_bytes());
            out[8..].copy_from_slice(&high.to_le_bytes());
        } else {
            let value = self.load_bits(cursor, addr, out.len())?;
            out.copy_from_slice(&value.to_le_bytes()[..out.len()]);
        }
        Ok(())
    }

    /// A kernel stores 1, 2, 4, 8 or 16 bytes.
    pub(crate) fn store(&self, cursor: &mut Cursor, addr: u64, bytes: &[u8]) -> Result<(), Misuse> {
        match bytes.split_at_checked(8) {
            Some((low, high)) if high.len() == 8 => self.store_16(cursor, addr, [to_bits(low), to_bits(high)]),
            _ => self.store_bits(cursor, addr, bytes.len(), to_bits(bytes)),
        }
    }

    /// A kernel loads `len` bytes, 1, 2, 4 or 8; the bits above them are zero.
    #[inline]
    pub(crate) fn load_bits(&self, cursor: &mut Cursor, addr: u64, len: usize) -> Result<u64, Misuse> {
        let extent = self.extent(cursor, addr, len, "load")?;
        let (value, unwritten) = extent.storage.get(addr - extent.storage.base, len);
        if unwritten != 0 {
            return Err(extent.uninitialised(addr, len, unwritten, "load"));
        }
        Ok(value)
    }

    /// A kernel loads 16 bytes.
    #[inline]
    pub(crate) fn load_16(&self, cursor: &mut Cursor, addr: u64) -> Result<[u64; 2], Misuse> {
        let extent = self.extent(cursor, addr, 16, "load")?;
        let offset = addr - extent.storage.base;
        let (low, unwritten_low) = extent.storage.get(offset, 8);
        let (high, unwritten_high) = extent.storage.get(offset + 8, 8);
        if unwritten_low | unwritten_high != 0 {
            let unwritten = u16::from_le_bytes([unwritten_low, unwritten_high]);
            return Err(extent.uninitialised(addr, 16, unwritten, "load"));
        }
        Ok([low, high])
    }

    /// A kernel stores the low `len` bytes of `value`, 1, 2, 4 or 8.
    #[inline]
    pub(crate) fn store_bits(&self, cursor: &mut Cursor, addr: u64, len: usize, value: u64) -> Result<(), Misuse> {
        let extent = self.extent(cursor, addr, len, "store")?;
        extent.storage.put(addr - extent.storage.base, len, value);
        Ok(())
    }

    /// A kernel stores 16 bytes.
    #[inline]
    pub(crate) fn store_16(&self, cursor: &mut Cursor, addr: u64, value: [u64; 2]) -> Result<(), Misuse> {
        let extent = self.extent(cursor, addr, 16, "store")?;
        let offset = addr - extent.storage.base;
        extent.storage.put(offset, 8, value[0]);
        extent.storage.put(offset + 8, 8, value[1]);
        Ok(())
    }

    /// An atomic operation on 2, 4 or 8 bytes: `change` makes the new value of the old one, which is returned.
    ///
    /// `change` runs again when another host thread was faster.
    pub(crate) fn atomic(
        &self,
        cursor: &mut Cursor,
        addr: u64,
        len: usize,
        change: impl FnMut(u64) -> u64,
    ) -> Result<u64, Misuse> {
        let extent = self.extent(cursor, addr, len, "atomic")?;
        let offset = addr - extent.storage.base;
        let (_, unwritten) = extent.storage.get(offset, len);
        if unwritten != 0 {
            return Err(extent.uninitialised(addr, len, unwritten, "atomic"));
        }
        Ok(extent.storage.update(offset, len, change))
    }

    /// The part of memory that an access of a kernel lies in.
    #[inline]
    fn extent<'c>(&self, cursor: &'c mut Cursor, addr: u64, len: usize, what: &str) -> Result<&'c Extent, Misuse> {
        if !addr.is_multiple_of(len as u64) {
            return Err(Misuse::Misaligned(format!(
                "{len}-byte {what} at {addr:#x}: the address is no multiple of {len}"
            )));
        }
        let known = cursor.generation == self.generation.load(Ordering::Acquire);
        if !known || !cursor.extents.get(cursor.last).is_some_and(|extent| extent.contains(addr, len as u64)) {
            self.move_cursor(cursor, addr, len as u64, what)?;
        }
        Ok(&cursor.extents[cursor.last])
    }

    #[cold]
    fn move_cursor(&self, cursor: &mut Cursor, addr: u64, len: u64, what: &str) -> Result<(), Misuse> {
        let generation = self.generation.load(Ordering::Acquire);
        if cursor.generation != generation {
            *cursor = Cursor { generation, ..Cursor::default() };
        }
        if let Some(index) = cursor.extents.iter().position(|extent| extent.contains(addr, len)) {
            cursor.last = index;
            return Ok(());
        }
        let extent = self.find(addr, len, what)?;
        if cursor.extents.len() < CURSOR_EXTENTS {
            cursor.last = cursor.extents.len();
            cursor.extents.push(extent);
        } else {
            cursor.last = (cursor.last + 1) % CURSOR_EXTENTS;
            cursor.extents[cursor.last] = extent;
        }
        Ok(())
    }

    fn find(&self, addr: u64, len: u64, what: &str) -> Result<Extent, Misuse> {
        let space = self.read_space();
        space
            .extent_of(addr, len)
            .ok_or_else(|| Misuse::OutOfBounds(format!("{len}-byte {what} at {addr:#x}: {}", space.around(addr, len))))
    }

    // Nothing panics while it holds the lock, so a poisoned one still guards a sound map.
    fn read_space(&self) -> RwLockReadGuard<'_, Space> {
        self.space.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_space(&self) -> RwLockWriteGuard<'_, Space> {
        self.space.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn extent_of(&self, addr: u64, len: u64) -> Option<Extent> {
        let (_, allocation) = self.allocations.range(..=addr).next_back()?;
        let storage = &allocation.storage;
        let (start, end) = match &allocation.regions {
            None => (storage.base, storage.base + storage.len),
            Some(regions) => regions.range(..=addr).next_back().map(|(start, end)| (*start, *end))?,
        };
        let extent = Extent { start, end, storage: Arc::clone(storage) };
        extent.contains(addr, len).then_some(extent)
    }

    fn allocation_of_mut(&mut self, addr: u64, len: u64) -> Option<&mut Allocation> {
        let (_, allocation) = self.allocations.range_mut(..=addr).next_back()?;
        let end = allocation.storage.base + allocation.storage.len;
        addr.checked_add(len).is_some_and(|access_end| access_end <= end).then_some(allocation)
    }

    /// What lies around an access that is out of bounds.
    fn around(&self, addr: u64, len: u64) -> String {
        let live = self.allocations.values().flat_map(|allocation| {
            let storage = &allocation.storage;
            let whole = [(storage.base, storage.len, "allocation")];
            let regions = allocation.regions.iter().flatten().map(|(start, end)| (*start, end - start, "region"));
            // Of an allocation that has regions only these can be meant.
            whole.into_iter().filter(|_| allocation.regions.is_none()).chain(regions)
        });
        let freed = self.freed.iter().map(|(start, size)| (*start, *size, "freed allocation"));
        let nearest = live.chain(freed).min_by_key(|(start, size, _)| distance(addr, *start, *size));
        let Some((start, size, noun)) = nearest else {
            return "nothing is allocated".to_owned();
        };
        let the_nearest = format!("the nearest {noun}, {size} bytes at {start:#x}");
        let end = start + size;
        if addr < start {
            format!("begins {} bytes before {the_nearest}", start - addr)
        } else if addr >= end {
            format!("begins {} bytes after the end of {the_nearest}", addr - end)
        } else if addr.saturating_add(len) > end {
            format!("{} of its bytes lie after the end of {the_nearest}", addr.saturating_add(len) - end)
        } else {
            format!("byte {} of {the_nearest}", addr - start)
        }
    }
}

fn distance(addr: u64, start: u64, size: u64) -> u64 {
    if addr < start { start - addr } else { (addr + 1).saturating_sub(start + size) }
}

impl Extent {
    #[inline]
    fn contains(&self, addr: u64, len: u64) -> bool {
        self.start <= addr && addr <= self.end && len <= self.end - addr
    }

    #[cold]
    fn uninitialised(&self, addr: u64, len: usize, unwritten: impl Into<u64>, what: &str) -> Misuse {
        let unwritten = unwritten.into();
        let (first, count) = (addr + u64::from(unwritten.trailing_zeros()), unwritten.count_ones());
        let (start, size) = (self.start, self.end - self.start);
        Misuse::Uninitialised(format!(
            "{len}-byte {what} at {addr:#x}: nobody has written {count} of these bytes, the first at {first:#x}, \
             byte {} of the {size} bytes at {start:#x}",
            first - start
        ))
    }
}

/// The bytes of one allocation. Offsets count from its base; no access crosses the edge of a word of 8 bytes.
#[derive(Debug)]
struct Storage {
    base: u64,
    len: u64,
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

#[derive(Debug)]
struct Chunk {
    words: [AtomicU64; CHUNK_WORDS],
    /// One bit for each byte of each word.
    written: [AtomicU8; CHUNK_WORDS],
}

impl Storage {
    fn new(base: u64, len: u64) -> Storage {
        let chunks = len.div_ceil(8 * CHUNK_WORDS as u64);
        Storage { base, len, chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    /// Value of `len` bytes, and a mask of those among them that are unwritten.
    #[inline]
    fn get(&self, offset: u64, len: usize) -> (u64, u8) {
        let (word, byte) = ((offset / 8) as usize, offset % 8);
        let Some(chunk) = self.chunks[word / CHUNK_WORDS].get() else {
            return (0, low_bits(len));
        };
        let written = chunk.written[word % CHUNK_WORDS].load(Ordering::Acquire);
        let value = chunk.words[word % CHUNK_WORDS].load(Ordering::Acquire);
        (value >> (8 * byte) & value_mask(len), !(written >> byte) & low_bits(len))
    }

    #[inline]
    fn put(&self, offset: u64, len: usize, value: u64) {
        let (word, byte) = ((offset / 8) as usize, offset % 8);
        let chunk = self.chunks[word / CHUNK_WORDS].get_or_init(Chunk::new);
        if len == 8 {
            chunk.words[word % CHUNK_WORDS].store(value, Ordering::Release);
        } else {
            self.update(offset, len, |_| value);
        }
        let bits = low_bits(len) << byte;
        let written = &chunk.written[word % CHUNK_WORDS];
        // A plain load first: the atomic operation is needed only once for each byte.
        if written.load(Ordering::Relaxed) & bits != bits {
            written.fetch_or(bits, Ordering::Release);
        }
    }

    /// Replaces `len` bytes by what `change` makes of them, at once, and returns the old value.
    #[inline]
    fn update(&self, offset: u64, len: usize, mut change: impl FnMut(u64) -> u64) -> u64 {
        let (word, shift, mask) = ((offset / 8) as usize, 8 * (offset % 8), value_mask(len));
        let word = &self.chunks[word / CHUNK_WORDS].get_or_init(Chunk::new).words[word % CHUNK_WORDS];
        let mut whole = word.load(Ordering::Acquire);
        loop {
            let old = whole >> shift & mask;
            let changed = whole & !(mask << shift) | (change(old) & mask) << shift;
            match word.compare_exchange_weak(whole, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return old,
                Err(now) => whole = now,
            }
        }
    }

    /// Makes the bytes of `mask`, counted from `offset`, unwritten.
    fn forget(&self, offset: u64, mask: u8) {
        let (word, byte) = ((offset / 8) as usize, offset % 8);
        if mask != 0
            && let Some(chunk) = self.chunks[word / CHUNK_WORDS].get()
        {
            chunk.written[word % CHUNK_WORDS].fetch_and(!(mask << byte), Ordering::Release);
        }
    }
}

impl Chunk {
    fn new() -> Box<Chunk> {
        Box::new(Chunk {
            words: [const { AtomicU64::new(0) }; CHUNK_WORDS],
            written: [const { AtomicU8::new(0) }; CHUNK_WORDS],
        })
    }
}

/// Cuts a range of bytes at the edges of words: offset and length of each piece.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + len;
    let mut next = offset;
    std::iter::from_fn(move || {
        let piece = (next, (8 - next % 8).min(end - next) as usize);
        next += piece.1 as u64;
        (piece.1 > 0).then_some(piece)
    })
}

/// A bit for each of the first `len` bytes of a word.
#[inline]
fn low_bits(len: usize) -> u8 {
    (0xff_u16 >> (8 - len)) as u8
}

/// The bits of the first `len` bytes of a word.
#[inline]
fn value_mask(len: usize) -> u64 {
    u64::MAX >> (64 - 8 * len)
}

fn to_bits(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
