//! The OpenAPI document against the running handlers: its examples are what it says, they are taken, and the answers are too.

mod common;

use common::{FILL_IN_THE_MIDDLE, ScriptedModel, Setup, TestServer, prompt_files_with};
use jsonschema::Validator;
use serde_json::{Value, json};

fn server() -> TestServer {
    let mut model = ScriptedModel::saying("{\"a\": 1}");
    model.max_model_len = 16 << 10;
    let mut setup = Setup::new(model);
    setup.files = Some(prompt_files_with(&FILL_IN_THE_MIDDLE));
    setup.start()
}

/// A validator for a schema that refers to the document's components.
fn validator(document: &Value, schema: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn check_valid(validator: &Validator, value: &Value, what: &str) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:?}\n{value}");
}

#[tokio::test]
async fn examples_are_valid_and_are_taken() {
    let server = server();
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut num_examples = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        if content.is_null() {
            continue;
        }
        let request = validator(&document, &content["schema"]);
        let success = &item["post"]["responses"]["200"]["content"];
        let answer_validator = validator(&document, &success["application/json"]["schema"]);
        let error_validator =
            validator(&document, &item["post"]["responses"]["4XX"]["content"]["application/json"]["schema"]);
        for (name, example) in content["examples"].as_object().unwrap() {
            let what = format!("{path}, {name}");
            let body = &example["value"];
            check_valid(&request, body, &what);
            let answer = server.post(path, body.clone()).await;
            assert_eq!(answer.status, 200, "{what}: {}", answer.body);
            if body["stream"] == true {
                assert_eq!(answer.headers["content-type"], "text/event-stream", "{what}");
                assert!(success.get("text/event-stream").is_some(), "{what}");
            } else {
                check_valid(&answer_validator, &answer.json(), &what);
            }
            num_examples += 1;
        }
        let refused = server.post(path, json!([])).await;
        assert_eq!(refused.status, 400, "{path}");
        check_valid(&error_validator, &refused.json(), path);
        assert!(!request.is_valid(&json!({})), "the schema of {path} takes anything");
    }
    assert!(num_examples >= 15, "{num_examples}");
}

#[tokio::test]
async fn what_is_got_is_as_documented() {
    let server = server();
    let document = server.get("/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(schema) = item.pointer("/get/responses/200/content/application~1json/schema") else { continue };
        let answer = server.get(&path.replace("{model}", "tiny")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        check_valid(&validator(&document, schema), &answer.json(), path);
    }
}

/// What the schemas say is what the handlers refuse.
#[tokio::test]
async fn schemas_and_handlers_refuse_the_same() {
    let server = server();
    let document = server.get("/openapi.json").await.json();
    let user = json!([{"role": "user", "content": "hi"}]);
    let cases = [
        ("/v1/chat/completions", json!({"messages": "hi"})),
        ("/v1/chat/completions", json!({"messages": []})),
        ("/v1/chat/completions", json!({"messages": [{"content": "hi"}]})),
        ("/v1/chat/completions", json!({"messages": [{"role": "wizard", "content": "hi"}]})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": 5}]})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
        ("/v1/chat/completions", json!({"messages": user, "temperature": 2.5})),
        ("/v1/chat/completions", json!({"messages": user, "top_p": 0})),
        ("/v1/chat/completions", json!({"messages": user, "max_tokens": 0})),
        ("/v1/chat/completions", json!({"messages": user, "stop": vec!["x"; 17]})),
        ("/v1/chat/completions", json!({"messages": user, "n": 17})),
        ("/v1/chat/completions", json!({"messages": user, "logprobs": true, "top_logprobs": 21})),
        ("/v1/chat/completions", json!({"messages": user, "thinking": {"type": "maybe"}})),
        ("/v1/chat/completions", json!({"messages": user, "reasoning_effort": "huge"})),
        ("/v1/chat/completions", json!({"messages": user, "tools": [{"type": "web"}]})),
        ("/v1/chat/completions", json!({"messages": user, "tool_choice": "sometimes"})),
        ("/v1/chat/completions", json!({"messages": user, "user_id": "a b"})),
        ("/v1/chat/completions", json!({"messages": user, "service_tier": "gold"})),
        ("/v1/chat/completions", json!({"messages": user, "priority": 0.5})),
        ("/v1/completions", json!({"prompt": "a", "timeout": 0})),
        ("/v1/responses", json!({"input": "a", "cache_salt": ""})),
        ("/anthropic/v1/messages", json!({"messages": user, "max_tokens": 1, "metadata": {"user_id": 5}})),
        ("/v1/completions", json!({"prompt": 5})),
        ("/v1/completions", json!({"prompt": "a", "logprobs": 21})),
        ("/v1/completions", json!({"prompt": "a", "best_of": 2})),
        ("/v1/responses", json!({"input": []})),
        ("/v1/responses", json!({"input": "a", "previous_response_id": "r"})),
        ("/v1/responses", json!({"input": "a", "background": true})),
        ("/v1/tokenize", json!({"prompt": [1]})),
        ("/v1/detokenize", json!({"tokens": [-1]})),
    ];
    for (path, body) in cases {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert!(!validator(&document, schema).is_valid(&body), "the document allows {path} {body}");
        assert_eq!(server.post(path, body.clone()).await.status, 400, "{path} {body}");
    }
}
