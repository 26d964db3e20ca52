//! A model with an MTP module that notices what is wrong with how it is used.

use cachalot_model::{BLOCK_SIZE, Batch, HiddenStates, LanguageModel, Result};

use crate::models::{PagedModel, VOCAB_SIZE, mix};

/// A [`PagedModel`] with an MTP module. The hidden state of a position is a hash of all tokens up to it, so that a wrong one
/// cannot pass for a right one. The module's "key" of position `p` is the token at `p + 1` and the hidden state of `p`; before
/// it drafts, it reads all of its keys back and checks that they belong together.
pub(crate) struct DraftModel {
    model: PagedModel,
    /// Of 256 drafted tokens, so many are what the main model would choose greedily.
    accuracy: u64,
    /// `[num_blocks * BLOCK_SIZE]`: position, next token, hidden state.
    cache: Vec<Option<(u32, u32, u64)>>,
    /// Hidden states of the rows that the main model computed last, and of the rows of logits of the module.
    hidden_states: Vec<u64>,
    drafted_states: Vec<u64>,
}

impl DraftModel {
    pub(crate) fn new(accuracy: u64) -> Self {
        let model = PagedModel::hashing();
        DraftModel { model, accuracy, cache: Vec::new(), hidden_states: Vec::new(), drafted_states: Vec::new() }
    }
}

/// The hidden state after one more token.
fn advance(hidden_state: u64, id: u32) -> u64 {
    mix(hidden_state.wrapping_add(0x1234_5678_9abc_def1) ^ (u64::from(id) << 20))
}

impl LanguageModel for DraftModel {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn max_model_len(&self) -> usize {
        self.model.max_model_len()
    }

    fn kv_block_bytes(&self) -> usize {
        self.model.kv_block_bytes()
    }

    fn allocate(&mut self, num_blocks: usize, max_num_batched_tokens: usize, max_num_logits: usize) -> Result<()> {
        self.cache = vec![None; num_blocks * BLOCK_SIZE];
        self.model.allocate(num_blocks, max_num_batched_tokens, max_num_logits)
    }

    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()> {
        self.model.forward(batch, logits)?;
        self.hidden_states.clear();
        for row in 0..batch.num_tokens() {
            let token_ids = self.model.read(batch, row);
            self.hidden_states.push(token_ids.into_iter().fold(0, advance));
        }
        Ok(())
    }

    fn has_mtp(&self) -> bool {
        true
    }

    fn forward_mtp(&mut self, batch: &Batch, hidden_states: HiddenStates<'_>, logits: &mut [f32]) -> Result<()> {
        assert_eq!(hidden_states.rows().len(), batch.num_tokens());
        assert_eq!(logits.len(), batch.logits_indices.len() * VOCAB_SIZE);
        for (row, &source) in hidden_states.rows().iter().enumerate() {
            let hidden_state = match hidden_states {
                HiddenStates::Main(_) => self.hidden_states[source as usize],
                HiddenStates::Mtp(_) => self.drafted_states[source as usize],
            };
            self.cache[batch.slot_mapping[row] as usize] =
                Some((batch.positions[row], batch.input_ids[row], hidden_state));
        }
        self.drafted_states.clear();
        for (&row, logits) in batch.logits_indices.iter().zip(logits.chunks_exact_mut(VOCAB_SIZE)) {
            let seq = batch.query_start_loc.partition_point(|&start| start <= row) - 1;
            // The first token is no token that follows another, so only the main cache has it.
            let mut token_ids = vec![self.model.token_at(batch, seq, 0)];
            let mut expected_state = advance(0, token_ids[0]);
            for position in 0..=batch.positions[row as usize] {
                let block = batch.block_table[seq * batch.max_blocks + position as usize / BLOCK_SIZE] as usize;
                let (written, id, hidden_state) =
                    self.cache[block * BLOCK_SIZE + position as usize % BLOCK_SIZE].expect("written");
                assert_eq!(written, position, "sequence {seq} reads another's key");
                assert_eq!(hidden_state, expected_state, "the hidden state of position {position} is not the true one");
                token_ids.push(id);
                expected_state = advance(expected_state, id);
            }
            self.drafted_states.push(expected_state);
            self.model.logits(&token_ids, logits);
            if mix(expected_state) % 256 >= self.accuracy {
                logits.rotate_right(1);
            }
        }
        Ok(())
    }
}
