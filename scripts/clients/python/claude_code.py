"""Claude Code's requests, replayed: its headers, its system blocks, its many tools, and its loop of calls and results."""

import json
import re

import cases
from anthropic_contract import LAMP_TOOL, check_message, check_same_message, gather_events, num_prompt_tokens
from cases import case, equal, holds, note, table
from contract import ENDLESS, KEY, KEYED_SERVER, SERVER, WRONG_KEY, check_running, open_stream, post, read_events

PATH = "/anthropic/v1/messages?beta=true"
COUNT_PATH = "/anthropic/v1/messages/count_tokens?beta=true"
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,fine-grained-tool-streaming-2025-05-14",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "0.70.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v22.0.0",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
    "x-stainless-helper-method": "stream",
    "user-agent": "claude-cli/2.1.0 (external, cli)",
    "accept": "application/json",
}
BOTH_KEYS = {"x-api-key": KEY, "authorization": f"Bearer {KEY}"}


def tool(name, description, required, **properties):
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": description, "input_schema": {"$schema": "http://json-schema.org/draft-07/schema#", **schema}}


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
STATUS = {"type": "string", "enum": ["pending", "in_progress", "completed"]}
TODO = {"type": "object", "properties": {"content": {"type": "string", "minLength": 1}, "status": STATUS}, "required": ["content", "status"]}
TOOLS = [
    tool("Task", "Hands a task to an agent.", ["prompt"], prompt=TEXT, subagent_type=TEXT),
    tool("Bash", "Runs a command.", ["command"], command=TEXT, timeout=NUMBER, run_in_background=FLAG),
    tool("BashOutput", "Reads a shell.", ["bash_id"], bash_id=TEXT, filter=TEXT),
    tool("KillShell", "Ends a shell.", ["shell_id"], shell_id=TEXT),
    tool("Glob", "Finds files.", ["pattern"], pattern=TEXT, path=TEXT),
    tool("Grep", "Searches files.", ["pattern"], pattern=TEXT, glob=TEXT, **{"-i": FLAG, "-n": FLAG}),
    tool("Read", "Reads a file.", ["file_path"], file_path=TEXT, offset=NUMBER, limit=NUMBER),
    tool("Edit", "Replaces text.", ["file_path", "old_string", "new_string"], file_path=TEXT, old_string=TEXT, new_string=TEXT),
    tool("Write", "Writes a file.", ["file_path", "content"], file_path=TEXT, content=TEXT),
    tool("NotebookEdit", "Edits a cell.", ["new_source"], new_source=TEXT, edit_mode={"type": "string", "enum": ["replace", "insert"]}),
    tool("WebFetch", "Fetches a page.", ["url"], url={"type": "string", "format": "uri"}, prompt=TEXT),
    tool("WebSearch", "Searches.", ["query"], query={"type": "string", "minLength": 2}),
    tool("TodoWrite", "Keeps the list.", ["todos"], todos={"type": "array", "items": TODO}),
    tool("ExitPlanMode", "Shows the plan.", []),
    tool("EnterPlanMode", "Plans.", []),
    tool("AskUserQuestion", "Asks.", ["question"], question=TEXT, options={"type": "array", "items": TEXT, "minItems": 2}),
    tool("Skill", "Uses a skill.", ["skill"], skill=TEXT),
    tool("SlashCommand", "Runs it.", ["command"], command=TEXT),
    tool("ListMcpResourcesTool", "Lists.", [], server=TEXT),
    tool("ReadMcpResourceTool", "Reads.", ["uri"], server=TEXT, uri=TEXT),
    {**LAMP_TOOL, "cache_control": {"type": "ephemeral"}},
]
# All of them are sent where that is the point; elsewhere these, which are read sooner.
FEW_TOOLS = TOOLS[-2:]
EPHEMERAL = {"type": "ephemeral"}
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.0; cc_entrypoint=cli;"},
    {"type": "text", "text": "You help with code.", "cache_control": EPHEMERAL},
    {"type": "text", "text": "Working directory: /src", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
]
REMINDER = {"type": "text", "text": "<system-reminder>\nThe list of things to do is empty.\n</system-reminder>"}
QUESTION = {"role": "user", "content": [REMINDER, {"type": "text", "text": "Switch on the lamp.", "cache_control": EPHEMERAL}]}
REQUEST = {
    "model": "claude-sonnet-4-5-20250929",
    "max_tokens": 32000,
    "system": SYSTEM,
    "messages": [QUESTION],
    "tools": FEW_TOOLS,
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "metadata": {"user_id": "user_0123456789abcdef_account__session_00000000-0000-0000-0000-000000000000"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "temperature": 1,
    "stream": True,
}
NO_THINKING = {"thinking": {"type": "disabled"}}


def stream(request, thinking, headers=HEADERS, server=SERVER):
    request = {**REQUEST, **request, "stream": True}
    note("request", {key: value for key, value in request.items() if key not in ("tools", "system")})
    with open_stream(PATH, request, headers, server) as response:
        events = [(name, json.loads(data)) for name, data in read_events(response)]
    note("events", events)
    return gather_events(events, thinking)


def ask(request, thinking):
    request = {**REQUEST, **request, "stream": False}
    status, _, text = post(PATH, request, HEADERS)
    note("answer", text)
    equal("status", status, 200)
    message = json.loads(text)
    check_message(message, thinking)
    return message


def count(request):
    request = {key: value for key, value in {**REQUEST, **request}.items() if key not in ("max_tokens", "stream", "metadata")}
    status, _, text = post(COUNT_PATH, request, HEADERS)
    note("answer of count_tokens", text)
    equal("status of count_tokens", status, 200)
    answer = json.loads(text)
    equal("members of the count", list(answer), ["input_tokens"])
    return answer["input_tokens"]


@table(
    "keys",
    [
        ("x-api-key", {"x-api-key": KEY}),
        ("bearer", {"authorization": f"Bearer {KEY}"}),
        ("both", BOTH_KEYS),
    ],
)
def _(keys):
    stream({"max_tokens": 8}, thinking=True, headers=HEADERS | keys, server=KEYED_SERVER)


@table("keys refused", [("none", {}), ("wrong", {"x-api-key": WRONG_KEY}), ("both wrong", {"x-api-key": WRONG_KEY, "authorization": f"Bearer {WRONG_KEY}"})])
def _(keys):
    status, _, text = post(PATH, REQUEST, HEADERS | keys, KEYED_SERVER)
    note("answer", text)
    equal("status", status, 401)
    body = json.loads(text)
    equal("type of the body", body["type"], "error")
    equal("type of the error", body["error"]["type"], "authentication_error")


@table(
    "a turn",
    [
        ("by its own model name", {"tools": TOOLS}, True),
        ("Opus", {"model": "claude-opus-4-5-20251101"}, True),
        ("Haiku without thinking", {"model": "claude-haiku-4-5-20251001", "tools": [], **NO_THINKING}, False),
        ("DeepSeek with a long context", {"model": "deepseek-chat[1m]"}, True),
        ("the reasoner", {"model": "deepseek-reasoner"}, True),
        ("adaptive thinking", {"thinking": {"type": "adaptive"}}, True),
        ("a system text", {"system": "You help with code."}, True),
        ("text for content", {"messages": [{"role": "user", "content": "Hello"}]}, True),
    ],
)
def _(request, thinking):
    # The limit that it asks for is above the context: it is lowered, not refused.
    message = stream(request, thinking)
    equal("prompt tokens", num_prompt_tokens(message["usage"]), count(request))


@table("whole and streamed", [("thinking", {"max_tokens": 40}, True), ("not thinking", {"max_tokens": 40, **NO_THINKING}, False)])
def _(request, thinking):
    # The seed is an extension of the server.
    request = {"seed": 7, **request}
    check_same_message(ask(request, thinking), stream(request, thinking))


CALL = {"type": "tool_use", "id": "toolu_1", "name": "set_lamp", "input": {"on": True, "colour": "red"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "on"}], "is_error": False, "cache_control": EPHEMERAL}


