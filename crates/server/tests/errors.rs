//! Every refusal: its status, its shape and its words.

mod common;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use cachalot_engine::EngineConfig;
use cachalot_server::ServerConfig;
use common::{Answer, ScriptedModel, Setup, TestServer, loading, merged};
use serde_json::{Value, json};

/// The answer is an error with this status whose message has all of `words`.
#[track_caller]
fn check_error(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.keys().map(String::as_str).collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert!(error["type"].is_string() && error["code"].is_string());
    let message = error["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

fn server() -> TestServer {
    Setup::saying("hello").start()
}

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn chat_fields_out_of_range() {
    let server = server();
    let many_stops: Vec<String> = (0..17).map(|i| format!("stop {i}")).collect();
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"messages": []}), &["messages is empty"]),
        (
            json!({"model": "gpt-4"}),
            &[
                "Model Not Exist. The supported API model names are tiny, deepseek-chat, deepseek-reasoner, but you passed gpt-4.",
            ],
        ),
        (json!({"temperature": 2.5}), &["Invalid temperature value, the valid range of temperature is [0, 2]"]),
        (json!({"temperature": -0.1}), &["the valid range of temperature is [0, 2]"]),
        (json!({"top_p": 0}), &["Invalid top_p value, the valid range of top_p is (0, 1.0]"]),
        (json!({"top_p": 1.1}), &["the valid range of top_p is (0, 1.0]"]),
        (json!({"top_k": -2}), &["the valid range of top_k is"]),
        (json!({"min_p": 1.5}), &["the valid range of min_p is [0, 1]"]),
        (json!({"presence_penalty": 2.1}), &["the valid range of presence_penalty is [-2, 2]"]),
        (json!({"frequency_penalty": -2.1}), &["the valid range of frequency_penalty is [-2, 2]"]),
        (json!({"repetition_penalty": 0}), &["the valid range of repetition_penalty is [0.01, 100]"]),
        (json!({"logit_bias": {"7": 101}}), &["the valid range of logit_bias is [-100, 100]"]),
        (json!({"logit_bias": {"seven": 1}}), &["logit_bias", "`seven` is not a token id"]),
        (json!({"logit_bias": {"272": 1}}), &["Token id 272", "logit_bias", "out of range", "272 tokens"]),
        (json!({"stop_token_ids": [1, 5000]}), &["Token id 5000 (stop_token_ids[1]) is out of range"]),
        (json!({"stop": many_stops}), &["at most 16 stop strings", "17"]),
        (json!({"stop": ["a", ""]}), &["a stop string must not be empty"]),
        (json!({"n": 0}), &["the valid range of n is [1, 16]"]),
        (json!({"n": 17}), &["the valid range of n is [1, 16]"]),
        (json!({"max_tokens": 0}), &["Invalid max_tokens value, the valid range of max_tokens is [1, 2048]"]),
        (json!({"max_tokens": -1}), &["the valid range of max_tokens is [1, 2048]"]),
        (json!({"max_completion_tokens": 99999}), &["the valid range of max_tokens is [1, 2048]"]),
        (json!({"max_tokens": 5, "min_tokens": 6}), &["the valid range of min_tokens is [0, max_tokens]"]),
        (
            json!({"max_tokens": 2048}),
            &[
                "This model's maximum context length is 2048 tokens. However, you requested 2054 tokens (6 in the messages, \
                 2048 in the completion). Please reduce the length of the messages or completion.",
            ],
        ),
        (
            json!({"messages": [{"role": "user", "content": "x".repeat(3000)}]}),
            &["This model's maximum context length is 2048 tokens", "3004 in the messages"],
        ),
        (json!({"top_logprobs": 3}), &["logprobs must be set to true if top_logprobs is used."]),
        (json!({"logprobs": true, "top_logprobs": 21}), &["the valid range of top_logprobs is [0, 20]"]),
        (json!({"stream_options": {"include_usage": true}}), &["stream_options may be set only when stream is true"]),
        (
            json!({"response_format": {"type": "json_object"}}),
            &["Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'."],
        ),
        (json!({"tool_choice": "required"}), &["Invalid tool_choice value, `required` needs tools"]),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
            &["Invalid tool_choice value, `f` is not the name of one of the tools"],
        ),
        (json!({"user_id": "a b"}), &["Invalid user_id value", "^[A-Za-z0-9_-]{1,512}$"]),
        (
            json!({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}),
            &["tools[0].function.name", "a-zA-Z0-9_-"],
        ),
        (json!({"tools": [{"type": "function", "function": {}}]}), &["tools[0].function.name"]),
        (
            json!({"tools": vec![json!({"type": "function", "function": {"name": "f"}}); 129]}),
            &["at most 128 tools", "129"],
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            &["Failed to deserialize the JSON body into the target type: messages[0]: missing field `content`"],
        ),
        (
            json!({"messages": [{"role": "user", "content": null}]}),
            &["Failed to deserialize the JSON body into the target type: messages[0]: missing field `content`"],
        ),
    ];
    for (fields, words) in cases {
        check_error(&server.chat(merged(&hello(), fields)).await, 400, words);
    }
}

