//! `/v1/responses`: the same answers as those of chat, in OpenAI's newer form.

mod common;

use common::{Answer, END_THINK, ScriptedModel, Setup, TestServer, merged};
use serde_json::{Value, json};

fn hello() -> Value {
    json!({"input": "hi", "temperature": 0})
}

async fn respond(server: &TestServer, body: Value) -> Answer {
    server.post("/v1/responses", body).await
}

/// The data of a stream's events, in their order.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers["content-type"], "text/event-stream", "{}", answer.body);
    let data = |event: &str| {
        let (kind, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], kind);
        data
    };
    answer.body.split_terminator("\n\n").map(data).collect()
}

fn thinking_server() -> TestServer {
    let mut script: Vec<u32> = b"hm".iter().copied().map(u32::from).collect();
    script.push(END_THINK);
    script.extend(b"yes".iter().copied().map(u32::from));
    Setup::new(ScriptedModel::new(&script)).start()
}

#[tokio::test]
async fn a_response() {
    let server = Setup::saying("hello").start();
    for path in ["/responses", "/v1/responses", "/beta/responses", "/beta/v1/responses"] {
        let body = server.post(path, hello()).await.json();
        assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")), "{body}");
        assert!(body["id"].as_str().unwrap().starts_with("resp_"));
        assert_eq!(body["model"], "tiny");
        let output = body["output"].as_array().unwrap();
        assert_eq!(output.len(), 1);
        assert_eq!((&output[0]["type"], &output[0]["role"]), (&json!("message"), &json!("assistant")));
        assert_eq!(
            output[0]["content"],
            json!([{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}])
        );
        // What the SDKs' types promise.
        for (member, expected) in [
            ("error", json!(null)),
            ("incomplete_details", json!(null)),
            ("instructions", json!(null)),
            ("metadata", json!({})),
            ("parallel_tool_calls", json!(true)),
            ("previous_response_id", json!(null)),
            ("store", json!(false)),
            ("temperature", json!(0)),
            ("text", json!({"format": {"type": "text"}})),
            ("tool_choice", json!("auto")),
            ("tools", json!([])),
            ("truncation", json!("disabled")),
        ] {
            assert_eq!(body[member], expected, "{member}");
        }
        assert_eq!((&body["usage"]["input_tokens"], &body["usage"]["output_tokens"]), (&json!(6), &json!(5)));
    }
}

