"""The `anthropic` package for Python: messages, its stream helper, thinking, tools, counting, errors."""

import asyncio
import re

import anthropic
from anthropic import Anthropic, AsyncAnthropic, omit

import cases
from anthropic_contract import (
    LAMP_TOOL,
    TIMER_TOOL,
    check_message,
    check_same_message,
    gather_events,
    num_prompt_tokens,
)
from cases import case, equal, holds, note, raises, table
from contract import CHAT, ENDLESS, KEY, KEYED_SERVER, LIMITED_SERVER, QUESTION, REASONER, SERVER, WRONG_KEY, check_running


def connect(server=SERVER, kind=Anthropic, **key):
    return kind(base_url=f"{server}/anthropic", max_retries=0, timeout=60, **(key or {"api_key": "none"}))


client = connect()
# The seed is an extension of the server.
SEED = {"seed": 7}
THINKING = {"type": "enabled", "budget_tokens": 1024}
CACHED = {"cache_control": {"type": "ephemeral"}}


def complete(request):
    return {"model": CHAT, "max_tokens": 60, "messages": QUESTION, "extra_body": SEED, **request}


def ask(request, thinking=False, via=client):
    request = complete(request)
    note("request", request)
    message = via.messages.create(**request)
    note("message", message)
    message = message.model_dump(exclude_unset=True)
    check_message(message, thinking)
    return message


def ask_streamed(request, thinking=False):
    """The message that the raw events make."""
    request = complete(request)
    note("streamed request", request)
    events = [event.model_dump(exclude_unset=True) for event in client.messages.create(**request, stream=True)]
    note("events", events)
    return gather_events([(event["type"], event) for event in events], thinking)


def ask_by_helper(request, thinking=False):
    """The message that the SDK's helper accumulates."""
    request = complete(request)
    note("request to the helper", request)
    with client.messages.stream(**request) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message().model_dump(exclude_unset=True)
    note("events of the helper", kinds)
    note("final message", message)
    check_message(message, thinking)
    return message


def ask_in_all_ways(request, thinking=False):
    """Asks with one seed, whole, streamed and by the helper; all have to say the same."""
    message = ask(request, thinking)
    for streamed in (ask_streamed(request, thinking), ask_by_helper(request, thinking)):
        check_same_message(message, streamed)
    counted = {key: value for key, value in complete(request).items() if key in ("model", "messages", "system", "tools", "thinking")}
    count = client.messages.count_tokens(**counted)
    note("count", count)
    equal("prompt tokens", num_prompt_tokens(message["usage"]), count.input_tokens)
    return message


@table(
    "messages",
    [
        ("one", {}),
        ("a system text", {"system": "You know whales."}),
        ("system blocks with cache_control", {"system": [{"type": "text", "text": "You know whales.", **CACHED}, {"type": "text", "text": "Be brief."}]}),
        ("blocks with cache_control", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello 海豚 🐬", **CACHED}]}]}),
        ("history", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}, *QUESTION]}),
        # The package has no parameters for these any more.
        ("temperature 0", {"extra_body": {**SEED, "temperature": 0}}),
        ("top_p and top_k", {"extra_body": {**SEED, "top_p": 0.9, "top_k": 40}}),
        ("another model's name", {"model": "claude-sonnet-4-5"}),
        ("metadata and service tier", {"metadata": {"user_id": "ada"}, "service_tier": "auto"}),
        ("tool_choice none", {"tools": [LAMP_TOOL], "tool_choice": {"type": "none"}}),
        ("tool_choice auto", {"tools": [LAMP_TOOL], "tool_choice": {"type": "auto"}}),
        ("thinking disabled", {"model": REASONER, "thinking": {"type": "disabled"}}),
    ],
)
def _(request):
    ask_in_all_ways(request)


@case("messages: cut off by max_tokens")
def _():
    message = ask_in_all_ways({"max_tokens": 1})
    equal("stop_reason", message["stop_reason"], "max_tokens")
    equal("output_tokens", message["usage"]["output_tokens"], 1)


