"""LiteLLM with its provider `deepseek`: completion and its async form, thinking, tools, JSON, errors, prefix and text completion."""

import asyncio
import json
import re
from typing import Literal

import litellm
from pydantic import BaseModel

import cases
from cases import case, equal, holds, note, raises, table
from contract import (
    CHAT,
    ENDLESS,
    KEY,
    KEYED_SERVER,
    LOOSE_SWITCH,
    QUESTION,
    REASONER,
    SERVER,
    SWITCH,
    VERDICT_SCHEMA,
    WEATHER,
    WRONG_KEY,
    check_arguments,
    check_instance,
    check_running,
    count_prompt_tokens,
)

litellm.telemetry = False
litellm.suppress_debug_info = True

# Where the provider goes by itself is `…/beta`; here it is the same path of the server under test.
CONNECTION = {"api_base": f"{SERVER}/beta", "api_key": "none", "num_retries": 0, "max_retries": 0, "timeout": 60}


def complete(request):
    request = {"model": CHAT, "messages": QUESTION, "max_tokens": 120, "seed": 7, **CONNECTION, **request}
    return request | {"model": f"deepseek/{request['model']}"}


def check_usage(usage, thinking):
    equal("total_tokens", usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    equal("cache hits and misses together", usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, usage.prompt_tokens)
    equal("cached_tokens", usage.prompt_tokens_details.cached_tokens, usage.prompt_cache_hit_tokens)
    if thinking:
        reasoning = usage.completion_tokens_details.reasoning_tokens
        holds("reasoning tokens within the completion", 0 <= reasoning <= usage.completion_tokens, usage)


def summary(answer):
    """What a whole answer and a stream put together have to agree on."""
    [choice] = answer.choices
    message = choice.message
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [(call.function.name, call.function.arguments) for call in message.tool_calls or ()],
        "finish_reason": choice.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
    }


def ask_both_ways(request, thinking=False):
    request = complete(request)
    note("request", {key: value for key, value in request.items() if key not in CONNECTION})
    whole = litellm.completion(**request)
    note("whole", whole)
    check_usage(whole.usage, thinking)
    chunks = list(litellm.completion(**request, stream=True, stream_options={"include_usage": True}))
    note("chunks", [chunk.model_dump(exclude_none=True) for chunk in chunks])
    streamed = litellm.stream_chunk_builder(chunks, messages=request["messages"])
    note("streamed", streamed)
    equal("stream put together", summary(streamed), summary(whole))
    message = whole.choices[0].message
    equal("reasoning_content present", getattr(message, "reasoning_content", None) is not None, thinking)
    return whole


@table(
    "chat",
    [
        ("one message", {}),
        ("history", {"messages": [{"role": "system", "content": "You know whales."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}, *QUESTION]}),
        ("content lists, which it makes strings of", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "海豚 🐬"}]}]}),
        ("greedy", {"temperature": 0}),
        ("stop", {"stop": ["e"]}),
        ("on /v1", {"api_base": f"{SERVER}/v1"}),
        ("without a path", {"api_base": SERVER}),
        ("max_completion_tokens", {"max_completion_tokens": 9}),
        ("penalties", {"presence_penalty": 0.5, "frequency_penalty": 0.5, "top_p": 0.9}),
    ],
)
def _(request):
    answer = ask_both_ways(request)
    messages = request.get("messages", QUESTION)
    equal("prompt_tokens", answer.usage.prompt_tokens, count_prompt_tokens({"model": CHAT, "messages": messages}))


@table(
    "thinking",
    [
        ("by model", {"model": REASONER}),
        ("by the parameter", {"thinking": {"type": "enabled"}}),
        ("its budget is not sent", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("by an effort", {"reasoning_effort": "high"}),
        ("ended by a budget of the server", {"thinking": {"type": "enabled"}, "extra_body": {"thinking_token_budget": 10, "min_tokens": 30}}),
    ],
)
def _(request):
    answer = ask_both_ways(request, thinking=True)
    if "extra_body" in request:
        holds("content after the reasoning", answer.choices[0].message.content, answer)


@table("thinking off", [("effort none", {"model": REASONER, "reasoning_effort": "none"}), ("disabled", {"model": REASONER, "thinking": {"type": "disabled"}})])
def _(request):
    ask_both_ways(request)


@case("thinking: reasoning in the history, and a space where there was none")
def _():
    call = {"id": "call_1", "type": "function", "function": {"name": "set_lamp", "arguments": '{"on": true}'}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    for reasoning in ({"reasoning_content": "The lamp, then."}, {}):
        messages = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call], **reasoning}, result]
        ask_both_ways({"model": REASONER, "messages": messages, "tools": [SWITCH], "thinking": {"type": "enabled"}}, thinking=True)


