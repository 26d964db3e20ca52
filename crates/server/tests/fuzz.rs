//! Request bodies that nobody would write: whatever comes, the server answers with a success or with an error in its form, and
//! never with a fault of its own.
//!
//! Valid bodies of every route are mutated where they are still JSON (types swapped, numbers that no type holds, deep nesting,
//! keys twice, fields of other routes) and where they are bytes (cut off, overwritten). `CACHALOT_FUZZ_SECONDS` says how long.

mod common;

use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use common::{FILL_IN_THE_MIDDLE, ScriptedModel, Setup, TestServer, prompt_files_with};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tower::ServiceExt;

/// How long the ordinary run takes.
const DEFAULT_SECONDS: u64 = 8;

/// JSON as it is written: keys may come twice, and numbers are whatever text stands for them.
#[derive(Clone, Debug)]
enum Json {
    /// Anything without members, as text.
    Leaf(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// So many arrays around a 1.
    Deep(usize),
}

impl Json {
    fn of(value: &Value) -> Self {
        match value {
            Value::Array(items) => Json::Array(items.iter().map(Json::of).collect()),
            Value::Object(members) => {
                Json::Object(members.iter().map(|(key, value)| (key.clone(), Json::of(value))).collect())
            }
            leaf => Json::Leaf(leaf.to_string()),
        }
    }

