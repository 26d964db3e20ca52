//! What a newcomer does first, with the real binary: look at the embedded model, serve it, talk to it, stop it, and mistype
//! a few things. Every message is looked at, because it is all that a newcomer has.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cachalot_testkit::golden::{self, Golden};
use cachalot_testkit::{TinyCheckpoint, qwen3_config, v32_config};
use serde_json::{Value, json};

use common::{Server, cachalot, fail, run, signal, succeed};

fn chat_body() -> Value {
    json!({ "messages": [{ "role": "user", "content": "How deep does a whale dive?" }], "max_tokens": 8, "seed": 1 })
}

#[test]
fn serve_answers_and_ends_in_order() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        for expected in [
            "DeepseekV32ForCausalLM",
            "V3.2",
            "cpu",
            "blocks of 64 tokens",
            " activations + ",
            " available",
            "listens on",
        ] {
            assert!(server.banner.contains(expected), "no {expected} in:\n{}", server.banner);
        }
        assert_eq!(server.request("GET", "/health", "", "").0, 200);

        let (status, answer) = server.post("/v1/chat/completions", &chat_body());
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
        let generated = answer["usage"]["completion_tokens"].as_u64().expect("a count");
        assert!((1..=8).contains(&generated), "{answer}");

        let (_, models) = server.request("GET", "/v1/models", "", "");
        let models: Value = serde_json::from_str(&models).expect("JSON");
        assert_eq!(models["data"][0]["id"], "cachalot-embedded", "{models}");

        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "SIG{signal} is an orderly end");
    }
}

#[test]
fn options_of_serve_take_effect() {
    let server = Server::start(&[
        "--api-key=secret,other",
        "--served-model-name=whale",
        "--max-model-len=128",
        "--max-num-seqs=2",
        "--max-num-batched-tokens=32",
        "--kv-cache-bytes=8MiB",
        "--kv-cache-dtype=bf16",
        "--max-body-bytes=2000",
        "--threads=1",
        "--release=V3.1",
        "--allowed-origin=https://chat.example.org",
    ]);
    let expected =
        ["with 1 threads", "V3.1", "BF16", "128 tokens per sequence, 2 sequences at once, 32 tokens per step"];
    for expected in expected {
        assert!(server.banner.contains(expected), "no {expected} in:\n{}", server.banner);
    }
    let get = |headers: &str| server.request("GET", "/v1/models", headers, "");
    assert_eq!(get("").0, 401);
    assert_eq!(get("Authorization: Bearer wrong\r\n").0, 401);
    let (status, models) = get("Authorization: Bearer other\r\n");
    assert_eq!(status, 200);
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models["data"][0]["id"], "whale", "{models}");
    assert_eq!(models["data"][0]["max_model_len"], 128, "{models}");

    let authorized = "Authorization: Bearer secret\r\n";
    let long = json!({ "prompt": "a ".repeat(1500) }).to_string();
    assert_eq!(server.request("POST", "/v1/completions", authorized, &long).0, 413);

    let mut stream = TcpStream::connect(server.address).expect("the server listens");
    write!(
        stream,
        "GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\nOrigin: https://chat.example.org\r\n\r\n"
    )
    .expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers with text");
    assert!(answer.to_lowercase().contains("access-control-allow-origin: https://chat.example.org"), "{answer}");
}

#[test]
fn small_steps_need_no_second_option() {
    let server = Server::start(&["--max-num-batched-tokens=8"]);
    assert!(server.banner.contains("8 sequences at once, 8 tokens per step"), "{}", server.banner);
    assert_eq!(server.post("/v1/chat/completions", &chat_body()).0, 200);
}

#[test]
fn a_variable_is_as_good_as_an_option_and_the_option_wins() {
    let output = cachalot(&["bench", "--repeat=1", "--json", "--prompt-tokens=5"])
        .env("CACHALOT_PROMPT_TOKENS", "7")
        .env("CACHALOT_GENERATE_TOKENS", "2")
        .output()
        .expect("the binary starts");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["prompt_tokens"], &report["generate_tokens"]), (&json!(5), &json!(2)));
}

#[test]
fn an_address_that_cannot_be_had_is_explained() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let message = fail(&["serve", "--port", &port.to_string()]);
    assert!(message.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{message}");
    assert!(message.contains("choose another port with --port"), "{message}");

    let message = fail(&["serve", "--host", "203.0.113.1", "--port", "0"]);
    assert!(message.contains("--host must be an address of this machine"), "{message}");
}

