"""What holds of every answer of the server, whichever client asks: the part of the contract that the suites share.

Nothing here depends on what the model says. Tool calls and JSON are made certain by constraints, and thoughts are ended by a
budget, so that a model that was never trained and one that was pass alike.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request

from cases import equal, holds, note

SERVER = os.environ["CLIENTS_SERVER"]
# The same model behind a key.
KEYED_SERVER = os.environ["CLIENTS_KEYED_SERVER"]
KEY = os.environ["CLIENTS_KEY"]
# The same model, which takes one request a minute.
LIMITED_SERVER = os.environ["CLIENTS_LIMITED_SERVER"]
WRONG_KEY = "sk-0123456789abcdef"
CHAT, REASONER = "deepseek-chat", "deepseek-reasoner"

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
CALL_ID = re.compile(r"^call_(\d\d)_[A-Za-z0-9]{20}$")

QUESTION = [{"role": "user", "content": "How deep does a sperm whale dive?"}]

# Every value is one of few, so that a constrained call is short whatever the model is like.
WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Reykjavík", "東京"], "description": "Where to look"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "forecast": {"type": "boolean"},
    },
    "required": ["city", "unit", "forecast"],
    "additionalProperties": False,
}
SWITCH_PARAMETERS = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}


def function_tool(name, parameters, **more):
    return {"type": "function", "function": {"name": name, "description": f"Use {name}.", "parameters": parameters, **more}}


# Calls of strict tools follow their schema; of others, only names and form are certain.
WEATHER = function_tool("get_weather", WEATHER_PARAMETERS, strict=True)
SWITCH = function_tool("set_lamp", SWITCH_PARAMETERS, strict=True)
LOOSE_SWITCH = function_tool("set_lamp_freely", SWITCH_PARAMETERS)
PARAMETERS = {"get_weather": WEATHER_PARAMETERS, "set_lamp": SWITCH_PARAMETERS}

VERDICT_SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["yes", "no", "unsure"]},
        "certain": {"type": "boolean"},
    },
    "required": ["verdict", "certain"],
    "additionalProperties": False,
}


def check_instance(value, schema):
    """Holds a value against the subset of JSON Schema that the schemas of the suites use."""
    kinds = {"object": dict, "string": str, "boolean": bool, "integer": int, "array": list}
    holds(f"a value of the type {schema['type']}", isinstance(value, kinds[schema["type"]]), value)
    if "enum" in schema:
        holds(f"one of {schema['enum']}", value in schema["enum"], value)
    if schema["type"] == "object":
        equal("keys", sorted(value), sorted(schema["required"]))
        for key, member in value.items():
            check_instance(member, schema["properties"][key])


def check_arguments(name, arguments):
    """The arguments of a call, parsed, after a look at their form: JSON as Python writes it, with one space after , and :."""
    parsed = json.loads(arguments)
    if name in PARAMETERS:
        check_instance(parsed, PARAMETERS[name])
    else:
        holds("names of parameters", set(parsed) <= set(SWITCH_PARAMETERS["properties"]), arguments)
    equal("form of the arguments", arguments, json.dumps(parsed, ensure_ascii=False))
    return parsed


def check_calls(calls):
    """Calls with ids in order, each of one of the tools above."""
    holds("at least one call", calls, calls)
    for index, call in enumerate(calls):
        match = CALL_ID.match(call["id"])
        holds(f"an id in the form {CALL_ID.pattern}", match, call["id"])
        equal("number in the call's id", int(match[1]), index)
        equal("type of the call", call["type"], "function")
        check_arguments(call["function"]["name"], call["function"]["arguments"])
    equal("ids, each once", len({call["id"] for call in calls}), len(calls))


def reasoning_tokens(usage):
    """Of thinking; the details are also there when drafts were verified."""
    return (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")


def check_usage(usage, thinking):
    equal("total_tokens", usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
    hit, miss = usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]
    equal("cache hits and misses together", hit + miss, usage["prompt_tokens"])
    equal("cache hits in whole blocks of 64", hit % 64, 0)
    holds("at least one token of the prompt computed", miss >= 1, usage)
    equal("prompt_tokens_details.cached_tokens", usage["prompt_tokens_details"]["cached_tokens"], hit)
    reasoning = reasoning_tokens(usage)
    equal("reasoning_tokens present", reasoning is not None, thinking)
    if thinking:
        holds("reasoning_tokens within completion_tokens", 0 <= reasoning <= usage["completion_tokens"], usage)


def check_completion(answer, thinking):
    """A whole chat completion, as the dictionary that its JSON is; returns its message."""
    holds("an id that is a UUID", UUID.match(answer["id"]), answer["id"])
    equal("object", answer["object"], "chat.completion")
    holds("created now", abs(answer["created"] - time.time()) < 600, answer["created"])
    holds("a fingerprint", answer["system_fingerprint"].startswith("fp_"), answer["system_fingerprint"])
    equal("indices of the choices", [choice["index"] for choice in answer["choices"]], list(range(len(answer["choices"]))))
    for choice in answer["choices"]:
        message = choice["message"]
        equal("role", message["role"], "assistant")
        holds("content that is text", isinstance(message["content"], str), message)
        equal("reasoning_content present", message.get("reasoning_content") is not None, thinking)
        calls = message.get("tool_calls")
        reasons = ("tool_calls",) if calls else ("stop", "length")
        holds(f"finish_reason one of {reasons}", choice["finish_reason"] in reasons, choice)
        if calls:
            equal("indices of the calls", [call["index"] for call in calls], list(range(len(calls))))
            check_calls(calls)
    check_usage(answer["usage"], thinking)
    return answer["choices"][0]["message"]


def gather_chunks(chunks, thinking, include_usage=True):
    """The whole answer that the chunks of one chat stream make, after a look at the form and order of each chunk."""
    holds("chunks", chunks, chunks)
    for member in ("id", "created", "model", "system_fingerprint"):
        equal(f"values of {member} in the stream", len({chunk[member] for chunk in chunks}), 1)
    content, reasoning, calls, reason = "", "", [], None
    stage = "reasoning"
    for number, chunk in enumerate(chunks):
        equal("object", chunk["object"], "chat.completion.chunk")
        equal("choices in each chunk", [choice["index"] for choice in chunk["choices"]], [0])
        [choice] = chunk["choices"]
        delta, is_last = choice["delta"], number == len(chunks) - 1
        if number == 0:
            first = {"role": "assistant", "content": None, "reasoning_content": ""} if thinking else {"role": "assistant", "content": ""}
            equal("first delta", delta, first)
        else:
            holds("no role after the first delta", "role" not in delta, delta)
        equal("finish_reason in the last chunk alone", choice["finish_reason"] is not None, is_last)
        if not is_last and include_usage:
            holds("usage null before the last chunk", chunk["usage"] is None, chunk)
        if not thinking:
            holds("no reasoning without thinking", "reasoning_content" not in delta, delta)
        if delta.get("reasoning_content"):
            equal("part of the answer that reasoning comes in", stage, "reasoning")
            reasoning += delta["reasoning_content"]
        if delta.get("content"):
            holds("content after reasoning and before calls", stage in ("reasoning", "content"), stage)
            stage = "content"
            content += delta["content"]
        for call in delta.get("tool_calls") or ():
            stage = "calls"
            if call["index"] == len(calls):
                equal("members of a call's first part", sorted(call), ["function", "id", "index", "type"])
                equal("members of its function", sorted(call["function"]), ["arguments", "name"])
                calls.append({**call, "function": dict(call["function"])})
            else:
                equal("index of a call's further part", call["index"], len(calls) - 1)
                equal("members of a call's further part", sorted(call), ["function", "index"])
                equal("members of its function", sorted(call["function"]), ["arguments"])
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
        reason = choice["finish_reason"]
    message = {"role": "assistant", "content": content}
    if thinking:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    last = chunks[-1]
    whole = {
        **{member: last[member] for member in ("id", "created", "model", "system_fingerprint")},
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": last["usage"],
    }
    check_completion(whole, thinking)
    return whole


def without_ids(message):
    """A message with the ids of its calls left out: they are random."""
    calls = [{key: value for key, value in call.items() if key != "id"} for call in message.get("tool_calls") or ()]
    return {key: value for key, value in message.items() if key != "tool_calls" and value is not None} | {"tool_calls": calls}


def check_same_answer(whole, streamed):
    """That a stream says what the whole answer to the same request with the same seed says."""
    for one, other in zip(whole["choices"], streamed["choices"], strict=True):
        equal("message of the stream", without_ids(other["message"]), without_ids(one["message"]))
        equal("finish_reason of the stream", other["finish_reason"], one["finish_reason"])
    for member in ("prompt_tokens", "completion_tokens"):
        equal(f"usage.{member} of the stream", streamed["usage"].get(member), whole["usage"].get(member))
    # Drafts may go either way: how many there are depends on what else runs.
    equal("reasoning_tokens of the stream", reasoning_tokens(streamed["usage"]), reasoning_tokens(whole["usage"]))


# What decides how a conversation is rendered.
PROMPT_FIELDS = ("model", "messages", "tools", "tool_choice", "thinking", "reasoning_effort", "response_format")


def post(path, body, headers=None, server=SERVER):
    """Posts JSON with the standard library: status, headers and the body as text."""
    request = urllib.request.Request(
        f"{server}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    return _send(request)


def get(path, headers=None, server=SERVER):
    return _send(urllib.request.Request(f"{server}{path}", headers=headers or {}))


def _send(request):
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def count_prompt_tokens(request):
    """How many tokens `/tokenize` makes of a chat request's prompt."""
    body = {field: request[field] for field in PROMPT_FIELDS if field in request}
    status, _, text = post("/tokenize", body)
    note("answer of /tokenize", text)
    equal("status of /tokenize", status, 200)
    return json.loads(text)["count"]


