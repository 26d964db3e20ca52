//! How requests are treated: with whom they share the cache, in what order they go, how long they may take, what they are told
//! when something fails, and what `/health` says meanwhile.

mod common;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use cachalot_engine::{EngineConfig, SpeculativeTokens};
use cachalot_server::ServerConfig;
use common::{Answer, ScriptedModel, Setup, TestServer, loading, merged};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// A request of each API whose prompt fills some blocks; and where its answer says how much of it was cached.
fn long_requests() -> [(&'static str, Value, &'static str); 4] {
    let text = "x".repeat(300);
    let messages = json!([{"role": "user", "content": text}]);
    [
        (CHAT, json!({"messages": messages}), "/usage/prompt_cache_hit_tokens"),
        (COMPLETIONS, json!({"prompt": format!("{text}\n")}), "/usage/prompt_tokens_details/cached_tokens"),
        (RESPONSES, json!({"input": text}), "/usage/input_tokens_details/cached_tokens"),
        (MESSAGES, json!({"messages": messages, "max_tokens": 100}), "/usage/cache_read_input_tokens"),
    ]
}

fn short_requests() -> [(&'static str, Value); 4] {
    long_requests().map(|(path, _, _)| {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let request = match path {
            CHAT => json!({"messages": messages}),
            COMPLETIONS => json!({"prompt": "a\n", "max_tokens": 1000}),
            RESPONSES => json!({"input": "hi"}),
            _ => json!({"messages": messages, "max_tokens": 1000}),
        };
        (path, request)
    })
}

async fn post_as(server: &TestServer, key: &str, path: &str, body: &Value) -> Answer {
    let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {key}"));
    let answer = server.send(request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}

#[tokio::test]
async fn an_answer_that_a_stop_string_ends_tells_its_hits_too() {
    let server = Setup::saying("hello").start();
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(300)}], "stop": "ll"});
    let hits = async || {
        let answer = post_as(&server, "", CHAT, &body).await;
        assert_eq!(answer.at("/choices/0/message/content"), "he");
        answer.at("/usage/prompt_cache_hit_tokens").as_u64().unwrap()
    };
    assert_eq!(hits().await, 0);
    assert!(hits().await >= 256);
}

#[tokio::test]
async fn the_cache_is_shared_by_those_who_are_the_same() {
    for (path, request, pointer) in long_requests() {
        let mut setup = Setup::saying("hello");
        setup.server.api_keys = vec!["first".into(), "second".into()];
        let server = setup.start();
        let hits = async |key: &str, fields: Value| {
            let body = merged(&request, fields);
            post_as(&server, key, path, &body).await.at(pointer).as_u64().unwrap()
        };
        assert_eq!(hits("first", json!({})).await, 0, "{path}: nothing is there yet");
        let hit = hits("first", json!({})).await;
        assert!(hit >= 256 && hit.is_multiple_of(64), "{path}: {hit}");
        // Each of them is somebody new, and once known.
        let user = match path {
            CHAT => Some(json!({"user_id": "ada"})),
            RESPONSES => Some(json!({"safety_identifier": "ada"})),
            MESSAGES => Some(json!({"metadata": {"user_id": "ada"}})),
            _ => None,
        };
        let salted = json!({"cache_salt": "ada"});
        for (key, fields) in [("second", Some(json!({}))), ("first", Some(salted.clone())), ("first", user.clone())] {
            let Some(fields) = fields else { continue };
            assert_eq!(hits(key, fields.clone()).await, 0, "{path}: {key} {fields}");
            assert_eq!(hits(key, fields.clone()).await, hit, "{path}: {key} {fields}");
        }
        if let Some(user) = user {
            assert_eq!(hits("first", merged(&user, salted)).await, 0, "{path}: the user and the salt");
            assert_eq!(hits("second", user).await, 0, "{path}: another key's user of the same name");
        }
        assert_eq!(hits("first", json!({})).await, hit, "{path}: still there");
    }
}

