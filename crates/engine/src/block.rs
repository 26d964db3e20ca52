//! The blocks of the paged cache, as numbers, and which of them can be found again.
//!
//! A block is in one of three states:
//!
//! - **held** by one or more sequences, counted;
//! - **cached**: held by nobody, but still with the keys of tokens that its [`BlockHash`] names;
//! - **empty**: held by nobody and known by nothing.
//!
//! Held blocks can be known by a hash, too: that is how sequences share them. Only full blocks are, and whoever shares one never
//! writes to it. Blocks are handed out empty first, then cached ones, the one that was freed the longest ago first. What is in
//! a block is the model's business.

use std::collections::HashMap;

use crate::IntegrityError;
use crate::block_hash::BlockHash;

/// One reference to a block of the paged cache. It is neither `Copy` nor `Clone`, so that a reference cannot be given up twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlockId(u32);

impl BlockId {
    /// The number of the block in the model's cache.
    pub(crate) fn index(&self) -> u32 {
        self.0
    }
}

/// What the pool knows about a block.
#[derive(Clone, Debug)]
struct Block {
    num_refs: u32,
    /// The block is found under this.
    hash: Option<BlockHash>,
    /// Neighbours in the list of cached blocks; of no meaning for others.
    older: u32,
    newer: u32,
}

/// All blocks of the cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// One per block, and the ends of the list of cached blocks last: its `newer` is the oldest, its `older` the newest.
    blocks: Vec<Block>,
    /// The next block to hand out is the last. A block that was just freed is handed out first: its memory is the warmest.
    empty: Vec<u32>,
    num_cached: usize,
    known: HashMap<BlockHash, u32, rustc_hash::FxBuildHasher>,
}

/// How much of a prompt is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheHit {
    /// Blocks from the start of the prompt.
    pub(crate) num_blocks: usize,
    /// Those among them that nobody holds: taking them leaves fewer blocks to hand out.
    pub(crate) num_free_blocks: usize,
}

impl BlockPool {
    /// A pool of blocks `0..num_blocks`, all empty, handed out from 0.
    pub(crate) fn new(num_blocks: usize) -> Self {
        let num_block_ids = u32::try_from(num_blocks).expect("the limits keep the number of slots within u32");
        let block = Block { num_refs: 0, hash: None, older: num_block_ids, newer: num_block_ids };
        BlockPool {
            blocks: vec![block; num_blocks + 1],
            empty: (0..num_block_ids).rev().collect(),
            num_cached: 0,
            known: HashMap::default(),
        }
    }

