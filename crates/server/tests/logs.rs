//! What is in the log about requests, and what never is.
//!
//! The subscriber belongs to the process, so this is one test.

mod common;

use std::io;
use std::sync::Mutex;

use axum::http::StatusCode;
use common::{ScriptedModel, Setup};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::filter::LevelFilter;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a request over a socket, and reads the answer.
async fn send(address: std::net::SocketAddr, path: &str, body: &Value) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-request-id: id-of{}\r\n\
         authorization: Bearer hidden-key\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        path.replace('/', "-"),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_of_each_request_and_never_its_text() {
    tracing_subscriber::fmt().json().with_max_level(LevelFilter::TRACE).with_writer(|| Lines).init();
    let mut model = ScriptedModel::saying("the whispered answer");
    model.breaks_after = Some(200);
    let mut setup = Setup::new(model);
    setup.server.api_keys = vec!["hidden-key".into()];
    let server = setup.start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(cachalot_server::serve(listener, server.state.clone(), std::future::pending()));

    let messages = json!([{"role": "system", "content": "whispered instructions"}, {"role": "user", "content": "a whispered prompt"}]);
    let tools = json!([{"type": "function", "function": {"name": "f", "description": "a whispered tool"}}]);
    let requests = [
        ("/v1/chat/completions", json!({"messages": messages, "tools": tools, "user_id": "whispered-user"})),
        ("/v1/chat/completions", json!({"messages": messages, "stream": true, "stop": ["red"]})),
        ("/v1/completions", json!({"prompt": "a whispered prompt\n", "echo": true, "cache_salt": "whispered-salt"})),
        ("/v1/responses", json!({"input": "a whispered prompt", "thinking": {"type": "enabled"}})),
        ("/v1/messages", json!({"messages": [{"role": "user", "content": "a whispered prompt"}], "max_tokens": 30})),
        ("/v1/tokenize", json!({"prompt": "a whispered prompt"})),
        // Refused.
        ("/v1/chat/completions", json!({"messages": messages, "temperature": 9})),
        ("/v1/chat/completions", json!({"messages": "whispered"})),
    ];
    for (path, body) in &requests {
        let answer = send(address, path, body).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
    }
    // Failed.
    let body = json!({"prompt": "a whispered prompt\n", "max_tokens": 1000, "ignore_eos": true});
    let answer = send(address, "/v1/completions", &body).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {}", StatusCode::INTERNAL_SERVER_ERROR)), "{answer}");

    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    for secret in ["whisper", "hidden-key"] {
        let told: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{secret}: {told:#?}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |message: &str, id: &str| -> Vec<&Value> {
        let fields = lines.iter().map(|line| &line["fields"]);
        fields.filter(|fields| fields["message"] == message && fields["request_id"] == id).collect()
    };
    for (path, status) in
        [("-v1-chat-completions", 200), ("-v1-responses", 200), ("-v1-messages", 200), ("-v1-completions", 200)]
    {
        let id = format!("id-of{path}");
        let ended = with("request ended", &id);
        assert!(!ended.is_empty(), "no line about {id}");
        assert_eq!(ended[0]["status"], status, "{id}: {}", ended[0]);
        assert!(ended[0]["num_prompt_tokens"].as_u64().unwrap() > 10, "{}", ended[0]);
        assert!(ended[0]["num_generated_tokens"].as_u64().unwrap() > 10, "{}", ended[0]);
        assert!(ended[0]["total_s"].as_f64().unwrap() >= ended[0]["first_output_s"].as_f64().unwrap(), "{}", ended[0]);
        assert!(!with("answered", &id).is_empty(), "{id}");
    }
    // Two were refused before there was anything to compute.
    assert_eq!(with("answered", "id-of-v1-chat-completions").len(), 4);
    assert_eq!(with("request ended", "id-of-v1-chat-completions").len(), 2);
    let failed = with("request ended", "id-of-v1-completions");
    assert_eq!((&failed[1]["status"], &failed[1]["error"]), (&json!(500), &json!("engine_fault")), "{}", failed[1]);
}
