//! The formulas against the buffers, and against figures computed by hand for the released models.

use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_testkit::golden::folder;
use cachalot_weights::{Checkpoint, Config, DeepseekV3Config, KvFormat, Source};
use serde_json::{Value, json};

use super::*;
use crate::memory::{Activations, LayerCache};
use crate::{Batch, DeepseekV3, HiddenStates, LanguageModel, Options, Pages};

fn checkpoint(case: &str) -> Checkpoint {
    Checkpoint::open(&Source::Folder(folder(case))).expect("the fixture is valid")
}

fn deepseek(config: &Config) -> &DeepseekV3Config {
    match config {
        Config::DeepseekV3(config) => config,
        Config::Qwen3(_) => panic!("not a DeepSeek model"),
    }
}

fn published_v3() -> Value {
    serde_json::from_str(include_str!("../../../weights/tests/all/configs/published-v3.json")).expect("JSON")
}

fn published_v32() -> Value {
    let mut config = published_v3();
    config["architectures"] = json!(["DeepseekV32ForCausalLM"]);
    config["model_type"] = json!("deepseek_v32");
    config["index_n_heads"] = json!(64);
    config["index_head_dim"] = json!(128);
    config["index_topk"] = json!(2048);
    config
}

fn config(json: &Value) -> Config {
    Config::from_json(json.to_string().as_bytes()).expect("a valid configuration")
}

/// What `serve` works with unless told otherwise.
const LIMITS: StepLimits = StepLimits { max_model_len: 163_840, max_num_batched_tokens: 2048, max_num_logits: 320 };

#[test]
fn what_the_cpu_allocates_is_what_the_formulas_say() {
    for case in ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"] {
        let checkpoint = checkpoint(case);
        let config = deepseek(checkpoint.config());
        for mtp in [false, true] {
            // The second context is shorter than the choice of the indexer.
            for (max_model_len, max_num_batched_tokens, max_num_logits) in [(512, 128, 64), (3, 7, 7)] {
                let name = format!("{case}, MTP: {mtp}, {max_model_len} tokens");
                let limits = StepLimits { max_model_len, max_num_batched_tokens, max_num_logits };
                let mut activations =
                    Activations::new(config, max_model_len, max_num_batched_tokens, max_num_logits, mtp);
                let bytes: usize = activations.buffers_mut().map(|buffer| buffer.bytes_mut().len()).sum();
                assert_eq!(activation_bytes(config, limits, mtp), bytes as u64, "{name}");
            }
            for (dtype, format) in [(DType::F32, KvFormat::F32), (DType::BF16, KvFormat::Bf16)] {
                let num_blocks = 5;
                let layer: usize = LayerCache::new(config, dtype, num_blocks)
                    .buffers_mut()
                    .map(|buffer| buffer.bytes_mut().len())
                    .sum();
                let layers = config.num_hidden_layers + usize::from(mtp);
                let expected = num_blocks as u64 * kv_block_bytes(config, format, mtp);
                assert_eq!(expected, (layers * layer) as u64, "{case}, MTP: {mtp}, {dtype}");
                let options = Options { kv_cache_dtype: dtype, max_model_len: Some(128), mtp };
                let context = Context::new(Device::Cpu, None).expect("threads");
                let model = DeepseekV3::load(context, &checkpoint, options).expect("the checkpoint loads");
                assert_eq!(model.has_mtp(), mtp, "{case}");
                assert_eq!(num_blocks as u64 * model.kv_block_bytes() as u64, expected, "{case}, MTP: {mtp}, {dtype}");
            }
        }
    }
}

/// A prompt as long as a step can be, then one token after it: both ways of attention.
#[test]
fn working_memory_that_was_taken_at_start_does_not_grow() {
    for (index, case) in ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"].into_iter().enumerate() {
        let checkpoint = checkpoint(case);
        let context = Context::new(Device::Cpu, None).expect("threads");
        let options = Options { kv_cache_dtype: DType::BF16, max_model_len: Some(320), mtp: true };
        let mut model = DeepseekV3::load(context.clone(), &checkpoint, options).expect("the checkpoint loads");
        let (sender, progress) = std::sync::mpsc::channel();
        model.set_pages(Pages::AtStart(Box::new(move |done, total| sender.send((done, total)).expect("a receiver"))));
        let limits = StepLimits { max_model_len: 320, max_num_batched_tokens: 300, max_num_logits: 300 };
        model.allocate(5, limits.max_num_batched_tokens, limits.max_num_logits).expect("memory");

        let config = deepseek(checkpoint.config());
        let expected = working_memory(config, limits, true).bytes(context.pool().current_num_threads());
        let taken = context.working_memory_bytes();
        // What callers share stays from case to case.
        assert!(if index == 0 { taken == expected } else { taken >= expected }, "{case}: {taken} of {expected}");
        let touched = activation_bytes(config, limits, true) + 5 * kv_block_bytes(config, KvFormat::Bf16, true);
        assert_eq!(progress.try_iter().last(), Some((touched, touched)), "{case}");

        let vocab_size = config.vocab_size;
        for num_absorbed_seqs in [0, 1] {
            for (start, end) in [(0, 300), (300, 301)] {
                let positions: Vec<u32> = (start..end).collect();
                let batch = Batch {
                    input_ids: positions.iter().map(|position| position * 7 % vocab_size as u32).collect(),
                    query_start_loc: vec![0, end - start],
                    seq_lens: vec![end],
                    block_table: (0..5).collect(),
                    max_blocks: 5,
                    slot_mapping: positions.clone(),
                    logits_indices: (0..end - start).collect(),
                    positions,
                    num_absorbed_seqs,
                };
                let mut logits = vec![0.0; batch.num_tokens() * vocab_size];
                model.forward(&batch, &mut logits).expect("the step runs");
                let rows = HiddenStates::Main(&batch.logits_indices);
                model.forward_mtp(&batch, rows, &mut logits).expect("the draft runs");
            }
        }
        assert_eq!(context.working_memory_bytes(), taken, "{case}: working memory has grown");
    }
}

