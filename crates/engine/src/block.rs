//! The blocks of the paged cache, as numbers.
//!
//! The pool knows which blocks are free; what is in a block is the model's business. Blocks are not shared between sequences
//! yet: a prefix cache will count references here, behind the same `allocate` and `free`.

use crate::IntegrityError;

/// One block of the paged cache. Whoever has it may write there: it is neither `Copy` nor `Clone`, so that a block cannot be
/// freed twice or held by two sequences.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlockId(u32);

impl BlockId {
    /// The number of the block in the model's cache.
    pub(crate) fn index(&self) -> u32 {
        self.0
    }
}

/// All blocks of the cache that no sequence holds.
#[derive(Debug)]
pub(crate) struct BlockPool {
    num_blocks: usize,
    /// The next block to hand out is the last. A block that was just freed is handed out first: its memory is the warmest.
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of blocks `0..num_blocks`, handed out from 0.
    pub(crate) fn new(num_blocks: usize) -> Self {
        let num_block_ids = u32::try_from(num_blocks).expect("the limits keep the number of slots within u32");
        BlockPool { num_blocks, free: (0..num_block_ids).rev().map(BlockId).collect() }
    }

    /// Blocks of the cache, free or not.
    pub(crate) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Blocks that can be allocated.
    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks to keep free when a new sequence is admitted beside running ones, so that those can grow for a while before
    /// one must be preempted: 1 %.
    pub(crate) fn watermark(&self) -> usize {
        self.num_blocks / 100
    }

    /// Takes a free block, if there is one.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        self.free.pop()
    }

    /// Takes back the blocks of a sequence, leaving `blocks` empty. They will be handed out in the same order again.
    pub(crate) fn free(&mut self, blocks: &mut Vec<BlockId>) {
        self.free.extend(blocks.drain(..).rev());
    }

    /// Checks that every block is either free or in `held`, once.
    pub(crate) fn check_integrity<'a>(&'a self, held: impl Iterator<Item = &'a BlockId>) -> Result<(), IntegrityError> {
        let mut num_seen = vec![0; self.num_blocks];
        for block in self.free.iter().chain(held) {
            match num_seen.get_mut(block.index() as usize) {
                Some(count) => *count += 1,
                None => return Err(IntegrityError(format!("block {} of {}", block.index(), self.num_blocks))),
            }
        }
        match num_seen.iter().position(|&count| count != 1) {
            None => Ok(()),
            Some(block) => Err(IntegrityError(match num_seen[block] {
                0 => format!("block {block} is lost: neither free nor held"),
                count => format!("block {block} is held or free {count} times"),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(blocks: &[BlockId]) -> Vec<u32> {
        blocks.iter().map(BlockId::index).collect()
    }

    #[test]
    fn blocks_are_handed_out_from_0_and_freed_ones_first() {
        let mut pool = BlockPool::new(6);
        let mut first: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        let mut second: Vec<_> = (0..2).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!((indices(&first), indices(&second), pool.num_free()), (vec![0, 1, 2], vec![3, 4], 1));
        pool.free(&mut first);
        assert_eq!((first.len(), pool.num_free()), (0, 4));
        second.extend((0..4).map(|_| pool.allocate().unwrap()));
        assert_eq!(indices(&second), [3, 4, 0, 1, 2, 5]);
        assert_eq!(pool.allocate(), None);
        assert_eq!(pool.check_integrity(second.iter()), Ok(()));
    }

    #[test]
    fn integrity_names_the_block() {
        let check = |free: &[u32], held: &[u32], message: &str| {
            let ids = |indices: &[u32]| indices.iter().copied().map(BlockId).collect::<Vec<_>>();
            let pool = BlockPool { num_blocks: 3, free: ids(free) };
            let result = pool.check_integrity(ids(held).iter()).map_err(|error| error.to_string());
            assert_eq!(result.err().unwrap_or_default(), message, "free {free:?}, held {held:?}");
        };
        check(&[2, 0], &[1], "");
        check(&[2, 0], &[], "the engine's accounts do not agree: block 1 is lost: neither free nor held");
        check(&[2, 0], &[1, 2], "the engine's accounts do not agree: block 2 is held or free 2 times");
        check(&[2, 2, 0], &[1], "the engine's accounts do not agree: block 2 is held or free 2 times");
        check(&[2, 0], &[1, 3], "the engine's accounts do not agree: block 3 of 3");
    }
}
