//! What the tests and benches of several crates share: inputs that are the same on every machine ([`Random`]),
//! comparisons that say where results differ ([`assert_close`]), tiny checkpoints ([`TinyCheckpoint`]), and what another
//! implementation computed ([`golden`], [`drafts`]).
//!
//! ```
//! use cachalot_testkit::{Random, Tolerance, assert_close};
//!
//! let x = Random::new(1).values(6);
//! let rounded: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
//! assert_close(&rounded, &x, [2, 3], Tolerance { abs: 0.0, rel: 1.0 / 256.0, cosine: 1e-5 });
//! ```

#![forbid(unsafe_code)]

mod checkpoint;
mod compare;
pub mod drafts;
pub mod golden;
mod random;

pub use checkpoint::{TinyCheckpoint, TinyTensor, qwen3_config, v3_config, v32_config, with_fp8};
pub use compare::{Tolerance, assert_close, assert_same_bits};
pub use random::Random;
