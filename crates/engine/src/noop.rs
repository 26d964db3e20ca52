//! A model that computes nothing.
//!
//! It lives here, and not with the tests, because the crate's own tests, the benches and the whole-system tests all need it,
//! and because whoever embeds the engine can measure everything but the model with it.

use std::time::Duration;

use cachalot_model::{BLOCK_SIZE, Batch, LanguageModel, Result};

/// Gives every position the same logits: 1 for one token, 0 for all others.
#[derive(Clone, Debug)]
pub struct NoopModel {
    /// Number of logits per row.
    pub vocab_size: usize,
    /// The most tokens that one sequence can have.
    pub max_model_len: usize,
    /// The token that greedy sampling yields.
    pub token_id: u32,
    /// How long a step takes.
    pub step_time: Duration,
}

impl LanguageModel for NoopModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    /// As if a token took one byte.
    fn kv_block_bytes(&self) -> usize {
        BLOCK_SIZE
    }

    fn allocate(&mut self, _num_blocks: usize, _max_num_batched_tokens: usize, _max_num_logits: usize) -> Result<()> {
        Ok(())
    }

    fn forward(&mut self, _batch: &Batch, logits: &mut [f32]) -> Result<()> {
        if !self.step_time.is_zero() {
            std::thread::sleep(self.step_time);
        }
        logits.fill(0.0);
        for row in logits.chunks_exact_mut(self.vocab_size) {
            row[self.token_id as usize] = 1.0;
        }
        Ok(())
    }
}
