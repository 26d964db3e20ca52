//! What only shows on a socket: clients that go away, read slowly or send too much, and the end of the server.

mod common;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use cachalot_engine::{EngineConfig, EngineHandle, KvCacheSize};
use cachalot_server::serve;
use common::{ScriptedModel, Setup};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    engine: EngineHandle,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

async fn run(setup: Setup) -> Running {
    let server = setup.start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    let task = tokio::spawn(serve(listener, server.state, shutdown));
    Running { address, engine: server.engine, stop, server: task }
}

/// A model that never ends by itself, and takes its time.
fn endless(step_time: Duration) -> ScriptedModel {
    let mut model = ScriptedModel::saying("abcdefgh");
    model.endless = true;
    model.step_time = step_time;
    model
}

fn request(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn send(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request(path, &body.to_string())).await.unwrap();
    stream
}

/// Status and body of an answer, read to its end.
async fn read(mut stream: TcpStream) -> (StatusCode, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let mut joined = String::new();
    let mut rest = body;
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk has its size first");
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (status, joined);
        }
        joined.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
}

/// The text of a streamed completion that ended in order.
fn streamed_text(body: &str) -> String {
    let mut events: Vec<&str> = body.split_terminator("\n\n").filter(|event| !event.starts_with(':')).collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    let text = |event: &str| -> String {
        let chunk: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        chunk["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    events.into_iter().map(text).collect()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_blocks() {
    let running = run(Setup::new(endless(Duration::from_millis(5)))).await;
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a\n", "max_tokens": 2000, "stream": true})),
        ("/v1/completions", json!({"prompt": "a\n", "max_tokens": 2000, "n": 3})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a"}], "stream": true})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a"}]})),
    ] {
        let stream = send(running.address, path, &body).await;
        let engine = &running.engine;
        eventually("running", || engine.stats().num_running > 0 && engine.stats().num_blocks_in_use > 0).await;
        drop(stream);
        eventually("freed", || engine.stats().num_running == 0 && engine.stats().num_blocks_in_use == 0).await;
        // Far fewer than were asked for: generation did end with the connection.
        assert!(engine.stats().num_generated_tokens < 2000, "{path} {body}");
    }
}

