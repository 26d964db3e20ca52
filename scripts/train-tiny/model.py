"""DeepSeek V3.2 in PyTorch, for training: modules carry the tensor names of the published checkpoints.

Tokens of all sequences lie one after another, `[tokens, hidden]`, as equally long rows of a few groups; only the
attention core knows of rows. Weights are kept in F32; what is computed with takes the type of the activations.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

FP8_BLOCK = 128
FP8_MAX = 448.0


@dataclass(frozen=True)
class Config:
    """The keys of config.json that decide the computation."""

    vocab_size: int = 2048
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_nextn_predict_layers: int = 1
    first_k_dense_replace: int = 1
    intermediate_size: int = 512
    moe_intermediate_size: int = 128
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    n_group: int = 4
    topk_group: int = 2
    num_experts_per_tok: int = 2
    routed_scaling_factor: float = 2.5
    num_attention_heads: int = 4
    q_lora_rank: int = 128
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    index_n_heads: int = 4
    index_head_dim: int = 128
    index_topk: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: int = 10000
    yarn_factor: int = 4
    yarn_original_positions: int = 1024
    yarn_beta_fast: int = 32
    yarn_beta_slow: int = 1
    max_position_embeddings: int = 4096

    @property
    def softmax_scale(self) -> float:
        mscale = 0.1 * math.log(self.yarn_factor) + 1.0
        return (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * mscale**2


@dataclass
class Batch:
    """`groups` lists (rows, length) in the order in which the rows lie in `ids`; rows are padded at their end.

    `weights[i]` is the probability with which the loss of predicting token i counts, 0 for padding and first tokens.
    `inside[i, j]` tells whether token i + j + 1 is still in the row of token i.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    inside: torch.Tensor
    valid: torch.Tensor
    groups: list[tuple[int, int]]

    def to(self, device) -> "Batch":
        tensors = (self.ids, self.positions, self.weights, self.inside, self.valid)
        return Batch(*(tensor.to(device) for tensor in tensors), self.groups)


def rotary_table(config: Config, device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position, `[positions, rope_dim / 2]`, with YaRN at all positions as published."""
    dim = config.qk_rope_head_dim
    frequency = config.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    def correction(rotations):
        return dim * math.log(config.yarn_original_positions / (rotations * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low = max(math.floor(correction(config.yarn_beta_fast)), 0)
    high = min(math.ceil(correction(config.yarn_beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / (high - low)).clamp(0, 1)
    frequency = frequency * (1 - ramp) + frequency / config.yarn_factor * ramp
    angle = torch.arange(config.max_position_embeddings)[:, None] * frequency
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate_interleaved(x, cos, sin):
    """Pairs (2j, 2j+1), in place as the main attention has them. `x` is `[tokens, heads, dim]`."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def rotate_halves(x, cos, sin):
    """Pairs (j, j + dim/2), as the indexer has them."""
    a, b = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


def quantise_blocks(weight):
    """E4M3 codes as F32 `[..., rows, columns]`, and the powers of two of their 128x128 blocks that multiply them."""
    rows, columns = weight.shape[-2:]
    pad = (0, -columns % FP8_BLOCK, 0, -rows % FP8_BLOCK)
    blocks = F.pad(weight, pad).unflatten(-1, (-1, FP8_BLOCK)).unflatten(-3, (-1, FP8_BLOCK))
    amax = blocks.abs().amax((-3, -1))
    scale = torch.exp2(torch.ceil(torch.log2(amax.clamp(min=1e-20) / FP8_MAX)))
    spread = scale.repeat_interleave(FP8_BLOCK, -1).repeat_interleave(FP8_BLOCK, -2)[..., :rows, :columns]
    return (weight / spread).to(torch.float8_e4m3fn), scale, spread


class Linear(nn.Module):
    """A matrix without bias; `fp8` ones are stored in FP8."""

    def __init__(self, inputs, outputs, fp8=True, stack=(), blocks=1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*stack, outputs, inputs) * inputs**-0.5)
        # The optimiser takes the matrix as so many matrices on top of each other (heads; gate and up).
        self.weight.blocks = blocks
        self.fp8 = fp8

    def matrix(self, dtype):
        return self.weight.to(dtype)

    def forward(self, x):
        return F.linear(x, self.matrix(x.dtype))


@torch.compile(dynamic=False)
def rms_norm(x, weight, eps):
    x32 = x.float()
    return (weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps))).to(x.dtype)


