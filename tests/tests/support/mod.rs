//! A model with hand-made batches, for tests that look at logits below the engine.

use std::collections::BTreeMap;

use bytes::Bytes;
use cachalot_model::{BLOCK_SIZE, Batch, DeepseekV3, LanguageModel, Options};
use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_testkit::golden::folder;
use cachalot_weights::{Checkpoint, Source};

/// Blocks that a [`Harness`] has; sequence `s` owns every `NUM_SEQS`-th one, so that physical blocks are interleaved.
const NUM_BLOCKS: usize = 40;
const NUM_SEQS: usize = 4;

/// The same checkpoint as `case`, its config.json changed by `edit`.
pub(crate) fn edited_checkpoint(
    case: &str,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Checkpoint {
    let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
    for entry in std::fs::read_dir(folder(case)).expect("the fixture is committed") {
        let path = entry.expect("a folder entry").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        files.insert(name, std::fs::read(&path).expect("a readable file").into());
    }
    let mut config = serde_json::from_slice(&files["config.json"]).expect("config.json is an object");
    edit(&mut config);
    files.insert("config.json".into(), serde_json::to_vec(&config).expect("an object").into());
    Checkpoint::open(&Source::Files(files)).expect("the edited checkpoint is valid")
}

/// One part of a step: `count` tokens of sequence `seq`, from `start`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) seq: usize,
    pub(crate) start: usize,
    pub(crate) count: usize,
}

/// A model and the caches of up to four sequences.
pub(crate) struct Harness {
    pub(crate) model: DeepseekV3,
    prompts: Vec<Vec<u32>>,
}

impl Harness {
    pub(crate) fn new(checkpoint: &Checkpoint, device: Device, prompts: &[Vec<u32>]) -> Self {
        assert!(prompts.len() <= NUM_SEQS);
        let ctx = Context::new(device, None).expect("threads");
        let kv_cache_dtype = if device == Device::Reference { DType::F32 } else { DType::BF16 };
        let mut model =
            DeepseekV3::load(ctx, checkpoint, Options { kv_cache_dtype, max_model_len: Some(640), mtp: true })
                .expect("the checkpoint loads");
        model.allocate(NUM_BLOCKS, 1024, 1024).expect("memory");
        Harness { model, prompts: prompts.to_vec() }
    }

    /// The batch of `parts`, of which the first `num_absorbed_seqs` take the absorbed path; logits of every row.
    pub(crate) fn batch(&self, parts: &[Part], num_absorbed_seqs: usize) -> Batch {
        let max_blocks = NUM_BLOCKS / NUM_SEQS;
        let mut batch = Batch { max_blocks, num_absorbed_seqs, query_start_loc: vec![0], ..Batch::default() };
        for &Part { seq, start, count } in parts {
            let block = |index: usize| (index * NUM_SEQS + seq) as u32;
            for position in start..start + count {
                batch.input_ids.push(self.prompts[seq][position]);
                batch.positions.push(position as u32);
                batch
                    .slot_mapping
                    .push(block(position / BLOCK_SIZE) * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32);
            }
            batch.query_start_loc.push(batch.input_ids.len() as u32);
            batch.seq_lens.push((start + count) as u32);
            let num_blocks = (start + count).div_ceil(BLOCK_SIZE);
            // Entries past the sequence are never read: an impossible block shows if they are.
            batch
                .block_table
                .extend((0..max_blocks).map(|index| if index < num_blocks { block(index) } else { u32::MAX }));
        }
        batch.logits_indices = (0..batch.input_ids.len() as u32).collect();
        batch
    }

    /// Runs a batch; one row of logits per token.
    pub(crate) fn run(&mut self, batch: &Batch) -> Vec<Vec<f32>> {
        let vocab_size = self.model.vocab_size();
        let mut logits = vec![f32::NAN; batch.logits_indices.len() * vocab_size];
        self.model.forward(batch, &mut logits).expect("the step runs");
        logits.chunks(vocab_size).map(<[f32]>::to_vec).collect()
    }

    /// All logits of sequence `seq`, computed in chunks of the given sizes.
    pub(crate) fn run_chunks(&mut self, seq: usize, chunks: &[usize], absorbed: bool) -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        for &count in chunks {
            let batch = self.batch(&[Part { seq, start: rows.len(), count }], usize::from(absorbed));
            rows.extend(self.run(&batch));
        }
        assert_eq!(rows.len(), self.prompts[seq].len(), "the chunks cover the prompt");
        rows
    }
}

/// Token ids that look random and repeat for a seed.
pub(crate) fn prompt(seed: u64, len: usize, vocab_size: u64) -> Vec<u32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab_size) as u32
        })
        .collect()
}
