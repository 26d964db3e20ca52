// archs: 90a
#include "sm90.cuh"

extern "C" __global__ void __launch_bounds__(SM90_THREADS, 1)
    fp8_gemm_sm90_128(const __grid_constant__ Fp8GemmSm90Params p) {
  fp8_gemm_sm90<1>(p);
}

extern "C" __global__ void __launch_bounds__(SM90_THREADS, 1)
    fp8_gemm_sm90_256(const __grid_constant__ Fp8GemmSm90Params p) {
  fp8_gemm_sm90<2>(p);
}