#[tokio::test]
async fn a_stop_string_frees_the_blocks_before_the_tokens_run_out() {
    let running = run(Setup::new(endless(Duration::from_millis(1)))).await;
    let body = json!({"prompt": "a\n", "max_tokens": 2000, "temperature": 0, "stop": "hab"});
    let (status, answer) = read(send(running.address, "/v1/completions", &body).await).await;
    assert_eq!(status, 200);
    assert!(answer.contains(r#""text":"abcdefg""#), "{answer}");
    eventually("freed", || running.engine.stats().num_blocks_in_use == 0).await;
    assert!(running.engine.stats().num_generated_tokens < 100);
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_loses_nothing() {
    const NUM_TOKENS: usize = 16_000;
    let mut model = endless(Duration::ZERO);
    model.max_model_len = 16_384;
    let mut setup = Setup::new(model);
    setup.engine = EngineConfig { kv_cache: KvCacheSize::Blocks(300), ..setup.engine };
    let running = run(setup).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(running.address).await.unwrap();
    // 20 likeliest tokens make chunks of 600 bytes: far more in sum than the sockets buffer.
    let body = json!({"prompt": "a\n", "max_tokens": NUM_TOKENS, "temperature": 0, "stream": true, "logprobs": 20});
    slow.write_all(&request("/v1/completions", &body.to_string())).await.unwrap();
    eventually("running", || running.engine.stats().num_running > 0).await;

    let body = json!({"prompt": "a\n", "max_tokens": 8, "temperature": 0});
    let (status, answer) = read(send(running.address, "/v1/completions", &body).await).await;
    assert_eq!(status, 200);
    assert!(answer.contains(r#""text":"abcdefgh""#), "{answer}");
    // The slow reader's tokens are generated and its blocks free before it has read a byte.
    eventually("generated", || running.engine.stats().num_blocks_in_use == 0).await;

    let (status, body) = read(slow).await;
    assert_eq!(status, 200);
    assert!(body.len() > 9_000_000, "{}", body.len());
    assert_eq!(streamed_text(&body), "abcdefgh".repeat(NUM_TOKENS / 8));
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_even_while_the_client_still_writes() {
    let mut setup = Setup::saying("hello");
    setup.server.max_body_bytes = 1 << 20;
    let running = run(setup).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request("/v1/completions", &"x".repeat(6 << 20))).await.unwrap();
    let (status, body) = read(stream).await;
    assert_eq!(status, 413);
    assert!(body.contains("larger than the limit of 1048576 bytes"), "{body}");
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let mut setup = Setup::new(endless(Duration::from_millis(300)));
    setup.server.keep_alive_interval = Duration::from_millis(50);
    let running = run(setup).await;
    let body = json!({"prompt": "a\n", "max_tokens": 2, "temperature": 0, "stream": true});
    let (status, body) = read(send(running.address, "/v1/completions", &body).await).await;
    assert_eq!(status, 200);
    assert!(body.starts_with(": keep-alive\n\n: keep-alive\n\n"), "{body}");
    assert_eq!(streamed_text(&body), "ab");
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish() {
    let running = run(Setup::new(endless(Duration::from_millis(5)))).await;
    let body = |stream: bool| json!({"prompt": "a\n", "max_tokens": 64, "temperature": 0, "stream": stream});
    let streamed = send(running.address, "/v1/completions", &body(true)).await;
    let whole = send(running.address, "/v1/completions", &body(false)).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    eventually("running", || running.engine.stats().num_running == 2).await;
    running.stop.send(()).unwrap();

    let (status, streamed) = read(streamed).await;
    assert_eq!((status, streamed_text(&streamed)), (StatusCode::OK, "abcdefgh".repeat(8)));
    let (status, whole) = read(whole).await;
    assert_eq!(status, 200);
    assert!(whole.contains(&"abcdefgh".repeat(8)), "{whole}");
    // A connection on which nothing is asked is closed.
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    running.server.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn shutdown_ends_what_takes_too_long_with_an_error() {
    let mut setup = Setup::new(endless(Duration::from_millis(5)));
    setup.server.shutdown_timeout = Duration::from_millis(100);
    let running = run(setup).await;
    let body = |stream: bool| json!({"prompt": "a\n", "max_tokens": 2000, "temperature": 0, "stream": stream});
    let streamed = send(running.address, "/v1/completions", &body(true)).await;
    let whole = send(running.address, "/v1/completions", &body(false)).await;
    eventually("running", || running.engine.stats().num_running == 2).await;
    let start = Instant::now();
    running.stop.send(()).unwrap();

    let (status, streamed) = read(streamed).await;
    assert_eq!(status, 200);
    let last = streamed.split_terminator("\n\n").last().unwrap();
    assert!(last.starts_with(r#"data: {"error":{"message":"The request failed: "#), "{last}");
    let (status, whole) = read(whole).await;
    assert_eq!(status, 503);
    assert!(whole.contains("The request failed: ") && whole.contains(r#""code":"stopping""#), "{whole}");
    running.server.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_reader_that_has_stalled() {
    let mut model = endless(Duration::ZERO);
    model.max_model_len = 16_384;
    let mut setup = Setup::new(model);
    setup.engine = EngineConfig { kv_cache: KvCacheSize::Blocks(300), ..setup.engine };
    let running = run(setup).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stalled = socket.connect(running.address).await.unwrap();
    let body = json!({"prompt": "a\n", "max_tokens": 16_000, "temperature": 0, "stream": true, "logprobs": 20});
    stalled.write_all(&request("/v1/completions", &body.to_string())).await.unwrap();
    eventually("generated", || running.engine.stats().num_generated_tokens >= 16_000).await;
    running.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), running.server).await.unwrap().unwrap().unwrap();
}