#[test]
fn a_stop_while_the_model_is_loaded_is_orderly_too() {
    let mut child = cachalot(&["serve", "--port", "0"]).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("the server listens").expect("output is text");
    assert!(first.contains("listens on http://127.0.0.1:"), "{first}");
    let address = first.split("http://").nth(1).and_then(|rest| rest.split(',').next()).expect("an address");
    let mut server = Server { child, address: address.parse().expect("an address"), banner: first.clone() };
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_running_requests() {
    let mut server = Server::start(&[]);
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 4000, "ignore_eos": true, "stream": true }).to_string();
    let mut stream = TcpStream::connect(server.address).expect("the server listens");
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("the server reads");
    let mut first = [0; 300];
    stream.read_exact(&mut first).expect("the answer begins");

    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.child.try_wait().expect("the child is ours").is_none(), "the request is still running");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn inspect_shows_the_embedded_model_and_a_config_alone() {
    let text = succeed(&["inspect"]);
    for expected in ["the embedded model", "V3.2", "DeepseekV32ForCausalLM", "F8_E4M3", "KV cache", "4,096"] {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
    let report: Value = serde_json::from_str(&succeed(&["inspect", "--json"])).expect("JSON");
    assert_eq!(report["architecture"], "DeepseekV32ForCausalLM");

    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("config.json"), qwen3_config().to_string()).expect("in a temporary folder");
    let text = succeed(&["inspect", folder.path().to_str().expect("ascii")]);
    assert!(text.contains("Qwen3ForCausalLM"), "{text}");
}