@case("messages: stop sequences")
def _():
    text = ask({})["content"][0]["text"]
    stop = text[len(text) // 2]
    message = ask_in_all_ways({"stop_sequences": [stop]})
    equal("stop_reason", message["stop_reason"], "stop_sequence")
    equal("stop_sequence", message["stop_sequence"], stop)
    equal("text", "".join(block["text"] for block in message["content"]), text[: text.index(stop)])


@case("messages: an answer that the client begins")
def _():
    ask_in_all_ways({"messages": [*QUESTION, {"role": "assistant", "content": "A sperm whale dives"}]})


@table(
    "thinking",
    [
        ("enabled", {"thinking": THINKING, "max_tokens": 1100}),
        ("adaptive", {"thinking": {"type": "adaptive"}}),
        ("by model", {"model": REASONER}),
        ("with tools", {"thinking": THINKING, "max_tokens": 1100, "tools": [LAMP_TOOL]}),
    ],
)
def _(request):
    ask_in_all_ways(request, thinking=True)


@case("thinking: the text comes after it")
def _():
    message = ask_in_all_ways({"thinking": THINKING, "max_tokens": 1100, "extra_body": {**SEED, "thinking_token_budget": 8, "min_tokens": 40}}, thinking=True)
    equal("kinds of blocks", [block["type"] for block in message["content"]], ["thinking", "text"])


@case("thinking: the helper's snapshots")
def _():
    request = complete({"thinking": THINKING, "max_tokens": 1100, "extra_body": {**SEED, "thinking_token_budget": 8, "min_tokens": 40}})
    note("request", request)
    parts = {"thinking": "", "signature": "", "text": ""}
    with client.messages.stream(**request) as stream:
        for event in stream:
            if event.type in parts:
                parts[event.type] += getattr(event, event.type)
        message = stream.get_final_message()
    note("parts", parts)
    thinking, text = message.content
    equal("parts", parts, {"thinking": thinking.thinking, "signature": thinking.signature, "text": text.text})


@table(
    "tools",
    [
        ("any", {"tools": [LAMP_TOOL, TIMER_TOOL], "tool_choice": {"type": "any"}}, None),
        ("one by name", {"tools": [LAMP_TOOL, TIMER_TOOL], "tool_choice": {"type": "tool", "name": "set_timer"}}, "set_timer"),
        ("not in parallel", {"tools": [LAMP_TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}, "set_lamp"),
        ("another seed", {"tools": [LAMP_TOOL, TIMER_TOOL], "tool_choice": {"type": "any"}, "extra_body": {"seed": 8}}, None),
    ],
)
def _(request, name):
    message = ask_in_all_ways({"max_tokens": 500, **request})
    equal("stop_reason", message["stop_reason"], "tool_use")
    names = [block["name"] for block in message["content"] if block["type"] == "tool_use"]
    holds(f"calls of {name or 'a tool'}", names and (name is None or set(names) == {name}), names)


@case("tools: call, result, answer")
def _():
    request = complete({"tools": [LAMP_TOOL, TIMER_TOOL], "max_tokens": 500})
    note("request", request)
    message = client.messages.create(**request, tool_choice={"type": "any"})
    note("message", message)
    calls = [block for block in message.content if block.type == "tool_use"]
    # In another order than the calls, which the ids put right.
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": call.name}]} for call in reversed(calls)]
    dialogue = [*QUESTION, {"role": "assistant", "content": message.model_dump(exclude_unset=True)["content"]}, {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]}]
    ask_in_all_ways({**request, "messages": dialogue, "max_tokens": 40})
    # The SDK's own objects go back, as its guides show it.
    answer = client.messages.create(**{**request, "messages": [*QUESTION, {"role": "assistant", "content": message.content}, dialogue[-1]]})
    check_message(answer.model_dump(exclude_unset=True), thinking=False)


@case("tools: thinking and its signature go back")
def _():
    request = {"thinking": THINKING, "max_tokens": 1100, "tools": [LAMP_TOOL]}
    [thinking, *_] = client.messages.create(**complete(request)).content
    call = {"type": "tool_use", "id": "toolu_1", "name": "set_lamp", "input": {"on": True, "colour": "青"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "on"}
    dialogue = [*QUESTION, {"role": "assistant", "content": [thinking.model_dump(exclude_unset=True), call]}, {"role": "user", "content": [result]}]
    ask_in_all_ways({**request, "messages": dialogue}, thinking=True)


@case("tools: the runner calls the function")
def _():
    seen = []

    @anthropic.beta_tool(strict=True)
    def set_lamp(on: bool) -> str:
        """Switches the lamp.

        Args:
            on: Whether it shines.
        """
        seen.append(on)
        return "done"

    runner = client.beta.messages.tool_runner(
        model=CHAT, max_tokens=400, messages=QUESTION, tools=[set_lamp], tool_choice={"type": "any"}, max_iterations=2, extra_body=SEED
    )
    messages = list(runner)
    note("messages", [message.model_dump(exclude_unset=True) for message in messages])
    equal("number of messages", len(messages), 2)
    holds("the function called with a boolean", seen and all(isinstance(on, bool) for on in seen), seen)


@case("beta: header and query")
def _():
    request = complete({})
    note("request", request)
    message = client.beta.messages.create(**request, betas=["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"])
    check_message(message.model_dump(exclude_unset=True), thinking=False)
    with client.beta.messages.stream(**request, betas=["interleaved-thinking-2025-05-14"]) as stream:
        text = "".join(stream.text_stream)
    equal("text of the stream", text, message.content[0].text)
    count = client.beta.messages.count_tokens(model=CHAT, messages=QUESTION)
    equal("tokens counted", count.input_tokens, num_prompt_tokens(message.model_dump()["usage"]))


@case("models")
def _():
    models = client.models.list()
    note("models", models)
    names = [model.id for model in models.data]
    holds("both aliases listed", {CHAT, REASONER} <= set(names), names)
    holds("models by type", all(model.type == "model" and model.display_name for model in models.data), names)
    equal("model by name", client.models.retrieve(CHAT).id, CHAT)


@table(
    "keys",
    [("x-api-key", {"api_key": KEY}), ("bearer", {"auth_token": KEY})],
)
def _(key):
    ask({"max_tokens": 4}, via=connect(KEYED_SERVER, **key))
    wrong = {name: WRONG_KEY for name in key}
    error = raises(anthropic.AuthenticationError, lambda: ask({}, via=connect(KEYED_SERVER, **wrong)))
    equal("type", error.type, "authentication_error")
    holds("the key's last characters", re.search("Authentication Fails.*cdef", error.message), error.message)


CALL = [*QUESTION, {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "set_lamp", "input": {"on": True}}]}]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@table(
    "errors",
    [
        ("temperature", {"extra_body": {"temperature": 3}}, "temperature"),
        ("max_tokens", {"max_tokens": 0}, "max_tokens"),
        ("no max_tokens", {"max_tokens": omit}, "max_tokens"),
        ("no messages", {"messages": []}, "messages"),
        ("role", {"messages": [{"role": "judge", "content": "Hm"}]}, "judge"),
        ("an image", {"messages": [{"role": "user", "content": [IMAGE]}]}, "image"),
        ("a call without its result", {"messages": [*CALL, *QUESTION], "tools": [LAMP_TOOL]}, "tool_result"),
        ("any while thinking", {"model": REASONER, "tools": [LAMP_TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ("an unknown tool", {"tools": [LAMP_TOOL], "tool_choice": {"type": "tool", "name": "fly"}}, "fly"),
        ("context", {"messages": [{"role": "user", "content": "deep " * 20000}]}, "maximum context length|too long"),
    ],
)
def _(request, message):
    request = complete(request)
    note("request", request)
    for stream in (False, True):
        error = raises(anthropic.BadRequestError, lambda: client.messages.create(**request, stream=stream))
        equal("type", error.type, "invalid_request_error")
        equal("type of the body", error.body["type"], "error")
        holds(f"a message about {message}", re.search(message, error.body["error"]["message"]), error.body)
        holds("a request id", error.request_id, dict(error.response.headers))


@case("errors: too many requests")
def _():
    def ask_twice():
        for _ in range(2):
            connect(LIMITED_SERVER).messages.create(**complete({"max_tokens": 1}))

    error = raises(anthropic.RateLimitError, ask_twice)
    equal("type", error.type, "rate_limit_error")
    holds("Retry-After in seconds", 0 < int(error.response.headers["retry-after"]) <= 60, dict(error.response.headers))


@case("errors: no such route")
def _():
    error = raises(anthropic.NotFoundError, lambda: client.messages.batches.list())
    equal("type", error.type, "not_found_error")


@case("abort: a stream that is left frees its request")
def _():
    check_running(0)
    with client.messages.stream(**complete({"max_tokens": ENDLESS["max_tokens"], "extra_body": ENDLESS})) as stream:
        for _ in zip(range(4), stream):
            pass
        check_running(1)
    check_running(0)


@case("async: eight at once, whole and by the helper")
def _():
    async def one(via, seed):
        request = complete({"extra_body": {"seed": seed}})
        message = await via.messages.create(**request)
        async with via.messages.stream(**request) as stream:
            final = await stream.get_final_message()
        check_same_message(message.model_dump(exclude_unset=True), final.model_dump(exclude_unset=True))

    async def all_of_them():
        async with connect(kind=AsyncAnthropic) as via:
            await asyncio.gather(*(one(via, seed) for seed in range(8)))

    asyncio.run(all_of_them())


if __name__ == "__main__":
    cases.main()
