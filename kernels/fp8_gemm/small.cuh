// FP8 block GEMM for up to 64 tokens: the weights stream past once.
//
// Bound: n * k bytes of weights at the speed of device memory; x, its scales and out are small beside them, and the
// partial sums cost 8 * num_splits * m * n bytes, most of which stay in L2. On an H100 (3.35 TB/s) n = 7168, k = 16384
// takes at least 35 µs.
//
// - The weights are the 16-row operand of `mma`, the tokens its 8 columns: eight tokens fill it, not sixteen.
// - A block owns 64 rows of w and a range of k. The grid's second dimension splits k: few rows fill the GPU, too.
// - Four stages of cp.async keep up to 24 KiB of weights per block under way.
// - `split_k.cuh` adds the parts. A token's result does not depend on m: n and k alone decide the order of every sum.
#pragma once
#include "../common/cp_async.cuh"
#include "../common/mma.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"
#include "split_k.cuh"

constexpr int SMALL_BLOCK_N = 64;
constexpr int SMALL_THREADS = SMALL_BLOCK_N / 16 * 32;  // A warp owns 16 rows of w.
constexpr int SMALL_STAGES = 4;

/// One block of 128 along k.
template <int TOKENS>
struct alignas(1024) SmallStage {
  uint8_t w[SMALL_BLOCK_N][SCALE_BLOCK];
  uint8_t x[TOKENS][SCALE_BLOCK];
  float x_scale[TOKENS];
  float w_scale;
};

template <int TOKENS>
struct SmallShared {
  SmallStage<TOKENS> stages[SMALL_STAGES];
  bool is_last;
};
// The launcher has these numbers.
static_assert(sizeof(SmallShared<8>) == 41984 && sizeof(SmallShared<16>) == 46080, "SmallShared");
static_assert(sizeof(SmallShared<32>) == 54272 && sizeof(SmallShared<64>) == 70656, "SmallShared");

/// Starts the copies of one stage, and closes their group. Row `token` of x's tile is row `row_of(token)` of x.
template <int TOKENS, typename RowOf>
__device__ __forceinline__ void small_load(SmallStage<TOKENS>& stage, const Fp8GemmParams& p, RowOf row_of,
                                           uint32_t first_n, uint32_t block_k) {
  const uint32_t first_byte = block_k * SCALE_BLOCK;
  tile_load<SMALL_BLOCK_N, SMALL_THREADS>(shared_address(stage.w), p.w, p.k, p.n, p.k, first_n, first_byte);
  if constexpr (TOKENS * 8 >= SMALL_THREADS) {
    tile_load_rows<TOKENS, SMALL_THREADS>(shared_address(stage.x), p.x, p.k, p.k, first_byte, row_of);
  } else if (threadIdx.x < TOKENS * 8) {
    tile_load_rows<TOKENS, TOKENS * 8>(shared_address(stage.x), p.x, p.k, p.k, first_byte, row_of);
  }
  const uint32_t token = threadIdx.x;
  if (token < TOKENS) {
    const TileRow row = row_of(token);
    cp_async_4(shared_address(&stage.x_scale[token]),
               p.x_scale + (row.exists ? int64_t(block_k) * p.x_scale_stride + row.number : 0), row.exists);
  } else if (token == TOKENS) {
    cp_async_4(shared_address(&stage.w_scale),
               p.w_scale + int64_t(first_n / SCALE_BLOCK) * (p.k / SCALE_BLOCK) + block_k, true);
  }
  cp_async_commit();
}

