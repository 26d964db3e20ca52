//! config.json: what is read, what is refused, and in which words.

use cachalot_testkit::{qwen3_config, v3_config, v32_config, with_fp8};
use cachalot_weights::{
    Config, DeepseekV3Config, Error, IndexerConfig, QuantizationConfig, RopeConfig, ScaleFormat, YarnConfig,
};
use serde_json::{Value, json};

use crate::published;

fn parse(config: &Value) -> Config {
    Config::from_json(config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn deepseek(config: &Value) -> DeepseekV3Config {
    match parse(config) {
        Config::DeepseekV3(config) => config,
        Config::Qwen3(_) => panic!("parsed as Qwen3"),
    }
}

#[test]
fn the_published_v3_is_read_whole() {
    let expected = DeepseekV3Config {
        vocab_size: 129_280,
        hidden_size: 7168,
        intermediate_size: 18_432,
        moe_intermediate_size: 2048,
        num_hidden_layers: 61,
        num_nextn_predict_layers: 1,
        first_k_dense_replace: 3,
        num_attention_heads: 128,
        q_lora_rank: 1536,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        n_routed_experts: 256,
        n_shared_experts: 1,
        num_experts_per_tok: 8,
        n_group: 8,
        topk_group: 4,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        indexer: None,
        rms_norm_eps: 1e-6,
        rope: RopeConfig {
            rope_theta: 10_000.0,
            yarn: Some(YarnConfig {
                factor: 40.0,
                original_max_position_embeddings: 4096,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.0,
                mscale: Some(1.0),
                mscale_all_dim: Some(1.0),
            }),
        },
        max_position_embeddings: 163_840,
        tie_word_embeddings: false,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        dtype: Some("bfloat16".into()),
        quantization: Some(QuantizationConfig { weight_block_size: [128, 128], scale_fmt: ScaleFormat::F32 }),
    };
    assert_eq!(deepseek(&published::v3()), expected);
    assert!((expected.softmax_scale() - 0.135_233_778_860_880_1).abs() < 1e-12);
    let moe_layers = (0..62).filter(|&layer| expected.is_moe_layer(layer)).count();
    assert_eq!(moe_layers, 59);

    let v31 = QuantizationConfig { weight_block_size: [128, 128], scale_fmt: ScaleFormat::Ue8m0 };
    assert_eq!(deepseek(&published::v31()), DeepseekV3Config { quantization: Some(v31.clone()), ..expected.clone() });
    let indexer = IndexerConfig { index_n_heads: 64, index_head_dim: 128, index_topk: 2048 };
    let v32 = DeepseekV3Config { quantization: Some(v31), indexer: Some(indexer), ..expected };
    assert_eq!(deepseek(&published::v32()), v32);
}

#[test]
fn the_published_qwen3_has_cos_and_sin_of_magnitude_one() {
    let Config::Qwen3(config) = parse(&published::qwen3()) else { panic!("not Qwen3") };
    assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (8, 128, 131_072));
    assert_eq!(config.rope.rope_theta, 1e6);
    let factor = config.rope.yarn.unwrap().attention_factor;
    assert!((factor - 1.0).abs() < 1e-12, "`attn_factor` undoes YaRN's magnitude: {factor}");
}

/// The same model as transformers 5.23 writes it.
#[test]
fn configurations_saved_by_transformers_are_read() {
    let yarn = YarnConfig {
        factor: 40.0,
        original_max_position_embeddings: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.0,
        mscale: Some(1.0),
        mscale_all_dim: Some(1.0),
    };
    let check = |text: &str, rope: RopeConfig, indexer: Option<IndexerConfig>, dtype: &str, tied: bool| {
        let config = deepseek(&serde_json::from_str(text).unwrap());
        assert_eq!(config.rope, rope);
        assert_eq!(config.indexer, indexer);
        assert_eq!(config.dtype.as_deref(), Some(dtype));
        assert_eq!(config.tie_word_embeddings, tied);
        assert_eq!((config.first_k_dense_replace, config.num_hidden_layers, config.hidden_size), (1, 3, 64));
        assert_eq!((config.n_group, config.topk_group, config.routed_scaling_factor), (2, 1, 2.5));
        assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(0), vec![1]));
    };
    let plain = RopeConfig { rope_theta: 10_000.0, yarn: None };
    let stretched = RopeConfig { rope_theta: 10_000.0, yarn: Some(yarn.clone()) };
    let small = IndexerConfig { index_n_heads: 4, index_head_dim: 32, index_topk: 8 };
    let large = IndexerConfig { index_n_heads: 64, index_head_dim: 128, index_topk: 2048 };
    check(include_str!("configs/transformers-v3.json"), plain.clone(), None, "float32", false);
    check(include_str!("configs/transformers-v3-yarn.json"), stretched.clone(), None, "bfloat16", false);
    check(include_str!("configs/transformers-v32.json"), stretched, Some(small), "float32", false);
    let other_theta = RopeConfig { rope_theta: 20_000.0, yarn: Some(yarn) };
    check(include_str!("configs/transformers-v32-tied.json"), other_theta, Some(large), "bfloat16", true);

    let qwen3: Value = serde_json::from_str(include_str!("configs/transformers-qwen3.json")).unwrap();
    let Config::Qwen3(config) = parse(&qwen3) else { panic!("not Qwen3") };
    assert_eq!(config.rope, plain);
    assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]));
}

