// bf16 GEMM on the warp-wide tensor core instructions of sm_80 and later.
//
// Bound: 2 * m * n * k operations at the bf16 rate of the tensor cores for many rows, 2 * n * k bytes of weights for
// few. A block computes 128 x 128 of out in steps of 64 along k, with three stages of 32 KiB. It is plain on purpose:
// the engine's large weights are FP8, and the emulator's speed is measured with this kernel.
//
// A batch of products, such as one for each head, lies along the grid's z. Weights are [n, k] as in a checkpoint, or
// [k, n], which `ldmatrix` transposes: W_UK of the absorbed form of latent attention, read from where it lies in kv_b_proj.
#pragma once
#include "../common/cp_async.cuh"
#include "../common/mma.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"

constexpr int BF16_BLOCK = 128;   // Of m and of n.
constexpr int BF16_BLOCK_K = 64;  // 128 bytes, a row of a tile.
constexpr int BF16_THREADS = 256;
constexpr int BF16_STAGES = 3;
constexpr int BF16_WARP_M = 64, BF16_WARP_N = 32;  // Two by four warps.

/// The rows of w: OutIn [n, k], InOut [k, n].
enum class WeightOrder { OutIn, InOut };

struct alignas(1024) Bf16Stage {
  __nv_bfloat16 x[BF16_BLOCK][BF16_BLOCK_K];
  __nv_bfloat16 w[BF16_BLOCK][BF16_BLOCK_K];  // InOut: two tiles of 64 rows of w, 64 columns each.
};
constexpr uint32_t BF16_HALF = 64;  // Columns of such a tile.

static_assert(BF16_STAGES * sizeof(Bf16Stage) == 98304, "the launcher has this number");

/// Starts the copies of one stage, and closes their group.
template <WeightOrder order>
__device__ __forceinline__ void bf16_load(Bf16Stage& stage, const Bf16GemmParams& p, uint32_t first_m, uint32_t first_n,
                                          uint32_t block_k) {
  tile_load<BF16_BLOCK, BF16_THREADS>(shared_address(stage.x), p.x, int64_t(p.x_stride) * 2, p.m, p.k * 2, first_m,
                                      block_k * TILE_ROW_BYTES);
  const uint32_t w_tile = shared_address(stage.w);
  if constexpr (order == WeightOrder::OutIn) {
    tile_load<BF16_BLOCK, BF16_THREADS>(w_tile, p.w, int64_t(p.w_stride) * 2, p.n, p.k * 2, first_n,
                                        block_k * TILE_ROW_BYTES);
  } else {
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      tile_load<BF16_BLOCK_K, BF16_THREADS>(w_tile + half * BF16_BLOCK_K * TILE_ROW_BYTES, p.w,
                                            int64_t(p.w_stride) * 2, p.k, p.n * 2, block_k * BF16_BLOCK_K,
                                            (first_n + half * BF16_HALF) * 2);
    }
  }
  cp_async_commit();
}

/// The B operands of columns `n .. n + 16` of a stage, 16 of k.
template <WeightOrder order>
__device__ __forceinline__ void bf16_operand_b(uint32_t (&b)[4], uint32_t w_tile, uint32_t n, uint32_t step) {
  if constexpr (order == WeightOrder::OutIn) {
    tile_operand_b_pair(b, w_tile, n, step);
  } else {
    tile_operand_b_transposed(b, w_tile + n / BF16_HALF * BF16_BLOCK_K * TILE_ROW_BYTES, step * 16, n % BF16_HALF / 8);
  }
}

/// Adds the product of one stage to the warp's 64 x 32 sums.
template <WeightOrder order>
__device__ __forceinline__ void bf16_multiply(float (&sums)[4][4][4], const Bf16Stage& stage, uint32_t warp_m,
                                              uint32_t warp_n) {
  const uint32_t x_tile = shared_address(stage.x), w_tile = shared_address(stage.w);
#pragma unroll
  for (int step = 0; step < BF16_BLOCK_K / 16; step++) {
    uint32_t b[2][4];
    bf16_operand_b<order>(b[0], w_tile, warp_n, step);
    bf16_operand_b<order>(b[1], w_tile, warp_n + 16, step);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint32_t a[4];
      tile_operand_a(a, x_tile, warp_m + i * 16, step);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        mma_bf16(sums[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

__device__ __forceinline__ void store_one(__nv_bfloat16* out, float value) { *out = __float2bfloat16(value); }
__device__ __forceinline__ void store_one(float* out, float value) { *out = value; }
__device__ __forceinline__ void store_pair(__nv_bfloat16* out, float first, float second) {
  *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(first, second);
}
__device__ __forceinline__ void store_pair(float* out, float first, float second) {
  *reinterpret_cast<float2*>(out) = make_float2(first, second);
}

/// Grid: [ceil(m / 128), ceil(n / 128), batch]; block: BF16_THREADS; dynamic shared memory: BF16_STAGES * sizeof(Bf16Stage).
template <typename Out, WeightOrder order>
__device__ __forceinline__ void bf16_gemm(Bf16GemmParams p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  Bf16Stage* stages = reinterpret_cast<Bf16Stage*>(dynamic_shared);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t first_m = blockIdx.x * BF16_BLOCK, first_n = blockIdx.y * BF16_BLOCK;
  const uint32_t warp_m = warp % 2 * BF16_WARP_M, warp_n = warp / 2 * BF16_WARP_N;
  const uint32_t num_blocks_k = (p.k + BF16_BLOCK_K - 1) / BF16_BLOCK_K;
  p.x += blockIdx.z * p.x_batch;
  p.w += blockIdx.z * p.w_batch;
  p.out = static_cast<Out*>(p.out) + blockIdx.z * p.out_batch;

  // A group is closed for every stage, even an empty one, so that the number of groups under way is always known.
#pragma unroll
  for (int i = 0; i < BF16_STAGES - 1; i++) {
    if (i < num_blocks_k) {
      bf16_load<order>(stages[i], p, first_m, first_n, i);
    } else {
      cp_async_commit();
    }
  }

  float sums[4][4][4] = {};
  for (uint32_t block_k = 0; block_k < num_blocks_k; block_k++) {
    cp_async_wait<BF16_STAGES - 2>();
    __syncthreads();  // The copies of all threads have arrived, and all warps have finished with the stage that is
                      // filled next.
    const uint32_t next = block_k + BF16_STAGES - 1;
    if (next < num_blocks_k) {
      bf16_load<order>(stages[next % BF16_STAGES], p, first_m, first_n, next);
    } else {
      cp_async_commit();
    }
    bf16_multiply<order>(sums, stages[block_k % BF16_STAGES], warp_m, warp_n);
  }

#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t m = first_m + warp_m + i * 16 + half * 8 + lane / 4, n = first_n + warp_n + j * 8 + lane % 4 * 2;
        Out* out = static_cast<Out*>(p.out) + int64_t(m) * p.out_stride + n;
        const float first = sums[i][j][half * 2], second = sums[i][j][half * 2 + 1];
        if (m < p.m && n + 1 < p.n && (p.out_stride | p.out_batch) % 2 == 0) {
          store_pair(out, first, second);
        } else if (m < p.m && n < p.n) {
          store_one(out, first);
          if (n + 1 < p.n) {
            store_one(out + 1, second);
          }
        }
      }
    }
  }
}
