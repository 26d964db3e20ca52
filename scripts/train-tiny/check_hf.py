#!/usr/bin/env python3
"""Compares model.py with HF transformers on an exported folder, in F32: main model (sparse) and MTP layer.

    check_hf.py FOLDER
"""

import argparse
import random
import sys
from pathlib import Path

import torch

from export import read
from model import make_batch

sys.path.append(str(Path(__file__).resolve().parent.parent / "golden"))
from hf import Golden


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    ours, theirs = read(folder), Golden(folder)
    rng, failed = random.Random(1), False
    for length in (5, 60, 150, 300):
        ids = [rng.randrange(ours.config.vocab_size) for _ in range(length)]
        batch = make_batch([(ids, [1.0] * length)], [(1, length)], length)
        with torch.no_grad():
            hidden, draft, _ = ours(batch, "sparse")
            main_log, draft_log = (ours.lm_head(x).log_softmax(-1) for x in (hidden, draft[:-1]))
        for what, a, b in (("main", main_log, theirs.log_probs(ids)), ("drafts", draft_log, theirs.mtp_log_probs(ids))):
            differences = (a - b).abs().amax(-1)
            # Equal scores of the indexer may be chosen from differently; they must be rare.
            other = (differences > 1e-3).float().mean().item()
            print(f"{length:4} tokens, {what}: median difference {differences.median():.1e}, {other:.1%} above 1e-3")
            failed |= other > 0.1
    sys.exit("model.py and transformers do not compute the same" if failed else 0)


if __name__ == "__main__":
    main()
