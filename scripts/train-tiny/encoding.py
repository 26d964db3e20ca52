"""DeepSeek V3.2's prompt encoding: a conversation becomes text, in segments of who says it."""

import json

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"

TOOLS_INTRODUCTION = """\
## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
"""

RESPONSE_FORMAT = "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def call(tool_call):
    """One call in DSML. Strings stand as they are, everything else as JSON."""
    function = tool_call["function"]
    parameters = [
        f'<｜DSML｜parameter name="{key}" string="{"true" if isinstance(value, str) else "false"}">'
        f"{value if isinstance(value, str) else dumps(value)}</｜DSML｜parameter>"
        for key, value in json.loads(function["arguments"]).items()
    ]
    return f'<｜DSML｜invoke name="{function["name"]}">\n' + "\n".join(parameters) + "\n</｜DSML｜invoke>"


def segments(messages, tools=(), schema=None, thinking=False):
    """The conversation as (text, whether the assistant generates it); a segment begins or ends with a control token.

    `messages` and `tools` are those of the OpenAI format. Tools and schema belong to the first message, which is an
    empty system message if there is none. Reasoning is kept after the last user message alone.
    """
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if (tools or schema) and messages[0]["role"] != "system":
        messages, last = [{"role": "system", "content": ""}, *messages], last + 1
    result, prompt, open_results = [], BOS, 0
    for index, message in enumerate(messages):
        role, content = message["role"], message.get("content") or ""
        if role == "system":
            prompt += content
            if index == 0 and tools:
                functions = "\n".join(dumps(tool["function"]) for tool in tools)
                prompt += f"\n\n{TOOLS_INTRODUCTION}<functions>\n{functions}\n</functions>\n"
            if index == 0 and schema:
                prompt += RESPONSE_FORMAT + dumps(schema)
        elif role == "user":
            prompt += USER + content + ASSISTANT + (THINK if thinking and index == last else END_THINK)
        elif role == "tool":
            if messages[index - 1]["role"] == "assistant":
                prompt += "\n\n<function_results>"
            prompt += f"\n<result>{content}</result>"
            open_results -= 1
            if open_results == 0:
                prompt += "\n</function_results>\n\n" + (THINK if thinking and index > last else END_THINK)
        else:
            calls = message.get("tool_calls") or []
            open_results = len(calls)
            reasoning = message.get("reasoning_content", "") + END_THINK if thinking and index > last else ""
            if calls:
                blocks = "\n".join(call(tool_call) for tool_call in calls)
                content += f"\n\n<｜DSML｜function_calls>\n{blocks}\n</｜DSML｜function_calls>"
            result += [(prompt, False), (reasoning + content + EOS, True)]
            prompt = ""
    return result + ([(prompt, False)] if prompt else [])


def fim(prefix, suffix, middle):
    """Fill in the middle, in the same form."""
    return [(BOS + FIM_BEGIN + prefix + FIM_HOLE + suffix + FIM_END, False), (middle + EOS, True)]
