//! What every answer, whole or in chunks, says about itself.

use crate::models::unix_seconds;

/// The members that are the same in each chunk of an answer.
pub(crate) struct Answer {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// As the request named it.
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    /// The tier that the request is served in, if it named one.
    pub(crate) service_tier: Option<&'static str>,
}

impl Answer {
    pub(crate) fn new(model: &str, service_tier: Option<&'static str>) -> Self {
        Answer {
            id: uuid::Uuid::new_v4().to_string(),
            created: unix_seconds(),
            model: model.to_owned(),
            system_fingerprint: concat!("fp_cachalot_", env!("CARGO_PKG_VERSION")),
            service_tier,
        }
    }
}
