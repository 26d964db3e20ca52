//! Constrained output from end to end: a client's schema, the server, a model at temperature 1, and an independent
//! validator that judges every reply.
//!
//! The model is random. What it writes under a schema is therefore a random walk through everything that the schema
//! allows, and a grammar that allows too much is found out. Biases towards tokens that close strings, objects and arrays let
//! the walks end; a reply that does not end within its tokens is a failure like one that is invalid.

mod schemas;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use cachalot_engine::{Engine, EngineConfig, KvCacheSize};
use cachalot_model::{DeepseekV3, Options};
use cachalot_ops::{Context, Device};
use cachalot_prompt::{Prompt, PromptFiles};
use cachalot_server::{AppState, Served, ServerConfig, install_metrics, router};
use cachalot_tensor::DType;
use cachalot_weights::{Checkpoint, Source};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

/// Requests that are under way at a time.
const NUM_CONCURRENT: usize = 48;

struct Server {
    router: Router,
    prompt: Arc<Prompt>,
}

/// One server for all tests of a process.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/untrained");
        let checkpoint = Checkpoint::open(&Source::Folder(folder.into())).expect("the fixture is valid");
        let ctx = Context::new(Device::Cpu, None).expect("threads");
        let options = Options { kv_cache_dtype: DType::F32, max_model_len: None, mtp: false };
        let model = DeepseekV3::load(ctx, &checkpoint, options).expect("it loads");
        let config = EngineConfig { max_num_seqs: 64, kv_cache: KvCacheSize::Blocks(2048), ..EngineConfig::default() };
        let engine = Engine::start(Box::new(model), config).expect("the engine starts");
        let prompt =
            Arc::new(Prompt::open(&PromptFiles::read(folder.as_ref()).expect("its files"), None).expect("its text"));
        let state = AppState::loading(ServerConfig::default(), install_metrics().expect("no recorder yet"));
        let eos_token_ids = prompt.eos_token_ids().to_vec();
        state.publish(Served {
            model_name: "untrained".to_owned(),
            engine,
            prompt: Some(prompt.clone()),
            eos_token_ids,
        });
        Server { router: router(state), prompt }
    })
}

/// Biases that let the random walk end: towards what closes strings, objects and arrays, and the reply.
///
/// In calls also towards what closes parameters and the block, as likely there as all other tokens together: `/` must win
/// against `｜DSML｜` behind the last call, and lose against it behind a text.
fn biases(prompt: &Prompt, in_calls: bool) -> Value {
    let tokenizer = prompt.tokenizer();
    let mut biases = Map::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let bias = match tokenizer.token_bytes(id) {
            b"<" | b"/" if in_calls => 11.0,
            b"\"" | b"}" | b"]" if in_calls => 5.0,
            // An address needs its `@`.
            b"\"" | b"@" if !in_calls => 9.0,
            b"}" | b"]" if !in_calls => 6.0,
            [b'"' | b'}' | b']', ..] if !in_calls => 4.0,
            _ => continue,
        };
        biases.insert(id.to_string(), json!(bias));
    }
    // The untrained model keeps control tokens away from text. They can come only where the grammar has them.
    let mut control = |token: &str, bias: f64| {
        biases.insert(tokenizer.id_of(token).expect("a control token").to_string(), json!(bias));
    };
    control("<｜end▁of▁sentence｜>", 100.0);
    if in_calls {
        control("｜DSML｜", 16.0);
    }
    Value::Object(biases)
}

/// Whether an answer is streamed.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Whole,
    Streamed,
}

/// What the server said: the status, and the message with its `finish_reason`, or the body of an error.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    finish_reason: String,
    message: Value,
}

async fn post(path: &str, body: &Value) -> (StatusCode, String) {
    let request =
        Request::post(path).header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string()));
    let response = server().router.clone().oneshot(request.expect("a request")).await.expect("no transport to fail");
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (status, String::from_utf8(bytes.into()).expect("UTF-8"))
}

async fn chat(mut body: Value, delivery: Delivery) -> Reply {
    let members = body.as_object_mut().expect("an object");
    members.entry("messages").or_insert_with(|| json!([{"role": "user", "content": "Write json."}]));
    let in_calls = members.contains_key("tools");
    members.entry("logit_bias").or_insert_with(|| biases(&server().prompt, in_calls));
    for (key, value) in [("temperature", json!(1)), ("top_p", json!(1)), ("max_tokens", json!(1000))] {
        members.entry(key).or_insert(value);
    }
    if let Delivery::Streamed = delivery {
        members.insert("stream".to_owned(), json!(true));
    }
    let (status, text) = post("/v1/chat/completions", &body).await;
    if status != StatusCode::OK {
        return Reply { status, finish_reason: String::new(), message: serde_json::from_str(&text).expect("an error") };
    }
    match delivery {
        Delivery::Whole => {
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            let choice = &answer["choices"][0];
            let finish_reason = choice["finish_reason"].as_str().expect("a reason").to_owned();
            Reply { status, finish_reason, message: choice["message"].clone() }
        }
        Delivery::Streamed => assembled(status, &text),
    }
}

