//! What comes out of a generation, as a whole message and as events: the same outputs go into both.

use cachalot_prompt::{Defect, Delta};
use serde_json::{Value, json};

use super::messages::{MessageBuilder, MessageHead};
use super::stream::Events;
use crate::decoder::Channel;
use crate::error::ApiError;
use crate::generation::{End, EndReason, Output, TokenOutput};
use crate::sse::WriteChunks;
use crate::wire::usage::Usage;

fn head(begins_with_thinking: bool) -> MessageHead {
    MessageHead { id: "msg_1".to_owned(), model: "claude".to_owned(), begins_with_thinking }
}

fn token(delta: Delta) -> Output {
    Output::Token(TokenOutput { id: 0, deltas: vec![delta], channel: Channel::Content, logprobs: None, text_offset: 0 })
}

fn reasoning(text: &str) -> Output {
    token(Delta::Reasoning(text.to_owned()))
}

fn content(text: &str) -> Output {
    token(Delta::Content(text.to_owned()))
}

fn call(name: &str) -> Output {
    token(Delta::CallBegin { name: name.to_owned() })
}

fn arguments(text: &str) -> Output {
    token(Delta::CallArguments(text.to_owned()))
}

fn end(reason: EndReason) -> Output {
    Output::End(End { tail: Vec::new(), reason, defect: None })
}

fn usage(num_completion_tokens: usize) -> Usage {
    Usage::new(200, 128, num_completion_tokens, None)
}

/// The events of a frame, each with the name that stands before its data.
fn events(frame: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(frame).unwrap();
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

/// Puts ids that are random in place of each other.
fn with_plain_ids(mut value: Value) -> Value {
    let mut num_calls = 0;
    let blocks = match value.get_mut("content") {
        Some(blocks) => blocks.as_array_mut().unwrap().iter_mut().collect(),
        None => Vec::from_iter(value.get_mut("content_block")),
    };
    for block in blocks {
        if block["type"] == "tool_use" {
            let id = block["id"].as_str().unwrap();
            assert!(id.starts_with("toolu_") && id.len() == 30, "{id}");
            block["id"] = json!(format!("toolu_{num_calls}"));
            num_calls += 1;
        }
    }
    value
}

/// What a client makes of the events, in the manner of Anthropic's SDKs.
fn accumulated(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut inputs: Vec<String> = Vec::new();
    let mut num_open = 0;
    for event in events {
        let index = || event["index"].as_u64().unwrap() as usize;
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                num_open += 1;
                assert_eq!((num_open, index()), (1, inputs.len()), "blocks come one after the other");
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                inputs.push(String::new());
            }
            "content_block_delta" => {
                assert_eq!((num_open, index() + 1), (1, inputs.len()));
                let block = &mut message["content"][index()];
                let delta = &event["delta"];
                let append = |member: &mut Value, text: &Value| {
                    *member = json!(format!("{}{}", member.as_str().unwrap(), text.as_str().unwrap()));
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => append(&mut block["text"], &delta["text"]),
                    "thinking_delta" => append(&mut block["thinking"], &delta["thinking"]),
                    "signature_delta" => append(&mut block["signature"], &delta["signature"]),
                    "input_json_delta" => inputs[index()].push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("unknown delta {other}"),
                }
            }
            "content_block_stop" => {
                num_open -= 1;
                if !inputs[index()].is_empty() {
                    message["content"][index()]["input"] =
                        serde_json::from_str(&inputs[index()]).unwrap_or(Value::Null);
                }
            }
            "message_delta" => {
                assert_eq!(num_open, 0);
                for member in ["stop_reason", "stop_sequence"] {
                    message[member] = event["delta"][member].clone();
                }
                message["usage"] = event["usage"].clone();
                if let Some(error) = event.get("error") {
                    message["error"] = error.clone();
                }
            }
            "message_stop" => {}
            other => panic!("unknown event {other}"),
        }
    }
    message
}

