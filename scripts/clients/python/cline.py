"""Cline's requests, replayed: one limit, usage in the stream, temperature by model, reasoning put back into the history.

Open WebUI and others that poll the models and the balance are here too, because they need no client either.
"""

import json

import cases
from cases import case, equal, holds, note, table
from contract import (
    CHAT,
    ENDLESS,
    KEY,
    KEYED_SERVER,
    REASONER,
    WRONG_KEY,
    check_running,
    count_prompt_tokens,
    function_tool,
    gather_chunks,
    get,
    open_stream,
    post,
    read_events,
    stream_chunks,
)

PATH = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You write code. Use <read_file><path>…</path></read_file> to read a file."}
TASK = {
    "role": "user",
    "content": [
        {"type": "text", "text": "<task>\nFix the test.\n</task>"},
        {"type": "text", "text": "<environment_details>\n# Current Mode\nACT MODE\n</environment_details>"},
    ],
}
ATTEMPT_PARAMETERS = {
    "type": "object",
    "properties": {"mode": {"type": "string", "enum": ["act", "plan"]}, "done": {"type": "boolean"}},
    "required": ["mode", "done"],
    "additionalProperties": False,
}
TOOLS = [function_tool("switch_mode", ATTEMPT_PARAMETERS, strict=False)]


def request(model, messages, **more):
    # Cline gives the reasoner no temperature.
    temperature = {} if model == REASONER else {"temperature": 0}
    return {
        "model": model,
        "max_completion_tokens": 48,
        "messages": [SYSTEM, *messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **temperature,
        **more,
    }


def ask(body, thinking, **connection):
    note("request", body)
    answer = gather_chunks(stream_chunks(PATH, body, **connection), thinking)
    usage = answer["usage"]
    equal("prompt_tokens", usage["prompt_tokens"], count_prompt_tokens(body))
    holds("at most 48 tokens", usage["completion_tokens"] <= 48, usage)
    # What it shows as the price of the prompt.
    equal("cache hits and misses", usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"], usage["prompt_tokens"])
    return answer


@table("a turn", [("chat", CHAT, False), ("reasoner", REASONER, True)])
def _(model, thinking):
    body = request(model, [TASK])
    streamed = ask(body, thinking)
    if not thinking:
        # At temperature 0 the same question has the same answer.
        whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        status, _, text = post(PATH, whole)
        note("whole answer", text)
        equal("status", status, 200)
        equal("content", json.loads(text)["choices"][0]["message"]["content"], streamed["choices"][0]["message"]["content"])


@table("turns with reasoning put back", [("chat", CHAT, False), ("reasoner", REASONER, True)])
def _(model, thinking):
    messages = [TASK]
    for text in ("The file is empty.", "The test passes."):
        message = ask(request(model, messages), thinking)["choices"][0]["message"]
        reply = {"role": "assistant", "content": message["content"] or "…"}
        if thinking:
            reply["reasoning_content"] = message["reasoning_content"]
        messages += [reply, {"role": "user", "content": [{"type": "text", "text": text}]}]
    ask(request(model, messages), thinking)


@case("its own tools: call and result")
def _():
    body = request(CHAT, [TASK], tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1, seed=7)
    body["max_completion_tokens"] = 400
    chunks = stream_chunks(PATH, body)
    calls = {}
    for chunk in chunks:
        for call in chunk["choices"][0]["delta"].get("tool_calls") or ():
            known = calls.setdefault(call["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            known["id"] += call.get("id") or ""
            for member, text in call["function"].items():
                known["function"][member] += text
    equal("finish_reason", chunks[-1]["choices"][0]["finish_reason"], "tool_calls")
    holds("calls", calls, calls)
    for call in calls.values():
        holds("arguments that are an object", isinstance(json.loads(call["function"]["arguments"]), dict), call)
    reply = {"role": "assistant", "content": "", "tool_calls": list(calls.values())}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in calls.values()]
    ask(request(CHAT, [TASK, reply, *results], tools=TOOLS), False)


@case("a running turn of the reasoner keeps its reasoning")
def _():
    call = {"id": "call_1", "type": "function", "function": {"name": "switch_mode", "arguments": '{"mode": "act", "done": false}'}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
    counts = []
    for reasoning in ("", "The mode has to change before anything else can be done."):
        reply = {"role": "assistant", "content": "", "reasoning_content": reasoning, "tool_calls": [call]}
        counts.append(ask(request(REASONER, [TASK, reply, result], tools=TOOLS), True)["usage"]["prompt_tokens"])
    holds("more tokens with reasoning", counts[1] > counts[0], counts)


@case("the same prompt again is counted the same")
def _():
    body = request(CHAT, [{"role": "user", "content": "Look at this file. " * 30}])
    first, second = (ask(body, False)["usage"] for _ in range(2))
    equal("prompt_tokens", second["prompt_tokens"], first["prompt_tokens"])


@case("keys")
def _():
    body = request(CHAT, [TASK])
    ask(body, False, headers={"Authorization": f"Bearer {KEY}"}, server=KEYED_SERVER)
    status, _, text = post(PATH, body, {"Authorization": f"Bearer {WRONG_KEY}"}, KEYED_SERVER)
    note("answer", text)
    equal("status", status, 401)
    equal("type", json.loads(text)["error"]["type"], "authentication_error")


@case("a task that is cancelled frees its request")
def _():
    check_running(0)
    response = open_stream(PATH, request(CHAT, [TASK], **ENDLESS) | {"max_completion_tokens": ENDLESS["max_tokens"]})
    for _ in zip(range(3), read_events(response)):
        pass
    check_running(1)
    response.close()
    check_running(0)


@table("what others poll: models", [(path, path) for path in ("/models", "/v1/models")])
def _(path):
    status, _, text = get(path)
    note("answer", text)
    equal("status", status, 200)
    models = json.loads(text)
    equal("object", models["object"], "list")
    holds("both aliases", {CHAT, REASONER} <= {model["id"] for model in models["data"]}, models)


@case("what others poll: balance")
def _():
    status, _, text = get("/user/balance", {"Authorization": f"Bearer {KEY}"}, KEYED_SERVER)
    note("answer", text)
    equal("status", status, 200)
    balance = json.loads(text)
    equal("is_available", balance["is_available"], True)
    for info in balance["balance_infos"]:
        holds("a currency", info["currency"] in ("CNY", "USD"), info)
        for member in ("total_balance", "granted_balance", "topped_up_balance"):
            holds(f"{member} as text", isinstance(info[member], str) and float(info[member]) >= 0, info)


@table(
    "what others send",
    [
        ("a role that newer clients use", "/v1/chat/completions", {"messages": [{"role": "developer", "content": "Be brief."}, TASK], "store": False, "prompt_cache_key": "k"}),
        ("without /v1", "/chat/completions", {"messages": [TASK], "max_tokens": 8}),
        ("on /beta", "/beta/chat/completions", {"messages": [TASK], "max_tokens": 8}),
        ("keys of its own", "/v1/chat/completions", {"messages": [TASK], "chat_id": "c", "session_id": "s", "features": {"web_search": False}, "max_tokens": 8}),
    ],
)
def _(path, body):
    body = {"model": CHAT, "stream": True, **body}
    note("request", body)
    gather_chunks(stream_chunks(path, body), thinking=False, include_usage=False)


if __name__ == "__main__":
    cases.main()
