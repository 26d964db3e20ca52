//! DeepSeek V3 and V3.2, written once as calls to `cachalot-ops`.
//!
//! The engine talks to a model through [`LanguageModel`] and [`Batch`]; it never sees a tensor. [`DeepseekV3`] is the model
//! of every release from V3 to V3.2-Speciale.

#![forbid(unsafe_code)]

mod batch;
mod deepseek_v3;
pub mod footprint;
mod language_model;
mod layer;
mod memory;
mod pages;
mod rotary;

pub use batch::{BLOCK_SIZE, Batch};
pub use deepseek_v3::{DeepseekV3, Options};
pub use language_model::{Error, HiddenStates, LanguageModel, Result};
pub use pages::Pages;
