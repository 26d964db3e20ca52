//! Anthropic's API: messages over HTTP, their errors, and what Claude Code sends.

mod common;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use cachalot_server::{MissingReasoning, ServerConfig};
use common::{Answer, END_THINK, ScriptedModel, Setup, TestServer, loading, merged};
use serde_json::{Value, json};

const MESSAGES: &str = "/anthropic/v1/messages";
const COUNT_TOKENS: &str = "/anthropic/v1/messages/count_tokens";

fn body() -> Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "temperature": 0, "messages": [{"role": "user", "content": "hi"}]})
}

fn thinking_setup(reasoning: &str, answer: &str) -> Setup {
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    Setup::new(ScriptedModel::new(&[bytes(reasoning), vec![END_THINK], bytes(answer)].concat()))
}

/// The data of each event of a stream, after a look at the names.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream", "{}", answer.body);
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    answer.body.split_terminator("\n\n").map(event).collect()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

/// The answer is an error of Anthropic's form whose message has all of `words`.
#[track_caller]
fn check_error(answer: &Answer, status: u16, kind: &str, words: &[&str]) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    let body = answer.json();
    let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("no message in {body}"));
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(body, json!({"type": "error", "error": {"type": kind, "message": message}}));
    assert_eq!(answer.headers["request-id"], answer.headers["x-request-id"]);
    if let Some(length) = answer.headers.get(header::CONTENT_LENGTH) {
        assert_eq!(length.to_str().unwrap(), answer.body.len().to_string());
    }
}

#[tokio::test]
async fn a_message() {
    let server = Setup::saying("hello!").start();
    for path in [MESSAGES, "/v1/messages", "/anthropic/v1/messages?beta=true", "/v1/messages?beta=true"] {
        let answer = server.post(path, body()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers["request-id"], answer.headers["x-request-id"]);
        let id = answer.at("/id");
        assert!(id.as_str().unwrap().starts_with("msg_"), "{id}");
        let expected = json!({
            "id": id, "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": "hello!"}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                      "output_tokens": 6, "service_tier": "standard"},
        });
        assert_eq!(answer.body, expected.to_string());
    }
}

#[tokio::test]
async fn models_and_thinking() {
    let server = thinking_setup("hm", "yes").start();
    let on = json!({"type": "enabled", "budget_tokens": 1024});
    let cases = [
        (json!({"thinking": on}), true),
        (json!({"thinking": {"type": "adaptive"}}), true),
        (json!({"thinking": {"type": "disabled"}}), false),
        (json!({}), false),
        (json!({"model": "deepseek-chat"}), false),
        (json!({"model": "deepseek-reasoner"}), true),
        (json!({"model": "deepseek-reasoner[1m]"}), true),
        (json!({"model": "deepseek-reasoner", "thinking": {"type": "disabled"}}), false),
        (json!({"model": "tiny", "thinking": on}), true),
    ];
    for (fields, thinks) in cases {
        let request = merged(&body(), fields.clone());
        let answer = server.post(MESSAGES, request.clone()).await;
        assert_eq!(answer.at("/model"), request["model"], "{fields}");
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": answer.at("/id")});
        let expected = if thinks {
            json!([thinking, {"type": "text", "text": "yes"}])
        } else {
            json!([{"type": "text", "text": "hmyes"}])
        };
        assert_eq!(answer.at("/content"), expected, "{fields}");
    }
    // Without a name, it is the model's own.
    let nameless = merged(&body(), json!({"model": null}));
    assert_eq!(server.post(MESSAGES, nameless).await.at("/model"), "tiny");
    // What is continued is past its reasoning. The model takes the three tokens for its own.
    let question = json!({"role": "user", "content": "hi"});
    let prefilled = json!({"messages": [question, {"role": "assistant", "content": "so\n"}], "thinking": on});
    let answer = server.post(MESSAGES, merged(&body(), prefilled)).await;
    assert_eq!(answer.at("/content"), json!([{"type": "text", "text": "yes"}]));
}

