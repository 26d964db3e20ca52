//! One step, as the model sees it.

use cachalot_model::{BLOCK_SIZE, Batch, HiddenStates, LanguageModel};

use crate::MlaPrefill;
use crate::sequence::Sequence;

/// With [`MlaPrefill::Expanded`], sequences with at least this many tokens in a step run expanded MLA.
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
    /// The token at the position.
    pub(crate) input_id: u32,
    /// What was drafted to come after it.
    pub(crate) draft_id: Option<u32>,
}

/// Where the tokens of a sequence begin.
#[derive(Clone, Copy, Debug)]
struct Start {
    row: u32,
    position: usize,
}

/// A sequence's part of a batch.
struct Part<'a> {
    index: usize,
    sequence: &'a Sequence,
    /// Positions.
    start: usize,
    end: usize,
}

/// Turns scheduled sequences into batches, and keeps the batches' and the logits' memory.
#[derive(Debug)]
pub(crate) struct Runner {
    vocab_size: usize,
    mla_prefill: MlaPrefill,
    batch: Batch,
    /// What each row of logits is about. Those of the MTP module are about position `p` with the token at `p + 1`, and predict
    /// the one at `p + 2`.
    rows: Vec<Row>,
    /// The batch of the MTP module.
    mtp_batch: Batch,
    /// Where its hidden states are.
    mtp_sources: Vec<u32>,
    /// Where each running sequence begins in `batch`.
    starts: Vec<Start>,
    /// `[max_num_logits, vocab_size]`.
    logits: Vec<f32>,
}

impl Runner {
    pub(crate) fn new(vocab_size: usize, max_num_logits: usize, mla_prefill: MlaPrefill) -> Self {
        Runner {
            vocab_size,
            mla_prefill,
            batch: Batch::default(),
            rows: Vec::new(),
            mtp_batch: Batch::default(),
            mtp_sources: Vec::new(),
            starts: Vec::new(),
            // Not zeros, whose pages the operating system would hand out only when they are used.
            logits: vec![f32::NAN; max_num_logits * vocab_size],
        }
    }

    /// Describes the scheduled tokens of the sequences.
    pub(crate) fn build(&mut self, running: &[Sequence]) {
        let Runner { mla_prefill, batch, rows, starts, .. } = self;
        rows.clear();
        starts.clear();
        starts.extend(running.iter().map(|sequence| Start { row: 0, position: sequence.num_computed_tokens }));
        let parts = || {
            running.iter().enumerate().map(|(index, sequence)| {
                let start = sequence.num_computed_tokens;
                Part { index, sequence, start, end: start + sequence.num_scheduled_tokens }
            })
        };
        build(batch, *mla_prefill, parts, |batch, part| {
            let Part { index, sequence, start, end } = part;
            let first_row = batch.input_ids.len();
            starts[index].row = narrow(first_row);
            batch.input_ids.extend((start..end).map(|position| sequence.scheduled_id(position)));
            for position in sequence.prompt_rows(start, end - start).chain(sequence.sample_rows()) {
                batch.logits_indices.push(narrow(first_row + position - start));
                let draft_id = (position + 1 < end).then(|| sequence.scheduled_id(position + 1));
                rows.push(Row { index, position, input_id: sequence.scheduled_id(position), draft_id });
            }
        });
    }

    /// Tokens of the latest batch.
    pub(crate) fn num_tokens(&self) -> usize {
        self.batch.num_tokens()
    }

    /// Tokens of the latest batch of the MTP module.
    pub(crate) fn num_mtp_tokens(&self) -> usize {
        self.mtp_batch.num_tokens()
    }

