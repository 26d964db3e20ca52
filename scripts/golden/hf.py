"""Golden values: what HF transformers computes from a checkpoint folder, in f32 on the CPU."""

import json
import pathlib
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import DeepseekV3ForCausalLM, DeepseekV32ForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import MtpLayer, MtpModel

from weights import read_dequantised

MODELS = {"deepseek_v3": DeepseekV3ForCausalLM, "deepseek_v32": DeepseekV32ForCausalLM}


def mtp_prefix(config: dict) -> str:
    return f"model.layers.{config['num_hidden_layers']}."


class Golden:
    """A checkpoint folder loaded into transformers, with its MTP layer if it has one."""

    def __init__(self, folder: pathlib.Path, dtype: torch.dtype = torch.float32, tensors: dict | None = None):
        """`tensors` replaces the folder's own (dequantised) tensors; sensitivity.py passes damaged ones."""
        config = json.loads((folder / "config.json").read_text())
        tensors = read_dequantised(folder) if tensors is None else tensors
        prefix = mtp_prefix(config)
        self.has_mtp = any(name.startswith(prefix) for name in tensors)
        cls = MODELS[config["model_type"]]
        # transformers names the MTP layer that the main model is to skip by the number it has in the 671B model.
        cls._keys_to_ignore_on_load_unexpected = [prefix.replace(".", r"\.") + ".*"]
        with tempfile.TemporaryDirectory() as scratch:
            # The same names and config keys as published; only the types differ, because transformers has no f32 path for
            # FP8 checkpoints.
            config.pop("quantization_config", None)
            (pathlib.Path(scratch) / "config.json").write_text(json.dumps(config))
            save_file(tensors, pathlib.Path(scratch) / "model.safetensors", metadata={"format": "pt"})
            self.model, info = cls.from_pretrained(
                scratch,
                dtype=dtype,
                attn_implementation="eager",
                experts_implementation="eager",
                output_loading_info=True,
            )
            problems = {key: value for key, value in info.items() if value}
            if problems:
                raise RuntimeError(f"{folder}: transformers did not load the checkpoint as it is: {problems}")
            self.model.eval()
            # V3.2 has no MTP in transformers 5.23 (no num_mtp_layers in its config), V3 has.
            self.hf_mtp = None
            if self.has_mtp and config["model_type"] == "deepseek_v3":
                self.hf_mtp = MtpModel.from_pretrained(self.model).eval()
        self.mtp = self._mtp_layer(tensors, prefix, dtype) if self.has_mtp else None

    def _mtp_layer(self, tensors: dict, prefix: str, dtype: torch.dtype) -> MtpLayer:
        """transformers' own MTP layer class around the model's own decoder layer class, filled by hand: for V3.2 there is no
        other way, and for V3 `check_mtp` holds it against what transformers loads by itself."""
        layers = self.model.model.layers
        # The decoder layer takes from its index only whether it is dense, and a slot in a cache that is not used here.
        index = len(layers) - 1
        layer = MtpLayer(self.model.config, type(layers[-1]), type(self.model.model.norm), index)
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for name, shared in [
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("shared_head.head.weight", "lm_head.weight"),
        ]:
            if not torch.equal(own.pop(name), tensors[shared]):
                raise RuntimeError(f"{prefix}{name} is not a copy of {shared}")
        state = {"post_norm.weight": own.pop("shared_head.norm.weight")}
        experts = self.model.config.n_routed_experts

        def stacked(part: str) -> torch.Tensor:
            return torch.stack([own.pop(f"mlp.experts.{expert}.{part}_proj.weight") for expert in range(experts)])

        state["mtp_block.mlp.experts.gate_up_proj"] = torch.cat([stacked("gate"), stacked("up")], dim=1)
        state["mtp_block.mlp.experts.down_proj"] = stacked("down")
        for name, tensor in own.items():
            state[name if name.startswith(("enorm", "hnorm", "eh_proj")) else f"mtp_block.{name}"] = tensor
        layer.load_state_dict(state, strict=True)
        return layer.to(dtype).eval()

    @torch.no_grad()
    def log_probs(self, ids: list[int]) -> torch.Tensor:
        """`[len, vocab]`: of the token after each position."""
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    @torch.no_grad()
    def mtp_log_probs(self, ids: list[int]) -> torch.Tensor:
        """`[len - 1, vocab]`: row i is the draft for token i + 2, from the main model's hidden state at i, as it enters
        lm_head, and the true token i + 1."""
        model = self.model.model
        hidden = model(torch.tensor([ids]), use_cache=False).last_hidden_state[:, :-1]
        embeds = model.embed_tokens(torch.tensor([ids[1:]]))
        positions = torch.arange(len(ids) - 1)[None]
        mask = create_causal_mask(
            config=model.config,
            inputs_embeds=embeds,
            attention_mask=None,
            past_key_values=None,
            position_ids=positions,
            allow_is_causal_skip=False,
        )
        out = self.mtp(
            embeds,
            hidden,
            position_embeddings=model.rotary_emb(embeds, position_ids=positions),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=None,
        )
        return self.model.lm_head(out)[0].float().log_softmax(-1)

    @torch.no_grad()
    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """`generate` with its cache; the end-of-sequence token is a token like any other."""
        out = self.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, len(ids) :].tolist()

    @torch.no_grad()
    def check_mtp(self, ids: list[int]) -> float:
        """How far the hand-filled MTP layer is from `MtpModel`, which `generate(use_mtp=True)` uses, at the last position."""
        hidden = self.model.model(torch.tensor([ids]), use_cache=False).last_hidden_state[:, :-1]
        positions = torch.arange(1, len(ids))[None]
        _, logits, _ = self.hf_mtp(torch.tensor([ids[1:]]), hidden, None, positions, None)
        return (logits[0, -1].float().log_softmax(-1) - self.mtp_log_probs(ids)[-1]).abs().max().item()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