#[tokio::test]
async fn a_streamed_message() {
    let server = thinking_setup("hm", "hello").start();
    let request = merged(&body(), json!({"thinking": {"type": "enabled"}, "stream": true}));
    let answer = server.post("/v1/messages?beta=true", request).await;
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-cache");
    assert_eq!(answer.headers["request-id"], answer.headers["x-request-id"]);
    let events = events(&answer);
    let shown: Vec<String> = events
        .iter()
        .map(|event| {
            let text = |member: &str| event["delta"][member].as_str().map(|text| format!(" {text}"));
            let text = text("thinking").or(text("text")).or(text("stop_reason")).unwrap_or_default();
            format!("{}{text}", event["type"].as_str().unwrap())
        })
        .collect();
    // One event per token, as far as tokens have text.
    assert_eq!(
        shown,
        [
            "message_start",
            "content_block_start",
            "content_block_delta h",
            "content_block_delta m",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta h",
            "content_block_delta e",
            "content_block_delta l",
            "content_block_delta l",
            "content_block_delta o",
            "content_block_stop",
            "message_delta end_turn",
            "message_stop",
        ]
    );
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 6);
    assert_eq!(events[4]["delta"], json!({"type": "signature_delta", "signature": events[0]["message"]["id"]}));
    // The closing tag counts as generated.
    assert_eq!(events[13]["usage"]["output_tokens"], 8);
    assert_eq!(events[13]["usage"]["input_tokens"], 6);
}

#[tokio::test]
async fn how_messages_end() {
    let server = Setup::saying("one STOP two").start();
    let cases = [
        (json!({}), "one STOP two", json!("end_turn"), Value::Null),
        (json!({"stop_sequences": ["two", "STOP"]}), "one ", json!("stop_sequence"), json!("STOP")),
        (json!({"max_tokens": 5}), "one S", json!("max_tokens"), Value::Null),
        // More than the model can do is what clients of larger models ask for.
        (json!({"max_tokens": 32000}), "one STOP two", json!("end_turn"), Value::Null),
        (json!({"max_tokens": 2048}), "one STOP two", json!("end_turn"), Value::Null),
        // Nothing that is not known is in the way.
        (
            json!({"top_k": 5, "metadata": {"user_id": "{\"device_id\": 1}"}, "service_tier": "auto", "container": null,
                   "mcp_servers": [], "context_management": {"edits": []}, "output_config": {"effort": "high"}, "speed": "fast"}),
            "one STOP two",
            json!("end_turn"),
            Value::Null,
        ),
    ];
    for (fields, text, stop_reason, stop_sequence) in cases {
        let request = merged(&body(), fields.clone());
        let answer = server.post(MESSAGES, request.clone()).await;
        assert_eq!(answer.status, 200, "{fields}: {}", answer.body);
        assert_eq!(answer.at("/content/0/text"), text, "{fields}");
        assert_eq!((answer.at("/stop_reason"), answer.at("/stop_sequence")), (stop_reason, stop_sequence), "{fields}");
        let streamed = events(&server.post(MESSAGES, merged(&request, json!({"stream": true}))).await);
        let deltas = of_kind(&streamed, "content_block_delta");
        let joined: String = deltas.iter().map(|event| event["delta"]["text"].as_str().unwrap()).collect();
        assert_eq!(joined, text, "{fields}");
        let ending = of_kind(&streamed, "message_delta")[0];
        assert_eq!(
            ending["delta"],
            json!({"stop_reason": answer.at("/stop_reason"), "stop_sequence": answer.at("/stop_sequence")})
        );
        assert_eq!(ending["usage"]["output_tokens"], answer.at("/usage/output_tokens"), "{fields}");
    }
}

/// The extensions that make an answer repeatable, long enough, and not all thought; Anthropic's API has none of them.
#[tokio::test]
async fn extensions() {
    let mut model = ScriptedModel::saying("hi");
    model.certainty = 0.0;
    let server = Setup::new(model).start();
    let seeded =
        |seed: i64| merged(&body(), json!({"seed": seed, "temperature": 1, "max_tokens": 30, "min_tokens": 30}));
    let mut texts = Vec::new();
    for seed in [1, 1, 2] {
        let answer = server.post(MESSAGES, seeded(seed)).await;
        assert_eq!(answer.at("/usage/output_tokens"), 30, "{}", answer.body);
        texts.push(answer.at("/content/0/text"));
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);
    let server = thinking_setup("hmmmmm", "yes").start();
    let thinking = merged(&body(), json!({"thinking": {"type": "enabled"}}));
    for (fields, thought) in [(json!({}), "hmmmmm"), (json!({"thinking_token_budget": 2}), "hm")] {
        let answer = server.post(MESSAGES, merged(&thinking, fields.clone())).await;
        assert_eq!(answer.at("/content/0/thinking"), thought, "{fields}: {}", answer.body);
    }
}

