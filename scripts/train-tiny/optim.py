"""Muon for the matrices of the layers, AdamW for everything else."""

import torch

# Coefficients of "Polar Express" (arXiv 2505.16932) for four steps: each maps the singular values closer to one.
STEPS = [
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
]


def orthogonalise(matrices, dtype):
    """The nearest matrices with equal singular values, of a stack `[n, rows, columns]`."""
    transposed = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if transposed else matrices).to(dtype)
    x = x / (x.float().square().sum((-2, -1), keepdim=True).sqrt() * 1.02 + 1e-6).to(dtype)
    for a, b, c in STEPS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised matrix by matrix: `parameter.blocks` of them on top of each other, times what is stacked.

    An update has the size of one of a matrix with singular values sqrt(rows / columns), at least 1, times `lr`.
    """

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.0, dtype=torch.bfloat16):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
                rows, columns = parameter.shape[-2:]
                shape = (rows // parameter.blocks, columns)
                by_shape.setdefault(shape, []).append((parameter, nesterov.reshape(-1, *shape)))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonalise(torch.cat([matrices for _, matrices in pairs]), self.dtype).float()
                scale = max(1.0, rows / columns) ** 0.5
                for (parameter, _), update in zip(pairs, updates.split([len(matrices) for _, matrices in pairs])):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)


def make_optimisers(model, muon_lr, adam_lr, embedding_lr, dtype):
    """(Muon, AdamW). Groups are named, and remember their full rate as `base`."""
    matrices, indexer_matrices, others, indexer_others = [], [], [], []
    embeddings = [model.model["embed_tokens"].weight]
    for name, parameter in model.named_parameters():
        indexer = ".indexer." in name
        if hasattr(parameter, "blocks") and not name.startswith("lm_head") and "weights_proj" not in name:
            (indexer_matrices if indexer else matrices).append(parameter)
        elif parameter is not embeddings[0]:
            (indexer_others if indexer else others).append(parameter)
    muon = Muon(
        [{"params": matrices, "name": "main"}, {"params": indexer_matrices, "name": "indexer"}], muon_lr, dtype=dtype
    )
    adam = torch.optim.AdamW(
        [
            {"params": others, "name": "main"},
            {"params": embeddings, "name": "main", "lr": embedding_lr},
            {"params": indexer_others, "name": "indexer"},
        ],
        lr=adam_lr,
        betas=(0.9, 0.95),
        eps=1e-10,
        weight_decay=0.0,
        foreach=True,
    )
    for group in muon.param_groups + adam.param_groups:
        group["base"] = group["lr"]
    return muon, adam
