// FP8 block GEMM for up to 128 tokens on Hopper: `small.cuh` with tensor-map copies and the tensor cores of warpgroups.
//
// Bound: n * k bytes of weights at the speed of device memory, as there. On sm_90 `mma` has no FP8 form: the compiler
// converts both operands to half precision, and with 64 tokens those conversions and the products take about as long as
// the weights do. `wgmma` multiplies FP8 as it is.
//
// - A block owns 128 rows of w, 64 for each of two warpgroups, and a range of k; the tokens are the columns of `wgmma`.
// - One more warp copies. 4 stages (6 with 128 tokens) keep 48 KiB of weights or more under way on a multiprocessor.
// - `split_k.cuh` adds the parts. A token's result does not depend on m: n and k alone decide the order of every sum.
#pragma once
#include "../common/cp_async.cuh"
#include "../common/mbarrier.cuh"
#include "../common/tma.cuh"
#include "../common/wgmma.cuh"
#include "params.h"
#include "split_k.cuh"

constexpr int SM90_SMALL_BLOCK_N = 128;
constexpr int SM90_SMALL_CONSUMERS = 2;  // Warpgroups that multiply.
constexpr int SM90_SMALL_THREADS = SM90_SMALL_CONSUMERS * 128 + 32;

/// Tiles start at a multiple of 1024 bytes, the swizzle's period, and scales at one of 128, as a tensor map demands.
template <int TOKENS>
struct Sm90SmallShared {
  static constexpr int STAGES = TOKENS <= 64 ? 4 : 6;
  static constexpr uint32_t STAGE_BYTES = (SM90_SMALL_BLOCK_N + TOKENS) * SCALE_BLOCK + TOKENS * sizeof(float);

  uint8_t w[STAGES][SM90_SMALL_CONSUMERS][64][SCALE_BLOCK];
  uint8_t x[STAGES][TOKENS][SCALE_BLOCK];
  float x_scale[STAGES][TOKENS < 32 ? 32 : TOKENS];
  uint64_t full[STAGES];
  uint64_t empty[STAGES];
  bool is_last;
};
// The launcher has these numbers.
static_assert(sizeof(Sm90SmallShared<16>) == 74312 && sizeof(Sm90SmallShared<64>) == 99400, "Sm90SmallShared");
static_assert(sizeof(Sm90SmallShared<128>) == 199784, "Sm90SmallShared");

/// One thread: copies blocks `begin .. end` of k.
template <int TOKENS>
__device__ __forceinline__ void sm90_small_produce(Sm90SmallShared<TOKENS>& shared, const Fp8GemmSm90SmallParams& p,
                                                   uint32_t first_n, uint32_t begin, uint32_t end) {
  PipelinePosition<Sm90SmallShared<TOKENS>::STAGES> at;
  for (uint32_t block_k = begin; block_k < end; block_k++) {
    mbarrier_wait(shared_address(&shared.empty[at.stage]), at.parity ^ 1);
    const uint32_t full = shared_address(&shared.full[at.stage]);
    mbarrier_arrive_expect(full, Sm90SmallShared<TOKENS>::STAGE_BYTES);
    tma_load_2d(shared_address(shared.w[at.stage]), p.w, full, block_k * SCALE_BLOCK, first_n);
    tma_load_2d(shared_address(shared.x[at.stage]), p.x, full, block_k * SCALE_BLOCK, 0);
    tma_load_2d(shared_address(shared.x_scale[at.stage]), p.x_scale, full, 0, block_k);
    at.advance();
  }
}

/// One warpgroup: multiplies its 64 rows of w with all tokens, and stores the sums.
template <int TOKENS>
__device__ __forceinline__ void sm90_small_consume(Sm90SmallShared<TOKENS>& shared, const Fp8GemmSm90SmallParams& p,
                                                   uint32_t first_n, uint32_t begin, uint32_t end) {
  const uint32_t group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* w_scales = p.w_scale + int64_t(blockIdx.x) * (p.k / SCALE_BLOCK);
  PipelinePosition<Sm90SmallShared<TOKENS>::STAGES> at;
  float sums[TOKENS / 8][4] = {}, products[TOKENS / 8][4] = {};
  for (uint32_t block_k = begin; block_k < end; block_k++) {
    const float w_scale = __ldg(w_scales + block_k);
    mbarrier_wait(shared_address(&shared.full[at.stage]), at.parity);
    const uint64_t w = wgmma_descriptor(shared_address(shared.w[at.stage][group]));
    const uint64_t x = wgmma_descriptor(shared_address(shared.x[at.stage]));
    wgmma_fence(products);
#pragma unroll
    for (int step = 0; step < 4; step++) {
      wgmma_e4m3(products, w + step * WGMMA_STEP, x + step * WGMMA_STEP, step > 0);
    }
    wgmma_commit();
    wgmma_wait(products);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
      const float first = shared.x_scale[at.stage][j * 8 + lane % 4 * 2] * w_scale;
      const float second = shared.x_scale[at.stage][j * 8 + lane % 4 * 2 + 1] * w_scale;
      sums[j][0] += products[j][0] * first;
      sums[j][1] += products[j][1] * second;
      sums[j][2] += products[j][2] * first;
      sums[j][3] += products[j][3] * second;
    }
    // All lanes have read their scales and all of the warp's products are done: the stage may be filled again.
    __syncwarp();
    if (lane == 0) {
      mbarrier_arrive(shared_address(&shared.empty[at.stage]));
    }
    at.advance();
  }
  split_k_store<TOKENS>(p, sums, first_n + warp * 16);
}

/// Grid: [ceil(n / 128), num_splits]; block: SM90_SMALL_THREADS; dynamic shared memory:
/// sizeof(Sm90SmallShared<TOKENS>); m <= TOKENS.
template <int TOKENS>
__device__ __forceinline__ void fp8_gemm_sm90_small(const Fp8GemmSm90SmallParams& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  Sm90SmallShared<TOKENS>& shared = *reinterpret_cast<Sm90SmallShared<TOKENS>*>(dynamic_shared);
  const uint32_t first_n = blockIdx.x * SM90_SMALL_BLOCK_N;
  const uint32_t num_blocks_k = p.k / SCALE_BLOCK;
  const uint32_t begin = num_blocks_k * blockIdx.y / p.num_splits;
  const uint32_t end = num_blocks_k * (blockIdx.y + 1) / p.num_splits;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Sm90SmallShared<TOKENS>::STAGES; stage++) {
      mbarrier_init(shared_address(&shared.full[stage]), 1);
      mbarrier_init(shared_address(&shared.empty[stage]), SM90_SMALL_CONSUMERS * 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (threadIdx.x < SM90_SMALL_CONSUMERS * 128) {
    sm90_small_consume(shared, p, first_n, begin, end);
  } else if (threadIdx.x == SM90_SMALL_CONSUMERS * 128) {
    sm90_small_produce(shared, p, first_n, begin, end);
  }
  if (p.num_splits > 1) {
    split_k_reduce<SM90_SMALL_BLOCK_N, SM90_SMALL_THREADS>(p, first_n, shared.is_last);
  }
}

#define FP8_GEMM_SM90_SMALL(TOKENS)                                                      \
  extern "C" __global__ void __launch_bounds__(SM90_SMALL_THREADS, TOKENS <= 64 ? 2 : 1) \
      fp8_gemm_sm90_small_##TOKENS(const __grid_constant__ Fp8GemmSm90SmallParams p) {   \
    fp8_gemm_sm90_small<TOKENS>(p);                                                      \
  }
