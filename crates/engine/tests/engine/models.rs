//! Models small enough to check what they are given.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use cachalot_model::{BLOCK_SIZE, Batch, Error, LanguageModel, Result};

pub(crate) const VOCAB_SIZE: usize = 50;

/// How the logits of a row follow from the tokens up to it.
pub(crate) type Logits = Box<dyn Fn(&[u32], &mut [f32]) + Send>;

/// A model of which the cache is real: a token's "key" is the token and its position, written to its slot, and the logits of
/// a row are computed from what is read back through the block table. A block that is lost, shared or mixed up changes the
/// tokens, or is noticed here; so is a batch that is not what [`Batch`] promises.
pub(crate) struct PagedModel {
    logits: Logits,
    max_num_batched_tokens: usize,
    max_num_logits: usize,
    /// `[num_blocks * BLOCK_SIZE]`: token and position.
    cache: Vec<Option<(u32, u32)>>,
    /// Every batch, for tests that look at them.
    pub(crate) batches: Arc<Mutex<Vec<Batch>>>,
    keeps_batches: bool,
}

impl PagedModel {
    pub(crate) fn new(logits: impl Fn(&[u32], &mut [f32]) + Send + 'static) -> Self {
        PagedModel {
            logits: Box::new(logits),
            max_num_batched_tokens: 0,
            max_num_logits: 0,
            cache: Vec::new(),
            batches: Arc::default(),
            keeps_batches: false,
        }
    }

    /// Logits that are a hash of all tokens so far: any wrong token changes everything after it.
    pub(crate) fn hashing() -> Self {
        PagedModel::new(|token_ids, logits| {
            let hash = token_ids.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, &id| mix(hash ^ u64::from(id)));
            for (logit, i) in logits.iter_mut().zip(0..) {
                // Coarse, so that there are ties.
                *logit = (mix(hash ^ (i << 32)) % 64) as f32 / 8.0 - 4.0;
            }
        })
    }

    /// After token `n` comes `n + 1`.
    pub(crate) fn counting() -> Self {
        PagedModel::new(|token_ids, logits| {
            logits.fill(0.0);
            logits[(token_ids[token_ids.len() - 1] as usize + 1) % VOCAB_SIZE] = 5.0;
        })
    }

    pub(crate) fn keep_batches(mut self) -> (Self, Arc<Mutex<Vec<Batch>>>) {
        self.keeps_batches = true;
        let batches = self.batches.clone();
        (self, batches)
    }

    /// The token at a position of a sequence of the batch.
    pub(crate) fn token_at(&self, batch: &Batch, seq: usize, position: u32) -> u32 {
        let block = batch.block_table[seq * batch.max_blocks + position as usize / BLOCK_SIZE] as usize;
        let (id, written) = self.cache[block * BLOCK_SIZE + position as usize % BLOCK_SIZE].expect("written");
        assert_eq!(written, position, "sequence {seq} reads another's key");
        id
    }

    /// All tokens up to that of a row.
    pub(crate) fn read(&self, batch: &Batch, row: usize) -> Vec<u32> {
        let seq = batch.query_start_loc.partition_point(|&start| start as usize <= row) - 1;
        (0..=batch.positions[row]).map(|position| self.token_at(batch, seq, position)).collect()
    }

    /// The logits after these tokens.
    pub(crate) fn logits(&self, token_ids: &[u32], logits: &mut [f32]) {
        (self.logits)(token_ids, logits);
    }

    fn check(&self, batch: &Batch) {
        let num_seqs = batch.num_seqs();
        assert!(batch.num_tokens() > 0 && batch.num_tokens() <= self.max_num_batched_tokens);
        assert!(batch.logits_indices.len() <= self.max_num_logits);
        assert!(batch.logits_indices.is_sorted_by(|a, b| a < b));
        assert_eq!(batch.positions.len(), batch.num_tokens());
        assert_eq!(batch.slot_mapping.len(), batch.num_tokens());
        assert_eq!(batch.query_start_loc.len(), num_seqs + 1);
        assert_eq!(batch.query_start_loc[0], 0);
        assert_eq!(batch.query_start_loc[num_seqs] as usize, batch.num_tokens());
        assert_eq!(batch.block_table.len(), num_seqs * batch.max_blocks);
        let mut written = HashMap::new();
        for seq in 0..num_seqs {
            let rows = batch.query_start_loc[seq] as usize..batch.query_start_loc[seq + 1] as usize;
            assert!(!rows.is_empty(), "a sequence without tokens");
            assert!(rows.len() >= 128 || seq < batch.num_absorbed_seqs, "short sequences come first, and run absorbed");
            let end = batch.seq_lens[seq];
            assert!(batch.positions[rows.clone()].iter().copied().eq(end - rows.len() as u32..end));
            let table = &batch.block_table[seq * batch.max_blocks..(seq + 1) * batch.max_blocks];
            let blocks = &table[..(end as usize).div_ceil(BLOCK_SIZE)];
            assert_eq!(blocks.iter().collect::<HashSet<_>>().len(), blocks.len(), "a block is used twice: {blocks:?}");
            for row in rows {
                let position = batch.positions[row] as usize;
                let slot = table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
                assert_eq!(batch.slot_mapping[row] as usize, slot);
                assert_eq!(
                    *written.entry(table[position / BLOCK_SIZE]).or_insert(seq),
                    seq,
                    "two sequences write to a block"
                );
            }
        }
        for seq in 0..num_seqs {
            let table = &batch.block_table[seq * batch.max_blocks..(seq + 1) * batch.max_blocks];
            for block in &table[..(batch.seq_lens[seq] as usize).div_ceil(BLOCK_SIZE)] {
                assert!(
                    written.get(block).is_none_or(|&writer| writer == seq),
                    "block {block} is read while it is written"
                );
            }
        }
    }
}

