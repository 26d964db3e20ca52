"""Drafts: what the MTP layer drafts while transformers generates, step by step, and what of it is accepted."""

import json
import pathlib
import unittest.mock

import torch
from transformers.generation.candidate_generator import MTPCandidateGenerator
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import MtpModel

from cases import Case
from choices import CLEAR_CHOICE, closest_choice
from hf import Golden, versions
from weights import Random

MAGIC = "cachalot-drafts"
VERSION = 1
# Short; across the end of a cache block of 64 while it generates; longer than every index_topk.
PROMPT_LENGTHS = (3, 50, 150)
NEW_TOKENS = 40
DEPTH = 3
# Every token that is compared is ahead of the second best by this much: some hundred times what f32 can change.
CLEAR_TOKEN = 2e-3
MAX_TRIES = 60


class Unclear(Exception):
    """Two correct implementations could choose another token."""


def clear_argmax(logits: torch.Tensor) -> int:
    # Not `topk`, which is watched for choices of another kind.
    best = logits.double().sort(descending=True)
    if (margin := (best.values[0] - best.values[1]).item()) < CLEAR_TOKEN:
        raise Unclear(f"a margin of {margin:.1e}")
    return best.indices[0].item()


@torch.no_grad()
def run_mtp(model: Golden, ids: list[int], hidden: torch.Tensor) -> torch.Tensor:
    """The layer's normed output at all positions, from their hidden states and the tokens after them."""
    base = model.model.model
    embeds = base.embed_tokens(torch.tensor([ids]))
    positions = torch.arange(len(ids))[None]
    mask = create_causal_mask(
        config=base.config,
        inputs_embeds=embeds,
        attention_mask=None,
        past_key_values=None,
        position_ids=positions,
        allow_is_causal_skip=False,
    )
    rotary = base.rotary_emb(embeds, position_ids=positions)
    return model.mtp(
        embeds, hidden[None], position_embeddings=rotary, attention_mask=mask, position_ids=positions, past_key_values=None
    )[0]


@torch.no_grad()
def draft(model: Golden, ids: list[int], hidden: torch.Tensor, depth: int) -> list[int]:
    """The tokens that are drafted to come after `ids`, given the main model's hidden states up to the last token but one.

    transformers has one MTP layer draft one token. For the ones after it, the layer runs again as a position of its own, with
    the token that it has drafted, and its own output after `post_norm` in place of the hidden state that does not exist yet.
    """
    next_ids, states, drafted = ids[1:], hidden[: len(ids) - 1], []
    for _ in range(depth):
        out = run_mtp(model, next_ids, states)[-1:]
        drafted.append(clear_argmax(model.model.lm_head(out)[0]))
        next_ids, states = [*next_ids, drafted[-1]], torch.cat([states, out])
    return drafted


@torch.no_grad()
def generate_by_transformers(model: Golden, prompt: list[int], new_tokens: int) -> tuple[list[int], list[dict]]:
    """`generate(use_mtp=True)`: the tokens, and each step's draft and verdict as transformers itself has them."""
    steps = []
    get_candidates, update = MTPCandidateGenerator.get_candidates, MTPCandidateGenerator.update_candidate_strategy

    def watched_candidates(self, input_ids, *args, **kwargs):
        candidate_ids, logits = get_candidates(self, input_ids, *args, **kwargs)
        known = input_ids.shape[1]
        steps.append({"known": known - len(prompt), "ids": candidate_ids[0, known:].tolist()})
        return candidate_ids, logits

    def watched_update(self, input_ids, scores, num_matches):
        steps[-1]["accepted"] = int(num_matches)
        return update(self, input_ids, scores, num_matches)

    with (
        # The folder that the model was loaded from is gone; the layer is still here.
        unittest.mock.patch.object(MtpModel, "from_pretrained", return_value=model.hf_mtp),
        unittest.mock.patch.object(MTPCandidateGenerator, "get_candidates", watched_candidates),
        unittest.mock.patch.object(MTPCandidateGenerator, "update_candidate_strategy", watched_update),
    ):
        out = model.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            use_mtp=True,
        )
    # The first step is the prompt's, and verifies nothing.
    return out[0, len(prompt) :].tolist(), steps[1:]


