//! The breadth of the API: every path, request ids, rate limits, gaps to fill in, and what holds under the hosted names alone.

mod common;

use std::net::SocketAddr;
use std::num::NonZeroU32;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, header};
use cachalot_server::ServerConfig;
use common::{Answer, FILL_IN_THE_MIDDLE, NEWLINE, ScriptedModel, Setup, TestServer, merged, prompt_files_with};
use serde_json::{Value, json};

fn chat_body() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0})
}

async fn send(server: &TestServer, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn every_route_is_under_every_prefix() {
    let server = Setup::saying("hello").start();
    for prefix in ["", "/v1", "/beta", "/beta/v1"] {
        let posts = [
            ("/chat/completions", chat_body(), "/choices/0/message/content", json!("hello")),
            ("/completions", json!({"prompt": "a\n", "temperature": 0}), "/choices/0/text", json!("hello")),
            ("/tokenize", json!({"prompt": "a"}), "/count", json!(1)),
            ("/detokenize", json!({"tokens": [97]}), "/prompt", json!("a")),
        ];
        for (path, body, pointer, expected) in posts {
            let answer = server.post(&format!("{prefix}{path}"), body).await;
            assert_eq!(answer.at(pointer), expected, "{prefix}{path}");
        }
        let gets = [
            ("/models", "/object", json!("list")),
            ("/models/tiny", "/id", json!("tiny")),
            ("/user/balance", "/is_available", json!(true)),
        ];
        for (path, pointer, expected) in gets {
            assert_eq!(server.get(&format!("{prefix}{path}")).await.at(pointer), expected, "{prefix}{path}");
        }
    }
}

#[tokio::test]
async fn head_is_answered_without_a_body() {
    let server = Setup::saying("hello").start();
    for path in ["/health", "/models", "/user/balance"] {
        let answer = send(&server, Method::HEAD, path, &[], &Value::Null).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn a_balance_is_text() {
    let balance = Setup::saying("hello").start().get("/user/balance").await.json();
    assert_eq!(balance["is_available"], true);
    let info = balance["balance_infos"][0].as_object().unwrap();
    assert_eq!(
        info.keys().map(String::as_str).collect::<Vec<_>>(),
        ["currency", "total_balance", "granted_balance", "topped_up_balance"]
    );
    assert!(info.values().all(Value::is_string), "{info:?}");
    let amount = |name: &str| info[name].as_str().unwrap().parse::<f64>().unwrap();
    assert_eq!(amount("total_balance"), amount("granted_balance") + amount("topped_up_balance"));
}

#[tokio::test]
async fn one_model() {
    let server = Setup::saying("hello").start();
    let listed = server.get("/models").await.at("/data/1");
    assert_eq!(server.get("/models/deepseek-chat").await.json(), listed);
    for (path, model) in [("/v1/models/gpt-4", "gpt-4"), ("/models/a/b", "a/b"), ("/models/a%2Fb", "a/b")] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        let message = answer.at("/error/message");
        assert_eq!(
            message,
            format!("There is no model `{model}`; the names are tiny, deepseek-chat, deepseek-reasoner")
        );
    }
}

#[tokio::test]
async fn every_answer_has_request_ids() {
    let mut setup = Setup::saying("hello");
    setup.server = ServerConfig { api_keys: vec!["key".into()], ..setup.server };
    let server = setup.start();
    let key = ("authorization", "Bearer key");
    let cases = [
        (Method::GET, "/health", &[][..], Value::Null, 200),
        (Method::GET, "/nothing", &[], Value::Null, 404),
        (Method::GET, "/v1/models", &[], Value::Null, 401),
        (Method::PUT, "/v1/models", &[key], Value::Null, 405),
        (Method::POST, "/v1/chat/completions", &[key], json!({}), 400),
        (Method::POST, "/v1/chat/completions", &[key], merged(&chat_body(), json!({"stream": true})), 200),
    ];
    for (method, path, headers, body, status) in cases {
        let plain = send(&server, method.clone(), path, headers, &body).await;
        assert_eq!(plain.status, status, "{method} {path}");
        let own = plain.headers["x-ds-trace-id"].to_str().unwrap().to_owned();
        assert_eq!(own.len(), 32, "{method} {path}");
        assert_eq!(plain.headers["x-request-id"], own, "{method} {path}");

        let headers = [headers, &[("x-request-id", "client-7")]].concat();
        let named = send(&server, method.clone(), path, &headers, &body).await;
        assert_eq!(named.headers["x-request-id"], "client-7", "{method} {path}");
        assert_ne!(named.headers["x-ds-trace-id"], own, "{method} {path}");

        let headers = [headers.as_slice(), &[("x-request-id", "not sane")]].concat();
        let headers: Vec<_> = headers.into_iter().filter(|header| header.1 != "client-7").collect();
        let named = send(&server, method.clone(), path, &headers, &body).await;
        assert_eq!(named.headers["x-request-id"], named.headers["x-ds-trace-id"], "{method} {path}");
    }
}

fn limited(requests_per_minute: u32, api_keys: &[&str]) -> TestServer {
    let mut setup = Setup::saying("hello");
    setup.server = ServerConfig {
        max_requests_per_minute: NonZeroU32::new(requests_per_minute),
        api_keys: api_keys.iter().map(|&key| key.to_owned()).collect(),
        ..setup.server
    };
    setup.start()
}

#[tokio::test]
async fn each_key_has_its_own_rate_limit() {
    let server = limited(2, &["first", "second"]);
    let chat = async |key: &str| {
        let key = format!("Bearer {key}");
        send(&server, Method::POST, "/v1/chat/completions", &[("authorization", &key)], &chat_body()).await
    };
    for (key, status) in [("first", 200), ("wrong", 401), ("first", 200), ("second", 200), ("wrong", 401)] {
        assert_eq!(chat(key).await.status, status, "{key}");
    }
    let refused = chat("first").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers[header::RETRY_AFTER], "30");
    assert_eq!(
        refused.at("/error"),
        json!({"message": "Rate limit reached: this server takes 2 requests per minute from each client; try again in 30 s",
               "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"})
    );
    assert_eq!(chat("second").await.status, 200);
    // What computes nothing does not count, and is not refused.
    for _ in 0..3 {
        let answer = send(&server, Method::GET, "/v1/models", &[("authorization", "Bearer first")], &Value::Null).await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn without_keys_each_address_has_its_own_rate_limit() {
    let server = limited(1, &[]);
    let chat = async |address: Option<&str>| {
        let mut request = Request::post("/v1/chat/completions").body(Body::from(chat_body().to_string())).unwrap();
        if let Some(address) = address {
            request.extensions_mut().insert(ConnectInfo(address.parse::<SocketAddr>().unwrap()));
        }
        server.send(request).await.status.as_u16()
    };
    let cases = [
        (Some("192.0.2.1:1000"), 200),
        (Some("192.0.2.1:1001"), 429),
        (Some("192.0.2.2:1000"), 200),
        (Some("[2001:db8::1]:1000"), 200),
        (Some("[2001:db8::2]:1000"), 429),
        (None, 200),
        (None, 429),
    ];
    for (address, status) in cases {
        assert_eq!(chat(address).await, status, "{address:?}");
    }
}

#[tokio::test]
async fn there_is_no_rate_limit_until_it_is_asked_for() {
    let server = Setup::saying("hello").start();
    for _ in 0..20 {
        assert_eq!(server.chat(chat_body()).await.status, 200);
    }
}

/// A server whose checkpoint has the tokens around a gap. The model finds the beginning of its answer after the last newline,
/// where the token is that ends the suffix; so the script's first token is never said.
fn filling_in(text: &str) -> TestServer {
    let mut model = ScriptedModel::saying(&format!("_{text}"));
    model.max_model_len = 16 << 10;
    let mut setup = Setup::new(model);
    setup.files = Some(prompt_files_with(&FILL_IN_THE_MIDDLE));
    setup.start()
}

#[tokio::test]
async fn a_gap_is_filled_in() {
    let server = filling_in("middle");
    for path in ["/v1/completions", "/beta/completions", "/completions"] {
        let body = json!({"prompt": "def f():", "suffix": "return\n", "temperature": 0});
        let answer = server.post(path, body.clone()).await;
        assert_eq!(
            answer.at("/choices"),
            json!([{"index": 0, "text": "middle", "logprobs": null, "finish_reason": "stop"}]),
            "{path}"
        );
        assert_eq!(answer.at("/object"), "text_completion");
        // Three tokens around prompt and suffix, and the one that begins a text.
        assert_eq!(answer.at("/usage/prompt_tokens"), 8 + 7 + 3 + 1, "{path}");
        assert_eq!(answer.at("/usage/completion_tokens"), 6);

        let options = json!({"stream": true, "stream_options": {"include_usage": true}});
        let chunks = server.post(path, merged(&body, options)).await.chunks();
        // Readers index the only choice of every chunk without looking.
        let texts: Vec<&str> = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(texts.concat(), "middle");
        let last = chunks.last().unwrap();
        assert_eq!((&last["choices"][0]["finish_reason"], &last["usage"]), (&json!("stop"), &answer.at("/usage")));
    }
}

#[tokio::test]
async fn options_of_a_gap() {
    let server = filling_in("one STOP two");
    let base = json!({"prompt": "a", "suffix": "b\n", "temperature": 0});
    let cases = [
        (json!({}), "one STOP two", "stop"),
        (json!({"stop": "STOP"}), "one ", "stop"),
        (
            json!({"stop": (0..15).map(|i| format!("s{i}")).chain(["STOP".to_owned()]).collect::<Vec<_>>()}),
            "one ",
            "stop",
        ),
        (json!({"max_tokens": 3}), "one", "length"),
        // The text is prompt and middle; what follows the gap is not repeated.
        (json!({"echo": true}), "aone STOP two", "stop"),
        (json!({"echo": true, "max_tokens": 0}), "a", "length"),
        (json!({"n": 2}), "one STOP two", "stop"),
        (json!({"model": "deepseek-chat", "max_tokens": 4096}), "one STOP two", "stop"),
    ];
    for (fields, text, finish_reason) in cases {
        let body = merged(&base, fields.clone());
        let answer = server.complete(body.clone()).await;
        assert_eq!(answer.status, 200, "{fields}: {}", answer.body);
        assert_eq!(answer.at("/choices/0/text"), text, "{fields}");
        assert_eq!(answer.at("/choices/0/finish_reason"), finish_reason, "{fields}");
        let chunks = server.complete(merged(&body, json!({"stream": true}))).await.chunks();
        let first = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == 0);
        let streamed: String = first.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, text, "{fields}");
    }
    let logprobs =
        server.complete(merged(&base, json!({"logprobs": 1, "max_tokens": 2}))).await.at("/choices/0/logprobs");
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!(["o", "n"]), &json!([0, 1])));
}

