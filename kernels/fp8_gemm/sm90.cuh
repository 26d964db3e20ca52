// FP8 block GEMM for many tokens on Hopper: tensor-map copies feed the tensor cores of whole warpgroups.
//
// Bound: 2 * m * n * k operations at the FP8 rate (1979 TFLOPS on an H100 SXM, 15 per multiprocessor). A tile of 256 x
// 128 takes 48 KiB per 8.4 MFLOP, so 88 GB/s per multiprocessor at that rate; one of 128 x 128 takes 117, more than the
// 64 bytes per clock that L2 delivers. So PARTS = 2 is for large shapes, PARTS = 1 for those that would not fill the
// GPU otherwise.
//
// - One warpgroup copies and gives its registers to the two that multiply, PARTS times 64 x 128 of out each.
// - A `full` barrier per stage of 128 along k counts its bytes, an `empty` one the warps that have finished with it.
// - The tensor cores sum FP8 products with fewer bits than f32 has, so no sum runs longer than one block of 128: its
//   scaled value is added to f32 sums outside of the tensor core. While one warpgroup does that, the other one
//   multiplies.
// - A block of the grid walks over several tiles; the stages of the next tile are copied while the last one is stored.
// - Not done: clusters whose blocks share a tile by multicast.
#pragma once
#include <cuda_bf16.h>

#include "../common/cp_async.cuh"
#include "../common/ldmatrix.cuh"
#include "../common/mbarrier.cuh"
#include "../common/tma.cuh"
#include "../common/wgmma.cuh"
#include "params.h"

constexpr int SM90_CONSUMERS = 2;  // Warpgroups that multiply.
constexpr int SM90_THREADS = (SM90_CONSUMERS + 1) * 128;
constexpr int SM90_BLOCK_N = 128;
constexpr int SM90_OUT_COLUMNS = 64;  // 128 bytes, the width of the swizzle.
constexpr int SM90_PANEL_M = 1536;    // Rows of a panel of tiles.

/// Registers per thread: (2 * 232 + 40) * 128 are within the 65536 of a multiprocessor.
constexpr int SM90_PRODUCER_REGISTERS = 40, SM90_CONSUMER_REGISTERS = 232;

/// A tile of out is BLOCK_M x 128. Everything that a tensor map or `wgmma` touches starts at a multiple of 1024 bytes,
/// the swizzle's period.
template <int PARTS>
struct Sm90Shared {
  static constexpr int STAGES = PARTS == 1 ? 5 : 3;
  static constexpr int BLOCK_M = SM90_CONSUMERS * PARTS * 64;
  static constexpr uint32_t STAGE_BYTES = (BLOCK_M + SM90_BLOCK_N) * SCALE_BLOCK + BLOCK_M * sizeof(float);

  uint8_t x[STAGES][SM90_CONSUMERS][PARTS][64][SCALE_BLOCK];
  uint8_t w[STAGES][SM90_BLOCK_N][SCALE_BLOCK];
  __nv_bfloat16 out[SM90_CONSUMERS][PARTS][SM90_BLOCK_N / SM90_OUT_COLUMNS][64][SM90_OUT_COLUMNS];
  float x_scale[STAGES][SM90_CONSUMERS][PARTS][64];
  uint64_t full[STAGES];
  uint64_t empty[STAGES];
};
// The launcher has these numbers; a block of sm_90 can have 232448 bytes.
static_assert(sizeof(Sm90Shared<1>) == 199248 && sizeof(Sm90Shared<2>) == 216112, "Sm90Shared");

/// The tile of a number: panels of up to 1536 rows, in each panel along m first, so that the tiles that run at the same
/// time (132 on an H100) cover about as many rows of x as of w and share what they read in L2.
template <int BLOCK_M>
struct Sm90Tile {
  uint32_t m;
  uint32_t n;

  __device__ __forceinline__ Sm90Tile(uint32_t number, const Fp8GemmSm90Params& p) {
    constexpr uint32_t panel_height = SM90_PANEL_M / BLOCK_M;
    const uint32_t panel = number / (panel_height * p.num_blocks_n), within = number % (panel_height * p.num_blocks_n);
    const uint32_t height = min(p.num_blocks_m - panel * panel_height, panel_height);
    m = panel * panel_height + within % height;
    n = within / height;
  }
};

/// One thread: copies the stages of all tiles of this block.
template <int PARTS>
__device__ __forceinline__ void sm90_produce(Sm90Shared<PARTS>& shared, const Fp8GemmSm90Params& p) {
  using Shared = Sm90Shared<PARTS>;
  PipelinePosition<Shared::STAGES> at;
  for (uint32_t number = blockIdx.x; number < p.num_blocks_m * p.num_blocks_n; number += gridDim.x) {
    const Sm90Tile<Shared::BLOCK_M> tile(number, p);
    for (uint32_t block_k = 0; block_k < p.num_blocks_k; block_k++) {
      mbarrier_wait(shared_address(&shared.empty[at.stage]), at.parity ^ 1);
      const uint32_t full = shared_address(&shared.full[at.stage]);
      mbarrier_arrive_expect(full, Shared::STAGE_BYTES);
      tma_load_2d(shared_address(shared.x[at.stage]), p.x, full, block_k * SCALE_BLOCK, tile.m * Shared::BLOCK_M);
      tma_load_2d(shared_address(shared.w[at.stage]), p.w, full, block_k * SCALE_BLOCK, tile.n * SM90_BLOCK_N);
      tma_load_2d(shared_address(shared.x_scale[at.stage]), p.x_scale, full, tile.m * Shared::BLOCK_M, block_k);
      at.advance();
    }
  }
}

