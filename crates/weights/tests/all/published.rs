//! The published configurations, written from their documented values.

use serde_json::{Value, json};

/// Keys that V3, V3-0324, R1 and R1-0528 share, with some that an engine ignores.
pub(crate) fn v3() -> Value {
    serde_json::from_str(include_str!("configs/published-v3.json")).expect("JSON")
}

/// V3.1, where it carries the scale format.
pub(crate) fn v31() -> Value {
    let mut config = v3();
    config["quantization_config"]["scale_fmt"] = json!("ue8m0");
    config
}

/// V3.2-Exp, V3.2 and V3.2-Speciale.
pub(crate) fn v32() -> Value {
    let mut config = v31();
    config["architectures"] = json!(["DeepseekV32ForCausalLM"]);
    config["model_type"] = json!("deepseek_v32");
    config["index_n_heads"] = json!(64);
    config["index_head_dim"] = json!(128);
    config["index_topk"] = json!(2048);
    config
}

/// R1-0528-Qwen3-8B.
pub(crate) fn qwen3() -> Value {
    serde_json::from_str(include_str!("configs/published-qwen3.json")).expect("JSON")
}
