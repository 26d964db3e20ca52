//! The report against the published figures, and its two forms.

use cachalot_testkit::{TinyCheckpoint, v32_config, with_fp8};
use cachalot_weights::{Checkpoint, Config, Report};
use serde_json::{Value, json};

use crate::published;

fn report(config: &Value) -> Report {
    Report::from_config(&Config::from_json(config.to_string().as_bytes()).unwrap())
}

#[test]
fn published_models_have_the_published_figures() {
    fn check(config: Value, total: u64, tensors: u64, bytes: u64, active: u64, mtp_active: u64, kv: [u64; 4]) {
        let report = report(&config);
        assert_eq!(report.storage.iter().map(|dtype| dtype.elements).sum::<u64>(), total);
        assert_eq!(report.storage.iter().map(|dtype| dtype.tensors).sum::<u64>(), tensors);
        assert_eq!(report.weight_bytes, bytes);
        assert_eq!(report.active_parameters, active);
        assert_eq!(report.mtp_active_parameters, mtp_active);
        let cache = report.kv_cache;
        assert_eq!(cache.f32_bytes_per_token, 2 * cache.bf16_bytes_per_token);
        let bf16 = [cache.bf16_bytes_per_token, cache.bf16_bytes_per_token_with_mtp];
        let fp8 = [cache.fp8_bytes_per_token, cache.fp8_bytes_per_token_with_mtp].map(|bytes| bytes.unwrap_or(0));
        assert_eq!([bf16[0], bf16[1], fp8[0], fp8[1]], kv);
    }
    let head = 129_280 * 7168;
    let moe = 9 * 44_040_192 + 256 * 7168;
    let v3 = 61 * 187_105_280 + 3 * 396_361_728 + 58 * moe + head;
    let v3_mtp = 187_105_280 + moe + head + 7168 * 14_336;
    assert_eq!(v3 / 1_000_000, 36_624, "36.6 billion, as the documentation says");
    let kv = [70_272, 71_424, 40_016, 40_672];
    check(published::v3(), 684_531_386_000, 91_991, 688_574_839_360, v3, v3_mtp, kv);

    let indexer = 8192 * 1536 + 128 * 7168 + 64 * 7168;
    let v32 = v3 + 61 * indexer;
    let kv = [70_272 + 61 * 256, 71_424 + 62 * 256, 48_068, 48_856];
    check(published::v32(), 685_396_921_376, 92_425, 689_468_986_496, v32, v3_mtp + indexer, kv);

    let qwen3 = 8_190_735_360 - 151_936 * 4096 - (36 * (2 * 4096 + 2 * 128) + 4096);
    check(published::qwen3(), 8_190_735_360, 399, 2 * 8_190_735_360, qwen3, 0, [147_456, 147_456, 0, 0]);
}

#[test]
fn the_text_has_what_a_reader_looks_for() {
    let text = report(&published::v32()).to_string();
    let expected = [
        "architecture    DeepseekV32ForCausalLM",
        "layers          61 (3 dense, 58 with experts), 1 MTP",
        "attention       128 heads over a latent of 512 + 64",
        "indexer         64 heads of 128 choose 2048 positions per token",
        "experts         256 in 8 groups, 8 per token from 4 groups, 1 shared",
        "rope            theta 10000, YaRN ×40 from 4,096 tokens",
        "quantisation    FP8 in blocks of 128×128, scales ue8m0",
        "context         163,840 tokens",
        "  routed experts         653,908,770,816      11,274,289,152",
        "  BF16                            85,888             87,296 with MTP",
        "  F8_E4M3",
        "weights as published",
    ];
    for line in expected {
        assert!(text.contains(line), "\"{line}\" is not in:\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line), "no line ends in spaces");

    let text = report(&published::qwen3()).to_string();
    for line in [
        "attention       32 heads of 128, 8 key heads",
        "quantisation    none",
        "rope            theta 1000000, YaRN ×4",
    ] {
        assert!(text.contains(line), "\"{line}\" is not in:\n{text}");
    }
    assert!(!text.contains("MTP") && !text.contains("FP8 records"), "{text}");
}

#[test]
fn the_files_are_told_as_they_are() {
    let mut tiny = TinyCheckpoint::new(with_fp8(v32_config()), 3);
    let open = |tiny: &TinyCheckpoint| Report::from_checkpoint(&Checkpoint::open(&tiny.source(2)).unwrap());
    let with_files = open(&tiny);
    let from_config = report(&tiny.config);
    assert!(with_files.storage_from_files && !from_config.storage_from_files);
    assert_eq!(Report { storage_from_files: false, ..with_files.clone() }, from_config, "files as published");
    assert!(with_files.to_string().contains("weights in the files"));
    let stored: usize = tiny.tensors.values().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!(with_files.weight_bytes, stored as u64);

    // What stands in for another tensor is counted once; layers that are absent are not counted.
    tiny.remove("model.layers.3.embed_tokens");
    assert_eq!(open(&tiny).weight_bytes, with_files.weight_bytes - 320 * 160 * 2);
    tiny.remove("model.layers.3.");
    let without_mtp = open(&tiny);
    assert_eq!(without_mtp.mtp_parameters, 0);
    assert_eq!(without_mtp.kv_cache.bf16_bytes_per_token_with_mtp, without_mtp.kv_cache.bf16_bytes_per_token);
    let text = without_mtp.to_string();
    assert!(text.contains("MTP promised but absent") && text.contains("notice: config.json promises MTP"), "{text}");
}

#[test]
fn dtypes_without_quantisation_follow_the_configuration() {
    for (torch_dtype, dtype, size) in [("float32", "F32", 4), ("float16", "F16", 2), ("bfloat16", "BF16", 2)] {
        let mut config = v32_config();
        config["torch_dtype"] = json!(torch_dtype);
        let storage = report(&config).storage;
        let largest = storage.iter().max_by_key(|storage| storage.elements).unwrap();
        assert_eq!((largest.dtype, largest.bytes), (dtype, largest.elements * size));
    }
}

#[test]
fn the_report_is_json_too() {
    let mut report = report(&published::v3());
    report.release = Some("V3".into());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["release"], "V3");
    assert_eq!(json["parameters"][1], json!({"component": "attention", "main": 11_413_422_080u64, "mtp": 187_105_280}));
    assert_eq!(json["kv_cache"]["fp8_bytes_per_token"], 40_016);
    assert!(report.to_string().starts_with("release         V3\n"));
}
