"""The `openai` package for Python: chat, thinking, tools, JSON, completions, responses, errors."""

import asyncio
import json
import math
import re
from typing import Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

import cases
from cases import case, equal, holds, note, raises, table
from contract import (
    CHAT,
    ENDLESS,
    KEY,
    KEYED_SERVER,
    LIMITED_SERVER,
    LOOSE_SWITCH,
    QUESTION,
    REASONER,
    SERVER,
    SWITCH,
    SWITCH_PARAMETERS,
    UUID,
    VERDICT_SCHEMA,
    WEATHER,
    WRONG_KEY,
    check_completion,
    check_instance,
    check_running,
    check_same_answer,
    count_prompt_tokens,
    gather_chunks,
)


def connect(path="/v1", server=SERVER, key="none", kind=OpenAI):
    return kind(base_url=f"{server}{path}", api_key=key, max_retries=0, timeout=60)


client = connect()
beta = connect("/beta")


def wire(request):
    """The request as it is sent."""
    return {**{key: value for key, value in request.items() if key != "extra_body"}, **request.get("extra_body", {})}


def ask(request, thinking=False, via=client):
    note("request", request)
    answer = via.chat.completions.create(**request)
    note("answer", answer)
    answer = answer.model_dump(exclude_unset=True)
    check_completion(answer, thinking)
    equal("model", answer["model"], request["model"])
    return answer


def ask_streamed(request, thinking=False, via=client):
    request = {"stream_options": {"include_usage": True}, **request, "stream": True}
    note("streamed request", request)
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in via.chat.completions.create(**request)]
    note("chunks", chunks)
    return gather_chunks(chunks, thinking, include_usage=bool(request["stream_options"]))


def ask_both_ways(request, thinking=False, via=client):
    """Asks with one seed, whole and streamed; both answers have to say the same."""
    request = {"seed": 7, "max_tokens": 160, **request}
    whole = ask(request, thinking, via)
    check_same_answer(whole, ask_streamed(request, thinking, via))
    equal("prompt_tokens", whole["usage"]["prompt_tokens"], count_prompt_tokens(wire(request)))
    return whole


THINK = {"extra_body": {"thinking": {"type": "enabled"}}}
# The extension that ends thoughts by force: what follows is an answer, whatever the model is like.
BRIEF_THOUGHTS = {"extra_body": {"thinking": {"type": "enabled"}, "thinking_token_budget": 12}}
HISTORY = [
    {"role": "system", "content": "You know whales."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! What would you like to know?"},
    *QUESTION,
]


@case("models")
def _():
    models = client.models.list().data
    names = [model.id for model in models]
    holds("both aliases listed", {CHAT, REASONER} <= set(names), names)
    holds("objects of the kind model", all(model.object == "model" and model.owned_by for model in models), names)


@table(
    "chat",
    [
        ("one message", {"messages": QUESTION}),
        ("system and history", {"messages": HISTORY}),
        ("developer for system", {"messages": [{"role": "developer", "content": "Be brief."}, *QUESTION]}),
        ("parts of text", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "海豚 🐬"}]}]}),
        ("names", {"messages": [{"role": "user", "name": "ada", "content": "Hello"}]}),
        ("greedy", {"messages": QUESTION, "temperature": 0, "max_tokens": 40}),
        ("sampling parameters", {"messages": QUESTION, "temperature": 1.5, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5}),
        ("max_completion_tokens", {"messages": QUESTION, "max_completion_tokens": 5, "max_tokens": openai.omit}),
        ("logit_bias", {"messages": QUESTION, "logit_bias": {"100": 5}}),
        ("stop strings", {"messages": QUESTION, "stop": ["e", "a", "\n"]}),
        (
            "fields that are ignored",
            {"messages": QUESTION, "user": "ada", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": False,
             "service_tier": "auto", "prompt_cache_key": "k", "extra_body": {"unheard_of": {"x": 1}}},
        ),
        ("user_id", {"messages": QUESTION, "extra_body": {"user_id": "team-1"}}),
        ("thinking off", {"messages": QUESTION, "extra_body": {"thinking": {"type": "disabled"}}}),
        ("effort none", {"messages": QUESTION, "reasoning_effort": "none"}),
        ("tool_choice none", {"messages": QUESTION, "tools": [WEATHER], "tool_choice": "none"}),
    ],
)
def _(request):
    answer = ask_both_ways({"model": CHAT, **request})
    if limit := request.get("max_completion_tokens"):
        holds(f"at most {limit} tokens", answer["usage"]["completion_tokens"] <= limit, answer)
    for stop in request.get("stop", ()):
        holds(f"no {stop!r} in the text", stop not in answer["choices"][0]["message"]["content"], answer)