    /// Computes the batch.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn forward(&mut self, model: &mut dyn LanguageModel) -> cachalot_model::Result<()> {
        let num_logits = self.rows.len() * self.vocab_size;
        model.forward(&self.batch, &mut self.logits[..num_logits])
    }

    /// The rows of logits that the latest computation gave.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Row, &[f32])> {
        self.rows.iter().copied().zip(self.logits.chunks_exact(self.vocab_size))
    }

    /// Runs the MTP module over what the step has computed of the sequences, as far as the tokens that follow are known: each
    /// of its positions needs the token after it. Gives a row of logits for each sequence that lacks drafted tokens.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn forward_mtp(
        &mut self,
        model: &mut dyn LanguageModel,
        running: &[Sequence],
    ) -> cachalot_model::Result<()> {
        let Runner { mla_prefill, mtp_batch: batch, mtp_sources: sources, rows, starts, .. } = self;
        rows.clear();
        sources.clear();
        let parts = || {
            running.iter().enumerate().map(|(index, sequence)| {
                let start = starts[index].position;
                let end = match sequence.has_failed() {
                    true => start,
                    false => sequence.num_computed_tokens.min(sequence.token_ids.len() - 1).max(start),
                };
                Part { index, sequence, start, end }
            })
        };
        build(batch, *mla_prefill, parts, |batch, part| {
            let Part { index, sequence, start, end } = part;
            batch.input_ids.extend_from_slice(&sequence.token_ids[start + 1..=end]);
            let first_row = starts[index].row;
            sources.extend(first_row..first_row + narrow(end - start));
            if sequence.lacks_draft() {
                batch.logits_indices.push(narrow(batch.input_ids.len() - 1));
                rows.push(Row { index, position: end - 1, input_id: sequence.token_ids[end], draft_id: None });
            }
        });
        let num_logits = rows.len() * self.vocab_size;
        match batch.num_tokens() {
            0 => Ok(()),
            _ => model.forward_mtp(batch, HiddenStates::Main(sources), &mut self.logits[..num_logits]),
        }
    }

    /// Runs the MTP module over the tokens that it drafted last, of those sequences that still lack some: the row of position
    /// `p` has drafted token `p + 2`, and with it position `p + 1` drafts token `p + 3`.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn forward_mtp_again(
        &mut self,
        model: &mut dyn LanguageModel,
        running: &[Sequence],
    ) -> cachalot_model::Result<()> {
        let Runner { mla_prefill, mtp_batch: batch, mtp_sources: sources, rows, .. } = self;
        sources.clear();
        let mut num_kept = 0;
        for source in 0..rows.len() {
            let Row { index, position, .. } = rows[source];
            let sequence = &running[index];
            if sequence.lacks_draft() {
                sources.push(narrow(source));
                let position = position + 1;
                let input_id = sequence.scheduled_id(position + 1);
                rows[num_kept] = Row { index, position, input_id, draft_id: None };
                num_kept += 1;
            }
        }
        rows.truncate(num_kept);
        let parts = || {
            rows.iter().map(|&Row { index, position, .. }| {
                let sequence = &running[index];
                Part { index, sequence, start: position, end: position + 1 }
            })
        };
        build(batch, *mla_prefill, parts, |batch, part| {
            batch.logits_indices.push(narrow(batch.input_ids.len()));
            batch.input_ids.push(part.sequence.scheduled_id(part.end));
        });
        let num_logits = rows.len() * self.vocab_size;
        match batch.num_tokens() {
            0 => Ok(()),
            _ => model.forward_mtp(batch, HiddenStates::Mtp(sources), &mut self.logits[..num_logits]),
        }
    }
}

/// Fills a batch with the parts that are not empty, those that run absorbed MLA first. `push_tokens` adds the tokens of a part
/// and the rows whose logits are wanted; the rest follows from the positions.
fn build<'a, Parts: Iterator<Item = Part<'a>>>(
    batch: &mut Batch,
    mla_prefill: MlaPrefill,
    parts: impl Fn() -> Parts,
    mut push_tokens: impl FnMut(&mut Batch, Part<'a>),
) {
    batch.clear();
    batch.query_start_loc.push(0);
    let parts = || parts().filter(|part| part.end > part.start);
    let is_absorbed =
        |part: &Part<'_>| mla_prefill == MlaPrefill::Absorbed || part.end - part.start < EXPANDED_MIN_QUERY_LEN;
    batch.max_blocks = parts().map(|part| part.sequence.blocks.len()).max().unwrap_or(0);
    let mut push = |batch: &mut Batch, part: Part<'a>| {
        let Part { sequence, start, end, .. } = part;
        batch.positions.extend(narrow(start)..narrow(end));
        batch.slot_mapping.extend((start..end).map(|position| {
            let block = sequence.blocks[position / BLOCK_SIZE].index();
            block * narrow(BLOCK_SIZE) + narrow(position % BLOCK_SIZE)
        }));
        batch.seq_lens.push(narrow(end));
        let row_end = batch.block_table.len() + batch.max_blocks;
        batch.block_table.extend(sequence.blocks.iter().map(|block| block.index()));
        batch.block_table.resize(row_end, NO_BLOCK);
        push_tokens(batch, part);
        batch.query_start_loc.push(narrow(batch.input_ids.len()));
    };
    for part in parts().filter(is_absorbed) {
        push(batch, part);
    }
    batch.num_absorbed_seqs = batch.num_seqs();
    for part in parts().filter(|part| !is_absorbed(part)) {
        push(batch, part);
    }
}

/// Tokens of a step, positions and slots fit into u32: the limits keep the cache within it.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("the limits keep every count within u32")
}