#[tokio::test]
async fn a_prompt_of_whole_blocks_is_not_all_cached() {
    let server = Setup::saying("hello").start();
    let body = json!({"prompt": format!("{}\n", "x".repeat(127)), "temperature": 0});
    for expected in [(0, 128), (64, 64)] {
        let usage = server.complete(body.clone()).await.at("/usage");
        let found = (&usage["prompt_cache_hit_tokens"], &usage["prompt_cache_miss_tokens"]);
        assert_eq!(found, (&json!(expected.0), &json!(expected.1)));
    }
}

#[tokio::test]
async fn an_empty_salt_is_refused() {
    let server = Setup::saying("hello").start();
    for (path, request) in short_requests() {
        let answer = server.post(path, merged(&request, json!({"cache_salt": ""}))).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains("Invalid cache_salt value"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn sessions_of_claude_code_share_what_is_cached() {
    let server = Setup::saying("hello").start();
    let hits = async |user_id: &str| {
        let body = json!({"messages": [{"role": "user", "content": "x".repeat(300)}], "max_tokens": 9,
                          "metadata": {"user_id": user_id}});
        server.post(MESSAGES, body).await.at("/usage/cache_read_input_tokens").as_u64().unwrap()
    };
    let cases = [
        ("user_0123_account__session_one", "user_0123_account__session_two", true),
        (r#"{"device_id":"d","session_id":"one"}"#, r#"{"device_id":"d","session_id":"two"}"#, true),
        ("user_0124_account__session_one", "user_0125_account__session_one", false),
        (r#"{"device_id":"e","session_id":"one"}"#, r#"{"device_id":"f","session_id":"one"}"#, false),
        ("ada_session_one", "ada_session_two", false),
    ];
    for (one, other, are_same) in cases {
        assert_eq!(hits(one).await, 0, "{one}");
        assert_eq!(hits(other).await > 0, are_same, "{one} and {other}");
    }
}

#[tokio::test]
async fn usage_tells_what_became_of_drafts() {
    for (path, request) in short_requests() {
        let mut model = ScriptedModel::saying("hello, hello");
        model.has_mtp = true;
        let mut setup = Setup::new(model);
        setup.engine.speculative_tokens = SpeculativeTokens::Fixed(2);
        let server = setup.start();
        let answer = server.post(path, merged(&request, json!({"temperature": 0}))).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let details = match path {
            MESSAGES => continue,
            RESPONSES => answer.at("/usage/output_tokens_details"),
            _ => answer.at("/usage/completion_tokens_details"),
        };
        let counts = |member: &str| -> Vec<u64> {
            let counts = details[member].as_array().unwrap_or_else(|| panic!("{path}: no {member} in {details}"));
            counts.iter().map(|count| count.as_u64().unwrap()).collect()
        };
        let drafted = counts("draft_tokens_per_position");
        let accepted = counts("accepted_tokens_per_position");
        assert_eq!((drafted.len(), accepted.len()), (2, 2), "{path}: {details}");
        let sum = accepted.iter().sum::<u64>();
        assert_eq!(details["accepted_prediction_tokens"], sum, "{path}: {details}");
        assert_eq!(details["rejected_prediction_tokens"], drafted.iter().sum::<u64>() - sum, "{path}: {details}");
        // The drafts are what the model says, so most are accepted; a second place counts only after the first.
        assert!(accepted[0] >= 3 && accepted[0] >= accepted[1], "{path}: {details}");
    }
}

#[tokio::test]
async fn tiers_are_told_as_they_were_served() {
    let server = Setup::saying("hello").start();
    let cases = [
        (json!({}), Value::Null),
        (json!({"priority": -1}), Value::Null),
        (json!({"service_tier": null}), Value::Null),
        (json!({"service_tier": "auto"}), json!("default")),
        (json!({"service_tier": "default"}), json!("default")),
        (json!({"service_tier": "flex", "priority": 7}), json!("flex")),
        (json!({"service_tier": "priority"}), json!("priority")),
    ];
    for (path, request) in short_requests().into_iter().filter(|(path, _)| *path != MESSAGES) {
        for (fields, expected) in &cases {
            let body = merged(&request, fields.clone());
            let answer = server.post(path, body.clone()).await;
            assert_eq!(answer.status, 200, "{path} {fields}: {}", answer.body);
            assert_eq!(answer.json()["service_tier"], *expected, "{path} {fields}");
            if path == RESPONSES {
                continue;
            }
            assert_eq!(answer.json().get("service_tier").is_some(), !expected.is_null(), "{path} {fields}");
            for chunk in server.post(path, merged(&body, json!({"stream": true}))).await.chunks() {
                assert_eq!(chunk["service_tier"], *expected, "{path} {fields}");
            }
        }
    }
}

#[tokio::test]
async fn turns_that_contradict_each_other_are_refused() {
    let server = Setup::saying("hello").start();
    for (path, request) in short_requests().into_iter().filter(|(path, _)| *path != MESSAGES) {
        let answer = server.post(path, merged(&request, json!({"service_tier": "flex", "priority": -1}))).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.at("/error/param"), "priority", "{path}");
        assert_eq!(server.post(path, merged(&request, json!({"service_tier": "gold"}))).await.status, 400, "{path}");
        assert_eq!(server.post(path, merged(&request, json!({"priority": 0.5}))).await.status, 400, "{path}");
    }
}

/// One sequence at a time: who waits with a higher class goes first.
#[tokio::test]
async fn who_matters_more_goes_first() {
    let mut model = ScriptedModel::saying("hello");
    model.step_time = Duration::from_millis(5);
    let mut setup = Setup::new(model);
    setup.engine = EngineConfig { max_num_seqs: 1, ..setup.engine };
    let server = setup.start();
    let order = std::sync::Mutex::new(Vec::new());
    let ask = async |name: &'static str, fields: Value| {
        let body = merged(&json!({"prompt": "a\n", "max_tokens": 20, "ignore_eos": true}), fields);
        assert_eq!(server.complete(body).await.status, 200, "{name}");
        order.lock().unwrap().push(name);
    };
    futures::join!(ask("running", json!({})), async {
        while server.engine.stats().num_running == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        futures::join!(
            ask("low", json!({"priority": 1})),
            ask("normal", json!({})),
            ask("high", json!({"service_tier": "priority"})),
        );
    });
    // What matters more does not wait for what runs, which goes on later.
    assert_eq!(*order.lock().unwrap(), ["high", "running", "normal", "low"]);
}

/// A model that never ends, and takes its time.
fn endless() -> ScriptedModel {
    let mut model = ScriptedModel::saying("abcd");
    (model.endless, model.step_time) = (true, Duration::from_millis(10));
    model
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504() {
    let server = Setup::new(endless()).start();
    let mut setup = Setup::new(endless());
    setup.server.request_timeout = Some(Duration::from_millis(50));
    let impatient = setup.start();
    for (path, request) in short_requests() {
        // So soon that there is no token yet.
        for stream in [false, true] {
            let fields = json!({"timeout": 0.000001, "stream": stream});
            let answer = server.post(path, merged(&request, fields)).await;
            assert_eq!(answer.status, 504, "{path} {stream}: {}", answer.body);
            assert_eq!(answer.at("/error/type"), "timeout_error", "{path}");
            assert!(answer.body.contains("the request's timeout is over"), "{path}: {}", answer.body);
        }
        let streamed = merged(&request, json!({"timeout": 0.1, "stream": true}));
        let answer = server.post(path, streamed).await;
        assert_eq!(answer.status, 200, "{path}");
        let last = answer.body.split_terminator("\n\n").last().unwrap();
        let (event, code) = match path {
            MESSAGES => ("event: error\ndata: ", "timeout_error"),
            RESPONSES => ("event: response.failed\ndata: ", "request_timeout"),
            _ => ("data: {\"error\":", "request_timeout"),
        };
        assert!(last.starts_with(event) && last.contains(code), "{path}: {last}");
        assert!(answer.body.matches("data: ").count() > 3, "{path}: {}", answer.body);
        // The server's own limit is for those who say nothing.
        assert_eq!(impatient.post(path, request.clone()).await.status, 504, "{path}");
        let ended = merged(&request, json!({"timeout": 60}));
        let member = match path {
            RESPONSES => "max_output_tokens",
            _ => "max_tokens",
        };
        let answer = impatient.post(path, merged(&ended, json!({member: 12}))).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for wrong in [json!(0), json!(-1), json!("1")] {
            let answer = server.post(path, merged(&request, json!({"timeout": wrong}))).await;
            assert_eq!(answer.status, 400, "{path} {wrong}");
        }
    }
}

#[tokio::test]
async fn a_fault_of_the_engine_is_told_as_such() {
    for (path, request) in short_requests() {
        let faulty = |num_good_steps| {
            let mut model = endless();
            model.breaks_after = Some(num_good_steps);
            Setup::new(model).start()
        };
        for stream in [false, true] {
            let answer = faulty(0).post(path, merged(&request, json!({"stream": stream}))).await;
            assert_eq!(answer.status, 500, "{path} {stream}: {}", answer.body);
            let kind = if path == MESSAGES { "api_error" } else { "engine_fault" };
            assert_eq!(answer.at("/error/type"), kind, "{path}");
            for words in ["the model is broken", "may succeed if it is sent again"] {
                assert!(answer.body.contains(words), "{path}: {}", answer.body);
            }
        }
        let answer = faulty(3).post(path, merged(&request, json!({"stream": true}))).await;
        assert_eq!(answer.status, 200, "{path}");
        let last = answer.body.split_terminator("\n\n").last().unwrap();
        assert!(last.contains("may succeed if it is sent again"), "{path}: {last}");
        assert!(!answer.body.contains("[DONE]"), "{path}: {}", answer.body);
    }
}

async fn health(server: &TestServer) -> (u16, Value) {
    let answer = server.get("/health").await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn health_tells_how_the_server_is() {
    let state = loading(ServerConfig::default());
    let engine = Setup::saying("x").start().engine;
    let unready = TestServer { router: cachalot_server::router(state.clone()), state, engine };
    let answer = unready.get("/health").await;
    assert_eq!((answer.status.as_u16(), answer.headers[header::RETRY_AFTER].to_str().unwrap()), (503, "5"));
    assert_eq!((answer.at("/status"), answer.at("/error/code")), (json!("loading"), json!("loading")));
    assert_eq!(answer.at("/reason"), answer.at("/error/message"));

    // A fault is remembered for a while; one in three steps in a row is the end.
    let mut model = endless();
    model.breaks_after = Some(2);
    let server = Setup::new(model).start();
    assert_eq!(health(&server).await, (200, json!({"status": "ready"})));
    let body = json!({"prompt": "a\n", "max_tokens": 1});
    server.complete(body.clone()).await;
    assert_eq!(health(&server).await, (200, json!({"status": "ready"})));
    server.complete(merged(&body, json!({"max_tokens": 9}))).await;
    let (status, degraded) = health(&server).await;
    assert_eq!((status, &degraded["status"]), (200, &json!("degraded")));
    assert!(degraded["reason"].as_str().unwrap().contains("the model is broken"), "{degraded}");
    for _ in 0..2 {
        server.complete(body.clone()).await;
    }
    let stopped = eventually(&server, "stopped").await;
    assert!(stopped["reason"].as_str().unwrap().contains("3 steps in a row"), "{stopped}");
    assert_eq!(stopped["error"]["code"], "engine_failed");

    // A step that does not end.
    let mut model = ScriptedModel::saying("hello");
    model.step_time = Duration::from_millis(400);
    let mut setup = Setup::new(model);
    setup.engine.step_timeout = Duration::from_millis(50);
    let server = setup.start();
    let (answer, ()) = futures::join!(server.complete(body.clone()), async {
        eventually(&server, "stuck").await;
        let refused = server.complete(body.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.at("/error/code")), (503, json!("engine_stuck")));
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(eventually(&server, "ready").await, json!({"status": "ready"}));
}

/// What `/health` says once it says this.
async fn eventually(server: &TestServer, status: &str) -> Value {
    let mut latest = Value::Null;
    for _ in 0..100 {
        let (code, body) = health(server).await;
        if body["status"] == status {
            assert_eq!(code, if matches!(status, "ready" | "degraded") { 200 } else { 503 }, "{body}");
            return body;
        }
        latest = body;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not {status}, but {latest}");
}
