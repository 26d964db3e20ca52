//! Which tokens of a step belong to which sequence, and where each sequence's keys lie in a paged cache.

use std::marker::PhantomData;
use std::ops::Range;

use cachalot_tensor::{Element, View};
use candle_core::{DType, Device, Tensor};

use crate::dims::Dims;
use crate::reference_util::tensor;
use crate::{Error, Result};

/// The sequences of a step over a paged cache; names as in vLLM's `CommonAttentionMetadata`.
///
/// Query row `row` of sequence `s` is at position `seq_lens[s] - (query_start_loc[s + 1] - row)` and sees the positions up
/// to its own. Rows of the step that belong to no sequence here are neither read nor written.
#[derive(Clone, Copy, Debug)]
pub struct PagedSeqs<'a> {
    /// `[num_seqs + 1]`, ascending: rows `query_start_loc[s]..query_start_loc[s + 1]` of the step's tokens belong to
    /// sequence `s`. The first entry need not be 0 nor the last the end, so that a range of the sequences of a larger step
    /// can be passed.
    pub query_start_loc: &'a [u32],
    /// `[num_seqs]`: tokens of each sequence, those of this step included.
    pub seq_lens: &'a [u32],
    /// `[num_seqs, max_blocks]`: physical block of each logical block; entries past the sequence are never read.
    pub block_table: &'a [u32],
    /// Row length of `block_table`.
    pub max_blocks: usize,
}

impl<'a> PagedSeqs<'a> {
    /// Checks everything that the other methods rely on. `num_tokens` must be bound in `dims` before.
    pub(crate) fn check(
        &self,
        op: &'static str,
        dims: &mut Dims,
        num_tokens: usize,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<()> {
        let num_seqs = self.seq_lens.len();
        dims.bind("seq_lens", "num_seqs + 1", num_seqs + 1)?;
        dims.bind("query_start_loc", "num_seqs + 1", self.query_start_loc.len())?;
        dims.bind("seq_lens and max_blocks", "num_seqs * max_blocks", num_seqs * self.max_blocks)?;
        dims.bind("block_table", "num_seqs * max_blocks", self.block_table.len())?;
        let below = |arg, index, got: usize, limit: usize| {
            if got < limit { Ok(()) } else { Err(Error::Range { op, arg, index, got, limit }) }
        };
        for seq in 0..num_seqs {
            let rows = self.rows(seq);
            let seq_len = self.seq_lens[seq] as usize;
            below("query_start_loc", seq, rows.start, rows.end + 1)?;
            below("query_start_loc", seq + 1, rows.end, num_tokens + 1)?;
            below("query_start_loc", seq + 1, rows.end, rows.start + seq_len + 1)?;
            below("seq_lens", seq, seq_len, self.max_blocks * block_size + 1)?;
            for index in seq * self.max_blocks..seq * self.max_blocks + seq_len.div_ceil(block_size.max(1)) {
                below("block_table", index, self.block_table[index] as usize, num_blocks)?;
            }
        }
        Ok(())
    }

    /// Number of sequences.
    pub(crate) fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// The rows of the step that belong to sequence `seq`.
    pub(crate) fn rows(&self, seq: usize) -> Range<usize> {
        self.query_start_loc[seq] as usize..self.query_start_loc[seq + 1] as usize
    }

    /// The rows of the step that belong to any of the sequences.
    pub(crate) fn all_rows(&self) -> Range<usize> {
        match (self.query_start_loc.first(), self.query_start_loc.last()) {
            (Some(&first), Some(&last)) => first as usize..last as usize,
            _ => 0..0,
        }
    }

    /// The position of row `row` of the step, which belongs to sequence `seq`.
    pub(crate) fn position(&self, seq: usize, row: usize) -> usize {
        self.seq_lens[seq] as usize - (self.query_start_loc[seq + 1] as usize - row)
    }

    /// The sequence that row `row` of the step belongs to, which is one of [`all_rows`](Self::all_rows).
    pub(crate) fn seq_of(&self, row: usize) -> usize {
        self.query_start_loc.partition_point(|&start| start as usize <= row) - 1
    }

    /// The physical blocks of sequence `seq`, in order.
    pub(crate) fn blocks(&self, seq: usize, block_size: usize) -> &'a [u32] {
        let start = seq * self.max_blocks;
        &self.block_table[start..start + (self.seq_lens[seq] as usize).div_ceil(block_size)]
    }

    /// The cache rows of sequence `seq` as an f32 tensor `[seq_len, dim]`, for the reference implementations.
    pub(crate) fn gather(&self, op: &'static str, seq: usize, cache: View<'_>) -> Result<Tensor> {
        let dim = cache.shape().dims()[2];
        let seq_len = self.seq_lens[seq] as usize;
        let mut blocks = vec![Tensor::zeros((1, 0, dim), DType::F32, &Device::Cpu)?];
        for &block in self.blocks(seq, cache.shape().dims()[1]) {
            blocks.push(tensor(op, &cache.rows(block as usize..block as usize + 1))?);
        }
        Ok(Tensor::cat(&blocks, 1)?.narrow(1, 0, seq_len)?.squeeze(0)?)
    }
}

/// The rows of one sequence in a paged cache `[num_blocks, block_size, dim]` of `T`.
#[derive(Clone, Copy)]
pub(crate) struct KeyRows<'a, T> {
    cache: View<'a>,
    blocks: &'a [u32],
    block_size: usize,
    dim: usize,
    element: PhantomData<T>,
}

impl<'a, T: Element> KeyRows<'a, T> {
    /// The rows of sequence `seq`.
    pub(crate) fn new(seqs: &PagedSeqs<'a>, seq: usize, cache: View<'a>) -> Self {
        let [block_size, dim] = [cache.shape().dims()[1], cache.shape().dims()[2]];
        KeyRows { cache, blocks: seqs.blocks(seq, block_size), block_size, dim, element: PhantomData }
    }

    /// The row of a position.
    ///
    /// # Panics
    /// If the cache does not hold `T`, or the position is not in a block of the sequence.
    pub(crate) fn row(&self, position: usize) -> &'a [T] {
        let block = self.blocks[position / self.block_size] as usize;
        let rows: &[T] = self.cache.row(block).expect("the dtype was matched");
        &rows[position % self.block_size * self.dim..][..self.dim]
    }
}