pub(crate) fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl LanguageModel for PagedModel {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn max_model_len(&self) -> usize {
        4096
    }

    fn kv_block_bytes(&self) -> usize {
        1000
    }

    fn allocate(&mut self, num_blocks: usize, max_num_batched_tokens: usize, max_num_logits: usize) -> Result<()> {
        self.cache = vec![None; num_blocks * BLOCK_SIZE];
        self.max_num_batched_tokens = max_num_batched_tokens;
        self.max_num_logits = max_num_logits;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()> {
        self.check(batch);
        if self.keeps_batches {
            self.batches.lock().unwrap().push(batch.clone());
        }
        for row in 0..batch.num_tokens() {
            self.cache[batch.slot_mapping[row] as usize] = Some((batch.input_ids[row], batch.positions[row]));
        }
        assert_eq!(logits.len(), batch.logits_indices.len() * VOCAB_SIZE);
        for (&row, logits) in batch.logits_indices.iter().zip(logits.chunks_exact_mut(VOCAB_SIZE)) {
            (self.logits)(&self.read(batch, row as usize), logits);
        }
        Ok(())
    }
}

/// What a step of a [`FailingModel`] does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Succeed,
    Fail,
    Panic,
}

/// A counting model, some steps of which fail. After the last outcome all succeed.
pub(crate) struct FailingModel {
    pub(crate) model: PagedModel,
    pub(crate) outcomes: std::vec::IntoIter<Outcome>,
}

impl FailingModel {
    pub(crate) fn new(outcomes: &[Outcome]) -> Self {
        FailingModel { model: PagedModel::counting(), outcomes: Vec::from(outcomes).into_iter() }
    }
}

impl LanguageModel for FailingModel {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_model_len(&self) -> usize {
        self.model.max_model_len()
    }

    fn kv_block_bytes(&self) -> usize {
        self.model.kv_block_bytes()
    }

    fn allocate(&mut self, num_blocks: usize, max_num_batched_tokens: usize, max_num_logits: usize) -> Result<()> {
        self.model.allocate(num_blocks, max_num_batched_tokens, max_num_logits)
    }

    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()> {
        match self.outcomes.next().unwrap_or(Outcome::Succeed) {
            Outcome::Succeed => self.model.forward(batch, logits),
            Outcome::Fail => Err(Error::Invalid("the device is on fire".into())),
            Outcome::Panic => panic!("index {} out of bounds", batch.num_tokens()),
        }
    }
}
