//! What the tests of operations over a paged cache share: one whose unused parts are poisoned.

use std::ops::Range;

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::Random;
use half::bf16;

use crate::PagedSeqs;

/// Sequences of a step over a paged cache. Their blocks are shuffled; rows past a sequence and blocks of no sequence are
/// NaN; entries of the block table past a sequence are `u32::MAX`.
pub(crate) struct PagedCase {
    /// `[num_blocks, block_size, dim]`
    pub(crate) cache: Buffer,
    /// `[seq_len, dim]` of each sequence, as the cache's dtype holds them.
    pub(crate) keys: Vec<Vec<f32>>,
    query_start_loc: Vec<u32>,
    seq_lens: Vec<u32>,
    block_table: Vec<u32>,
    max_blocks: usize,
    dim: usize,
}

impl PagedCase {
    /// Sequences of `(seq_len, query_len)` tokens with random keys; the first query is row `first_row` of the step.
    pub(crate) fn new(
        random: &mut Random,
        dtype: DType,
        [block_size, dim]: [usize; 2],
        first_row: usize,
        seqs: &[(usize, usize)],
    ) -> Self {
        let seqs = seqs.iter().map(|&(seq_len, query_len)| (random.values(seq_len * dim), query_len)).collect();
        PagedCase::with_keys(random, dtype, [block_size, dim], first_row, seqs)
    }

    /// Sequences of given keys `[seq_len, dim]` and numbers of queries.
    pub(crate) fn with_keys(
        random: &mut Random,
        dtype: DType,
        [block_size, dim]: [usize; 2],
        first_row: usize,
        seqs: Vec<(Vec<f32>, usize)>,
    ) -> Self {
        let num_blocks_of = |keys: &[f32]| (keys.len() / dim).div_ceil(block_size);
        let used: usize = seqs.iter().map(|(keys, _)| num_blocks_of(keys)).sum();
        let max_blocks = seqs.iter().map(|(keys, _)| num_blocks_of(keys)).max().unwrap_or(0) + 1;
        let num_blocks = used + 2;
        let mut free = random.permutation(num_blocks);
        let mut case = PagedCase {
            cache: Buffer::zeros(dtype, [num_blocks, block_size, dim]),
            keys: Vec::new(),
            query_start_loc: vec![first_row as u32],
            seq_lens: Vec::new(),
            block_table: vec![u32::MAX; seqs.len() * max_blocks],
            max_blocks,
            dim,
        };
        let mut rows = vec![f32::NAN; num_blocks * block_size * dim];
        for (seq, (mut keys, query_len)) in seqs.into_iter().enumerate() {
            if dtype == DType::BF16 {
                keys.iter_mut().for_each(|key| *key = bf16::from_f32(*key).to_f32());
            }
            for (logical, keys) in keys.chunks(block_size * dim).enumerate() {
                let block = free.pop().expect("enough blocks");
                case.block_table[seq * max_blocks + logical] = block as u32;
                rows[block * block_size * dim..][..keys.len()].copy_from_slice(keys);
            }
            case.query_start_loc.push(case.query_start_loc[seq] + query_len as u32);
            case.seq_lens.push((keys.len() / dim) as u32);
            case.keys.push(keys);
        }
        match dtype {
            DType::F32 => case.cache.view_mut().into_slice::<f32>().expect("is f32").copy_from_slice(&rows),
            _ => {
                let cache = case.cache.view_mut().into_slice::<bf16>().expect("is bf16");
                cache.iter_mut().zip(rows).for_each(|(slot, key)| *slot = bf16::from_f32(key));
            }
        }
        case
    }

    /// Sequence `seq` alone in a step, its queries `rows` alone, its keys up to the last of these alone, in other blocks.
    pub(crate) fn only(&self, random: &mut Random, seq: usize, rows: Range<usize>) -> Self {
        let seq_len = self.seqs().position(seq, rows.end - 1) + 1;
        let keys = self.keys[seq][..seq_len * self.dim].to_vec();
        let block_size = self.cache.shape().dims()[1];
        let dims = [block_size, self.dim];
        PagedCase::with_keys(random, self.cache.dtype(), dims, rows.start, vec![(keys, rows.len())])
    }

    pub(crate) fn seqs(&self) -> PagedSeqs<'_> {
        PagedSeqs {
            query_start_loc: &self.query_start_loc,
            seq_lens: &self.seq_lens,
            block_table: &self.block_table,
            max_blocks: self.max_blocks,
        }
    }

    /// `(seq, row, position)` of every query.
    pub(crate) fn queries(&self) -> Vec<(usize, usize, usize)> {
        let seqs = self.seqs();
        let of_seq = |seq| seqs.rows(seq).map(move |row| (seq, row, seqs.position(seq, row)));
        (0..seqs.num_seqs()).flat_map(of_seq).collect()
    }
}
