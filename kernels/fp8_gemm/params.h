// The parameters of the FP8 block GEMM kernels; crates/ops/src/fp8_gemm/cuda.rs holds the same structs.
//
// out[m, n] = sum over k of x[m, k] * x_scale[k / 128, m] * w[n, k] * w_scale[n / 128, k / 128]
//
// k is a multiple of 128, n a multiple of 8; the last block of 128 rows of w may be partial. Products are summed in f32
// within a block of 128 along k, from zero; each such sum is scaled and added to the f32 result, in the order of k.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "../common/params.h"
#include "../common/tma.cuh"

/// Length of a scale's block, along k in x and along both dimensions of w.
constexpr uint32_t SCALE_BLOCK = 128;

/// Parameters of the kernels that read through pointers: `fp8_gemm_small_*` and `fp8_gemm_large`.
struct Fp8GemmParams {
  const uint8_t* x;        // [m, k], e4m3, 16-byte aligned
  const float* x_scale;    // [k / 128, x_scale_stride], columns from m on are never read
  const uint8_t* w;        // [n, k], e4m3, 16-byte aligned
  const float* w_scale;    // [ceil(n / 128), k / 128]
  __nv_bfloat16* out;      // [m, out_stride], 16-byte aligned
  float* partial;          // [num_splits, m, n], 16-byte aligned; used if num_splits > 1
  uint32_t* num_finished;  // [ceil(n / 64)], zero before the launch and after it; used if num_splits > 1
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t x_scale_stride;  // elements
  uint32_t out_stride;      // elements, a multiple of 8
  uint32_t num_splits;      // of k, the grid's y dimension; `fp8_gemm_large` does not split
};

/// Parameters of `fp8_gemm_sm90_small_*`, which have room for `max_tokens` = 16, 64 or 128 tokens and read tensor maps.
struct Fp8GemmSm90SmallParams {
  TensorMap x;             // [m, k], 1 byte, box max_tokens x 128, 128-byte swizzle
  TensorMap w;             // [n, k], 1 byte, box 128 x 128, 128-byte swizzle
  TensorMap x_scale;       // [k / 128, m], f32, box 1 x max_tokens, no swizzle
  const float* w_scale;    // [ceil(n / 128), k / 128]
  __nv_bfloat16* out;      // [m, out_stride], 16-byte aligned
  float* partial;          // [num_splits, m, n], 16-byte aligned; used if num_splits > 1
  uint32_t* num_finished;  // [ceil(n / 128)], zero before the launch and after it; used if num_splits > 1
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t out_stride;  // elements, a multiple of 8
  uint32_t num_splits;  // of k, the grid's y dimension
  uint32_t padding[3];
};

/// Parameters of `fp8_gemm_sm90_128` and `_256`, whose tiles are `block_m` = 128 or 256 by 128 and pass through tensor
/// maps.
struct Fp8GemmSm90Params {
  TensorMap x;            // [m, k], 1 byte, box block_m x 128, 128-byte swizzle
  TensorMap w;            // [n, k], 1 byte, box 128 x 128, 128-byte swizzle
  TensorMap x_scale;      // [k / 128, m], f32, box 1 x block_m, no swizzle
  TensorMap out;          // [m, n], bf16, box 64 x 64, 128-byte swizzle
  const float* w_scale;   // [ceil(n / 128), k / 128]
  uint32_t num_blocks_m;  // ceil(m / block_m)
  uint32_t num_blocks_n;  // ceil(n / 128)
  uint32_t num_blocks_k;  // k / 128
  uint32_t padding[11];
};

PARAMS_SIZE(Fp8GemmParams, 80);
PARAMS_FIELD(Fp8GemmParams, x, 0);
PARAMS_FIELD(Fp8GemmParams, x_scale, 8);
PARAMS_FIELD(Fp8GemmParams, w, 16);
PARAMS_FIELD(Fp8GemmParams, w_scale, 24);
PARAMS_FIELD(Fp8GemmParams, out, 32);
PARAMS_FIELD(Fp8GemmParams, partial, 40);
PARAMS_FIELD(Fp8GemmParams, num_finished, 48);
PARAMS_FIELD(Fp8GemmParams, m, 56);
PARAMS_FIELD(Fp8GemmParams, n, 60);
PARAMS_FIELD(Fp8GemmParams, k, 64);
PARAMS_FIELD(Fp8GemmParams, x_scale_stride, 68);
PARAMS_FIELD(Fp8GemmParams, out_stride, 72);
PARAMS_FIELD(Fp8GemmParams, num_splits, 76);

PARAMS_SIZE(Fp8GemmSm90SmallParams, 448);
PARAMS_FIELD(Fp8GemmSm90SmallParams, x, 0);
PARAMS_FIELD(Fp8GemmSm90SmallParams, w, 128);
PARAMS_FIELD(Fp8GemmSm90SmallParams, x_scale, 256);
PARAMS_FIELD(Fp8GemmSm90SmallParams, w_scale, 384);
PARAMS_FIELD(Fp8GemmSm90SmallParams, out, 392);
PARAMS_FIELD(Fp8GemmSm90SmallParams, partial, 400);
PARAMS_FIELD(Fp8GemmSm90SmallParams, num_finished, 408);
PARAMS_FIELD(Fp8GemmSm90SmallParams, m, 416);
PARAMS_FIELD(Fp8GemmSm90SmallParams, n, 420);
PARAMS_FIELD(Fp8GemmSm90SmallParams, k, 424);
PARAMS_FIELD(Fp8GemmSm90SmallParams, out_stride, 428);
PARAMS_FIELD(Fp8GemmSm90SmallParams, num_splits, 432);
PARAMS_FIELD(Fp8GemmSm90SmallParams, padding, 436);

PARAMS_SIZE(Fp8GemmSm90Params, 576);
PARAMS_FIELD(Fp8GemmSm90Params, x, 0);
PARAMS_FIELD(Fp8GemmSm90Params, w, 128);
PARAMS_FIELD(Fp8GemmSm90Params, x_scale, 256);
PARAMS_FIELD(Fp8GemmSm90Params, out, 384);
PARAMS_FIELD(Fp8GemmSm90Params, w_scale, 512);
PARAMS_FIELD(Fp8GemmSm90Params, num_blocks_m, 520);
PARAMS_FIELD(Fp8GemmSm90Params, num_blocks_n, 524);
PARAMS_FIELD(Fp8GemmSm90Params, num_blocks_k, 528);
PARAMS_FIELD(Fp8GemmSm90Params, padding, 532);
