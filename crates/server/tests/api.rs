//! Answers: their shape, and that whole and streamed ones say the same.

mod common;

use axum::body::Body;
use axum::http::{Request, header};
use cachalot_server::{AllowedOrigins, ServerConfig};
use common::{
    ASSISTANT, Answer, BOS, END_THINK, EOS, HELL, NEWLINE, ScriptedModel, Setup, THINK, TestServer, USER, loading,
    merged,
};
use serde_json::{Value, json};

fn chat_body() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0})
}

fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// All text of choice `index` of a stream, by member of its deltas.
fn joined(chunks: &[Value], index: usize, member: &str) -> String {
    let of_choice =
        chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|choice| choice["index"] == index);
    of_choice.map(|choice| choice.pointer(member).and_then(Value::as_str).unwrap_or_default()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_chat_answer() {
    let server = Setup::saying("hello!").start();
    let answer = server.chat(chat_body()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert_eq!(keys(&body), ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"]);
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "tiny");
    assert_eq!(body["id"].as_str().unwrap().len(), 36);
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        body["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": "hello!"}, "logprobs": null, "finish_reason": "stop"}])
    );
    // <bos><｜User｜>hi<｜Assistant｜></think>
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 0},
               "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 6})
    );
}

#[tokio::test]
async fn a_streamed_chat_answer() {
    let server = Setup::saying("ok").start();
    let whole = server.chat(chat_body()).await;
    let answer = server.chat(merged(&chat_body(), json!({"stream": true}))).await;
    let chunks = answer.chunks();
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-cache");
    let (last, others) = chunks.split_last().unwrap();
    for chunk in others {
        assert_eq!(keys(chunk), ["id", "object", "created", "model", "system_fingerprint", "choices"]);
    }
    // As on the hosted API, the last chunk tells the usage even if nobody asked.
    assert_eq!(last["usage"], whole.at("/usage"));
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert_eq!(chunk["system_fingerprint"], whole.at("/system_fingerprint"));
    }
    let choice = |delta: Value, finish_reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"]).collect();
    assert_eq!(
        choices,
        [
            &choice(json!({"role": "assistant", "content": ""}), Value::Null),
            &choice(json!({"content": "o"}), Value::Null),
            &choice(json!({"content": "k"}), Value::Null),
            &choice(json!({"content": ""}), json!("stop")),
        ]
    );

    let with_usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut chunks = server.chat(merged(&chat_body(), with_usage)).await.chunks();
    let last = chunks.pop().unwrap();
    assert_eq!(last["usage"], whole.at("/usage"));
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.as_object().unwrap().contains_key("usage")));
}

#[tokio::test]
async fn thinking_splits_the_answer() {
    let mut script = bytes_of("hm");
    script.push(END_THINK);
    script.extend(bytes_of("yes"));
    let server = Setup::new(ScriptedModel::new(&script)).start();
    let body = merged(&chat_body(), json!({"thinking": {"type": "enabled"}}));
    let whole = server.chat(body.clone()).await;
    assert_eq!(
        whole.at("/choices/0/message"),
        json!({"role": "assistant", "content": "yes", "reasoning_content": "hm"})
    );
    // The closing tag counts as generated, not as reasoning.
    assert_eq!(whole.at("/usage/completion_tokens"), 6);
    assert_eq!(whole.at("/usage/completion_tokens_details"), json!({"reasoning_tokens": 2}));

    let chunks = server.chat(merged(&body, json!({"stream": true}))).await.chunks();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let reasoning = |text: &str| json!({"content": null, "reasoning_content": text});
    let content = |text: &str| json!({"content": text, "reasoning_content": null});
    assert_eq!(
        deltas,
        [
            &json!({"role": "assistant", "content": null, "reasoning_content": ""}),
            &reasoning("h"),
            &reasoning("m"),
            &reasoning(""),
            &content("y"),
            &content("e"),
            &content("s"),
            &content(""),
        ]
    );
}