fn streamed(begins_with_thinking: bool, outputs: Vec<Output>) -> Vec<Value> {
    let mut writer = Events::new(head(begins_with_thinking), Usage::new(200, 0, 0, None));
    let mut frame = Vec::new();
    let last = outputs.len() - 1;
    for (i, output) in outputs.into_iter().enumerate() {
        writer.write(0, output, (i == last).then(|| usage(last)).as_ref(), &mut frame);
    }
    writer.end(&mut frame);
    events(&frame)
}

fn whole(begins_with_thinking: bool, outputs: Vec<Output>) -> Value {
    let mut builder = MessageBuilder::new(head(begins_with_thinking));
    let num_tokens = outputs.len() - 1;
    outputs.into_iter().for_each(|output| builder.push(output));
    serde_json::from_slice(&builder.finish(&usage(num_tokens))).unwrap()
}

/// Both ways give a message with this content, ending and error.
#[track_caller]
fn check(
    begins_with_thinking: bool,
    outputs: impl Fn() -> Vec<Output>,
    expected: (Value, Value, Value),
    error: Option<&str>,
) {
    let num_tokens = outputs().len() - 1;
    let (content, stop_reason, stop_sequence) = expected;
    let mut message = with_plain_ids(whole(begins_with_thinking, outputs()));
    let found = message.as_object_mut().unwrap().remove("error");
    assert_eq!(found.as_ref().map(|error| error["text"].as_str().unwrap()), error);
    assert!(found.is_none_or(|error| error["type"] == "malformed_tool_call" && error["message"].is_string()));
    let expected = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content,
        "stop_reason": stop_reason, "stop_sequence": stop_sequence,
        "usage": {"input_tokens": 72, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 128,
                  "output_tokens": num_tokens, "service_tier": "standard"},
    });
    // As text: members are to come in this order.
    assert_eq!(message.to_string(), expected.to_string());

    let mut accumulated = with_plain_ids(accumulated(&streamed(begins_with_thinking, outputs())));
    let found = accumulated.as_object_mut().unwrap().remove("error");
    assert_eq!(found.as_ref().map(|error| error["text"].as_str().unwrap()), error);
    // A stream has told of a call before it turns out to be none.
    accumulated["content"].as_array_mut().unwrap().retain(|block| block.get("input") != Some(&Value::Null));
    assert_eq!(accumulated, expected);
}

