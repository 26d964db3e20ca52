//! Keys, as OpenAI's clients send them (`Authorization: Bearer`) and as Anthropic's do (`x-api-key`).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::ApiError;
use crate::state::AppState;

/// The accepted keys, kept as digests: equal lengths compare in constant time, and no key lies in memory in the clear.
pub(crate) struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        ApiKeys(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// Whether `key` is one of them. Every key is compared, in constant time, whichever matches.
    fn accepts(&self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        self.0.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&digest)).into()
    }
}

/// Refuses requests without an accepted key, if the server asks for one.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = state.api_keys();
    if !keys.0.is_empty() {
        let sent = sent_keys(request.headers());
        let Some(key) = sent[0].or(sent[1]) else {
            return Err(ApiError::unauthorized(
                "Authentication Fails: no API key was sent; send the header `Authorization: Bearer <key>` or \
                 `x-api-key: <key>`",
            ));
        };
        if !sent.iter().flatten().any(|key| keys.accepts(key)) {
            // At most four characters, and never most of a short key.
            let num_hidden = key.chars().count().saturating_sub(4).max(key.chars().count().div_ceil(2));
            let shown: String = key.chars().skip(num_hidden).collect();
            return Err(ApiError::unauthorized(format!("Authentication Fails, Your api key: ****{shown} is invalid")));
        }
    }
    Ok(next.run(request).await)
}

/// The bearer token and the `x-api-key`. Claude Code may send both, of which one is for another server.
fn sent_keys(headers: &HeaderMap) -> [Option<&str>; 2] {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    [bearer, text(HeaderName::from_static("x-api-key")).map(str::trim)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_each_of_its_keys_and_nothing_else() {
        let keys = ApiKeys::new(&["first".to_owned(), "second".to_owned()]);
        for (key, accepted) in [("first", true), ("second", true), ("", false), ("firs", false), ("first ", false)] {
            assert_eq!(keys.accepts(key), accepted, "{key:?}");
        }
        assert!(!ApiKeys::new(&[]).accepts(""));
    }
}