#[tokio::test]
async fn who_decides_about_thinking() {
    let server = Setup::saying("hello").start();
    let on = |name: &str| json!({"chat_template_kwargs": {name: true}});
    let cases = [
        (json!({}), false),
        (json!({"model": "tiny"}), false),
        (json!({"model": "deepseek-chat"}), false),
        (json!({"model": "deepseek-reasoner"}), true),
        (json!({"thinking": {"type": "enabled"}}), true),
        (json!({"thinking": null}), false),
        (json!({"model": "deepseek-chat", "thinking": {"type": "enabled"}}), true),
        (json!({"model": "deepseek-reasoner", "thinking": {"type": "disabled"}}), false),
        (on("thinking"), true),
        (on("enable_thinking"), true),
        (json!({"model": "deepseek-reasoner", "chat_template_kwargs": {"thinking": false}}), false),
        (json!({"model": "deepseek-reasoner", "reasoning_effort": "none"}), false),
        (json!({"model": "deepseek-reasoner", "reasoning_effort": "low"}), true),
        (json!({"reasoning_effort": "high"}), false),
    ];
    for (fields, thinking) in cases {
        let body = merged(&chat_body(), fields.clone());
        let tokens = server.post("/tokenize", body.clone()).await.at("/tokens");
        let last = tokens.as_array().unwrap().last().unwrap().clone();
        assert_eq!(last, if thinking { THINK } else { END_THINK }, "{fields}");
        let answer = server.chat(body).await;
        let message = answer.at("/choices/0/message");
        assert_eq!(message.get("reasoning_content").is_some(), thinking, "{fields}");
        let named = fields.get("model").cloned().unwrap_or(json!("tiny"));
        assert_eq!(answer.at("/model"), named);
    }
}