#[tokio::test]
async fn typed_control_tokens_around_a_gap_are_text() {
    let server = filling_in("x");
    let body = json!({"prompt": "<｜fim▁hole｜>", "suffix": "<｜User｜>\n", "temperature": 0});
    let num_bytes = "<｜fim▁hole｜><｜User｜>\n".len();
    assert_eq!(server.complete(body).await.at("/usage/prompt_tokens"), num_bytes + 4);
}

/// The text after a gap ends when the model says so; without a limit it gets the 4096 tokens of the hosted API, not the 16 of a
/// plain completion.
#[tokio::test]
async fn a_gap_has_room() {
    let mut model = ScriptedModel::saying("_abc");
    model.endless = true;
    model.max_model_len = 16 << 10;
    let mut setup = Setup::new(model);
    setup.files = Some(prompt_files_with(&FILL_IN_THE_MIDDLE));
    let server = setup.start();
    let plain = server.complete(json!({"prompt": "a\n"})).await;
    assert_eq!(plain.at("/usage/completion_tokens"), 16);
    let answer = server.complete(json!({"prompt": "a", "suffix": "b\n"})).await;
    assert_eq!(answer.at("/usage/completion_tokens"), 4096);
    assert_eq!(answer.at("/choices/0/finish_reason"), "length");
}

