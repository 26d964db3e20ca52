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

pub use context::{Context, Device};
pub use error::{Error, Result};
