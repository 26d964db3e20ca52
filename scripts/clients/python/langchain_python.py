"""LangChain's `langchain-deepseek`: invoking, streaming, tools, structured output, reasoning, strict tools on /beta."""

import asyncio
import json
import re
from typing import Literal
from unittest import mock

import langchain_deepseek.chat_models
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from pydantic import BaseModel, Field

import cases
from cases import case, equal, holds, note, raises, table
from contract import CHAT, ENDLESS, KEY, KEYED_SERVER, REASONER, SERVER, WRONG_KEY, check_running, count_prompt_tokens

QUESTION = "How deep does a sperm whale dive?"


def connect(model=CHAT, server=SERVER, key="none", **more):
    settings = {"seed": 7, "max_tokens": 120, "max_retries": 0, "timeout": 60, **more}
    return ChatDeepSeek(model=model, api_base=f"{server}/v1", api_key=key, **settings)


def gather(chunks):
    """The message that the chunks add up to."""
    chunks = list(chunks)
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def check_usage(message, thinking):
    usage = message.usage_metadata
    note("usage", usage)
    equal("total_tokens", usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])
    cached = usage["input_token_details"]["cache_read"]
    holds("cached tokens within the prompt, in blocks of 64", 0 <= cached < usage["input_tokens"] and cached % 64 == 0, usage)
    reasoning = usage.get("output_token_details", {}).get("reasoning")
    if thinking:
        holds("reasoning tokens within the output", 0 <= reasoning <= usage["output_tokens"], usage)
    else:
        holds("no reasoning tokens", not reasoning, usage)


def ask_both_ways(runnable, messages, thinking=False):
    note("messages", repr(messages))
    whole = runnable.invoke(messages)
    note("whole", repr(whole))
    streamed = gather(runnable.stream(messages))
    note("streamed", repr(streamed))
    equal("content of the stream", streamed.content, whole.content)
    equal("reasoning of the stream", streamed.additional_kwargs.get("reasoning_content"), whole.additional_kwargs.get("reasoning_content"))
    calls = [[(call["name"], call["args"]) for call in message.tool_calls] for message in (whole, streamed)]
    equal("calls of the stream", calls[1], calls[0])
    reasons = [message.response_metadata["finish_reason"] for message in (whole, streamed)]
    equal("finish_reason of the stream", reasons[1], reasons[0])
    for message in (whole, streamed):
        check_usage(message, thinking)
        equal("reasoning_content present", "reasoning_content" in message.additional_kwargs, thinking)
        holds("a model's name", message.response_metadata["model_name"], message.response_metadata)
    equal("output tokens of the stream", streamed.usage_metadata["output_tokens"], whole.usage_metadata["output_tokens"])
    return whole


@table(
    "chat",
    [
        ("a text", QUESTION),
        ("messages", [SystemMessage("You know whales."), HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage(QUESTION)]),
        ("tuples", [("system", "You know whales."), ("human", QUESTION)]),
        ("blocks of text", [HumanMessage([{"type": "text", "text": "Hello 海豚 🐬"}])]),
        ("an answer of blocks", [HumanMessage("Hi"), AIMessage([{"type": "text", "text": "Hello!"}]), HumanMessage(QUESTION)]),
    ],
)
def _(messages):
    ask_both_ways(connect(), messages)


@case("chat: prompt tokens")
def _():
    message = connect().invoke(QUESTION)
    expected = count_prompt_tokens({"model": CHAT, "messages": [{"role": "user", "content": QUESTION}]})
    equal("input_tokens", message.usage_metadata["input_tokens"], expected)


@table("chat: settings", [("greedy", {"temperature": 0}), ("stop", {"stop_sequences": ["e"]}), ("one token", {"max_tokens": 1}), ("top_p", {"top_p": 0.5})])
def _(settings):
    ask_both_ways(connect(**settings), QUESTION)


@case("chat: a batch")
def _():
    answers = connect().batch([QUESTION] * 4)
    equal("answers to one question with one seed", len({answer.content for answer in answers}), 1)