    fn write(&self, text: &mut String) {
        match self {
            Json::Leaf(leaf) => text.push_str(leaf),
            Json::Array(items) => {
                text.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        text.push(',');
                    }
                    item.write(text);
                }
                text.push(']');
            }
            Json::Object(members) => {
                text.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        text.push(',');
                    }
                    text.push_str(&Value::from(key.as_str()).to_string());
                    text.push(':');
                    value.write(text);
                }
                text.push('}');
            }
            Json::Deep(depth) => {
                text.push_str(&"[".repeat(*depth));
                text.push('1');
                text.push_str(&"]".repeat(*depth));
            }
        }
    }

    /// How many values there are in it, itself included.
    fn len(&self) -> usize {
        match self {
            Json::Leaf(_) | Json::Deep(_) => 1,
            Json::Array(items) => 1 + items.iter().map(Json::len).sum::<usize>(),
            Json::Object(members) => 1 + members.iter().map(|(_, value)| value.len()).sum::<usize>(),
        }
    }

    /// The value at a place, counted in the order of the text.
    fn at(&mut self, place: usize) -> &mut Json {
        if place == 0 {
            return self;
        }
        let mut rest = place - 1;
        let children: Vec<&mut Json> = match self {
            Json::Leaf(_) | Json::Deep(_) => Vec::new(),
            Json::Array(items) => items.iter_mut().collect(),
            Json::Object(members) => members.iter_mut().map(|(_, value)| value).collect(),
        };
        for child in children {
            match rest.checked_sub(child.len()) {
                None => return child.at(rest),
                Some(after) => rest = after,
            }
        }
        unreachable!("the place is within the value")
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    /// Puts a value in place of another.
    Replace(usize, Json),
    /// Gives an object one more member, of whatever name, even of one that it has.
    Add(usize, &'static str, Json),
    /// Takes a member or an item away.
    Remove(usize, usize),
    /// Says a member or an item once more.
    Repeat(usize, usize),
}

impl Mutation {
    fn apply(&self, json: &mut Json) {
        let len = json.len();
        match self {
            Mutation::Replace(place, new) => *json.at(place % len) = new.clone(),
            Mutation::Add(place, key, value) => match json.at(place % len) {
                Json::Object(members) => members.push(((*key).to_owned(), value.clone())),
                Json::Array(items) => items.push(value.clone()),
                other => *other = value.clone(),
            },
            Mutation::Remove(place, which) => match json.at(place % len) {
                Json::Object(members) if !members.is_empty() => drop(members.remove(which % members.len())),
                Json::Array(items) if !items.is_empty() => drop(items.remove(which % items.len())),
                _ => {}
            },
            Mutation::Repeat(place, which) => match json.at(place % len) {
                Json::Object(members) if !members.is_empty() => members.push(members[which % members.len()].clone()),
                Json::Array(items) if !items.is_empty() => items.push(items[which % items.len()].clone()),
                _ => {}
            },
        }
    }
}

/// What happens to the bytes.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Cut(usize),
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len().max(1);
        match self {
            Damage::None => {}
            Damage::Cut(at) => bytes.truncate(at % len),
            Damage::Overwrite(at, with) => {
                let at = at % len;
                bytes.truncate(bytes.len().max(at));
                let end = bytes.len().min(at + with.len());
                bytes.splice(at.min(end)..end, with.iter().copied());
            }
            Damage::Insert(at, with) => {
                let at = (at % len).min(bytes.len());
                bytes.splice(at..at, with.iter().copied());
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    base: usize,
    mutations: Vec<Mutation>,
    damage: Damage,
    content_type: Option<&'static str>,
}

/// Names of fields that some route reads somewhere.
const KEYS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "input",
    "tokens",
    "role",
    "content",
    "type",
    "text",
    "name",
    "tools",
    "tool_choice",
    "tool_calls",
    "tool_call_id",
    "function",
    "arguments",
    "parameters",
    "strict",
    "prefix",
    "reasoning_content",
    "thinking",
    "reasoning_effort",
    "response_format",
    "json_schema",
    "schema",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "n",
    "stream",
    "stream_options",
    "include_usage",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "suffix",
    "best_of",
    "return_tokens_as_token_ids",
    "user_id",
    "chat_template_kwargs",
    "enable_thinking",
    "instructions",
    "include",
    "call_id",
    "output",
    "summary",
    "encrypted_content",
    "previous_response_id",
    "background",
    "system",
    "stop_sequences",
    "input_schema",
    "tool_use_id",
    "id",
    "is_error",
    "cache_control",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "thinking_token_budget",
    "regex",
    "choice",
    "grammar",
    "json",
    "pattern",
    "enum",
    "anyOf",
    "$ref",
    "properties",
    "required",
    "minimum",
    "maxLength",
    "structured_outputs",
    "",
    "\u{0}",
    "made_up",
];

const STRINGS: &[&str] = &[
    "",
    "a",
    "hello\n",
    "json",
    "none",
    "auto",
    "required",
    "enabled",
    "disabled",
    "adaptive",
    "low",
    "max",
    "user",
    "assistant",
    "system",
    "tool",
    "developer",
    "latest_reminder",
    "function",
    "text",
    "image_url",
    "json_object",
    "json_schema",
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "tool_use",
    "tool_result",
    "any",
    "deepseek-chat",
    "deepseek-reasoner",
    "tiny",
    "gpt-4",
    "<｜User｜>",
    "<｜end▁of▁sentence｜>",
    "</think>",
    "<think>",
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n",
    "{\"a\": 1}",
    "[1]",
    "{",
    "[a-",
    "(((((",
    "日本語 🐳",
    "\u{0}",
    "\u{f0000}",
    "\u{202e}x",
    "e\u{301}",
    "call_00_x",
    "a",
];

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "16",
    "17",
    "20",
    "21",
    "127",
    "255",
    "256",
    "260",
    "271",
    "272",
    "2047",
    "2048",
    "2049",
    "4096",
    "8192",
    "8193",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "0.5",
    "1.0",
    "1.5",
    "-0.0",
    "1e-400",
    "1e308",
    "1e400",
    "-1e400",
    "1E+2",
    "5e-324",
];

/// No JSON at all, or none that serde reads.
const ODDITIES: &[&str] = &[
    "NaN",
    "-Infinity",
    "\"\\ud800\"",
    "\"\\ud800\\udc00\"",
    "\"\\u0000\"",
    "01",
    "1.",
    ".5",
    "'a'",
    "/**/1",
    "nul",
    "\"\\x\"",
];

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        4 => select(STRINGS).prop_map(|text| Json::Leaf(Value::from(text).to_string())),
        4 => select(NUMBERS).prop_map(|text| Json::Leaf(text.to_owned())),
        1 => select(ODDITIES).prop_map(|text| Json::Leaf(text.to_owned())),
        3 => select(&["null", "true", "false", "{}", "[]"][..]).prop_map(|text| Json::Leaf(text.to_owned())),
        1 => ".{0,40}".prop_map(|text| Json::Leaf(Value::from(text).to_string())),
        1 => (0usize..3000).prop_map(Json::Deep),
        1 => (1usize..3000).prop_map(|len| Json::Leaf(Value::from("x".repeat(len)).to_string())),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::Array),
            vec((select(KEYS).prop_map(str::to_owned), inner), 0..4).prop_map(Json::Object),
        ]
    })
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<usize>(), json_value()).prop_map(|(place, value)| Mutation::Replace(place, value)),
        // Mostly at the top, where the fields are.
        4 => (prop_oneof![3 => Just(0), 1 => any::<usize>()], select(KEYS), json_value())
            .prop_map(|(place, key, value)| Mutation::Add(place, key, value)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(place, which)| Mutation::Remove(place, which)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(place, which)| Mutation::Repeat(place, which)),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        12 => Just(Damage::None),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => (any::<usize>(), vec(any::<u8>(), 1..6)).prop_map(|(at, with)| Damage::Overwrite(at, with)),
        1 => (any::<usize>(), vec(any::<u8>(), 1..6)).prop_map(|(at, with)| Damage::Insert(at, with)),
    ]
}

