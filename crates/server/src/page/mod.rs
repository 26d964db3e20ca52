//! The chat page at `/`: static files that are part of the binary.
//!
//! The page is an API client like any other and has no rights of its own. It is served without a key, because a browser that
//! opens an address has none; the page asks for the key when the API does. Files come with an ETag of their content and are
//! asked for anew each time, so that a new binary never meets an old script.
//!
//! Left out on purpose: compression, which is not worth its code for one page on a local network, and names with hashes, which
//! would need a build step.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::error::ApiError;

#[derive(RustEmbed)]
#[folder = "src/page/assets"]
struct Assets;

const INDEX: &str = "index.html";

/// What the page may do: load its own files and talk to its own server. Text of a model ends up in this document, so nothing
/// inline runs, nothing foreign loads, and scripts cannot turn strings into markup even by mistake (trusted types).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// On every file: a script or style that is opened by itself gets no more rights than the page.
const FIXED_HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// `GET /`.
pub(crate) async fn index(headers: HeaderMap) -> Response {
    let file = Assets::get(INDEX).expect("the build embeds the folder that index.html is in");
    respond(INDEX, file, &headers)
}

/// `GET /assets/{name}`.
pub(crate) async fn asset(
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match Assets::get(&name) {
        Some(file) if name != INDEX => Ok(respond(&name, file, &headers)),
        _ => Err(ApiError::not_found(format!("There is no {method} {}; the chat page is at /", uri.path()))),
    }
}

fn respond(name: &str, file: EmbeddedFile, request: &HeaderMap) -> Response {
    let etag = etag(&file);
    let is_known = request.get(header::IF_NONE_MATCH).is_some_and(|known| matches(known, &etag));
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let content_type = [(header::CONTENT_TYPE, content_type(name))];
        (content_type, Bytes::from(file.data.into_owned())).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in FIXED_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, HeaderValue::try_from(etag).expect("hexadecimal digits in quotes are a header value"));
    response
}

/// Half of the content's SHA-256: far more than enough to tell versions of one file apart.
fn etag(file: &EmbeddedFile) -> String {
    let digits: String = file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// Whether `If-None-Match` names the tag. The comparison is the weak one, as HTTP asks: proxies that compress weaken tags.
fn matches(if_none_match: &HeaderValue, etag: &str) -> bool {
    let Ok(known) = if_none_match.to_str() else { return false };
    known.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asset_has_a_type_that_browsers_accept_with_nosniff() {
        for name in Assets::iter() {
            assert_ne!(content_type(&name), "application/octet-stream", "{name}");
        }
    }

    #[test]
    fn if_none_match_is_a_list_of_tags() {
        for (header, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(matches(&HeaderValue::from_static(header), "\"a\""), expected, "{header}");
        }
    }
}
