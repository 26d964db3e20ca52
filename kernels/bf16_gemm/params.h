// The parameters of the bf16 GEMM kernels: out[m, n] = sum over k of x[m, k] * w[n, k], summed in f32, for each of the
// batch; or with w[k, n], as the kernel's name says.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "../common/params.h"

/// k and the strides of x and w are multiples of 8, and n too if w is [k, n]; otherwise m, n and the strides of out are free.
struct Bf16GemmParams {
  const __nv_bfloat16* x;  // [m, x_stride], 16-byte aligned, columns from k on are never read
  const __nv_bfloat16* w;  // [n, w_stride], 16-byte aligned, columns from k on are never read; or [k, w_stride] and n
  void* out;               // [m, out_stride], bf16 or f32, 8-byte aligned, columns from n on are never written
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t x_stride;    // elements
  uint32_t w_stride;    // elements
  uint32_t out_stride;  // elements
  int64_t x_batch;      // elements from one x of the batch to the next; not used if there is one
  int64_t w_batch;
  int64_t out_batch;
};

PARAMS_SIZE(Bf16GemmParams, 72);
PARAMS_FIELD(Bf16GemmParams, x, 0);
PARAMS_FIELD(Bf16GemmParams, w, 8);
PARAMS_FIELD(Bf16GemmParams, out, 16);
PARAMS_FIELD(Bf16GemmParams, m, 24);
PARAMS_FIELD(Bf16GemmParams, n, 28);
PARAMS_FIELD(Bf16GemmParams, k, 32);
PARAMS_FIELD(Bf16GemmParams, x_stride, 36);
PARAMS_FIELD(Bf16GemmParams, w_stride, 40);
PARAMS_FIELD(Bf16GemmParams, out_stride, 44);
PARAMS_FIELD(Bf16GemmParams, x_batch, 48);
PARAMS_FIELD(Bf16GemmParams, w_batch, 56);
PARAMS_FIELD(Bf16GemmParams, out_batch, 64);