@case("chat: cut off by max_tokens")
def _():
    answer = ask_both_ways({"model": CHAT, "messages": QUESTION, "max_tokens": 3, "extra_body": {"min_tokens": 3}})
    equal("finish_reason", answer["choices"][0]["finish_reason"], "length")
    equal("completion_tokens", answer["usage"]["completion_tokens"], 3)


@case("chat: several choices")
def _():
    request = {"model": CHAT, "messages": QUESTION, "n": 3, "seed": 7, "max_tokens": 20}
    answer = ask(request)
    equal("number of choices", len(answer["choices"]), 3)
    first = ask({**request, "n": 1})["choices"][0]
    equal("first choice of three and of one", answer["choices"][0]["message"], first["message"])


@case("chat: seeds reproduce")
def _():
    texts = [ask({"model": CHAT, "messages": QUESTION, "seed": seed, "max_tokens": 40})["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    equal("text of the same seed", texts[1], texts[0])
    holds("another text of another seed", texts[2] != texts[0], texts)


@case("chat: stream without include_usage")
def _():
    ask_streamed({"model": CHAT, "messages": QUESTION, "seed": 7, "stream_options": None})


@case("chat: request ids")
def _():
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=QUESTION, max_tokens=2)
    answer = raw.parse()
    holds("a request id", raw.request_id and answer._request_id == raw.request_id, raw.request_id)


@case("chat: the stream helper")
def _():
    request = {"model": CHAT, "messages": QUESTION, "seed": 7, "max_tokens": 60}
    note("request", request)
    with client.chat.completions.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    note("final", final)
    equal("text of the final completion", final.choices[0].message.content, text)
    equal("text of the whole answer", ask(request)["choices"][0]["message"]["content"], text)


@table(
    "thinking",
    [
        ("by model", {"model": REASONER}),
        ("by extra_body", {"model": CHAT, **THINK}),
        ("by extra_body, on the reasoner", {"model": REASONER, **THINK}),
        ("adaptive", {"model": CHAT, "extra_body": {"thinking": {"type": "adaptive"}}}),
        ("with an effort", {"model": REASONER, "reasoning_effort": "high"}),
        ("cut off", {"model": REASONER, "max_tokens": 5}),
        ("sampling parameters", {"model": REASONER, "temperature": 0.3, "top_p": 0.9}),
        ("a budget", {"model": CHAT, **BRIEF_THOUGHTS}),
        (
            "history with reasoning",
            {"model": REASONER, "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."},
                *QUESTION,
            ]},
        ),
        (
            "history without reasoning",
            {"model": REASONER, "messages": [
                {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}, *QUESTION,
            ]},
        ),
    ],
)
def _(request):
    answer = ask_both_ways({"messages": QUESTION, **request}, thinking=True)
    usage = answer["usage"]
    reasoning_tokens = usage["completion_tokens_details"]["reasoning_tokens"]
    if not answer["choices"][0]["message"]["content"]:
        return
    holds("the closing tag counted beside the reasoning", reasoning_tokens < usage["completion_tokens"], usage)


@case("thinking: off on the reasoner")
def _():
    ask_both_ways({"model": REASONER, "messages": QUESTION, "extra_body": {"thinking": {"type": "disabled"}}})


@case("thinking: reasoning_content is an attribute")
def _():
    request = {"model": REASONER, "messages": QUESTION, "seed": 7, "max_tokens": 40}
    message = client.chat.completions.create(**request).choices[0].message
    equal("attribute and model_extra", message.reasoning_content, message.model_extra["reasoning_content"])
    parts = [getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in client.chat.completions.create(**request, stream=True)]
    equal("reasoning of the stream", "".join(parts), message.reasoning_content)


