//! Models between the engine and a [`DeepseekV3`] that watch what is drafted, or read the module wrongly on purpose.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use cachalot_model::{Batch, DeepseekV3, HiddenStates, LanguageModel, Options, Result};
use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_weights::{Checkpoint, Source};

/// A token that the MTP module holds to be the likeliest, where the engine asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Draft {
    /// The latest position whose hidden state is the main model's: the token after it is known, the draft begins with the next.
    pub(crate) position: u32,
    /// Place in the draft.
    pub(crate) place: usize,
    pub(crate) id: u32,
}

/// How the module is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Published,
    /// With the hidden state of a position goes the token at it, not the one after it.
    Unshifted,
}

/// A model that notes every draft.
pub(crate) struct Witness {
    model: DeepseekV3,
    reading: Reading,
    drafts: Arc<Mutex<Vec<Draft>>>,
    /// Tokens of the main model's latest batch.
    main_ids: Vec<u32>,
    /// Passes over drafted tokens since the latest one over known tokens.
    place: usize,
}

impl Witness {
    pub(crate) fn load(source: &Source, device: Device, reading: Reading) -> (Witness, Arc<Mutex<Vec<Draft>>>) {
        let checkpoint = Checkpoint::open(source).unwrap_or_else(|error| panic!("{error}"));
        // One thread: handing out work of this size costs more than the work.
        let ctx = Context::new(device, Some(NonZeroUsize::MIN)).expect("a thread starts");
        // f32 caches: what is compared knows no rounding.
        let options = Options { kv_cache_dtype: DType::F32, max_model_len: Some(512), mtp: true };
        let model = DeepseekV3::load(ctx, &checkpoint, options).unwrap_or_else(|error| panic!("{error}"));
        let drafts = Arc::new(Mutex::new(Vec::new()));
        (Witness { model, reading, drafts: drafts.clone(), main_ids: Vec::new(), place: 0 }, drafts)
    }
}

impl LanguageModel for Witness {
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
        self.main_ids.clone_from(&batch.input_ids);
        self.model.forward(batch, logits)
    }

    fn has_mtp(&self) -> bool {
        self.model.has_mtp()
    }

    fn forward_mtp(&mut self, batch: &Batch, hidden_states: HiddenStates<'_>, logits: &mut [f32]) -> Result<()> {
        match (self.reading, hidden_states) {
            (Reading::Unshifted, HiddenStates::Main(rows)) => {
                let input_ids = rows.iter().map(|&row| self.main_ids[row as usize]).collect();
                self.model.forward_mtp(&Batch { input_ids, ..batch.clone() }, hidden_states, logits)?;
            }
            _ => self.model.forward_mtp(batch, hidden_states, logits)?,
        }
        self.place = match hidden_states {
            HiddenStates::Main(_) => 0,
            HiddenStates::Mtp(_) => self.place + 1,
        };
        let rows = batch.logits_indices.iter().zip(logits.chunks_exact(self.model.vocab_size()));
        let drafts = rows.map(|(&row, logits)| Draft {
            position: batch.positions[row as usize] - self.place as u32,
            place: self.place,
            id: argmax(logits),
        });
        self.drafts.lock().expect("no panic").extend(drafts);
        Ok(())
    }
}

/// The best token, the first of equals.
fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary") as u32
}
