//! Keys, as OpenAI's clients send them (`Authorization: Bearer`) and as Anthropic's do (`x-api-key`).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::state::AppState;

/// The accepted keys, kept as digests: equal lengths compare in constant time, and no key lies in memory in the clear.
pub(crate) struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        ApiKeys(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// Which of them `key` is. Every key is compared, in constant time, whichever matches.
    fn position(&self, key: &str) -> Option<AcceptedKey> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let matches = self.0.iter().enumerate().filter(|(_, known)| known.ct_eq(&digest).into());
        matches.map(|(index, _)| AcceptedKey(index)).next_back()
    }
}

/// Which of the server's keys a request came with; an extension of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedKey(pub(crate) usize);

/// Refuses requests without an accepted key, if the server asks for one.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = state.api_keys();
    if !keys.0.is_empty() {
        let sent = sent_keys(request.headers());
        let Some(key) = sent[0].or(sent[1]) else {
            return Err(ApiError::unauthorized(
                "Authentication Fails (governor): no API key was sent; send the header `Authorization: Bearer <key>` or \
                 `x-api-key: <key>`",
            ));
        };
        let Some(accepted) = sent.iter().flatten().find_map(|key| keys.position(key)) else {
            // At most four characters, and never most of a short key.
            let num_hidden = key.chars().count().saturating_sub(4).max(key.chars().count().div_ceil(2));
            let shown: String = key.chars().skip(num_hidden).collect();
            return Err(ApiError::unauthorized(format!("Authentication Fails, Your api key: ****{shown} is invalid")));
        };
        request.extensions_mut().insert(accepted);
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
        for (key, index) in [("first", Some(0)), ("second", Some(1)), ("", None), ("firs", None), ("first ", None)] {
            assert_eq!(keys.position(key), index.map(AcceptedKey), "{key:?}");
        }
        assert_eq!(ApiKeys::new(&[]).position(""), None);
    }
}
