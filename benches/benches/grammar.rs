//! What a constrained token costs: the mask before it, and taking it.
//!
//! Replies as models write them (JSON, tool calls) are walked through token by token under the grammars that requests would
//! have, and every mask is timed. A mask is computed beside the forward pass, so what counts is that the slowest stay below
//! the time of a step. Compiling a grammar comes before the first token, the vocabulary's trie before the first grammar.
//!
//! `cargo bench --bench grammar -- FOLDER` takes the tokenizer of a checkpoint; without FOLDER it is the embedded one, whose
//! small vocabulary makes masks cheap. The release decides the markup of calls.

#![allow(clippy::print_stdout)] // The report is the output.

use std::hint::black_box;
use std::time::{Duration, Instant};

use cachalot_prompt::{Answer, Calls, Chat, Message, Prompt, PromptFiles, ReplySpec, Role, Strictness, Tool, ToolCall};
use serde_json::{Value, json};

/// How often each reply is walked through.
const NUM_ROUNDS: usize = 5;

struct Case {
    name: &'static str,
    spec: ReplySpec,
    ids: Vec<u32>,
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../models/embedded").to_owned());
    let files = PromptFiles::read(folder.as_ref()).expect("a folder with a tokenizer");
    let prompt = Prompt::open(&files, None).expect("a tokenizer of a known release");
    let begin = Instant::now();
    let spec = ReplySpec { answer: Answer::Json, ..ReplySpec::default() };
    black_box(prompt.grammar(&spec, false, false).expect("a grammar"));
    println!(
        "{}, {} tokens: vocabulary and first grammar {:.0} ms",
        prompt.release(),
        prompt.tokenizer().vocab_size(),
        ms(begin.elapsed())
    );
    println!(
        "{:28} {:>7} {:>10} {:>9} {:>9} {:>9} {:>10}",
        "", "tokens", "compile ms", "p50 µs", "p99 µs", "max µs", "take p99"
    );
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for Case { name, spec, ids } in cases(&prompt) {
        let (mut masks, mut takes, mut compiles) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..NUM_ROUNDS {
            let begin = Instant::now();
            let mut grammar = prompt.grammar(&spec, false, false).expect("a grammar").expect("a restriction");
            compiles.push(begin.elapsed());
            for &id in &ids {
                let begin = Instant::now();
                black_box(grammar.allowed().expect("not too complex"));
                masks.push(begin.elapsed());
                let begin = Instant::now();
                grammar.accept(id).unwrap_or_else(|error| panic!("{name}: {error}"));
                takes.push(begin.elapsed());
            }
        }
        [&mut masks, &mut takes, &mut compiles].into_iter().for_each(|times| times.sort_unstable());
        let compile = ms(percentile(&compiles, 50));
        row(name, ids.len(), compile, &masks, &takes);
        for (all, of_case) in all.iter_mut().zip([masks, takes, compiles]) {
            all.extend(of_case);
        }
    }
    let [masks, takes, compiles] = &mut all;
    [&mut *masks, takes, compiles].into_iter().for_each(|times| times.sort_unstable());
    row("all", masks.len() / NUM_ROUNDS, ms(percentile(compiles, 50)), masks, takes);
}