#[tokio::test]
async fn chat_fields_of_the_wrong_type() {
    let server = server();
    const PREFIX: &str = "Failed to deserialize the JSON body into the target type: ";
    let cases: Vec<(Value, &[&str])> = vec![
        (json!([]), &[PREFIX]),
        (json!("text"), &[PREFIX, "invalid type: string"]),
        (json!({}), &[PREFIX, "missing field `messages`"]),
        (json!({"messages": "hi"}), &[PREFIX, "messages: invalid type: string \"hi\", expected a sequence", "line 1"]),
        (
            json!({"messages": [{"role": "wizard", "content": "hi"}]}),
            &[
                PREFIX,
                "messages[0].role: unknown variant `wizard`, expected one of `system`, `user`, `assistant`, `tool`, \
                 `latest_reminder`",
                "at line 1 column",
            ],
        ),
        (json!({"messages": [{"content": "hi"}]}), &["messages[0]: missing field `role`"]),
        (json!({"messages": [{"role": "user", "content": 5}]}), &["messages[0].content", "integer `5`", "a string"]),
        (
            json!({"messages": [{"role": "user", "content": {"text": "a"}}]}),
            &["messages[0].content", "map", "a string"],
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            &["messages[0].content[0].type: unknown variant `image_url`, expected `text`"],
        ),
        (json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}), &["missing field `text`"]),
        (merged(&hello(), json!({"temperature": "hot"})), &["temperature: invalid type: string \"hot\", expected f64"]),
        (merged(&hello(), json!({"temperature": "NaN"})), &["temperature: invalid type: string \"NaN\""]),
        (merged(&hello(), json!({"max_tokens": 1.5})), &["max_tokens: invalid type: floating point `1.5`"]),
        (merged(&hello(), json!({"max_tokens": "10"})), &["max_tokens: invalid type: string"]),
        (merged(&hello(), json!({"top_logprobs": -1})), &["top_logprobs", "expected u8"]),
        (
            merged(&hello(), json!({"stop": 5})),
            &["stop: invalid type: integer `5`, expected a string or an array of strings"],
        ),
        (merged(&hello(), json!({"stop": [5]})), &["stop[0]: invalid type"]),
        (merged(&hello(), json!({"stream": "yes"})), &["stream: invalid type: string \"yes\", expected a boolean"]),
        (
            merged(&hello(), json!({"thinking": {"type": "maybe"}})),
            &["thinking.type: unknown variant `maybe`", "`enabled`"],
        ),
        (
            merged(&hello(), json!({"reasoning_effort": "huge"})),
            &["reasoning_effort: unknown variant `huge`, expected one of `none`, `minimal`, `low`, `medium`, `high`, \
                 `xhigh`, `max`"],
        ),
        (
            merged(&hello(), json!({"tools": [{"type": "web", "function": {}}]})),
            &["unknown variant `web`, expected `function`"],
        ),
        (merged(&hello(), json!({"tool_choice": "sometimes"})), &["tool_choice", "unknown variant `sometimes`"]),
        (
            merged(&hello(), json!({"response_format": {"type": "xml"}})),
            &["response_format.type: unknown variant `xml`"],
        ),
        (merged(&hello(), json!({"logit_bias": {"5": "much"}})), &["logit_bias", "invalid type: string \"much\""]),
        (merged(&hello(), json!({"seed": 1.5})), &["seed: invalid type"]),
    ];
    for (body, words) in cases {
        check_error(&server.chat(body).await, 400, words);
    }
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    let server = server();
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_tool = format!(
        r#"{{"messages": [{{"role": "user", "content": "hi"}}], "tools": [{{"type": "function", "function": {{"name": "f", "x": {}1{}}}}}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let cases: Vec<(&str, &[&str])> = vec![
        ("", &["The request body is empty"]),
        ("{", &["is not valid JSON", "line 1 column 1"]),
        ("{\"messages\": [}", &["is not valid JSON", "line 1 column 15"]),
        ("{\n  \"messages\": []\n  \"n\": 1}", &["is not valid JSON", "line 3 column 3"]),
        ("{\"messages\": []} trailing", &["is not valid JSON", "trailing characters at line 1 column 18"]),
        ("{'messages': []}", &["is not valid JSON", "line 1 column 2"]),
        (r#"{"temperature": NaN}"#, &["is not valid JSON", "line 1 column 17", "NaN and Infinity are not JSON"]),
        (r#"{"temperature": -Infinity}"#, &["is not valid JSON", "NaN and Infinity are not JSON"]),
        (
            r#"{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e400}"#,
            &["temperature", "number out of range"],
        ),
        (r#"{"messages": [], "messages": []}"#, &["duplicate field `messages`"]),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
            &["messages[0].content: unexpected end of hex escape at line 1"],
        ),
        (&deep, &["Failed to deserialize", "messages", "line 1 column 15"]),
        (
            r#"{"messages": [{"role": 5, "content": "hi"}]}"#,
            &["Failed to deserialize", "messages[0].role", "line 1 column 24"],
        ),
        (r#"{"messages": [{"role": }]}"#, &["is not valid JSON", "line 1 column 24"]),
        (&deep_tool, &["recursion limit exceeded"]),
    ];
    for (body, words) in cases {
        check_error(&server.post_text("/v1/chat/completions", body).await, 400, words);
    }
    let not_utf8 = Request::post("/v1/chat/completions")
        .body(Body::from(b"{\"messages\": [], \"model\": \"\xff\"}".to_vec()))
        .unwrap();
    check_error(&server.send(not_utf8).await, 400, &["model: invalid unicode code point at line 1"]);
    // Deep nesting under a key that nobody reads does no harm.
    let ignored = format!(
        r#"{{"messages": [{{"role": "user", "content": "hi"}}], "extra": {}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(server.post_text("/v1/chat/completions", ignored).await.status, 200);
}

#[tokio::test]
async fn completion_fields() {
    let server = server();
    let hello = json!({"prompt": "hi"});
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"prompt": ""}), &["The prompt is empty"]),
        (json!({"prompt": []}), &["The prompt is empty"]),
        (json!({"prompt": [[1], []]}), &["The prompt is empty"]),
        (json!({"prompt": null}), &["prompt", "expected a string, an array of strings"]),
        (json!({"prompt": 5}), &["prompt: invalid type: integer `5`, expected a string, an array of strings"]),
        (json!({"prompt": {"a": 1}}), &["invalid type: map, expected a string, an array of strings"]),
        (json!({"prompt": [1, "two"]}), &["prompt", "an array of mixed types"]),
        (json!({"prompt": [1, [2]]}), &["prompt", "an array of mixed types"]),
        (json!({"prompt": [[1], 2]}), &["prompt", "an array of mixed types"]),
        (
            json!({"prompt": [-1]}),
            &["prompt[0]: invalid type: integer `-1`, expected a string, a token id, or an array"],
        ),
        (json!({"prompt": [1.5]}), &["prompt[0]: invalid type: number `1.5`, expected a string, a token id"]),
        (json!({"prompt": [4294967296u64]}), &["prompt[0]: invalid value: integer `4294967296`, expected a token id"]),
        (json!({"prompt": [1, 2, 272]}), &["Token id 272 (prompt[2]) is out of range", "272 tokens"]),
        (json!({"prompt": [[1], [2, 9999]]}), &["Token id 9999 (prompt[1][1]) is out of range"]),
        (json!({"suffix": "end"}), &["no token", "<｜fim▁begin｜>"]),
        (
            json!({"suffix": "end", "echo": true, "logprobs": 1}),
            &["Invalid suffix value, prompt_logprobs and logprobs with echo"],
        ),
        (json!({"suffix": "end", "prompt_logprobs": 1}), &["Invalid suffix value, prompt_logprobs"]),
        (json!({"prompt": [1], "suffix": "end"}), &["Invalid prompt value, with a suffix it must be text"]),
        (json!({"best_of": 2}), &["best_of is not supported"]),
        (json!({"logprobs": 21}), &["the valid range of logprobs is [0, 20]"]),
        (json!({"logprobs": -1}), &["the valid range of logprobs is [0, 20]"]),
        (json!({"logprobs": true}), &["logprobs: invalid type: boolean"]),
        (json!({"prompt_logprobs": 21}), &["the valid range of prompt_logprobs is [0, 20]"]),
        (json!({"prompt_logprobs": 1, "stream": true}), &["prompt_logprobs is not available with stream"]),
        (json!({"max_tokens": 0}), &["the valid range of max_tokens is [1, 2048]"]),
        (json!({"temperature": 3}), &["the valid range of temperature is [0, 2]"]),
        (
            json!({"prompt": vec![65; 2048]}),
            &["This model's maximum context length is 2048 tokens", "2048 in the messages"],
        ),
        (json!({"prompt": "hi", "max_tokens": 2047}), &["you requested 2049 tokens"]),
        (json!({"prompt": vec!["a"; 600]}), &["600 sequences", "at most 576 at a time"]),
    ];
    for (fields, words) in cases {
        check_error(&server.complete(merged(&hello, fields)).await, 400, words);
    }
    check_error(&server.complete(json!({})).await, 400, &["missing field `prompt`"]);
}

