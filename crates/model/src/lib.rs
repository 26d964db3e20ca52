//! DeepSeek V3 and V3.2, written once as calls to `cachalot-ops`.
//!
//! The engine talks to a model through [`LanguageModel`] and [`Batch`]; it never sees a tensor.

#![forbid(unsafe_code)]

mod batch;
mod language_model;

pub use batch::{BLOCK_SIZE, Batch};
pub use language_model::{Error, LanguageModel, Result};