@case("chat: log-probabilities")
def _():
    message = connect(logprobs=True, top_logprobs=2, max_tokens=10).invoke(QUESTION)
    entries = message.response_metadata["logprobs"]["content"]
    note("entries", entries)
    holds("two likeliest of each token", entries and all(len(entry["top_logprobs"]) == 2 for entry in entries), entries)


BRIEF = {"thinking": {"type": "enabled"}, "thinking_token_budget": 10}


@table(
    "thinking",
    [
        ("by model", connect(REASONER)),
        ("by extra_body", connect(CHAT, extra_body={"thinking": {"type": "enabled"}})),
        ("ended by a budget", connect(CHAT, extra_body=BRIEF)),
        ("with an effort", connect(REASONER, reasoning_effort="low")),
    ],
)
def _(model):
    ask_both_ways(model, QUESTION, thinking=True)


@case("thinking: an answer goes back into the history")
def _():
    model = connect(REASONER, extra_body=BRIEF)
    first = model.invoke(QUESTION)
    ask_both_ways(model, [HumanMessage(QUESTION), first, HumanMessage("And a whale shark?")], thinking=True)


@tool
def set_lamp(on: bool, colour: Literal["red", "green"]) -> str:
    """Switches the lamp."""
    return f"{colour} {on}"


@tool
def set_timer(minutes: Literal["1", "5"]) -> str:
    """Starts the timer."""
    return minutes


TOOLS = {"set_lamp": set_lamp, "set_timer": set_timer}


@table(
    "tools",
    [("any", "any", None), ("required", "required", None), ("by name", "set_timer", "set_timer"), ("true", True, "set_lamp")],
)
def _(choice, name):
    # `True` means the one tool that there is.
    tools = [set_lamp] if choice is True else [set_lamp, set_timer]
    message = ask_both_ways(connect(max_tokens=500).bind_tools(tools, tool_choice=choice, strict=True), QUESTION)
    equal("finish_reason", message.response_metadata["finish_reason"], "tool_calls")
    equal("calls that do not parse", message.invalid_tool_calls, [])
    for call in message.tool_calls:
        # Its own check of the arguments.
        TOOLS[call["name"]].args_schema.model_validate(call["args"])
        holds("an id", call["id"], call)
    names = {call["name"] for call in message.tool_calls}
    holds(f"calls of {name or 'a tool'}", names == {name} if name else names, names)


@case("tools: call, result, answer")
def _():
    model = connect(max_tokens=500)
    message = model.bind_tools([set_lamp, set_timer], tool_choice="any", strict=True).invoke(QUESTION)
    results = [TOOLS[call["name"]].invoke(call) for call in message.tool_calls]
    note("results", repr(results))
    holds("messages with results", results and all(isinstance(result, ToolMessage) for result in results), repr(results))
    ask_both_ways(model.bind_tools([set_lamp, set_timer]), [HumanMessage(QUESTION), message, *results])


@case("tools: chunks of calls")
def _():
    chunks = list(connect(max_tokens=500).bind_tools([set_lamp], tool_choice="any", strict=True).stream(QUESTION))
    parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
    note("parts", parts)
    equal("parts with a name, one of each call", len([part for part in parts if part["name"]]), len({part["index"] for part in parts}))
    holds("arguments in several parts", len(parts) > 2, parts)


@case("tools: strict goes to /beta")
def _():
    names = {"DEFAULT_API_BASE": f"{SERVER}/v1", "DEFAULT_BETA_API_BASE": f"{SERVER}/beta"}
    with mock.patch.multiple(langchain_deepseek.chat_models, **names):
        bound = connect(max_tokens=500).bind_tools([set_lamp], strict=True, tool_choice="any")
        equal("base", bound.bound.api_base, f"{SERVER}/beta")
        equal("strict", bound.kwargs["tools"][0]["function"]["strict"], True)
        message = ask_both_ways(bound, QUESTION)
    holds("a call", message.tool_calls, repr(message))


class Verdict(BaseModel):
    """What is thought of a statement."""

    verdict: Literal["yes", "no", "unsure"] = Field(description="The verdict")
    certain: bool


