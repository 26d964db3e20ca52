//! Items to messages, and deltas to events, calls among them.

use cachalot_prompt::{Defect, Delta};
use serde_json::{Value, json};

use super::events::Events;
use super::output::{Echo, Reply};
use super::request::ResponsesFields;
use crate::answer::Answer;
use crate::decoder::Channel;
use crate::error::ApiError;
use crate::generation::{End, EndReason, Output, TokenOutput};
use crate::sse::WriteChunks;
use crate::token_names::TokenNames;
use crate::wire::usage::Usage;

/// The messages of a request, in short: role, content, reasoning, ids of calls, id that is answered.
#[track_caller]
fn check_messages(body: Value, expected: &[&str]) {
    let fields: ResponsesFields = serde_json::from_value(body).unwrap();
    let messages = fields.into_chat().unwrap().messages;
    let short: Vec<String> = messages
        .iter()
        .map(|message| {
            let calls = message.tool_calls.iter().flatten().map(|call| call.id.as_deref().unwrap()).collect::<Vec<_>>();
            format!(
                "{:?} content={} reasoning={} calls={} answers={}",
                message.role,
                message.content.as_ref().map_or("none", |content| &content.0),
                message.reasoning_content.as_deref().unwrap_or("none"),
                calls.join(","),
                message.tool_call_id.as_deref().unwrap_or("none"),
            )
        })
        .collect();
    assert_eq!(short, expected);
}

#[test]
fn items_become_messages() {
    check_messages(json!({"input": "hi"}), &["User content=hi reasoning=none calls= answers=none"]);
    check_messages(
        json!({"instructions": "Be brief.", "input": [
            {"role": "developer", "content": "D"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        ]}),
        &[
            "System content=Be brief. reasoning=none calls= answers=none",
            "Developer content=D reasoning=none calls= answers=none",
            "User content=ab reasoning=none calls= answers=none",
        ],
    );
    let call = |id: &str| json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": "f", "arguments": "{}"});
    let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "1"});
    let reasoning = |text: &str| json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]});
    let said = |text: &str| {
        json!({"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]})
    };
    check_messages(
        json!({"input": [
            {"role": "user", "content": "q"},
            reasoning("r1"), said("s1"), call("a"), call("b"), result("a"), result("b"),
            reasoning("r2"), call("c"), result("c"),
            call("d"), result("d"),
            said("s2"), said("s3"), reasoning("r3"), said("s4"),
        ]}),
        &[
            "User content=q reasoning=none calls= answers=none",
            "Assistant content=s1 reasoning=r1 calls=a,b answers=none",
            "Tool content=1 reasoning=none calls= answers=a",
            "Tool content=1 reasoning=none calls= answers=b",
            "Assistant content=none reasoning=r2 calls=c answers=none",
            "Tool content=1 reasoning=none calls= answers=c",
            // Reasoning that does not come back is empty.
            "Assistant content=none reasoning= calls=d answers=none",
            "Tool content=1 reasoning=none calls= answers=d",
            "Assistant content=s2 reasoning= calls= answers=none",
            "Assistant content=s3 reasoning= calls= answers=none",
            "Assistant content=s4 reasoning=r3 calls= answers=none",
        ],
    );
    // Clients that keep only what is encrypted, or only a summary.
    let kept = |fields: Value| json!({"input": [merged(json!({"type": "reasoning"}), fields), said("s")]});
    for fields in [
        json!({"encrypted_content": "r"}),
        json!({"encrypted_content": "r", "content": [], "summary": [{"type": "summary_text", "text": "x"}]}),
        json!({"summary": [{"type": "summary_text", "text": "r"}]}),
        json!({"content": "r", "encrypted_content": "x"}),
    ] {
        check_messages(kept(fields), &["Assistant content=s reasoning=r calls= answers=none"]);
    }
}

fn merged(mut base: Value, extra: Value) -> Value {
    base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    base
}

fn token(deltas: Vec<Delta>, channel: Channel) -> Output {
    Output::Token(TokenOutput { id: 0, deltas, channel, logprobs: None, text_offset: 0 })
}

fn end(reason: EndReason, defect: Option<Defect>) -> Output {
    Output::End(End { tail: Vec::new(), reason, defect })
}

fn writer() -> Events {
    let echo: Echo = serde_json::from_value(json!({})).unwrap();
    Events::new(Reply::new(Answer::new("tiny", None), echo, TokenNames::new(None, false), true))
}

/// The events of some outputs, of which the last is the end.
fn events(outputs: Vec<Output>) -> Vec<Value> {
    let mut writer = writer();
    let mut frame = Vec::new();
    let last = outputs.len() - 1;
    for (i, output) in outputs.into_iter().enumerate() {
        let usage = (i == last).then(|| Usage::new(3, 0, 5, Some(2)));
        writer.write(0, output, usage.as_ref(), &mut frame);
    }
    writer.end(&mut frame);
    parse(&frame)
}

fn parse(frame: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(frame).unwrap();
    let parsed: Vec<Value> = text
        .split_terminator("\n\n")
        .map(|event| {
            let (kind, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["type"], kind);
            data
        })
        .collect();
    for (i, event) in parsed.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    parsed
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap()).collect()
}

