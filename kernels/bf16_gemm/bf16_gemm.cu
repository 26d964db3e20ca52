// archs: 80+
#include "bf16_gemm.cuh"

extern "C" __global__ void __launch_bounds__(BF16_THREADS, 1) bf16_gemm_bf16(const __grid_constant__ Bf16GemmParams p) {
  bf16_gemm<__nv_bfloat16, WeightOrder::OutIn>(p);
}

extern "C" __global__ void __launch_bounds__(BF16_THREADS, 1) bf16_gemm_f32(const __grid_constant__ Bf16GemmParams p) {
  bf16_gemm<float, WeightOrder::OutIn>(p);
}

extern "C" __global__ void __launch_bounds__(BF16_THREADS, 1)
    bf16_gemm_in_out_bf16(const __grid_constant__ Bf16GemmParams p) {
  bf16_gemm<__nv_bfloat16, WeightOrder::InOut>(p);
}
