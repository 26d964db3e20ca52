//! How many blocks sequences will still need.

use cachalot_model::BLOCK_SIZE;

use crate::sequence::Sequence;

/// Weight of the latest output in the running mean of their lengths.
const WEIGHT: f64 = 1.0 / 16.0;

/// Guesses the length of outputs from those before.
///
/// `max_tokens` says little: clients send none, or the most there is. So an output is expected to become as long as the mean of the
/// latest ones; one that is longer already is expected to end soon, in half of what it has. The guess only decides how
/// many sequences run at once. Where it is too low, one is preempted; where it is too high, one waits a little.
#[derive(Debug)]
pub(crate) struct Forecast {
    mean_output_len: f64,
}

impl Default for Forecast {
    /// Before anything is known, an output fills the block that its prompt has begun.
    fn default() -> Self {
        Forecast { mean_output_len: 0.0 }
    }
}

impl Forecast {
    /// Learns from a sequence that has ended.
    pub(crate) fn note_output(&mut self, sequence: &Sequence) {
        self.mean_output_len += WEIGHT * (sequence.num_generated_tokens() as f64 - self.mean_output_len);
    }

    /// Blocks that these sequences will take beyond those that their tokens need now, all together.
    pub(crate) fn num_blocks<'a>(&self, sequences: impl Iterator<Item = &'a Sequence>) -> usize {
        sequences.map(|sequence| self.num_tokens(sequence)).map(|num_tokens| num_tokens / BLOCK_SIZE).sum()
    }

    /// Tokens that a sequence will still generate.
    fn num_tokens(&self, sequence: &Sequence) -> usize {
        let num_generated = sequence.num_generated_tokens();
        let num_expected = (self.mean_output_len as usize).saturating_sub(num_generated).max(num_generated / 2);
        num_expected.min(sequence.sampling.max_tokens as usize - num_generated)
    }
}
