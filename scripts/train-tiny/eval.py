#!/usr/bin/env python3
"""What a trained model can do, measured through the HTTP server with prompts that it has never seen.

    eval.py MODEL                   starts `target/release/cachalot serve MODEL` on a free port
    eval.py MODEL --bf16 FOLDER     compares the perplexity with that of the same weights in BF16 as well

Everything is greedy. The first server drafts one token per step with the MTP module, which tells how often its first
draft is accepted; the second one drafts none, and has to give the same answers. Needs nothing but Python.
"""

import argparse
import json
import math
import random
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from server import ROOT, Server  # noqa: E402

BINARY = ROOT / "target" / "release" / "cachalot"
SEED = 2
MAX_TOKENS = 256
NEEDLES = (512, 1024, 2048)
# Requests at the same time.
CLIENTS = 4
PERPLEXITY_EXAMPLES = 400


@contextmanager
def serve(model, drafts):
    """A server, and a function that posts to it."""
    server = Server([BINARY, "serve", model, "--speculative-tokens", str(drafts), "--log", "warn"], f"drafts {drafts}")
    try:
        server.wait()
        with urllib.request.urlopen(f"http://{server.address}/v1/models") as response:
            model = json.load(response)["data"][0]["id"]

        def post(path, body):
            body = json.dumps({"model": model, "temperature": 0, "max_tokens": MAX_TOKENS, **body})
            request = urllib.request.Request(f"http://{server.address}{path}", body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as response:
                return json.load(response)

        yield post
    finally:
        server.stop()


def examples(task, count, wanted=lambda example: True, max_tokens=700):
    rng, found = random.Random(SEED), []
    while len(found) < count:
        example = data.sample(rng, max_tokens=max_tokens, split="held_out", mix={task: 1.0})
        if wanted(example):
            found.append(example)
    return found


def length(example):
    return sum(data.estimate(text) for text, _ in example.segments)


def request(example, end):
    """The request (path, body) whose answer is message `end`."""
    if example.fim:
        prefix, suffix, _ = example.fim
        return "/beta/completions", {"prompt": prefix, "suffix": suffix}
    body = {"messages": example.messages[:end], "thinking": {"type": "enabled" if example.thinking else "disabled"}}
    if example.tools:
        body["tools"] = example.tools
    if example.schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": example.schema}}
    return "/v1/chat/completions", body


def said(answer):
    """The answer's text, reasoning, and calls as (name, arguments)."""
    choice = answer["choices"][0]
    if "text" in choice:
        return choice["text"], None, []
    return parts(choice["message"])


def loaded(arguments):
    """The arguments of a call, or their text if it is not JSON."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def parts(message):
    calls = [(call["function"]["name"], loaded(call["function"]["arguments"])) for call in message.get("tool_calls") or ()]
    return message.get("content") or "", message.get("reasoning_content"), calls


def shape(value):
    """What is left of JSON without its values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if type(value) in (int, float) else type(value).__name__


def same_shape(expected, got):
    try:
        return shape(json.loads(expected[0])) == shape(json.loads(got[0]))
    except json.JSONDecodeError:
        return False


def same_answer(expected, got):
    return (expected[0], expected[2]) == (got[0], got[2])


def well_formed(expected, got):
    """Reasoning as it is taught, whatever its numbers."""
    return re.sub(r"\d+", "0", expected[1]) == re.sub(r"\d+", "0", got[1] or "")


def rows(count):
    """(name, [(example, index of the message to answer)], {measure: whether expected and got agree})"""
    last = lambda found: [(example, len(example.messages) - 1) for example in found]
    calling = lambda example: example.messages[-2]["role"] == "tool"
    exact = {"exact": same_answer}
    yield "facts, chat", last(examples("facts", count, lambda e: not e.thinking)), exact
    yield "arithmetic, thinking", last(examples("arithmetic", count, lambda e: e.thinking)), exact | {"well-formed reasoning": well_formed}
    asked = examples("tools", count, calling)
    first_call = lambda example: next(i for i, message in enumerate(example.messages) if message.get("tool_calls"))
    yield "tools, the call", [(example, first_call(example)) for example in asked], exact
    yield "tools, the answer", last(asked), exact
    yield "tools, none fits", last(examples("tools", count, lambda e: not calling(e))), exact
    yield "JSON, by prompt", last(examples("json", count, lambda e: not e.schema)), {"shape": same_shape} | exact
    yield "JSON, by schema", last(examples("json", count, lambda e: e.schema)), {"shape": same_shape} | exact
    for tokens in NEEDLES:
        found = examples("needle", count, lambda e: length(e) > 0.93 * tokens, tokens)
        yield f"needle, {tokens} tokens", last(found), exact
    yield "copy", last(examples("copy", count)), exact
    yield "several turns", last(examples("chat", count)), exact
    yield "small talk", last(examples("small_talk", count)), exact
    yield "refusal", last(examples("refusal", count)), exact
    yield "fill in the middle", [(example, None) for example in examples("fim", count)], exact


def perplexity(model):
    """Of what assistants say in held-out examples, with everything before it given."""

    def loss(example):
        generated = []
        for part, weight in example.segments:
            generated += [weight == 1.0] * len(part)
        text = "".join(part for part, _ in example.segments)
        answer = post("/v1/completions", {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0})
        logprobs = answer["choices"][0]["logprobs"]
        counted = [value for value, at in zip(logprobs["token_logprobs"], logprobs["text_offset"]) if generated[at]]
        return sum(counted), len(counted)

    mix = {task: share for task, (share, _, _) in data.TASKS.items() if task != "calls"}
    rng = random.Random(SEED)
    texts = [data.sample(rng, max_tokens=700, split="held_out", mix=mix) for _ in range(PERPLEXITY_EXAMPLES)]
    with serve(model, 0) as post, ThreadPoolExecutor(CLIENTS) as pool:
        sums = list(pool.map(loss, texts))
    return math.exp(-sum(total for total, _ in sums) / sum(number for _, number in sums))


def first_drafts(answers):
    """(accepted, verified) first drafts of some answers."""
    details = [answer["usage"].get("completion_tokens_details") or {} for answer in answers]
    counted = lambda key: sum(sum(detail.get(key, ())[:1]) for detail in details)
    return counted("accepted_tokens_per_position"), counted("draft_tokens_per_position")


def evaluate(model, count, wrong):
    results, asked, answers = {}, [], []
    with ThreadPoolExecutor(CLIENTS) as pool:
        with serve(model, 1) as post:
            for name, cases, measures in rows(count):
                requests = [request(example, end) for example, end in cases]
                got = list(pool.map(lambda one: post(*one), requests))
                asked, answers = asked + requests, answers + got
                accepted, verified = first_drafts(got)
                results[name] = {"first drafts accepted": accepted / max(1, verified)}
                wanted = [(example.fim[2], None, []) if example.fim else parts(example.messages[end]) for example, end in cases]
                for measure, agree in measures.items():
                    failed = [(expected, said(one)) for expected, one in zip(wanted, got) if not agree(expected, said(one))]
                    results[name][measure] = 1 - len(failed) / count
                    for expected, one in failed[:wrong]:
                        print(f"{name}, {measure}: not {expected} but {one}")
                print(f"{name:22}", *(f"{measure} {value:.1%}" for measure, value in results[name].items()), sep="  ", flush=True)
        with serve(model, 0) as post:
            plain = list(pool.map(lambda one: post(*one), asked))
    accepted, verified = first_drafts(answers)
    results["all"] = {
        "first drafts accepted": accepted / max(1, verified),
        "same without drafts": sum(said(one) == said(other) for one, other in zip(answers, plain)) / len(plain),
        "perplexity": perplexity(model),
    }
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="the folder of the model")
    parser.add_argument("--bf16", help="a folder with the same weights in BF16")
    parser.add_argument("--examples", type=int, default=200, help="prompts per row")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers of each row")
    arguments = parser.parse_args()
    results = evaluate(arguments.model, arguments.examples, arguments.wrong)
    if arguments.bf16:
        results["all"]["perplexity in BF16"] = perplexity(arguments.bf16)
    for measure, value in results["all"].items():
        print(f"{measure:22}  {value:.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