#[tokio::test]
async fn messages_become_the_prompt() {
    let server = Setup::saying("hello").start();
    let tool = json!({"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}}});
    let cases = [
        (json!({"messages": [{"role": "user", "content": "hi"}]}), "<bos><｜User｜>hi<｜Assistant｜></think>"),
        (
            json!({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]}),
            "<bos>S<｜User｜>hi<｜Assistant｜></think>",
        ),
        // What newer OpenAI clients call the system role.
        (
            json!({"messages": [{"role": "developer", "content": "S"}, {"role": "user", "content": "hi"}]}),
            "<bos>S<｜User｜>hi<｜Assistant｜></think>",
        ),
        // Parts are joined with nothing between them.
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}),
            "<bos><｜User｜>ab<｜Assistant｜></think>",
        ),
        (
            json!({"messages": [
                {"role": "user", "content": "a", "name": "ada"},
                {"role": "assistant", "content": "b", "reasoning_content": "gone"},
                {"role": "user", "content": "c"},
            ]}),
            "<bos><｜User｜>a<｜Assistant｜></think>b<eos><｜User｜>c<｜Assistant｜></think>",
        ),
    ];
    for (body, prompt) in cases {
        let prompt = prompt.replace("<bos>", "<｜begin▁of▁sentence｜>").replace("<eos>", "<｜end▁of▁sentence｜>");
        let answer = server.post("/tokenize", body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.at("/prompt"), prompt, "{body}");
        assert_eq!(server.chat(body).await.at("/usage/prompt_tokens"), answer.at("/count"));
    }
    let body = json!({
        "messages": [
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": null, "tool_calls":
                [{"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
        ],
        "tools": [tool],
    });
    let prompt = server.post("/tokenize", body).await.at("/prompt");
    let prompt = prompt.as_str().unwrap();
    for part in [
        r#"{"name": "now", "description": "The time", "parameters": {"type": "object"}}"#,
        "UTC",
        "<result>12:00</result>",
    ] {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    // Tools that must not be called stay in the prompt, so that its beginning is the same whatever the choice.
    let with_choice =
        |choice: &str| json!({"messages": [{"role": "user", "content": "hi"}], "tools": [tool], "tool_choice": choice});
    let prompts =
        [server.post("/tokenize", with_choice("none")).await, server.post("/tokenize", with_choice("auto")).await];
    assert_eq!(prompts[0].at("/tokens"), prompts[1].at("/tokens"));
}

/// Whatever the stop strings cut and wherever characters are torn, both kinds of answer have the same text.
#[tokio::test]
async fn streamed_and_whole_text_agree() {
    let stop = |stop: &str| json!({"stop": stop});
    let cases: Vec<(&str, Value, &str, &str, usize)> = vec![
        ("plain", json!({}), "plain", "stop", 5),
        ("grüße 日本語 🐳!", json!({}), "grüße 日本語 🐳!", "stop", 23),
        ("grüße", json!({"max_tokens": 3}), "gr\u{fffd}", "length", 3),
        ("one STOP two", stop("STOP"), "one ", "stop", 8),
        // Held back, and then no stop string after all.
        ("one STO", stop("STOP"), "one STO", "stop", 7),
        ("one STOP", json!({"stop": ["two", "one"]}), "", "stop", 3),
        ("aab", stop("ab"), "a", "stop", 3),
        ("日本語", stop("本"), "日", "stop", 6),
        ("length", json!({"max_tokens": 4}), "leng", "length", 4),
        ("stopped by id", json!({"stop_token_ids": [u32::from(b'b')]}), "stopped ", "stop", 8),
        ("long enough", json!({"max_completion_tokens": 2, "max_tokens": 5}), "lo", "length", 2),
    ];
    for (script, fields, text, finish_reason, num_tokens) in cases {
        let server = Setup::saying(script).start();
        let body = merged(&chat_body(), fields.clone());
        let whole = server.chat(body.clone()).await;
        assert_eq!(whole.at("/choices/0/message/content"), text, "{script} {fields}");
        assert_eq!(whole.at("/choices/0/finish_reason"), finish_reason, "{script} {fields}");
        assert_eq!(whole.at("/usage/completion_tokens"), num_tokens, "{script} {fields}");
        let chunks = server.chat(merged(&body, json!({"stream": true}))).await.chunks();
        assert_eq!(joined(&chunks, 0, "/delta/content"), text, "{script} {fields}");
        assert_eq!(joined(&chunks, 0, "/finish_reason"), finish_reason, "{script} {fields}");

        if fields.get("max_completion_tokens").is_some() {
            continue;
        }
        let body = merged(&fields, json!({"prompt": "hi\n", "temperature": 0}));
        let body = if fields.get("max_tokens").is_some() { body } else { merged(&body, json!({"max_tokens": 100})) };
        let whole = server.complete(body.clone()).await;
        assert_eq!(whole.at("/choices/0/text"), text, "{script} {fields}");
        assert_eq!(whole.at("/choices/0/finish_reason"), finish_reason, "{script} {fields}");
        let chunks = server.complete(merged(&body, json!({"stream": true}))).await.chunks();
        assert_eq!(joined(&chunks, 0, "/text"), text, "{script} {fields}");
        assert_eq!(joined(&chunks, 0, "/finish_reason"), finish_reason, "{script} {fields}");
    }
}

#[tokio::test]
async fn a_stop_string_does_not_end_the_reasoning() {
    let mut script = bytes_of("a STOP b");
    script.push(END_THINK);
    script.extend(bytes_of("c STOP d"));
    let server = Setup::new(ScriptedModel::new(&script)).start();
    let body = merged(&chat_body(), json!({"model": "deepseek-reasoner", "stop": "STOP"}));
    let message = server.chat(body).await.at("/choices/0/message");
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("a STOP b"), &json!("c ")));
}

#[tokio::test]
async fn ignore_eos_and_min_tokens() {
    let server = Setup::saying("hi").start();
    let answer = server.complete(json!({"prompt": "a\n", "temperature": 0, "ignore_eos": true, "max_tokens": 5})).await;
    assert_eq!(answer.at("/usage/completion_tokens"), 5);
    assert_eq!(answer.at("/choices/0/finish_reason"), "length");
    // End-of-sequence tokens are no text, even when they are generated.
    assert_eq!(answer.at("/choices/0/text"), "hi");
    let answer = server.complete(json!({"prompt": "a\n", "temperature": 0, "min_tokens": 4, "max_tokens": 5})).await;
    assert!(answer.at("/usage/completion_tokens").as_u64().unwrap() >= 4, "{}", answer.body);
}