@table("thinking: a budget ends it", [(str(budget), budget) for budget in (0, 1, 16)])
def _(budget):
    extra = {"thinking": {"type": "enabled"}, "thinking_token_budget": budget, "min_tokens": 40}
    answer = ask_both_ways({"model": CHAT, "messages": QUESTION, "max_tokens": 60, "extra_body": extra}, thinking=True)
    usage = answer["usage"]
    holds(f"at most {budget} tokens of reasoning", usage["completion_tokens_details"]["reasoning_tokens"] <= budget, usage)
    holds("content after the reasoning", answer["choices"][0]["message"]["content"], answer)


NAMED = {"type": "function", "function": {"name": "set_lamp"}}


@table(
    "tools",
    [
        ("required", {"tools": [WEATHER, SWITCH], "tool_choice": "required"}, None),
        ("named", {"tools": [WEATHER, SWITCH], "tool_choice": NAMED}, "set_lamp"),
        ("required, the only one", {"tools": [WEATHER], "tool_choice": "required"}, "get_weather"),
        ("required, not strict", {"tools": [LOOSE_SWITCH], "tool_choice": "required"}, "set_lamp_freely"),
        ("auto", {"tools": [WEATHER, SWITCH], "tool_choice": "auto"}, None),
        ("absent", {"tools": [WEATHER, SWITCH]}, None),
        (
            "allowed by parallel_tool_calls",
            {"tools": [WEATHER, SWITCH], "tool_choice": "required", "parallel_tool_calls": True, "seed": 3}, None,
        ),
    ],
)
def _(request, name):
    answer = ask_both_ways({"model": CHAT, "messages": QUESTION, "max_tokens": 600, **request})
    [choice] = answer["choices"]
    if request.get("tool_choice") in ("required", NAMED):
        equal("finish_reason", choice["finish_reason"], "tool_calls")
        equal("content beside calls", choice["message"]["content"], "")
    if name:
        names = {call["function"]["name"] for call in choice["message"]["tool_calls"]}
        equal("names of the calls", names, {name})


@table("tools, several seeds", [(str(seed), seed) for seed in range(6)])
def _(seed):
    request = {"model": CHAT, "messages": QUESTION, "tools": [WEATHER, SWITCH], "tool_choice": "required", "seed": seed}
    ask_both_ways({**request, "max_tokens": 600, "temperature": 2})


