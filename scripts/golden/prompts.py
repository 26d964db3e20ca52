"""The texts behind the prompts, and how prompts.json was made of them."""

import json
import pathlib

FILE = pathlib.Path(__file__).parent / "prompts.json"

TEXTS = [
    "The sperm whale dives deepest.",
    "A tide table is a promise about water. The harbour master copies it out each winter, column by column, and pins it beside "
    "the door where the fishermen wipe their boots. 潮水每天晚来五十分钟。By spring the page is grey with thumbs, and nobody looks at it, "
    "because everybody knows it: 06:12, 12:31, 18:47.",
    "def merge(left, right):\n    out, i, j = [], 0, 0\n    while i < len(left) and j < len(right):\n        if left[i] <= right[j]:\n"
    "            out.append(left[i]); i += 1\n        else:\n            out.append(right[j]); j += 1\n    return out + left[i:] + right[j:]\n\n"
    "Why is this merge stable? Because on equal keys it takes from the left first, and the left half came first in the input. "
    "一个排序算法是稳定的，当且仅当相等的元素保持原来的先后次序。 Suppose now that the halves are swapped by mistake: every comparison still "
    "succeeds, the output is still sorted, and no test that looks at the keys alone will ever notice. Mathematically, a stable sort "
    "refines the preorder $x \\preceq y$ into the total order $(x, i) < (y, j)$, so its result is unique; an unstable one may return "
    "any of $\\prod_k n_k!$ answers. 🐋 Übrigens: ß is two bytes, and so is é.",
]


def encode(tokenizer: pathlib.Path):
    """Writes prompts.json: the texts as ids of the V3.2 tokenizer, each after the begin-of-sequence token 0."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer))
    ids = [[0, *tokenizer.encode(text, add_special_tokens=False).ids] for text in TEXTS]
    FILE.write_text(json.dumps(ids, separators=(",", ":")) + "\n")


def prompts(lengths: tuple[int, ...], vocab_size: int) -> list[list[int]]:
    """The prompts, cut to `lengths`; a vocabulary smaller than the tokenizer's takes the ids modulo its size."""
    cut = []
    for ids, length in zip(json.loads(FILE.read_text()), lengths, strict=True):
        if len(ids) < length:
            raise ValueError(f"a prompt of {length} tokens is wanted, the text has {len(ids)}")
        cut.append([token % vocab_size for token in ids[:length]])
    return cut
