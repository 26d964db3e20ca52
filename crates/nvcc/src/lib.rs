//! Finds nvcc and compiles CUDA C++ to PTX and fatbins, for build scripts and tests.

#![forbid(unsafe_code)]
