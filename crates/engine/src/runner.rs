//! One step, as the model sees it.

use cachalot_model::{BLOCK_SIZE, Batch, LanguageModel};

use crate::sequence::Sequence;

/// Sequences with fewer tokens than this in a step run absorbed MLA.
///
/// Absorbed attention costs `2·kv_lora_rank + qk_rope_head_dim` multiplications per head for each pair of a query and a key;
/// expanded attention costs `qk_nope_head_dim + qk_rope_head_dim + v_head_dim` per pair, and
/// `kv_lora_rank·(qk_nope_head_dim + v_head_dim)` to expand a key once for all queries. With the 671B model's 512, 64, 128
/// and 128 they are level at 131072 / (1088 − 320) ≈ 170 queries. A query's own projection through `kv_b_proj` costs the
/// absorbed form a little more, so the change comes earlier, at two blocks.
const EXPANDED_MIN_QUERY_LEN: usize = 2 * BLOCK_SIZE;

/// What stands in a block table past the end of a sequence. A model that reads it finds no such block.
const NO_BLOCK: u32 = u32::MAX;

/// A row of logits: of which sequence, and at which position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Index among the running sequences.
    pub(crate) index: usize,
    pub(crate) position: usize,
}

/// Turns scheduled sequences into a batch, and keeps the batch's and the logits' memory.
#[derive(Debug)]
pub(crate) struct Runner {
    vocab_size: usize,
    batch: Batch,
    rows: Vec<Row>,
    /// `[max_num_logits, vocab_size]`.
    logits: Vec<f32>,
}

impl Runner {
    pub(crate) fn new(vocab_size: usize, max_num_logits: usize) -> Self {
        // Not zeros, whose pages the operating system would hand out only when they are used.
        let logits = vec![f32::NAN; max_num_logits * vocab_size];
        Runner { vocab_size, batch: Batch::default(), rows: Vec::new(), logits }
    }

    /// Describes the scheduled tokens of the sequences.
    pub(crate) fn build(&mut self, running: &[Sequence]) {
        self.batch.clear();
        self.rows.clear();
        let scheduled = || running.iter().enumerate().filter(|(_, sequence)| sequence.num_scheduled_tokens > 0);
        let is_short = |sequence: &Sequence| sequence.num_scheduled_tokens < EXPANDED_MIN_QUERY_LEN;
        self.batch.max_blocks = scheduled().map(|(_, sequence)| sequence.blocks.len()).max().unwrap_or(0);
        self.batch.query_start_loc.push(0);
        for (index, sequence) in scheduled().filter(|(_, sequence)| is_short(sequence)) {
            self.push(index, sequence);
        }
        self.batch.num_absorbed_seqs = self.batch.num_seqs();
        for (index, sequence) in scheduled().filter(|(_, sequence)| !is_short(sequence)) {
            self.push(index, sequence);
        }
    }

    fn push(&mut self, index: usize, sequence: &Sequence) {
        let batch = &mut self.batch;
        let start = sequence.num_computed_tokens;
        let end = start + sequence.num_scheduled_tokens;
        let first_row = batch.input_ids.len();

        for position in sequence.prompt_rows(sequence.num_scheduled_tokens).chain(sequence.sample_row()) {
            batch.logits_indices.push(narrow(first_row + position - start));
            self.rows.push(Row { index, position });
        }
        batch.input_ids.extend_from_slice(&sequence.token_ids[start..end]);
        batch.positions.extend(narrow(start)..narrow(end));
        batch.slot_mapping.extend((start..end).map(|position| {
            let block = sequence.blocks[position / BLOCK_SIZE].index();
            block * narrow(BLOCK_SIZE) + narrow(position % BLOCK_SIZE)
        }));
        batch.query_start_loc.push(narrow(batch.input_ids.len()));
        batch.seq_lens.push(narrow(end));
        let row_end = batch.block_table.len() + batch.max_blocks;
        batch.block_table.extend(sequence.blocks.iter().map(|block| block.index()));
        batch.block_table.resize(row_end, NO_BLOCK);
    }

    /// Computes the batch.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn forward(&mut self, model: &mut dyn LanguageModel) -> cachalot_model::Result<()> {
        let num_logits = self.rows.len() * self.vocab_size;
        model.forward(&self.batch, &mut self.logits[..num_logits])
    }

    /// The rows of logits that the latest step has computed.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Row, &[f32])> {
        self.rows.iter().copied().zip(self.logits.chunks_exact(self.vocab_size))
    }
}

/// Tokens of a step, positions and slots fit into u32: the limits keep the cache within it.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("the limits keep every count within u32")
}
