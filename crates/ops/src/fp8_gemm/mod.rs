//! Multiplication of FP8 activations with the FP8 weight of a linear layer, on tensor cores.

mod plan;
mod reference;

pub use plan::{Fp8GemmPlan, Fp8GemmShape, Gpu, SCALE_BLOCK};
pub use reference::reference;