/// Adds the product of one stage to the warp's 16 x TOKENS sums.
template <int TOKENS>
__device__ __forceinline__ void small_multiply(float (&sums)[TOKENS / 8][4], const SmallStage<TOKENS>& stage,
                                               uint32_t warp, uint32_t lane) {
  const uint32_t w_tile = shared_address(stage.w), x_tile = shared_address(stage.x);
  float products[TOKENS / 8][4] = {};
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    uint32_t a[2][4];
    tile_operand_a(a[0], w_tile, warp * 16, 2 * pair);
    tile_operand_a(a[1], w_tile, warp * 16, 2 * pair + 1);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
      uint32_t b[4];
      tile_operand_b_steps(b, x_tile, j * 8, pair);
      mma_e4m3(products[j], a[0], b[0], b[1]);
      mma_e4m3(products[j], a[1], b[2], b[3]);
    }
  }
#pragma unroll
  for (int j = 0; j < TOKENS / 8; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      sums[j][i] += products[j][i] * (stage.x_scale[j * 8 + lane % 4 * 2 + i % 2] * stage.w_scale);
    }
  }
}

/// The warp's sums over the blocks `begin .. end` of k: rows `first_n + 16 * warp .. + 16` of w, and all rows of x's
/// tile.
template <int TOKENS, typename RowOf>
__device__ __forceinline__ void small_sum(float (&sums)[TOKENS / 8][4], SmallShared<TOKENS>& shared,
                                          const Fp8GemmParams& p, RowOf row_of, uint32_t first_n, uint32_t begin,
                                          uint32_t end) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A group is closed for every stage, even an empty one, so that the number of groups under way is always known.
#pragma unroll
  for (int i = 0; i < SMALL_STAGES - 1; i++) {
    if (begin + i < end) {
      small_load(shared.stages[i], p, row_of, first_n, begin + i);
    } else {
      cp_async_commit();
    }
  }

  for (uint32_t block_k = begin; block_k < end; block_k++) {
    cp_async_wait<SMALL_STAGES - 2>();
    __syncthreads();  // The copies of all threads have arrived, and all warps have finished with the stage that is
                      // filled next.
    const uint32_t next = block_k + SMALL_STAGES - 1;
    if (next < end) {
      small_load(shared.stages[(next - begin) % SMALL_STAGES], p, row_of, first_n, next);
    } else {
      cp_async_commit();
    }
    small_multiply(sums, shared.stages[(block_k - begin) % SMALL_STAGES], warp, lane);
  }
}

/// Grid: [ceil(n / 64), num_splits]; block: SMALL_THREADS; dynamic shared memory: sizeof(SmallShared<TOKENS>); m <=
/// TOKENS.
template <int TOKENS>
__device__ __forceinline__ void fp8_gemm_small(const Fp8GemmParams& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  SmallShared<TOKENS>& shared = *reinterpret_cast<SmallShared<TOKENS>*>(dynamic_shared);
  const uint32_t first_n = blockIdx.x * SMALL_BLOCK_N;
  const uint32_t num_blocks_k = p.k / SCALE_BLOCK;
  const uint32_t begin = num_blocks_k * blockIdx.y / p.num_splits;
  const uint32_t end = num_blocks_k * (blockIdx.y + 1) / p.num_splits;

  float sums[TOKENS / 8][4] = {};
  const auto row_of = [&](uint32_t token) { return TileRow{token < p.m, token}; };
  small_sum<TOKENS>(sums, shared, p, row_of, first_n, begin, end);
  split_k_store<TOKENS>(p, sums, first_n + threadIdx.x / 32 * 16);
  if (p.num_splits > 1) {
    split_k_reduce<SMALL_BLOCK_N, SMALL_THREADS>(p, first_n, shared.is_last);
  }
}

// Three blocks on a multiprocessor are what the launcher counts on; with room for 64 tokens the registers suffice for
// two.
#define FP8_GEMM_SMALL(TOKENS)                                                     \
  extern "C" __global__ void __launch_bounds__(SMALL_THREADS, TOKENS < 64 ? 3 : 2) \
      fp8_gemm_small_##TOKENS(const __grid_constant__ Fp8GemmParams p) {           \
    fp8_gemm_small<TOKENS>(p);                                                     \
  }
