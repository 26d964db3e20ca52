//! Work that may take long on long texts, kept off the threads that serve sockets.

use crate::error::ApiError;

/// Runs `work` (tokenizing, rendering a template) on a thread that may block.
///
/// # Errors
/// What `work` returns, or 500 if it panicked.
pub(crate) async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ApiError::internal(format!("The request could not be encoded: {error}"))))
}
