"""The fixtures: what each one is made of and what it is there to catch."""

import dataclasses

YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One checkpoint. `config` holds what differs from `published_config`."""

    name: str
    stresses: str
    seed: int
    config: dict
    # "bf16", or how the block scales of an FP8 checkpoint are made and stored:
    # "amax" (amax / 448, F32), "ue8m0" (power of two, F32), "ue8m0-bytes" (power of two, F8_E8M0).
    weights: str = "bf16"
    shards: int = 1
    # Written by transformers' own save_pretrained in this dtype instead of in the published layout.
    saved_by_transformers: str | None = None
    # Standard deviation of the attention scores before the softmax; see weights.py.
    peak: float = 2.2
    prompt_lengths: tuple[int, ...] = (5, 70, 200)
    new_tokens: int = 24

    @property
    def is_v32(self) -> bool:
        return self.config["model_type"] == "deepseek_v32"


def published_config(case: Case) -> dict:
    """config.json with the keys and the order of the published files."""
    common = {
        "architectures": ["DeepseekV32ForCausalLM" if case.is_v32 else "DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 163840 if case.config.get("rope_scaling") else 4096,
        "moe_layer_freq": 1,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_key_value_heads": case.config["num_attention_heads"],
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "use_cache": True,
    }
    config = {**common, **case.config}
    if case.weights != "bf16":
        config["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
        if case.weights != "amax":
            config["quantization_config"]["scale_fmt"] = "ue8m0"
    return dict(sorted(config.items()))


CASES = [
    Case(
        name="v3-bf16",
        stresses="the plain V3 structure: no YaRN, one dense layer, one group of two chosen, MTP, nothing a multiple of 128",
        seed=3,
        peak=2.5,
        config={
            "model_type": "deepseek_v3",
            "vocab_size": 448,
            "hidden_size": 80,
            "intermediate_size": 120,
            "moe_intermediate_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "q_lora_rank": 48,
            "kv_lora_rank": 40,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 8,
            "v_head_dim": 20,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 2,
            "topk_group": 1,
        },
    ),
    Case(
        name="v3-fp8",
        stresses="block scales with arbitrary mantissa, several and partial blocks in every direction, weight and scale in "
        "different shards, YaRN on prompts far shorter than the original length, two shared experts, 2 of 4 groups, MTP",
        seed=1,
        weights="amax",
        shards=3,
        config={
            "model_type": "deepseek_v3",
            "vocab_size": 384,
            "hidden_size": 132,
            "intermediate_size": 140,
            "moe_intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "q_lora_rank": 132,
            "kv_lora_rank": 136,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 28,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_shared_experts": 2,
            "n_group": 4,
            "topk_group": 2,
            "rope_scaling": YARN,
        },
    ),
    Case(
        name="v31-fp8",
        stresses="power-of-two scales stored as F8_E8M0 bytes on the V3 structure, no MTP layer, two dense layers, "
        "norm_topk_prob off, YaRN whose original length (64) the prompts pass",
        seed=1,
        weights="ue8m0-bytes",
        config={
            "model_type": "deepseek_v3",
            "vocab_size": 384,
            "hidden_size": 132,
            "intermediate_size": 200,
            "moe_intermediate_size": 28,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "q_lora_rank": 56,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
            "v_head_dim": 32,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "n_group": 3,
            "topk_group": 2,
            "first_k_dense_replace": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "num_nextn_predict_layers": 0,
            "max_position_embeddings": 2560,
            "rope_scaling": {**YARN, "original_max_position_embeddings": 64},
        },
    ),
    Case(
        name="v32-bf16",
        stresses="the indexer without YaRN: 24 keys of up to 224, MTP with its own indexer, one group",
        seed=13,
        config={
            "model_type": "deepseek_v32",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 120,
            "moe_intermediate_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "q_lora_rank": 48,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 20,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "index_n_heads": 4,
            "index_head_dim": 48,
            "index_topk": 24,
        },
    ),
    Case(
        name="v32-fp8",
        stresses="V3.2 as published: UE8M0 scales in F32, YaRN, indexer of 16 keys (fewer than a cache block), several and "
        "partial scale blocks, scales in other shards, real group limiting, MTP",
        seed=4,
        weights="ue8m0",
        shards=2,
        config={
            "model_type": "deepseek_v32",
            "vocab_size": 384,
            "hidden_size": 132,
            "intermediate_size": 140,
            "moe_intermediate_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "q_lora_rank": 136,
            "kv_lora_rank": 136,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "n_routed_experts": 12,
            "num_experts_per_tok": 4,
            "n_group": 4,
            "topk_group": 2,
            "rope_scaling": YARN,
            "index_n_heads": 8,
            "index_head_dim": 40,
            "index_topk": 16,
        },
    ),
    Case(
        name="v3-hf",
        stresses="V3 as save_pretrained writes it, in F32: rope_parameters, dtype, no MTP layer although num_nextn_predict_layers "
        "is 1; YaRN whose mscale and mscale_all_dim differ, so that cos and sin carry a factor",
        seed=1,
        saved_by_transformers="float32",
        config={
            "model_type": "deepseek_v3",
            "vocab_size": 384,
            "hidden_size": 64,
            "intermediate_size": 112,
            "moe_intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "q_lora_rank": 40,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 24,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 4,
            "topk_group": 2,
            "max_position_embeddings": 8192,
            "rope_scaling": {**YARN, "factor": 16, "mscale": 0.7, "original_max_position_embeddings": 512},
        },
    ),
    Case(
        name="v32-hf",
        stresses="V3.2 as save_pretrained writes it, in BF16 over several shards: rope_parameters, dtype, mlp_layer_types; "
        "another rope_theta",
        seed=2,
        saved_by_transformers="bfloat16",
        shards=2,
        config={
            "model_type": "deepseek_v32",
            "vocab_size": 384,
            "hidden_size": 72,
            "intermediate_size": 128,
            "moe_intermediate_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "q_lora_rank": 64,
            "kv_lora_rank": 48,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 8,
            "v_head_dim": 24,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 2,
            "topk_group": 1,
            "rope_theta": 50000,
            "index_n_heads": 8,
            "index_head_dim": 32,
            "index_topk": 20,
        },
    ),
]

# Not committed: the real vocabulary, so that real text goes through the real tokenizer (make.py --large FOLDER).
LARGE = Case(
    name="v32-large-vocab",
    stresses="the real vocabulary and tokenizer of V3.2",
    seed=10,
    weights="ue8m0",
    shards=4,
    peak=1.6,
    config={
        "model_type": "deepseek_v32",
        "vocab_size": 129280,
        "hidden_size": 192,
        "intermediate_size": 320,
        "moe_intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "q_lora_rank": 160,
        "kv_lora_rank": 144,
        "qk_nope_head_dim": 40,
        "qk_rope_head_dim": 24,
        "v_head_dim": 36,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "rope_scaling": YARN,
        "index_n_heads": 8,
        "index_head_dim": 64,
        "index_topk": 32,
    },
)
