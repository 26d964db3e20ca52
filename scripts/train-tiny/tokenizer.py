#!/usr/bin/env python3
"""The tokenizer: DeepSeek V3.2's splits and control tokens over a vocabulary of 2048, learned from the generator's text.

    tokenizer.py PATH   writes tokenizer.json
"""

import math
import random
import re
import sys
from collections import Counter

import data
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB_SIZE = 2048
# Rows of the embedding that no token uses, as every published checkpoint has them.
UNUSED_ROWS = 14
SEED = 1
EXAMPLES = 60000
MIN_COUNT = 16
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
# (token, special): in the order of V3.2's tokenizer, whose last tokens they are. Only `<|EOT|>` is both special and
# normalized there; the other special ones are not normalized.
CONTROL_TOKENS = [
    ("｜DSML｜", True),
    ("<dsml:", False),
    ("</dsml:", False),
    ("<｜search▁begin｜>", False),
    ("<｜search▁end｜>", False),
    ("<think>", False),
    ("</think>", False),
    ("<｜fim▁hole｜>", False),
    ("<｜fim▁begin｜>", False),
    ("<｜fim▁end｜>", False),
    ("<｜User｜>", False),
    ("<｜Assistant｜>", False),
    ("<|EOT|>", True),
    ("<｜tool▁calls▁begin｜>", False),
    ("<｜tool▁calls▁end｜>", False),
    ("<｜tool▁call▁begin｜>", False),
    ("<｜tool▁call▁end｜>", False),
    ("<｜tool▁outputs▁begin｜>", False),
    ("<｜tool▁outputs▁end｜>", False),
    ("<｜tool▁output▁begin｜>", False),
    ("<｜tool▁output▁end｜>", False),
    ("<｜tool▁sep｜>", False),
]
WORDS = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+"
    "|\\s+(?!\\S)"
    "|\\s+"
)


def splits(digits):
    """The three splits of every DeepSeek V3 tokenizer: digits, runs of Chinese and Japanese, then words."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(digits), "isolated"),
            pre_tokenizers.Split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def words(split):
    """The words of examples of both splits, so that what is held out has whole words too.

    Each is given as often as the root of its count, so that the few words that fill most of the text do not take all
    the merges; rare ones are not given: they are random. A word counts as much at the beginning of a text as after a
    space, so that both are split alike and one can be copied as the other.
    """
    rng = random.Random(SEED)
    control = re.compile("|".join(re.escape(token) for token in (BOS, EOS, *(token for token, _ in CONTROL_TOKENS))))
    counts = Counter()
    # Prompts with tools are to be short, so all of them have the introduction here.
    mix = {task: share for task, (share, _, _) in data.TASKS.items() if task != "calls"}
    mix["tools"] *= 2
    for index in range(EXAMPLES):
        example = data.sample(rng, max_tokens=700, split=("train", "held_out")[index % 2], mix=mix)
        for text, _ in example.segments:
            for part in control.split(text):
                counts.update(part[start:end] for _, (start, end) in split.pre_tokenize_str(part))
    for word in list(counts):
        if word[0] == " " and word[1:].isalpha():
            counts[word] = counts[word[1:]] = counts[word] + counts[word[1:]]
    for word, number in sorted(counts.items()):
        if number >= MIN_COUNT:
            yield from [word] * math.isqrt(number)


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    # Digits apart while learning: no merge joins them, so each stays a token of its own.
    tokenizer.pre_tokenizer = splits("\\p{N}")
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - UNUSED_ROWS - len(CONTROL_TOKENS),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in (BOS, EOS, PAD)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(tokenizer.pre_tokenizer), trainer)
    tokenizer.pre_tokenizer = splits("\\p{N}{1,3}")
    for token, special in CONTROL_TOKENS:
        normalized = not special or token == "<|EOT|>"
        added = AddedToken(token, normalized=normalized, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE - UNUSED_ROWS, tokenizer.get_vocab_size()
    return tokenizer


def load(path):
    return Tokenizer.from_file(str(path))


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(train().to_str(pretty=False) + "\n")
