"""How close the choices of experts, groups and indexer keys are: a close one could fall differently elsewhere."""

import contextlib
import math

import torch

# Experts, groups and indexer keys are chosen by scores of about 1. Two correct implementations in f32 differ by some 1e-6 there;
# a choice that is closer than this could fall differently, and one other expert changes every logit.
CLEAR_CHOICE = 2e-5
# transformers masks with the least f32, and adds a score to it.
MASKED = -1e30


@contextlib.contextmanager
def closest_choice():
    """Watches every top-k inside the block, and yields a list that ends up holding the smallest distance between the last
    candidate chosen and the first one not chosen: experts, expert groups and indexer keys."""
    gaps = [math.inf]
    original = {owner: owner.topk for owner in (torch, torch.Tensor)}

    def watched(topk):
        def run(values, k, *args, **kwargs):
            if k < values.shape[-1]:
                ordered = values.sort(dim=-1, descending=True).values
                gap = ordered[..., k - 1] - ordered[..., k]
                # Where fewer than k keys can be seen the rest of the choice is of masked ones, and means nothing.
                gap = gap[ordered[..., k - 1] > MASKED]
                gaps[0] = min([gaps[0], *gap.tolist()])
            return topk(values, k, *args, **kwargs)

        return run

    try:
        for owner, topk in original.items():
            owner.topk = watched(topk)
        yield gaps
    finally:
        for owner, topk in original.items():
            owner.topk = topk
