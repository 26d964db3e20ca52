//! Continuous batching: token ids in, token ids out.
//!
//! [`Engine`] (to be written) owns the step loop on a thread of its own; [`EngineHandle`] submits requests to it.

#![forbid(unsafe_code)]

mod request;

pub use request::*;
