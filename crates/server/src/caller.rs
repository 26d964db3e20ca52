//! Who sends a request, as far as its handling depends on it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::auth::AcceptedKey;

/// What is known of a request beside its body.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The key that it came with; none if the server asks for none.
    pub(crate) key: Option<AcceptedKey>,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Caller { key: parts.extensions.get().copied() })
    }
}
