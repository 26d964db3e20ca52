"""Continue's requests, replayed: fill in the middle by stream, as its autocompletion asks for it, and its chat."""

import json

import cases
from cases import case, equal, holds, note, table
from contract import CHAT, KEY, KEYED_SERVER, QUESTION, REASONER, gather_chunks, post, stream_chunks

PATH = "/beta/completions"
# It takes sixteen at most from its own list.
STOP = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "/src/", "#- coding: utf-8", "```", "\r\n\r\n"]


def fill_in(**more):
    return {
        "model": CHAT,
        "prompt": "# main.py\ndef fibonacci(n):\n    ",
        "suffix": "\n    return a\n",
        "max_tokens": 32,
        "temperature": 0.01,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "stop": STOP,
        "stream": True,
        **more,
    }


@table(
    "fill in the middle",
    [
        ("between two texts", {}),
        ("at the end of a file", {"suffix": ""}),
        ("at the beginning of a file", {"prompt": ""}),
        ("one line", {"stop": ["\n"]}),
        ("typed control tokens", {"prompt": "a = '<｜fim▁hole｜>'\n", "suffix": "<｜fim▁end｜>"}),
        ("beyond ASCII", {"prompt": "# 斐波那契 🐬\n"}),
    ],
)
def _(more):
    body = fill_in(seed=7, **more)
    note("request", body)
    chunks = stream_chunks(PATH, body, {"Authorization": "Bearer none"})
    # It reads the first choice of each chunk without a look at whether there is one.
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    equal("object", {chunk["object"] for chunk in chunks}, {"text_completion"})
    text = "".join(texts)
    holds("no stop string in the text", not any(stop in text for stop in body["stop"]), text)
    holds("a reason to finish", chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length"), chunks[-1])
    status, _, answer = post(PATH, body | {"stream": False})
    note("whole answer", answer)
    equal("status", status, 200)
    answer = json.loads(answer)
    equal("text of the whole answer", answer["choices"][0]["text"], text)
    usage = answer["usage"]
    equal("total_tokens", usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])


@case("fill in the middle: the prompt is prefix, suffix and four markers")
def _():
    _, _, filled = post(PATH, fill_in(stream=False, prompt="x = ", suffix="\ny = x", max_tokens=1))
    note("answer", filled)
    begin_of_sequence = 0
    tokens = [json.loads(post("/tokenize", {"prompt": text})[2])["tokens"] for text in ("x = ", "\ny = x")]
    num_text = sum(token != begin_of_sequence for token in tokens[0] + tokens[1])
    # The beginning of the sequence, and the marks of begin, hole and end.
    equal("prompt_tokens", json.loads(filled)["usage"]["prompt_tokens"], num_text + 4)


@case("fill in the middle: keys")
def _():
    for headers, expected in (({"Authorization": f"Bearer {KEY}"}, 200), ({}, 401)):
        status, _, text = post(PATH, fill_in(stream=False), headers, KEYED_SERVER)
        note("answer", text)
        equal("status", status, expected)


@case("chat: a history whose reasoning is empty")
def _():
    call = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "nothing"},
    ]
    body = {"model": REASONER, "messages": messages, "max_tokens": 24, "stream": True}
    note("request", body)
    gather_chunks(stream_chunks("/v1/chat/completions", body), thinking=True, include_usage=False)


@case("chat: a history without reasoning is refused in the words that it looks for")
def _():
    call = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    messages = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]
    status, _, text = post("/v1/chat/completions", {"model": REASONER, "messages": messages, "stream": True})
    note("answer", text)
    equal("status", status, 400)
    expected = (
        "Missing `reasoning_content` field in the assistant message at message index 1. For more information, please refer to "
        "https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
    )
    equal("message", json.loads(text)["error"]["message"], expected)


if __name__ == "__main__":
    cases.main()