#[tokio::test]
async fn tokenize_fields() {
    let server = server();
    for body in [json!({}), json!({"prompt": "a", "messages": []})] {
        check_error(&server.post("/tokenize", body).await, 400, &["Send either `prompt`", "or `messages`"]);
    }
    check_error(&server.post("/tokenize", json!({"messages": []})).await, 400, &["messages is empty"]);
    check_error(&server.post("/tokenize", json!({"prompt": [1]})).await, 400, &["prompt", "expected a string"]);
    check_error(&server.post("/detokenize", json!({})).await, 400, &["missing field `tokens`"]);
    check_error(&server.post("/detokenize", json!({"tokens": [-1]})).await, 400, &["tokens[0]", "expected u32"]);
    check_error(&server.post("/detokenize", json!({"tokens": [272]})).await, 400, &["Token id 272 (tokens[0])"]);
}

#[tokio::test]
async fn a_checkpoint_without_a_tokenizer() {
    let server = Setup { files: None, ..Setup::saying("hello") }.start();
    let hint = "send token ids as `prompt` to /v1/completions";
    check_error(&server.chat(hello()).await, 400, &["no tokenizer.json", hint]);
    check_error(&server.complete(json!({"prompt": "hi"})).await, 400, &["no tokenizer.json", hint]);
    check_error(&server.complete(json!({"prompt": [1], "stop": "x"})).await, 400, &["no tokenizer.json"]);
    check_error(&server.post("/tokenize", json!({"prompt": "hi"})).await, 400, &["no tokenizer.json", hint]);
    check_error(&server.post("/detokenize", json!({"tokens": [1]})).await, 400, &["no tokenizer.json", hint]);
}