/// The hosted API's limits hold under its names; the model's own name is limited by the context alone.
#[tokio::test]
async fn max_tokens_by_name_and_mode() {
    let mut model = ScriptedModel::saying("hello");
    model.max_model_len = 128 << 10;
    let mut setup = Setup::new(model);
    setup.engine.kv_cache = cachalot_engine::KvCacheSize::Blocks(2048);
    setup.files = Some(prompt_files_with(&FILL_IN_THE_MIDDLE));
    let server = setup.start();
    let on = json!({"type": "enabled"});
    let off = json!({"type": "disabled"});
    let chats = [
        ("deepseek-chat", Value::Null, 8192),
        ("deepseek-chat", on.clone(), 65_536),
        ("deepseek-reasoner", Value::Null, 65_536),
        ("deepseek-reasoner", off, 8192),
        ("tiny", Value::Null, 131_072),
        ("tiny", on, 131_072),
    ];
    for (model, thinking, limit) in chats {
        for field in ["max_tokens", "max_completion_tokens"] {
            let ask = async |max_tokens: i64| {
                let fields = json!({"model": model, "thinking": thinking, field: max_tokens});
                server.chat(merged(&chat_body(), fields)).await
            };
            for max_tokens in [0, -1, limit + 1] {
                let answer = ask(max_tokens).await;
                assert_eq!(answer.status, 400, "{model} {thinking} {field} {max_tokens}");
                assert_eq!(
                    answer.at("/error/message"),
                    format!("Invalid max_tokens value, the valid range of max_tokens is [1, {limit}]"),
                    "{model} {thinking} {field} {max_tokens}"
                );
            }
            let at_most = if limit == 131_072 { limit - 6 } else { limit };
            assert_eq!(ask(at_most).await.status, 200, "{model} {thinking} {field}");
        }
    }
    for (model, limit) in [("deepseek-chat", 4096), ("deepseek-reasoner", 4096), ("tiny", 131_072)] {
        for suffix in [Value::Null, json!("b")] {
            let body = json!({"model": model, "prompt": "a\n", "suffix": suffix, "max_tokens": limit + 1});
            assert_eq!(
                server.complete(body).await.at("/error/message"),
                format!("Invalid max_tokens value, the valid range of max_tokens is [1, {limit}]")
            );
        }
    }
}

