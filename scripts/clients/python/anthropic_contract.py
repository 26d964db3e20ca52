"""What holds of every answer in Anthropic's form; shared by its SDK's suite and by the replay of Claude Code."""

import json

from cases import equal, holds
from contract import check_instance

STOP_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")
# Block of a message: members that it begins with, and its deltas with the member that they extend.
BLOCKS = {
    "thinking": ({"type": "thinking", "thinking": "", "signature": ""}, {"thinking_delta": "thinking", "signature_delta": "signature"}),
    "text": ({"type": "text", "text": ""}, {"text_delta": "text"}),
    "tool_use": ({"type": "tool_use", "input": {}}, {"input_json_delta": "partial_json"}),
}
ORDER = list(BLOCKS)

# Calls of strict tools follow their schema; of others, only names and form are certain.
LAMP_TOOL = {
    "name": "set_lamp",
    "strict": True,
    "description": "Switches the lamp.",
    "input_schema": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "colour": {"type": "string", "enum": ["red", "green", "青"]}},
        "required": ["on", "colour"],
        "additionalProperties": False,
    },
}
TIMER_TOOL = {
    "name": "set_timer",
    "strict": True,
    "description": "Starts the timer.",
    "input_schema": {
        "type": "object",
        "properties": {"minutes": {"type": "string", "enum": ["1", "5", "15"]}},
        "required": ["minutes"],
        "additionalProperties": False,
    },
}
SCHEMAS = {tool["name"]: tool["input_schema"] for tool in (LAMP_TOOL, TIMER_TOOL)}


def check_usage(usage):
    for member in ("input_tokens", "cache_read_input_tokens", "output_tokens"):
        holds(f"a count in usage.{member}", isinstance(usage[member], int) and usage[member] >= 0, usage)
    equal("usage.cache_creation_input_tokens", usage["cache_creation_input_tokens"], 0)
    equal("cache reads in whole blocks of 64", usage["cache_read_input_tokens"] % 64, 0)


def num_prompt_tokens(usage):
    """All of the prompt: what was read from the cache is counted beside the input."""
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


def check_message(message, thinking):
    """A whole message, as the dictionary that its JSON is."""
    equal("type", message["type"], "message")
    equal("role", message["role"], "assistant")
    holds("an id", isinstance(message["id"], str) and message["id"], message)
    holds("a model", isinstance(message["model"], str) and message["model"], message)
    kinds = [block["type"] for block in message["content"]]
    holds("blocks in the order of thinking, text and tool use", kinds == sorted(kinds, key=ORDER.index), kinds)
    holds("at most one block of thinking and one of text", kinds.count("thinking") <= 1 and kinds.count("text") <= 1, kinds)
    equal("a block of thinking", "thinking" in kinds, thinking)
    for block in message["content"]:
        if block["type"] == "thinking":
            holds("a signature", block["signature"], block)
        if block["type"] == "tool_use":
            holds("an id of the call", block["id"], block)
            check_instance(block["input"], SCHEMAS[block["name"]])
    reason = message["stop_reason"]
    holds(f"stop_reason one of {STOP_REASONS}", reason in STOP_REASONS, reason)
    equal("stop_reason tool_use exactly if tools are used", reason == "tool_use", "tool_use" in kinds)
    equal("a stop_sequence exactly if one was hit", message["stop_sequence"] is not None, reason == "stop_sequence")
    check_usage(message["usage"])


def gather_events(events, thinking):
    """The whole message that the events of one stream make, after a look at the form and order of each event."""
    for name, data in events:
        equal("name of the event and type of its data", name, data["type"])
    data = [data for name, data in events if name != "ping"]
    equal("first event", data[0]["type"], "message_start")
    message = dict(data[0]["message"])
    equal("content at the start", message["content"], [])
    equal("stop_reason at the start", message["stop_reason"], None)
    equal("stop_sequence at the start", message["stop_sequence"], None)
    check_usage(message["usage"])
    equal("last two events", [event["type"] for event in data[-2:]], ["message_delta", "message_stop"])
    equal("members of message_stop", data[-1], {"type": "message_stop"})
    content, is_open = [], False
    for event in data[1:-2]:
        kind = event["type"]
        if kind == "content_block_start":
            holds("the block before closed", not is_open, event)
            equal("index of the block", event["index"], len(content))
            block = dict(event["content_block"])
            first = BLOCKS[block["type"]][0]
            equal("members at the start of the block", {key: block[key] for key in first}, first)
            if block["type"] == "tool_use":
                holds("id and name of the call", block["id"] and block["name"], block)
                block["partial_json"] = ""
            content.append(block)
            is_open = True
        elif kind == "content_block_delta":
            holds("an open block", is_open, event)
            equal("index of the delta", event["index"], len(content) - 1)
            block, delta = content[-1], event["delta"]
            deltas = BLOCKS[block["type"]][1]
            holds(f"a delta of the block: {list(deltas)}", delta["type"] in deltas, delta)
            member = deltas[delta["type"]]
            equal("members of the delta", sorted(delta), sorted(["type", member]))
            if block["type"] == "thinking" and member == "thinking":
                equal("signature before the thinking ends", block["signature"], "")
            block[member] += delta[member]
        else:
            equal("type of the event", kind, "content_block_stop")
            holds("an open block", is_open, event)
            equal("index of the closed block", event["index"], len(content) - 1)
            is_open = False
    holds("all blocks closed", not is_open, data)
    for block in content:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json") or "{}")
    ending = data[-2]
    usage = message["usage"] | ending["usage"]
    # How much of the prompt was in the cache need not be known at the start.
    equal("prompt tokens at the end", num_prompt_tokens(usage), num_prompt_tokens(message["usage"]))
    message |= {"content": content, **ending["delta"], "usage": usage}
    check_message(message, thinking)
    return message


def without_ids(content):
    """Blocks with what is random left out."""
    return [{key: value for key, value in block.items() if key not in ("id", "signature")} for block in content]


def check_same_message(whole, streamed):
    """That a stream says what the whole message for the same request with the same seed says."""
    equal("content of the stream", without_ids(streamed["content"]), without_ids(whole["content"]))
    for member in ("stop_reason", "stop_sequence"):
        equal(f"{member} of the stream", streamed[member], whole[member])
    equal("output_tokens of the stream", streamed["usage"]["output_tokens"], whole["usage"]["output_tokens"])