/// The barrier of the 128 threads of one consumer; barrier 0 is `__syncthreads`.
__device__ __forceinline__ void sm90_group_barrier(uint32_t group) {
  asm volatile("barrier.sync.aligned %0, 128;" ::"r"(group + 1) : "memory");
}

/// Rounds the warp's rows of a 64 x 128 part and writes them to shared memory in the layout that the tensor map of out
/// reads.
__device__ __forceinline__ void sm90_round(__nv_bfloat16 (&out)[2][64][SM90_OUT_COLUMNS], const float (&sums)[16][4]) {
  const uint32_t warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  // 16 x 16 sums are four matrices: left upper, left lower, right upper, right lower. Lane l addresses row l % 16 of
  // half l / 16.
  const uint32_t row = warp * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    uint32_t fragment[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float (&from)[4] = sums[2 * i + j / 2];
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[j % 2 * 2], from[j % 2 * 2 + 1]);
      fragment[j] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    const uint32_t chunk = i % 4 * 2 + lane / 16;
    stmatrix_x4(shared_address(out[i / 4]) + row * 128 + ((chunk ^ (row & 7)) << 4), fragment);
  }
}

/// One warpgroup: multiplies its PARTS * 64 rows of all tiles of this block.
template <int PARTS>
__device__ __forceinline__ void sm90_consume(Sm90Shared<PARTS>& shared, const Fp8GemmSm90Params& p, uint32_t group) {
  using Shared = Sm90Shared<PARTS>;
  const uint32_t lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
  PipelinePosition<Shared::STAGES> at;
  for (uint32_t number = blockIdx.x; number < p.num_blocks_m * p.num_blocks_n; number += gridDim.x) {
    const Sm90Tile<Shared::BLOCK_M> tile(number, p);
    const float* w_scales = p.w_scale + int64_t(tile.n) * p.num_blocks_k;
    float sums[PARTS][16][4] = {}, products[16][4] = {};
    for (uint32_t block_k = 0; block_k < p.num_blocks_k; block_k++) {
      const float w_scale = __ldg(w_scales + block_k);
      mbarrier_wait(shared_address(&shared.full[at.stage]), at.parity);
      const uint64_t w = wgmma_descriptor(shared_address(shared.w[at.stage]));
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        const float upper = shared.x_scale[at.stage][group][part][row] * w_scale;
        const float lower = shared.x_scale[at.stage][group][part][row + 8] * w_scale;
        const uint64_t x = wgmma_descriptor(shared_address(shared.x[at.stage][group][part]));
        wgmma_fence(products);
#pragma unroll
        for (int step = 0; step < 4; step++) {
          wgmma_e4m3(products, x + step * WGMMA_STEP, w + step * WGMMA_STEP, step > 0);
        }
        wgmma_commit();
        wgmma_wait(products);
        if (part == PARTS - 1) {
          // All lanes have read their scales and all of the warp's products are done: the stage may be filled again.
          __syncwarp();
          if (lane == 0) {
            mbarrier_arrive(shared_address(&shared.empty[at.stage]));
          }
        }
#pragma unroll
        for (int j = 0; j < 16; j++) {
          sums[part][j][0] += products[j][0] * upper;
          sums[part][j][1] += products[j][1] * upper;
          sums[part][j][2] += products[j][2] * lower;
          sums[part][j][3] += products[j][3] * lower;
        }
      }
      at.advance();
    }

    // One thread stores for all: it waits until its last stores have read `out`, then everyone writes, then it stores
    // again.
    const bool stores = threadIdx.x % 128 == 0;
    if (stores) {
      tma_store_wait_read();
    }
    sm90_group_barrier(group);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      sm90_round(shared.out[group][part], sums[part]);
    }
    fence_proxy_async();
    sm90_group_barrier(group);
    if (stores) {
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        const uint32_t first_m = tile.m * Shared::BLOCK_M + (group * PARTS + part) * 64;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          tma_store_2d(p.out, shared_address(shared.out[group][part][half]),
                       tile.n * SM90_BLOCK_N + half * SM90_OUT_COLUMNS, first_m);
        }
      }
      tma_store_commit();
    }
  }
  // The block's shared memory must outlive the last stores.
  if (threadIdx.x % 128 == 0) {
    tma_store_wait_read();
  }
}

/// Grid: [any]; block: SM90_THREADS; dynamic shared memory: sizeof(Sm90Shared<PARTS>).
template <int PARTS>
__device__ __forceinline__ void fp8_gemm_sm90(const Fp8GemmSm90Params& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  Sm90Shared<PARTS>& shared = *reinterpret_cast<Sm90Shared<PARTS>*>(dynamic_shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Sm90Shared<PARTS>::STAGES; stage++) {
      mbarrier_init(shared_address(&shared.full[stage]), 1);
      mbarrier_init(shared_address(&shared.empty[stage]), SM90_CONSUMERS * 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  const uint32_t group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The compiler sees that it is the same in the whole warp.
  if (group == SM90_CONSUMERS) {
    registers_shrink_to<SM90_PRODUCER_REGISTERS>();
    if (threadIdx.x == SM90_CONSUMERS * 128) {
      sm90_produce(shared, p);
    }
  } else {
    registers_grow_to<SM90_CONSUMER_REGISTERS>();
    sm90_consume(shared, p, group);
  }
}
