#!/usr/bin/env python3
"""Makes the checkpoint in tests/fixtures/untrained: DeepSeek V3.2's architecture in its published layout, small and untrained.

The result depends on this file and corpus.txt alone, byte for byte. The weights are random, with one exception that
makes the output readable: all embeddings share one direction, and lm_head uses it to favour the end of the text a
little and to disfavour control tokens and single bytes. Nothing has been learned from anything.

    make.py           writes tests/fixtures/untrained
    make.py --check   makes it in memory and fails if tests/fixtures/untrained differs

Needs numpy, ml_dtypes, safetensors and tokenizers (requirements.txt beside this file).
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / "tests" / "fixtures" / "untrained"
SEED = 20251201
FP8_BLOCK = 128
FP8_MAX = 448.0

# The per-head dimensions are those of the 671B model; everything that multiplies them is as small as the structure
# allows: one dense and two expert layers, two groups of experts, two heads.
CONFIG = {
    "architectures": ["DeepseekV32ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 128,
    "index_head_dim": 128,
    "index_n_heads": 4,
    "index_topk": 256,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "kv_lora_rank": 512,
    "max_position_embeddings": 4096,
    "model_type": "deepseek_v32",
    "moe_intermediate_size": 64,
    "moe_layer_freq": 1,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 2,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 1024,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 1024,
}

GENERATION_CONFIG = {"bos_token_id": 0, "do_sample": True, "eos_token_id": 1, "temperature": 1.0, "top_p": 0.95}

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
# (token, special): in the order of V3.2's tokenizer, whose last tokens they are. Only `<|EOT|>` is both special and
# normalized there; the other special ones are not normalized.
CONTROL_TOKENS = [
    ("｜DSML｜", True),
    ("<dsml:", False),
    ("</dsml:", False),
    ("<｜search▁begin｜>", False),
    ("<｜search▁end｜>", False),
    ("<think>", False),
    ("</think>", False),
    ("<｜fim▁hole｜>", False),
    ("<｜fim▁begin｜>", False),
    ("<｜fim▁end｜>", False),
    ("<｜User｜>", False),
    ("<｜Assistant｜>", False),
    ("<|EOT|>", True),
    ("<｜tool▁calls▁begin｜>", False),
    ("<｜tool▁calls▁end｜>", False),
    ("<｜tool▁call▁begin｜>", False),
    ("<｜tool▁call▁end｜>", False),
    ("<｜tool▁outputs▁begin｜>", False),
    ("<｜tool▁outputs▁end｜>", False),
    ("<｜tool▁output▁begin｜>", False),
    ("<｜tool▁output▁end｜>", False),
    ("<｜tool▁sep｜>", False),
]
# Rows of the embedding that no token uses, as every published checkpoint has them.
NUM_UNUSED_ROWS = 14


def corpus():
    """Text of our own: the sentences of corpus.txt, and combinations of a few words."""
    yield from (HERE / "corpus.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    who = ["The whale", "The captain", "A small boat", "My friend", "The old sailor", "The child", "The engine"]
    does = ["looks for", "remembers", "has found", "is waiting for", "does not know", "would like to see", "talks about"]
    what = ["the deep water", "a quiet place", "the way home", "another whale", "the last light", "something new"]
    for subject, verb, thing in itertools.product(who, does, what):
        yield f"{subject} {verb} {thing}.\n"


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    # The three splits of every DeepSeek V3 tokenizer: digits in threes, runs of Chinese and Japanese, then words.
    words = (
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*"
        "|\\s*[\r\n]+"
        "|\\s+(?!\\S)"
        "|\\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\\p{N}{1,3}"), "isolated"),
            pre_tokenizers.Split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"] - NUM_UNUSED_ROWS - len(CONTROL_TOKENS),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in (BOS, EOS, PAD)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    for token, special in CONTROL_TOKENS:
        normalized = not special or token == "<|EOT|>"
        added = AddedToken(token, normalized=normalized, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    expected = CONFIG["vocab_size"] - NUM_UNUSED_ROWS
    assert tokenizer.get_vocab_size() == expected, (tokenizer.get_vocab_size(), expected)
    return tokenizer


def tokenizer_config():
    token = lambda content: {
        "__type": "AddedToken",
        "content": content,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": token(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": token(EOS),
        "legacy": True,
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": token(EOS),
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
    }


class Weights:
    """Named tensors in checkpoint order. RandomState is numpy's frozen generator: its stream never changes."""

    def __init__(self):
        self.random = np.random.RandomState(SEED)
        self.tensors = {}

    def normal(self, *shape, std):
        return (self.random.standard_normal(shape) * std).astype(np.float32)

    def bf16(self, name, values):
        self.tensors[name] = values.astype(ml_dtypes.bfloat16)

    def f32(self, name, values):
        self.tensors[name] = values.astype(np.float32)

    def norm(self, name, size):
        self.bf16(f"{name}.weight", 1.0 + self.normal(size, std=0.1))

    def fp8(self, name, rows, columns):
        """A linear layer `[rows, columns]` that keeps the variance of its input, quantised in 128x128 blocks.

        A scale is the power of two at or above `amax / 448`, stored as F32, and multiplies the FP8 value.
        """
        weight = self.normal(rows, columns, std=columns**-0.5)
        scale = np.zeros((-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)), np.float32)
        quantised = np.zeros((rows, columns), ml_dtypes.float8_e4m3fn)
        for i, j in np.ndindex(scale.shape):
            block = np.s_[i * FP8_BLOCK : (i + 1) * FP8_BLOCK, j * FP8_BLOCK : (j + 1) * FP8_BLOCK]
            mantissa, exponent = np.frexp(np.abs(weight[block]).max() / np.float32(FP8_MAX))
            scale[i, j] = np.ldexp(np.float32(1), exponent - int(mantissa == 0.5))
            quantised[block] = (weight[block] / scale[i, j]).astype(ml_dtypes.float8_e4m3fn)
        self.tensors[f"{name}.weight"] = quantised
        self.f32(f"{name}.weight_scale_inv", scale)