def running_turn(thinking, *results):
    blocks = [{"type": "thinking", "thinking": thinking, "signature": "of the server"}, {"type": "text", "text": "I will."}, CALL]
    return [QUESTION, {"role": "assistant", "content": blocks}, {"role": "user", "content": list(results)}]


@case("the loop: a forced call, its result with a reminder, an answer")
def _():
    choice = {"type": "tool", "name": "set_lamp", "disable_parallel_tool_use": True}
    forced = stream({**NO_THINKING, "tools": TOOLS, "tool_choice": choice, "max_tokens": 400}, thinking=False)
    equal("stop_reason", forced["stop_reason"], "tool_use")
    calls = [block for block in forced["content"] if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "on"} for call in calls]
    messages = [QUESTION, {"role": "assistant", "content": forced["content"]}, {"role": "user", "content": [*results, REMINDER]}]
    answer = stream({**NO_THINKING, "messages": messages, "max_tokens": 30}, thinking=False)
    equal("prompt tokens", num_prompt_tokens(answer["usage"]), count({**NO_THINKING, "messages": messages}))


@case("the loop: thinking comes back with its signature")
def _():
    first = stream({"messages": [QUESTION], "max_tokens": 30}, thinking=True)
    [thinking] = [block for block in first["content"] if block["type"] == "thinking"]
    messages = [QUESTION, {"role": "assistant", "content": [thinking, CALL]}, {"role": "user", "content": [RESULT, REMINDER]}]
    stream({"messages": messages, "max_tokens": 30}, thinking=True)