@case("tools: a function without parameters")
def _():
    tool = {"type": "function", "function": {"name": "now"}}
    request = {"model": CHAT, "messages": QUESTION, "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "now"}}}
    request |= {"max_tokens": 300, "seed": 7}
    note("request", request)
    answer = client.chat.completions.create(**request)
    note("answer", answer)
    [call, *_] = answer.choices[0].message.tool_calls
    equal("name", call.function.name, "now")
    equal("arguments", json.loads(call.function.arguments), {})


@case("tools: call, result, answer")
def _():
    request = {"model": CHAT, "messages": QUESTION, "tools": [WEATHER, SWITCH], "max_tokens": 600, "seed": 7}
    note("request", request)
    message = client.chat.completions.create(**request, tool_choice="required").choices[0].message
    note("message", message)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12 °C"} for call in message.tool_calls]
    # The SDK's own object goes back, as its guides show it.
    answer = client.chat.completions.create(**request | {"messages": [*QUESTION, message, *results], "max_tokens": 40})
    check_completion(answer.model_dump(exclude_unset=True), thinking=False)
    told = message.model_dump(exclude_unset=True)
    ask_both_ways({**request, "messages": [*QUESTION, told, *results], "max_tokens": 40})


def calls(*ids):
    function = {"name": "set_lamp", "arguments": '{"on": true}'}
    return [{"id": call_id, "type": "function", "function": function} for call_id in ids]


def result(call_id, text):
    return {"role": "tool", "tool_call_id": call_id, "content": text}


@case("tools: results in another order than their calls")
def _():
    turn = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": calls("a", "b")}]
    in_order = {"model": CHAT, "tools": [SWITCH], "max_tokens": 20, "messages": [*turn, result("a", "1"), result("b", "2")]}
    swapped = {**in_order, "messages": [*turn, result("b", "2"), result("a", "1")]}
    one, other = ask_both_ways(in_order), ask_both_ways(swapped)
    equal("answer", other["choices"][0]["message"], one["choices"][0]["message"])


@case("tools: a running turn with its reasoning")
def _():
    call = {"role": "assistant", "content": "", "reasoning_content": "The lamp, then.", "tool_calls": calls("a")}
    request = {"model": REASONER, "tools": [SWITCH], "messages": [*QUESTION, call, result("a", "done")], "max_tokens": 40}
    with_reasoning = ask_both_ways(request, thinking=True)
    empty = {**call, "reasoning_content": ""}
    without = ask_both_ways({**request, "messages": [*QUESTION, empty, result("a", "done")]}, thinking=True)
    holds(
        "the reasoning of the running turn in the prompt",
        with_reasoning["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"],
        [with_reasoning["usage"], without["usage"]],
    )


@case("tools: strict on /beta")
def _():
    request = {"model": CHAT, "messages": QUESTION, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 600}
    answer = ask_both_ways(request, via=beta)
    equal("finish_reason", answer["choices"][0]["finish_reason"], "tool_calls")


class Verdict(BaseModel):
    verdict: Literal["yes", "no", "unsure"]
    certain: bool


ASK_JSON = [{"role": "user", "content": "Is a whale a fish? Answer in JSON."}]
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT_SCHEMA, "strict": True}}


@table("JSON: an object", [(str(seed), seed) for seed in range(4)])
def _(seed):
    request = {"model": CHAT, "messages": ASK_JSON, "response_format": {"type": "json_object"}, "seed": seed, "max_tokens": 400}
    [choice] = ask_both_ways(request)["choices"]
    # An object may be as long as the model likes; one that was not cut off is whole.
    if choice["finish_reason"] == "stop":
        json.loads(choice["message"]["content"])


@table(
    "JSON: a schema",
    [
        ("strict", {"model": CHAT}, False),
        ("not strict", {"model": CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "v", "schema": VERDICT_SCHEMA}}}, False),
        ("temperature 2", {"model": CHAT, "temperature": 2}, False),
        ("after thoughts", {"model": CHAT, **BRIEF_THOUGHTS}, True),
    ],
)
def _(request, thinking):
    request = {"messages": ASK_JSON, "response_format": SCHEMA_FORMAT, "max_tokens": 200, **request}
    [choice] = ask_both_ways(request, thinking)["choices"]
    equal("finish_reason", choice["finish_reason"], "stop")
    check_instance(json.loads(choice["message"]["content"]), VERDICT_SCHEMA)


@case("JSON: the parse helper")
def _():
    request = {"model": CHAT, "messages": ASK_JSON, "seed": 7, "max_tokens": 200}
    note("request", request)
    answer = client.chat.completions.parse(**request, response_format=Verdict)
    note("answer", answer)
    parsed = answer.choices[0].message.parsed
    equal("class", type(parsed), Verdict)
    with client.chat.completions.stream(**request, response_format=Verdict) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.parsed
    equal("what the stream parsed to", streamed, parsed)


@case("tools: the parse helper")
def _():
    class Lamp(BaseModel):
        on: bool

    tool = openai.pydantic_function_tool(Lamp)
    request = {"model": CHAT, "messages": QUESTION, "seed": 7, "max_tokens": 300, "tools": [tool], "tool_choice": "required"}
    note("request", request)
    answer = client.chat.completions.parse(**request)
    note("answer", answer)
    [call, *_] = answer.choices[0].message.tool_calls
    equal("class of the parsed arguments", type(call.function.parsed_arguments), Lamp)


def token_text(entries):
    return b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace")


