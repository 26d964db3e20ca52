"""What each well-known mistake would change: a fixture that does not notice one of them is not worth keeping.

A mistake is made on purpose, in the weights or in the code of transformers, and the fixture's log-probabilities are computed
again. The printed figure is the largest change among the top 5 of any position; the Cpu engine is held to 0.05.
"""

import contextlib
import json
import pathlib
import sys
import types

import torch
import torch.nn.functional as F

import prompts
from cases import Case
from hf import Golden, mtp_prefix
from weights import BLOCK, expand, read_dequantised, read_raw

# Every mistake has to change something by more than this.
NOTICED = 0.25


@contextlib.contextmanager
def replaced(owner, name, value):
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def modeling(golden: Golden) -> types.ModuleType:
    """The transformers module that holds the model's code."""
    return sys.modules[type(golden.model).__module__]


def attentions(golden: Golden) -> list:
    layers = list(golden.model.model.layers) + ([golden.mtp.mtp_block] if golden.has_mtp else [])
    return [layer.self_attn for layer in layers]


def routers(golden: Golden) -> list:
    layers = list(golden.model.model.layers) + ([golden.mtp.mtp_block] if golden.has_mtp else [])
    return [layer.mlp.gate for layer in layers if hasattr(layer.mlp, "gate")]


def half_split(q, k, cos, sin, **_):
    """Half-split rotation where interleaved is meant."""

    def rotate(x):
        a, b = x.chunk(2, dim=-1)
        return x * cos.unsqueeze(1) + torch.cat((-b, a), dim=-1) * sin.unsqueeze(1)

    return rotate(q), rotate(k)


