//! The benches live under `benches/`, the timing of the kernels in `src/bin/gpu-bench`; this library is empty.
