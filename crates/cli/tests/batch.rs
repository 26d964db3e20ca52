//! `cachalot batch` with the real binary and the embedded model: what it answers, what it refuses, and that nothing that ends
//! it makes it lose or repeat an answer.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use common::{PATIENCE, Server, cachalot, fail, signal, succeed, wait};

/// A folder with an input and an output.
struct Batch {
    folder: TempDir,
}

impl Batch {
    fn new(input: &str) -> Self {
        let batch = Batch { folder: tempfile::tempdir().expect("a temporary folder") };
        batch.write_input(input);
        batch
    }

    /// `count` completions of `max_tokens` tokens, named by their numbers.
    fn of_completions(count: usize, max_tokens: u32) -> Self {
        let line = |index: usize| {
            let body = json!({ "prompt": [5, 6, index % 100], "max_tokens": max_tokens, "ignore_eos": true });
            request(&index.to_string(), "/v1/completions", &body)
        };
        Self::new(&(0..count).map(line).collect::<String>())
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("in.jsonl")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    fn write_input(&self, input: &str) {
        fs::write(self.input(), input).expect("in a temporary folder");
    }

    fn args(&self, options: &[&str]) -> Vec<String> {
        let path = |path: PathBuf| path.to_str().expect("ascii").to_owned();
        let options = options.iter().map(|option| (*option).to_owned());
        ["batch".to_owned(), path(self.input()), path(self.output())].into_iter().chain(options).collect()
    }

    fn command(&self, options: &[&str]) -> Command {
        let args = self.args(options);
        cachalot(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn succeed(&self, options: &[&str]) -> String {
        let args = self.args(options);
        succeed(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn fail(&self, options: &[&str]) -> String {
        let args = self.args(options);
        fail(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts the command and waits until its first answers are there.
    fn start(&self, options: &[&str]) -> Child {
        let size = || fs::metadata(self.output()).map_or(0, |metadata| metadata.len());
        let before = size();
        let mut command = self.command(options);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let deadline = Instant::now() + PATIENCE;
        while size() == before {
            assert!(child.try_wait().expect("the child is ours").is_none(), "it ended before an answer was there");
            assert!(Instant::now() < deadline, "no answer within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    /// The whole lines of the output.
    fn answers(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output()).expect("the output is text");
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// The answers by name, of which each must be there once.
    fn by_id(&self) -> BTreeMap<String, Value> {
        let mut by_id = BTreeMap::new();
        for answer in self.answers() {
            let id = answer["custom_id"].as_str().unwrap_or_else(|| panic!("no name: {answer}")).to_owned();
            assert!(by_id.insert(id.clone(), answer).is_none(), "{id} is answered twice");
        }
        by_id
    }

    /// Runs to the end and checks that each of `count` completions has one good answer, and that the file ends with a line.
    fn complete(&self, count: usize) {
        self.succeed(&[]);
        let by_id = self.by_id();
        assert_eq!(by_id.len(), count);
        for index in 0..count {
            assert_eq!(by_id[&index.to_string()]["response"]["status_code"], 200, "{index}");
        }
        assert!(fs::read(self.output()).expect("it is there").ends_with(b"\n"));
    }
}

fn request(custom_id: &str, url: &str, body: &Value) -> String {
    format!("{}\n", json!({ "custom_id": custom_id, "method": "POST", "url": url, "body": body }))
}

fn message_of(mut child: Child) -> (Option<i32>, String) {
    let status = wait(&mut child);
    let message = std::io::read_to_string(child.stderr.take().expect("piped")).expect("messages are text");
    (status.code(), message)
}

/// An answer without the ids of its tool calls, which are random.
fn without_call_ids(answer: &Value) -> Value {
    let mut answer = answer.clone();
    for choice in answer["choices"].as_array_mut().into_iter().flatten() {
        for call in choice["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
            call["id"].take();
        }
    }
    answer
}

#[test]
fn answers_are_those_of_serve() {
    let greedy = |mut body: Value| {
        body["temperature"] = json!(0);
        body
    };
    let question = json!([{ "role": "user", "content": "How deep does a whale dive?" }]);
    let schema = json!({ "type": "json_schema", "json_schema": {
        "name": "answer", "schema": { "type": "object", "properties": { "depth": { "type": "integer", "maximum": 9 } },
        "required": ["depth"], "additionalProperties": false }
    }});
    let tool = json!([{ "type": "function", "function": { "name": "dive" } }]);
    let cases = [
        ("/v1/chat/completions", greedy(json!({ "messages": question, "max_tokens": 24 }))),
        ("/v1/chat/completions", greedy(json!({ "messages": question, "max_tokens": 24, "n": 3, "logprobs": true }))),
        ("/v1/chat/completions", json!({ "messages": question, "max_tokens": 24, "seed": 7, "model": "whale" })),
        ("/v1/chat/completions", greedy(json!({ "messages": question, "response_format": schema, "max_tokens": 48 }))),
        (
            "/v1/chat/completions",
            greedy(json!({ "messages": question, "tools": tool, "thinking": { "type": "enabled" }, "max_tokens": 48 })),
        ),
        ("/v1/completions", greedy(json!({ "prompt": "The 鲸", "max_tokens": 24, "stop": ["e"] }))),
        ("/v1/completions", greedy(json!({ "prompt": ["One", "Two"], "max_tokens": 8, "stream": false }))),
        ("/v1/completions", greedy(json!({ "prompt": "def f(", "suffix": "return 1", "max_tokens": 8 }))),
        ("/v1/responses", greedy(json!({ "input": "How deep?", "max_output_tokens": 16 }))),
        ("/v1/chat/completions", json!({ "messages": [] })),
        ("/v1/chat/completions", json!({ "messages": question, "model": "gpt-4o-mini" })),
        ("/v1/completions", json!({ "prompt": "x", "temperature": 9 })),
        ("/v1/completions", json!({ "prompt": "x", "stream": "yes" })),
        ("/v1/completions", json!([])),
    ];
    let num_refused = 5;
    let line = |(index, (url, body)): (usize, &(&str, Value))| request(&format!("case {index}"), url, body);
    let batch = Batch::new(&cases.iter().enumerate().map(line).collect::<String>());
    // What becomes of drafts is part of the usage, and depends on the company.
    let options = ["--served-model-name", "whale", "--speculative-tokens", "0"];
    let summary = batch.succeed(&options);
    let counts = format!("{} requests: {} answered, {num_refused} failed\n", cases.len(), cases.len() - num_refused);
    assert!(summary.contains(&counts), "{summary}");
    let by_id = batch.by_id();
    assert_eq!(by_id.len(), cases.len());

    let server = Server::start(&options);
    let mut generated = 0;
    for (index, (url, body)) in cases.iter().enumerate() {
        let answer = &by_id[&format!("case {index}")];
        let keys: Vec<&String> = answer.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["id", "custom_id", "response", "error"], "{answer}");
        assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("batch_req_")), "{answer}");
        assert!(answer["error"].is_null(), "{answer}");
        let response = &answer["response"];
        assert!(response["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");

        let (status, served) = server.post(url, body);
        assert_eq!(response["status_code"], status, "{url} {body}: {answer}");
        let (found, served) = (&without_call_ids(&response["body"]), &without_call_ids(&served));
        assert_eq!(found["error"], served["error"], "{url} {body}");
        for part in ["choices", "usage", "model", "object", "status"] {
            assert_eq!(found[part], served[part], "{part} of {url} {body}");
        }
        let text = |body: &Value| body["output"][0]["content"][0]["text"].clone();
        assert_eq!(text(found), text(served), "{url} {body}");
        let usage = &found["usage"];
        let tokens = usage["completion_tokens"].as_u64().or(usage["output_tokens"].as_u64());
        assert_eq!(tokens.is_some(), index < cases.len() - num_refused, "{answer}");
        generated += tokens.unwrap_or_default();
    }
    assert!(summary.contains(&format!(" and {generated} generated tokens in ")), "{summary}");
}

#[test]
fn lines_that_are_no_requests_get_an_answer_too() {
    let body = json!({ "prompt": [5], "max_tokens": 1 });
    let good = request("good", "/v1/completions", &body);
    let streams = request("streams", "/v1/completions", &json!({ "prompt": [5], "stream": true }));
    let elsewhere = request("elsewhere", "/v1/embeddings", &body);
    let too_long = format!("{{\"custom_id\": \"{}\"}}\n", "x".repeat(33 << 20));
    let head = format!("{good}\n \t\r\n{{\"custom_id\": \"half\"}}\n{streams}{elsewhere}{too_long}");
    let batch = Batch::new(&format!("{head}rubbish"));
    let summary = batch.succeed(&[]);
    assert!(summary.contains("6 requests: 1 answered, 5 failed"), "{summary}");
    let answers = batch.answers();
    let find = |id: &Value, line: u64| {
        let mut found = answers.iter().filter(|answer| &answer["custom_id"] == id && answer["error"]["line"] == line);
        let answer = found.next().unwrap_or_else(|| panic!("no answer to line {line} as {id}"));
        assert!(found.next().is_none() && answer["response"].is_null(), "{answer}");
        answer["error"]["code"].as_str().expect("a code").to_owned()
    };
    assert_eq!(find(&json!("half"), 4), "invalid_line");
    assert_eq!(find(&json!("streams"), 5), "stream_not_supported");
    assert_eq!(find(&json!("elsewhere"), 6), "invalid_url");
    assert_eq!(find(&Value::Null, 7), "line_too_long");
    assert_eq!(find(&Value::Null, 8), "invalid_line");

    let before = fs::read(batch.output()).expect("it is there");
    assert_eq!(batch.succeed(&[]), "6 requests: 6 answered before\n");
    assert_eq!(fs::read(batch.output()).expect("it is there"), before, "nothing is answered twice");

    // A line that had no name and got one is a request of its own.
    batch.write_input(&format!("{head}{}", request("corrected", "/v1/completions", &body)));
    let summary = batch.succeed(&[]);
    assert!(summary.contains("6 requests: 1 answered, 0 failed, 5 answered before"), "{summary}");
    assert!(batch.answers().iter().any(|answer| answer["custom_id"] == "corrected"));
}

#[test]
fn names_that_come_twice_are_refused_before_anything_is_computed() {
    let line = |id: &str| request(id, "/v1/completions", &json!({ "prompt": [5] }));
    let batch = Batch::new(&format!("{}\nrubbish\n{}{}{}", line("a"), line("b"), line("a"), line("b")));
    let message = batch.fail(&[]);
    assert!(message.contains("lines 1 and 5 of") && message.contains("have the same custom_id `a`"), "{message}");
    assert!(!batch.output().exists(), "there is no output");
}

#[test]
fn a_killed_batch_goes_on_where_it_was() {
    const COUNT: usize = 400;
    let batch = Batch::of_completions(COUNT, 16);
    let mut num_kills = 0;
    for _ in 0..4 {
        let mut child = batch.start(&["--max-num-seqs=16"]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
        let delay = Duration::from_micros(u64::from(now.subsec_micros()) % 100_000);
        std::thread::sleep(delay);
        child.kill().expect("the child is ours");
        num_kills += usize::from(wait(&mut child).signal() == Some(9));
        let num_answered = batch.by_id().len();
        if num_answered == COUNT {
            break;
        }
    }
    assert!(num_kills > 0, "it was never killed at work");
    batch.complete(COUNT);
}

#[test]
fn a_last_line_that_is_cut_off_is_answered_again() {
    let batch = Batch::of_completions(3, 2);
    batch.complete(3);
    let whole = fs::read(batch.output()).expect("it is there");
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("there are three lines") + 1;
    for cut in [last + 1, last + 20, whole.len() - 100, whole.len() - 1] {
        fs::write(batch.output(), &whole[..cut]).expect("in a temporary folder");
        batch.complete(3);
        let now = fs::read(batch.output()).expect("it is there");
        assert_eq!(&now[..last], &whole[..last], "cut at {cut}: whole lines stay");
    }
}

#[test]
fn files_that_do_not_belong_together_are_left_alone() {
    let batch = Batch::of_completions(2, 1);
    batch.complete(2);
    let answers = fs::read_to_string(batch.output()).expect("it is text");
    let check = |output: &str, expected: &str| {
        fs::write(batch.output(), output).expect("in a temporary folder");
        let message = batch.fail(&[]);
        assert!(message.contains(expected), "no {expected} in:\n{message}");
        assert_eq!(fs::read_to_string(batch.output()).expect("it is text"), output, "the file is as it was");
    };
    check(&format!("{answers}precious"), "line 3 of");
    check("{\"precious\": 1}", "is not the answer to a request");
    check("{\"precious\": 1}\n", "is not the answer to a request");
    let requests = fs::read_to_string(batch.input()).expect("it is text");
    check(&requests, "line 1 of");
    let of_others = answers.replace(r#""custom_id":"1""#, r#""custom_id":"whale""#);
    check(&format!("{of_others}{{\"id\":\"batch"), "answers `whale`, which");

    let check = |input: &Path, output: &Path, expected: &str| {
        let message = fail(&["batch", input.to_str().expect("ascii"), output.to_str().expect("ascii")]);
        assert!(message.contains(expected), "no {expected} in:\n{message}");
    };
    let (input, output, folder) = (batch.input(), batch.folder.path().join("new.jsonl"), batch.folder.path());
    check(&folder.join("nothing"), &output, "cannot read");
    check(folder, &output, "is not a file");
    check(Path::new("-"), &output, "`-` does not stand for");
    check(&input, Path::new("-"), "`-` does not stand for");
    check(Path::new("/dev/null"), &output, "they cannot come through a pipe");
    assert!(!output.exists(), "no output is made for nothing");
    check(&input, &folder.join("nothing/new.jsonl"), "cannot write to");
    check(&input, folder, "cannot write to");
    check(&input, Path::new("/dev/null"), "is not a file");
}

/// A limit on the size of files stands for a disk that is full: the kernel writes what fits of a line and then refuses.
#[test]
fn a_full_disk_ends_a_batch_that_can_go_on() {
    const COUNT: usize = 60;
    let batch = Batch::of_completions(COUNT, 2);
    let limited = r#"trap "" XFSZ; ulimit -f 16; exec "$0" "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_cachalot")]).args(batch.args(&[]));
    let output = command.output().expect("bash is there");
    let message = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{message}");
    let bytes = fs::read(batch.output()).expect("it is there");
    assert!(bytes.ends_with(b"\n") && bytes.len() <= 16 << 10, "{} bytes", bytes.len());
    let num_answered = batch.by_id().len();
    let expected = [
        format!("error: cannot write to {}; {num_answered} of {COUNT} requests are answered", batch.output().display()),
        "caused by: File too large".to_owned(),
        "hint: make room on the disk, and run the same command again".to_owned(),
    ];
    for expected in expected {
        assert!(message.contains(&expected), "no {expected} in:\n{message}");
    }
    assert!(num_answered > 0);
    batch.complete(COUNT);
}

#[test]
fn a_signal_lets_what_runs_finish_and_two_processes_do_not_share_an_output() {
    const COUNT: usize = 2000;
    let batch = Batch::of_completions(COUNT, 16);
    let child = batch.start(&["--max-num-seqs=8"]);
    let message = batch.fail(&[]);
    assert!(message.contains("another process writes to"), "{message}");

    let num_answered_before = batch.answers().len();
    signal(&child, "INT");
    let (status, message) = message_of(child);
    let num_answered = batch.by_id().len();
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("requests get up to 30 s to finish"), "{message}");
    let expected = format!("error: stopped by a signal; {num_answered} of {COUNT} requests are answered\n");
    assert!(message.contains(&expected), "no {expected} in:\n{message}");
    assert!(
        message.ends_with("hint: run the same command again: it goes on with the requests that have no answer yet\n")
    );
    assert!(num_answered_before < num_answered && num_answered < COUNT, "{num_answered_before}, {num_answered}");
}

#[test]
fn a_second_signal_and_the_timeout_wait_for_nothing() {
    let short = request("short", "/v1/completions", &json!({ "prompt": [5], "max_tokens": 1 }));
    let long = json!({ "prompt": [5], "max_tokens": 4000, "ignore_eos": true });
    let batch = Batch::new(&format!("{short}{}", request("long", "/v1/completions", &long)));
    let mut child = batch.start(&["--shutdown-timeout=600"]);
    signal(&child, "TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().expect("the child is ours").is_none(), "the request is still running");
    signal(&child, "TERM");
    let (status, message) = message_of(child);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("stopped by a signal; 1 of 2 requests are answered"), "{message}");

    fs::remove_file(batch.output()).expect("it is there");
    let child = batch.start(&["--shutdown-timeout=0"]);
    signal(&child, "INT");
    let (status, message) = message_of(child);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("stopped by a signal; 1 of 2 requests are answered"), "{message}");
}
