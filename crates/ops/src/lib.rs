//! Every mathematical operation of the engine, one folder per operation.
//!
//! An operation is a function of a [`Context`] and one argument struct. It checks that the dimensions agree by name, then
//! dispatches on the context's [`Device`]: `reference.rs` is the definition (candle, f32), every other file is held
//! against it by the folder's `tests.rs`.
//!
//! Activations are f32. Weights stay as the checkpoint stores them and are decoded inside the operation.

mod context;
mod dims;
mod error;

pub mod cache_write;
pub mod embedding;
pub mod experts;
pub mod gate;
pub mod indexer;
pub mod layer_norm;
pub mod linear;
pub mod log_softmax;
pub mod mla;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

pub use cache_write::{CacheWrite, cache_write};
pub use context::{Context, Device};
pub use embedding::{Embedding, embedding};
pub use error::{Error, Result};
pub use experts::{Expert, Experts, experts};
pub use gate::{Gate, gate};
pub use indexer::{Indexer, NO_POSITION, indexer};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, linear};
pub use log_softmax::{LogSoftmax, log_softmax};
pub use mla::{Mla, PagedSeqs, mla_absorbed, mla_expanded};
pub use rms_norm::{RmsNorm, rms_norm};
pub use rope::{Rope, RopeLayout, rope};
pub use swiglu::{SwiGlu, swiglu};
