//! Every mathematical operation of the engine, one folder per operation.
//!
//! An operation is a function of a [`Context`] and one argument struct. It checks that the dimensions agree by name, then
//! dispatches on the context's [`Device`]: `reference.rs` is the definition (candle, f32), every other file is held
//! against it by the folder's `tests.rs`.
//!
//! Activations are f32. Weights stay as the checkpoint stores them and are decoded inside the operation.
//!
//! ```
//! use cachalot_ops::{Context, Device, Linear, linear};
//! use cachalot_tensor::{Matrix, Tensor, View, ViewMut};
//!
//! let ctx = Context::new(Device::Cpu, None)?;
//! let weight = Matrix::new(Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2])?, None)?;
//! let mut out = [0.0; 2];
//! linear(&ctx, Linear {
//!     x: View::from_slice(&[10.0f32, 1.0], [1, 2])?,
//!     weight: &weight,
//!     out: ViewMut::from_slice(&mut out, [1, 2])?,
//! })?;
//! assert_eq!(out, [12.0, 34.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod columns;
mod context;
mod device_args;
mod dims;
mod error;
#[cfg(all(test, feature = "cuda"))]
mod gpu_and_emulator;
mod order;
mod paged;
#[cfg(test)]
mod paged_case;
mod reference_util;
mod rows;
mod scratch;
mod simd;
#[cfg(all(test, feature = "cuda"))]
mod test_gpu;
#[cfg(test)]
mod test_util;

pub mod act_quant;
pub mod bf16_gemm;
pub mod cache_write;
pub mod embedding;
pub mod experts;
pub mod fp8_gemm;
pub mod gate;
pub mod indexer;
pub mod indexer_logits;
pub mod indexer_quant;
pub mod layer_norm;
pub mod linear;
pub mod log_softmax;
pub mod mla;
pub mod numerics;
pub mod rms_norm;
pub mod rope;
pub mod rope_cache_write;
pub mod sample;
pub mod swiglu;
pub mod top_k;

pub use act_quant::{ActQuant, ActQuantKernel, Quantised, ScaleFormat, act_quant};
pub use bf16_gemm::{Bf16BatchedGemm, Bf16Gemm, Bf16GemmKernels, WeightOrder, bf16_batched_gemm, bf16_gemm};
pub use cache_write::{CacheWrite, cache_write};
pub use context::{Context, Device};
pub use embedding::{Embedding, embedding};
pub use error::{Error, Result};
pub use experts::{Expert, Experts, experts};
pub use fp8_gemm::{Fp8Gemm, Fp8GemmKernels, Fp8GemmPlan, Fp8GemmShape, fp8_gemm};
pub use gate::{Gate, gate};
pub use indexer::{Indexer, NO_POSITION, indexer};
pub use indexer_logits::{IndexerLogits, IndexerLogitsKernel, indexer_logits};
pub use indexer_quant::{IndexerQuant, IndexerQuantKernel, indexer_quant};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, linear};
pub use log_softmax::{LogSoftmax, log_softmax};
pub use mla::{Mla, mla_absorbed, mla_expanded};
pub use paged::PagedSeqs;
pub use rms_norm::{RmsNorm, rms_norm};
pub use rope::{Rope, RopeLayout, rope};
pub use rope_cache_write::{KeyPlace, RopeCacheWrite, RopeCacheWriteKernels, rope_cache_write};
pub use sample::{Sample, SampleKernel, sample};
pub use scratch::{StepDims, WorkingMemory};
pub use swiglu::{SwiGlu, swiglu};
pub use top_k::{TopK, TopKKernel, TopKMerge, TopKMergeKernel, top_k, top_k_merge};