fn row(name: &str, num_tokens: usize, compile: f64, masks: &[Duration], takes: &[Duration]) {
    let [p50, p99, max] = [50, 99, 100].map(|percent| us(percentile(masks, percent)));
    println!(
        "{name:28} {num_tokens:7} {compile:10.2} {p50:9.1} {p99:9.1} {max:9.1} {:10.1}",
        us(percentile(takes, 99))
    );
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn cases(prompt: &Prompt) -> Vec<Case> {
    let order = json!({
        "order_id": "A-10293", "customer": {"name": "Zoë Müller", "email": "zoe.mueller@example.com", "vip": true},
        "items": [{"sku": "WH-1", "title": "Sperm whale, plush, 40 cm", "quantity": 2, "price": 24.5},
                  {"sku": "WH-7", "title": "Cachalot \"Deep Diver\" poster\nwith frame", "quantity": 1, "price": 9.99}],
        "notes": "请在周五之前送达。Leave it with the neighbour if nobody opens; the bell does not work, so knock twice.",
        "total": 58.99, "shipped_at": null
    });
    let item = json!({"type": "object", "properties": {"sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}, "title": {"type": "string"},
                      "quantity": {"type": "integer", "minimum": 1}, "price": {"type": "number"}},
                      "required": ["sku", "title", "quantity", "price"], "additionalProperties": false});
    let schema = json!({"type": "object", "properties": {
        "order_id": {"type": "string"},
        "customer": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 80}, "email": {"type": "string", "format": "email"},
                     "vip": {"type": "boolean"}}, "required": ["name", "email"], "additionalProperties": false},
        "items": {"type": "array", "items": item, "minItems": 1},
        "notes": {"type": ["string", "null"]}, "total": {"type": "number", "minimum": 0},
        "shipped_at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}},
        "required": ["order_id", "customer", "items", "total"], "additionalProperties": false});
    let edit = json!({"path": "src/main.rs", "content": "fn main() {\n    let x = 1 << 3;\n    println!(\"{x} </b> {}\", 2 > 1);\n}\n",
                      "line": 12, "options": {"create": true, "mode": "0644"}});
    let search =
        json!({"query": "how deep does a sperm whale dive", "limit": 5, "sites": ["example.org", "example.com"]});
    let parameters = |required: &[&str]| {
        json!({"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}, "line": {"type": "integer", "minimum": 0},
               "options": {"type": "object", "properties": {"create": {"type": "boolean"}, "mode": {"type": "string", "pattern": "^[0-7]{4}$"}},
                           "required": ["create", "mode"], "additionalProperties": false}}, "required": required, "additionalProperties": false})
    };
    let find = json!({"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"},
                      "sites": {"type": "array", "items": {"type": "string", "format": "hostname"}}}, "required": ["query"], "additionalProperties": false});
    let tools = |strict| {
        let strictness = if strict { Strictness::Strict } else { Strictness::Loose };
        let tool =
            |name: &str, parameters: Value| Tool { name: name.to_owned(), parameters: Some(parameters), strictness };
        // As many as an agent has.
        let others = (0..18).map(|i| tool(&format!("other_tool_{i}"), find.clone()));
        [tool("edit_file", parameters(&["path", "content"])), tool("search", find.clone())]
            .into_iter()
            .chain(others)
            .collect()
    };
    let calls = encoded_calls(prompt, &[("edit_file", &edit), ("search", &search)]);
    let text = |text: &str| prompt.tokenizer().encode(text).expect("it tokenises");
    let answer = |answer| ReplySpec { answer, ..ReplySpec::default() };
    let required = |strict| ReplySpec { calls: Calls::Required(tools(strict)), ..ReplySpec::default() };
    let allowed = ReplySpec { calls: Calls::Allowed(tools(true)), ..ReplySpec::default() };
    let pretty = serde_json::to_string_pretty(&order).expect("JSON");
    let spaced = pretty.lines().map(str::trim).collect::<Vec<_>>().join(" ").replace("{ ", "{").replace(" }", "}");
    let spaced = spaced.replace("[ ", "[").replace(" ]", "]");
    vec![
        Case { name: "json_object, indented", spec: answer(Answer::Json), ids: text(&pretty) },
        Case { name: "json_object, one line", spec: answer(Answer::Json), ids: text(&spaced) },
        Case { name: "json_schema, indented", spec: answer(Answer::Schema(schema.clone())), ids: text(&pretty) },
        Case { name: "json_schema, one line", spec: answer(Answer::Schema(schema)), ids: text(&spaced) },
        Case {
            name: "regex",
            spec: answer(Answer::Regex(r"[\w .,'-]+(\n[\w .,'-]+)*".to_owned())),
            ids: text("The whale dives.\nIt hunts squid, mostly."),
        },
        Case { name: "20 tools, required", spec: required(false), ids: calls.clone() },
        Case { name: "20 strict tools, required", spec: required(true), ids: calls.clone() },
        Case {
            name: "20 strict tools, auto",
            spec: allowed,
            ids: [text("I will look that up first, then edit the file."), calls].concat(),
        },
    ]
}

/// The ids of calls as the release's encoder writes them.
fn encoded_calls(prompt: &Prompt, calls: &[(&str, &Value)]) -> Vec<u32> {
    let tool_calls = calls.iter().map(|(name, arguments)| ToolCall {
        id: String::new(),
        name: (*name).to_owned(),
        arguments: arguments.to_string(),
    });
    let message = Message { tool_calls: tool_calls.collect(), ..Message::new(Role::Assistant, "") };
    let render = |messages| prompt.render(&Chat { messages, ..Chat::default() }).expect("a conversation").ids;
    let before = render(vec![Message::new(Role::User, "go")]);
    let ids = render(vec![Message::new(Role::User, "go"), message]);
    let end = ids.iter().rposition(|id| prompt.eos_token_ids().contains(id)).expect("the turn ends");
    ids[before.len()..end].to_vec()
}
