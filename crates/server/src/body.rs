//! Reading a JSON body: size, content type, syntax, types; each refusal says what and where.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::ApiError;
use crate::state::AppState;

/// How much of a refused body is still read, as a multiple of the limit, and for how long. A client that is busy writing does
/// not look for an answer; closing the connection under it would lose the 413.
const DRAIN_FACTOR: usize = 8;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes of a request whose content type allows JSON, not larger than the limit.
#[derive(Clone, Debug)]
pub(crate) struct JsonBytes(Bytes);

impl FromRequest<AppState> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_content_type(&request)?;
        Ok(JsonBytes(read_limited(request.into_body(), state.config().max_body_bytes).await?))
    }
}

impl JsonBytes {
    /// Reads the body as `T`; keys that `T` does not name are ignored.
    ///
    /// A body can be read as several types in turn. The requests share their sampling fields that way: serde's `flatten` would
    /// buffer every value, and cannot buffer numbers of arbitrary precision.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if self.0.is_empty() {
            return Err(ApiError::invalid("The request body is empty; a JSON object is expected"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&self.0);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            self.json_error(error.inner(), (path != ".").then_some(path))
        })?;
        deserializer.end().map_err(|error| self.json_error(&error, None))?;
        Ok(value)
    }

    /// Tells malformed JSON from JSON of the wrong shape. The second kind is worded as the hosted API words it, because clients
    /// show that text to people and some match on it.
    fn json_error(&self, error: &serde_json::Error, path: Option<String>) -> ApiError {
        // serde_json calls some shapes it does not expect a syntax error; only a second look tells.
        let is_malformed = !error.is_data() && serde_json::from_slice::<IgnoredAny>(&self.0).is_err();
        if is_malformed {
            let hint = if self.has_non_finite_literal_at(error) { " (NaN and Infinity are not JSON)" } else { "" };
            return ApiError::invalid(format!("The request body is not valid JSON: {error}{hint}"));
        }
        let at = path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
        let error = ApiError::invalid(format!("Failed to deserialize the JSON body into the target type: {at}{error}"));
        match path {
            Some(path) => error.with_param(path),
            None => error,
        }
    }

    fn has_non_finite_literal_at(&self, error: &serde_json::Error) -> bool {
        let Some(line) = self.0.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)) else { return false };
        // serde_json counts columns from 1 and may stop on the literal's first byte, or after a minus sign.
        let start = error.column().saturating_sub(1).min(line.len());
        let rest = line[start..].strip_prefix(b"-").unwrap_or(&line[start..]);
        rest.starts_with(b"NaN") || rest.starts_with(b"Infinity")
    }
}

/// JSON types and an absent header pass. A form type is what `curl -d` sends when it is not told otherwise.
fn check_content_type(request: &Request) -> Result<(), ApiError> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let found = value.to_str().unwrap_or("(not text)");
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = matches!(essence.as_str(), "" | "application/json" | "text/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::unsupported_media_type(found)) }
}

async fn read_limited(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut frames = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| ApiError::invalid(format!("The request body could not be read: {error}")))?;
        if read.len() + frame.len() > limit {
            drop(read);
            // Whether the rest arrives in time changes nothing about the answer.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(frames, limit.saturating_mul(DRAIN_FACTOR))).await;
            return Err(ApiError::too_large(limit));
        }
        read.extend_from_slice(&frame);
    }
    Ok(read.freeze())
}

async fn drain(mut frames: BodyDataStream, mut budget: usize) {
    while let Some(Ok(frame)) = frames.next().await {
        match budget.checked_sub(frame.len()) {
            Some(rest) => budget = rest,
            None => return,
        }
    }
}