def read_events(response):
    """The events of a stream as `(event, data)`; comments are left out."""
    event, data = None, []
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif line == "":
            if data:
                yield event, "\n".join(data)
            event, data = None, []
        else:
            holds("a line of a server-sent event", line.startswith(":"), line)


def open_stream(path, body, headers=None, server=SERVER):
    """The response to a streamed request."""
    request = urllib.request.Request(
        f"{server}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path} answered with {error.code}: {error.read().decode()}") from None
    equal("content type", response.headers["content-type"], "text/event-stream")
    return response


def stream_chunks(path, body, headers=None, server=SERVER):
    """The chunks of a stream in OpenAI's form, which has to end with `[DONE]`."""
    with open_stream(path, body, headers, server) as response:
        events = list(read_events(response))
    holds("events without names", all(event is None for event, _ in events), events)
    equal("end of the stream", events[-1][1], "[DONE]")
    chunks = [json.loads(data) for _, data in events[:-1]]
    note("chunks", chunks)
    return chunks


def running_requests():
    _, _, text = get("/metrics")
    return int(float(re.search(r"^cachalot_requests_running (\S+)$", text, re.M)[1]))


# Long enough to be far from its end when a test breaks it off: no token ends it before the last.
ENDLESS = {"max_tokens": 3000, "min_tokens": 3000}


def check_running(expected):
    """Waits until as many requests run as expected."""
    deadline = time.monotonic() + 20
    while (found := running_requests()) != expected:
        holds(f"{expected} requests running", time.monotonic() < deadline, found)
        time.sleep(0.02)