@table(
    "logprobs",
    [("without the likeliest", CHAT, None), ("the likeliest five", CHAT, 5), ("of the reasoning", REASONER, 2)],
)
def _(model, top):
    thinking = model == REASONER
    extra = {"thinking_token_budget": 8} if thinking else {}
    request = {"model": model, "messages": QUESTION, "logprobs": True, "seed": 7, "max_tokens": 30, "extra_body": extra}
    if top:
        request["top_logprobs"] = top
    answer = ask(request, thinking)
    [choice] = answer["choices"]
    lists, message = choice["logprobs"], choice["message"]
    count = len(lists["content"]) + len(lists["reasoning_content"] or ())
    # The token that ended generation has no text, but may have an entry.
    holds("an entry for each token", answer["usage"]["completion_tokens"] <= count <= answer["usage"]["completion_tokens"] + 1, count)
    for entry in [*lists["content"], *(lists["reasoning_content"] or ())]:
        holds("a log-probability", entry["logprob"] <= 0 and not math.isnan(entry["logprob"]), entry)
        equal("number of the likeliest", len(entry["top_logprobs"]), top or 0)
        likeliest = [other["logprob"] for other in entry["top_logprobs"]]
        equal("order of the likeliest", likeliest, sorted(likeliest, reverse=True))
    holds("tokens that make the text", token_text(lists["content"]).startswith(message["content"]), message["content"])
    if thinking:
        holds("tokens that make the reasoning", token_text(lists["reasoning_content"]).startswith(message["reasoning_content"]), lists)
    note("streamed", True)
    streamed = {"content": [], "reasoning_content": []}
    for chunk in client.chat.completions.create(**request, stream=True):
        part = chunk.choices[0].logprobs
        for name, entries in streamed.items():
            entries.extend((part.model_dump() if part else {}).get(name) or ())
    for name, entries in streamed.items():
        expected = [(entry["token"], entry["logprob"]) for entry in lists[name] or ()]
        equal(f"{name} of the stream", [(entry["token"], entry["logprob"]) for entry in entries], expected)


@table(
    "completions",
    [
        ("text", client, {"prompt": "Once upon a time"}),
        ("on /beta", beta, {"prompt": "Once upon a time"}),
        ("fill in the middle", beta, {"prompt": "def fib(n):\n", "suffix": "    return fib(n - 1) + fib(n - 2)\n"}),
        ("fill in the middle on /v1", client, {"prompt": "def fib(n):\n", "suffix": "\n    return a\n"}),
        ("an empty suffix", beta, {"prompt": "def fib(n):\n", "suffix": ""}),
        ("stop strings", beta, {"prompt": "def fib(n):\n", "suffix": "\n", "stop": ["e", "\n\n"]}),
        ("log-probabilities", client, {"prompt": "Once upon a time", "logprobs": 3}),
        ("echo", client, {"prompt": "Once upon a time", "echo": True}),
    ],
)
def _(via, request):
    request = {"model": CHAT, "max_tokens": 24, "seed": 7, **request}
    note("request", request)
    answer = via.completions.create(**request)
    note("answer", answer)
    equal("object", answer.object, "text_completion")
    [choice] = answer.choices
    holds("finish_reason", choice.finish_reason in ("stop", "length"), choice.finish_reason)
    usage = answer.usage
    equal("total_tokens", usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    if request.get("echo"):
        holds("the prompt first", choice.text.startswith(request["prompt"]), choice.text)
    if count := request.get("logprobs"):
        logprobs = choice.logprobs
        equal("lengths of the lists", {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.text_offset)}, {len(logprobs.tokens)})
        holds("the likeliest", all(len(entry) <= count + 1 for entry in logprobs.top_logprobs), logprobs.top_logprobs)
    chunks = list(via.completions.create(**request, stream=True))
    note("chunks", [chunk.model_dump(exclude_unset=True) for chunk in chunks])
    # Some clients index the first choice of every chunk.
    equal("choices in each chunk", {len(chunk.choices) for chunk in chunks}, {1})
    equal("text of the stream", "".join(chunk.choices[0].text for chunk in chunks), choice.text)
    equal("finish_reason of the stream", chunks[-1].choices[0].finish_reason, choice.finish_reason)


def continued(**message):
    return [*QUESTION, {"role": "assistant", "prefix": True, **message}]


