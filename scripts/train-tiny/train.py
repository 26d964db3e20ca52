#!/usr/bin/env python3
"""Trains the model within a given time and writes checkpoints.

    train.py FOLDER --minutes 90

FOLDER/tokenizer.json is the vocabulary (tokenizer.py). FOLDER/checkpoint.pt is what has been learned so far; the same
command goes on from there. Learning has three phases:
dense attention (most of the time); the indexers alone, which learn where dense attention looks; sparse attention to
what the indexers choose, with falling rates. `touch FOLDER/finish` begins the second phase now: the run ends TAIL
minutes later.
"""

import argparse
import math
import os
import random
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing

import data
import tokenizer as tokenizers
from model import Config, Model, make_batch, stored_weights
from optim import make_optimisers

# Minutes of the second and of the third phase.
INDEXER, SPARSE = 3, 17
TAIL = INDEXER + SPARSE
# Share of the examples, in the first half, that are repeated random tokens, and the tokens they are taken from.
REPEATS = 0.15
FIRST_WORD, LAST_WORD = 3, 2000


@dataclass(frozen=True)
class Settings:
    seed: int = 1
    tokens_per_step: int = 4096
    muon_lr: float = 0.015
    adam_lr: float = 0.002
    embedding_lr: float = 0.02
    warmup_steps: int = 100
    mtp_weight: float = 0.3
    bias_rate: float = 0.002
    clip: float = 1.0
    checkpoint_seconds: int = 300
    eval_seconds: int = 1500
    eval_examples: int = 16


def grouped(examples, tokens):
    """(examples by length, groups, examples that found no room): groups of rows whose lengths differ little."""
    examples = sorted(examples, key=lambda example: -len(example[0]))
    taken, groups, left, rest = [], [], tokens, []
    for example in examples:
        length = len(example[0])
        if groups and length > 0.88 * groups[-1][1] and groups[-1][1] <= left:
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
        elif length <= left:
            groups.append((1, length))
        else:
            rest.append(example)
            continue
        left -= groups[-1][1]
        taken.append(example)
    return taken, groups, rest


def room(rng, progress, sparse):
    """The most tokens of the next example. Short ones first: they teach copying, on which everything else builds."""
    if sparse:
        return rng.choices((700, 1100, 2100), (0.75, 0.2, 0.05))[0]
    if progress < 0.08:
        return 260
    return rng.choices((260, 700, 1100), (0.15, 0.75, 0.1))[0]


def repeats(rng):
    """Random tokens several times over. Every repetition can be predicted, so this teaches to copy faster than any text."""
    once = [rng.randrange(FIRST_WORD, LAST_WORD) for _ in range(rng.randint(4, 16))]
    times = rng.randint(2, 4)
    return once * times, [0.0] * len(once) + [1.0] * len(once) * (times - 1), "repeats"


def produce(out, progress, sparse, tokenizer_path, seed, tokens):
    """Endless batches, made in a process of its own."""
    torch.set_num_threads(1)
    tokenizer, rng, waiting = tokenizers.load(tokenizer_path), random.Random(seed), []
    mix = {task: share for task, (share, _, _) in data.TASKS.items()}
    mix["copy"] *= 2
    while True:
        while sum(len(ids) for ids, _, _ in waiting) < tokens:
            if rng.random() < (REPEATS if progress.value < 0.45 else 0.0):
                waiting.append(repeats(rng))
                continue
            example = data.sample(rng, max_tokens=room(rng, progress.value, sparse.value), split="train", mix=mix)
            ids, weights = data.encode(tokenizer, example)
            if len(ids) <= tokens // 2:
                waiting.append((ids, weights, example.task))
        taken, groups, waiting = grouped(waiting, tokens)
        out.put((taken, groups))


def held_out(tokenizer, settings):
    """Batches of held-out examples: [(examples, groups)]."""
    rng, by_task = random.Random(settings.seed), defaultdict(list)
    for task in data.TASKS:
        while len(by_task[task]) < settings.eval_examples:
            example = data.sample(rng, max_tokens=700, split="held_out", mix={task: 1.0})
            by_task[task].append((*data.encode(tokenizer, example), task))
    waiting, batches = [example for examples in by_task.values() for example in examples], []
    while waiting:
        taken, groups, waiting = grouped(waiting, settings.tokens_per_step)
        batches.append((taken, groups))
    return batches


@torch.no_grad()
def evaluate(model, batches, mode, tokens):
    """Per task: how many held-out answers are right token by token (each with the right ones before it). And the share
    of their tokens that the MTP layer drafts right."""
    right, count, drafted, drafts = defaultdict(int), defaultdict(int), 0, 0
    for examples, groups in batches:
        batch = make_batch([example[:2] for example in examples], groups, tokens)
        hidden, draft, _ = model(batch, mode)
        best = model.lm_head(hidden).argmax(-1).roll(1, 0)
        best_draft = model.lm_head(draft).argmax(-1).roll(2, 0)
        answer = batch.weights == 1
        good = (best == batch.ids) | ~answer
        drafted += (best_draft == batch.ids)[answer].sum().item()
        drafts += answer.sum().item()
        at, lengths = 0, [length for rows, length in groups for _ in range(rows)]
        for (_, _, task), length in zip(examples, lengths):
            right[task] += good[at : at + length].all().item()
            count[task] += 1
            at += length
    return {task: right[task] / count[task] for task in sorted(count)} | {"drafts": drafted / drafts}