#[test]
fn rows_of_logits_are_those_of_the_sequences_and_some_of_prompts() {
    let check = |args: [usize; 3], expected: usize| {
        assert_eq!(max_num_logits(args[0], args[1], args[2]), expected, "{args:?}");
    };
    check([2048, 64, 0], 320);
    check([2048, 64, 1], 384);
    check([2048, 512, 3], 2048);
    check([8, 8, 0], 8);
    check([2048, usize::MAX, 1], 2048);
    // 320 rows of 129,280 logits of 4 bytes.
    assert_eq!(logits_bytes(129_280, 320), 165_478_400);
}

#[test]
fn the_released_models_on_the_cpu() {
    let v3 = config(&published_v3());
    let v32 = config(&published_v32());
    let (v3, v32) = (deepseek(&v3), deepseek(&v32));

    // 61 layers, 64 tokens, 512 + 64 elements; V3.2 keeps 128 more of the indexer's key.
    assert_eq!(kv_block_bytes(v3, KvFormat::F32, false), 61 * 64 * 2304);
    assert_eq!(kv_block_bytes(v3, KvFormat::Bf16, true), 62 * 64 * 1152);
    assert_eq!(kv_block_bytes(v32, KvFormat::F32, false), 61 * 64 * 2816);
    assert_eq!(kv_block_bytes(v32, KvFormat::Bf16, false) / 64, 85_888);

    // Per token: 4·7168 + 2·1536 + 2·128·192 + 2·576 + 128·128 + 3·18432 + 2·8 = 153,744 elements.
    let per_token = 28_672 + 3072 + 49_152 + 1152 + 16_384 + 55_296 + 16;
    assert_eq!(per_token, 153_744);
    assert_eq!(activation_bytes(v3, LIMITS, false), 4 * (320 * 7168 + 2048 * 153_744));
    // The indexer: 2·64·128 + 3·128 + 64 + 2048 = 18,880; the MTP module: 2·7168.
    assert_eq!(activation_bytes(v32, LIMITS, false), 4 * (320 * 7168 + 2048 * (153_744 + 18_880)));
    assert_eq!(activation_bytes(v3, LIMITS, true) - activation_bytes(v3, LIMITS, false), 4 * 2048 * 14_336);

    // A thread: 32 rows of 16 heads of absorbed attention, 16 rows of kv_b_proj. The caller: the router's scores of 2,048
    // tokens for V3, a row-filling 2^20 scores of the indexer for V3.2; a window of 2,048 pairs of 2,048.
    let v3 = working_memory(v3, LIMITS, false);
    assert_eq!(v3.per_thread, [32 * 16 * (2 * 512 + 64) + 32, 16 * 512]);
    assert_eq!(v3.caller, [2048 * 256, 2048 * 2048]);
    let v32 = working_memory(v32, LIMITS, false);
    assert_eq!(v32.caller, [1 << 20, 2048 * 2048]);
    assert_eq!(v32.bytes(10) - v32.bytes(9), 4 * (557_056 + 32 + 8192));
}

