//! Tool calls of a chat: whole answers and streams say the same, and what is malformed is told.

mod common;

use common::{ScriptedModel, Setup, TestServer, merged};
use serde_json::{Value, json};

fn saying(text: &str) -> TestServer {
    let mut setup = Setup::new(ScriptedModel::saying_tokens(text));
    // The same question is asked twice, and is to have the same usage.
    setup.engine.prefix_cache = false;
    setup.start()
}

/// Without tools there is no grammar, and the model may say what it likes.
fn untooled() -> Value {
    json!({"messages": [{"role": "user", "content": "Weather?"}]})
}

fn body() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    merged(&untooled(), json!({"tools": [tool("weather"), tool("now")]}))
}

const CALLS: &str = r#"Look.

<Dfunction_calls>
<Dinvoke name="weather">
<Dparameter name="city" string="true">"P"</Dparameter>
<Dparameter name="days" string="false">[3]</Dparameter>
</Dinvoke>
<Dinvoke name="now">

</Dinvoke>
</Dfunction_calls>"#;
const ARGUMENTS: &str = r#"{"city": "\"P\"", "days": [3]}"#;

/// The message that the deltas of a stream amount to.
fn assembled(chunks: &[Value]) -> Value {
    let mut message = json!({"role": "assistant", "content": ""});
    for chunk in chunks {
        let delta = &chunk["choices"][0]["delta"];
        if let Some(text) = delta["content"].as_str() {
            message["content"] = json!(message["content"].as_str().unwrap().to_owned() + text);
        }
        if let Some(text) = delta["reasoning_content"].as_str() {
            let before = message["reasoning_content"].as_str().unwrap_or("").to_owned();
            message["reasoning_content"] = json!(before + text);
        }
        for part in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().unwrap() as usize;
            if message["tool_calls"].is_null() {
                message["tool_calls"] = json!([]);
            }
            let calls = message["tool_calls"].as_array_mut().unwrap();
            if let Some(id) = part["id"].as_str() {
                assert_eq!((index, id.len()), (calls.len(), "call_00_".len() + 20), "{part}");
                assert_eq!((&part["type"], &part["function"]["arguments"]), (&json!("function"), &json!("")), "{part}");
                calls.push(part.clone());
            } else {
                assert!(part.get("type").is_none() && part["function"].get("name").is_none(), "{part}");
                let arguments = &mut calls[index]["function"]["arguments"];
                *arguments =
                    json!(arguments.as_str().unwrap().to_owned() + part["function"]["arguments"].as_str().unwrap());
            }
        }
    }
    message
}

/// Without what is drawn for each answer.
fn without_ids(mut message: Value) -> Value {
    for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
        let id = call["id"].as_str().unwrap();
        assert!(id.starts_with("call_0"), "{id}");
        call["id"] = json!(id[.."call_00".len()]);
    }
    message
}

