//! The model against HF transformers, on the checkpoints of `fixtures/golden`.
//!
//! Run with `--no-capture` to see the largest deviations.

#![allow(clippy::print_stdout, reason = "the measured deviations are worth seeing")]

use cachalot_model::{BLOCK_SIZE, Batch, DeepseekV3, HiddenStates, LanguageModel, Options};
use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_testkit::golden::{self, CASES, Golden, GoldenPrompt, TopLogProbs};
use cachalot_weights::{Checkpoint, Source};

/// Log-probabilities of each position that are compared.
const COMPARED: usize = 5;

/// A model with room for one sequence.
struct Subject {
    model: DeepseekV3,
    block_table: Vec<u32>,
}

/// The largest deviations of one case.
#[derive(Debug, Default)]
struct Deviation {
    prompt: f32,
    decode: f32,
    mtp: f32,
}

impl Subject {
    fn load(case: &str, device: Device, max_tokens: usize) -> Subject {
        let source = Source::Folder(golden::folder(case));
        let checkpoint = Checkpoint::open(&source).unwrap_or_else(|error| panic!("{case}: {error}"));
        let ctx = Context::new(device, None).expect("threads start");
        // f32 caches: the golden values know no rounding, and with coarser keys the indexer and the router choose others.
        let options = Options { kv_cache_dtype: DType::F32, max_model_len: None, mtp: true };
        let mut model = DeepseekV3::load(ctx, &checkpoint, options).unwrap_or_else(|error| panic!("{case}: {error}"));
        let num_blocks = max_tokens.div_ceil(BLOCK_SIZE);
        // One block more than needed, and backwards, so that no block number is right by chance.
        model.allocate(num_blocks + 1, max_tokens, max_tokens).unwrap_or_else(|error| panic!("{case}: {error}"));
        Subject { model, block_table: (1..=num_blocks as u32).rev().collect() }
    }

    /// The step that computes `ids` at the positions from `start` on, with logits of every position.
    fn batch(&self, start: usize, ids: &[u32], num_absorbed_seqs: usize) -> Batch {
        let positions: Vec<u32> = (start as u32..).take(ids.len()).collect();
        let slot = |&position: &u32| {
            let (block, offset) = (position as usize / BLOCK_SIZE, position as usize % BLOCK_SIZE);
            self.block_table[block] * BLOCK_SIZE as u32 + offset as u32
        };
        Batch {
            input_ids: ids.to_vec(),
            query_start_loc: vec![0, ids.len() as u32],
            seq_lens: vec![(start + ids.len()) as u32],
            block_table: self.block_table.clone(),
            max_blocks: self.block_table.len(),
            slot_mapping: positions.iter().map(slot).collect(),
            logits_indices: (0..ids.len() as u32).collect(),
            positions,
            num_absorbed_seqs,
        }
    }

    /// `[batch.num_tokens()]` rows of log-probabilities.
    fn log_probs(&mut self, batch: &Batch) -> Vec<Vec<f32>> {
        let mut logits = vec![0.0; batch.num_tokens() * self.model.vocab_size()];
        self.model.forward(batch, &mut logits).expect("the step runs");
        log_softmax(&logits, self.model.vocab_size())
    }

    /// As [`Subject::log_probs`], of the MTP module, for the batch that was computed last.
    fn mtp_log_probs(&mut self, batch: &Batch, next_ids: &[u32]) -> Vec<Vec<f32>> {
        let mut logits = vec![0.0; batch.num_tokens() * self.model.vocab_size()];
        let rows: Vec<u32> = (0..batch.num_tokens() as u32).collect();
        let batch = Batch { input_ids: next_ids.to_vec(), ..batch.clone() };
        self.model.forward_mtp(&batch, HiddenStates::Main(&rows), &mut logits).expect("the step runs");
        log_softmax(&logits, self.model.vocab_size())
    }
}

fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<Vec<f32>> {
    let row = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&logit| f64::from(logit - max).exp()).sum();
        row.iter().map(|&logit| logit - max - sum.ln() as f32).collect()
    };
    logits.chunks_exact(vocab_size).map(row).collect()
}

/// The best token, the first of equals.
fn argmax(log_probs: &[f32]) -> u32 {
    (0..log_probs.len()).rev().max_by(|&a, &b| log_probs[a].total_cmp(&log_probs[b])).expect("a vocabulary") as u32
}

/// The largest deviation over all rows.
fn worst(golden: &TopLogProbs, log_probs: &[Vec<f32>]) -> f32 {
    let rows = 0..golden.rows.len();
    rows.map(|position| golden.deviation(position, &log_probs[position], COMPARED)).fold(0.0, f32::max)
}

/// Prefills the prompt, drafts from it, then decodes along the golden continuation.
///
/// Each decoded token is fed from the golden file, so that a close call does not end the comparison.
fn compare(case: &str, subject: &mut Subject, prompt: &GoldenPrompt, tolerance: f32, found: &mut Deviation) {
    let num_tokens = prompt.ids.len();
    let batch = subject.batch(0, &prompt.ids, 0);
    let log_probs = subject.log_probs(&batch);
    found.prompt = found.prompt.max(worst(&prompt.top, &log_probs));
    if let Some(mtp) = &prompt.mtp {
        let next_ids = [&prompt.ids[1..], &[prompt.greedy[0].id]].concat();
        let drafts = subject.mtp_log_probs(&batch, &next_ids);
        found.mtp = found.mtp.max(worst(mtp, &drafts));
    }

    let mut last = log_probs.last().expect("a prompt has tokens").clone();
    for (index, step) in prompt.greedy.iter().enumerate() {
        let deviation = (last[step.id as usize] - step.log_prob).abs();
        found.decode = found.decode.max(if deviation.is_nan() { f32::INFINITY } else { deviation });
        let best = argmax(&last);
        assert!(
            best == step.id || step.margin <= tolerance,
            "{case}: step {index} after a prompt of {num_tokens} takes {best}, not {} (golden margin {})",
            step.id,
            step.margin
        );
        let batch = subject.batch(num_tokens + index, &[step.id], 1);
        last = subject.log_probs(&batch).swap_remove(0);
    }
}

fn check(device: Device, tolerance: f32) {
    let mut failures = Vec::new();
    for case in CASES {
        let golden = Golden::read(case).unwrap_or_else(|error| panic!("{error}"));
        let max_tokens = golden.prompts.iter().map(|prompt| prompt.ids.len() + prompt.greedy.len()).max();
        let mut subject = Subject::load(case, device, max_tokens.expect("a case has prompts"));
        let has_mtp = golden.prompts.iter().any(|prompt| prompt.mtp.is_some());
        assert_eq!(subject.model.has_mtp(), has_mtp, "{case}: MTP module");
        let mut found = Deviation::default();
        for prompt in &golden.prompts {
            compare(case, &mut subject, prompt, tolerance, &mut found);
        }
        println!("{:9} {case:9} {found:?}", device.name());
        if found.prompt.max(found.decode).max(found.mtp) > tolerance {
            failures.push(format!("{case} ({}): {found:?} exceeds {tolerance}", golden.stresses));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn reference_agrees_with_transformers() {
    check(Device::Reference, 1e-3);
}

#[test]
fn cpu_agrees_with_transformers() {
    check(Device::Cpu, 0.05);
}