#[test]
fn the_released_models_on_gpus() {
    let v3 = config(&published_v3());
    let v32 = config(&published_v32());
    let weights = |config: &Config, split, num_ranks, mtp| {
        Rank { config: deepseek(config), split, num_ranks, mtp }.weight_bytes(&config.published_tensors())
    };

    // Eight ranks, in bytes. Routed: 32 experts of 3·(2048·7168 + 16·56·4) in 58 layers.
    let routed = 58 * 32 * 3 * (2048 * 7168 + 16 * 56 * 4);
    let norms = 61 * 2 * (2 * 7168 + 1536 + 512) + 2 * 7168;
    let gate = 58 * (2 * 256 * 7168 + 4 * 256);
    // q_a and kv_a whole; an eighth of the heads of q_b, kv_b and o.
    let attention = 61
        * ((1536 * 7168 + 12 * 56 * 4)
            + (576 * 7168 + 5 * 56 * 4)
            + (3072 * 1536 + 24 * 12 * 4)
            + (4096 * 512 + 32 * 4 * 4)
            + (7168 * 2048 + 56 * 16 * 4));
    let dense = 3 * 3 * (2304 * 7168 + 18 * 56 * 4);
    let shared = 58 * 3 * (256 * 7168 + 2 * 56 * 4);
    let vocabulary = 2 * 2 * 16_160 * 7168;
    let tensor8 = routed + norms + gate + attention + dense + shared + vocabulary;
    assert_eq!(tensor8, 85_140_130_848);
    assert_eq!(weights(&v3, Split::Tensor, 8, false), tensor8);

    // Data parallel: everything but the routed experts as a whole.
    let attention = 61 * (187_105_280 + 4 * (672 + 280 + 2304 + 1024 + 7168));
    let dense = 3 * 3 * (18_432 * 7168 + 144 * 56 * 4);
    let shared = 58 * 3 * (2048 * 7168 + 16 * 56 * 4);
    let vocabulary = 2 * 2 * 129_280 * 7168;
    let data8 = routed + norms + gate + attention + dense + shared + vocabulary;
    assert_eq!(data8, 100_840_747_360);
    assert_eq!(weights(&v3, Split::Data, 8, false), data8);

    // One rank has all of it. The MTP module's layer is whole but for its copies of embedding and head.
    let all: u64 = v3.published_tensors().iter().map(cachalot_weights::StoredTensor::bytes).sum();
    assert_eq!(weights(&v3, Split::Tensor, 1, true), all - 2 * 2 * 129_280 * 7168);
    assert_eq!(weights(&v3, Split::Data, 1, true), all - 2 * 2 * 129_280 * 7168);
    // 256 experts on 6 ranks: the fullest has 43.
    let per_expert = 58 * 3 * (2048 * 7168 + 16 * 56 * 4);
    assert_eq!(weights(&v3, Split::Data, 6, false) - data8, (43 - 32) * per_expert);
    // The indexer is on every rank: 61 · (wq_b + wk + k_norm + weights_proj).
    let indexer = (8192 * 1536 + 64 * 12 * 4) + (128 * 7168 + 56 * 4) + 2 * 2 * 128 + 2 * 64 * 7168;
    assert_eq!(weights(&v32, Split::Tensor, 8, false) - tensor8, 61 * indexer);

    let rank = |split, num_ranks| Rank { config: deepseek(&v32), split, num_ranks, mtp: false };
    let (tensor, data) = (rank(Split::Tensor, 8), rank(Split::Data, 8));
    assert!(tensor.is_possible() && !rank(Split::Tensor, 6).is_possible() && rank(Split::Data, 6).is_possible());
    // The latent is the same on every rank, however attention is split.
    assert_eq!(tensor.kv_block_bytes(KvFormat::Bf16), 61 * 64 * (1152 + 132));
    assert_eq!(data.kv_block_bytes(KvFormat::Fp8), 61 * 64 * (656 + 132));

    // In BF16: 4·7168 + 2·1536 + 2·16·192 + 2·576 + 16·(2·512 + 64) + 16·128 + 3·2304 + (2·64 + 3)·128; in four bytes:
    // 256 + 2·8 + 64 + 2048.
    let wide = 28_672 + 3072 + 6144 + 1152 + 17_408 + 2048 + 6912 + 16_768;
    assert_eq!(tensor.activation_bytes(LIMITS), 2048 * (2 * wide + 4 * 2384) + 2 * 320 * 7168);
    // All 128 heads and whole MLPs.
    let wide = 28_672 + 3072 + 49_152 + 1152 + 139_264 + 16_384 + 55_296 + 16_768;
    assert_eq!(data.activation_bytes(LIMITS), 2048 * (2 * wide + 4 * 2384) + 2 * 320 * 7168);

    // 8,192 positions of 16 or 128 heads of 192 + 128; 2,048 or 16,384 pairs.
    let per_pair = (7168 + 4 * 56) + 4 * 2048 + (2048 + 4 * 16) + 2 * 7168;
    assert_eq!(tensor.workspace_bytes(LIMITS), 2 * 8192 * 16 * 320 + 2048 * per_pair);
    assert_eq!(data.workspace_bytes(LIMITS), 2 * 8192 * 128 * 320 + 16_384 * per_pair);

    // 2,048 rows of 163,840 would be 1.25 GiB; the workspace stays at 512 MiB, and holds one row at least.
    assert_eq!(tensor.indexer_workspace_bytes(LIMITS), 512 << 20);
    let short = StepLimits { max_model_len: 4096, ..LIMITS };
    assert_eq!(tensor.indexer_workspace_bytes(short), 4 * 2048 * 4096);
    let v3_rank = Rank { config: deepseek(&v3), split: Split::Tensor, num_ranks: 8, mtp: false };
    assert_eq!(v3_rank.indexer_workspace_bytes(LIMITS), 0);
}
