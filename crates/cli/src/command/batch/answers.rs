//! What is done about each answer: it is written down and counted.

use anyhow::{Context, anyhow};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinError;

use super::ask::Reply;
use super::board::{Board, Usage};
use super::item::Refusal;
use super::output::{Answer, Output, Response};
use crate::hint::ResultExt;
use crate::say::say;

/// Whatever ended a batch.
const GOES_ON: &str = "run the same command again: it goes on with the requests that have no answer yet";

/// The output, and what is shown of it.
pub(super) struct Answers {
    pub(super) output: Output,
    pub(super) board: Board,
}

/// What is looked at in the body of an answer.
#[derive(Deserialize)]
struct Body {
    usage: Option<Usage>,
    error: Option<Error>,
}

#[derive(Deserialize)]
struct Error {
    #[serde(default)]
    message: String,
}

impl Answers {
    /// Writes why a line of the input was not asked.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn refuse(&mut self, custom_id: Option<&str>, refusal: &Refusal) -> anyhow::Result<()> {
        self.append(&Answer::new(custom_id, Err(refusal)))?;
        self.board.count_failed();
        Ok(())
    }

    /// Writes what became of the request in this line of the input.
    ///
    /// # Errors
    /// If it cannot be written, or the engine takes no more requests.
    pub(super) fn write(
        &mut self,
        custom_id: Option<&str>,
        line: u64,
        reply: Result<anyhow::Result<Reply>, JoinError>,
    ) -> anyhow::Result<()> {
        let Ok(reply) = reply else {
            let message = "The request ended in a panic, which is a fault of this program".to_owned();
            return self.refuse(custom_id, &Refusal { code: "internal_error", message, line });
        };
        let Reply { status, request_id, body } = reply?;
        let looked_at = || format!("the server answered line {line} with {status} and something that is not JSON");
        let Body { usage, error } = serde_json::from_slice(&body).with_context(looked_at)?;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // It says nothing about the request, which another run can answer.
            let message = error.map(|error| error.message).unwrap_or_default();
            return Err(anyhow!(message))
                .with_context(|| format!("the engine takes no more requests; {}", self.stopped()))
                .hint(GOES_ON);
        }
        let body: &RawValue = serde_json::from_slice(&body).with_context(looked_at)?;
        let response = Response { status_code: status.as_u16(), request_id: &request_id, body };
        self.append(&Answer::new(custom_id, Ok(response)))?;
        if status.is_success() {
            self.board.count_good(usage.unwrap_or_default());
        } else {
            self.board.count_failed();
        }
        Ok(())
    }

    fn append(&mut self, answer: &Answer) -> anyhow::Result<()> {
        self.output
            .append(answer)
            .with_context(|| self.unwritten())
            .hint(format!("make room on the disk, and {GOES_ON}"))
    }

    fn unwritten(&self) -> String {
        format!("cannot write to {}; {}", self.output.path().display(), self.stopped())
    }

    fn stopped(&self) -> String {
        format!("{} of {} requests are answered", self.board.num_answered(), self.board.num_requests())
    }

    /// Says what has been done, and makes sure that it is on the disk.
    ///
    /// # Errors
    /// That of `outcome`; or if the disk fails, or some requests have no answer.
    pub(super) fn close(self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        self.board.clear();
        say(&self.board.summary());
        outcome?;
        self.output.sync().with_context(|| self.unwritten()).hint(format!("look at the disk, and {GOES_ON}"))?;
        if self.board.num_answered() < self.board.num_requests() {
            return Err(anyhow!("stopped by a signal; {}", self.stopped())).hint(GOES_ON);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::*;

    fn reply(status: u16, body: &'static str) -> Reply {
        let status = StatusCode::from_u16(status).unwrap();
        Reply { status, request_id: "name".to_owned(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[tokio::test]
    async fn only_what_is_said_about_a_request_is_its_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut answers = Answers { output: Output::open(&path).unwrap(), board: Board::start(0, 5) };
        let good = r#"{"usage":{"input_tokens":2,"output_tokens":3,"total_tokens":5},"error":null}"#;
        answers.write(Some("good"), 1, Ok(Ok(reply(200, good)))).unwrap();
        answers.write(Some("bad"), 2, Ok(Ok(reply(400, r#"{"error":{"message":"no"}}"#)))).unwrap();
        answers.write(Some("failed"), 3, Ok(Ok(reply(500, "{}")))).unwrap();
        let panicked = tokio::spawn(async { panic!("as the test wants it") }).await;
        answers.write(Some("panicked"), 4, panicked).unwrap();
        let gone =
            answers.write(Some("gone"), 5, Ok(Ok(reply(503, r#"{"error":{"message":"it broke"}}"#)))).unwrap_err();
        let gone: Vec<String> = gone.chain().map(ToString::to_string).collect();
        assert_eq!(gone, ["the engine takes no more requests; 4 of 5 requests are answered", "it broke"]);
        let summary = answers.board.summary();
        assert!(summary.starts_with("5 requests: 1 answered, 3 failed\n2 prompt tokens and 3 generated"), "{summary}");

        let written = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = |line: &Value| {
            let status = line["response"]["status_code"].as_u64();
            (line["custom_id"].as_str().unwrap().to_owned(), status, line["error"]["code"].as_str().map(str::to_owned))
        };
        let expected = [
            ("good", Some(200), None),
            ("bad", Some(400), None),
            ("failed", Some(500), None),
            ("panicked", None, Some("internal_error")),
        ];
        let expected = expected.map(|(id, status, code)| (id.to_owned(), status, code.map(str::to_owned)));
        assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
        assert!(written.contains(&format!(r#""body":{good}}},"error":null"#)), "{written}");
    }
}
