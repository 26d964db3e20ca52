//! The CUDA runtime: kernels, streams, graphs and memory, on a GPU or on the emulator.
//!
//! - [`Gpu`]: one GPU through the CUDA driver ([`Gpu::open`]), or the emulator ([`Gpu::emulated`]). The same calls drive both.
//! - [`Gpu::alloc`]: [`Buffer`](cachalot_tensor::Buffer)s of one arena that is taken at start; their views lie on the device.
//! - [`Stream`], [`Event`], [`Graph`]: order. [`Kernel`], [`Launch`], [`params!`]: launches.
//!
//! The driver is loaded when it is first asked for: a binary with the feature `cuda` starts on a machine without any CUDA library,
//! and there [`Gpu::open`] is an error. Without the feature the types are the same and every way to make one is an error, so that
//! callers carry no `cfg`.
//!
//! Launches are safe to call although kernels are not: a wrong kernel spoils device memory and ends the context, but it does not
//! reach the memory of this process, none of which is mapped on the device.
//!
//! ```
//! use cachalot_cuda::{Address, Gpu, Launch, params};
//! use cachalot_tensor::DType;
//!
//! params! {
//!     /// Arguments of `affine_i32`.
//!     pub struct AffineParams: 24 {
//!         /// `[num_elements]`
//!         pub x: Address = 0,
//!         /// Number of elements.
//!         pub num_elements: i64 = 8,
//!         /// Factor.
//!         pub scale: i32 = 16,
//!         /// Added afterwards.
//!         pub offset: i32 = 20,
//!     }
//! }
//!
//! fn three_x_plus_one(gpu: &Gpu) -> cachalot_cuda::Result<Vec<i32>> {
//!     let affine = gpu.kernel::<AffineParams>("runtime_test/affine", "affine_i32")?;
//!     let stream = gpu.stream()?;
//!     let mut x = gpu.alloc(DType::I32, [4])?;
//!     stream.upload(&mut x, &[1, 2, 3, 4])?;
//!     let params = AffineParams { x: x.view_mut().address(), num_elements: 4, scale: 3, offset: 1 };
//!     stream.launch(&affine, Launch::new([1, 1, 1], [256, 1, 1]), &params)?;
//!     stream.to_vec(&x)
//! }
//! ```

#![deny(unsafe_op_in_unsafe_fn)]

// The macro `params!` names this crate, and tests of this crate use it too.
extern crate self as cachalot_cuda;

mod arena;
mod backend;
#[cfg(feature = "cuda")]
mod driver;
mod embedded;
#[cfg(feature = "cuda")]
mod emulated;
mod error;
mod gpu;
mod graph;
mod kernel;
mod nvtx;
mod params;
mod stream;
mod tensor_map;

pub use bytemuck;
pub use cachalot_tensor::Address;

pub use embedded::{EmbeddedModule, KernelResources, MODULES};
pub use error::{Error, Result};
pub use gpu::{DeviceInfo, Gpu};
pub use graph::{Graph, GraphBuckets};
pub use kernel::{Kernel, Launch};
pub use nvtx::Range;
pub use params::Params;
pub use stream::{Event, Stream};
pub use tensor_map::{Swizzle, TensorMap, TensorMapArgs};