#[tokio::test]
async fn routes_and_methods() {
    let server = server();
    check_error(&server.get("/v2/nothing").await, 404, &["no GET /v2/nothing"]);
    check_error(&server.get("/v1/chat/completions").await, 405, &["/v1/chat/completions does not take GET"]);
    let answer = server.post("/health", json!({})).await;
    check_error(&answer, 405, &["does not take POST"]);
    assert_eq!(answer.headers[header::ALLOW], "GET,HEAD");
    let options = Request::builder().method(Method::OPTIONS).uri("/v1/models").body(Body::empty()).unwrap();
    let answer = server.send(options).await;
    check_error(&answer, 405, &["does not take OPTIONS"]);
    assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn content_types() {
    let server = server();
    let cases = [
        (None, 200),
        (Some("application/json"), 200),
        (Some("Application/JSON; charset=utf-8"), 200),
        (Some("text/json"), 200),
        (Some("application/vnd.api+json"), 200),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("text/plain"), 415),
        (Some("multipart/form-data; boundary=x"), 415),
    ];
    for (content_type, status) in cases {
        let mut request = Request::post("/v1/chat/completions");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let answer = server.send(request.body(Body::from(hello().to_string())).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{content_type:?}: {}", answer.body);
        if status == 415 {
            check_error(&answer, 415, &["send `Content-Type: application/json`", content_type.unwrap()]);
        }
    }
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let mut setup = Setup::saying("hello");
    setup.server = ServerConfig { max_body_bytes: 1000, ..setup.server };
    let server = setup.start();
    let body_of = |len: usize| {
        let empty = json!({"messages": [{"role": "user", "content": "hi"}], "user": ""}).to_string();
        empty.replace("\"user\":\"\"", &format!("\"user\":\"{}\"", "x".repeat(len - empty.len())))
    };
    assert_eq!(server.post_text("/v1/chat/completions", body_of(1000)).await.status, 200);
    for len in [1001, 100_000] {
        let answer = server.post_text("/v1/chat/completions", body_of(len)).await;
        check_error(&answer, 413, &["larger than the limit of 1000 bytes"]);
    }
}

#[tokio::test]
async fn keys() {
    let mut setup = Setup::saying("hello");
    setup.server = ServerConfig { api_keys: vec!["first-key".into(), "second-key".into()], ..setup.server };
    let server = setup.start();
    let get = async |path: &str, key: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, key);
        }
        server.send(request.body(Body::empty()).unwrap()).await
    };
    for key in ["Bearer first-key", "Bearer second-key", "bearer second-key"] {
        assert_eq!(get("/v1/models", Some(key)).await.status, 200, "{key}");
    }
    let missing = get("/v1/models", None).await;
    check_error(&missing, 401, &["Authentication Fails (governor): no API key was sent", "Authorization: Bearer"]);
    assert_eq!(missing.headers[header::WWW_AUTHENTICATE], "Bearer");
    check_error(&get("/v1/models", Some("Basic first-key")).await, 401, &["no API key was sent"]);
    let wrong = get("/v1/models", Some("Bearer sk-wrong-1234")).await;
    check_error(&wrong, 401, &["Authentication Fails, Your api key: ****1234 is invalid"]);
    // A typo in a short key does not put most of it on the screen.
    check_error(&get("/v1/models", Some("Bearer abcd")).await, 401, &["****cd is invalid"]);
    check_error(&get("/v1/models", Some("Bearer first-ke")).await, 401, &["is invalid"]);
    check_error(&server.chat(hello()).await, 401, &["no API key was sent"]);
    for path in ["/health", "/metrics"] {
        assert_eq!(get(path, None).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn before_the_model_is_there_everything_but_metrics_is_503() {
    let state = loading(ServerConfig::default());
    let server = TestServer { router: cachalot_server::router(state.clone()), state, engine: server().engine };
    for answer in [server.get("/v1/models").await, server.chat(hello()).await] {
        check_error(&answer, 503, &["The model is still being loaded"]);
        assert_eq!(answer.headers[header::RETRY_AFTER], "5");
    }
    assert_eq!(server.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn a_full_queue_is_503_with_retry_after() {
    let mut model = ScriptedModel::saying("hello");
    model.endless = true;
    model.step_time = std::time::Duration::from_millis(5);
    let mut setup = Setup::new(model);
    setup.engine = EngineConfig { max_num_seqs: 1, max_waiting: 1, ..setup.engine };
    setup.server.keep_alive_interval = std::time::Duration::from_millis(10);
    let server = setup.start();
    let endless = || json!({"prompt": "a\n", "ignore_eos": true, "max_tokens": 1000, "stream": true}).to_string();
    let submit = || Request::post("/v1/completions").body(Body::from(endless())).unwrap();
    use tower::ServiceExt;
    let running = server.router.clone().oneshot(submit()).await.unwrap();
    let waiting = server.router.clone().oneshot(submit()).await.unwrap();
    assert_eq!((running.status(), waiting.status()), (StatusCode::OK, StatusCode::OK));
    let refused = server.post_text("/v1/completions", endless()).await;
    check_error(&refused, 503, &["busy", "2 requests are running or waiting", "try again later"]);
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    // One of two choices does not fit: neither is left behind.
    drop(waiting);
    let both = server.complete(json!({"prompt": "a\n", "n": 2, "max_tokens": 5})).await;
    check_error(&both, 503, &["busy"]);
    drop(running);
    // Cancelled requests make room when the engine has noticed, which takes it a step.
    let body = json!({"prompt": "a\n", "max_tokens": 5, "temperature": 0});
    let mut answer = server.complete(body.clone()).await;
    for _ in 0..100 {
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        answer = server.complete(body.clone()).await;
    }
    assert_eq!(answer.at("/choices/0/text"), "hello");
}

#[tokio::test]
async fn a_failing_model() {
    let mut model = ScriptedModel::saying("hello");
    model.breaks_after = Some(0);
    let server = Setup::new(model).start();
    check_error(&server.chat(hello()).await, 500, &["The request failed", "the model is broken"]);
    let streamed = server.chat(merged(&hello(), json!({"stream": true}))).await;
    // Nothing has been sent before the failure.
    check_error(&streamed, 500, &["The request failed", "the model is broken"]);
    // An engine that fails again and again gives up, and says so.
    let mut answer = server.chat(hello()).await;
    for _ in 0..100 {
        if answer.status != StatusCode::INTERNAL_SERVER_ERROR {
            break;
        }
        answer = server.chat(hello()).await;
    }
    check_error(&answer, 503, &["engine has stopped"]);
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), health.at("/status")), (503, json!("stopped")));
}

/// Conversations that the hosted API refuses, in its words.
#[tokio::test]
async fn conversations() {
    let server = server();
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let user = json!({"role": "user", "content": "hi"});
    let calls = json!({"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let thinking = json!({"type": "enabled"});
    let cases: Vec<(Value, &[&str])> = vec![
        (
            json!({"messages": [user, calls, result("a")]}),
            &[
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
               (insufficient tool messages following tool_calls message)",
            ],
        ),
        (json!({"messages": [user, calls]}), &["insufficient tool messages"]),
        (
            json!({"messages": [user, result("a")]}),
            &["Messages with role 'tool' must be a response to a preceding message with 'tool_calls'"],
        ),
        (json!({"messages": [user, calls, result("a"), result("c")]}), &["tool_call_id `c`"]),
        (
            json!({"messages": [user, calls, result("a"), result("b")], "thinking": thinking}),
            &[
                "Missing `reasoning_content` field in the assistant message at message index 1. For more information, please \
               refer to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls",
            ],
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "x"}], "model": "deepseek-reasoner"}),
            &[
                "The last message of deepseek-reasoner must be a user message, or an assistant message with prefix mode on \
               (refer to https://api-docs.deepseek.com/guides/chat_prefix_completion).",
            ],
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "x", "prefix": true}, user]}),
            &["messages[1]: prefix is for the last message"],
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]}, result("a")]}),
            &["Invalid messages[1].tool_calls[0].function.arguments value"],
        ),
    ];
    for (body, words) in cases {
        check_error(&server.chat(body).await, 400, words);
    }
    // Empty reasoning is reasoning, and results may come in any order.
    let calls = merged(&calls, json!({"reasoning_content": ""}));
    let body = json!({"messages": [user, calls, result("b"), result("a")], "thinking": thinking});
    assert_eq!(server.chat(body).await.status, 200);

    let mut lenient = Setup::saying("hello");
    lenient.server = ServerConfig { missing_reasoning: cachalot_server::MissingReasoning::Accept, ..lenient.server };
    let calls = json!({"role": "assistant", "content": "", "tool_calls": [call("a")]});
    let body = json!({"messages": [user, calls, result("a")], "thinking": thinking});
    assert_eq!(lenient.start().chat(body).await.status, 200);
}