#[tokio::test]
async fn streamed_and_whole_calls_agree() {
    let call = |index: usize, name: &str, arguments: &str| json!({"index": index, "id": format!("call_0{index}"), "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = json!([call(0, "weather", ARGUMENTS), call(1, "now", "{}")]);
    let chat = json!({"role": "assistant", "content": "Look.", "tool_calls": calls});
    let thinking = json!({"role": "assistant", "content": "Look.", "reasoning_content": "hm", "tool_calls": calls});
    let within = json!({"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": calls});
    for (script, kind, message) in [
        (CALLS.to_owned(), "disabled", chat),
        (format!("hmT{CALLS}"), "enabled", thinking),
        // A call that opens within the reasoning ends it.
        (CALLS.to_owned(), "enabled", within),
    ] {
        let server = saying(&script);
        let body = merged(&body(), json!({"thinking": {"type": kind}}));
        let whole = server.chat(body.clone()).await;
        assert_eq!(without_ids(whole.at("/choices/0/message")), message, "{script}");
        assert_eq!(whole.at("/choices/0/finish_reason"), "tool_calls");
        let chunks = server.chat(merged(&body, json!({"stream": true}))).await.chunks();
        assert_eq!(without_ids(assembled(&chunks)), message, "{script}");
        let last = chunks.last().unwrap();
        assert_eq!((&last["choices"][0]["finish_reason"], &last["usage"]), (&json!("tool_calls"), &whole.at("/usage")));
    }
}

#[tokio::test]
async fn arguments_stream_while_they_are_generated() {
    let server =
        saying("<Dinvoke name=\"weather\"><Dparameter name=\"city\" string=\"true\">Paris</Dparameter></Dinvoke>");
    let chunks = server.chat(merged(&untooled(), json!({"stream": true}))).await.chunks();
    let pieces: Vec<String> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .map(str::to_owned)
        .collect();
    assert_eq!(pieces, ["", "{\"city\": \"", "P", "a", "r", "i", "s", "\"", "}"]);
}

#[tokio::test]
async fn malformed_calls_are_told() {
    // What the model says, the calls, the reason to finish, the message of the error, the text that is part of nothing.
    let cases = [
        ("a<Dinvoke name=\"wea", 0, "stop", "ends within the markup", "<｜DSML｜invoke name=\"wea"),
        ("a D b", 0, "stop", "opens no tool call", "<｜DSML｜"),
        ("<Dinvoke name=\"now\"></Dinvoke> and so", 1, "tool_calls", "between or behind the tool calls", "and so"),
        ("<Dinvoke name=\"now\">{\"a\": b}</Dinvoke>", 1, "tool_calls", "are not JSON", ""),
    ];
    for (script, num_calls, finish_reason, message, text) in cases {
        let server = saying(script);
        let whole = server.chat(untooled()).await;
        let choice = whole.at("/choices/0");
        assert_eq!(choice["message"]["tool_calls"].as_array().map_or(0, Vec::len), num_calls, "{choice}");
        assert_eq!(choice["finish_reason"], finish_reason, "{choice}");
        assert_eq!((&choice["error"]["type"], &choice["error"]["text"]), (&json!("malformed_tool_call"), &json!(text)));
        assert!(choice["error"]["message"].as_str().unwrap().contains(message), "{choice}");
        let chunks = server.chat(merged(&untooled(), json!({"stream": true}))).await.chunks();
        let last = chunks.last().unwrap()["choices"][0].clone();
        assert_eq!((&last["error"], &last["finish_reason"]), (&choice["error"], &json!(finish_reason)), "{last}");
    }
    // A call that is cut off is no error: the reason to finish says it.
    let cut = saying(CALLS).chat(merged(&body(), json!({"max_tokens": 110}))).await;
    assert_eq!(cut.at("/choices/0/finish_reason"), "length");
    assert_eq!(cut.json().pointer("/choices/0/error"), None);
    assert_eq!(cut.at("/choices/0/message/tool_calls/0/function/arguments"), r#"{"city": "\"P\"""#);
}

#[tokio::test]
async fn stop_strings_do_not_look_into_calls() {
    let server = saying(&format!("hmT{CALLS}"));
    let body = merged(&body(), json!({"thinking": {"type": "enabled"}, "stop": ["hm", "city", "P", "weather"]}));
    assert_eq!(server.chat(body.clone()).await.at("/choices/0/finish_reason"), "tool_calls");
    let stopped = server.chat(merged(&body, json!({"stop": ["ok."]}))).await;
    assert_eq!(
        stopped.at("/choices/0/message"),
        json!({"role": "assistant", "content": "Lo", "reasoning_content": "hm"})
    );
    assert_eq!(stopped.at("/choices/0/finish_reason"), "stop");
}

#[tokio::test]
async fn every_token_of_calls_has_its_log_probability() {
    let server = saying(CALLS);
    let body = merged(&body(), json!({"logprobs": true}));
    let whole = server.chat(body.clone()).await;
    let count = whole.at("/choices/0/logprobs/content").as_array().unwrap().len();
    assert_eq!(whole.at("/usage/completion_tokens"), count);
    let chunks = server.chat(merged(&body, json!({"stream": true}))).await.chunks();
    let lists = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    let streamed: Vec<&Value> = lists.flatten().collect();
    assert_eq!(streamed.len(), count);
    assert_eq!(json!(streamed), whole.at("/choices/0/logprobs/content"));
}
