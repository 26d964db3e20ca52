#!/usr/bin/env python3
"""Writes a trained model in the published layout: configuration, tokenizer and model.safetensors.

    export.py TRAINING FOLDER           FP8 weights in 128x128 blocks with scales that are powers of two
    export.py TRAINING FOLDER --bf16    the same weights in BF16, to compare with
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model import FP8_BLOCK, Config, Linear, Model, quantise_blocks
from tokenizer import BOS, EOS

GENERATION_CONFIG = {"bos_token_id": 0, "do_sample": True, "eos_token_id": 1, "temperature": 1.0, "top_p": 0.95}
# Keys of Config that config.json keeps in an object of their own.
ROPE = {
    "yarn_factor": "factor",
    "yarn_original_positions": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def config_json(config: Config, bf16: bool) -> dict:
    """config.json, its keys in alphabetical order as published."""
    keys = {
        "architectures": ["DeepseekV32ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": "deepseek_v32",
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "num_key_value_heads": config.num_attention_heads,
        "rope_scaling": {"mscale": 1.0, "mscale_all_dim": 1.0, "type": "yarn"},
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    for key, value in vars(config).items():
        if key in ROPE:
            keys["rope_scaling"][ROPE[key]] = value
        else:
            keys[key] = value
    if not bf16:
        keys["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "scale_fmt": "ue8m0",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        }
    keys["rope_scaling"] = dict(sorted(keys["rope_scaling"].items()))
    return dict(sorted(keys.items()))


def tokenizer_config(config: Config) -> dict:
    def token(content):
        return {
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
        "model_max_length": config.max_position_embeddings,
        "pad_token": token(EOS),
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
    }


def config_of(folder: Path) -> Config:
    keys = json.loads((folder / "config.json").read_text())
    keys |= {ours: keys["rope_scaling"][theirs] for ours, theirs in ROPE.items()}
    return Config(**{key: keys[key] for key in Config.__dataclass_fields__})


def published(name: str, tensor: torch.Tensor):
    """(name, tensor) of the checkpoint for one tensor of the model: experts are stored one by one."""
    if ".experts." not in name:
        yield name, tensor
        return
    prefix, part = name.removesuffix(".weight").rsplit(".", 1)
    parts = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
    for index, expert in enumerate(tensor):
        for part, matrix in zip(parts, expert.chunk(len(parts))):
            yield f"{prefix}.{index}.{part}.weight", matrix


def tensors_of(model: Model, bf16: bool) -> dict[str, torch.Tensor]:
    fp8 = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear) and module.fp8}
    out = {}
    for name, whole in model.state_dict().items():
        for stored, tensor in published(name, whole):
            if name in fp8 and not bf16:
                codes, scale, _ = quantise_blocks(tensor)
                out[stored], out[f"{stored}_scale_inv"] = codes, scale
            elif "k_norm" in name or "e_score_correction_bias" in name:
                out[stored] = tensor.float()
            else:
                out[stored] = tensor.to(torch.bfloat16)
    # The MTP layer comes with copies of both vocabulary matrices, as published.
    mtp = f"model.layers.{model.config.num_hidden_layers}"
    out[f"{mtp}.embed_tokens.weight"] = out["model.embed_tokens.weight"].clone()
    out[f"{mtp}.shared_head.head.weight"] = out["lm_head.weight"].clone()
    return {name: tensor.contiguous() for name, tensor in out.items()}


def write(model: Model, folder: Path, bf16: bool):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", config_json(model.config, bf16)),
        ("generation_config.json", GENERATION_CONFIG),
        ("tokenizer_config.json", tokenizer_config(model.config)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    save_file(tensors_of(model, bf16), folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> Model:
    """The model of a folder in F32, FP8 weights dequantised."""
    stored = load_file(folder / "model.safetensors")

    def take(name):
        tensor = stored[name].float()
        scale = stored.get(f"{name}_scale_inv")
        if scale is not None:
            spread = scale.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
            tensor *= spread[: tensor.shape[0], : tensor.shape[1]]
        return tensor

    model = Model(config_of(folder))
    state = {}
    for name, whole in model.state_dict().items():
        parts = [take(part) for part, _ in published(name, whole)]
        state[name] = parts[0] if len(parts) == 1 else torch.cat(parts).view_as(whole)
    model.load_state_dict(state)
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("training", type=Path, help="the folder of train.py")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    saved = torch.load(arguments.training / "checkpoint.pt", weights_only=False)
    model = Model(saved["config"])
    model.load_state_dict(saved["model"])
    write(model, arguments.folder, arguments.bf16)
    shutil.copy(arguments.training / "tokenizer.json", arguments.folder)


if __name__ == "__main__":
    main()
