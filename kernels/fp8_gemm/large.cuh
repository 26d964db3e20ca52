// FP8 block GEMM for many tokens on the warp-wide tensor core instructions of sm_89 and later.
//
// Bound: 2 * m * n * k operations at the FP8 rate of the tensor cores. A block computes 128 x 128 of out in steps of
// 128 along k, reading 2 * 128 * 128 bytes for 2 * 128^3 operations; its three stages fit the 99 KiB that sm_89 allows.
// On sm_90 `fp8_gemm_sm90_*` are faster, and this one is the second opinion.
#pragma once
#include "../common/cp_async.cuh"
#include "../common/mma.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"

constexpr int LARGE_BLOCK = 128;  // Of m and of n.
constexpr int LARGE_THREADS = 256;
constexpr int LARGE_STAGES = 3;
constexpr int LARGE_WARP_M = 64, LARGE_WARP_N = 32;  // Two by four warps.

/// One block of 128 along k. The tiles come first so that each starts at a multiple of 1024 bytes.
struct LargeShared {
  uint8_t x[LARGE_STAGES][LARGE_BLOCK][SCALE_BLOCK];
  uint8_t w[LARGE_STAGES][LARGE_BLOCK][SCALE_BLOCK];
  float x_scale[LARGE_STAGES][LARGE_BLOCK];
  float w_scale[LARGE_STAGES];
};
static_assert(sizeof(LargeShared) == 99852, "the launcher has this number; a block of sm_89 can have 101376 bytes");

/// Starts the copies of one stage, and closes their group. Row i of x's tile is row `row_of(i)` of x.
template <typename RowOf>
__device__ __forceinline__ void large_load(LargeShared& shared, uint32_t stage, const Fp8GemmParams& p, RowOf row_of,
                                           uint32_t first_n, uint32_t block_k) {
  const uint32_t first_byte = block_k * SCALE_BLOCK;
  tile_load_rows<LARGE_BLOCK, LARGE_THREADS>(shared_address(shared.x[stage]), p.x, p.k, p.k, first_byte, row_of);
  tile_load<LARGE_BLOCK, LARGE_THREADS>(shared_address(shared.w[stage]), p.w, p.k, p.n, p.k, first_n, first_byte);
  if (threadIdx.x < LARGE_BLOCK) {
    const TileRow row = row_of(threadIdx.x);
    const float* scale = p.x_scale + (row.exists ? int64_t(block_k) * p.x_scale_stride + row.number : 0);
    cp_async_4(shared_address(&shared.x_scale[stage][threadIdx.x]), scale, row.exists);
  } else if (threadIdx.x == LARGE_BLOCK) {
    const float* scale = p.w_scale + int64_t(first_n / SCALE_BLOCK) * (p.k / SCALE_BLOCK) + block_k;
    cp_async_4(shared_address(&shared.w_scale[stage]), scale, true);
  }
  cp_async_commit();
}

/// Adds the product of one stage to the warp's 64 x 32 sums.
__device__ __forceinline__ void large_multiply(float (&sums)[4][4][4], const LargeShared& shared, uint32_t stage,
                                               uint32_t warp_m, uint32_t warp_n) {
  const uint32_t x_tile = shared_address(shared.x[stage]), w_tile = shared_address(shared.w[stage]);
  float products[4][4][4] = {};
#pragma unroll
  for (int step = 0; step < 4; step++) {
    uint32_t b[2][4];
    tile_operand_b_pair(b[0], w_tile, warp_n, step);
    tile_operand_b_pair(b[1], w_tile, warp_n + 16, step);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint32_t a[4];
      tile_operand_a(a, x_tile, warp_m + i * 16, step);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        mma_e4m3(products[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  const uint32_t row = warp_m + threadIdx.x % 32 / 4;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float upper = shared.x_scale[stage][row + i * 16] * shared.w_scale[stage];
    const float lower = shared.x_scale[stage][row + i * 16 + 8] * shared.w_scale[stage];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      sums[i][j][0] += products[i][j][0] * upper;
      sums[i][j][1] += products[i][j][1] * upper;
      sums[i][j][2] += products[i][j][2] * lower;
      sums[i][j][3] += products[i][j][3] * lower;
    }
  }
}

/// Multiplies x's tile with rows `first_n .. + 128` of w, and stores the product from row `first_m` of out on, up to row
/// `p.m`.
template <typename RowOf>
__device__ __forceinline__ void large_block(LargeShared& shared, const Fp8GemmParams& p, RowOf row_of, uint32_t first_m,
                                            uint32_t first_n) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t warp_m = warp % 2 * LARGE_WARP_M, warp_n = warp / 2 * LARGE_WARP_N;
  const uint32_t num_blocks_k = p.k / SCALE_BLOCK;

  // A group is closed for every stage, even an empty one, so that the number of groups under way is always known.
#pragma unroll
  for (int i = 0; i < LARGE_STAGES - 1; i++) {
    if (i < num_blocks_k) {
      large_load(shared, i, p, row_of, first_n, i);
    } else {
      cp_async_commit();
    }
  }

  float sums[4][4][4] = {};
  for (uint32_t block_k = 0; block_k < num_blocks_k; block_k++) {
    cp_async_wait<LARGE_STAGES - 2>();
    __syncthreads();  // The copies of all threads have arrived, and all warps have finished with the stage that is
                      // filled next.
    const uint32_t next = block_k + LARGE_STAGES - 1;
    if (next < num_blocks_k) {
      large_load(shared, next % LARGE_STAGES, p, row_of, first_n, next);
    } else {
      cp_async_commit();
    }
    large_multiply(sums, shared, block_k % LARGE_STAGES, warp_m, warp_n);
  }

#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t m = first_m + warp_m + i * 16 + half * 8 + lane / 4, n = first_n + warp_n + j * 8 + lane % 4 * 2;
        if (m < p.m && n < p.n) {
          const float2 pair = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
          *reinterpret_cast<__nv_bfloat162*>(p.out + int64_t(m) * p.out_stride + n) = __float22bfloat162_rn(pair);
        }
      }
    }
  }
}

/// Grid: [ceil(m / 128), ceil(n / 128)]; block: LARGE_THREADS; dynamic shared memory: sizeof(LargeShared).
__device__ __forceinline__ void fp8_gemm_large_block(const Fp8GemmParams& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const uint32_t first_m = blockIdx.x * LARGE_BLOCK;
  const auto row_of = [first_m, num_rows = p.m](uint32_t row) {
    return TileRow{first_m + row < num_rows, first_m + row};
  };
  large_block(*reinterpret_cast<LargeShared*>(dynamic_shared), p, row_of, first_m, blockIdx.y * LARGE_BLOCK);
}