def generate_by_loop(drafts: list[list[int]], generated: list[int]) -> list[dict]:
    """The steps of the same loop at depth 1, for a model that transformers cannot generate with MTP for."""
    steps, known = [], 1
    while known < len(generated):
        accepted = int(drafts[known - 1][0] == generated[known])
        # transformers counts what becomes part of the output, which ends with the last token.
        steps.append({"known": known, "ids": drafts[known - 1][:1], "accepted": min(accepted, len(generated) - known - 1)})
        known += 1 + accepted
    return steps


def one_prompt(model: Golden, prompt: list[int], choices_matter: bool) -> dict:
    with closest_choice() as gap:
        generated = model.greedy(prompt, NEW_TOKENS)
        whole = prompt + generated
        hidden = model.model.model(torch.tensor([whole]), use_cache=False).last_hidden_state[0].detach()
        for position in range(len(prompt) - 1, len(whole) - 1):
            if clear_argmax(model.model.lm_head(hidden[position])) != whole[position + 1]:
                raise RuntimeError("generate and a full forward pass disagree")
        drafts = [draft(model, whole[: len(prompt) + known], hidden, DEPTH) for known in range(1, NEW_TOKENS)]
        steps = generate_by_loop(drafts, generated)
        if model.hf_mtp is not None:
            by_transformers, its_steps = generate_by_transformers(model, prompt, NEW_TOKENS)
            if by_transformers != generated:
                raise RuntimeError("generate with MTP and without disagree")
            if its_steps != steps:
                raise RuntimeError(f"transformers drafts otherwise than the loop: {its_steps} and {steps}")
            steps = its_steps
    if choices_matter and gap[0] < CLEAR_CHOICE:
        raise Unclear(f"a choice by {gap[0]:.1e}")
    steps = [[step["known"], *step["ids"], step["accepted"]] for step in steps]
    return {"ids": prompt, "generated": generated, "drafts": drafts, "steps": steps}


def compute(name: str, model: Golden, seed: int, choices_matter: bool = True) -> dict:
    """Everything about one checkpoint; of random prompts of each length the first on which all is clear."""
    entries = []
    for length in PROMPT_LENGTHS:
        for attempt in range(MAX_TRIES):
            random = Random(10_000 * seed + 100 * length + attempt)
            prompt = random.generator.integers(0, model.model.config.vocab_size, length).tolist()
            try:
                entry = one_prompt(model, prompt, choices_matter)
            except Unclear as reason:
                print(f"{name:16} {length} tokens, try {attempt}: {reason}")
                continue
            entries.append(entry)
            accepted = sum(step[-1] for step in entry["steps"])
            print(f"{name:16} {length} tokens, try {attempt}: {accepted} of {len(entry['steps'])} drafts accepted")
            break
        else:
            raise RuntimeError(f"{name}: no prompt of {length} tokens is clear; choose another seed")
    return {
        "magic": MAGIC,
        "version": VERSION,
        "case": name,
        "made_with": versions(),
        "steps_by": "transformers" if model.hf_mtp is not None else "loop",
        "prompts": entries,
    }


def write(found: dict, file: pathlib.Path):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def make(case: Case, folder: pathlib.Path):
    """Writes drafts.json of a case, if it has an MTP layer."""
    model = Golden(folder)
    if model.has_mtp:
        write(compute(case.name, model, case.seed), folder / "drafts.json")


def make_constructed(source: pathlib.Path, out: pathlib.Path):
    """Writes the files of the checkpoints that the tests construct. Their experts and indexers choose among equals."""
    for folder in sorted(source.iterdir()):
        write(compute(folder.name, Golden(folder), 1, choices_matter=False), out / f"{folder.name}.json")