#[test]
fn plan_tells_what_fits_here_and_on_gpus() {
    let text = succeed(&["plan"]);
    for expected in
        ["the embedded model on this machine", "weights", "KV cache", "sequences of 4,096", "--kv-cache-bytes"]
    {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = include_str!("../../weights/tests/all/configs/published-v3.json");
    fs::write(folder.path().join("config.json"), config).expect("in a temporary folder");
    let path = folder.path().to_str().expect("ascii");
    let text = succeed(&["plan", path, "--gpu", "h200x8", "--max-num-seqs", "256", "--kv-cache-dtype", "fp8"]);
    for expected in ["8 × H200-141GB", "data parallel attention", "fp8 cache", "--max-num-seqs 256"] {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
    let args = ["plan", path, "--gpu", "141GB*8", "--json", "--max-model-len", "32768", "--speculative-tokens", "1"];
    let plan: Value = serde_json::from_str(&succeed(&args)).expect("JSON");
    assert_eq!(plan["wish"]["max_model_len"], 32_768);
    assert_eq!(plan["suggestion"]["fits"], true, "{plan}");

    let check = |args: &[&str], expected: &[&str]| {
        let message = fail(&[&["plan"], args].concat());
        for expected in expected {
            assert!(message.contains(expected), "no {expected} in:\n{message}");
        }
    };
    check(&["--kv-cache-dtype", "fp8"], &["no FP8 caches on the CPU", "hint: use --kv-cache-dtype f32 or bf16"]);
    check(&["--kv-cache-dtype", "f32", "--gpu", "h200"], &["no f32 caches on GPUs"]);
    check(&["--max-model-len", "4097"], &["max_model_len is 4097", "at most 4096"]);
    check(&["--max-num-seqs", "9", "--max-num-batched-tokens", "8"], &["less than max_num_seqs 9"]);
    fs::write(folder.path().join("config.json"), qwen3_config().to_string()).expect("in a temporary folder");
    check(&[path], &["is a Qwen3 model, which is not supported yet"]);
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_machine_does_not_have_is_refused_before_it_is_taken() {
    let message = fail(&["serve", "--port", "0", "--kv-cache-bytes", "900TiB"]);
    for expected in ["needs more memory than this machine has free", "921600.0 GiB KV cache", "hint: a cache of "] {
        assert!(message.contains(expected), "no {expected} in:\n{message}");
    }
}

#[test]
fn generate_and_chat_write_text() {
    let generate = ["generate", "--prompt", "The whale", "--max-tokens", "12", "--seed", "5"];
    let first = succeed(&generate);
    assert!(first.trim().len() > 1, "{first:?}");
    assert_eq!(succeed(&generate), first, "the same seed gives the same text");

    let mut child = cachalot(&["chat", "--max-tokens", "8", "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let input = "/help\nHello\n/thinking on\nHello\n/nonsense\n/exit\nnot read\n";
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the binary reads");
    let output = child.wait_with_output().expect("the binary ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("output is text");
    for expected in ["cachalot-embedded (V3.2)", "/clear", "<think>", "there is no command `/nonsense`"] {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
}

#[test]
fn an_interrupt_stops_the_answer_and_not_the_conversation() {
    // At temperature 0 this model does not come to an end before its context does.
    let untrained = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/untrained");
    let mut child = cachalot(&["chat", untrained, "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    stdin.write_all(b"Tell me a long story\n").expect("the binary reads");
    let mut text = [0; 200];
    stdout.read_exact(&mut text).expect("the greeting and the first words of the answer");
    signal(&child, "INT");
    stdin.write_all(b"/nonsense\n/exit\n").expect("the binary reads");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("output is text");
    assert!(child.wait().expect("the child is ours").success());
    assert!(rest.contains("there is no command `/nonsense`"), "the conversation goes on: {rest}");
    assert!(rest.len() < 4096, "the answer goes on for {} bytes", rest.len());
}

#[test]
fn bench_prints_its_stable_keys() {
    let args =
        ["bench", "--prompt-tokens=32", "--generate-tokens=4", "--batch=2", "--repeat=2", "--threads=1", "--json"];
    let report: Value = serde_json::from_str(&succeed(&args)).expect("one JSON object");
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s", "load_s"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {report}");
    }
    assert_eq!(report["decode_tokens_per_s_each"].as_array().map(Vec::len), Some(2));
    #[cfg(target_os = "linux")]
    assert!(report["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{report}");
}

#[test]
fn what_cannot_be_loaded_is_explained() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = |name: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(&path).expect("in a temporary folder");
        path
    };
    let check = |path: &Path, expected: &[&str]| {
        let message = fail(&["serve", "--port", "0", path.to_str().expect("ascii")].map(|arg| arg));
        for expected in expected {
            assert!(message.contains(expected), "no {expected} in:\n{message}");
        }
    };
    let tiny = |name: &str, config: &Value| {
        let path = folder(name);
        TinyCheckpoint::new(config.clone(), 1).write(&path, 2);
        path
    };
    check(&root.path().join("nothing"), &["there is no folder", "hub id"]);
    check(&folder("empty"), &["has no config.json; it is empty"]);

    let file = root.path().join("file");
    fs::write(&file, "text").expect("in a temporary folder");
    check(&file, &["is not a folder", "hint: give the folder that holds config.json"]);

    let unreadable = folder("unreadable");
    fs::create_dir(unreadable.join("config.json")).expect("in a temporary folder");
    check(&unreadable, &["cannot read", "config.json", "hint: check the disk"]);

    let qwen3 = tiny("qwen3", &qwen3_config());
    check(&qwen3, &["is a Qwen3 model, which is not supported yet", "hint: `cachalot inspect` works on it"]);

    let truncated = tiny("truncated", &v32_config());
    let shard = truncated.join("model-00002-of-000002.safetensors");
    let contents = fs::read(&shard).expect("just written");
    fs::write(&shard, &contents[..contents.len() / 2]).expect("in a temporary folder");
    check(&truncated, &["model-00002-of-000002.safetensors", "hint: the file was cut off or altered"]);

    let mismatched = tiny("mismatched", &v32_config());
    let untrained = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/untrained");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(untrained.join(name), mismatched.join(name)).expect("in a temporary folder");
    }
    check(
        &mismatched,
        &[
            "has 1010 tokens, but the model has only 320",
            "hint: tokenizer.json and config.json are of different models",
        ],
    );
}

#[test]
fn limits_that_cannot_be_met_are_explained() {
    let check = |args: &[&str], expected: &[&str]| {
        let message = fail(&[&["serve", "--port", "0"], args].concat());
        for expected in expected {
            assert!(message.contains(expected), "no {expected} in:\n{message}");
        }
    };
    check(&["--max-model-len", "1000000"], &["max_model_len is 1000000", "4096", "hint: lower --max-model-len"]);
    check(&["--kv-cache-bytes", "1000"], &["the KV cache has no blocks", "--kv-cache-bytes"]);
    check(
        &["--max-num-batched-tokens", "8", "--max-num-seqs", "64"],
        &["max_num_batched_tokens is 8, less than max_num_seqs 64"],
    );
    check(&["--log", "=,="], &["--log `=,=` cannot be read"]);
    check(&["--release", "V3.1", "--allowed-origin", "a\nb"], &["cannot be a header"]);
}

#[test]
fn wrong_usage_ends_with_status_2() {
    let check = |args: &[&str], expected: &str| {
        let output = run(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.contains(expected), "no {expected} in:\n{message}");
    };
    check(&["serve", "--nonsense"], "unexpected argument '--nonsense'");
    check(&["serve", "--device", "tpu"], "unknown device `tpu`; known: cpu, reference");
    check(&["serve", "--release", "V9"], "V3.2-Speciale");
    check(&["serve", "--kv-cache-bytes", "many"], "`many` is not a size");
    check(&["serve", "--threads", "0"], "--threads");
    check(&["serve", "--api-key", ""], "--api-key");
    check(&["generate", "--temperature", "3"], "`3` is not a number from 0 to 2");
    check(&["generate", "--temperature", "NaN"], "`NaN` is not a number from 0 to 2");
    check(&["generate", "--top-p", "0"], "`0` is not a number over 0 and up to 1");
    check(&["generate", "--thinking"], "--chat");
    check(&["bench", "--generate-tokens", "1"], "1 is not in 2..");
    check(&["pull", "nonsense"], "`nonsense` is not a hub id");
}

#[test]
fn a_model_without_a_tokenizer_serves_token_ids() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    TinyCheckpoint::new(v32_config(), 1).write(folder.path(), 1);
    let path = folder.path().to_str().expect("ascii");
    let server = Server::start(&[path]);
    assert!(server.banner.contains("unknown: there is no tokenizer"), "{}", server.banner);
    let body = json!({ "prompt": [5, 6, 7, 8], "max_tokens": 3, "ignore_eos": true });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(3)), "{answer}");

    let message = fail(&["generate", path, "--prompt", "text"]);
    assert!(message.contains("has no tokenizer.json, so it cannot read or write text"), "{message}");
}

/// The whole way, with default options: what transformers computed in f32 comes back over HTTP, within 1e-3 of its top five
/// log-probabilities on the reference device and 0.05 on the Cpu, and its greedy tokens wherever their margin is larger.
#[test]
fn served_golden_checkpoints_give_the_golden_values() {
    for (device, tolerance) in [("reference", 1e-3), ("cpu", 0.05)] {
        for case in ["v3-fp8", "v32-fp8", "v32-hf"] {
            let mut server =
                Server::start(&[golden::folder(case).to_str().expect("the path is text"), "--device", device]);
            for prompt in &Golden::read(case).expect("the fixture is committed").prompts {
                let (status, answer) = server.post(
                    "/v1/completions",
                    &json!({
                        "prompt": prompt.ids, "max_tokens": prompt.greedy.len(), "temperature": 0, "ignore_eos": true,
                        "echo": true, "logprobs": 5, "return_tokens_as_token_ids": true
                    }),
                );
                assert_eq!(status, 200, "{answer}");
                let logprobs = &answer["choices"][0]["logprobs"];
                for (position, row) in prompt.top.rows.iter().enumerate().take(prompt.ids.len() - 1) {
                    let top = logprobs["top_logprobs"][position + 1].as_object().expect("a map");
                    let lowest = top.values().filter_map(Value::as_f64).fold(0.0, f64::min);
                    for &(id, expected) in &row[..5] {
                        // A near-tie can swap the fifth for the sixth, which then differs by no more than the tolerance.
                        let found = top.get(&format!("token_id:{id}")).and_then(Value::as_f64).unwrap_or(lowest);
                        let off = (found - f64::from(expected)).abs();
                        assert!(off <= tolerance, "{case} on {device}, position {position}, token {id}: off by {off}");
                    }
                }
                for (index, step) in prompt.greedy.iter().enumerate() {
                    let token = &logprobs["tokens"][prompt.ids.len() + index];
                    if token == &json!(format!("token_id:{}", step.id)) {
                        continue;
                    }
                    let margin = step.margin;
                    assert!(
                        f64::from(margin) <= tolerance,
                        "{case} on {device}, step {index}: {token}, margin {margin}"
                    );
                    // After a tie that turned, the texts differ with reason.
                    break;
                }
            }
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0));
        }
    }
}

#[test]
fn completions_are_parsed_without_a_model() {
    let parse = |args: &[&str], completion: &str| {
        let mut child = cachalot(&[&["parse"], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("it is piped").write_all(completion.as_bytes()).expect("it is read");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).expect("a message is JSON")
    };
    let call = "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"k\" \
                string=\"true\">鲸</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls><｜end▁of▁sentence｜>";
    let message = json!({
        "role": "assistant", "content": "Look.", "reasoning_content": "why",
        "tool_calls": [{"index": 0, "id": "call_00", "type": "function", "function": {"name": "f", "arguments": "{\"k\": \"鲸\"}"}}],
    });
    for split in ["1", "2", "7", "1000"] {
        let args = ["--release", "V3.2", "--mode", "thinking", "--split", split];
        assert_eq!(parse(&args, &format!("why</think>Look.{call}")), message);
    }
    assert_eq!(parse(&["--release", "V3"], "<think>\n"), json!({"role": "assistant", "content": "<think>\n"}));
    let broken = parse(&["--release", "V3.2", "--mode", "chat"], "a\n\n<｜DSML｜invoke name=\"f<｜end▁of▁sentence｜>");
    assert_eq!(broken["error"]["type"], "malformed_tool_call", "{broken}");
}