/// A client that is told so in this form sends the whole conversation instead.
#[tokio::test]
async fn threads_are_refused() {
    let server = Setup::saying("hi").start();
    for thread in [json!({"type": "create"}), json!({"type": "continue", "previous_message_id": "msg_1"})] {
        let answer = server.post(MESSAGES, merged(&body(), json!({"thread": thread}))).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.at("/error/type"), "invalid_request_error");
        assert_eq!(answer.at("/error/details"), json!({"error_code": "thread_unsupported_request"}));
    }
    assert_eq!(server.post(MESSAGES, merged(&body(), json!({"thread": null}))).await.status, 200);
}

#[tokio::test]
async fn strict_tools() {
    let server = Setup::saying("hi").start();
    let count = async |strict: Value| {
        let tool = json!({"name": "f", "input_schema": {"type": "object", "properties": {}}});
        let fields = json!({"tools": [merged(&tool, strict)]});
        server.post(COUNT_TOKENS, merged(&body(), fields)).await.at("/input_tokens").as_u64().unwrap()
    };
    // It reaches the chat request, which renders a tool with all its members.
    let with_strict = count(json!({"strict": true})).await;
    assert_eq!(with_strict, count(json!({})).await + ", \"strict\": true".len() as u64);
}

fn saying_calls(text: &str) -> TestServer {
    Setup::new(ScriptedModel::saying_tokens(text)).start()
}

