//! A streamed answer, and the rules by which it ends exactly once.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// What an answer comes to. Two answers to the same question are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Each token, as `token_id:5` where ids were asked for; else each piece of text.
    pub(crate) tokens: Vec<Box<str>>,
    pub(crate) finish_reason: Option<Box<str>>,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With `[DONE]`.
    Done,
    /// With an error event, which says this.
    Error(String),
}

/// Takes the body of a stream in pieces.
#[derive(Debug, Default)]
pub(crate) struct AnswerReader {
    /// An event that has not come to its end.
    rest: Vec<u8>,
    pub(crate) answer: Answer,
    has_usage: bool,
    end: Option<End>,
}

impl AnswerReader {
    /// Reads a piece of the body.
    ///
    /// # Errors
    /// If it is not what may come now.
    pub(crate) fn push(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        let rest = std::mem::take(&mut self.rest);
        let mut rest = rest.as_slice();
        while let Some(at) = rest.windows(2).position(|window| window == b"\n\n") {
            self.event(&rest[..at])?;
            rest = &rest[at + 2..];
        }
        self.rest = rest.to_vec();
        Ok(())
    }

    /// The end of the body.
    ///
    /// # Errors
    /// If the answer has not ended.
    pub(crate) fn finish(self) -> anyhow::Result<(Answer, End)> {
        ensure!(self.rest.is_empty(), "the body ends within an event: {:?}", self.rest.escape_ascii().to_string());
        let end = self.end.context("the body ends without [DONE] and without an error")?;
        Ok((self.answer, end))
    }

    fn event(&mut self, event: &[u8]) -> anyhow::Result<()> {
        if event.starts_with(b":") {
            return Ok(());
        }
        let event = std::str::from_utf8(event)?;
        let data = event.strip_prefix("data: ").with_context(|| format!("an event without data: {event}"))?;
        ensure!(self.end.is_none(), "the answer goes on after its end: {data}");
        if data == "[DONE]" {
            ensure!(self.answer.finish_reason.is_some(), "[DONE] comes before a finish_reason");
            ensure!(self.has_usage, "[DONE] comes before the usage");
            self.end = Some(End::Done);
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data).with_context(|| format!("a chunk cannot be read: {data}"))?;
        if let Some(error) = chunk.error {
            self.end = Some(End::Error(error.message));
            return Ok(());
        }
        for choice in chunk.choices {
            ensure!(self.answer.finish_reason.is_none(), "a chunk follows the finish_reason: {data}");
            match (choice.logprobs, choice.text, choice.delta) {
                (Some(logprobs), ..) => self.answer.tokens.extend(logprobs.tokens),
                (None, Some(text), _) => self.push_text(Some(text)),
                (None, None, Some(delta)) => {
                    self.push_text(delta.reasoning_content);
                    self.push_text(delta.content);
                }
                (None, None, None) => bail!("a choice without text: {data}"),
            }
            self.answer.finish_reason = choice.finish_reason;
        }
        if let Some(usage) = chunk.usage {
            ensure!(!self.has_usage, "the usage comes twice: {data}");
            self.has_usage = true;
            self.answer.prompt_tokens = usage.prompt_tokens;
            self.answer.completion_tokens = usage.completion_tokens;
        }
        Ok(())
    }

    fn push_text(&mut self, text: Option<Box<str>>) {
        self.answer.tokens.extend(text.filter(|text| !text.is_empty()));
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<Box<str>>,
    delta: Option<Delta>,
    logprobs: Option<Logprobs>,
    finish_reason: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<Box<str>>,
    reasoning_content: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Logprobs {
    tokens: Vec<Box<str>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct Failure {
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> anyhow::Result<(Answer, End)> {
        let mut reader = AnswerReader::default();
        for byte in body.as_bytes() {
            reader.push(&[*byte])?;
        }
        reader.finish()
    }

    const TOKEN: &str = r#"data: {"choices":[{"text":"a","logprobs":{"tokens":["token_id:5"]},"finish_reason":null}]}"#;
    const DELTA: &str = r#"data: {"choices":[{"delta":{"content":"a\n"},"logprobs":null,"finish_reason":null}]}"#;
    const LAST: &str = r#"data: {"choices":[{"text":"","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    const ERROR: &str = r#"data: {"error":{"message":"no","type":"server_error","param":null,"code":"x"}}"#;
    const DONE: &str = "data: [DONE]";

    #[test]
    fn an_answer_is_its_tokens_its_reason_and_its_usage() {
        let (answer, end) =
            read(&format!("{TOKEN}\n\n: keep-alive\n\n{DELTA}\n\n{LAST}\n\n{DONE}\n\n")).expect("in order");
        let expected = Answer {
            tokens: vec!["token_id:5".into(), "a\n".into()],
            finish_reason: Some("length".into()),
            prompt_tokens: 3,
            completion_tokens: 2,
        };
        assert_eq!((answer, end), (expected, End::Done));
        let (_, end) = read(&format!("{TOKEN}\n\n{ERROR}\n\n")).expect("an error is an end");
        assert_eq!(end, End::Error("no".into()));
    }

    #[test]
    fn an_answer_that_ends_twice_or_never_is_found() {
        for (body, expected) in [
            (format!("{TOKEN}\n\n"), "without [DONE]"),
            (format!("{TOKEN}\n\n{LAST}\n\n"), "without [DONE]"),
            (format!("{TOKEN}\n\n{DONE}\n\n"), "before a finish_reason"),
            (format!("{LAST}\n\n{TOKEN}\n\n{DONE}\n\n"), "follows the finish_reason"),
            (format!("{LAST}\n\n{DONE}\n\n{DONE}\n\n"), "goes on after its end"),
            (format!("{LAST}\n\n{DONE}\n\n{ERROR}\n\n"), "goes on after its end"),
            (format!("{LAST}\n\n{DONE}"), "within an event"),
            (format!("{TOKEN}\n\nnonsense\n\n"), "without data"),
        ] {
            let message = read(&body).expect_err(&body).to_string();
            assert!(message.contains(expected), "{message} for {body}");
        }
    }
}