@table(
    "prefix",
    [
        ("of the content", CHAT, {"content": "A sperm whale dives"}),
        ("of the content while thinking", REASONER, {"content": "It dives", "reasoning_content": "Deep."}),
        ("of the reasoning", REASONER, {"content": "", "reasoning_content": "The deepest dive"}),
    ],
)
def _(model, message):
    request = {"model": model, "messages": continued(**message), "max_tokens": 20, "seed": 7}
    note("request", request)
    answer = beta.chat.completions.create(**request)
    note("answer", answer)
    equal("prompt_tokens", answer.usage.prompt_tokens, count_prompt_tokens(request))
    text = answer.choices[0].message.content
    holds("only what is new", not message["content"] or not text.startswith(message["content"]), text)
    chunks = list(beta.chat.completions.create(**request, stream=True))
    equal("text of the stream", "".join(chunk.choices[0].delta.content or "" for chunk in chunks), text)


def forced(model, choice):
    return {"model": model, "messages": QUESTION, "tools": [SWITCH], "tool_choice": choice}


CALL_WITHOUT_REASONING = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": calls("a")}, result("a", "done")]


@table(
    "errors",
    [
        ("unknown model", {"model": "gpt-4o"}, "Model Not Exist", "model"),
        ("temperature", {"temperature": 3}, r"Invalid temperature value, the valid range of temperature is \[0, 2\]", "temperature"),
        ("top_p", {"top_p": 0}, r"Invalid top_p value, the valid range of top_p is \(0, 1\.0\]", "top_p"),
        ("max_tokens", {"max_tokens": 0}, r"Invalid max_tokens value, the valid range of max_tokens is \[1, \d+\]", "max_tokens"),
        ("presence_penalty", {"presence_penalty": 3}, "Invalid presence_penalty value", "presence_penalty"),
        ("context", {"messages": [{"role": "user", "content": "deep " * 20000}]}, "maximum context length is", None),
        ("no messages", {"messages": []}, "messages", "messages"),
        ("role", {"messages": [{"role": "judge", "content": "Hm"}]}, r"unknown variant `judge`, expected one of `system`, `user`, `assistant`, `tool`", None),
        (
            "image",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "unknown variant `image_url`, expected `text`", None,
        ),
        ("no content", {"messages": [{"role": "user"}]}, r"messages\[0\]: missing field `content`", "messages[0]"),
        ("type of a tool", {"tools": [{"type": "browser"}]}, "unknown variant `browser`, expected `function`", None),
        ("129 tools", {"tools": [SWITCH] * 129}, "128", "tools"),
        ("reasoning_effort", {"reasoning_effort": "huge"}, "unknown variant `huge`, expected one of `none`, `minimal`, `low`", None),
        ("required without tools", {"tool_choice": "required"}, "tool_choice", "tool_choice"),
        ("required while thinking", forced(REASONER, "required"), "does(?:n't| not) support this tool_choice|not support this tool_choice", "tool_choice"),
        ("named while thinking", forced(REASONER, NAMED), "not support this tool_choice", "tool_choice"),
        ("top_logprobs alone", {"top_logprobs": 2}, "logprobs must be set to true if top_logprobs is used", "top_logprobs"),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}, r"\[0, 20\]", "top_logprobs"),
        ("JSON without the word", {"response_format": {"type": "json_object"}}, "Prompt must contain the word 'json' in some form", "response_format"),
        ("stream_options without stream", {"stream_options": {"include_usage": True}}, "stream_options", "stream_options"),
        ("a call without a result", {"messages": CALL_WITHOUT_REASONING[:-1]}, "insufficient tool messages following tool_calls message", "messages[1]"),
        ("a result without a call", {"messages": [*QUESTION, result("a", "x")]}, "must be a response to a preceding message with 'tool_calls'", "messages[1]"),
        (
            "a running turn without reasoning",
            {"model": REASONER, "messages": CALL_WITHOUT_REASONING, "tools": [SWITCH]},
            r"Missing `reasoning_content` field in the assistant message at message index 1", "messages[1]",
        ),
        (
            "thinking after an answer",
            {"model": REASONER, "messages": [*QUESTION, {"role": "assistant", "content": "Deep.", "reasoning_content": ""}]},
            "The last message of deepseek-reasoner must be a user message", "messages[1]",
        ),
        ("user_id", {"extra_body": {"user_id": "a b"}}, "user_id", "user_id"),
        ("stop", {"stop": [str(number) for number in range(17)]}, "16", "stop"),
    ],
)
def _(request, message, param):
    request = {"model": CHAT, "messages": QUESTION, **request}
    note("request", request)
    for stream in (False, True):
        if stream and "stream_options" in request:
            continue
        error = raises(openai.BadRequestError, lambda: client.chat.completions.create(**request, stream=stream))
        holds(f"a message matching {message}", re.search(message, error.body["message"]), error.body)
        equal("type", error.type, "invalid_request_error")
        if param is not None:
            holds("the field at fault", (error.param or "").startswith(param), error.body)
        holds("a code", error.code, error.body)
        holds("a request id", error.request_id, error.response.headers)


