//! What no server should be sent, and what it has to say about it.

use crate::connection::post;
use crate::question::{CHAT, COMPLETIONS};

/// Something wrong, and the status that is right for it.
#[derive(Debug)]
pub(crate) struct Rubbish {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// `None` if the request never comes to its end, so that there is nothing to answer.
    pub(crate) status: Option<u16>,
}

/// How many kinds there are.
pub(crate) const NUM_KINDS: usize = 17;

/// One of a kind. A body of `too_many_bytes` is over the server's limit.
pub(crate) fn of_kind(kind: usize, too_many_bytes: usize) -> Rubbish {
    let (name, bytes, status) = match kind {
        0 => ("half a JSON object", post(CHAT, r#"{"messages": [{"role": "user""#), Some(400)),
        1 => ("no JSON", post(COMPLETIONS, "prompt=hello"), Some(400)),
        2 => ("an empty body", post(CHAT, ""), Some(400)),
        3 => ("a prompt of the wrong type", post(COMPLETIONS, r#"{"prompt": {"text": "hello"}}"#), Some(400)),
        4 => ("a negative max_tokens", post(COMPLETIONS, r#"{"prompt": "hello", "max_tokens": -1}"#), Some(400)),
        5 => ("a token that is none", post(COMPLETIONS, r#"{"prompt": [4294967295]}"#), Some(400)),
        6 => ("a temperature of text", post(CHAT, r#"{"messages": [], "temperature": "hot"}"#), Some(400)),
        7 => ("an unknown model", post(COMPLETIONS, r#"{"prompt": "hello", "model": "none"}"#), Some(400)),
        8 => ("deep nesting", post(CHAT, &format!(r#"{{"messages": {}"#, "[".repeat(50_000))), Some(400)),
        9 => ("a prompt beyond any context", post(COMPLETIONS, &long_prompt()), Some(400)),
        10 => ("another content type", with_header("POST", "content-type: image/png\r\n"), Some(415)),
        11 => ("a route that is none", post("/v1/nonsense", "{}"), Some(404)),
        12 => ("another method", with_header("DELETE", ""), Some(405)),
        13 => ("what is no HTTP", b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03 hello\r\n\r\n".to_vec(), Some(400)),
        14 => ("an endless header", with_header("POST", &format!("x-long: {}\r\n", "a".repeat(1 << 20))), Some(431)),
        15 => ("a body over the limit", post(CHAT, &"x".repeat(too_many_bytes)), Some(413)),
        _ => ("a body that does not come", with_header("POST", "content-length: 1000\r\n"), None),
    };
    Rubbish { name, bytes, status }
}

fn with_header(method: &str, header: &str) -> Vec<u8> {
    format!("{method} {COMPLETIONS} HTTP/1.1\r\nhost: load-test\r\nconnection: close\r\n{header}\r\n").into_bytes()
}

/// A prompt of token ids, which cost no time to count.
fn long_prompt() -> String {
    format!(r#"{{"prompt": [{}5]}}"#, "5,".repeat(300_000))
}