/// Calls of the model, from its tokens to what a client reads; and back in the next request, after which the turn goes on.
#[tokio::test]
async fn calls_of_tools() {
    let server = saying_calls(
        "two callsTLet me see.\n\n<Dfunction_calls>\n<Dinvoke name=\"weather\">\n\
         <Dparameter name=\"city\" string=\"true\">Zürich \"<b>\"</Dparameter>\n\
         <Dparameter name=\"days\" string=\"false\">[1, 2.50]</Dparameter>\n</Dinvoke>\n\
         <Dinvoke name=\"now\">\n\n</Dinvoke>\n</Dfunction_calls>",
    );
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object"}});
    let request = merged(
        &body(),
        json!({"tools": [tool("weather"), tool("now")], "thinking": {"type": "enabled"}, "max_tokens": 1000}),
    );
    let answer = server.post(MESSAGES, request.clone()).await;
    let content = answer.at("/content");
    let input: Value = serde_json::from_str(r#"{"city": "Zürich \"<b>\"", "days": [1, 2.50]}"#).unwrap();
    assert_eq!(
        content,
        json!([
            {"type": "thinking", "thinking": "two calls", "signature": answer.at("/id")},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": content[2]["id"], "name": "weather", "input": input},
            {"type": "tool_use", "id": content[3]["id"], "name": "now", "input": {}},
        ])
    );
    assert_ne!(content[2]["id"], content[3]["id"]);
    assert_eq!(answer.at("/stop_reason"), "tool_use");
    assert!(answer.json().get("error").is_none());

    let streamed = events(&server.post(MESSAGES, merged(&request, json!({"stream": true}))).await);
    let starts = of_kind(&streamed, "content_block_start");
    let kinds: Vec<&str> = starts.iter().map(|event| event["content_block"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(starts[2]["content_block"]["name"], "weather");
    let deltas = of_kind(&streamed, "content_block_delta");
    let json_of = |index: usize| -> String {
        deltas
            .iter()
            .filter(|event| event["index"] == index)
            .map(|event| event["delta"]["partial_json"].as_str().unwrap())
            .collect()
    };
    // Piece by piece, and exactly the input.
    assert!(deltas.iter().filter(|event| event["index"] == 2).count() > 10);
    assert_eq!(json_of(2), r#"{"city": "Zürich \"<b>\"", "days": [1, 2.50]}"#);
    assert_eq!(json_of(3), "{}");
    assert_eq!(of_kind(&streamed, "message_delta")[0]["delta"]["stop_reason"], "tool_use");

    let results = json!([
        {"type": "tool_result", "tool_use_id": content[3]["id"], "content": "12:00"},
        {"type": "tool_result", "tool_use_id": content[2]["id"], "content": "sunny"},
    ]);
    let messages = json!([
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": content}, {"role": "user", "content": results}]);
    let next = server.post(MESSAGES, merged(&request, json!({"messages": messages}))).await;
    assert_eq!(next.status, 200, "{}", next.body);
    // It thinks again: the turn has gone on.
    assert_eq!(next.at("/content/0/thinking"), "two calls", "{}", next.body);
}

#[tokio::test]
async fn calls_that_are_none() {
    let endless = format!("So:<Dinvoke name=\"f\"><Dparameter name=\"x\" string=\"true\">{}", "x".repeat(200));
    // What the model says, within how many tokens, how it ends, and the error's text.
    let cases = [
        ("So:<Dinvoke name=\"f", 1000, "end_turn", "<｜DSML｜invoke name=\"f"),
        ("So:<Dinvoke name=\"f\">{\"a\": b}</Dinvoke>", 1000, "end_turn", ""),
        (&endless, 75, "max_tokens", "{\"x\": \"xxx"),
    ];
    for (script, max_tokens, stop_reason, text) in cases {
        let server = saying_calls(script);
        let request = merged(&body(), json!({"max_tokens": max_tokens}));
        let answer = server.post(MESSAGES, request.clone()).await;
        assert_eq!(answer.at("/content"), json!([{"type": "text", "text": "So:"}]), "{script}");
        assert_eq!(answer.at("/stop_reason"), stop_reason, "{script}");
        assert_eq!(answer.at("/error/type"), "malformed_tool_call");
        assert!(answer.at("/error/text").as_str().unwrap().starts_with(text), "{}", answer.body);
        let streamed = events(&server.post(MESSAGES, merged(&request, json!({"stream": true}))).await);
        assert_eq!(of_kind(&streamed, "message_delta")[0]["error"], answer.at("/error"), "{script}");
    }
}

/// The same conversation in both APIs is the same prompt.
#[tokio::test]
async fn counted_tokens() {
    let server = Setup::saying("hello").start();
    let schema = json!({"type": "object", "properties": {"zone": {"type": "string"}}});
    let ours = json!({
        "model": "claude",
        "system": [{"type": "text", "text": "S"}],
        "tools": [{"name": "now", "description": "The time", "input_schema": schema}],
        "thinking": {"type": "enabled"},
        "messages": [
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "tool_use", "id": "a", "name": "now", "input": {"zone": "UTC"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "12:00"}]},
        ],
    });
    let theirs = json!({
        "tools": [{"type": "function", "function": {"name": "now", "description": "The time", "parameters": schema}}],
        "thinking": {"type": "enabled"},
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls":
                [{"id": "a", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "12:00"},
        ],
    });
    let rendered = server.post("/tokenize", theirs).await;
    for path in [COUNT_TOKENS, "/v1/messages/count_tokens?beta=true"] {
        let answer = server.post(path, ours.clone()).await;
        assert_eq!(answer.body, json!({"input_tokens": rendered.at("/count")}).to_string());
    }
    let message = server.post(MESSAGES, merged(&ours, json!({"max_tokens": 10}))).await;
    assert_eq!(message.at("/usage/input_tokens"), rendered.at("/count"));
    check_error(
        &server.post(COUNT_TOKENS, json!({})).await,
        400,
        "invalid_request_error",
        &["missing field `messages`"],
    );
}

#[tokio::test]
async fn models() {
    let server = Setup::saying("hello").start();
    let model = |id: &str| json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z"});
    let list = json!({
        "data": [model("tiny"), model("deepseek-chat"), model("deepseek-reasoner")],
        "has_more": false, "first_id": "tiny", "last_id": "deepseek-reasoner",
    });
    let get = async |path: &str, version: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(version) = version {
            request = request.header("anthropic-version", version);
        }
        server.send(request.body(Body::empty()).unwrap()).await
    };
    for (path, version) in [
        ("/anthropic/v1/models", None),
        ("/anthropic/v1/models?limit=20", Some("2023-06-01")),
        ("/v1/models", Some("2023-06-01")),
    ] {
        assert_eq!(get(path, version).await.json(), list, "{path}");
    }
    for (path, version) in
        [("/anthropic/v1/models/deepseek-chat", None), ("/v1/models/deepseek-chat", Some("2023-06-01"))]
    {
        assert_eq!(get(path, version).await.json(), model("deepseek-chat"), "{path}");
    }
    for (path, version) in [("/anthropic/v1/models/claude", None), ("/v1/models/claude", Some("2023-06-01"))] {
        let words = ["There is no model `claude`", "tiny, deepseek-chat, deepseek-reasoner"];
        check_error(&get(path, version).await, 404, "not_found_error", &words);
    }
    // OpenAI's clients get what they expect.
    assert_eq!(get("/v1/models", None).await.at("/object"), "list");
    let own = get("/v1/models/tiny", None).await;
    assert_eq!((own.at("/id"), own.at("/object")), (json!("tiny"), json!("model")));
    let unknown = get("/v1/models/claude", None).await;
    assert_eq!((unknown.status.as_u16(), unknown.at("/error/code")), (404, json!("not_found")));
}

#[tokio::test]
async fn refusals() {
    let server = Setup::saying("hello").start();
    let invalid = "invalid_request_error";
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"max_tokens": null}), &["max_tokens: Field required"]),
        (json!({"max_tokens": 0}), &["Invalid max_tokens value, the valid range of max_tokens is [1, 2048]"]),
        (json!({"max_tokens": "many"}), &["max_tokens: invalid type: string \"many\""]),
        (json!({"temperature": 2.5}), &["the valid range of temperature is [0, 2]"]),
        (json!({"top_p": 0}), &["the valid range of top_p is (0, 1.0]"]),
        (json!({"stop_sequences": ["a", ""]}), &["a stop string must not be empty"]),
        (json!({"messages": []}), &["messages: at least one message is required"]),
        (
            json!({"messages": [{"role": "user", "content": "x".repeat(2044)}]}),
            &["prompt is too long: 2048 tokens > 2047 maximum"],
        ),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), &["messages[0].role: unknown variant `tool`"]),
        (json!({"messages": [{"role": "user"}]}), &["messages[0]: missing field `content`"]),
        (
            json!({"messages": [{"role": "user", "content": 1.5}]}),
            &["messages[0].content: invalid type: number `1.5`, expected a string or an array of content blocks"],
        ),
        (json!({"messages": [{"role": "user", "content": [{"text": "a"}]}]}), &["content[0]", "missing field `type`"]),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            &["messages[0].content[0]: missing field `text`"],
        ),
        (json!({"thinking": {"type": "maybe"}}), &["thinking.type: unknown variant `maybe`"]),
        (json!({"tool_choice": {"type": "required"}}), &["tool_choice.type: unknown variant `required`"]),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
            &["messages.0.content.0: `image` blocks are not supported"],
        ),
    ];
    for (fields, words) in cases {
        check_error(&server.post(MESSAGES, merged(&body(), fields)).await, 400, invalid, words);
    }
    check_error(&server.post_text(MESSAGES, "{").await, 400, invalid, &["is not valid JSON", "line 1 column 1"]);
    check_error(&server.get("/anthropic/v1/nothing").await, 404, "not_found_error", &["no GET /anthropic/v1/nothing"]);
    check_error(&server.get("/v1/messages").await, 405, invalid, &["/v1/messages does not take GET"]);
    let form = Request::builder().method(Method::POST).uri(MESSAGES).header(header::CONTENT_TYPE, "text/plain");
    let answer = server.send(form.body(Body::from(body().to_string())).unwrap()).await;
    check_error(&answer, 415, invalid, &["send `Content-Type: application/json`"]);

    let setup = Setup::saying("hello");
    let small = Setup { server: ServerConfig { max_body_bytes: 100, ..setup.server.clone() }, ..setup }.start();
    check_error(&small.post(MESSAGES, body()).await, 413, "request_too_large", &["larger than the limit of 100 bytes"]);
    let speechless = Setup { files: None, ..Setup::saying("hello") }.start();
    check_error(&speechless.post(MESSAGES, body()).await, 400, invalid, &["no tokenizer.json"]);
    let state = loading(ServerConfig::default());
    let early = TestServer { router: cachalot_server::router(state.clone()), state, engine: server.engine.clone() };
    let answer = early.post(MESSAGES, body()).await;
    check_error(&answer, 503, "overloaded_error", &["still being loaded"]);
    assert_eq!(answer.headers[header::RETRY_AFTER], "5");
}

