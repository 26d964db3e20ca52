//! The CUDA runtime: kernels, streams, graphs and memory, on a GPU or on the emulator.

mod embedded;

pub use embedded::{EmbeddedModule, KernelResources, MODULES};