#[tokio::test]
async fn several_choices() {
    let mut model = ScriptedModel::saying("hello");
    model.certainty = 0.0;
    let server = Setup::new(model).start();
    let body = json!({"prompt": "a\n", "n": 3, "max_tokens": 8, "seed": 7, "ignore_eos": true, "temperature": 1,
                      "logprobs": 0, "return_tokens_as_token_ids": true});
    let tokens = |answer: &Answer, index: usize| answer.at(&format!("/choices/{index}/logprobs/tokens"));
    let answer = server.complete(body.clone()).await;
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 3);
    for index in 0..3 {
        assert_eq!(answer.at(&format!("/choices/{index}/index")), index);
    }
    assert_eq!(answer.at("/usage/prompt_tokens"), 2);
    assert_eq!(answer.at("/usage/completion_tokens"), 24);
    assert_ne!(tokens(&answer, 0), tokens(&answer, 1));
    assert_ne!(tokens(&answer, 1), tokens(&answer, 2));
    // A seed gives the same again, and asking for fewer changes nothing about the first.
    assert_eq!(server.complete(body.clone()).await.at("/choices"), answer.at("/choices"));
    let alone = server.complete(merged(&body, json!({"n": 1}))).await;
    assert_eq!(tokens(&alone, 0), tokens(&answer, 0));
    assert_ne!(tokens(&server.complete(merged(&body, json!({"seed": 8}))).await, 0), tokens(&answer, 0));
    // Without a seed each request has its own.
    let unseeded = merged(&body, json!({"seed": null}));
    assert_ne!(tokens(&server.complete(unseeded.clone()).await, 0), tokens(&server.complete(unseeded).await, 0));

    let server = Setup::saying("hey").start();
    let body = merged(&chat_body(), json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}}));
    let chunks = server.chat(body).await.chunks();
    assert_eq!(
        (joined(&chunks, 0, "/delta/content"), joined(&chunks, 1, "/delta/content")),
        ("hey".into(), "hey".into())
    );
    let usages: Vec<&Value> = chunks.iter().map(|chunk| &chunk["usage"]).filter(|usage| !usage.is_null()).collect();
    assert_eq!(usages.len(), 1);
    assert_eq!(usages[0]["completion_tokens"], 6);
    assert_eq!(usages[0]["prompt_tokens"], 6);
}