/// The server's policy about reasoning that does not come back.
#[tokio::test]
async fn lost_reasoning() {
    let messages = json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
    ]);
    let request = merged(&body(), json!({"messages": messages, "thinking": {"type": "enabled"}}));
    let strict = Setup::saying("hello").start();
    let words = "The content[].thinking in the thinking mode must be passed back to the API.";
    check_error(&strict.post(MESSAGES, request.clone()).await, 400, "invalid_request_error", &[words]);
    // The name alone asks for nothing that a client would know to send back.
    let by_name = merged(&request, json!({"thinking": null, "model": "deepseek-reasoner"}));
    assert_eq!(strict.post(MESSAGES, by_name).await.status, 200);
    let mut setup = Setup::saying("hello");
    setup.server.missing_reasoning = MissingReasoning::Accept;
    assert_eq!(setup.start().post(MESSAGES, request).await.status, 200);
}

#[tokio::test]
async fn keys() {
    let mut setup = Setup::saying("hello");
    setup.server.api_keys = vec!["first-key".into()];
    let server = setup.start();
    let send = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // Of a body that all APIs understand.
        let body = merged(&body(), json!({"model": "deepseek-chat"}));
        server.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let bearer = |key: &'static str| ("authorization", key);
    let accepted: &[&[(&str, &str)]] = &[
        &[("x-api-key", "first-key")],
        &[bearer("Bearer first-key")],
        &[("x-api-key", "other"), bearer("Bearer first-key")],
        &[("x-api-key", "first-key"), bearer("Bearer other")],
    ];
    for headers in accepted {
        assert_eq!(send(MESSAGES, headers).await.status, 200, "{headers:?}");
        assert_eq!(send("/v1/chat/completions", headers).await.status, 200, "{headers:?}");
    }
    let kind = "authentication_error";
    check_error(&send(MESSAGES, &[]).await, 401, kind, &["no API key was sent", "`x-api-key: <key>`"]);
    check_error(&send(MESSAGES, &[("x-api-key", "sk-wrong-1234")]).await, 401, kind, &["****1234 is invalid"]);
    let both = [("x-api-key", "other"), bearer("Bearer sk-wrong-1234")];
    check_error(&send(MESSAGES, &both).await, 401, kind, &["****1234 is invalid"]);
    check_error(&send("/anthropic/v1/nothing", &both).await, 404, "not_found_error", &[]);
}