@case("structured output: by a call")
def _():
    answer = connect(max_tokens=500).with_structured_output(Verdict, include_raw=True).invoke(QUESTION)
    note("answer", repr(answer))
    # Without `strict` the call is certain, and what it says is the model's affair.
    holds("a call", answer["raw"].tool_calls, repr(answer))
    holds("parsed, or the reason why not", (answer["parsed"] is None) != (answer["parsing_error"] is None), repr(answer))


@case("structured output: by a strict call, raw and parsed")
def _():
    answer = connect(max_tokens=500).with_structured_output(Verdict, include_raw=True, strict=True).invoke(QUESTION)
    note("answer", repr(answer))
    equal("class", type(answer["parsed"]), Verdict)
    equal("error", answer["parsing_error"], None)
    streamed = list(connect(max_tokens=500).with_structured_output(Verdict, strict=True).stream(QUESTION))
    equal("what the stream parsed to", streamed[-1], answer["parsed"])


@case("structured output: by a strict call on /beta")
def _():
    names = {"DEFAULT_API_BASE": f"{SERVER}/v1", "DEFAULT_BETA_API_BASE": f"{SERVER}/beta"}
    with mock.patch.multiple(langchain_deepseek.chat_models, **names):
        verdict = connect(max_tokens=500).with_structured_output(Verdict, strict=True).invoke(QUESTION)
    equal("class", type(verdict), Verdict)


@case("structured output: by JSON mode")
def _():
    model = connect(max_tokens=400).with_structured_output(Verdict, method="json_mode", include_raw=True)
    answer = model.invoke("Is a whale a fish? Answer in JSON.")
    note("answer", repr(answer))
    raw = answer["raw"]
    # JSON mode promises JSON, not the schema; what was not cut off is a value.
    if raw.response_metadata["finish_reason"] == "stop":
        json.loads(raw.content)
    holds("parsed, or the reason why not", (answer["parsed"] is None) != (answer["parsing_error"] is None), repr(answer))


@case("structured output: by a schema in the request")
def _():
    schema = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": Verdict.model_json_schema(), "strict": True}}
    message = ask_both_ways(connect(max_tokens=300).bind(response_format=schema), "Is a whale a fish? Answer in JSON.")
    Verdict.model_validate_json(message.content)


@table(
    "errors",
    [
        ("key", connect(server=KEYED_SERVER, key=WRONG_KEY), openai.AuthenticationError, "Authentication Fails"),
        ("model", connect("gpt-4o"), openai.BadRequestError, "Model Not Exist"),
        ("temperature", connect(temperature=3), openai.BadRequestError, "Invalid temperature value"),
        ("context", connect(max_tokens=4095), openai.BadRequestError, "maximum context length is"),
        ("top_logprobs", connect(logprobs=True, top_logprobs=21), openai.BadRequestError, r"\[0, 20\]"),
        ("a forced call while thinking", connect(REASONER).bind_tools([set_lamp], tool_choice="any"), openai.BadRequestError, "not support this tool_choice"),
    ],
)
def _(runnable, kind, message):
    for action in (lambda: runnable.invoke(QUESTION), lambda: list(runnable.stream(QUESTION))):
        error = raises(kind, action)
        holds(f"a message matching {message}", re.search(message, str(error)), str(error))


@case("a key that is right")
def _():
    ask_both_ways(connect(server=KEYED_SERVER, key=KEY, max_tokens=5), QUESTION)


@case("abort: a stream that is closed frees its request")
def _():
    check_running(0)
    stream = connect(max_tokens=ENDLESS["max_tokens"], extra_body=ENDLESS).stream(QUESTION)
    for _ in zip(range(3), stream):
        pass
    check_running(1)
    stream.close()
    check_running(0)


@case("async: eight at once, whole and streamed")
def _():
    async def one(seed):
        model = connect(seed=seed, max_tokens=40)
        whole = await model.ainvoke(QUESTION)
        text = "".join([chunk.content async for chunk in model.astream(QUESTION)])
        equal(f"text of the stream with seed {seed}", text, whole.content)

    async def all_of_them():
        await asyncio.gather(*(one(seed) for seed in range(8)))

    asyncio.run(all_of_them())


if __name__ == "__main__":
    cases.main()
