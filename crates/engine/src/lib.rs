//! Continuous batching: token ids in, token ids out.
//!
//! [`Engine`] owns the step loop on a thread of its own; an [`EngineHandle`] submits a [`Request`] to it and gets an
//! [`EventStream`] back.
//!
//! ```no_run
//! # fn example(model: Box<dyn cachalot_model::LanguageModel>) -> Result<(), Box<dyn std::error::Error>> {
//! use cachalot_engine::{Engine, EngineConfig, Event, Request};
//!
//! let engine = Engine::start(model, EngineConfig::default())?;
//! let request = Request { prompt_ids: vec![1, 2, 3], ..Request::default() };
//! let mut stream = engine.submit(request)?;
//! let mut ids = Vec::new();
//! while let Some(event) = stream.blocking_recv() {
//!     if let Event::Token { id, .. } = event {
//!         ids.push(id);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod block;
mod block_hash;
mod candidates;
mod config;
mod constraint;
mod engine;
mod error;
mod forecast;
mod handle;
mod mailbox;
mod metrics;
mod noop;
mod pace;
mod panics;
mod random;
mod request;
mod row;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod stream;
mod token_mask;

pub use config::{EngineConfig, KvCacheSize, Limits, MAX_SPECULATIVE_TOKENS, MlaPrefill, OnFault, SpeculativeTokens};
pub use constraint::{Allowed, Constraint, ConstraintError, Progress};
pub use engine::Engine;
pub use error::{IntegrityError, StartError, SubmitError};
pub use handle::{EngineHandle, EngineStats, Health};
pub use noop::NoopModel;
pub use request::*;
pub use stream::EventStream;
pub use token_mask::TokenMask;
