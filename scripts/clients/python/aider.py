"""Aider's requests, replayed: an answer that was cut off is continued by sending its beginning back with `prefix`."""

import json

import cases
from cases import case, equal, holds, note, table
from contract import CHAT, REASONER, check_completion, count_prompt_tokens, gather_chunks, post, stream_chunks

MESSAGES = [
    {"role": "system", "content": "Answer with SEARCH/REPLACE blocks."},
    {"role": "user", "content": "I have *added these files to the chat*:\n\nmain.py\n```\nx = 1\n```"},
    {"role": "assistant", "content": "Ok, any changes I propose will be to those files."},
    {"role": "user", "content": "Rename x to y."},
]


def ask(path, **body):
    note("request", body)
    status, _, text = post(path, body)
    note("answer", text)
    equal("status", status, 200)
    return json.loads(text)


@table("an answer in pieces", [(path, path) for path in ("/beta/chat/completions", "/beta/v1/chat/completions", "/v1/chat/completions")])
def _(path):
    whole = ask(path, model=CHAT, messages=MESSAGES, temperature=0, max_tokens=24, min_tokens=24)
    text = whole["choices"][0]["message"]["content"]
    equal("finish_reason", whole["choices"][0]["finish_reason"], "length")
    for _ in range(3):
        messages = [*MESSAGES, {"role": "assistant", "content": text, "prefix": True}]
        answer = ask(path, model=CHAT, messages=messages, temperature=0, max_tokens=8, min_tokens=8)
        equal("prompt_tokens", answer["usage"]["prompt_tokens"], count_prompt_tokens({"model": CHAT, "messages": messages}))
        more = answer["choices"][0]["message"]["content"]
        holds("only what is new", more and not more.startswith(text), more)
        text += more


@case("an answer in pieces, by stream")
def _():
    messages = [*MESSAGES, {"role": "assistant", "content": "main.py\n<<<<<<< SEARCH\n", "prefix": True}]
    body = {"model": CHAT, "messages": messages, "temperature": 0, "max_tokens": 16, "stream": True}
    note("request", body)
    streamed = gather_chunks(stream_chunks("/beta/chat/completions", body), thinking=False, include_usage=False)
    whole = ask("/beta/chat/completions", **body | {"stream": False})
    equal("content", streamed["choices"][0]["message"]["content"], whole["choices"][0]["message"]["content"])


@case("the beginning has no end-of-sequence token after it")
def _():
    ended = [*MESSAGES, {"role": "assistant", "content": "Ok"}]
    open_ended = [*MESSAGES, {"role": "assistant", "content": "Ok", "prefix": True}]
    counts = [count_prompt_tokens({"model": CHAT, "messages": messages}) for messages in (ended, open_ended)]
    equal("tokens fewer", counts[0] - counts[1], 1)


@case("the reasoner's turns alternate")
def _():
    answer = ask("/v1/chat/completions", model=REASONER, messages=MESSAGES, max_tokens=24)
    check_completion(answer, thinking=True)


if __name__ == "__main__":
    cases.main()