def interleaved(q, k, cos, sin, unsqueeze_dim=1):
    """Interleaved rotation where half-split is meant."""
    cos, sin = (x[..., : x.shape[-1] // 2].unsqueeze(unsqueeze_dim) for x in (cos, sin))

    def rotate(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)

    return rotate(q), rotate(k)


def route(mistake: str):
    """The router, written out again, with one thing wrong; '' makes no mistake, which shows that the rest is right."""

    def forward(self, hidden_states):
        logits = F.linear(hidden_states.view(-1, self.hidden_dim).float(), self.weight.float())
        scores = logits.softmax(-1) if mistake == "softmax scores" else logits.sigmoid()
        biased = scores if mistake == "no correction bias" else scores + self.e_score_correction_bias
        grouped = biased.view(len(scores), self.num_group, -1)
        per_group = grouped.amax(-1) if mistake == "group score is the best expert's" else grouped.topk(2, dim=-1).values.sum(-1)
        chosen = torch.zeros_like(per_group).scatter_(1, per_group.topk(self.topk_group, dim=-1).indices, 1).bool()
        if mistake == "no group limit":
            chosen = torch.ones_like(chosen)
        hidden = 0.0 if mistake == "other groups masked with 0" else float("-inf")
        ids = grouped.masked_fill(~chosen.unsqueeze(-1), hidden).flatten(1).topk(self.top_k, dim=-1).indices
        weights = (biased if mistake == "weights from biased scores" else scores).gather(1, ids)
        if self.norm_topk_prob != (mistake == "norm_topk_prob turned round"):
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights * (1.0 if mistake == "no routed_scaling_factor" else self.routed_scaling_factor), ids

    return forward


def index(mistake: str):
    """The indexer, written out again, with one thing wrong; '' makes no mistake."""

    def forward(self, hidden_states, q_resid, position_embeddings, attention_mask, position_ids, past_key_values=None):
        cos, sin = position_embeddings
        rope = self.qk_rope_head_dim
        q = self.wq_b(q_resid).unflatten(-1, (self.n_heads, self.head_dim))
        k = self.wk(hidden_states)
        if mistake == "key norm is an RMS norm":
            k = F.rms_norm(k, k.shape[-1:], self.k_norm.weight, 1e-6) + self.k_norm.bias
        elif mistake == "key norm without its bias":
            k = self.k_norm(k) - self.k_norm.bias
        elif mistake != "no key norm":
            k = self.k_norm(k)
        k = k.unsqueeze(2)
        if mistake == "no rotation in the indexer":
            pass
        elif mistake == "last dimensions rotated":
            rotated = rotate_half_split(q[..., -rope:], cos, sin), rotate_half_split(k[..., -rope:], cos, sin)
            q, k = (torch.cat([x[..., :-rope], r], dim=-1) for x, r in zip((q, k), rotated, strict=True))
        else:
            turn = interleaved if mistake == "indexer rotation interleaved" else half_split_pair
            rotated = turn(q[..., :rope], k[..., :rope], cos, sin, unsqueeze_dim=2)
            q, k = (torch.cat([r, x[..., rope:]], dim=-1) for x, r in zip((q, k), rotated, strict=True))
        scores = torch.einsum("bthd,bsd->bths", q, k.squeeze(2))
        if mistake != "no ReLU":
            scores = scores.relu()
        weights = self.weights_proj(hidden_states)
        if mistake == "no head weights":
            weights = torch.ones_like(weights)
        elif mistake == "absolute head weights":
            weights = weights.abs()
        scores = torch.einsum("bth,bths->bts", weights, scores) + attention_mask
        topk = scores.shape[-1] if mistake == "all keys" else self.index_topk - (mistake == "one key too few")
        return scores.topk(min(topk, scores.shape[-1]), dim=-1).indices.int()

    return forward


def rotate_half_split(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(2) + torch.cat((-b, a), dim=-1) * sin.unsqueeze(2)


def half_split_pair(q, k, cos, sin, unsqueeze_dim):
    return rotate_half_split(q, cos, sin), rotate_half_split(k, cos, sin)


def expand_kv_with(mistake: str):
    def expand_kv(self, latent, k_rope):
        nope, v = self.qk_nope_head_dim, self.v_head_dim
        kv = self.kv_b_proj(latent).unflatten(-1, (-1, nope + v)).squeeze(1).transpose(1, 2)
        if mistake == "values before keys in kv_b":
            value, key = kv.split([v, nope], dim=-1)
        else:
            key, value = kv.split([nope, v], dim=-1)
        return torch.cat([key, k_rope.expand(-1, key.shape[1], -1, -1)], dim=-1), value

    return expand_kv


def normed_rope_key(attention, mistake: str):
    """The kv_a projection with the norm applied where it does not belong: to the rope key. The latent is normed afterwards
    in any case, so a factor on it would change nothing."""

    def forward(x):
        z = F.linear(x, attention.kv_a_proj_with_mqa.weight)
        latent, key = z.split([attention.kv_lora_rank, attention.qk_rope_head_dim], dim=-1)
        if mistake == "rope key normed by itself":
            key = F.rms_norm(key, key.shape[-1:], None, 1e-6)
        else:
            key = F.rms_norm(z, z.shape[-1:], None, 1e-6)[..., attention.kv_lora_rank :]
        return torch.cat([latent, key], dim=-1)

    return forward


def mistakes_in_code(case: Case, golden: Golden):
    """Yields a name, a context manager under which `golden` computes wrongly, and whether it is not a mistake at all but a
    check of the code here."""
    code = modeling(golden)
    config = golden.model.config
    attention, experts = type(attentions(golden)[0]), type(routers(golden)[0])

    yield "(nothing, written out again: router)", replaced(experts, "forward", route("")), True
    yield "(nothing, written out again: kv_b)", replaced(attention, "expand_kv", expand_kv_with("")), True
    yield "main rotation half-split", replaced(code, "apply_rotary_pos_emb_interleave", half_split), False
    yield "no rotation", replaced(code, "apply_rotary_pos_emb_interleave", lambda q, k, *_: (q, k)), False
    if config.qk_nope_head_dim != config.v_head_dim:
        name = "values before keys in kv_b"
        yield name, replaced(attention, "expand_kv", expand_kv_with(name)), False
    for name in ["rope key normed by itself", "norm over latent and rope key"]:
        stack = contextlib.ExitStack()
        for module in attentions(golden):
            stack.enter_context(replaced(module.kv_a_proj_with_mqa, "forward", normed_rope_key(module, name)))
        yield name, stack, False

    rope = golden.model.model.rotary_emb
    if config.rope_parameters["rope_type"] == "yarn":
        stack = contextlib.ExitStack()
        for module in attentions(golden):
            stack.enter_context(replaced(module, "scaling", module.qk_head_dim**-0.5))
        yield "softmax scale without mscale^2", stack, False
        plain, _ = rope.compute_default_rope_parameters(config)
        yield "YaRN frequencies ignored", replaced(rope, "inv_freq", plain), False
        interpolated = plain / config.rope_parameters["factor"]
        yield "all frequencies interpolated", replaced(rope, "inv_freq", interpolated), False
        if rope.attention_scaling != 1.0:
            yield "no factor on cos and sin", replaced(rope, "attention_scaling", 1.0), False

    names = ["softmax scores", "no correction bias", "weights from biased scores", "norm_topk_prob turned round"]
    names += ["no routed_scaling_factor"]
    if config.n_group > config.topk_group:
        names += ["no group limit", "other groups masked with 0"]
        if config.n_routed_experts // config.n_group > 2:
            names.append("group score is the best expert's")
    for name in names:
        yield name, replaced(experts, "forward", route(name)), False

    moe = type(next(layer.mlp for layer in golden.model.model.layers if hasattr(layer.mlp, "gate")))

    def scaled_shared(self, hidden):
        routed = moe_forward(self, hidden)
        return routed + (config.routed_scaling_factor - 1.0) * self.shared_experts(hidden)

    moe_forward = moe.forward
    yield "routed_scaling_factor on the shared expert", replaced(moe, "forward", scaled_shared), False

    if case.is_v32:
        indexer = code.DeepseekV32Indexer
        yield "(nothing, written out again: indexer)", replaced(indexer, "forward", index("")), True
        for name in [
            "all keys",
            "one key too few",
            "indexer rotation interleaved",
            "no rotation in the indexer",
            "last dimensions rotated",
            "no ReLU",
            "no head weights",
            "absolute head weights",
            "key norm is an RMS norm",
            "key norm without its bias",
            "no key norm",
        ]:
            yield name, replaced(indexer, "forward", index(name)), False


def mistakes_in_mtp(golden: Golden):
    """As `mistakes_in_code`; only the MTP logits are looked at."""
    layer = golden.mtp

    def swapped(x):
        return F.linear(torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1), layer.eh_proj.weight)

    yield "MTP: hidden state before embedding", replaced(layer.eh_proj, "forward", swapped), False
    yield "MTP: no shared_head.norm", replaced(layer.post_norm, "forward", lambda x: x), False
    main = golden.model.model.norm
    yield "MTP: main model's norm as shared_head.norm", replaced(layer, "post_norm", main), False
    yield "MTP: no enorm", replaced(layer.enorm, "forward", lambda x: x), False
    yield "MTP: no hnorm", replaced(layer.hnorm, "forward", lambda x: x), False
    yield "MTP: hidden state before the final norm", replaced(main, "forward", lambda x: x), False


def damaged_scales(folder: pathlib.Path):
    """Pairs of a name and the f32 tensors that a loader with that mistake would see."""
    raw = read_raw(folder)
    scaled = [name for name in raw if f"{name}_scale_inv" in raw]

    def damaged(scale_of):
        tensors = {name: tensor.float() for name, tensor in raw.items() if not name.endswith("_scale_inv")}
        for name in scaled:
            tensors[name] *= scale_of(raw[f"{name}_scale_inv"].float(), raw[name].shape)
        return tensors

    def last_rows_missing(scale, shape):
        full = expand(scale, shape).clone()
        full[shape[0] // BLOCK * BLOCK :] = 1.0
        return full

    def columns_ignored(scale, shape):
        return expand(scale[:, :1].expand_as(scale), shape)

    def rows_ignored(scale, shape):
        return expand(scale[:1].expand_as(scale), shape)

    yield "scale divides", damaged(lambda scale, shape: 1.0 / expand(scale, shape))
    yield "scale ignored", damaged(lambda scale, shape: torch.ones(shape))
    yield "partial last block row without scale", damaged(last_rows_missing)
    yield "scale of the first block column only", damaged(columns_ignored)
    yield "scale of the first block row only", damaged(rows_ignored)


def change(before: torch.Tensor, after: torch.Tensor) -> float:
    values, ids = before.topk(5, dim=-1)
    return (values - after.gather(-1, ids)).abs().max().item()


def report(case: Case, folder: pathlib.Path):
    """Prints the table and refuses a fixture that forgives a mistake."""
    config = json.loads((folder / "config.json").read_text())
    golden = Golden(folder)
    ids = prompts.prompts(case.prompt_lengths, config["vocab_size"])[-1]
    main = golden.log_probs(ids)
    mtp = golden.mtp_log_probs(ids) if golden.has_mtp else None
    forgiven = []

    def row(name: str, on_main: float | None, on_mtp: float | None, harmless: bool = False):
        columns = ["" if figure is None else f"{figure:8.3f}" for figure in (on_main, on_mtp)]
        print(f"{case.name:10} {name:46} {columns[0]:>10} {columns[1]:>10}")
        for figure in (on_main, on_mtp):
            if figure is not None and (figure > 1e-3 if harmless else figure < NOTICED):
                forgiven.append(name)

    with torch.no_grad():
        for name, mistake, harmless in mistakes_in_code(case, golden):
            with mistake:
                after = change(main, golden.log_probs(ids))
                row(name, after, change(mtp, golden.mtp_log_probs(ids)) if golden.has_mtp else None, harmless)
        if golden.has_mtp:
            for name, mistake, harmless in mistakes_in_mtp(golden):
                with mistake:
                    row(name, None, change(mtp, golden.mtp_log_probs(ids)), harmless)
            row("MTP: same token instead of the next", None, change(mtp[1:], golden.mtp_log_probs([ids[0], *ids[:-1]])[1:]))
        if case.weights != "bf16":
            for name, tensors in damaged_scales(folder):
                wrong = Golden(folder, tensors=tensors)
                row(name, change(main, wrong.log_probs(ids)), None)
    if forgiven:
        raise RuntimeError(f"{case.name} forgives: {', '.join(dict.fromkeys(forgiven))}")
