//! Warp-level matrix products: fragments and arithmetic of `mma.sync`, `ldmatrix` and `stmatrix`.