#[tokio::test]
async fn a_completion() {
    let server = Setup::saying("hello, and more than sixteen tokens").start();
    let answer = server.complete(json!({"prompt": "hi\n", "temperature": 0})).await;
    let body = answer.json();
    assert_eq!(keys(&body), ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"]);
    assert_eq!(body["object"], "text_completion");
    assert_eq!(
        body["choices"],
        json!([{"index": 0, "text": "hello, and more ", "logprobs": null, "finish_reason": "length"}])
    );
    let chunks = server.complete(json!({"prompt": "hi\n", "temperature": 0, "stream": true})).await.chunks();
    // One chunk per token, and one for the end.
    assert_eq!(chunks.len(), 17);
    assert_eq!(chunks[0]["object"], "text_completion");
    assert_eq!(chunks[0]["choices"], json!([{"index": 0, "text": "h", "logprobs": null, "finish_reason": null}]));
}

#[tokio::test]
async fn forms_of_prompts() {
    let server = Setup::saying("hello").start();
    let cases = [
        (json!("a\n"), 1, 2),
        (json!(["a\n", "bb\n"]), 2, 5),
        (json!([65, NEWLINE]), 1, 2),
        (json!([[65, NEWLINE], [66, 66, NEWLINE]]), 2, 5),
        // Control tokens in a prompt are read as such: completions are the raw interface.
        (json!("<｜User｜>x\n"), 1, 3),
        // Ids that the tokenizer lacks are the model's business.
        (json!([270, NEWLINE]), 1, 2),
    ];
    for (prompt, num_choices, num_tokens) in cases {
        let answer = server.complete(json!({"prompt": prompt, "temperature": 0})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let choices = answer.at("/choices");
        let texts: Vec<&str> =
            choices.as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(texts, vec!["hello"; num_choices], "{prompt}");
        assert_eq!(answer.at("/usage/prompt_tokens"), num_tokens, "{prompt}");
    }
}

#[tokio::test]
async fn echo_and_legacy_logprobs() {
    let server = Setup::saying("no").start();
    let body = json!({"prompt": "hell\n", "temperature": 0, "echo": true, "logprobs": 2});
    let whole = server.complete(body.clone()).await;
    assert_eq!(whole.at("/choices/0/text"), "hell\nno");
    let logprobs = whole.at("/choices/0/logprobs");
    assert_eq!(keys(&logprobs), ["tokens", "token_logprobs", "top_logprobs", "text_offset"]);
    assert_eq!(logprobs["tokens"], json!(["hell", "\n", "n", "o"]));
    assert_eq!(logprobs["text_offset"], json!([0, 4, 5, 6]));
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for i in 1..4 {
        assert!(logprobs["token_logprobs"][i].as_f64().unwrap() <= 0.0);
    }
    // The newline is not what the model would have said: it stands beside the two likeliest.
    assert_eq!(logprobs["top_logprobs"][1].as_object().unwrap().len(), 3);
    assert_eq!(logprobs["top_logprobs"][1]["\n"], logprobs["token_logprobs"][1]);
    // Said by the model: one of the two.
    assert_eq!(logprobs["top_logprobs"][2].as_object().unwrap().len(), 2);
    assert_eq!(logprobs["top_logprobs"][2]["n"], logprobs["token_logprobs"][2]);

    let chunks = server.complete(merged(&body, json!({"stream": true}))).await.chunks();
    assert_eq!(joined(&chunks, 0, "/text"), "hell\nno");
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let pieces = chunks.iter().filter_map(|chunk| chunk.pointer(&format!("/choices/0/logprobs/{list}")));
        let all: Vec<&Value> = pieces.flat_map(|piece| piece.as_array().unwrap()).collect();
        assert_eq!(json!(all), logprobs[list], "{list}");
    }

    // The prompt alone.
    let answer = server.complete(merged(&body, json!({"max_tokens": 0}))).await;
    assert_eq!(answer.at("/choices/0/text"), "hell\n");
    assert_eq!(answer.at("/choices/0/logprobs/tokens"), json!(["hell", "\n"]));
    assert_eq!(answer.at("/usage/completion_tokens"), 0);
    let answer = server.complete(json!({"prompt": [HELL, NEWLINE], "echo": true, "max_tokens": 0})).await;
    assert_eq!(answer.at("/choices/0/text"), "hell\n");
    // No echo: offsets count from the first generated character.
    let answer = server.complete(json!({"prompt": "hell\n", "temperature": 0, "logprobs": 0})).await;
    assert_eq!(answer.at("/choices/0/logprobs/text_offset"), json!([0, 1]));
    assert_eq!(answer.at("/choices/0/logprobs/top_logprobs/0").as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn offsets_count_characters() {
    let server = Setup::saying("🐳ü!").start();
    let body = json!({"prompt": "é\n", "temperature": 0, "echo": true, "logprobs": 0});
    let answer = server.complete(body).await;
    assert_eq!(answer.at("/choices/0/text"), "é\n🐳ü!");
    assert_eq!(answer.at("/choices/0/logprobs/text_offset"), json!([0, 0, 1, 2, 2, 2, 2, 3, 3, 4]));
}

#[tokio::test]
async fn tokens_as_token_ids() {
    for with_tokenizer in [true, false] {
        let mut setup = Setup::saying("no");
        setup.files = setup.files.filter(|_| with_tokenizer);
        let server = setup.start();
        // Without a tokenizer there is no other way to name tokens.
        let body = json!({"prompt": [65, NEWLINE], "temperature": 0, "echo": true, "logprobs": 1,
                          "return_tokens_as_token_ids": with_tokenizer});
        let answer = server.complete(body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(
            answer.at("/choices/0/logprobs/tokens"),
            json!(["token_id:65", "token_id:10", "token_id:110", "token_id:111"])
        );
        assert_eq!(keys(&answer.at("/choices/0/logprobs/top_logprobs/2")), ["token_id:110"]);
        assert_eq!(answer.at("/choices/0/text"), if with_tokenizer { "A\nno" } else { "" });
        assert_eq!(answer.at("/choices/0/finish_reason"), "stop");
    }
}

#[tokio::test]
async fn prompt_logprobs() {
    let server = Setup::saying("no").start();
    let body = json!({"prompt": "hell\n", "temperature": 0, "prompt_logprobs": 1});
    let answer = server.complete(body.clone()).await;
    let positions = answer.at("/choices/0/prompt_logprobs");
    assert_eq!(positions.as_array().unwrap().len(), 2);
    assert!(positions[0].is_null());
    // The likeliest token and the prompt's own, which is not among the likeliest.
    let own = &positions[1]["10"];
    assert_eq!(own["decoded_token"], "\n");
    assert!(own["rank"].is_null());
    assert_eq!(positions[1].as_object().unwrap().len(), 2);
    let best = positions[1].as_object().unwrap().values().nth(1).unwrap();
    assert_eq!(best["rank"], 1);
    assert!(best["logprob"].as_f64() > own["logprob"].as_f64());
    assert_eq!(answer.at("/choices/0/text"), "no");
    assert!(answer.at("/choices/0/logprobs").is_null());
    let answer = server.complete(merged(&body, json!({"max_tokens": 0}))).await;
    assert_eq!(answer.at("/choices/0/prompt_logprobs"), positions);
}

#[tokio::test]
async fn chat_logprobs() {
    let mut script = bytes_of("a");
    script.push(END_THINK);
    script.extend(bytes_of("ü"));
    let server = Setup::new(ScriptedModel::new(&script)).start();
    let body = merged(&chat_body(), json!({"thinking": {"type": "enabled"}, "logprobs": true, "top_logprobs": 2}));
    let logprobs = server.chat(body.clone()).await.at("/choices/0/logprobs");
    assert_eq!(keys(&logprobs), ["content", "reasoning_content"]);
    let tokens = |list: &Value| list.as_array().unwrap().iter().map(|entry| entry["token"].clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&logprobs["reasoning_content"]), ["a", "</think>"]);
    assert_eq!(tokens(&logprobs["content"]), ["\u{fffd}", "\u{fffd}"]);
    let entry = &logprobs["content"][0];
    assert_eq!(keys(entry), ["token", "logprob", "bytes", "top_logprobs"]);
    assert_eq!(entry["bytes"], json!([0xc3]));
    assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(keys(&entry["top_logprobs"][0]), ["token", "logprob", "bytes"]);
    assert_eq!(entry["top_logprobs"][0]["logprob"], entry["logprob"]);

    let chunks = server.chat(merged(&body, json!({"stream": true}))).await.chunks();
    for list in ["content", "reasoning_content"] {
        let pieces = chunks.iter().filter_map(|chunk| chunk.pointer(&format!("/choices/0/logprobs/{list}")));
        let all: Vec<&Value> = pieces.filter_map(Value::as_array).flatten().collect();
        assert_eq!(json!(all), logprobs[list], "{list}");
    }

    let body = merged(&chat_body(), json!({"logprobs": true}));
    let logprobs = server.chat(body).await.at("/choices/0/logprobs");
    assert!(logprobs["reasoning_content"].is_null());
    assert_eq!(logprobs["content"][0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn tokenize_and_detokenize() {
    let server = Setup::saying("hello").start();
    let answer = server.post("/tokenize", json!({"prompt": "hello <｜User｜>"})).await;
    assert_eq!(
        answer.json(),
        json!({"tokens": [HELL, 111, 32, USER], "count": 4, "max_model_len": 2048, "prompt": "hello <｜User｜>"})
    );
    let answer = server.post("/tokenize", json!({"messages": [{"role": "user", "content": "hell"}]})).await;
    assert_eq!(answer.at("/tokens"), json!([BOS, USER, HELL, ASSISTANT, END_THINK]));
    assert_eq!(answer.at("/prompt"), "<｜begin▁of▁sentence｜><｜User｜>hell<｜Assistant｜></think>");
    let answer = server.post("/detokenize", json!({"tokens": [USER, HELL, 111, 0xf0, EOS]})).await;
    assert_eq!(answer.json(), json!({"prompt": "<｜User｜>hello\u{fffd}<｜end▁of▁sentence｜>"}));
    assert_eq!(server.post("/detokenize", json!({"tokens": []})).await.at("/prompt"), "");
}

#[tokio::test]
async fn models() {
    let server = Setup::saying("hello").start();
    for path in ["/v1/models", "/models"] {
        let answer = server.get(path).await;
        assert_eq!(answer.at("/object"), "list");
        let ids: Vec<Value> = answer.at("/data").as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
        assert_eq!(ids, ["tiny", "deepseek-chat", "deepseek-reasoner"]);
        assert_eq!(answer.at("/data/0/object"), "model");
        assert_eq!(answer.at("/data/0/owned_by"), "deepseek");
        assert_eq!(answer.at("/data/0/max_model_len"), 2048);
    }
}

#[tokio::test]
async fn paths_without_the_version() {
    let server = Setup::saying("hello").start();
    assert_eq!(server.post("/chat/completions", chat_body()).await.at("/choices/0/message/content"), "hello");
    let body = json!({"prompt": "a\n", "temperature": 0});
    assert_eq!(server.post("/completions", body).await.at("/choices/0/text"), "hello");
}

#[tokio::test]
async fn unknown_and_null_fields_are_ignored() {
    let server = Setup::saying("hello").start();
    let fields = json!({
        "user": "u", "store": true, "metadata": {"a": 1}, "parallel_tool_calls": true, "prompt_cache_key": "k", "made_up": [1, {}],
        "temperature": null, "top_p": null, "top_k": null, "stop": null, "max_tokens": null, "n": null, "stream": null,
        "tools": null, "tool_choice": null, "thinking": null, "logprobs": null, "logit_bias": null, "seed": null,
        "response_format": null, "stream_options": null, "presence_penalty": null, "top_logprobs": null, "model": null,
    });
    let answer = server.chat(merged(&fields, json!({"messages": [{"role": "user", "content": "hi"}]}))).await;
    assert_eq!(answer.at("/choices/0/message/content"), "hello");
}

#[tokio::test]
async fn fields_that_reach_the_sampler() {
    let server = Setup::saying("hello").start();
    let first = |fields: Value| {
        let server = &server;
        async move {
            let body = merged(&json!({"prompt": "a\n", "temperature": 0, "max_tokens": 1}), fields);
            server.complete(body).await.at("/choices/0/text")
        }
    };
    assert_eq!(first(json!({})).await, "h");
    assert_eq!(first(json!({"logit_bias": {"90": 50}})).await, "Z");
    assert_ne!(first(json!({"logit_bias": {"104": -50}})).await, "h");
    // All of these leave the likeliest token alone at any temperature.
    for fields in [json!({"top_k": 1}), json!({"top_p": 0.01}), json!({"min_p": 1.0})] {
        let fields = merged(&fields, json!({"temperature": 2.0}));
        assert_eq!(first(fields.clone()).await, "h", "{fields}");
    }
}

#[tokio::test]
async fn a_prompt_with_cached_blocks_says_so() {
    let server = Setup::saying("hello").start();
    let body = json!({"prompt": format!("{}\n", "x".repeat(200)), "temperature": 0});
    let first = server.complete(body.clone()).await;
    let second = server.complete(body).await;
    for answer in [&first, &second] {
        let usage = answer.at("/usage");
        let (hit, miss) = (&usage["prompt_cache_hit_tokens"], &usage["prompt_cache_miss_tokens"]);
        assert_eq!(hit.as_u64().unwrap() + miss.as_u64().unwrap(), 201);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], *hit);
        assert_eq!(hit.as_u64().unwrap() % 64, 0);
    }
}

#[tokio::test]
async fn cors_is_off_until_asked_for() {
    let origin = "https://chat.example.org";
    let cases = [
        (AllowedOrigins::None, None),
        (AllowedOrigins::Any, Some("*")),
        (AllowedOrigins::List(vec![origin.parse().unwrap()]), Some(origin)),
        (AllowedOrigins::List(vec!["https://other.example.org".parse().unwrap()]), None),
    ];
    for (allowed_origins, expected) in cases {
        let mut setup = Setup::saying("hello");
        // A preflight carries no key.
        setup.server = ServerConfig { allowed_origins, api_keys: vec!["key".into()], ..setup.server };
        let server = setup.start();
        let request = Request::options("/v1/chat/completions")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "x-api-key,x-stainless-os");
        let answer = server.send(request.body(Body::empty()).unwrap()).await;
        let found = answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
        assert_eq!(found, expected);
        if expected.is_some() {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "x-api-key,x-stainless-os");
        }
    }
}

#[tokio::test]
async fn health_and_metrics() {
    let state = loading(ServerConfig::default());
    let loading =
        TestServer { router: cachalot_server::router(state.clone()), state, engine: Setup::saying("x").start().engine };
    assert_eq!(loading.get("/health").await.status, 503);
    let server = Setup::saying("hello").start();
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), health.json()), (200, json!({"status": "ready"})));
    server.chat(chat_body()).await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    for name in [
        r#"cachalot_http_responses_total{status="200"}"#,
        r#"cachalot_http_responses_total{status="503"}"#,
        "cachalot_requests_running",
        "cachalot_requests_waiting",
        "cachalot_kv_blocks_in_use",
        "cachalot_kv_blocks_total",
        "cachalot_prompt_tokens_total",
        "cachalot_generated_tokens_total",
        "cachalot_time_to_first_token_seconds_bucket",
        "cachalot_step_seconds_bucket",
    ] {
        assert!(metrics.body.contains(name), "{name} is not in:\n{}", metrics.body);
    }
}

