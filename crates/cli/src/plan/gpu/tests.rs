//! Known facts about the released models on known machines.

use cachalot_weights::Config;
use serde_json::{Value, json};

use super::*;
use crate::plan::Concurrency;

fn published(is_v32: bool) -> Config {
    let text = include_str!("../../../../weights/tests/all/configs/published-v3.json");
    let mut config: Value = serde_json::from_str(text).expect("JSON");
    if is_v32 {
        config["architectures"] = json!(["DeepseekV32ForCausalLM"]);
        config["model_type"] = json!("deepseek_v32");
        config["index_n_heads"] = json!(64);
        config["index_head_dim"] = json!(128);
        config["index_topk"] = json!(2048);
    }
    Config::from_json(config.to_string().as_bytes()).expect("a valid configuration")
}

const WISH: Wish =
    Wish { max_model_len: 163_840, max_num_seqs: 64, max_num_batched_tokens: 2048, speculative_tokens: 0 };

fn plan(is_v32: bool, gpus: &str, wish: Wish, kv_format: KvFormat) -> Plan {
    let config = published(is_v32);
    let Config::DeepseekV3(deepseek) = &config else { panic!("not a DeepSeek model") };
    let gpus = gpus.parse().expect("known GPUs");
    plan_gpus("model".to_owned(), deepseek, &config.published_tensors(), &gpus, wish, kv_format)
}

#[test]
fn eight_h200_hold_v3_and_keep_each_latent_eight_times_in_tensor_parallel() {
    let plan = plan(false, "h200x8", WISH, KvFormat::Bf16);
    let [tensor, data] = plan.layouts.as_slice() else { panic!("{plan}") };
    // 141 GB less a tenth, 85.1 GB of weights and 1.1 GB of steps; vLLM tells of 34 GB with its own overheads.
    let gigabytes = tensor.budget.kv_cache as f64 / 1e9;
    assert!((37.0..42.0).contains(&gigabytes), "{gigabytes}");
    assert_eq!(tensor.budget.weights, 85_140_130_848);
    assert_eq!(tensor.num_tokens, tensor.budget.kv_cache / (61 * 1152) / 64 * 64);
    assert!(data.budget.weights > tensor.budget.weights && data.budget.kv_cache < tensor.budget.kv_cache);
    assert_eq!(data.num_tokens, 8 * (data.budget.kv_cache / (61 * 1152) / 64 * 64));
    assert!(data.num_tokens > 4 * tensor.num_tokens, "{plan}");
    for layout in &plan.layouts {
        let total = layout.budget.total();
        assert!(
            total <= 141_000_000_000 && total + layout.kv_block_bytes > 141_000_000_000,
            "all is given out: {plan}"
        );
        for Concurrency { context, sequences } in &layout.concurrency {
            let held = sequences * context.next_multiple_of(64) as u64;
            assert!(held <= layout.num_tokens, "{sequences} of {context} in {plan}");
        }
    }
    assert!(plan.suggestion.fits);
    assert!(plan.to_string().contains("Attention in data parallel"), "{plan}");
}

#[test]
fn a_few_sequences_are_for_tensor_parallel() {
    let wish = Wish { max_model_len: 32_768, max_num_seqs: 8, ..WISH };
    let plan = plan(true, "h200x8", wish, KvFormat::Fp8);
    let sentences = plan.suggestion.sentences.join("\n");
    assert!(sentences.contains("Attention in tensor parallel"), "{sentences}");
    assert!(sentences.contains("All 8 sequences fit at full length."), "{sentences}");
    assert_eq!(plan.layouts[0].kv_block_bytes, 61 * 64 * (656 + 132));
}

#[test]
fn eight_h100_do_not_hold_v3_and_sixteen_do() {
    for is_v32 in [false, true] {
        let plan = plan(is_v32, "H100-80GB×8", WISH, KvFormat::Bf16);
        assert!(!plan.suggestion.fits, "{plan}");
        assert_eq!(plan.suggestion.options, Vec::<String>::new(), "nothing can be started");
        let text = plan.to_string();
        for expected in ["It does not fit: each GPU would hold", "16 × H100-80GB would hold it, tensor parallel"] {
            assert!(text.contains(expected), "no \"{expected}\" in:\n{text}");
        }
        assert!(super::tests::plan(is_v32, "H100-80GB×16", WISH, KvFormat::Bf16).suggestion.fits);
    }
    let text = plan(false, "rtx-4090x8", WISH, KvFormat::Bf16).to_string();
    assert!(text.contains("would hold it") || text.contains("No number of RTX-4090-24GB"), "{text}");
}

#[test]
fn where_only_the_context_is_too_long_the_longest_is_told() {
    let plan = plan(false, "100GB×8", WISH, KvFormat::Bf16);
    assert!(!plan.suggestion.fits, "{plan}");
    let longest = plan.layouts.iter().map(|layout| layout.context(1)).max().expect("two ways");
    assert!((1..163_840).contains(&longest), "{plan}");
    assert_eq!(plan.suggestion.options[0], format!("--max-model-len {longest}"));
    let wish = Wish { max_model_len: usize::try_from(longest).expect("small"), ..WISH };
    assert!(super::tests::plan(false, "100GB×8", wish, KvFormat::Bf16).suggestion.fits, "what is suggested fits");
}

#[test]
fn heads_that_cannot_be_shared_out_leave_one_way() {
    let plan = plan(false, "B200×6", WISH, KvFormat::Bf16);
    assert_eq!(plan.layouts.len(), 1, "{plan}");
    assert!(plan.to_string().contains("128 heads cannot be shared out evenly to 6 GPUs"), "{plan}");
    let one = super::tests::plan(false, "1TB", WISH, KvFormat::Bf16);
    assert_eq!(one.layouts[0].name, "one GPU");
    assert!(one.suggestion.fits, "{one}");
}

#[test]
fn drafting_takes_its_layer_and_its_share_of_the_cache() {
    let [without, with] = [0, 2].map(|speculative_tokens| {
        let wish = Wish { speculative_tokens, ..WISH };
        plan(true, "h200x8", wish, KvFormat::Bf16).layouts.swap_remove(0)
    });
    assert_eq!(with.kv_block_bytes * 61, without.kv_block_bytes * 62);
    assert!(with.budget.weights > without.budget.weights + 1_500_000_000, "an eighth of the experts of one layer");
    assert_eq!(with.budget.logits - without.budget.logits, 4 * 64 * 2 * 129_280);
}

#[test]
fn the_plan_is_json_too() {
    let json = serde_json::to_value(plan(true, "h200x8", WISH, KvFormat::Bf16)).expect("JSON");
    assert_eq!(json["machine"], "8 × H200-141GB, 131.3 GiB each");
    assert_eq!(json["wish"]["max_num_seqs"], 64);
    assert_eq!(json["kv_cache_dtype"], "bf16");
    assert_eq!(json["layouts"][1]["name"], "data parallel attention");
    assert_eq!(json["layouts"][0]["budget"]["indexer_workspace"], 512 << 20);
    assert_eq!(json["layouts"][0]["concurrency"][4]["context"], 163_840);
    assert_eq!(json["suggestion"]["fits"], true);
}