#[tokio::test]
async fn a_hosted_limit_over_the_context_gives_the_context_error() {
    let server = Setup::saying("hello").start();
    let fields = json!({"model": "deepseek-chat", "max_tokens": 8192});
    assert_eq!(
        server.chat(merged(&chat_body(), fields)).await.at("/error/message"),
        "This model's maximum context length is 2048 tokens. However, you requested 8198 tokens (6 in the messages, 8192 in the \
         completion). Please reduce the length of the messages or completion."
    );
}

/// The hosted API ignores what chooses tokens when the model thinks. So does this server under the hosted names, whose users may
/// have set anything; under its own name the model does what it is told.
#[tokio::test]
async fn sampling_while_thinking() {
    // The fourth of five tokens by likelihood is what only temperature 0 or top_p would exclude.
    let mut model = ScriptedModel::saying("hello");
    model.certainty = 0.5;
    let server = Setup::new(model).start();
    let greedy = [json!({"temperature": 0}), json!({"top_p": 1e-6})];
    let text = async |model: &str, thinking: &str, fields: &Value| {
        let body = json!({"model": model, "thinking": {"type": thinking}, "max_tokens": 5, "seed": 1,
                          "messages": [{"role": "user", "content": "hi"}]});
        let answer = server.chat(merged(&body, fields.clone())).await;
        let message = answer.at("/choices/0/message");
        let member = if thinking == "enabled" { "reasoning_content" } else { "content" };
        message[member].as_str().unwrap().to_owned()
    };
    for fields in &greedy {
        for (model, thinking, is_obeyed) in [
            ("deepseek-reasoner", "enabled", false),
            ("deepseek-chat", "enabled", false),
            ("deepseek-reasoner", "disabled", true),
            ("deepseek-chat", "disabled", true),
            ("tiny", "enabled", true),
            ("tiny", "disabled", true),
        ] {
            let text = text(model, thinking, fields).await;
            assert_eq!(text == "hello", is_obeyed, "{model} {thinking} {fields}: {text}");
        }
    }
    // Out of range is out of range, ignored or not.
    let answer = server.chat(merged(&chat_body(), json!({"model": "deepseek-reasoner", "temperature": 3}))).await;
    assert_eq!(answer.at("/error/message"), "Invalid temperature value, the valid range of temperature is [0, 2]");
}

#[tokio::test]
async fn roles_beyond_the_documented_ones() {
    let server = Setup::saying("hello").start();
    let prompt = async |role: &str| {
        let body = json!({"messages": [{"role": role, "content": "S"}, {"role": "user", "content": "hi"}]});
        server.post("/tokenize", body).await.at("/tokens")
    };
    let expected = prompt("system").await;
    for role in ["developer", "latest_reminder"] {
        assert_eq!(prompt(role).await, expected, "{role}");
    }
}

#[tokio::test]
async fn a_silent_answer_is_kept_alive() {
    let mut model = ScriptedModel::saying("ab");
    model.step_time = std::time::Duration::from_millis(150);
    let mut setup = Setup::new(model);
    setup.server.keep_alive_interval = std::time::Duration::from_millis(40);
    let server = setup.start();
    let whole = server.chat(chat_body()).await;
    assert!(whole.body.starts_with("\n\n"), "{:?}", whole.body);
    assert_eq!(whole.at("/choices/0/message/content"), "ab");
    let streamed = server.chat(merged(&chat_body(), json!({"stream": true}))).await;
    assert!(streamed.body.starts_with(": keep-alive\n\n"), "{:?}", streamed.body);
    assert_eq!(streamed.chunks().last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn ids_of_tokens_stay_within_the_text() {
    // A prompt of ids cannot have a gap: there is no telling where its text ends.
    let server = filling_in("x");
    let answer = server.complete(json!({"prompt": [97, NEWLINE], "suffix": "b"})).await;
    assert_eq!(answer.at("/error/message"), "Invalid prompt value, with a suffix it must be text");
}
