// archs: 89+
#include "large.cuh"

extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 1) fp8_gemm_large(const __grid_constant__ Fp8GemmParams p) {
  fp8_gemm_large_block(p);
}
