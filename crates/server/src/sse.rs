//! Server-sent events.
//!
//! A stream is a body whose frames hold as many events as were ready: one event per token by contract, but one write per wake-up.
//! All that does not change between the chunks of a stream is written once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::generation::{Generation, Output};
use crate::state::AppState;
use crate::wire::usage::Usage;

/// A frame is handed on when it has grown past this; what is still ready goes into the next one.
const FRAME_BYTES: usize = 32 << 10;

/// Turns what a generation yields into events. What is given here is how OpenAI's and DeepSeek's APIs do it.
pub(crate) trait WriteChunks: Unpin + Send + 'static {
    /// Appends the events for one output of choice `index`. `usage` is there with the last output of the last choice.
    fn write(&mut self, index: usize, output: Output, usage: Option<&Usage>, frame: &mut Vec<u8>);

    /// Appends what ends a stream.
    fn end(&mut self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// Appends what ends a stream that fails. The status has been sent; the error is an event.
    fn fail(&mut self, error: &ApiError, frame: &mut Vec<u8>) {
        frame.extend_from_slice(b"data: ");
        write_json(frame, &error.body());
        frame.extend_from_slice(b"\n\n");
    }

    /// Appends what shows that the stream is alive.
    fn keep_alive(&mut self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(b": keep-alive\n\n");
    }
}

/// Answers with the events of a generation. Dropping the body, as hyper does when the client is gone, cancels it.
///
/// The status is held back until there is something to say, be it that the client should go on waiting: a request that fails
/// before that gets a status that tells it, so that clients try again by themselves.
///
/// # Errors
/// If the request fails before its first output.
pub(crate) async fn respond(
    state: &AppState,
    mut generation: Generation,
    writer: impl WriteChunks,
) -> Result<Response, ApiError> {
    let keep_alive_interval = state.config().keep_alive_interval;
    let first = match tokio::time::timeout(keep_alive_interval, generation.next()).await {
        Ok(first) => first.transpose()?,
        Err(_) => None,
    };
    // Who has waited for nothing is told so at once.
    let silence = if first.is_some() { keep_alive_interval } else { Duration::ZERO };
    let events =
        Events { generation, writer, first, silence: Box::pin(sleep(silence)), keep_alive_interval, done: false };
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise gather the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Events<W> {
    generation: Generation,
    writer: W,
    /// What came before the answer began.
    first: Option<(usize, Output)>,
    silence: Pin<Box<Sleep>>,
    keep_alive_interval: Duration,
    done: bool,
}

impl<W: WriteChunks> Stream for Events<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        let mut frame = Vec::new();
        while frame.len() < FRAME_BYTES && !this.done {
            let next = match this.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None => this.generation.poll_next(context),
            };
            match next {
                Poll::Ready(Some(Ok((index, output)))) => {
                    let usage = this.generation.is_finished().then(|| this.generation.usage());
                    this.writer.write(index, output, usage.as_ref(), &mut frame);
                }
                Poll::Ready(Some(Err(error))) => {
                    this.writer.fail(&error, &mut frame);
                    this.done = true;
                }
                Poll::Ready(None) => {
                    this.writer.end(&mut frame);
                    this.done = true;
                }
                Poll::Pending => break,
            }
        }
        if frame.is_empty() {
            if this.silence.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            this.writer.keep_alive(&mut frame);
        }
        let next = Instant::now() + this.keep_alive_interval;
        this.silence.as_mut().reset(next);
        Poll::Ready(Some(Ok(Bytes::from(frame))))
    }
}

/// Appends a value as JSON.
pub(crate) fn write_json(frame: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(frame, value)
        .expect("writing to memory does not fail, and the keys of wire types are strings");
}

/// Writes the chunks of one stream.
pub(crate) struct ChunkWriter {
    /// From `data: ` to `"index":`.
    head: Vec<u8>,
    include_usage: bool,
}

impl ChunkWriter {
    pub(crate) fn new(answer: &Answer, object: &'static str, include_usage: bool) -> Self {
        #[derive(Serialize)]
        struct Head<'a> {
            id: &'a str,
            object: &'static str,
            created: u64,
            model: &'a str,
            system_fingerprint: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            service_tier: Option<&'static str>,
        }
        let Answer { id, created, model, system_fingerprint, service_tier } = answer;
        let mut head = b"data: ".to_vec();
        write_json(
            &mut head,
            &Head { id, object, created: *created, model, system_fingerprint, service_tier: *service_tier },
        );
        head.pop();
        head.extend_from_slice(br#","choices":[{"index":"#);
        ChunkWriter { head, include_usage }
    }

    /// Appends one chunk for choice `index`; `payload` writes the members between `index` and `logprobs`, commas between them.
    pub(crate) fn chunk(
        &self,
        frame: &mut Vec<u8>,
        index: usize,
        payload: impl FnOnce(&mut Vec<u8>),
        logprobs: Option<&impl Serialize>,
        finish_reason: Option<&'static str>,
        usage: Option<&Usage>,
    ) {
        frame.extend_from_slice(&self.head);
        write_json(frame, &index);
        frame.push(b',');
        payload(frame);
        frame.extend_from_slice(br#","logprobs":"#);
        match logprobs {
            Some(logprobs) => write_json(frame, logprobs),
            None => frame.extend_from_slice(b"null"),
        }
        frame.extend_from_slice(br#","finish_reason":"#);
        match finish_reason {
            Some(reason) => write_json(frame, reason),
            None => frame.extend_from_slice(b"null"),
        }
        frame.extend_from_slice(b"}]");
        // The last chunk tells the usage in any case, as the hosted API does it; nobody is the worse for knowing it.
        if self.include_usage || usage.is_some() {
            frame.extend_from_slice(br#","usage":"#);
            write_json(frame, &usage);
        }
        frame.extend_from_slice(b"}\n\n");
    }
}
