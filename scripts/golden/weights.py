"""Seeded random weights under the published tensor names, and their FP8 storage.

The weights are random, but not meaningless: their scales are chosen so that attention is peaked, the router decides, the
indexer matters and the logits spread, because a fixture whose attention is nearly uniform would forgive most mistakes.
sensitivity.py measures that it forgives none.
"""

import json
import pathlib

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cases import Case, published_config

FP8_MAX = 448.0
BLOCK = 128


class Random:
    """One stream of normal numbers; the order of the draws is the order of the code below, and so part of the format."""

    def __init__(self, seed: int):
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.generator.uniform(low, high, shape).astype(np.float32))


def softmax_factor(config: dict) -> float:
    """What YaRN multiplies attention scores by."""
    scaling = config["rope_scaling"]
    if scaling is None:
        return 1.0
    return (0.1 * scaling["mscale_all_dim"] * np.log(scaling["factor"]) + 1.0) ** 2


def random_weights(case: Case) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint in f32, before they are rounded to their stored type."""
    config = published_config(case)
    rng = Random(case.seed)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    tensors: dict[str, torch.Tensor] = {}

    def linear(name: str, out_features: int, in_features: int, gain: float = 1.0):
        """Maps inputs of unit variance to outputs of standard deviation `gain`."""
        weight = rng.normal(out_features, in_features) * (gain / in_features**0.5)
        if case.weights != "bf16":
            # Blocks of different magnitude: equal ones would hide a scale taken from the wrong block.
            rows, columns = -(-out_features // BLOCK), -(-in_features // BLOCK)
            gains = 2.0 ** rng.uniform(-1.2, 1.2, rows, columns)
            weight *= expand(gains / gains.square().mean().sqrt(), weight.shape)
        tensors[f"{name}.weight"] = weight

    def norm(name: str, size: int):
        tensors[f"{name}.weight"] = 1.0 + 0.3 * rng.normal(size)

    def mlp(prefix: str, intermediate: int):
        linear(f"{prefix}.gate_proj", intermediate, hidden, 1.5)
        linear(f"{prefix}.up_proj", intermediate, hidden, 1.2)
        linear(f"{prefix}.down_proj", hidden, intermediate, 1.2)

    def attention(prefix: str):
        heads = config["num_attention_heads"]
        nope, rope, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        # Scores have standard deviation gain^2 * softmax_factor.
        gain = (case.peak / softmax_factor(config)) ** 0.5
        linear(f"{prefix}.q_a_proj", config["q_lora_rank"], hidden)
        norm(f"{prefix}.q_a_layernorm", config["q_lora_rank"])
        linear(f"{prefix}.q_b_proj", heads * (nope + rope), config["q_lora_rank"], gain)
        latent = config["kv_lora_rank"]
        # The latent part is normed before use; a size other than 1 shows a norm that is missing or too wide.
        linear(f"{prefix}.kv_a_proj_with_mqa", latent + rope, hidden, gain)
        norm(f"{prefix}.kv_a_layernorm", latent)
        linear(f"{prefix}.kv_b_proj", heads * (nope + v), latent, gain)
        linear(f"{prefix}.o_proj", hidden, heads * v, 1.5 / gain)
        if case.is_v32:
            indexer(f"{prefix}.indexer")

    def indexer(prefix: str):
        heads, dim, rank = config["index_n_heads"], config["index_head_dim"], config["q_lora_rank"]
        linear(f"{prefix}.wq_b", heads * dim, rank)
        # Every second head is the negative of its neighbour, so that of each pair one passes the ReLU. With few independent
        # heads many scores would be exactly 0, and which of them are chosen would depend on how ties are broken.
        pairs = tensors[f"{prefix}.wq_b.weight"].view(heads // 2, 2, dim, rank)
        pairs[:, 1] = -pairs[:, 0]
        linear(f"{prefix}.wk", dim, hidden, 0.7)
        norm(f"{prefix}.k_norm", dim)
        tensors[f"{prefix}.k_norm.bias"] = 0.5 * rng.normal(dim)
        # Not quantised in any release, so without blocks of different magnitude.
        tensors[f"{prefix}.weights_proj.weight"] = rng.normal(heads, hidden) / hidden**0.5

    def layer(index: int, dense: bool):
        prefix = f"model.layers.{index}"
        norm(f"{prefix}.input_layernorm", hidden)
        attention(f"{prefix}.self_attn")
        norm(f"{prefix}.post_attention_layernorm", hidden)
        if dense:
            mlp(f"{prefix}.mlp", config["intermediate_size"])
            return
        experts, intermediate = config["n_routed_experts"], config["moe_intermediate_size"]
        tensors[f"{prefix}.mlp.gate.weight"] = 1.2 * rng.normal(experts, hidden) / hidden**0.5
        # Mostly negative: biased scores below 0 show a group mask that writes 0 where -inf is meant.
        tensors[f"{prefix}.mlp.gate.e_score_correction_bias"] = -0.6 + 0.25 * rng.normal(experts)
        for expert in range(experts):
            mlp(f"{prefix}.mlp.experts.{expert}", intermediate)
        mlp(f"{prefix}.mlp.shared_experts", intermediate * config["n_shared_experts"])

    tensors["model.embed_tokens.weight"] = rng.normal(vocab, hidden)
    layers = config["num_hidden_layers"]
    for index in range(layers):
        layer(index, dense=index < config["first_k_dense_replace"])
    norm("model.norm", hidden)
    tensors["lm_head.weight"] = 2.5 * rng.normal(vocab, hidden) / hidden**0.5

    if config["num_nextn_predict_layers"] and case.saved_by_transformers is None:
        prefix = f"model.layers.{layers}"
        tensors[f"{prefix}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        norm(f"{prefix}.enorm", hidden)
        norm(f"{prefix}.hnorm", hidden)
        tensors[f"{prefix}.eh_proj.weight"] = rng.normal(hidden, 2 * hidden) / (2 * hidden) ** 0.5
        layer(layers, dense=False)
        norm(f"{prefix}.shared_head.norm", hidden)
        tensors[f"{prefix}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    return tensors


def expand(scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """One value per 128x128 block to one per element; the last blocks may be partial."""
    rows = scales.repeat_interleave(BLOCK, 0)[: shape[0]]
    return rows.repeat_interleave(BLOCK, 1)[:, : shape[1]]


def is_fp8(name: str) -> bool:
    """Whether the published FP8 releases quantise this tensor."""
    if not name.endswith("_proj.weight") and not name.endswith((".indexer.wq_b.weight", ".indexer.wk.weight")):
        return False
    return not name.endswith((".eh_proj.weight", ".weights_proj.weight"))


def quantise(weight: torch.Tensor, scales: str) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 codes and one factor per 128x128 block, so that `weight` is about `codes * factor`."""
    rows, columns = -(-weight.shape[0] // BLOCK), -(-weight.shape[1] // BLOCK)
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight.abs()
    amax = padded.view(rows, BLOCK, columns, BLOCK).amax(dim=(1, 3))
    factor = amax / FP8_MAX
    if scales != "amax":
        # 2^ceil(log2 x) on the bits: the exponent, plus one if any mantissa bit is set.
        bits = factor.view(torch.int32)
        exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).int()
        factor = (exponent << 23).view(torch.float32)
    codes = (weight / expand(factor, weight.shape)).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    if scales == "ue8m0-bytes":
        factor = factor.to(torch.float8_e8m0fnu)
    return codes, factor