/// Each change of a valid configuration, and what it does.
#[test]
fn spellings_and_defaults() {
    fn check(change: Value, read: impl Fn(&DeepseekV3Config) -> Value, expected: Value) {
        let mut config = with_fp8(v32_config());
        merge(&mut config, &change);
        assert_eq!(read(&deepseek(&config)), expected, "{change}");
    }
    check(json!({"eos_token_id": [1, 5]}), |c| json!(c.eos_token_ids), json!([1, 5]));
    check(json!({"eos_token_id": null}), |c| json!(c.eos_token_ids), json!([]));
    check(json!({"bos_token_id": null}), |c| json!(c.bos_token_id), json!(null));
    check(json!({"torch_dtype": null, "dtype": "float16"}), |c| json!(c.dtype), json!("float16"));
    check(json!({"tie_word_embeddings": null}), |c| json!(c.tie_word_embeddings), json!(false));
    check(json!({"norm_topk_prob": null}), |c| json!(c.norm_topk_prob), json!(true));
    check(json!({"norm_topk_prob": false}), |c| json!(c.norm_topk_prob), json!(false));
    check(json!({"num_nextn_predict_layers": null}), |c| json!(c.num_nextn_predict_layers), json!(0));
    let alias = json!({"num_nextn_predict_layers": null, "num_mtp_layers": 2});
    check(alias, |c| json!(c.num_nextn_predict_layers), json!(2));
    check(json!({"quantization_config": null}), |c| json!(c.quantization.is_none()), json!(true));
    check(json!({"architectures": null}), |c| json!(c.indexer.is_some()), json!(true));
    check(json!({"some_key_of_the_future": {"a": [1]}}), |c| json!(c.hidden_size), json!(160));
    let types = json!({"mlp_layer_types": ["dense", "dense", "sparse"], "first_k_dense_replace": 1});
    check(types, |c| json!(c.first_k_dense_replace), json!(2));

    let yarn = |c: &DeepseekV3Config| json!(c.rope.yarn.is_some());
    check(json!({"rope_scaling": null}), yarn, json!(false));
    check(json!({"rope_scaling": {"rope_type": "default"}}), yarn, json!(false));
    check(json!({"rope_scaling": {"type": null, "rope_type": "yarn"}}), yarn, json!(true));
    let nested = json!({"rope_theta": null, "rope_scaling": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
    check(nested, |c| json!(c.rope.rope_theta), json!(500.0));
    let beside = json!({"rope_theta": 7, "rope_scaling": null, "rope_parameters": {"rope_type": "default"}});
    check(beside, |c| json!(c.rope.rope_theta), json!(7.0));
    let bare = json!({"rope_scaling": {"mscale": null, "mscale_all_dim": null, "beta_fast": null, "beta_slow": null}});
    let magnitude = 0.1 * 8f64.ln() + 1.0;
    check(
        bare,
        |c| {
            let yarn = c.rope.yarn.as_ref().unwrap();
            json!([yarn.beta_fast, yarn.beta_slow, yarn.attention_factor, yarn.softmax_factor()])
        },
        json!([32.0, 1.0, magnitude, 1.0]),
    );
    let given = json!({"rope_scaling": {"attention_factor": 0.5, "mscale_all_dim": 0}});
    check(
        given,
        |c| {
            let yarn = c.rope.yarn.as_ref().unwrap();
            json!([yarn.attention_factor, yarn.softmax_factor()])
        },
        json!([0.5, 1.0]),
    );
}

/// Each change of a valid configuration, and the words with which it is refused.
#[test]
fn bad_values_are_named() {
    fn check(base: Value, change: Value, expected: &[&str]) {
        let mut config = base;
        merge(&mut config, &change);
        let error = Config::from_json(config.to_string().as_bytes()).expect_err(&change.to_string());
        let message = error.to_string();
        assert!(message.starts_with("config.json "), "says where: {message}");
        for words in expected {
            assert!(message.contains(words), "{change}: \"{words}\" is not in: {message}");
        }
        assert!(!error.hint().is_empty());
    }
    let v32 = || with_fp8(v32_config());
    check(
        v32(),
        json!({"kv_lora_rank": null, "v_head_dim": null, "index_topk": null, "rms_norm_eps": "small"}),
        &[
            "lacks `",
            "`v_head_dim`",
            "`kv_lora_rank`",
            "`index_topk`",
            "DeepseekV32ForCausalLM needs",
            "`rms_norm_eps` is \"small\"",
        ],
    );
    check(v32(), json!({"rope_theta": null}), &["lacks `rope_theta`"]);
    check(v32(), json!({"first_k_dense_replace": null}), &["lacks `first_k_dense_replace`"]);
    check(qwen3_config(), json!({"head_dim": null}), &["lacks `head_dim`, which Qwen3ForCausalLM needs"]);
    check(v32(), json!({"rope_scaling": {"factor": null}}), &["lacks `rope_scaling.factor`"]);
    check(v32(), json!({"rope_scaling": 4}), &["`rope_scaling` is 4, expected an object"]);
    check(v32(), json!({"rope_scaling": {"type": "linear"}}), &["`rope_scaling.rope_type` is \"linear\"", "\"yarn\""]);
    check(v32(), json!({"rope_scaling": {"factor": -1}}), &["`rope_scaling.factor` is -1, expected a number above 0"]);
    check(v32(), json!({"rope_scaling": {"truncate": false}}), &["`rope_scaling.truncate` is false"]);
    check(v32(), json!({"rope_scaling": {"partial_rotary_factor": 0.5}}), &["partial_rotary_factor` is 0.5"]);
    check(v32(), json!({"num_attention_heads": 0}), &["`num_attention_heads` is 0, expected a whole number from 1"]);
    check(v32(), json!({"hidden_size": 1e12 as u64}), &["`hidden_size` is 1000000000000", "1048576"]);
    check(v32(), json!({"hidden_size": 64.5}), &["`hidden_size` is 64.5"]);
    check(v32(), json!({"num_nextn_predict_layers": -1}), &["`num_nextn_predict_layers` is -1"]);
    check(v32(), json!({"eos_token_id": [1, "x"]}), &["`eos_token_id` is [1,\"x\"], expected a token id"]);
    check(v32(), json!({"eos_token_id": 320}), &["token id 320", "`vocab_size`, 320"]);
    check(v32(), json!({"n_group": 3}), &["`n_routed_experts`, 8, is not a multiple of `n_group`, 3"]);
    check(v32(), json!({"topk_group": 5}), &["`topk_group`, 5, is more than `n_group`, 4"]);
    check(v32(), json!({"num_experts_per_tok": 5}), &["`num_experts_per_tok`, 5, is more than the 4 experts"]);
    check(v32(), json!({"qk_rope_head_dim": 15}), &["`qk_rope_head_dim`, 15, is odd"]);
    check(v32(), json!({"index_head_dim": 8}), &["`index_head_dim`, 8, is less than `qk_rope_head_dim`, 16"]);
    check(v32(), json!({"mlp_layer_types": ["sparse", "dense", "sparse"]}), &["`mlp_layer_types` is", "3 layers"]);
    check(v32(), json!({"mlp_layer_types": ["dense"]}), &["`mlp_layer_types` is", "3 layers"]);
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
        ("moe_layer_freq", json!(2)),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("rope_interleave", json!(false)),
        ("indexer_rope_interleave", json!(true)),
    ] {
        check(v32(), json!({key: value}), &[&format!("`{key}` is {value}, expected "), "the only one supported"]);
    }
    check(qwen3_config(), json!({"use_sliding_window": true}), &["`use_sliding_window` is true"]);
    check(qwen3_config(), json!({"num_key_value_heads": 3}), &["not a multiple of `num_key_value_heads`, 3"]);
    check(qwen3_config(), json!({"head_dim": 25}), &["`head_dim`, 25, is odd"]);

    let quantization = |change: Value| json!({"quantization_config": change});
    let method = &["`quantization_config.quant_method` is \"awq\", only \"fp8\" is supported"];
    check(v32(), quantization(json!({"quant_method": "awq"})), method);
    check(v32(), quantization(json!({"quant_method": null})), &["`quantization_config.quant_method` is missing"]);
    check(v32(), quantization(json!({"weight_block_size": null})), &["lacks `quantization_config.weight_block_size`"]);
    check(v32(), quantization(json!({"weight_block_size": [128]})), &["weight_block_size` is [128], expected two"]);
    check(v32(), quantization(json!({"fmt": "e5m2"})), &["`quantization_config.fmt` is \"e5m2\""]);
    check(v32(), quantization(json!({"activation_scheme": "static"})), &["activation_scheme` is \"static\""]);
    check(v32(), quantization(json!({"scale_fmt": "ue5m3"})), &["scale_fmt` is \"ue5m3\", only \"ue8m0\""]);

    let known = "known are DeepseekV3ForCausalLM, DeepseekV32ForCausalLM, Qwen3ForCausalLM";
    check(v3_config(), json!({"architectures": ["LlamaForCausalLM"]}), &["LlamaForCausalLM", known]);
    check(v3_config(), json!({"architectures": null, "model_type": "mixtral"}), &["architecture mixtral", known]);
    check(v3_config(), json!({"architectures": null, "model_type": null}), &["names no architecture", known]);
}

#[test]
fn what_is_not_json_is_malformed() {
    for (text, words) in
        [("", "EOF"), ("{\"vocab_size\": 12", "EOF"), ("[1]", "no JSON object"), ("\u{feff}{}", "line 1")]
    {
        let error = Config::from_json(text.as_bytes()).expect_err(text);
        assert!(matches!(error, Error::ConfigSyntax { .. }));
        let message = error.to_string();
        assert!(message.starts_with("config.json is malformed: ") && message.contains(words), "{message}");
    }
}

/// Sets keys, those of inner objects too.
fn merge(target: &mut Value, change: &Value) {
    for (key, value) in change.as_object().unwrap() {
        match (target.get_mut(key), value) {
            (Some(inner @ Value::Object(_)), Value::Object(_)) => merge(inner, value),
            _ => target[key] = value.clone(),
        }
    }
}
