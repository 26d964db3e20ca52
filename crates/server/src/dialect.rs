//! Whose API a request speaks: what differs is the form of errors, wherever they come from.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::routes::PREFIXES;
use crate::sse::write_json;
use crate::wire::anthropic;

/// Anthropic's clients send it with each request, and no other client does.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// An API that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's, as DeepSeek speaks it.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Dialect {
    /// By the path. The list of models has the same one in both APIs; there Anthropic's version header tells.
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        let is_within = |path: &str, root: &str| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_of_models = |prefix: &&str| path.strip_prefix(*prefix).is_some_and(|path| is_within(path, "/models"));
        if is_within(path, "/anthropic") || is_within(path, "/v1/messages") {
            Dialect::Anthropic
        } else if PREFIXES.iter().any(is_of_models) {
            Self::of_headers(request.headers())
        } else {
            Dialect::OpenAi
        }
    }

    /// For the paths that both APIs have.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Self {
        if headers.contains_key(ANTHROPIC_VERSION) { Dialect::Anthropic } else { Dialect::OpenAi }
    }

    /// Appends the body of an error.
    pub(crate) fn write_error(self, error: &ApiError, body: &mut Vec<u8>) {
        match self {
            Dialect::OpenAi => write_json(body, &error.body()),
            Dialect::Anthropic => write_json(body, &anthropic::ErrorBody::new(error)),
        }
    }
}

/// Gives Anthropic's clients errors in the form that they expect.
///
/// Errors are made in many places, most of which serve every API. They leave what they know in the response, and here it is
/// written again.
pub(crate) async fn translate(request: Request, next: Next) -> Response {
    let dialect = Dialect::of(&request);
    let mut response = next.run(request).await;
    if dialect == Dialect::OpenAi {
        return response;
    }
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut body = Vec::new();
        dialect.write_error(&error, &mut body);
        // That of the first body.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        let cases = [
            ("/anthropic/v1/messages", false, Dialect::Anthropic),
            ("/anthropic/v1/messages?beta=true", false, Dialect::Anthropic),
            ("/anthropic", false, Dialect::Anthropic),
            ("/anthropical", false, Dialect::OpenAi),
            ("/v1/messages", false, Dialect::Anthropic),
            ("/v1/messages/count_tokens", false, Dialect::Anthropic),
            ("/v1/messages2", false, Dialect::OpenAi),
            ("/v1/models", false, Dialect::OpenAi),
            ("/v1/models", true, Dialect::Anthropic),
            ("/v1/models/deepseek-chat", true, Dialect::Anthropic),
            ("/models/deepseek-chat", true, Dialect::Anthropic),
            ("/v1/modelsets", true, Dialect::OpenAi),
            ("/v1/chat/completions", true, Dialect::OpenAi),
        ];
        for (uri, has_version, dialect) in cases {
            let mut request = Request::get(uri);
            if has_version {
                request = request.header(ANTHROPIC_VERSION, "2023-06-01");
            }
            assert_eq!(Dialect::of(&request.body(Body::empty()).unwrap()), dialect, "{uri} {has_version}");
        }
    }
}
