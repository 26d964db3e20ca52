//! Scores in f64, and steps over a cache whose unused parts are NaN, for the tests of what reads it.

use std::ops::Range;

use cachalot_tensor::{Buffer, F8E4M3};
use cachalot_testkit::Random;

use crate::act_quant::reference::quantise_group;
use crate::indexer_quant::{INDEX_BLOCK_SIZE, INDEX_HEAD_DIM, INDEX_KEY_BYTES};
use crate::numerics::e4m3_to_f32;
use crate::test_gpu::{Strided, TestGpu};
use crate::{PagedSeqs, ScaleFormat};

/// The code that is NaN.
const NAN_CODE: u8 = 0x7f;
/// Columns beside the block table.
const GAP: usize = 3;

/// A key as it is cached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) codes: Vec<F8E4M3>,
    pub(crate) scale: f32,
}

/// A step: its queries, and its sequences over a paged cache. Blocks are shuffled; keys past a sequence and blocks of no
/// sequence are NaN; entries of the block table past a sequence are -1. Behind its tokens and its sequences are some of
/// padding.
pub(crate) struct IndexerCase {
    pub(crate) num_heads: usize,
    /// Tokens of the step, those of padding included.
    pub(crate) num_tokens: usize,
    pub(crate) q_codes: Vec<F8E4M3>,
    pub(crate) q_weights: Vec<f32>,
    pub(crate) keys: Vec<Vec<Key>>,
    query_start_loc: Vec<u32>,
    seq_lens: Vec<u32>,
    block_table: Vec<i32>,
    max_blocks: usize,
    cache: Vec<u8>,
}

/// The same on a device.
pub(crate) struct OnDevice {
    pub(crate) q_codes: Buffer,
    pub(crate) q_weights: Buffer,
    pub(crate) cache: Buffer,
    pub(crate) query_start_loc: Buffer,
    pub(crate) seq_lens: Buffer,
    pub(crate) block_table: Strided<i32>,
    pub(crate) positions: Buffer,
}

impl IndexerCase {
    /// Random queries and keys for sequences of `(seq_len, query_len)` tokens.
    pub(crate) fn new(random: &mut Random, num_heads: usize, seqs: &[(usize, usize)]) -> Self {
        let mut key = || {
            let (codes, scale) = quantise_group(&random.gaussian(INDEX_HEAD_DIM), ScaleFormat::F32);
            Key { codes, scale }
        };
        let keys: Vec<Vec<Key>> = seqs.iter().map(|&(seq_len, _)| (0..seq_len).map(|_| key()).collect()).collect();
        let num_queries: usize = seqs.iter().map(|&(_, query_len)| query_len).sum();
        let mut q_codes = Vec::new();
        let mut q_weights = Vec::new();
        for _ in 0..num_queries * num_heads {
            let (codes, scale) = quantise_group(&random.gaussian(INDEX_HEAD_DIM), ScaleFormat::Ue8m0);
            q_codes.extend(codes);
            q_weights.push(random.gaussian(1)[0] * scale / (num_heads as f32 * INDEX_HEAD_DIM as f32).sqrt());
        }
        let query_lens: Vec<usize> = seqs.iter().map(|&(_, query_len)| query_len).collect();
        IndexerCase::with(random, num_heads, q_codes, q_weights, keys, &query_lens)
    }

    /// Given queries and keys.
    pub(crate) fn with(
        random: &mut Random,
        num_heads: usize,
        mut q_codes: Vec<F8E4M3>,
        mut q_weights: Vec<f32>,
        keys: Vec<Vec<Key>>,
        query_lens: &[usize],
    ) -> Self {
        let (num_padding_tokens, num_padding_seqs) = (2, 1);
        let num_tokens = query_lens.iter().sum::<usize>() + num_padding_tokens;
        q_codes.resize(num_tokens * num_heads * INDEX_HEAD_DIM, F8E4M3(NAN_CODE));
        q_weights.resize(num_tokens * num_heads, f32::NAN);

        let num_blocks_of = |keys: &Vec<Key>| keys.len().div_ceil(INDEX_BLOCK_SIZE);
        let max_blocks = keys.iter().map(num_blocks_of).max().unwrap_or(0) + 1;
        let num_blocks = keys.iter().map(num_blocks_of).sum::<usize>() + 2;
        let mut free = random.permutation(num_blocks);
        let block_bytes = INDEX_BLOCK_SIZE * INDEX_KEY_BYTES;
        // As a scale it is NaN too.
        let mut cache = vec![NAN_CODE; num_blocks * block_bytes];
        cache.chunks_mut(block_bytes).for_each(|block| block[INDEX_BLOCK_SIZE * INDEX_HEAD_DIM..].fill(0xff));
        let mut block_table = vec![-1; (keys.len() + num_padding_seqs) * max_blocks];
        let mut query_start_loc = vec![0];
        let mut seq_lens = Vec::new();
        for (seq, (keys, &query_len)) in keys.iter().zip(query_lens).enumerate() {
            for (logical, keys) in keys.chunks(INDEX_BLOCK_SIZE).enumerate() {
                let block = free.pop().expect("enough blocks");
                block_table[seq * max_blocks + logical] = block as i32;
                let (codes, scales) =
                    cache[block * block_bytes..][..block_bytes].split_at_mut(INDEX_BLOCK_SIZE * INDEX_HEAD_DIM);
                for (offset, key) in keys.iter().enumerate() {
                    let bytes: &[u8] = bytemuck::cast_slice(&key.codes);
                    codes[offset * INDEX_HEAD_DIM..][..INDEX_HEAD_DIM].copy_from_slice(bytes);
                    scales[4 * offset..][..4].copy_from_slice(&key.scale.to_le_bytes());
                }
            }
            query_start_loc.push(query_start_loc[seq] + query_len as u32);
            seq_lens.push(keys.len() as u32);
        }
        query_start_loc.extend(vec![query_start_loc[keys.len()]; num_padding_seqs]);
        seq_lens.extend(vec![0; num_padding_seqs]);
        IndexerCase {
            num_heads,
            num_tokens,
            q_codes,
            q_weights,
            keys,
            query_start_loc,
            seq_lens,
            block_table,
            max_blocks,
            cache,
        }
    }

