//! How many tokens a second the server streams when the model costs nothing.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cachalot_engine::{Engine, EngineConfig, KvCacheSize, NoopModel};
use cachalot_prompt::Prompt;
use cachalot_server::{Served, ServerConfig, serve};
use common::{EOS, VOCAB_SIZE, loading, prompt_files};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NUM_STREAMS: usize = 64;
const TOKENS_PER_STREAM: usize = 4000;

/// Far below what an idle machine does, so that a busy one passes; the printed figure is the one to look at.
const FLOOR_TOKENS_PER_S: f64 = 20_000.0;

/// Streams one chat answer, and returns the number of its events.
async fn stream(address: SocketAddr) -> usize {
    let body = format!(
        r#"{{"messages": [{{"role": "user", "content": "hi"}}], "stream": true, "temperature": 0, "max_tokens": {TOKENS_PER_STREAM}}}"#
    );
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut num_events = 0;
    let mut last = 0;
    loop {
        let len = socket.read(&mut buffer).await.unwrap();
        if len == 0 {
            return num_events;
        }
        // JSON has no bare newlines, and chunked encoding sets its own apart with carriage returns.
        for &byte in &buffer[..len] {
            num_events += usize::from(byte == b'\n' && last == b'\n');
            last = byte;
        }
    }
}

#[test]
fn stream_throughput() {
    let model = NoopModel {
        vocab_size: VOCAB_SIZE,
        max_model_len: TOKENS_PER_STREAM + 64,
        token_id: u32::from(b'a'),
        step_time: Duration::ZERO,
    };
    let kv_cache = KvCacheSize::Blocks(NUM_STREAMS * (TOKENS_PER_STREAM / 64 + 2));
    let engine =
        Engine::start(Box::new(model), EngineConfig { max_num_seqs: NUM_STREAMS, kv_cache, ..EngineConfig::default() })
            .unwrap();
    let state = loading(ServerConfig::default());
    let prompt = Arc::new(Prompt::open(&prompt_files(), None).unwrap());
    state.publish(Served { model_name: "noop".to_owned(), engine, prompt: Some(prompt), eos_token_ids: vec![EOS] });

    let server = tokio::runtime::Runtime::new().unwrap();
    let listener = server.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    server.spawn(serve(listener, state, std::future::pending()));

    // The client has a thread of its own, and does as little as it can.
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Instant::now();
    let num_events = client.block_on(async {
        let streams: Vec<_> = (0..NUM_STREAMS).map(|_| tokio::spawn(stream(address))).collect();
        let mut num_events = Vec::new();
        for stream in streams {
            num_events.push(stream.await.unwrap());
        }
        num_events
    });
    let elapsed = start.elapsed().as_secs_f64();
    // One event per token, and one each for the role, the end and `[DONE]`.
    assert_eq!(num_events, [TOKENS_PER_STREAM + 3; NUM_STREAMS]);
    let tokens_per_s = (NUM_STREAMS * TOKENS_PER_STREAM) as f64 / elapsed;
    // The figure is what this test is for; the test harness shows it with --no-capture.
    #[allow(clippy::print_stdout)]
    {
        println!("{NUM_STREAMS} streams over loopback: {tokens_per_s:.0} tokens/s");
    }
    assert!(tokens_per_s > FLOOR_TOKENS_PER_S, "{tokens_per_s:.0} tokens/s, expected more than {FLOOR_TOKENS_PER_S}");
}
