// The end of the kernels that split k: sums go to out, or to memory, where the last block to finish adds them.
//
// It adds them in the order of the splits, so it does not matter which block is the last.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

/// Stores a warp's sums: rows `first_n .. + 16` of w, and all tokens, laid out as an accumulator of `mma`.
template <int TOKENS, typename Params>
__device__ __forceinline__ void split_k_store(const Params& p, const float (&sums)[TOKENS / 8][4], uint32_t first_n) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < TOKENS / 8; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t n = first_n + lane / 4 + i / 2 * 8, m = j * 8 + lane % 4 * 2 + i % 2;
      if (n < p.n && m < p.m) {
        if (p.num_splits > 1) {
          p.partial[(int64_t(blockIdx.y) * p.m + m) * p.n + n] = sums[j][i];
        } else {
          p.out[int64_t(m) * p.out_stride + n] = __float2bfloat16(sums[j][i]);
        }
      }
    }
  }
}

/// Counts this block as finished; the last of its row range `first_n .. + BLOCK_N` adds the partial sums of all.
/// `is_last` is in shared memory. Every thread of the block calls this, after its stores.
template <int BLOCK_N, int THREADS, typename Params>
__device__ __forceinline__ void split_k_reduce(const Params& p, uint32_t first_n, bool& is_last) {
  // Each thread's stores are visible to the whole GPU before the block counts itself as finished.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(&p.num_finished[blockIdx.x], 1) == p.num_splits - 1;
    __threadfence();
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  const uint32_t num_pairs = min(uint32_t(BLOCK_N), p.n - first_n) / 2;
  for (uint32_t i = threadIdx.x; i < p.m * num_pairs; i += THREADS) {
    const uint32_t m = i / num_pairs, n = first_n + i % num_pairs * 2;
    const float* partial = p.partial + int64_t(m) * p.n + n;
    float2 sum = make_float2(0, 0);
    for (uint32_t split = 0; split < p.num_splits; split++) {
      const float2 part = __ldcg(reinterpret_cast<const float2*>(partial + int64_t(split) * p.m * p.n));
      sum.x += part.x;
      sum.y += part.y;
    }
    *reinterpret_cast<__nv_bfloat162*>(p.out + int64_t(m) * p.out_stride + n) = __float22bfloat162_rn(sum);
  }
  if (threadIdx.x == 0) {
    p.num_finished[blockIdx.x] = 0;
  }
}