    /// Sequence `seq` alone in a step, its queries `rows` alone, its keys up to the last of these alone, in other blocks.
    pub(crate) fn only(&self, random: &mut Random, seq: usize, rows: Range<usize>) -> Self {
        let seq_len = self.seqs().position(seq, rows.end - 1) + 1;
        let vectors = rows.start * self.num_heads..rows.end * self.num_heads;
        let q_codes = self.q_codes[vectors.start * INDEX_HEAD_DIM..vectors.end * INDEX_HEAD_DIM].to_vec();
        let keys = vec![self.keys[seq][..seq_len].to_vec()];
        IndexerCase::with(random, self.num_heads, q_codes, self.q_weights[vectors].to_vec(), keys, &[rows.len()])
    }

    pub(crate) fn seqs(&self) -> PagedSeqs<'_> {
        PagedSeqs {
            query_start_loc: &self.query_start_loc,
            seq_lens: &self.seq_lens,
            block_table: bytemuck::cast_slice(&self.block_table),
            max_blocks: self.max_blocks,
        }
    }

    /// `(seq, row, position)` of every query.
    pub(crate) fn queries(&self) -> Vec<(usize, usize, usize)> {
        let seqs = self.seqs();
        let of_seq = |seq| seqs.rows(seq).map(move |row| (seq, row, seqs.position(seq, row)));
        (0..seqs.num_seqs()).flat_map(of_seq).collect()
    }

    pub(crate) fn max_seq_len(&self) -> usize {
        self.keys.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The scores of a row at all positions that it sees.
    pub(crate) fn logits(&self, seq: usize, row: usize) -> Vec<f32> {
        let decode =
            |codes: &[F8E4M3]| -> Vec<f64> { codes.iter().map(|&code| f64::from(e4m3_to_f32(code))).collect() };
        let vectors = row * self.num_heads..(row + 1) * self.num_heads;
        let q = decode(&self.q_codes[vectors.start * INDEX_HEAD_DIM..vectors.end * INDEX_HEAD_DIM]);
        let weights = &self.q_weights[vectors];
        let logit = |key: &Key| {
            let k = decode(&key.codes);
            let of_head = |(q, &weight): (&[f64], &f32)| {
                let dot: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
                f64::from(weight) * if dot < 0.0 { 0.0 } else { dot }
            };
            let sum: f64 = q.chunks(INDEX_HEAD_DIM).zip(weights).map(of_head).sum();
            (f64::from(key.scale) * sum) as f32
        };
        self.keys[seq][..=self.seqs().position(seq, row)].iter().map(logit).collect()
    }

    pub(crate) fn on(&self, device: &TestGpu) -> OnDevice {
        let i32s = |values: &[u32]| device.filled([values.len()], bytemuck::cast_slice::<u32, i32>(values));
        let num_blocks = self.cache.len() / (INDEX_BLOCK_SIZE * INDEX_KEY_BYTES);
        let mut positions = vec![i32::MAX; self.num_tokens];
        self.queries().into_iter().for_each(|(_, row, position)| positions[row] = position as i32);
        OnDevice {
            q_codes: device.filled([self.num_tokens, self.num_heads, INDEX_HEAD_DIM], &self.q_codes),
            q_weights: device.filled([self.num_tokens, self.num_heads], &self.q_weights),
            cache: device.filled([num_blocks, INDEX_BLOCK_SIZE, INDEX_KEY_BYTES], &self.cache),
            query_start_loc: i32s(&self.query_start_loc),
            seq_lens: i32s(&self.seq_lens),
            block_table: device.strided([self.seq_lens.len(), self.max_blocks], GAP, &self.block_table, -1),
            positions: device.filled([self.num_tokens], &positions),
        }
    }
}