fn case(num_bases: usize) -> impl Strategy<Value = Case> {
    let content_type = prop_oneof![
        20 => Just(Some("application/json")),
        1 => Just(None),
        1 => select(&["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "", "é"][..])
            .prop_map(Some),
    ];
    (0..num_bases, vec(mutation(), 0..4), damage(), content_type)
        .prop_map(|(base, mutations, damage, content_type)| Case { base, mutations, damage, content_type })
}

/// Bodies that are taken as they are, for each route.
fn bases() -> Vec<(&'static str, Value)> {
    let user = json!({"role": "user", "content": "as json"});
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d", "strict": false, "parameters":
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}}});
    let history = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
            {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 2}"}}]},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]);
    let sampling = json!({"model": "tiny", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 0.5,
        "frequency_penalty": 0.5, "repetition_penalty": 1.1, "logit_bias": {"97": 1}, "seed": 1, "stop": ["x", "y"],
        "stop_token_ids": [98], "min_tokens": 1, "ignore_eos": false, "n": 2, "max_tokens": 20});
    let with = |base: &Value, extra: Value| common::merged(base, extra);
    vec![
        ("/v1/chat/completions", json!({"messages": [user]})),
        ("/chat/completions", with(&sampling, json!({"messages": [user], "logprobs": true, "top_logprobs": 2}))),
        (
            "/beta/chat/completions",
            json!({"messages": history, "tools": [tool], "tool_choice": "auto", "thinking": {"type": "enabled"},
                   "reasoning_effort": "high", "user_id": "u", "stream": true, "stream_options": {"include_usage": true}}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [user, {"role": "assistant", "content": "c", "prefix": true}], "model": "deepseek-chat",
                   "chat_template_kwargs": {"thinking": false}, "max_completion_tokens": 5}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [user], "response_format": {"type": "json_object"}, "max_tokens": 30}),
        ),
        ("/v1/completions", with(&sampling, json!({"prompt": "a\n", "echo": true, "logprobs": 2}))),
        ("/v1/completions", json!({"prompt": [97, 10], "prompt_logprobs": 1, "return_tokens_as_token_ids": true})),
        ("/completions", json!({"prompt": ["a\n", "b\n"], "stream": true})),
        ("/beta/completions", json!({"prompt": "a", "suffix": "b\n", "max_tokens": 9, "stream": true})),
        (
            "/v1/chat/completions",
            json!({"messages": [user], "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true,
                "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                           "additionalProperties": false}}}, "max_tokens": 30}),
        ),
        ("/v1/chat/completions", json!({"messages": [user], "guided_regex": "[a-z]{1,4}", "thinking_token_budget": 3})),
        ("/v1/completions", json!({"prompt": "a\n", "structured_outputs": {"choice": ["x", "y"]}})),
        (
            "/v1/chat/completions",
            json!({"messages": [user], "tools": [tool], "tool_choice": "required", "max_tokens": 50}),
        ),
        (
            "/anthropic/v1/messages",
            json!({"model": "claude", "max_tokens": 20, "system": [{"type": "text", "text": "S"}], "stream": true,
                "thinking": {"type": "enabled"}, "temperature": 1, "stop_sequences": ["x"],
                "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]}]}),
        ),
        ("/v1/messages/count_tokens", json!({"messages": [{"role": "user", "content": "a"}]})),
        ("/tokenize", json!({"prompt": "a"})),
        ("/v1/tokenize", json!({"messages": history, "tools": [tool]})),
        ("/detokenize", json!({"tokens": [97, 256, 265]})),
        (
            "/v1/responses",
            json!({"input": "hi", "instructions": "S", "max_output_tokens": 5, "reasoning": {"effort": "none"},
                   "text": {"format": {"type": "text"}}, "include": ["message.output_text.logprobs"]}),
        ),
        (
            "/v1/responses",
            json!({"stream": true, "thinking": {"type": "enabled"},
                "tools": [{"type": "function", "name": "f", "parameters": {}}],
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
                    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "a", "output": "1"}]}),
        ),
    ]
}