@contextmanager
def stored_weights(model):
    """Inside, the model computes with its FP8 weights as they would be stored; gradients are those of the weights
    themselves, which are back afterwards."""
    weights = [module.weight for module in model.modules() if isinstance(module, Linear) and module.fp8]
    exact = [weight.data for weight in weights]
    for weight in weights:
        codes, _, spread = quantise_blocks(weight.data)
        weight.data = codes.float() * spread
    try:
        yield
    finally:
        for weight, data in zip(weights, exact):
            weight.data = data


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class Indexer(nn.Module):
    """Scores every earlier token for every token. The Hadamard rotation of the published code changes no score."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.wq_b = Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim, blocks=config.index_n_heads)
        self.wk = Linear(config.hidden_size, config.index_head_dim)
        self.k_norm = nn.LayerNorm(config.index_head_dim, eps=1e-6)
        self.weights_proj = Linear(config.hidden_size, config.index_n_heads, fp8=False)

    def forward(self, x, cq, rope):
        """Queries `[tokens, heads, dim]`, keys `[tokens, dim]` and head weights `[tokens, heads]`."""
        c = self.config
        rotary = c.qk_rope_head_dim
        q = self.wq_b(cq).unflatten(-1, (c.index_n_heads, c.index_head_dim))
        k = self.k_norm(self.wk(x).float()).to(x.dtype)[:, None]
        q = torch.cat((rotate_halves(q[..., :rotary], *rope), q[..., rotary:]), -1)
        k = torch.cat((rotate_halves(k[..., :rotary], *rope), k[..., rotary:]), -1)
        w = self.weights_proj(x.float()) * (c.index_n_heads * c.index_head_dim) ** -0.5
        return q, k[:, 0], w


def index_scores(q, k, w):
    """`[rows, length, length]` from the rows of one group."""
    scores = torch.matmul(q.transpose(1, 2), k[:, None].transpose(-1, -2)).relu()
    return torch.einsum("bhqk,bqh->bqk", scores.float(), w)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        heads = c.num_attention_heads
        self.q_a_proj = Linear(c.hidden_size, c.q_lora_rank)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, 1e-6)
        self.q_b_proj = Linear(c.q_lora_rank, heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), blocks=heads)
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, 1e-6)
        self.kv_b_proj = Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), blocks=2 * heads)
        self.o_proj = Linear(heads * c.v_head_dim, c.hidden_size)
        self.indexer = Indexer(config)

    @torch.compile(dynamic=False)
    def project(self, x, rope):
        c = self.config
        heads, nope, rotary = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim
        cq = self.q_a_layernorm(self.q_a_proj(x))
        q = self.q_b_proj(cq).unflatten(-1, (heads, -1))
        q = torch.cat((q[..., :nope], rotate_interleaved(q[..., nope:], *rope)), -1)
        latent, k_pe = self.kv_a_proj_with_mqa(x).split((c.kv_lora_rank, rotary), -1)
        # kv_b_proj(kv_a_layernorm(latent)): the norm is one factor per token and one per column, so the product of both
        # matrices, half as wide as the latent, can be multiplied with the input instead.
        down = self.kv_a_proj_with_mqa.matrix(x.dtype)[: c.kv_lora_rank]
        up = self.kv_b_proj.matrix(torch.float32) * self.kv_a_layernorm.weight
        factor = torch.rsqrt(latent.float().square().mean(-1, keepdim=True) + self.kv_a_layernorm.eps)
        kv = (F.linear(x, up.to(x.dtype) @ down) * factor).to(x.dtype).unflatten(-1, (heads, -1))
        k_pe = rotate_interleaved(k_pe[:, None], *rope).expand(-1, heads, -1)
        k = torch.cat((kv[..., :nope], k_pe), -1)
        return q * c.softmax_scale, k, kv[..., nope:], cq

    def forward(self, x, rope, batch: Batch, mode: str):
        """Returns the output and the indexer's loss. `mode` is "dense" (the indexer is not computed), "indexer" (dense
        attention, the indexer learns from it) or "sparse" (attention to what the indexer chose)."""
        q, k, v, cq = self.project(x, rope)
        sizes = [rows * length for rows, length in batch.groups]
        parts = [part.split(sizes) for part in (q, k, v)]
        if mode != "dense":
            # The indexer learns from its own loss, and nothing else does.
            parts += [part.split(sizes) for part in (*self.indexer(x.detach(), cq.detach(), rope), batch.valid)]
        outputs, losses = [], []
        for group, *part in zip(batch.groups, *parts):
            q, k, v, *index = (tensor.unflatten(0, group) for tensor in part)
            output, loss = attend(q, k, v, index, mode, self.config.index_topk)
            outputs.append(output.flatten(0, 1))
            losses.append(loss)
        return self.o_proj(torch.cat(outputs)), sum(losses) / batch.valid.sum()


def attend(q, k, v, index, mode, topk):
    """Attention within the rows of one group, `[rows, length, heads, dim]`, and the sum of the indexer's losses."""
    rows, length = q.shape[:2]
    scores = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1))
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    if mode == "dense":
        chosen = causal
    else:
        *index, valid = index
        logits = index_scores(*index).masked_fill(~causal, -torch.inf)
        chosen = causal.expand_as(logits)
        if mode == "sparse" and length > topk:
            best = logits.detach().topk(topk, -1, sorted=False).indices
            chosen = chosen & torch.zeros_like(chosen).scatter(-1, best, True)
        logits = logits.masked_fill(~chosen, -torch.inf)
        chosen = chosen[:, None]
    probabilities = scores.masked_fill(~chosen, -torch.inf).softmax(-1)
    output = torch.matmul(probabilities, v.transpose(1, 2)).transpose(1, 2).flatten(2)
    if mode == "dense":
        return output, 0.0
    target = probabilities.detach().float().mean(1)
    divergence = target * (target.clamp(min=1e-9).log() - logits.log_softmax(-1).clamp(min=-1e4))
    return output, divergence.sum(-1)[valid].sum()


class MLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)

    @torch.compile(dynamic=False)
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    """Sigmoid scores; experts are chosen by score plus bias, in groups, and weighted by score alone."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.n_routed_experts, config.hidden_size) * config.hidden_size**-0.5)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x):
        c = self.config
        scores = F.linear(x.float(), self.weight).sigmoid()
        with torch.no_grad():
            biased = (scores + self.e_score_correction_bias).unflatten(-1, (c.n_group, -1))
            groups = biased.topk(2, -1).values.sum(-1).topk(c.topk_group, -1).indices
            dropped = torch.ones_like(biased[..., 0], dtype=torch.bool).scatter(-1, groups, False)
            biased = biased.masked_fill(dropped[..., None], -torch.inf).flatten(-2)
            experts = biased.topk(c.num_experts_per_tok, -1).indices
        weights = scores.gather(-1, experts)
        return experts, weights / (weights.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor


class Permute(torch.autograd.Function):
    """Rows in another order; its gradient is a gather too, not a scatter."""

    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient):
        order, inverse = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


class Experts(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        hidden, intermediate, stack = config.hidden_size, config.moe_intermediate_size, (config.n_routed_experts,)
        self.gate_up_proj = Linear(hidden, 2 * intermediate, stack=stack, blocks=2)
        self.down_proj = Linear(intermediate, hidden, stack=stack)

    def forward(self, x, experts, weights):
        tokens, chosen = experts.shape
        order = experts.flatten().argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        load = experts.flatten().bincount(minlength=len(self.gate_up_proj.weight))
        x = Permute.apply(x[:, None].expand(-1, chosen, -1).flatten(0, 1), order, inverse)
        outputs = [
            F.linear(silu_mul(F.linear(part, gate_up)), down)
            for part, gate_up, down in zip(
                x.split(load.tolist()), self.gate_up_proj.matrix(x.dtype), self.down_proj.matrix(x.dtype)
            )
        ]
        y = Permute.apply(torch.cat(outputs), inverse, order).unflatten(0, (tokens, chosen))
        return weighted_sum(y, weights), load


@torch.compile(dynamic=False)
def weighted_sum(y, weights):
    return (y * weights[..., None]).sum(1)


@torch.compile(dynamic=True)
def silu_mul(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class MoE(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.n_shared_experts * config.moe_intermediate_size)
        self.load = None

    def forward(self, x):
        experts, weights = self.gate(x)
        routed, self.load = self.experts(x, experts, weights)
        return (routed + self.shared_experts(x)).to(x.dtype)

    @torch.no_grad()
    def balance(self, rate):
        """Makes experts that got more than their share of the last tokens less likely to be chosen."""
        load = self.load.float()
        self.gate.e_score_correction_bias += rate * torch.sign(load.mean() - load)


class Layer(nn.Module):
    def __init__(self, config: Config, index: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        dense = index < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else MoE(config)

    def forward(self, x, rope, batch, mode):
        attention, loss = self.self_attn(self.input_layernorm(x), rope, batch, mode)
        x = x + attention
        return x + self.mlp(self.post_attention_layernorm(x)), loss


class MtpLayer(Layer):
    """Predicts the token after next from the main model's hidden state and the embedding of the next token."""

    def __init__(self, config: Config, index: int):
        super().__init__(config, index)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size, fp8=False)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(config.hidden_size, config.rms_norm_eps)})

    def forward(self, embedding, hidden, rope, batch, mode):
        x = self.eh_proj(torch.cat((self.enorm(embedding), self.hnorm(hidden)), -1))
        x, loss = super().forward(x, rope, batch, mode)
        return self.shared_head["norm"](x), loss