@case("errors: key")
def _():
    for key, message in ((WRONG_KEY, r"Authentication Fails, Your api key: \*\*\*\*cdef is invalid"), ("", "Authentication Fails")):
        wrong = connect(server=KEYED_SERVER, key=key or "x")
        extra = {} if key else {"extra_headers": {"Authorization": openai.omit}}
        error = raises(openai.AuthenticationError, lambda: wrong.chat.completions.create(model=CHAT, messages=QUESTION, **extra))
        holds(f"a message matching {message}", re.search(message, error.body["message"]), error.body)
        equal("type", error.type, "authentication_error")
        raises(openai.AuthenticationError, lambda: wrong.models.list(**extra))
    answer = connect(server=KEYED_SERVER, key=KEY).chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=2)
    check_completion(answer.model_dump(exclude_unset=True), thinking=False)


@case("errors: too many requests")
def _():
    limited = connect(server=LIMITED_SERVER)

    def ask_twice():
        for _ in range(2):
            limited.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=1)

    error = raises(openai.RateLimitError, ask_twice)
    holds("Retry-After in seconds", 0 < int(error.response.headers["retry-after"]) <= 60, dict(error.response.headers))
    # Who only looks is not counted.
    limited.models.list()


@case("errors: no such route")
def _():
    error = raises(openai.NotFoundError, lambda: client.embeddings.create(model=CHAT, input="x", encoding_format="float"))
    holds("a message that names the path", "/v1/embeddings" in error.body["message"], error.body)


@case("abort: a stream that is closed frees its request")
def _():
    check_running(0)
    stream = client.chat.completions.create(model=CHAT, messages=QUESTION, stream=True, max_tokens=ENDLESS["max_tokens"], extra_body=ENDLESS)
    for _, _chunk in zip(range(3), stream):
        pass
    check_running(1)
    stream.close()
    check_running(0)


@case("abort: a whole answer that nobody waits for frees its request")
def _():
    check_running(0)
    impatient = OpenAI(base_url=f"{SERVER}/v1", api_key="none", max_retries=0, timeout=0.2)
    raises(openai.APITimeoutError, lambda: impatient.chat.completions.create(model=CHAT, messages=QUESTION, extra_body=ENDLESS))
    check_running(0)


@case("async: twelve at once, whole and streamed")
def _():
    async def one(via, seed):
        request = {"model": CHAT, "messages": QUESTION, "seed": seed, "max_tokens": 40}
        whole, stream = await asyncio.gather(via.chat.completions.create(**request), via.chat.completions.create(**request, stream=True))
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        equal(f"text of the stream with seed {seed}", text, whole.choices[0].message.content)
        return text

    async def all_of_them():
        async with connect(kind=AsyncOpenAI) as via:
            return await asyncio.gather(*(one(via, seed) for seed in range(12)))

    together = asyncio.run(all_of_them())
    alone = [ask({"model": CHAT, "messages": QUESTION, "seed": seed, "max_tokens": 40})["choices"][0]["message"]["content"] for seed in range(3)]
    equal("texts alone and in company", together[:3], alone)


if __name__ == "__main__":
    cases.main()