@table(
    "tools",
    [
        ("required", {"tools": [WEATHER, SWITCH], "tool_choice": "required"}),
        ("by name", {"tools": [WEATHER, SWITCH], "tool_choice": {"type": "function", "function": {"name": "set_lamp"}}}),
        ("not strict", {"tools": [LOOSE_SWITCH], "tool_choice": "required"}),
        ("tools that it drops", {"tools": [{"type": "web_search"}, SWITCH], "tool_choice": "required"}),
    ],
)
def _(request):
    answer = ask_both_ways({"max_tokens": 500, **request})
    [choice] = answer.choices
    equal("finish_reason", choice.finish_reason, "tool_calls")
    for call in choice.message.tool_calls:
        check_arguments(call.function.name, call.function.arguments)


@case("tools: call, result, answer")
def _():
    request = complete({"tools": [WEATHER, SWITCH], "max_tokens": 500})
    message = litellm.completion(**request, tool_choice="required").choices[0].message
    note("message", message)
    results = [{"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "12 °C"} for call in message.tool_calls]
    # The library's own object goes back, as its guides show it.
    ask_both_ways({"tools": [WEATHER, SWITCH], "messages": [*QUESTION, message, *results]})


class Verdict(BaseModel):
    verdict: Literal["yes", "no", "unsure"]
    certain: bool


ASK_JSON = [{"role": "user", "content": "Is a whale a fish? Answer in JSON."}]


@case("JSON: an object")
def _():
    [choice] = ask_both_ways({"messages": ASK_JSON, "response_format": {"type": "json_object"}, "max_tokens": 400}).choices
    if choice.finish_reason == "stop":
        json.loads(choice.message.content)


@case("JSON: a schema")
def _():
    response_format = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT_SCHEMA, "strict": True}}
    [choice] = ask_both_ways({"messages": ASK_JSON, "response_format": response_format, "max_tokens": 300}).choices
    check_instance(json.loads(choice.message.content), VERDICT_SCHEMA)


@case("prefix: an answer is continued, as aider does it")
def _():
    answer = ask_both_ways({"messages": [*QUESTION, {"role": "assistant", "content": "A sperm whale dives", "prefix": True}]})
    holds("only what is new", not answer.choices[0].message.content.startswith("A sperm"), answer)


@case("text completion: fill in the middle")
def _():
    # Its text completion for a server of OpenAI's form: the provider for DeepSeek has none.
    request = {"model": f"text-completion-openai/{CHAT}", "prompt": "def fib(n):\n", "suffix": "\n    return a\n", "max_tokens": 16, "seed": 7, **CONNECTION}
    note("request", request)
    answer = litellm.text_completion(**request)
    note("answer", answer)
    parts = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**request, stream=True)]
    equal("text of the stream", "".join(parts), answer.choices[0].text)


@table(
    "errors",
    [
        # It goes by the code in the body, which is the hosted API's, and not by the status.
        ("key", {"api_base": f"{KEYED_SERVER}/beta", "api_key": WRONG_KEY}, litellm.BadRequestError, "Authentication Fails"),
        ("model", {"model": "gpt-4o"}, litellm.BadRequestError, "Model Not Exist"),
        ("temperature", {"temperature": 3}, litellm.BadRequestError, "Invalid temperature value"),
        ("context", {"messages": [{"role": "user", "content": "deep " * 20000}]}, litellm.ContextWindowExceededError, "maximum context length"),
        ("JSON without the word", {"response_format": {"type": "json_object"}}, litellm.BadRequestError, "must contain the word 'json'"),
        ("a forced call while thinking", {"model": REASONER, "tools": [SWITCH], "tool_choice": "required"}, litellm.BadRequestError, "not support this tool_choice"),
    ],
)
def _(request, kind, message):
    request = complete(request)
    note("request", {key: value for key, value in request.items() if key not in CONNECTION})
    for stream in (False, True):
        error = raises(kind, lambda: litellm.completion(**request, stream=stream))
        holds(f"a message matching {message}", re.search(message, str(error)), str(error))


@case("a key that is right")
def _():
    ask_both_ways({"api_base": f"{KEYED_SERVER}/beta", "api_key": KEY})


@case("abort: a stream that is left frees its request")
def _():
    async def leave():
        stream = await litellm.acompletion(**complete({"max_tokens": ENDLESS["max_tokens"], "extra_body": ENDLESS}), stream=True)
        count = 0
        async for _ in stream:
            count += 1
            if count == 3:
                break
        check_running(1)
        # The end of the loop that it runs in ends its connection too.

    check_running(0)
    asyncio.run(leave())
    check_running(0)


@case("async: eight at once, whole and streamed")
def _():
    async def one(seed):
        request = complete({"seed": seed, "max_tokens": 40})
        whole, stream = await asyncio.gather(litellm.acompletion(**request), litellm.acompletion(**request, stream=True))
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        equal(f"text of the stream with seed {seed}", text, whole.choices[0].message.content)

    async def all_of_them():
        await asyncio.gather(*(one(seed) for seed in range(8)))

    asyncio.run(all_of_them())


if __name__ == "__main__":
    cases.main()
