//! config.json and safetensors to named, typed, validated tensors.
//!
//! - [`Config`]: what config.json says, for every release.
//! - [`TensorSpec`]: one tensor that the configuration implies; [`Config::layout`] lists them all.
//! - [`Checkpoint`]: the files, memory-mapped; every tensor of the layout was checked before the first is handed out.
//!
//! ```no_run
//! use cachalot_weights::{Checkpoint, Shard, Source};
//!
//! # fn main() -> cachalot_weights::Result<()> {
//! let checkpoint = Checkpoint::open(&Source::Folder("DeepSeek-V3.2".into()))?;
//! let norm = checkpoint.tensor("model.norm.weight", Shard::Whole)?;
//! let q_a_proj = checkpoint.matrix("model.layers.0.self_attn.q_a_proj.weight", Shard::Whole)?;
//! assert_eq!(norm.shape().num_elements(), q_a_proj.num_cols());
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod config;
mod error;
mod inspect;
mod keys;
mod kv_format;
mod layout;
mod load;
mod mmap;
mod safetensors_file;
mod source;
mod stored;

pub use checkpoint::{Checkpoint, Shard};
pub use config::{
    Config, DeepseekV3Config, IndexerConfig, QuantizationConfig, Qwen3Config, RopeConfig, ScaleFormat, YarnConfig,
};
pub use error::{Error, Result};
pub use inspect::{ComponentParameters, DTypeStorage, Fact, KvCache, Report};
pub use kv_format::KvFormat;
pub use layout::{Component, Stage, TensorKind, TensorSpec, scale_name};
pub use load::LoadReport;
pub use source::Source;
pub use stored::StoredTensor;
