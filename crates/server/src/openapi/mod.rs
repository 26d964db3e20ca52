//! `GET /openapi.json`: what there is to ask for, for programs that read such things.
//!
//! The document is written by hand. The tests hold it against the list of routes, against every field and every variant that the
//! wire types read, and its examples against the handlers; so it cannot say less or more than the server does.

#[cfg(test)]
mod tests;

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