def attention(weights, prefix):
    c = CONFIG
    heads, nope, rope, value = (
        c[key] for key in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )
    weights.fp8(f"{prefix}.q_a_proj", c["q_lora_rank"], c["hidden_size"])
    weights.norm(f"{prefix}.q_a_layernorm", c["q_lora_rank"])
    weights.fp8(f"{prefix}.q_b_proj", heads * (nope + rope), c["q_lora_rank"])
    weights.fp8(f"{prefix}.kv_a_proj_with_mqa", c["kv_lora_rank"] + rope, c["hidden_size"])
    weights.norm(f"{prefix}.kv_a_layernorm", c["kv_lora_rank"])
    weights.fp8(f"{prefix}.kv_b_proj", heads * (nope + value), c["kv_lora_rank"])
    weights.fp8(f"{prefix}.o_proj", c["hidden_size"], heads * value)
    indexer = f"{prefix}.indexer"
    weights.fp8(f"{indexer}.wq_b", c["index_n_heads"] * c["index_head_dim"], c["q_lora_rank"])
    weights.fp8(f"{indexer}.wk", c["index_head_dim"], c["hidden_size"])
    weights.f32(f"{indexer}.k_norm.weight", 1.0 + weights.normal(c["index_head_dim"], std=0.1))
    weights.f32(f"{indexer}.k_norm.bias", weights.normal(c["index_head_dim"], std=0.1))
    weights.bf16(
        f"{indexer}.weights_proj.weight",
        weights.normal(c["index_n_heads"], c["hidden_size"], std=c["hidden_size"] ** -0.5),
    )


def mlp(weights, prefix, intermediate_size):
    weights.fp8(f"{prefix}.gate_proj", intermediate_size, CONFIG["hidden_size"])
    weights.fp8(f"{prefix}.up_proj", intermediate_size, CONFIG["hidden_size"])
    weights.fp8(f"{prefix}.down_proj", CONFIG["hidden_size"], intermediate_size)