#[test]
fn messages() {
    let thinking = |text: &str| json!({"type": "thinking", "thinking": text, "signature": "msg_1"});
    let text = |text: &str| json!({"type": "text", "text": text});
    let tool_use = |number: usize, name: &str, input: Value| json!({"type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": input});

    let plain = || vec![content("he"), content("llo"), end(EndReason::Stop)];
    check(false, plain, (json!([text("hello")]), json!("end_turn"), Value::Null), None);
    let nothing = || vec![end(EndReason::Stop)];
    check(false, nothing, (json!([]), json!("end_turn"), Value::Null), None);
    let cut = || vec![content("he"), end(EndReason::Length)];
    check(false, cut, (json!([text("he")]), json!("max_tokens"), Value::Null), None);
    let stopped = || vec![content("he"), end(EndReason::StopString("STOP".to_owned()))];
    check(false, stopped, (json!([text("he")]), json!("stop_sequence"), json!("STOP")), None);
    let thought = || vec![reasoning("h"), reasoning("m"), content("yes"), end(EndReason::Stop)];
    check(true, thought, (json!([thinking("hm"), text("yes")]), json!("end_turn"), Value::Null), None);
    // A model that thinks nothing leaves its client something to send back; what continues a text of the client's does not.
    let unthought = || vec![content("yes"), end(EndReason::Stop)];
    check(true, unthought, (json!([thinking(""), text("yes")]), json!("end_turn"), Value::Null), None);
    check(false, thought, (json!([thinking("hm"), text("yes")]), json!("end_turn"), Value::Null), None);
    // Text that was held back until the end.
    let held = || {
        let tail = vec![Delta::Content("lo".to_owned())];
        vec![content("hel"), Output::End(End { tail, reason: EndReason::Stop, defect: None })]
    };
    check(false, held, (json!([text("hello")]), json!("end_turn"), Value::Null), None);

    let calls = || {
        vec![
            reasoning("hm"),
            content("Let me see."),
            call("f"),
            arguments("{\"x\": 1"),
            arguments("2345678901234567890123.50"),
            arguments("}"),
            call("g"),
            call("h"),
            arguments("{\"é\": \"\\\"}\"}"),
            end(EndReason::ToolCalls),
        ]
    };
    let input: Value = serde_json::from_str("{\"x\": 12345678901234567890123.50}").unwrap();
    let blocks = json!([
        thinking("hm"),
        text("Let me see."),
        tool_use(0, "f", input),
        tool_use(1, "g", json!({})),
        tool_use(2, "h", json!({"é": "\"}"})),
    ]);
    check(true, calls, (blocks, json!("tool_use"), Value::Null), None);

    // No call can be made of these. Clients that know nothing of `error` see how the message ended.
    let half = || vec![call("g"), arguments("{}"), call("f"), arguments("{\"x\": "), end(EndReason::Length)];
    check(false, half, (json!([tool_use(0, "g", json!({}))]), json!("max_tokens"), Value::Null), Some("{\"x\": "));
    let no_json = || vec![call("f"), arguments("[1]"), end(EndReason::ToolCalls)];
    let mut message = whole(false, no_json());
    assert_eq!((&message["stop_reason"], &message["content"]), (&json!("end_turn"), &json!([])));
    assert_eq!(message["error"].take()["text"], "[1]");
    let malformed = || {
        let defect = Defect { message: "no name".to_owned(), text: "<invoke>".to_owned() };
        vec![content("so: "), Output::End(End { tail: Vec::new(), reason: EndReason::Stop, defect: Some(defect) })]
    };
    check(false, malformed, (json!([text("so: ")]), json!("end_turn"), Value::Null), Some("<invoke>"));
}

#[test]
fn events_in_their_order() {
    let outputs = vec![
        reasoning("h"),
        reasoning("m"),
        content("so"),
        call("f"),
        arguments("{\"x\""),
        arguments(": 1}"),
        end(EndReason::ToolCalls),
    ];
    let events = streamed(true, outputs);
    let ids: Vec<Value> = events.iter().map(|event| event["content_block"]["id"].clone()).collect();
    let delta = |index: usize, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let start =
        |index: usize, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let stop = |index: usize| json!({"type": "content_block_stop", "index": index});
    let thinking = |text: &str| delta(0, json!({"type": "thinking_delta", "thinking": text}));
    let usage = |input_tokens: usize, cached: usize, output_tokens: usize| {
        json!({"input_tokens": input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
               "output_tokens": output_tokens, "service_tier": "standard"})
    };
    let expected = [
        json!({"type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage(200, 0, 0)}}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        thinking("h"),
        thinking("m"),
        delta(0, json!({"type": "signature_delta", "signature": "msg_1"})),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": "so"})),
        stop(1),
        start(2, json!({"type": "tool_use", "id": ids[9], "name": "f", "input": {}})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "{\"x\""})),
        delta(2, json!({"type": "input_json_delta", "partial_json": ": 1}"})),
        stop(2),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": usage(72, 128, 6)}),
        json!({"type": "message_stop"}),
    ];
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(event.to_string(), expected.to_string());
    }
    assert_eq!(events.len(), expected.len());
}

#[test]
fn waiting_and_failing() {
    let mut writer = Events::new(head(true), usage(0));
    let mut frame = Vec::new();
    writer.keep_alive(&mut frame);
    writer.keep_alive(&mut frame);
    writer.write(0, reasoning("h"), None, &mut frame);
    writer.keep_alive(&mut frame);
    writer.fail(&ApiError::internal("The request failed"), &mut frame);
    let events = events(&frame);
    let names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["message_start", "content_block_start", "ping", "ping", "content_block_delta", "ping", "error"]);
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "error", "error": {"type": "api_error", "message": "The request failed"}})
    );
}