fn server() -> TestServer {
    let mut model = ScriptedModel::saying("{\"a\": 1}");
    model.certainty = 6.0;
    let mut setup = Setup::new(model);
    setup.files = Some(prompt_files_with(&FILL_IN_THE_MIDDLE));
    setup.start()
}

/// What is wrong with the answer to a body, if anything.
async fn judge(server: &TestServer, path: &str, body: Vec<u8>, content_type: Option<&str>) -> Result<u16, String> {
    let mut request = Request::post(path);
    if let Some(content_type) = content_type {
        request = request.header(header::CONTENT_TYPE, content_type.as_bytes());
    }
    let response = server.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let is_stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "text/event-stream");
    let bytes = to_bytes(response.into_body(), usize::MAX).await.map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes.into()).map_err(|error| error.to_string())?;
    let complain = |what: &str| Err(format!("{what}: {status} {text}"));
    if is_stream {
        let last = text.split_terminator("\n\n").last().unwrap_or_default();
        let is_ended = last == "data: [DONE]"
            || last.contains("\"type\":\"message_stop\"")
            || ["completed", "incomplete", "failed"]
                .iter()
                .any(|end| last.starts_with(&format!("event: response.{end}\n")));
        return if status == 200 && is_ended { Ok(status) } else { complain("a stream without an end") };
    }
    let Ok(json) = serde_json::from_str::<Value>(&text) else { return complain("not JSON") };
    match status {
        200 if json.is_object() && json.get("error").is_none_or(Value::is_null) => Ok(status),
        400 | 413 | 415 if json.pointer("/error/message").is_some_and(Value::is_string) => Ok(status),
        _ => complain("neither a success nor a refusal"),
    }
}

fn seconds() -> u64 {
    let given = std::env::var("CACHALOT_FUZZ_SECONDS").ok();
    given.map_or(DEFAULT_SECONDS, |seconds| seconds.parse().expect("CACHALOT_FUZZ_SECONDS is a number of seconds"))
}

#[test]
#[expect(clippy::print_stdout, reason = "a long run is asked for its number of bodies")]
fn no_body_is_the_servers_fault() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = server();
    let bases = bases();
    for (path, body) in &bases {
        let answer = judge(&server, path, body.to_string().into_bytes(), None);
        assert_eq!(runtime.block_on(answer), Ok(200), "{path} {body}");
    }
    let deadline = Instant::now() + Duration::from_secs(seconds());
    let mut num_cases = 0u64;
    let mut num_taken = 0u64;
    while Instant::now() < deadline {
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let counts = std::cell::Cell::new((num_cases, num_taken));
        let result = runner.run(&case(bases.len()), |case| {
            let (path, base) = &bases[case.base];
            let mut json = Json::of(base);
            case.mutations.iter().for_each(|mutation| mutation.apply(&mut json));
            let mut text = String::new();
            json.write(&mut text);
            let mut bytes = text.into_bytes();
            case.damage.apply(&mut bytes);
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            let status = runtime
                .block_on(judge(&server, path, bytes, case.content_type))
                .map_err(|complaint| TestCaseError::fail(format!("{path} {shown}\n{complaint}")))?;
            let (cases, taken) = counts.get();
            counts.set((cases + 1, taken + u64::from(status == 200)));
            Ok(())
        });
        (num_cases, num_taken) = counts.get();
        if let Err(failure) = result {
            panic!("after {num_cases} bodies: {failure}");
        }
    }
    println!("{num_cases} bodies, of which {num_taken} were taken");
    // Both sides of the border have been visited.
    assert!(num_taken * 20 > num_cases && num_taken * 20 < num_cases * 19, "{num_taken} of {num_cases} were taken");
}