def layer(weights, index):
    c = CONFIG
    prefix = f"model.layers.{index}"
    weights.norm(f"{prefix}.input_layernorm", c["hidden_size"])
    attention(weights, f"{prefix}.self_attn")
    weights.norm(f"{prefix}.post_attention_layernorm", c["hidden_size"])
    if index < c["first_k_dense_replace"]:
        mlp(weights, f"{prefix}.mlp", c["intermediate_size"])
        return
    gate = weights.normal(c["n_routed_experts"], c["hidden_size"], std=c["hidden_size"] ** -0.5)
    weights.bf16(f"{prefix}.mlp.gate.weight", gate)
    weights.f32(f"{prefix}.mlp.gate.e_score_correction_bias", weights.normal(c["n_routed_experts"], std=0.05))
    for expert in range(c["n_routed_experts"]):
        mlp(weights, f"{prefix}.mlp.experts.{expert}", c["moe_intermediate_size"])
    mlp(weights, f"{prefix}.mlp.shared_experts", c["n_shared_experts"] * c["moe_intermediate_size"])


def vocabulary_matrices(weights, tokenizer):
    """`embed_tokens` and `lm_head`, which share one direction of ones and minus ones.

    Logits of words have standard deviation 2 and know nothing of the direction. The logit of the end of the text lies
    along it and so hardly changes: one or two tokens in a hundred at temperature 1. What no text consists of on its own
    (control tokens, parts of a character) lies against it and is practically never chosen.
    """
    c = CONFIG
    direction = np.sign(weights.normal(c["hidden_size"], std=1.0))
    embedding = 2.0 * direction + weights.normal(c["vocab_size"], c["hidden_size"], std=1.0)
    head = weights.normal(c["vocab_size"], c["hidden_size"], std=2.0 * c["hidden_size"] ** -0.5)
    head -= np.outer(head @ direction / c["hidden_size"], direction)
    control = {token for token, _ in CONTROL_TOKENS} | {BOS, PAD}
    for token_id in range(c["vocab_size"]):
        token = tokenizer.id_to_token(token_id)
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        if token == EOS:
            head[token_id] = 0.06 * direction
        elif token is None or token in control or "\ufffd" in text or not (text.isprintable() or text.isspace()):
            head[token_id] -= 0.15 * direction
    return embedding, head


def make_weights(tokenizer):
    c = CONFIG
    weights = Weights()
    embedding, head = vocabulary_matrices(weights, tokenizer)
    weights.bf16("model.embed_tokens.weight", embedding)
    for index in range(c["num_hidden_layers"]):
        layer(weights, index)
    weights.norm("model.norm", c["hidden_size"])
    weights.bf16("lm_head.weight", head)
    # The MTP module is one more layer, with copies of both vocabulary matrices as published.
    index = c["num_hidden_layers"]
    prefix = f"model.layers.{index}"
    layer(weights, index)
    weights.bf16(f"{prefix}.embed_tokens.weight", embedding)
    weights.norm(f"{prefix}.enorm", c["hidden_size"])
    weights.norm(f"{prefix}.hnorm", c["hidden_size"])
    eh_proj = weights.normal(c["hidden_size"], 2 * c["hidden_size"], std=(2 * c["hidden_size"]) ** -0.5)
    weights.bf16(f"{prefix}.eh_proj.weight", eh_proj)
    weights.norm(f"{prefix}.shared_head.norm", c["hidden_size"])
    weights.bf16(f"{prefix}.shared_head.head.weight", head)
    return weights.tensors


def make_files():
    tokenizer = make_tokenizer()
    as_json = lambda value: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    return {
        "config.json": as_json(CONFIG),
        "generation_config.json": as_json(GENERATION_CONFIG),
        "model.safetensors": safetensors.numpy.save(make_weights(tokenizer), metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str(pretty=False).encode() + b"\n",
        "tokenizer_config.json": as_json(tokenizer_config()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with tests/fixtures/untrained instead of writing it")
    check = parser.parse_args().check
    differing = []
    for name, content in make_files().items():
        path = FOLDER / name
        if not check:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            differing.append(name)
    if differing:
        sys.exit(f"tests/fixtures/untrained differs from what scripts/untrained/make.py makes: {', '.join(differing)}")


if __name__ == "__main__":
    main()
