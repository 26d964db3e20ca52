"""The `openai` package for Python against the Responses API, which keeps nothing between requests."""

import json
import re
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

import cases
from cases import case, equal, holds, note, raises, table
from contract import (
    CHAT,
    ENDLESS,
    QUESTION,
    REASONER,
    SERVER,
    SWITCH_PARAMETERS,
    VERDICT_SCHEMA,
    WEATHER_PARAMETERS,
    check_arguments,
    check_instance,
    check_running,
    count_prompt_tokens,
)

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none", max_retries=0, timeout=60)
TEXT = QUESTION[0]["content"]
SEED = {"seed": 7}
BRIEF = {**SEED, "thinking_token_budget": 10, "min_tokens": 30}


def complete(request):
    return {"model": CHAT, "input": TEXT, "max_output_tokens": 120, "extra_body": SEED, **request}


def check_response(response, thinking):
    equal("object", response.object, "response")
    holds("an id", response.id.startswith("resp_"), response.id)
    holds("a status", response.status in ("completed", "incomplete"), response.status)
    equal("a reason exactly if it is not complete", response.incomplete_details is not None, response.status == "incomplete")
    usage = response.usage
    equal("total_tokens", usage.total_tokens, usage.input_tokens + usage.output_tokens)
    holds("cached tokens within the input", 0 <= usage.input_tokens_details.cached_tokens < usage.input_tokens, usage)
    reasoning = usage.output_tokens_details.reasoning_tokens
    holds("reasoning tokens within the output", 0 <= reasoning <= usage.output_tokens, usage)
    equal("tokens of reasoning exactly if it thinks", reasoning > 0, thinking)
    kinds = [item.type for item in response.output]
    equal("an item of reasoning", "reasoning" in kinds, thinking)
    equal("ids of the items, each once", len({item.id for item in response.output}), len(kinds))


def without_ids(response):
    """What two answers to one request have in common."""
    found = []
    for item in response.output:
        item = item.model_dump(exclude_none=True)
        found.append({key: value for key, value in item.items() if key not in ("id", "call_id", "encrypted_content")})
    return found


def ask_both_ways(request, thinking=False):
    request = complete(request)
    note("request", request)
    whole = client.responses.create(**request)
    note("whole", whole)
    check_response(whole, thinking)
    events = list(client.responses.create(**request, stream=True))
    kinds = [event.type for event in events]
    note("events", kinds)
    equal("first events", kinds[:2], ["response.created", "response.in_progress"])
    equal("numbers of the events", [event.sequence_number for event in events], list(range(len(events))))
    last = f"response.{whole.status}"
    equal("last event", kinds[-1], last)
    equal("one last event", kinds.count(last), 1)
    final = events[-1].response
    note("final", final)
    check_response(final, thinking)
    equal("output of the stream", without_ids(final), without_ids(whole))
    texts = {"response.output_text.delta": "", "response.reasoning_text.delta": "", "response.function_call_arguments.delta": ""}
    for event in events:
        if event.type in texts:
            texts[event.type] += event.delta
    equal("text of the deltas", texts["response.output_text.delta"], whole.output_text)
    calls = [item.arguments for item in whole.output if item.type == "function_call"]
    equal("arguments of the deltas", texts["response.function_call_arguments.delta"], "".join(calls))
    thoughts = [part.text for item in whole.output if item.type == "reasoning" for part in item.content or ()]
    equal("reasoning of the deltas", texts["response.reasoning_text.delta"], "".join(thoughts))
    equal("items that began and ended", kinds.count("response.output_item.added"), kinds.count("response.output_item.done"))
    equal("items", kinds.count("response.output_item.added"), len(whole.output))
    equal("output_tokens of the stream", final.usage.output_tokens, whole.usage.output_tokens)
    return whole


