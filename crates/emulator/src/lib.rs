//! Executes the PTX that nvcc makes of our kernels on the CPU, and checks what a GPU would not tell.
//!
//! - [`Module`]: parsed and decoded PTX.
//! - [`Machine`]: the memory of one emulated GPU, and [`Machine::launch`].
//! - [`Fault`]: what went wrong, where: kernel, block, thread, source line.

#![forbid(unsafe_code)]

mod block;
mod clocks;
mod decode;
mod execute;
mod fault;
mod float;
mod launch;
mod lexer;
mod machine;
mod memory;
mod mma;
mod parse;
mod program;
mod registers;
mod shared;
mod tensor_map;
mod warp;
mod wgmma;

pub use fault::{Fault, Misuse, Place};
pub use launch::Launch;
pub use machine::{Kernel, Machine, Module};
pub use parse::ParseError;
pub use tensor_map::{OutOfBoundsFill, Swizzle, TensorMap, TensorMapArgs, TensorMapType};
