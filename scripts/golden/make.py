"""Makes the golden fixtures: tiny checkpoints and what HF transformers computes from them. See README.md."""

import argparse
import dataclasses
import json
import math
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

import drafts
import prompts
import sensitivity
from cases import CASES, LARGE, Case, published_config
from choices import CLEAR_CHOICE, closest_choice
from hf import MODELS, Golden, versions
from weights import random_weights, write_published

MAGIC = "cachalot-golden"
VERSION = 1
TOP = 20
FIXTURES = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "golden"

# Below this top-1 margin two correct implementations may pick different tokens.
CLEAR_MARGIN = 0.05


def change(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest difference among the values that are stored."""
    values, ids = before.topk(TOP, dim=-1)
    return (values - after.gather(-1, ids)).abs().max().item()


def rounded(values: torch.Tensor) -> list:
    return [rounded(row) for row in values] if values.dim() > 1 else [round(value, 5) for value in values.tolist()]


def top(log_probs: torch.Tensor, count: int) -> dict:
    values, ids = log_probs.topk(count, dim=-1)
    return {"ids": ids.tolist(), "log_probs": rounded(values)}


def write_by_transformers(case: Case, folder: pathlib.Path):
    """Lets transformers write the checkpoint itself: its names, its config form, its shards."""
    published = published_config(case)
    cls = MODELS[published["model_type"]]
    # As if the model had been built in Python: only the keys that transformers knows, rope in its own form.
    known = {field.name for field in dataclasses.fields(cls.config_class)}
    rope = dict(published["rope_scaling"] or {"type": "default"})
    rope = {"rope_theta": float(published["rope_theta"]), "rope_type": rope.pop("type"), **rope}
    config = cls.config_class(**{key: value for key, value in published.items() if key in known}, rope_parameters=rope)
    source = folder.with_name(folder.name + ".source")
    config.save_pretrained(source)
    save_file(random_weights(case), source / "model.safetensors", metadata={"format": "pt"})
    model = cls.from_pretrained(source, dtype=getattr(torch, case.saved_by_transformers))
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    model.save_pretrained(folder, max_shard_size=size if case.shards == 1 else int(size * 1.1 / case.shards))
    shutil.rmtree(source)


def golden(case: Case, folder: pathlib.Path) -> dict:
    """Computes the golden values, and refuses a checkpoint on which f32 arithmetic alone is not enough to agree."""
    model, double = Golden(folder), Golden(folder, dtype=torch.float64)
    config = json.loads((folder / "config.json").read_text())
    entries, margins = [], []
    against_double = against_mtp_model = 0.0
    closest = math.inf
    for prompt in prompts.prompts(case.prompt_lengths, config["vocab_size"]):
        continuation = model.greedy(prompt, case.new_tokens)
        whole = prompt + continuation
        with closest_choice() as gap:
            log_probs = model.log_probs(whole)
            mtp = model.mtp_log_probs(whole) if model.has_mtp else None
        closest = min(closest, gap[0])
        best = log_probs[len(prompt) - 1 : -1].topk(2, dim=-1)
        margin = best.values[:, 0] - best.values[:, 1]
        margins += margin.tolist()
        # `generate` computes token by token from its cache, `log_probs` all at once.
        if best.indices[:, 0].tolist() != continuation:
            raise RuntimeError(f"{case.name}: generate and a full forward pass disagree")
        entry = {
            "ids": prompt,
            "top": top(log_probs[: len(prompt)], TOP if len(prompt) <= 100 else TOP // 2),
            "greedy": {"ids": continuation, "log_probs": rounded(best.values[:, 0]), "margins": rounded(margin)},
        }
        against_double = max(against_double, change(log_probs, double.log_probs(whole)))
        if model.has_mtp:
            entry["mtp"] = top(mtp[: len(prompt) - 1], TOP // 2)
            against_double = max(against_double, change(mtp, double.mtp_log_probs(whole)))
            if model.hf_mtp is not None:
                against_mtp_model = max(against_mtp_model, model.check_mtp(whole))
        entries.append(entry)
    clear = sum(margin > CLEAR_MARGIN for margin in margins)
    print(
        f"{case.name:16} f32 against f64 {against_double:.1e}, MTP against MtpModel {against_mtp_model:.1e}, "
        f"closest choice {closest:.1e}, clear greedy steps {clear}/{len(margins)}"
    )
    if max(against_double, against_mtp_model) > 5e-5 or closest < CLEAR_CHOICE or clear < 0.85 * len(margins):
        raise RuntimeError(f"{case.name}: two correct implementations could disagree here; choose another seed")
    return {
        "magic": MAGIC,
        "version": VERSION,
        "case": case.name,
        "stresses": case.stresses,
        "made_with": versions(),
        "seed": case.seed,
        "prompts": entries,
    }


def make(case: Case, folder: pathlib.Path):
    """Writes one fixture folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    if case.saved_by_transformers:
        write_by_transformers(case, folder)
    else:
        write_published(case, folder)
    text = json.dumps(golden(case, folder), separators=(",", ":"))
    (folder / "golden.json").write_text(text + "\n")
    drafts.make(case, folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="names of cases; all of them if none is named")
    parser.add_argument("--out", type=pathlib.Path, default=FIXTURES, help="where the case folders go")
    parser.add_argument("--large", type=pathlib.Path, metavar="TOKENIZER_FOLDER", help="make the case with the real vocabulary instead")
    parser.add_argument("--encode", type=pathlib.Path, metavar="TOKENIZER_JSON", help="only write prompts.json anew")
    parser.add_argument("--drafts", action="store_true", help="only write drafts.json anew")
    parser.add_argument("--constructed", type=pathlib.Path, metavar="FOLDER", help="only write the drafts of constructed checkpoints")
    parser.add_argument("--sensitivity", action="store_true", help="only print what each mistake would change")
    args = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # One thread: sums have one order, whatever the machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    if args.encode:
        prompts.encode(args.encode)
    elif args.constructed:
        drafts.make_constructed(args.constructed, FIXTURES.with_name("drafts"))
    elif args.large:
        folder = args.out / LARGE.name
        make(LARGE, folder)
        for file in args.large.glob("tokenizer*.json"):
            shutil.copy(file, folder)
    else:
        chosen = [case for case in CASES if not args.cases or case.name in args.cases]
        if unknown := set(args.cases) - {case.name for case in chosen}:
            parser.error(f"no such case: {', '.join(sorted(unknown))}")
        for case in chosen:
            if args.sensitivity:
                sensitivity.report(case, args.out / case.name)
            elif args.drafts:
                drafts.make(case, args.out / case.name)
            else:
                make(case, args.out / case.name)


if __name__ == "__main__":
    main()