/// The message that the chunks of a stream add up to.
fn assembled(status: StatusCode, text: &str) -> Reply {
    let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let chunks: Vec<Value> =
        events.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).expect(data)).collect();
    let mut message = json!({"content": "", "reasoning_content": "", "tool_calls": []});
    let mut finish_reason = String::new();
    let append = |to: &mut Value, part: &Value| {
        if let Some(part) = part.as_str() {
            *to = json!(to.as_str().unwrap_or("").to_owned() + part);
        }
    };
    for chunk in &chunks {
        assert!(chunk.get("error").is_none(), "{chunk}");
        let choice = &chunk["choices"][0];
        append(&mut message["content"], &choice["delta"]["content"]);
        append(&mut message["reasoning_content"], &choice["delta"]["reasoning_content"]);
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let calls = message["tool_calls"].as_array_mut().expect("a list");
            let index = call["index"].as_u64().expect("an index") as usize;
            if calls.len() <= index {
                calls.push(call.clone());
            } else {
                append(&mut calls[index]["function"]["arguments"], &call["function"]["arguments"]);
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            finish_reason = reason.to_owned();
        }
    }
    Reply { status, finish_reason, message }
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap_or_else(|error| panic!("{error} in {schema}"))
}

/// Says what is wrong with a reply that must be JSON of this schema.
fn fault(reply: &Reply, schema: &Value) -> Option<String> {
    if reply.status != StatusCode::OK || reply.finish_reason != "stop" {
        return Some(format!("{} {}", reply.status, reply.finish_reason));
    }
    let value: Value = match serde_json::from_str(reply.message["content"].as_str().unwrap_or("")) {
        Ok(value) => value,
        Err(error) => return Some(error.to_string()),
    };
    validator(schema).validate(&value).err().map(|error| error.to_string())
}