def save(path, **state):
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="time for all phases, of all runs together")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint, finish, tokenizer = (arguments.folder / name for name in ("checkpoint.pt", "finish", "tokenizer.json"))
    settings = Settings()

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    context = multiprocessing.get_context("fork")
    progress, sparse = context.Value("d", 0.0), context.Value("b", 0)
    saved = torch.load(checkpoint, weights_only=False) if checkpoint.exists() else None
    step, used = (saved["step"], saved["used"]) if saved else (0, 0.0)
    batches = context.Queue(8)
    producer = context.Process(
        target=produce,
        args=(batches, progress, sparse, tokenizer, settings.seed + step, settings.tokens_per_step),
        daemon=True,
    )
    producer.start()

    torch.manual_seed(settings.seed + step)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model(Config(), torch.bfloat16)
    if saved:
        model.load_state_dict(saved["model"])
    model.to(device)
    optimisers = make_optimisers(model, settings.muon_lr, settings.adam_lr, settings.embedding_lr, torch.bfloat16)
    for optimiser, state in zip(optimisers, saved["optimisers"] if saved else ()):
        for group, old in zip(optimiser.param_groups, state["param_groups"]):
            old["base"] = group["base"]
        optimiser.load_state_dict(state)
    main_parameters = [p for name, p in model.named_parameters() if ".indexer." not in name]
    evaluation = held_out(tokenizers.load(tokenizer), settings)

    total = min(arguments.minutes * 60, saved["total"] if saved else math.inf)
    start = time.monotonic() - used
    mode = "dense"
    log = defaultdict(list)
    logged = evaluated = stored = time.monotonic()
    tokens_logged = 0
    while True:
        now = time.monotonic()
        used = now - start
        if finish.exists():
            finish.unlink()
            total = min(total, used + TAIL * 60)
        left = total - used
        if left <= 0:
            break
        mode = "dense" if left > TAIL * 60 else "indexer" if left > SPARSE * 60 else "sparse"
        progress.value, sparse.value = used / total, mode != "dense"
        # What the main model's rates, and the indexers', are multiplied with.
        rate = min(1.0, (step + 1) / settings.warmup_steps)
        indexer_rate = 0.0
        if mode == "indexer":
            rate, indexer_rate = 0.0, min(1.0, (left - SPARSE * 60) / (INDEXER * 30))
            indexer_rate = max(indexer_rate, 0.2)
        elif mode == "sparse":
            rate = left / (SPARSE * 60)
            indexer_rate = 0.2 * rate
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * (indexer_rate if group["name"] == "indexer" else rate)
        for parameter in main_parameters:
            parameter.requires_grad_(mode != "indexer")

        examples, groups = batches.get()
        batch = make_batch([example[:2] for example in examples], groups, settings.tokens_per_step).to(device)
        # From the third phase on, what is trained is what will be stored.
        with stored_weights(model) if mode == "sparse" else nullcontext():
            hidden, draft, indexer_loss = model(batch, mode)
            loss = indexer_loss
            if mode != "indexer":
                losses, at = model.loss(hidden, batch, 1)
                draft_losses, _ = model.loss(draft, batch, 2)
                loss = loss + losses.mean() + settings.mtp_weight * draft_losses.mean()
                log["loss"].append(losses.mean().item())
                log["mtp"].append(draft_losses.mean().item())
                task_losses(log, examples, groups, batch, losses.detach(), at)
            if mode != "dense":
                log["indexer"].append(float(indexer_loss.detach()))
            loss.backward()
        log["norm"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip).item())
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        for layer in model.moe_layers():
            if mode != "indexer":
                layer.balance(settings.bias_rate * rate)
        step += 1
        tokens_logged += int(batch.valid.sum())

        now = time.monotonic()
        if now - logged > 20:
            means = " ".join(f"{key} {sum(values) / len(values):.3f}" for key, values in log.items())
            speed = tokens_logged / (now - logged)
            print(f"{used / 60:5.1f} min, step {step}, {mode}, {speed:.0f} tokens/s, rate {rate:.3f}: {means}", flush=True)
            log.clear()
            logged, tokens_logged = now, 0
        if now - evaluated > settings.eval_seconds:
            report(model, evaluation, mode, settings)
            evaluated = time.monotonic()
        if now - stored > settings.checkpoint_seconds:
            write_checkpoint(checkpoint, model, optimisers, step, used, total)
            stored = now
    write_checkpoint(checkpoint, model, optimisers, step, used, total)
    report(model, evaluation, "sparse", settings)
    producer.terminate()


def report(model, evaluation, mode, settings):
    results = evaluate(model, evaluation, mode, settings.tokens_per_step)
    print("held out: " + ", ".join(f"{task} {share:.0%}" for task, share in results.items()), flush=True)


def write_checkpoint(path, model, optimisers, step, used, total):
    save(
        path,
        model=model.state_dict(),
        optimisers=[optimiser.state_dict() for optimiser in optimisers],
        config=model.config,
        step=step,
        used=used,
        total=total,
    )


def task_losses(log, examples, groups, batch, losses, at):
    """Adds the mean loss of every task to the log."""
    lengths = [length for rows, length in groups for _ in range(rows)]
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    tasks = sorted({example[2] for example in examples})
    of_row = torch.tensor([tasks.index(example[2]) for example in examples])
    of_token = of_row[row[at.cpu().clamp(max=len(row) - 1)]]
    for index, task in enumerate(tasks):
        if (mine := losses.cpu()[of_token == index]).numel():
            log[task].append(mine.mean().item())


if __name__ == "__main__":
    main()