#[test]
fn reasoning_text_and_calls_become_events() {
    let text = |text: &str| text.to_owned();
    let events = events(vec![
        token(vec![Delta::Reasoning(text("hm"))], Channel::Reasoning),
        token(vec![], Channel::Reasoning),
        token(vec![Delta::Content(text("Let me "))], Channel::Content),
        token(vec![Delta::Content(text("look."))], Channel::Content),
        token(vec![Delta::CallBegin { name: text("now") }], Channel::Calls),
        token(vec![Delta::CallArguments(text("{\"zone\": ")), Delta::CallArguments(text("1}"))], Channel::Calls),
        token(vec![Delta::CallBegin { name: text("f") }, Delta::CallArguments(text("{}"))], Channel::Calls),
        end(EndReason::ToolCalls, None),
    ]);
    assert_eq!(
        kinds(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["status"], "completed");
    let output = response["output"].as_array().unwrap();
    let types: Vec<&Value> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(types, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(output[0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
    assert_eq!((&output[0]["summary"], &output[0]["encrypted_content"]), (&json!([]), &json!("hm")));
    assert_eq!(
        output[1]["content"],
        json!([{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}])
    );
    assert_eq!((&output[2]["name"], &output[2]["arguments"]), (&json!("now"), &json!("{\"zone\": 1}")));
    assert!(output[3]["call_id"].as_str().unwrap().starts_with("call_01_"));
    assert!(output.iter().all(|item| item["status"] == "completed"));
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
               "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 8})
    );
    // Whatever is done was added with the same id at the same place.
    for done in events.iter().filter(|event| event["type"] == "response.output_item.done") {
        let index = done["output_index"].as_u64().unwrap() as usize;
        assert_eq!(done["item"], output[index]);
        let added = events
            .iter()
            .find(|event| event["type"] == "response.output_item.added" && event["output_index"] == index)
            .unwrap();
        assert_eq!((&added["item"]["id"], &added["item"]["status"]), (&done["item"]["id"], &json!("in_progress")));
        for event in events.iter().filter(|event| event["item_id"] == done["item"]["id"]) {
            assert_eq!(event["output_index"], index);
        }
    }
}

#[test]
fn answers_that_do_not_end_well() {
    let content = || token(vec![Delta::Content("ab".to_owned())], Channel::Content);
    let cut = events(vec![content(), end(EndReason::Length, None)]);
    assert_eq!(kinds(&cut).last(), Some(&"incomplete"));
    let response = &cut.last().unwrap()["response"];
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!((&response["status"], &response["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));

    let defect = Defect { message: "no name".to_owned(), text: "<x".to_owned() };
    let malformed = events(vec![content(), end(EndReason::Stop, Some(defect))]);
    let response = &malformed.last().unwrap()["response"];
    assert_eq!((kinds(&malformed).last(), &response["status"]), (Some(&"failed"), &json!("failed")));
    assert_eq!(response["error"], json!({"code": "malformed_tool_call", "message": "no name", "text": "<x"}));

    let mut writer = writer();
    let mut frame = Vec::new();
    writer.keep_alive(&mut frame);
    assert_eq!(kinds(&parse(&frame)), ["created", "in_progress"]);
    writer.fail(&ApiError::internal("the model is broken"), &mut frame);
    let failed = parse(&frame);
    assert_eq!(kinds(&failed), ["created", "in_progress", "failed"]);
    let error = json!({"code": "server_error", "message": "the model is broken"});
    assert_eq!(failed[2]["response"]["error"], error);
    writer.keep_alive(&mut frame);
    assert!(frame.ends_with(b": keep-alive\n\n"));
}