#[tokio::test]
async fn too_many_requests() {
    let mut setup = Setup::saying("hello");
    setup.server.api_keys = vec!["key".into()];
    setup.server.max_requests_per_minute = std::num::NonZeroU32::new(1);
    let server = setup.start();
    let send = async || {
        let request = Request::post(MESSAGES).header("x-api-key", "key").body(Body::from(body().to_string())).unwrap();
        server.send(request).await
    };
    assert_eq!(send().await.status, 200);
    let refused = send().await;
    check_error(&refused, 429, "rate_limit_error", &[]);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn a_failing_model() {
    let mut model = ScriptedModel::saying("hello");
    model.breaks_after = Some(0);
    let server = Setup::new(model).start();
    let words = ["The request failed", "the model is broken"];
    check_error(&server.post(MESSAGES, body()).await, 500, "api_error", &words);
    let answer = server.post(MESSAGES, merged(&body(), json!({"stream": true}))).await;
    check_error(&answer, 500, "api_error", &words);
    // The answer had begun with blank lines when the model failed.
    let mut model = ScriptedModel::saying("hello");
    (model.breaks_after, model.step_time) = (Some(0), Duration::from_millis(200));
    let mut setup = Setup::new(model);
    setup.server.keep_alive_interval = Duration::from_millis(20);
    let answer = setup.start().post(MESSAGES, body()).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with('\n'), "{}", answer.body);
    assert_eq!((answer.at("/type"), answer.at("/error/type")), (json!("error"), json!("api_error")));
}