@case("the loop: a reminder beside a result does not end the turn")
def _():
    long, short = "The lamp is off, and red was wanted. " * 4, "Hm."
    for results in ([RESULT], [RESULT, REMINDER]):
        counts = [count({"messages": running_turn(thinking, *results)}) for thinking in (long, short)]
        holds("the thoughts of the running turn in the prompt", counts[0] > counts[1], counts)
    # What the user says begins a new turn, and the thoughts of the one before are gone.
    counts = [count({"messages": running_turn(thinking, RESULT, {"type": "text", "text": "And now?"})}) for thinking in (long, short)]
    equal("prompt tokens, whatever was thought before", counts[0], counts[1])


@table(
    "histories",
    [
        ("a result without content", running_turn("Hm.", {"type": "tool_result", "tool_use_id": "toolu_1"})),
        ("a result that is text", running_turn("Hm.", {**RESULT, "content": "on"})),
        ("a failed call", running_turn("Hm.", {**RESULT, "is_error": True})),
        ("thoughts that nobody can read", [QUESTION, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "AAAA"}, CALL]}, {"role": "user", "content": [RESULT]}]),
        (
            "two turns",
            [QUESTION, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Done."}]}, QUESTION],
        ),
        ("a user twice", [QUESTION, QUESTION]),
    ],
)
def _(messages):
    message = stream({"messages": messages, "max_tokens": 20}, thinking=True)
    equal("prompt tokens", num_prompt_tokens(message["usage"]), count({"messages": messages}))


@case("small calls: a title that it begins itself")
def _():
    request = {
        "model": "claude-haiku-4-5-20251001",
        "max_tokens": 60,
        "system": [{"type": "text", "text": "Name the topic. Answer in JSON."}],
        "messages": [{"role": "user", "content": "Switch on the lamp."}, {"role": "assistant", "content": "{"}],
        "stop_sequences": ["}"],
        "tools": [],
        **NO_THINKING,
    }
    message = stream(request, thinking=False)
    holds("a reason", message["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence"), message)


@case("small calls: is there a quota")
def _():
    body = {"model": "claude-haiku-4-5-20251001", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}], "metadata": REQUEST["metadata"]}
    status, _, text = post(PATH, body, HEADERS)
    note("answer", text)
    equal("status", status, 200)
    check_message(json.loads(text), thinking=False)
    holds("at most one token", json.loads(text)["usage"]["output_tokens"] <= 1, text)


@case("count_tokens: a tool counts as what it adds to the prompt")
def _():
    with_tools, without = count({"tools": TOOLS}), count({"tools": TOOLS[:-1]})
    holds("one tool less is fewer tokens", without < with_tools, [without, with_tools])


@table(
    "errors",
    [
        ("an image", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}]}]}, "image"),
        ("a call without its result", {"messages": running_turn("Hm.", REMINDER)}, "tool_result"),
        ("a result without its call", {"messages": [{"role": "user", "content": [RESULT]}]}, "tool_use"),
        ("temperature", {"temperature": 3}, "temperature"),
        ("a prompt beyond the context", {"messages": [{"role": "user", "content": "deep " * 20000}]}, "maximum context length|too long"),
        ("a forced call while thinking", {"model": "deepseek-reasoner", "tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def _(request, words):
    for streaming in (True, False):
        status, _, text = post(PATH, {**REQUEST, **request, "stream": streaming}, HEADERS)
        note("answer", text)
        equal("status", status, 400)
        body = json.loads(text)
        equal("type of the body", body["type"], "error")
        equal("type of the error", body["error"]["type"], "invalid_request_error")
        holds(f"a message about {words}", re.search(words, body["error"]["message"]), body)


@case("abort: a stream that is closed frees its request")
def _():
    check_running(0)
    # Thoughts and an answer as long as the context has room for.
    response = open_stream(PATH, {**REQUEST, "tools": [], **NO_THINKING, **ENDLESS, "max_tokens": 32000}, HEADERS)
    for _ in zip(range(3), read_events(response)):
        pass
    check_running(1)
    response.close()
    check_running(0)


if __name__ == "__main__":
    cases.main()