/// Runs jobs side by side, and fails with every fault that they found.
async fn run_all<F: Future<Output = Option<String>>>(jobs: impl Iterator<Item = F>) {
    let mut num_jobs = 0;
    let faults: Vec<String> = futures::stream::iter(jobs.inspect(|_| num_jobs += 1))
        .buffer_unordered(NUM_CONCURRENT)
        .filter_map(|fault| async { fault })
        .collect()
        .await;
    assert!(faults.is_empty(), "{} of {num_jobs} replies are wrong:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_follow_their_schemas() {
    let schemas = schemas::all();
    assert!(schemas.len() >= 500, "{} schemas", schemas.len());
    // Each schema whole and streamed, one of them with thinking.
    let jobs = schemas.iter().enumerate().flat_map(|(index, schema)| {
        [Delivery::Whole, Delivery::Streamed].into_iter().enumerate().map(move |(round, delivery)| async move {
            let thinks = (index + round) % 2 == 0;
            // A schema in the prompt takes its time, so few have it.
            let mut body = match index % 8 {
                0 => {
                    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
                }
                1..=4 => json!({"guided_json": schema}),
                _ => json!({"structured_outputs": {"json": schema.to_string()}}),
            };
            if thinks {
                body["thinking"] = json!({"type": "enabled"});
                body["thinking_token_budget"] = json!(index % 7);
            }
            body["seed"] = json!(index * 2 + round);
            let reply = chat(body, delivery).await;
            fault(&reply, schema)
                .map(|fault| format!("{schema}\n  {delivery:?}, thinking {thinks}: {fault}\n  {reply:?}"))
        })
    });
    run_all(jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_forms_are_kept_too() {
    let any_json = json!({"type": ["object", "array"]});
    let jobs = (0..24).map(|seed| {
        let any_json = &any_json;
        async move {
            let mut body = match seed % 3 {
                0 => json!({"response_format": {"type": "json_object"}}),
                1 => json!({"structured_outputs": {"json_object": true}}),
                _ => json!({"response_format": {"type": "json_object"}, "thinking": {"type": "enabled"}, "thinking_token_budget": 9}),
            };
            body["seed"] = json!(seed);
            let reply = chat(body, if seed % 2 == 0 { Delivery::Whole } else { Delivery::Streamed }).await;
            fault(&reply, any_json).map(|fault| format!("{fault}\n  {reply:?}"))
        }
    });
    run_all(jobs).await;

    for seed in 0..4 {
        let check = async |constraint: Value, is_right: &dyn Fn(&str) -> bool| {
            let mut body =
                json!({"model": "untrained", "prompt": "Say", "seed": seed, "max_tokens": 100, "temperature": 1});
            body.as_object_mut().unwrap().extend(constraint.as_object().unwrap().clone());
            let (status, text) = post("/v1/completions", &body).await;
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            let text = answer["choices"][0]["text"].as_str().unwrap_or("");
            assert!(status == StatusCode::OK && is_right(text), "{constraint}: {status} {answer}");
            assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{constraint}: {answer}");
        };
        let is_plate = |text: &str| {
            text.len() == 7
                && text.bytes().enumerate().all(|(at, byte)| match at {
                    0..3 => byte.is_ascii_uppercase(),
                    3 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                })
        };
        check(json!({"guided_regex": "[A-Z]{3}-[0-9]{3}"}), &is_plate).await;
        check(json!({"structured_outputs": {"regex": "[A-Z]{3}-[0-9]{3}"}}), &is_plate).await;
        check(json!({"guided_choice": ["whale", "dolphin"]}), &|text| ["whale", "dolphin"].contains(&text)).await;
        check(json!({"structured_outputs": {"choice": ["a", "ab"]}}), &|text| ["a", "ab"].contains(&text)).await;
        let sum = json!({"guided_grammar": "start: NUM (\"+\" NUM){2}\nNUM: /[0-9]{1,2}/"});
        check(sum, &|text| text.split('+').filter(|part| part.parse::<u8>().is_ok()).count() == 3).await;
        check(json!({"structured_outputs": {"grammar": "start: \"x\" \"y\""}}), &|text| text == "xy").await;
    }
}

/// The calls in a message, each with its name and arguments.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let read = |call: &Value| {
        let arguments = text(&call["function"]["arguments"]);
        (text(&call["function"]["name"]), serde_json::from_str(&arguments).unwrap_or(Value::from(arguments)))
    };
    calls.iter().map(read).collect()
}

fn tools(strict: bool) -> Value {
    let place = json!({"type": "object", "properties": {"lat": {"type": "number", "minimum": -90, "maximum": 90},
                       "lon": {"type": "number"}}, "required": ["lat", "lon"], "additionalProperties": false});
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "place": {"$ref": "#/$defs/place"},
        "contact": {"type": "string", "format": "ipv4"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
    }, "required": ["city", "unit", "days", "place", "contact", "tags"], "additionalProperties": false, "$defs": {"place": place}});
    let note = json!({"type": "object", "properties": {"text": {"type": "string"}, "stars": {"type": ["integer", "null"]}},
                      "required": ["text"], "additionalProperties": false});
    let function = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}});
    json!([
        function("get_weather", weather),
        function("note", note),
        function("now", json!({"type": "object", "properties": {}, "additionalProperties": false}))
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_calls_of_the_tools() {
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let choices = [json!("required"), named("get_weather"), named("note"), named("now")];
    let jobs = (0..24).map(|seed| {
        let choices = &choices;
        async move {
            let strict = seed % 2 == 0;
            let choice = &choices[seed / 2 % 4];
            let tools = tools(strict);
            let mut body = json!({"tools": tools, "tool_choice": choice, "seed": seed});
            if seed % 3 == 0 {
                body["thinking"] = json!({"type": "enabled"});
                body["thinking_token_budget"] = json!(4);
            }
            let reply = chat(body, if seed / 8 % 2 == 0 { Delivery::Whole } else { Delivery::Streamed }).await;
            call_fault(&reply, &tools, choice).map(|fault| format!("{choice}, strict {strict}: {fault}\n  {reply:?}"))
        }
    });
    run_all(jobs).await;
}

/// A forced call follows its schema, strict or not.
fn call_fault(reply: &Reply, tools: &Value, choice: &Value) -> Option<String> {
    if reply.status != StatusCode::OK || reply.finish_reason != "tool_calls" {
        return Some(format!("{} {}", reply.status, reply.finish_reason));
    }
    let calls = calls(&reply.message);
    if calls.is_empty() || !reply.message["content"].as_str().unwrap_or("").is_empty() {
        return Some("not calls alone".to_owned());
    }
    calls.iter().find_map(|(name, arguments)| {
        let tool = tools.as_array()?.iter().find(|tool| tool["function"]["name"] == name.as_str());
        let Some(tool) = tool.filter(|_| choice.is_string() || choice["function"]["name"] == name.as_str()) else {
            return Some(format!("no call of `{name}` was asked for"));
        };
        let schema = &tool["function"]["parameters"];
        let Some(members) = arguments.as_object() else { return Some(format!("arguments {arguments}")) };
        if let Some(key) = members.keys().find(|key| schema["properties"].get(key.as_str()).is_none()) {
            return Some(format!("no parameter `{key}`"));
        }
        validator(schema).validate(arguments).err().map(|error| format!("{error} in {arguments}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_may_stay_unused() {
    let jobs = (0..8).map(|seed| async move {
        let with_format = seed % 2 == 0;
        let mut body =
            json!({"tools": tools(true), "tool_choice": if seed % 4 < 2 { "none" } else { "auto" }, "seed": seed});
        if with_format {
            body["response_format"] = json!({"type": "json_object"});
        } else {
            body["max_tokens"] = json!(60);
        }
        let reply = chat(body, Delivery::Whole).await;
        let calls = calls(&reply.message);
        let is_none = seed % 4 < 2;
        let is_right = reply.status == StatusCode::OK
            && if is_none { calls.is_empty() } else { true }
            && if with_format {
                !calls.is_empty() || fault(&reply, &json!({"type": ["object", "array"]})).is_none()
            } else {
                true
            }
            && !reply.message["content"].as_str().unwrap_or("").contains("｜DSML｜");
        (!is_right).then(|| format!("{seed}: {reply:?}"))
    });
    run_all(jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_refused() {
    let check = async |body: Value, param: &str, words: &[&str]| {
        let Reply { status, message, .. } = chat(body.clone(), Delivery::Streamed).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {message}");
        let text = message["error"]["message"].as_str().expect("a message");
        assert!(words.iter().all(|word| text.contains(word)), "{body}: {text}");
        assert_eq!(message["error"]["param"], param, "{body}: {text}");
    };
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let at = "response_format.json_schema.schema";
    check(schema(json!({"type": "array", "uniqueItems": true})), at, &["uniqueItems"]).await;
    check(schema(json!({"type": "strange"})), at, &["strange"]).await;
    check(schema(json!(7)), at, &["a JSON schema is an object"]).await;
    check(json!({"response_format": {"type": "json_schema"}}), "response_format", &["json_schema.schema"]).await;
    check(json!({"guided_json": {"not": {}}}), "guided_json", &["not"]).await;
    check(json!({"guided_regex": "(a"}), "guided_regex", &["(a"]).await;
    check(json!({"guided_choice": []}), "guided_choice", &["nothing to choose"]).await;
    check(json!({"guided_grammar": "start: x"}), "guided_grammar", &["x"]).await;
    check(json!({"structured_outputs": {}}), "structured_outputs", &["one of json, regex"]).await;
    let two = json!({"guided_regex": "a", "structured_outputs": {"choice": ["a"]}});
    check(two, "structured_outputs.choice", &["guided_regex and structured_outputs.choice both say"]).await;
    let two = json!({"response_format": {"type": "json_object"}, "guided_choice": ["a"]});
    check(two, "guided_choice", &["response_format and guided_choice"]).await;
    let bad = json!([{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]);
    check(json!({"tools": bad}), "tools[0].function.parameters", &["not"]).await;
    let forced = json!({"model": "deepseek-reasoner", "tools": tools(false), "tool_choice": "required"});
    check(forced, "tool_choice", &["deepseek-reasoner does not support this tool_choice"]).await;
    let unmentioned =
        json!({"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "hi"}]});
    check(unmentioned, "response_format", &["must contain the word 'json'"]).await;
    let prefix =
        json!([{"role": "user", "content": "json"}, {"role": "assistant", "content": "Sure: ", "prefix": true}]);
    check(json!({"response_format": {"type": "json_object"}, "messages": prefix}), "messages", &["does not begin"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_goes_on_from_its_prefix() {
    for seed in 0..4 {
        let messages = json!([{"role": "user", "content": "json"}, {"role": "assistant", "content": "{\"whale\": [", "prefix": true}]);
        let reply = chat(
            json!({"response_format": {"type": "json_object"}, "messages": messages, "seed": seed}),
            Delivery::Whole,
        )
        .await;
        let text = format!("{{\"whale\": [{}", reply.message["content"].as_str().unwrap_or(""));
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|value| value["whale"].is_array()), "{text} {reply:?}");
    }
}