#[tokio::test]
async fn waiting() {
    let mut model = ScriptedModel::saying("hi");
    model.step_time = Duration::from_millis(200);
    let mut setup = Setup::new(model);
    setup.server.keep_alive_interval = Duration::from_millis(20);
    let server = setup.start();
    let events = events(&server.post(MESSAGES, merged(&body(), json!({"stream": true}))).await);
    // The client is told early that its request has been taken; what comes later is in order.
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message_start"), &json!("ping")));
    assert_eq!(events[1], json!({"type": "ping"}));
    assert_eq!(of_kind(&events, "message_start").len(), 1);
    assert_eq!(of_kind(&events, "content_block_delta").len(), 2);
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

/// A request as Claude Code makes them, in the middle of a tool turn.
#[tokio::test]
async fn a_request_of_claude_code() {
    let mut setup = thinking_setup("hm", "done");
    setup.model.max_model_len = 16 << 10;
    setup.engine.kv_cache = cachalot_engine::KvCacheSize::Blocks(512);
    let server = setup.start();
    let ephemeral = json!({"type": "ephemeral"});
    let mut tools: Vec<Value> = (0..20)
        .map(|i| {
            json!({"name": format!("Tool{i}"), "description": "Does something.\n\nUsage:\n- with care",
                   "input_schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
                        "properties": {"path": {"type": "string", "description": "A path"}, "n": {"type": "number"}},
                        "required": ["path"], "additionalProperties": false}})
        })
        .collect();
    tools.push(json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 8}));
    let request = |billing: &str| {
        json!({
            "model": "claude-opus-4-5[1m]",
            "max_tokens": 32000,
            "stream": true,
            "temperature": 1,
            "thinking": {"type": "enabled", "budget_tokens": 31999},
            "metadata": {"user_id": "user_0123_account__session_01234567-89ab-cdef-0123-456789abcdef"},
            "system": [
                {"type": "text", "text": format!("x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch={billing};")},
                {"type": "text", "text": "You are a coding assistant.", "cache_control": ephemeral},
                {"type": "text", "text": "Instructions.\n".repeat(50), "cache_control": ephemeral},
            ],
            "tools": tools,
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "<system-reminder>\nContext.\n</system-reminder>\n"},
                    {"type": "text", "text": "Read a.txt and b.txt", "cache_control": ephemeral}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Two files.", "signature": "msg_0"},
                    {"type": "text", "text": "I'll read both."},
                    {"type": "tool_use", "id": "toolu_a", "name": "Tool1", "input": {"path": "a.txt"}},
                    {"type": "tool_use", "id": "toolu_b", "name": "Tool1", "input": {"path": "b.txt", "n": 2}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_a", "content": [{"type": "text", "text": "A"}]},
                    {"type": "tool_result", "tool_use_id": "toolu_b", "content": "<tool_use_error>none</tool_use_error>", "is_error": true,
                     "cache_control": ephemeral},
                    {"type": "text", "text": "<system-reminder>\nKeep going.\n</system-reminder>"}]},
            ],
        })
    };
    let send = async |request: Value| {
        let http = Request::post("/v1/messages?beta=true")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, "Bearer token")
            .header("x-api-key", "token")
            .header("anthropic-version", "2023-06-01")
            .header("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14")
            .header("anthropic-dangerous-direct-browser-access", "true")
            .header("x-app", "cli")
            .header("x-stainless-timeout", "600");
        server.send(http.body(Body::from(request.to_string())).unwrap()).await
    };
    let first = events(&send(request("eb6c6")).await);
    assert_eq!(first[0]["message"]["model"], "claude-opus-4-5[1m]");
    // The reply begins in reasoning: the tool turn goes on, and the reminder has not ended it.
    assert_eq!(first[1]["content_block"]["type"], "thinking");
    let texts: String =
        of_kind(&first, "content_block_delta").iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(texts, "done");
    // The billing line is no part of the prompt: it would differ each time, and nothing be found in the cache.
    let mut without_billing = request("");
    without_billing["system"].as_array_mut().unwrap().remove(0);
    let prompt_tokens = first[0]["message"]["usage"]["input_tokens"].clone();
    assert_eq!(server.post(COUNT_TOKENS, without_billing).await.at("/input_tokens"), prompt_tokens);
}