#[tokio::test]
async fn a_chat_answer_may_fill_the_context() {
    let mut model = ScriptedModel::saying("abc");
    model.endless = true;
    model.max_model_len = 128;
    let server = Setup::new(model).start();
    let answer = server.chat(chat_body()).await;
    assert_eq!(answer.at("/choices/0/finish_reason"), "length");
    assert_eq!(answer.at("/usage/total_tokens"), 128);
    let answer = server.complete(json!({"prompt": [vec![65; 120], vec![65]], "temperature": 0})).await;
    // The default of 16 gives way to the context.
    assert_eq!(answer.at("/usage/completion_tokens"), 8 + 16);
}

#[tokio::test]
async fn the_checkpoint_advises_on_sampling() {
    let mut model = ScriptedModel::saying("hello");
    // Little more likely than each of the others: only a filter makes it sure.
    model.certainty = 1.0;
    let mut setup = Setup::new(model);
    setup.files.as_mut().unwrap().generation_config = Some(json!({"top_k": 1}).to_string().into_bytes());
    let server = setup.start();
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "seed": 1});
    assert_eq!(server.chat(body.clone()).await.at("/choices/0/message/content"), "hello");
    let answer = server.chat(merged(&body, json!({"top_k": 0}))).await;
    assert_ne!(answer.at("/choices/0/message/content"), "hello");
}

#[tokio::test]
async fn a_checkpoint_that_begins_texts_with_a_token() {
    let mut setup = Setup::saying("no");
    let config = json!({"bos_token": "<｜begin▁of▁sentence｜>", "add_bos_token": true});
    setup.files.as_mut().unwrap().tokenizer_config = Some(config.to_string().into_bytes());
    let server = setup.start();
    assert_eq!(server.post("/tokenize", json!({"prompt": "a"})).await.at("/tokens"), json!([BOS, 97]));
    // The echo is the text that was sent; the token in front of it takes no room in it.
    let answer = server.complete(json!({"prompt": "a\n", "temperature": 0, "echo": true, "logprobs": 0})).await;
    assert_eq!(answer.at("/choices/0/text"), "a\nno");
    assert_eq!(answer.at("/choices/0/logprobs/text_offset"), json!([0, 0, 1, 2, 3]));
    assert_eq!(answer.at("/usage/prompt_tokens"), 3);
    // Chat has its own, and never two.
    let tokens = server.post("/tokenize", json!({"messages": [{"role": "user", "content": "a"}]})).await.at("/tokens");
    assert_eq!(tokens, json!([BOS, USER, 97, ASSISTANT, END_THINK]));
}
