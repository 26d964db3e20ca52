//! Every error of the hosted API that can come up here, in its exact words, with its type and code.

mod common;

use axum::body::Body;
use axum::http::{Request, header};
use cachalot_server::ServerConfig;
use common::{Answer, ScriptedModel, Setup, merged};
use serde_json::{Value, json};

/// The message, with N for the column of an error that serde reports: it depends on how the body was written.
fn message(answer: &Answer) -> String {
    let message = answer.at("/error/message").as_str().unwrap().to_owned();
    match message.rsplit_once(" at line 1 column ") {
        Some((before, column)) if column.parse::<usize>().is_ok() => format!("{before} at line 1 column N"),
        _ => message,
    }
}

#[tokio::test]
async fn every_text_of_a_chat() {
    let mut model = ScriptedModel::saying("hello");
    model.max_model_len = 128 << 10;
    let mut setup = Setup::new(model);
    setup.engine.kv_cache = cachalot_engine::KvCacheSize::Blocks(2048);
    let server = setup.start();
    let user = json!({"role": "user", "content": "hi"});
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let calls = json!({"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let tool =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}});
    let with_role = |role: &str| json!({"messages": [{"role": role, "content": "hi"}]});
    let efforts = "`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`";
    let serde = |text: &str| format!("Failed to deserialize the JSON body into the target type: {text}");
    let cases: Vec<(Value, String)> = vec![
        (
            json!({"model": "gpt-4"}),
            "Model Not Exist. The supported API model names are tiny, deepseek-chat, deepseek-reasoner, but you passed gpt-4."
                .into(),
        ),
        (
            json!({"model": "deepseek-chat", "max_tokens": 8193}),
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]".into(),
        ),
        (
            json!({"model": "deepseek-reasoner", "max_tokens": 65_537}),
            "Invalid max_tokens value, the valid range of max_tokens is [1, 65536]".into(),
        ),
        (
            json!({"max_tokens": 131_072}),
            "This model's maximum context length is 131072 tokens. However, you requested 131078 tokens (6 in the messages, \
             131072 in the completion). Please reduce the length of the messages or completion."
                .into(),
        ),
        (json!({"temperature": 2.1}), "Invalid temperature value, the valid range of temperature is [0, 2]".into()),
        (json!({"top_p": 0}), "Invalid top_p value, the valid range of top_p is (0, 1.0]".into()),
        (
            json!({"top_logprobs": 2}),
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.".into(),
        ),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].".into(),
        ),
        (
            json!({"logprobs": true, "top_logprobs": -1}),
            serde("top_logprobs: invalid value: integer `-1`, expected u8 at line 1 column N"),
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.".into(),
        ),
        (
            json!({"reasoning_effort": "huge"}),
            serde(&format!("reasoning_effort: unknown variant `huge`, expected one of {efforts} at line 1 column N")),
        ),
        (
            json!({"thinking": {"type": "enabled", "reasoning_effort": "huge"}}),
            serde(&format!("thinking.reasoning_effort: unknown variant `huge`, expected one of {efforts} at line 1 column N")),
        ),
        (
            with_role("wizard"),
            serde(
                "messages[0].role: unknown variant `wizard`, expected one of `system`, `user`, `assistant`, `tool`, \
                 `latest_reminder` at line 1 column N",
            ),
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            serde("messages[0].content[0].type: unknown variant `image_url`, expected `text` at line 1 column N"),
        ),
        (json!({"messages": [user, {"role": "user"}]}), serde("messages[1]: missing field `content`")),
        (
            json!({"tools": [{"type": "web_search"}]}),
            serde("tools[0].type: unknown variant `web_search`, expected `function` at line 1 column N"),
        ),
        (
            json!({"messages": [user, calls, result("a")]}),
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
             (insufficient tool messages following tool_calls message)"
                .into(),
        ),
        (
            json!({"messages": [user, result("a")]}),
            "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'".into(),
        ),
        (
            json!({"messages": [user, calls, result("a"), result("b")], "model": "deepseek-reasoner"}),
            "Missing `reasoning_content` field in the assistant message at message index 1. For more information, please refer \
             to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
                .into(),
        ),
        (
            json!({"model": "deepseek-reasoner", "tools": [tool], "tool_choice": "required"}),
            "deepseek-reasoner does not support this tool_choice".into(),
        ),
        (
            json!({"model": "deepseek-reasoner", "tools": [tool],
                   "tool_choice": {"type": "function", "function": {"name": "f"}}}),
            "deepseek-reasoner does not support this tool_choice".into(),
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "x"}], "model": "deepseek-reasoner"}),
            "The last message of deepseek-reasoner must be a user message, or an assistant message with prefix mode on (refer to \
             https://api-docs.deepseek.com/guides/chat_prefix_completion)."
                .into(),
        ),
    ];
    for (fields, words) in cases {
        let body = merged(&json!({"messages": [user]}), fields.clone());
        for delivery in [json!({}), json!({"stream": true})] {
            let answer = server.chat(merged(&body, delivery)).await;
            assert_eq!(answer.status, 400, "{fields}: {}", answer.body);
            assert_eq!(message(&answer), words, "{fields}");
            assert_eq!(answer.at("/error/type"), "invalid_request_error", "{fields}");
            let is_length = words.starts_with("This model's maximum context length");
            let code = if is_length { "context_length_exceeded" } else { "invalid_request_error" };
            assert_eq!(answer.at("/error/code"), code, "{fields}");
        }
    }
}

#[tokio::test]
async fn every_text_about_keys() {
    let mut setup = Setup::saying("hello");
    setup.server = ServerConfig { api_keys: vec!["right".into()], ..setup.server };
    let server = setup.start();
    let cases = [
        (Some("Bearer sk-0123456789abcd"), "Authentication Fails, Your api key: ****abcd is invalid"),
        (
            None,
            "Authentication Fails (governor): no API key was sent; send the header `Authorization: Bearer <key>` or \
             `x-api-key: <key>`",
        ),
    ];
    for (key, words) in cases {
        let mut request = Request::post("/chat/completions");
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, key);
        }
        let answer = server.send(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(answer.status, 401);
        assert_eq!(
            answer.at("/error"),
            json!({"message": words, "type": "authentication_error", "param": null, "code": "invalid_request_error"})
        );
    }
}
