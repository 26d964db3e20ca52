//! Dtypes, shapes, views and buffers, in the memory of the host or of a device. No arithmetic lives here.
//!
//! - [`Tensor`]: immutable, reference-counted bytes with a dtype and a shape; usually a window of a memory-mapped file.
//! - [`Buffer`]: owned, mutable memory for activations and caches.
//! - [`View`] and [`ViewMut`]: what operations take. The last dimensions are contiguous; rows (the first dimension) may be
//!   further apart than their length, so that a range of columns is a view too.
//! - [`Matrix`]: a linear layer's weight with its optional FP8 block scales.
//!
//! ```
//! use cachalot_tensor::{Buffer, DType};
//!
//! let mut buffer = Buffer::zeros(DType::F32, &[2, 3]);
//! buffer.view_mut().row_mut::<f32>(1).unwrap().copy_from_slice(&[1.0, 2.0, 3.0]);
//! let view = buffer.view();
//! assert_eq!(view.columns(1..3).row::<f32>(1).unwrap(), &[2.0, 3.0]);
//! ```

#![forbid(unsafe_code)]

mod address;
mod buffer;
mod dtype;
mod error;
mod matrix;
mod shape;
mod tensor;
mod view;

pub use address::Address;
pub use buffer::Buffer;
pub use dtype::{DType, Element, F8E4M3};
pub use error::{Error, Result};
pub use matrix::{BlockScales, Matrix};
pub use shape::{MAX_RANK, Shape};
pub use tensor::Tensor;
pub use view::{View, ViewMut};