    /// Blocks of the cache, free or not.
    pub(crate) fn num_blocks(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Blocks that can be allocated: empty and cached ones.
    pub(crate) fn num_free(&self) -> usize {
        self.empty.len() + self.num_cached
    }

    /// Blocks that nobody holds and that can be found again.
    pub(crate) fn num_cached(&self) -> usize {
        self.num_cached
    }

    /// Takes a block to write to, if one is free. What was cached in it is forgotten.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let index = match self.empty.pop() {
            Some(index) => index,
            None if self.num_cached > 0 => {
                let oldest = self.ends().newer;
                self.unlink(oldest);
                self.forget(oldest);
                oldest
            }
            None => return None,
        };
        self.blocks[index as usize].num_refs = 1;
        Some(BlockId(index))
    }

    /// How many of these blocks, from the first one on without a gap, can be [shared](Self::share).
    pub(crate) fn look_up(&self, hashes: &[BlockHash]) -> CacheHit {
        let mut hit = CacheHit::default();
        for index in hashes.iter().map_while(|hash| self.known.get(hash)) {
            hit.num_blocks += 1;
            hit.num_free_blocks += usize::from(self.blocks[*index as usize].num_refs == 0);
        }
        hit
    }

    /// Takes a reference to the block that is known by this hash.
    pub(crate) fn share(&mut self, hash: BlockHash) -> Option<BlockId> {
        let &index = self.known.get(&hash)?;
        if self.blocks[index as usize].num_refs == 0 {
            self.unlink(index);
        }
        self.blocks[index as usize].num_refs += 1;
        Some(BlockId(index))
    }

    /// Makes a full block known. If another one is known by that hash already, that one stays.
    pub(crate) fn publish(&mut self, block: &BlockId, hash: BlockHash) {
        let known = &mut self.blocks[block.0 as usize].hash;
        if known.is_none() && !self.known.contains_key(&hash) {
            *known = Some(hash);
            self.known.insert(hash, block.0);
        }
    }

    /// Gives up the references of a sequence, leaving `blocks` empty. Of the blocks that nobody holds any more, the known ones
    /// are cached, the last of them to be forgotten first, because it is of no use without those before it; the others will be
    /// handed out in the same order again.
    pub(crate) fn free(&mut self, blocks: &mut Vec<BlockId>) {
        for BlockId(index) in blocks.drain(..).rev() {
            let block = &mut self.blocks[index as usize];
            block.num_refs -= 1;
            match block {
                Block { num_refs: 0, hash: Some(_), .. } => self.link_as_newest(index),
                Block { num_refs: 0, hash: None, .. } => self.empty.push(index),
                _ => {}
            }
        }
    }

    /// Forgets everything that is known: no block will be shared that is not shared already.
    pub(crate) fn forget_all(&mut self) {
        self.known.clear();
        while self.num_cached > 0 {
            let oldest = self.ends().newer;
            self.unlink(oldest);
            self.empty.push(oldest);
        }
        self.blocks.iter_mut().for_each(|block| block.hash = None);
    }

    fn forget(&mut self, index: u32) {
        if let Some(hash) = self.blocks[index as usize].hash.take() {
            self.known.remove(&hash);
        }
    }

    fn ends(&self) -> &Block {
        &self.blocks[self.num_blocks()]
    }

    fn unlink(&mut self, index: u32) {
        let Block { older, newer, .. } = self.blocks[index as usize];
        self.blocks[older as usize].newer = newer;
        self.blocks[newer as usize].older = older;
        self.num_cached -= 1;
    }

    fn link_as_newest(&mut self, index: u32) {
        let ends = self.num_blocks() as u32;
        let newest = self.ends().older;
        let block = &mut self.blocks[index as usize];
        (block.older, block.newer) = (newest, ends);
        self.blocks[newest as usize].newer = index;
        self.blocks[ends as usize].older = index;
        self.num_cached += 1;
    }

    /// Checks that every block is held as often as it is in `held`, and else in one list, once; and that what is known is what
    /// the blocks say.
    pub(crate) fn check_integrity<'a>(&self, held: impl Iterator<Item = &'a BlockId>) -> Result<(), IntegrityError> {
        let fail = |message: String| Err(IntegrityError(message));
        let num_blocks = self.num_blocks();
        let mut num_held = vec![0; num_blocks];
        for block in held {
            match num_held.get_mut(block.index() as usize) {
                Some(count) => *count += 1,
                None => return fail(format!("block {} of {num_blocks}", block.index())),
            }
        }
        let mut num_listed = vec![0; num_blocks];
        let mut cached = Vec::new();
        let mut index = self.ends().newer;
        while (index as usize) < num_blocks && cached.len() < num_blocks {
            cached.push(index);
            index = self.blocks[index as usize].newer;
        }
        for &index in self.empty.iter().chain(&cached) {
            num_listed[index as usize] += 1;
        }
        if cached.len() != self.num_cached {
            return fail(format!("{} blocks are cached, but {} are counted", cached.len(), self.num_cached));
        }
        for (index, block) in self.blocks[..num_blocks].iter().enumerate() {
            let Block { num_refs, hash, .. } = block;
            if *num_refs != num_held[index] {
                return fail(format!("block {index} is held {} times, but {num_refs} are counted", num_held[index]));
            }
            match num_listed[index] + usize::from(*num_refs > 0) {
                1 => {}
                0 => return fail(format!("block {index} is lost: neither free nor held")),
                count => return fail(format!("block {index} is held or free {count} times")),
            }
            if hash.is_some_and(|hash| self.known.get(&hash) != Some(&(index as u32))) {
                return fail(format!("block {index} is not known by its hash"));
            }
        }
        if let Some(index) = self.empty.iter().find(|&&index| self.blocks[index as usize].hash.is_some()) {
            return fail(format!("block {index} is known, but taken for empty"));
        }
        if let Some(index) = cached.iter().find(|&&index| self.blocks[index as usize].hash.is_none()) {
            return fail(format!("block {index} is cached, but not known"));
        }
        let num_known = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        if num_known != self.known.len() {
            return fail(format!("{num_known} blocks have a hash, but {} are known", self.known.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(blocks: &[BlockId]) -> Vec<u32> {
        blocks.iter().map(BlockId::index).collect()
    }

    fn allocate(pool: &mut BlockPool, count: usize) -> Vec<BlockId> {
        (0..count).map(|_| pool.allocate().expect("a free block")).collect()
    }

    /// Publishes the blocks under the hashes `first..`.
    fn publish(pool: &mut BlockPool, blocks: &[BlockId], first: u128) {
        blocks.iter().zip(first..).for_each(|(block, hash)| pool.publish(block, BlockHash::new(hash)));
    }

    fn look_up(pool: &BlockPool, hashes: std::ops::Range<u128>) -> (usize, usize) {
        let hit = pool.look_up(&hashes.map(BlockHash::new).collect::<Vec<_>>());
        (hit.num_blocks, hit.num_free_blocks)
    }

    #[test]
    fn blocks_are_handed_out_from_0_and_freed_ones_first() {
        let mut pool = BlockPool::new(6);
        let mut first = allocate(&mut pool, 3);
        let mut second = allocate(&mut pool, 2);
        assert_eq!((indices(&first), indices(&second), pool.num_free()), (vec![0, 1, 2], vec![3, 4], 1));
        pool.free(&mut first);
        assert_eq!((first.len(), pool.num_free()), (0, 4));
        second.extend(allocate(&mut pool, 4));
        assert_eq!(indices(&second), [3, 4, 0, 1, 2, 5]);
        assert_eq!(pool.allocate(), None);
        assert_eq!(pool.check_integrity(second.iter()), Ok(()));
    }

    #[test]
    fn known_blocks_are_shared_and_forgotten_last_and_from_their_end() {
        let mut pool = BlockPool::new(5);
        let mut a = allocate(&mut pool, 3);
        publish(&mut pool, &a, 10);
        assert_eq!((look_up(&pool, 10..14), look_up(&pool, 9..14)), ((3, 0), (0, 0)));
        let mut b = vec![pool.share(BlockHash::new(10)).unwrap(), pool.share(BlockHash::new(11)).unwrap()];
        assert_eq!(indices(&b), [0, 1]);
        assert_eq!(pool.share(BlockHash::new(13)), None);
        pool.free(&mut a);
        // Block 2 is free, but not before what was never used.
        assert_eq!((pool.num_free(), pool.num_cached(), look_up(&pool, 10..14)), (3, 1, (3, 1)));
        pool.free(&mut b);
        assert_eq!((pool.num_free(), pool.num_cached(), look_up(&pool, 10..14)), (5, 3, (3, 3)));
        let mut c = allocate(&mut pool, 3);
        assert_eq!((indices(&c), look_up(&pool, 10..14)), (vec![3, 4, 2], (2, 2)));
        c.extend(allocate(&mut pool, 1));
        assert_eq!((indices(&c), look_up(&pool, 10..14)), (vec![3, 4, 2, 1], (1, 1)));
        assert_eq!(pool.check_integrity(c.iter()), Ok(()));
        pool.free(&mut c);
        assert_eq!(pool.check_integrity([].iter()), Ok(()));
    }

    #[test]
    fn the_longest_unused_is_forgotten_first() {
        let mut pool = BlockPool::new(3);
        let mut blocks: Vec<_> = allocate(&mut pool, 3).into_iter().map(|block| vec![block]).collect();
        for (blocks, hash) in blocks.iter_mut().zip(0..) {
            publish(&mut pool, blocks, hash);
            pool.free(blocks);
        }
        let mut used_again = vec![pool.share(BlockHash::new(0)).unwrap()];
        pool.free(&mut used_again);
        let order: Vec<_> = allocate(&mut pool, 3);
        assert_eq!(indices(&order), [1, 2, 0]);
    }

    #[test]
    fn a_second_block_of_the_same_content_stays_unknown() {
        let mut pool = BlockPool::new(2);
        let mut blocks = allocate(&mut pool, 2);
        publish(&mut pool, &blocks[..1], 7);
        publish(&mut pool, &blocks[1..], 7);
        assert_eq!(pool.check_integrity(blocks.iter()), Ok(()));
        pool.free(&mut blocks);
        assert_eq!((pool.num_cached(), pool.num_free()), (1, 2));
        assert_eq!(pool.share(BlockHash::new(7)).map(|block| block.index()), Some(0));
    }

    #[test]
    fn forgetting_leaves_held_blocks_held() {
        let mut pool = BlockPool::new(3);
        let mut blocks = allocate(&mut pool, 3);
        publish(&mut pool, &blocks, 1);
        let mut last = blocks.split_off(2);
        pool.free(&mut last);
        pool.forget_all();
        assert_eq!((pool.num_cached(), pool.num_free(), look_up(&pool, 1..4)), (0, 1, (0, 0)));
        assert_eq!(pool.check_integrity(blocks.iter()), Ok(()));
        pool.free(&mut blocks);
        assert_eq!((pool.num_cached(), pool.num_free()), (0, 3));
    }

    #[test]
    fn integrity_names_the_block() {
        let check = |spoil: fn(&mut BlockPool, &mut Vec<BlockId>), message: &str| {
            let mut pool = BlockPool::new(4);
            let mut held = allocate(&mut pool, 3);
            publish(&mut pool, &held, 1);
            let mut last = held.split_off(2);
            pool.free(&mut last);
            spoil(&mut pool, &mut held);
            let result = pool.check_integrity(held.iter()).map_err(|error| error.0);
            assert_eq!(result.err().unwrap_or_default(), message);
        };
        check(|_, _| {}, "");
        check(|_, held| held.truncate(1), "block 1 is held 0 times, but 1 are counted");
        check(|_, held| held.push(BlockId(0)), "block 0 is held 2 times, but 1 are counted");
        check(|_, held| held.push(BlockId(4)), "block 4 of 4");
        check(|pool, _| pool.empty.clear(), "block 3 is lost: neither free nor held");
        check(|pool, _| pool.empty.push(1), "block 1 is held or free 2 times");
        check(|pool, _| pool.num_cached = 0, "1 blocks are cached, but 0 are counted");
        check(|pool, _| pool.known.retain(|_, &mut index| index != 1), "block 1 is not known by its hash");
        check(|pool, _| pool.blocks[3].hash = Some(BlockHash::new(9)), "block 3 is not known by its hash");
        check(|pool, _| pool.forget(2), "block 2 is cached, but not known");
    }

    /// The pool, as simply as it can be said: lists that are searched from end to end.
    #[derive(Default)]
    struct Naive {
        /// References to each block.
        refs: Vec<usize>,
        hashes: Vec<Option<u128>>,
        /// Free blocks without a hash, the next one last.
        empty: Vec<usize>,
        /// Free blocks with a hash, the oldest first.
        cached: Vec<usize>,
    }

    impl Naive {
        fn new(num_blocks: usize) -> Self {
            let empty = (0..num_blocks).rev().collect();
            Naive { refs: vec![0; num_blocks], hashes: vec![None; num_blocks], empty, cached: Vec::new() }
        }

        fn find(&self, hash: u128) -> Option<usize> {
            self.hashes.iter().position(|&known| known == Some(hash))
        }

        fn allocate(&mut self) -> Option<usize> {
            let block = match self.empty.pop() {
                Some(block) => block,
                None if self.cached.is_empty() => return None,
                None => self.cached.remove(0),
            };
            (self.refs[block], self.hashes[block]) = (1, None);
            Some(block)
        }

        fn share(&mut self, hash: u128) -> Option<usize> {
            let block = self.find(hash)?;
            self.cached.retain(|&cached| cached != block);
            self.refs[block] += 1;
            Some(block)
        }

        fn publish(&mut self, block: usize, hash: u128) {
            if self.hashes[block].is_none() && self.find(hash).is_none() {
                self.hashes[block] = Some(hash);
            }
        }

        fn free(&mut self, blocks: &[usize]) {
            for &block in blocks.iter().rev() {
                self.refs[block] -= 1;
                if self.refs[block] == 0 {
                    let list = if self.hashes[block].is_some() { &mut self.cached } else { &mut self.empty };
                    list.push(block);
                }
            }
        }

        fn forget_all(&mut self) {
            self.empty.append(&mut self.cached);
            self.hashes.fill(None);
        }
    }

    /// A million random operations on pools of several sizes, each compared with the naive pool in all that can be seen.
    #[test]
    fn a_million_operations_agree_with_the_naive_pool() {
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for num_blocks in [1, 2, 7, 40] {
            let (mut pool, mut naive) = (BlockPool::new(num_blocks), Naive::new(num_blocks));
            let mut sequences: Vec<Vec<BlockId>> = (0..6).map(|_| Vec::new()).collect();
            for step in 0..250_000 {
                let sequence = &mut sequences[random(6)];
                // Few hashes, so that they meet; more of them than blocks, so that they miss.
                let hash = random(2 * num_blocks + 1) as u128;
                match random(200) {
                    0..60 => {
                        let (got, expected) = (pool.allocate(), naive.allocate());
                        assert_eq!(got.as_ref().map(|block| block.0 as usize), expected, "step {step}");
                        sequence.extend(got);
                    }
                    60..110 => {
                        let (got, expected) = (pool.share(BlockHash::new(hash)), naive.share(hash));
                        assert_eq!(got.as_ref().map(|block| block.0 as usize), expected, "step {step}");
                        sequence.extend(got);
                    }
                    110..170 => {
                        if !sequence.is_empty() {
                            let block = &sequence[random(sequence.len())];
                            pool.publish(block, BlockHash::new(hash));
                            naive.publish(block.0 as usize, hash);
                        }
                    }
                    170..199 => {
                        let blocks: Vec<_> = sequence.iter().map(|block| block.0 as usize).collect();
                        pool.free(sequence);
                        naive.free(&blocks);
                    }
                    _ => {
                        pool.forget_all();
                        naive.forget_all();
                    }
                }
                let num_free = naive.empty.len() + naive.cached.len();
                assert_eq!((pool.num_free(), pool.num_cached()), (num_free, naive.cached.len()), "step {step}");
                let found = (hash..hash + 4).map_while(|hash| naive.find(hash));
                let (num, num_unheld) =
                    found.fold((0, 0), |(num, unheld), block| (num + 1, unheld + usize::from(naive.refs[block] == 0)));
                assert_eq!(look_up(&pool, hash..hash + 4), (num, num_unheld), "step {step}");
                if step % 64 == 0 {
                    assert_eq!(pool.check_integrity(sequences.iter().flatten()), Ok(()), "step {step}");
                }
            }
        }
    }
}
