//! The CUDA runtime: kernels, streams, graphs and memory, on a GPU or on the emulator.
