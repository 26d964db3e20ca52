//! One line of the input: a request and its name, or what is wrong with it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::lines::Line;

/// What requests can be for. The rest of the API computes nothing that is worth a batch.
const ENDPOINTS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];

/// The longest line. The server takes bodies of so many bytes.
pub(super) const MAX_LINE_BYTES: u64 = 32 << 20;

/// A line of the input.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) line: u64,
    /// `None` if the line does not tell, which it is refused for.
    pub(super) custom_id: Option<String>,
    pub(super) request: Result<Request, Refusal>,
}

/// What the server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) url: &'static str,
    pub(super) body: Bytes,
}

/// Why a line is no request. It is the `error` of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) line: u64,
}

impl Item {
    /// Reads a line.
    pub(super) fn read(line: Line) -> Self {
        let number = line.number;
        let custom_id = custom_id(&line);
        let request = request(&line).map_err(|(code, message)| Refusal { code, message, line: number });
        Item { line: number, custom_id, request }
    }
}

/// What an input line is called, if it tells. Nothing else of the line is looked at, as long as it is JSON.
pub(super) fn custom_id(line: &Line) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        custom_id: String,
    }
    let text = line.text.as_deref().filter(|text| is_object(text))?;
    serde_json::from_slice::<Named>(text).ok().map(|named| named.custom_id)
}

/// To serde an array is as good as an object.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

fn request(line: &Line) -> Result<Request, (&'static str, String)> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(rename = "custom_id")]
        _custom_id: String,
        method: String,
        url: String,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Streaming {
        stream: bool,
    }
    let Some(text) = &line.text else {
        return Err(("line_too_long", format!("The line has more than {MAX_LINE_BYTES} bytes")));
    };
    if !is_object(text) {
        return Err(("invalid_line", "The line is not a JSON object".to_owned()));
    }
    let fields: Fields = serde_json::from_slice(text).map_err(|error| {
        // A line of the input is always line 1 to the parser.
        let error = error.to_string().replace(" at line 1 column ", " at column ");
        ("invalid_line", format!("The line is not a request with custom_id, method, url and body: {error}"))
    })?;
    if fields.method != "POST" {
        return Err(("invalid_method", format!("The method is `{}`; only POST is supported", fields.method)));
    }
    let Some(url) = ENDPOINTS.into_iter().find(|url| *url == fields.url) else {
        return Err(("invalid_url", format!("The url is `{}`; supported are {}", fields.url, ENDPOINTS.join(", "))));
    };
    // What else is wrong with a body the server says better.
    let body = fields.body.get().as_bytes();
    if is_object(body) && serde_json::from_slice(body).is_ok_and(|Streaming { stream }| stream) {
        return Err(("stream_not_supported", "A batch cannot stream: leave `stream` out of the body".to_owned()));
    }
    Ok(Request { url, body: Bytes::copy_from_slice(body) })
}

/// A line among millions: a hash of its `custom_id`, or of its number if it has none. With 128 bits of SHA-256 no two are the
/// same, not even on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    pub(super) fn new(custom_id: Option<&str>, line: u64) -> Self {
        let hash = match custom_id {
            Some(custom_id) => Sha256::new().chain_update("id ").chain_update(custom_id).finalize(),
            None => Sha256::new().chain_update("line ").chain_update(line.to_le_bytes()).finalize(),
        };
        let (head, _) = hash.split_first_chunk().expect("the hash has 32 bytes");
        Key(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Item {
        Item::read(Line { number: 7, text: Some(text.to_vec()), has_newline: true, num_bytes: text.len() as u64 })
    }

    #[test]
    fn a_body_is_handed_on_as_it_stands() {
        let item = read(
            br#"{"body": {"b": 1e400, "a":[ 1.0 ]}, "url": "/v1/completions", "method": "POST", "custom_id": "x", "more": 1}"#,
        );
        assert_eq!(item.custom_id.as_deref(), Some("x"));
        let body = Bytes::from_static(br#"{"b": 1e400, "a":[ 1.0 ]}"#);
        assert_eq!(item.request, Ok(Request { url: "/v1/completions", body }));
    }

    #[test]
    fn what_is_no_request_is_refused_under_its_name() {
        let check = |text: &[u8], custom_id: Option<&str>, code: &str, message: &str| {
            let shown = String::from_utf8_lossy(text);
            let item = read(text);
            assert_eq!(item.custom_id.as_deref(), custom_id, "{shown}");
            let refusal = item.request.expect_err(&shown);
            assert_eq!((refusal.code, refusal.line), (code, 7), "{shown}");
            assert!(refusal.message.contains(message), "{shown}: {}", refusal.message);
        };
        check(b"rubbish", None, "invalid_line", "is not a JSON object");
        check(br#"["x", "POST", "/v1/completions", {}]"#, None, "invalid_line", "is not a JSON object");
        check(b"{\"custom_id\": \"x\",", None, "invalid_line", "EOF while parsing a value at column 18");
        check(b"{}", None, "invalid_line", "missing field `custom_id`");
        check(br#"{"custom_id": 5}"#, None, "invalid_line", "expected a string at column 15");
        check(br#"{"custom_id": "x"}"#, Some("x"), "invalid_line", "missing field `method`");
        check(br#"{"custom_id": "x", "custom_id": "y"}"#, None, "invalid_line", "duplicate field `custom_id`");
        check(br#"{"custom_id": "x"} {}"#, None, "invalid_line", "missing field `method`");
        check(
            b"{\"custom_id\": \"x\", \"method\": \"POST\", \"url\": \"/v1/completions\", \"body\": \"\xff\"}",
            Some("x"),
            "invalid_line",
            "invalid unicode",
        );
        check(
            br#"{"custom_id": "x", "method": "POST", "url": "/v1/completions"}"#,
            Some("x"),
            "invalid_line",
            "`body`",
        );
        let line = |method: &str, url: &str, body: &str| {
            format!(r#"{{"custom_id": "x", "method": "{method}", "url": "{url}", "body": {body}}}"#).into_bytes()
        };
        check(&line("GET", ENDPOINTS[0], "{}"), Some("x"), "invalid_method", "`GET`");
        check(&line("POST", "/v1/embeddings", "{}"), Some("x"), "invalid_url", "/v1/chat/completions");
        check(&line("POST", ENDPOINTS[0], r#"{"stream": true}"#), Some("x"), "stream_not_supported", "stream");
        for body in [r#"{"stream": false}"#, r#"{"stream": null}"#, r#"{"stream": 1}"#, "{}", "5", "[true]"] {
            assert!(read(&line("POST", ENDPOINTS[0], body)).request.is_ok(), "{body}");
        }
        let too_long = Item::read(Line { number: 3, text: None, has_newline: true, num_bytes: 1 << 40 });
        assert_eq!(too_long.request.expect_err("it is too long").code, "line_too_long");
    }

    #[test]
    fn names_and_numbers_are_told_apart() {
        let keys = [Key::new(Some("1"), 1), Key::new(Some("2"), 1), Key::new(None, 1), Key::new(None, 2)];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{index}");
        }
        assert_eq!(Key::new(Some("1"), 1), Key::new(Some("1"), 2));
    }
}