@table(
    "text",
    [
        ("a text", {}),
        ("messages", {"input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]}),
        ("instructions", {"instructions": "You know whales."}),
        ("not stored", {"store": False, "metadata": {"a": "b"}, "user": "ada", "truncation": "disabled"}),
        ("greedy", {"temperature": 0, "max_output_tokens": 30}),
    ],
)
def _(request):
    ask_both_ways(request)


@case("text: input tokens")
def _():
    answer = ask_both_ways({})
    equal("input_tokens", answer.usage.input_tokens, count_prompt_tokens({"model": CHAT, "messages": QUESTION}))


@case("text: cut off")
def _():
    answer = ask_both_ways({"max_output_tokens": 3, "extra_body": {**SEED, "min_tokens": 3}})
    equal("status", answer.status, "incomplete")
    equal("reason", answer.incomplete_details.reason, "max_output_tokens")


@case("text: a second round with the first one's items")
def _():
    first = ask_both_ways({})
    dialogue = [{"role": "user", "content": TEXT}, *[item.model_dump(exclude_none=True) for item in first.output], {"role": "user", "content": "And?"}]
    ask_both_ways({"input": dialogue})


@table(
    "reasoning",
    [
        ("by model", {"model": REASONER}),
        ("by an effort", {"model": REASONER, "reasoning": {"effort": "high"}}),
        ("ended by a budget", {"model": REASONER, "extra_body": BRIEF}),
        ("encrypted", {"model": REASONER, "include": ["reasoning.encrypted_content"], "store": False}),
    ],
)
def _(request):
    answer = ask_both_ways(request, thinking=True)
    equal("first item", answer.output[0].type, "reasoning")
    if request.get("extra_body"):
        holds("text after the reasoning", answer.output_text, answer)


@case("reasoning: off")
def _():
    ask_both_ways({"model": REASONER, "reasoning": {"effort": "none"}})


TOOLS = [
    {"type": "function", "name": "get_weather", "parameters": WEATHER_PARAMETERS, "strict": True},
    {"type": "function", "name": "set_lamp", "parameters": SWITCH_PARAMETERS, "strict": True},
]


@table("tools", [("required", "required"), ("by name", {"type": "function", "name": "set_lamp"})])
def _(choice):
    request = {"tools": TOOLS, "tool_choice": choice, "max_output_tokens": 500}
    answer = ask_both_ways(request)
    calls = [item for item in answer.output if item.type == "function_call"]
    holds("calls", calls, answer)
    for call in calls:
        check_arguments(call.name, call.arguments)
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls]
    dialogue = [{"role": "user", "content": TEXT}, *[item.model_dump(exclude_none=True) for item in answer.output], *outputs]
    ask_both_ways({"tools": TOOLS, "input": dialogue})


class Verdict(BaseModel):
    verdict: Literal["yes", "no", "unsure"]
    certain: bool


@case("JSON: a schema")
def _():
    text = {"format": {"type": "json_schema", "name": "verdict", "schema": VERDICT_SCHEMA, "strict": True}}
    answer = ask_both_ways({"text": text, "input": "Is a whale a fish? Answer in JSON."})
    check_instance(json.loads(answer.output_text), VERDICT_SCHEMA)


@case("JSON: the parse helper")
def _():
    answer = client.responses.parse(**complete({"text_format": Verdict, "input": "Is a whale a fish? Answer in JSON."}))
    note("answer", answer)
    equal("class", type(answer.output_parsed), Verdict)


@case("the stream helper")
def _():
    with client.responses.stream(**complete({})) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    equal("text of the final response", final.output_text, text)


@table(
    "errors",
    [
        ("model", {"model": "gpt-4o"}, "Model Not Exist"),
        ("temperature", {"temperature": 3}, "temperature"),
        ("what would have to be stored", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("a forced call while thinking", {"model": REASONER, "tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ("max_output_tokens", {"max_output_tokens": 0}, "max_(output_)?tokens"),
    ],
)
def _(request, message):
    request = complete(request)
    note("request", request)
    for stream in (False, True):
        error = raises(openai.BadRequestError, lambda: client.responses.create(**request, stream=stream))
        holds(f"a message about {message}", re.search(message, error.body["message"]), error.body)


@case("abort: a stream that is closed frees its request")
def _():
    check_running(0)
    stream = client.responses.create(**complete({"max_output_tokens": ENDLESS["max_tokens"], "extra_body": {"min_tokens": ENDLESS["min_tokens"]}}), stream=True)
    for _ in zip(range(6), stream):
        pass
    check_running(1)
    stream.close()
    check_running(0)


if __name__ == "__main__":
    cases.main()
