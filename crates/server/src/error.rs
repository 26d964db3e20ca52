//! One error type for every refusal, in the shape that OpenAI and DeepSeek clients read:
//! `{"error": {"message", "type", "param", "code"}}`. For Anthropic's clients `dialect` writes it again in theirs.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Why a request was refused or failed.
///
/// `kind` and `code` are stable strings that clients may match on; the message is for people.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, kind, code, param: None, message: message.into(), retry_after: None }
    }

    /// 400: the request can never succeed as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request_error", message)
    }

    /// 400: the value of one field is outside its range; in the words that the hosted API uses.
    pub(crate) fn range(param: &str, range: impl std::fmt::Display) -> Self {
        ApiError::invalid(format!("Invalid {param} value, the valid range of {param} is {range}")).with_param(param)
    }

    /// 400: the prompt and the completion do not fit into the context.
    pub(crate) fn context_length(max_model_len: usize, num_prompt_tokens: usize, max_tokens: usize) -> Self {
        let requested = num_prompt_tokens + max_tokens;
        ApiError {
            code: "context_length_exceeded",
            ..ApiError::invalid(format!(
                "This model's maximum context length is {max_model_len} tokens. However, you requested {requested} tokens \
                 ({num_prompt_tokens} in the messages, {max_tokens} in the completion). Please reduce the length of the \
                 messages or completion."
            ))
        }
    }

    /// 400: the prompt alone leaves no room in the context. Anthropic's words: Claude Code makes room when it reads them.
    pub(crate) fn prompt_too_long(max_model_len: usize, num_prompt_tokens: usize) -> Self {
        let message = format!("prompt is too long: {num_prompt_tokens} tokens > {} maximum", max_model_len - 1);
        ApiError { code: "context_length_exceeded", ..ApiError::invalid(message) }
    }

    /// 401: the key is missing or wrong.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_request_error", message)
    }

    /// 404: no such path.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
    }

    /// 405: the path exists for another method.
    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 413: the body is larger than the server takes.
    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "request_too_large",
            format!("The request body is larger than the limit of {limit_bytes} bytes of this server"),
        )
    }

    /// 415: the body is declared to be something else than JSON.
    pub(crate) fn unsupported_media_type(found: &str) -> Self {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_media_type",
            format!("The content type is `{found}`; send `Content-Type: application/json`"),
        )
    }

    /// 429: the client starts more requests than it may.
    pub(crate) fn rate_limited(message: impl Into<String>, retry_after: Duration) -> Self {
        ApiError {
            retry_after: Some(retry_after),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message)
        }
    }

    /// 500: a fault of the server, not of the request.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// 500: the engine failed, and not because of this request.
    pub(crate) fn engine_fault(message: impl std::fmt::Display) -> Self {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "engine_fault",
            "engine_fault",
            format!(
                "The request failed: {message}. The fault is the server's and concerns everything that it computed at the time; \
                 the same request may succeed if it is sent again"
            ),
        )
    }

    /// 504: the time that the request may take is over.
    pub(crate) fn timed_out(message: impl std::fmt::Display) -> Self {
        ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout_error",
            "request_timeout",
            format!("The request failed: {message}"),
        )
    }

    /// 503: the same request may succeed later, or on another server.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        ApiError {
            retry_after: Some(retry_after),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", code, message)
        }
    }

    /// Names the field that is at fault.
    pub(crate) fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Gives the error a code of its own, which clients act on.
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer, also sent as the last event of a stream that fails after it began.
    pub(crate) fn body(&self) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'static str,
            param: Option<&'a str>,
            code: &'static str,
        }
        Body {
            error: Inner { message: &self.message, r#type: self.kind, param: self.param.as_deref(), code: self.code },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
