//! Finds nvcc and compiles CUDA C++ to PTX and fatbins, for build scripts and tests.
//!
//! - [`Nvcc`]: a compiler that was found, [`Nvcc::ptx`] and [`Nvcc::fatbin`].
//! - [`KernelTree`]: a folder of kernels, compiled in parallel into a cache, so that an edit recompiles only what it touches.
//! - [`KernelResources`]: what ptxas says a kernel uses.
//!
//! ```no_run
//! use std::path::Path;
//! let nvcc = cachalot_nvcc::Nvcc::find()?;
//! let ptx = nvcc.ptx(Path::new("kernels/rms_norm/rms_norm.cu"), "90a", &cachalot_nvcc::Options::default())?;
//! # Ok::<(), cachalot_nvcc::Error>(())
//! ```

#![forbid(unsafe_code)]

mod archs;
mod compile;
mod error;
mod find;
mod key;
mod resources;
mod tree;

pub use archs::{AllowedArchs, check_arch};
pub use compile::{Fatbin, Options};
pub use error::Error;
pub use find::Nvcc;
pub use resources::KernelResources;
pub use tree::{CompiledKernel, KernelTree};
