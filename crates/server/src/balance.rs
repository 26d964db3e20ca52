//! `GET /user/balance`: what pages that show a balance, and clients that look before they ask, get to see.

use axum::http::header;
use axum::response::IntoResponse;

/// Nothing is paid for here, so the balance is the same for everyone, and never used up. Amounts are strings, as on the hosted
/// API.
const BALANCE: &str = r#"{"is_available":true,"balance_infos":[{"currency":"USD","total_balance":"1000000.00","granted_balance":"1000000.00","topped_up_balance":"0.00"}]}"#;

pub(crate) async fn balance() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], BALANCE)
}