#[tokio::test]
async fn a_streamed_response_says_the_same() {
    let server = thinking_server();
    let body = json!({"input": "hi", "temperature": 0, "thinking": {"type": "enabled"}});
    let whole = respond(&server, body.clone()).await.json();
    assert_eq!(whole["output"][0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
    assert_eq!(whole["output"][1]["content"][0]["text"], "yes");
    assert_eq!(whole["usage"]["output_tokens_details"], json!({"reasoning_tokens": 2}));

    let events = events(&respond(&server, merged(&body, json!({"stream": true}))).await);
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[0]["response"]["status"], "in_progress");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    let without_ids = |response: &Value| {
        let mut response = response.clone();
        for item in response["output"].as_array_mut().unwrap() {
            item["id"] = Value::Null;
        }
        for member in ["id", "created_at"] {
            response[member] = Value::Null;
        }
        response
    };
    assert_eq!(without_ids(&last["response"]), without_ids(&whole));
    let joined = |kind: &str| -> String {
        let deltas = events.iter().filter(|event| event["type"] == kind);
        deltas.map(|event| event["delta"].as_str().unwrap()).collect()
    };
    assert_eq!(joined("response.reasoning_text.delta"), "hm");
    assert_eq!(joined("response.output_text.delta"), "yes");
}

#[tokio::test]
async fn fields_of_responses() {
    let server = Setup::saying("hello").start();
    let text = async |fields: Value| respond(&server, merged(&hello(), fields)).await.at("/output/0/content/0/text");
    assert_eq!(text(json!({"instructions": "S", "input": [{"role": "user", "content": "hi"}]})).await, "hello");
    assert_eq!(text(json!({"n": 3, "store": true, "metadata": {"a": "b"}, "background": false})).await, "hello");
    assert_eq!(
        text(json!({"previous_response_id": null, "conversation": null, "tools": [], "text": null})).await,
        "hello"
    );

    let answer = respond(&server, merged(&hello(), json!({"max_output_tokens": 2}))).await;
    assert_eq!((answer.at("/status"), answer.at("/max_output_tokens")), (json!("incomplete"), json!(2)));
    assert_eq!(answer.at("/output/0/content/0/text"), "he");

    for fields in [json!({"include": ["message.output_text.logprobs"]}), json!({"top_logprobs": 2})] {
        let body = merged(&hello(), fields.clone());
        let whole = respond(&server, body.clone()).await.at("/output/0/content/0/logprobs");
        assert_eq!(whole.as_array().unwrap().len(), 5, "{fields}");
        assert_eq!(whole[0]["token"], "h");
        let num_top = if fields.get("top_logprobs").is_some() { 2 } else { 0 };
        assert_eq!(whole[0]["top_logprobs"].as_array().unwrap().len(), num_top);
        let events = events(&respond(&server, merged(&body, json!({"stream": true}))).await);
        let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
        let streamed: Vec<&Value> = deltas.flat_map(|event| event["logprobs"].as_array().unwrap()).collect();
        assert_eq!(json!(streamed), whole, "{fields}");
    }

    let body = json!({"model": "deepseek-reasoner", "reasoning": {"effort": "none", "summary": "auto"}, "input": "hi"});
    let answer = respond(&server, body).await;
    assert_eq!(answer.at("/output/0/type"), "message");
    assert_eq!(answer.at("/reasoning"), json!({"effort": "none", "summary": null}));
    assert_eq!(answer.at("/model"), "deepseek-reasoner");
    let answer = respond(&server, json!({"model": "deepseek-reasoner", "input": "hi"})).await;
    assert_eq!(answer.at("/output/0/type"), "reasoning");
    assert!(answer.at("/output/0/encrypted_content").is_null());
    let body = json!({"model": "deepseek-reasoner", "input": "hi", "include": ["reasoning.encrypted_content"]});
    assert_eq!(respond(&server, body).await.at("/output/0/encrypted_content"), "hello");
}

#[tokio::test]
async fn a_budget_ends_the_reasoning() {
    let server = thinking_server();
    for (fields, thought) in [(json!({}), "hm"), (json!({"thinking_token_budget": 1}), "h")] {
        let answer = respond(
            &server,
            merged(&hello(), merged(&json!({"reasoning": {"effort": "high"}, "model": "deepseek-reasoner"}), fields)),
        )
        .await;
        assert_eq!(answer.at("/output/0/content/0/text"), thought, "{}", answer.body);
    }
}

#[tokio::test]
async fn refused_responses() {
    let server = Setup::saying("hello").start();
    const PREFIX: &str = "Failed to deserialize the JSON body into the target type: ";
    let stateless = |param: &str| {
        format!(
            "{param} is not supported: this server stores nothing between requests; send the whole conversation as `input`"
        )
    };
    let item = |item: Value| json!({"input": [item]});
    let cases = [
        (json!({"previous_response_id": "resp_1"}), stateless("previous_response_id")),
        (json!({"conversation": "conv_1"}), stateless("conversation")),
        (json!({"conversation": {"id": "conv_1"}}), stateless("conversation")),
        (json!({"prompt": {"id": "p"}}), stateless("prompt")),
        (json!({"background": true}), stateless("background")),
        (
            json!({"input": 5}),
            format!("{PREFIX}input: invalid type: integer `5`, expected a string or an array of items"),
        ),
        (
            json!({"input": {"a": 1}}),
            format!("{PREFIX}input.a: invalid type: map, expected a string or an array of items"),
        ),
        (json!({"input": []}), "messages is empty; at least one message is needed".to_owned()),
        (
            item(json!({"type": "item_reference", "id": "x"})),
            format!(
                "{PREFIX}input[0].type: unknown variant `item_reference`, expected one of `message`, `function_call`, \
                 `function_call_output`, `reasoning`"
            ),
        ),
        (
            item(json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]})),
            format!("{PREFIX}input[0].content[0].type: unknown variant `input_image`, expected one of `input_text`"),
        ),
        (item(json!({"role": "user"})), format!("{PREFIX}input[0]: missing field `content`")),
        (item(json!({"content": "x"})), format!("{PREFIX}input[0]: missing field `role`")),
        (item(json!({"type": "function_call", "name": "f"})), format!("{PREFIX}input[0]: missing field `call_id`")),
        (
            item(json!({"type": "function_call", "call_id": "a", "name": "f"})),
            format!("{PREFIX}input[0]: missing field `arguments`"),
        ),
        (
            item(json!({"type": "function_call_output", "call_id": "a"})),
            format!("{PREFIX}input[0]: missing field `output`"),
        ),
        (
            item(json!({"type": "function_call_output", "call_id": "a", "output": "1"})),
            "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'".to_owned(),
        ),
        (
            json!({"tools": [{"type": "web_search"}]}),
            format!("{PREFIX}tools[0]: unknown variant `web_search`, expected `function`"),
        ),
        (json!({"tools": [{"name": "f"}]}), format!("{PREFIX}tools[0]: missing field `type`")),
        (
            json!({"tools": [{"type": "function", "name": "no spaces"}]}),
            "Invalid tools[0].function.name value".to_owned(),
        ),
        (json!({"tool_choice": "sometimes"}), format!("{PREFIX}tool_choice: unknown variant `sometimes`")),
        (
            json!({"tool_choice": {"type": "mcp"}}),
            format!("{PREFIX}tool_choice: unknown variant `mcp`, expected `function`"),
        ),
        (
            json!({"tool_choice": {"type": "function", "name": "g"}}),
            "Invalid tool_choice value, `g` is not the name of one of the tools".to_owned(),
        ),
        (
            json!({"max_output_tokens": 0}),
            "Invalid max_tokens value, the valid range of max_tokens is [1, 2048]".to_owned(),
        ),
        (
            json!({"top_logprobs": 21}),
            "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].".to_owned(),
        ),
        (json!({"text": {"format": {"type": "xml"}}}), format!("{PREFIX}text.format.type: unknown variant `xml`")),
        (
            json!({"text": {"format": {"type": "json_object"}}}),
            "Prompt must contain the word 'json' in some form".to_owned(),
        ),
        (json!({"reasoning": {"effort": "huge"}}), format!("{PREFIX}reasoning.effort: unknown variant `huge`")),
        (json!({"model": "gpt-4"}), "Model Not Exist".to_owned()),
        (json!({"temperature": 3}), "Invalid temperature value, the valid range of temperature is [0, 2]".to_owned()),
    ];
    for (fields, words) in cases {
        let answer = respond(&server, merged(&hello(), fields.clone())).await;
        assert_eq!(answer.status, 400, "{fields}: {}", answer.body);
        let message = answer.at("/error/message");
        assert!(message.as_str().unwrap().starts_with(&words), "{fields}: {message}");
    }
    let answer = respond(&server, json!({})).await;
    assert!(answer.body.contains("missing field `input`"), "{}", answer.body);
}

/// A conversation with calls, sent back as items, is the prompt that the same conversation is as messages.
#[tokio::test]
async fn items_give_the_prompt_of_messages() {
    let server = Setup::saying("hello").start();
    let input = json!([
        {"role": "user", "content": "Time?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "function_call", "call_id": "a", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "12:00"},
    ]);
    let tool = json!({"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}});
    let flat = merged(&tool, json!({"type": "function", "strict": null}));
    let body = json!({"input": input, "instructions": "S", "tools": [flat], "thinking": {"type": "enabled"}, "temperature": 0});
    let response = respond(&server, body).await;
    let body = json!({
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": null, "reasoning_content": "t", "tool_calls":
                [{"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "12:00"},
        ],
        "tools": [{"type": "function", "function": tool}],
        "thinking": {"type": "enabled"},
    });
    let tokens = server.post("/tokenize", body).await;
    assert_eq!(response.at("/usage/input_tokens"), tokens.at("/count"), "{}", response.body);
}