def dequantise(codes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The f32 weight that a block-scaled FP8 tensor means: `weight_scale_inv` multiplies, despite its name."""
    return codes.float() * expand(factor.float(), codes.shape)


def stored(case: Case) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint in their stored types."""
    tensors = {}
    for name, weight in random_weights(case).items():
        if name.endswith("e_score_correction_bias"):
            tensors[name] = weight
        elif case.weights != "bf16" and is_fp8(name):
            tensors[name], tensors[f"{name}_scale_inv"] = quantise(weight, case.weights)
        else:
            tensors[name] = weight.to(torch.bfloat16)
    return tensors


def write_published(case: Case, folder: pathlib.Path):
    """Writes config.json and model.safetensors, or shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(published_config(case), indent=2) + "\n")
    tensors = stored(case)
    if case.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(case.shards)]
    # In file order by bytes, but every block scale goes to the shard after its weight's, the last one's to the first.
    total, done = sum(t.nbytes for t in tensors.values()), 0
    for name, tensor in tensors.items():
        shard = min(done * case.shards // total, case.shards - 1)
        done += tensor.nbytes
        if name.endswith("_scale_inv"):
            shard = (shard + 1) % case.shards
        shards[shard][name] = tensor
    weight_map = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{case.shards:06d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def read_raw(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder as they are stored."""
    raw = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            raw |= {name: tensors.get_tensor(name) for name in tensors.keys()}
    return raw


def read_dequantised(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder in f32, from the files alone."""
    raw = read_raw(folder)
    return {
        name: dequantise(tensor, raw[f"{name}_scale_inv"]) if f"{name}_scale_inv" in raw else tensor.float()
        for name, tensor in raw.items()
        if not name.endswith("_scale_inv")
    }