@torch.no_grad()
def look_back(model):
    """Lets the first heads of the first layer begin with a look at the token 1, 2, 3 places back.

    To copy, a model has to match what stands before an earlier place with what stands here, which takes two layers that
    are of no use without each other: found by chance, late, in a run as short as this. With the first half there, the second
    is learned like anything else. The first element of all embeddings is the same constant, on which queries and rope
    keys of these heads depend alone: `q·R(-d)k`, with `q = R(-n)k` rotated, is largest at distance `d = n`.
    """
    c = model.config
    nope, rotary, heads = c.qk_nope_head_dim, c.qk_rope_head_dim, c.num_attention_heads
    model.model["embed_tokens"].weight[:, 0] = 4.0
    attention = model.model["layers"][0].self_attn
    # The eight fastest of the rotations tell neighbours apart.
    pairs = 8
    key = torch.zeros(rotary)
    key[: 2 * pairs : 2] = 1.0
    rope_rows = attention.kv_a_proj_with_mqa.weight[c.kv_lora_rank :]
    rope_rows *= 0.1
    rope_rows[:, 0] = 3.5 * key
    attention.q_a_proj.weight[0] = 0.0
    attention.q_a_proj.weight[0, 0] = 2.0
    for head in range(min(3, heads - 1)):
        cos, sin = model.rope[:, head + 1]
        query = rotate_interleaved(key[None, None], cos[None], -sin[None])[0, 0]
        rows = attention.q_b_proj.weight[head * (nope + rotary) :][: nope + rotary]
        rows *= 0.1
        rows[nope:, 0] = 2.5 * query


class Model(nn.Module):
    def __init__(self, config: Config, dtype=torch.float32):
        super().__init__()
        self.config = config
        self.dtype = dtype
        layers = [Layer(config, index) for index in range(config.num_hidden_layers)]
        layers.append(MtpLayer(config, config.num_hidden_layers))
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(layers),
                "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
            }
        )
        self.lm_head = Linear(config.hidden_size, config.vocab_size, fp8=False)
        self.register_buffer("rope", torch.stack(rotary_table(config, None)), persistent=False)
        for layer in layers:
            # Layers start as almost nothing on top of the residual stream.
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight if isinstance(layer.mlp, MLP) else layer.mlp.experts.down_proj.weight)
        # A head that copies then has one thing to learn for all tokens: to hand on what it reads.
        embedding = self.model["embed_tokens"].weight.data
        self.lm_head.weight.data = 0.06 * embedding
        look_back(self)

    def forward(self, batch: Batch, mode="dense"):
        """The hidden states that enter lm_head, `[tokens, hidden]`, of the main model and of the MTP layer, and the sum of
        the indexers' losses."""
        rope = self.rope[:, batch.positions].unbind(0)
        embedding = self.model["embed_tokens"](batch.ids).to(self.dtype)
        x, losses = embedding, 0.0
        for layer in self.model["layers"][:-1]:
            x, loss = layer(x, rope, batch, mode)
            losses = losses + loss
        hidden = self.model["norm"](x)
        draft, loss = self.model["layers"][-1](embedding.roll(-1, 0), hidden, rope, batch, mode)
        return hidden, draft, losses + loss

    def loss(self, hidden, batch: Batch, ahead: int):
        """Cross entropy of the tokens `ahead` after each position, of those that the weights chose: `[chosen]`, and the
        positions they were predicted from."""
        weights = batch.weights.roll(-ahead, 0) * batch.inside[:, ahead - 1]
        at = (torch.rand_like(weights) < weights).nonzero()[:, 0]
        logits = self.lm_head(hidden[at]).float()
        return F.cross_entropy(logits, batch.ids.roll(-ahead, 0)[at], reduction="none"), at

    def moe_layers(self):
        return [layer.mlp for layer in self.model["layers"] if isinstance(layer.mlp, MoE)]


def make_batch(rows: list[tuple[list[int], list[float]]], groups, tokens: int) -> Batch:
    """Lays out (ids, weights) pairs in the rows of `groups`. What is left of `tokens` becomes short rows of padding."""
    ids, weights, valid = (torch.zeros(tokens, dtype=t) for t in (torch.long, torch.float32, torch.bool))
    positions = torch.zeros(tokens, dtype=torch.long)
    inside = torch.zeros(tokens, 2)
    at, rows = 0, iter(rows)
    for count, length in groups:
        for _ in range(count):
            row_ids, row_weights = next(rows)
            used = len(row_ids)
            ids[at : at + used] = torch.tensor(row_ids)
            weights[at + 1 : at + used] = torch.tensor(row_weights[1:])
            valid[at : at + used] = True
            positions[at : at + length] = torch.arange(length)
            inside[at : at + used - 1, 0] = 1
            inside[at : at + used - 2, 1] = 1
            at += length
    whole, part = divmod(tokens - at, 64)
    padding = [(count, length) for count, length in ((whole, 64), (1, part)) if count * length]
    return Batch(ids, positions, weights, inside, valid, groups + padding)
