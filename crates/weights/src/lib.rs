//! config.json and safetensors to named, typed, validated tensors.

/// Stub until the crate is written.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
