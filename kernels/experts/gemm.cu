// out[r] = x[rows[r]] * w[e]^T for the rows r of each expert e, on FP8: the tiles of fp8_gemm, each with its expert's weight.
//
// Rows of x are gathered while a tile is loaded, so there is no permuted copy of the activations. Which tile is whose is
// read from device memory: a launch has as many blocks as there can be tiles, and those without rows return at once. So
// the same launch serves every routing, inside a graph too.
//
// - experts_gemm_16 and _64, for few tokens: the weights' rows are the long side of `mma` (small.cuh).
// - experts_gemm_128, for many: tiles of 128 x 128 (large.cuh).
//
// All three add in the same order, by blocks of 128 along k, so a token does not depend on how many others there are.
//
// Bound: for few tokens the weights of the experts that were chosen, n * k bytes each: 8 experts of V3 (gate, up, down)
// are 352 MB, 105 us at 3.35 TB/s. For many, 2 * n * k operations per pair at the FP8 rate of the tensor cores.
// Not done: wgmma and tensor maps for many tokens.
//
// Tiles run along x of the grid, so that tiles of one expert, which share its weights, run at the same time.
//
// archs: 89+

#include "../fp8_gemm/large.cuh"
#include "../fp8_gemm/small.cuh"
#include "params.h"

template <typename Tiles, int BLOCK_M>
struct ExpertsShared {
  Tiles tiles;
  uint32_t rows[BLOCK_M];
};
// The launcher has these numbers.
static_assert(sizeof(ExpertsShared<SmallShared<16>, 16>) == 47104, "ExpertsShared<16>");
static_assert(sizeof(ExpertsShared<SmallShared<64>, 64>) == 71680, "ExpertsShared<64>");
static_assert(sizeof(ExpertsShared<LargeShared, 128>) == 100364, "ExpertsShared<128>");

/// The product of this block's tile with its expert's weight as a GEMM of its own. Fills `rows`, the rows of x.
/// False, for the whole block, if the tile has none.
template <int BLOCK_M>
__device__ __forceinline__ bool experts_tile(const ExpertsGemmParams& p, Fp8GemmParams& tile,
                                             uint32_t (&rows)[BLOCK_M]) {
  const int32_t expert = p.tiles[2 * blockIdx.x];
  if (expert < 0) {
    return false;
  }
  const uint32_t first_row = blockIdx.x * BLOCK_M;
  const uint32_t blocks_n = p.n / SCALE_BLOCK, blocks_k = p.k / SCALE_BLOCK;
  tile.x = p.x;
  tile.x_scale = p.x_scale;
  tile.w = p.w + int64_t(expert) * p.n * p.k;
  tile.w_scale = p.w_scale + int64_t(expert) * blocks_n * blocks_k;
  tile.out = reinterpret_cast<__nv_bfloat16*>(p.out) + int64_t(first_row) * p.n;
  tile.m = p.tiles[2 * blockIdx.x + 1];
  tile.n = p.n;
  tile.k = p.k;
  tile.x_scale_stride = p.x_scale_stride;
  tile.out_stride = p.n;
  tile.num_splits = 1;
  for (uint32_t row = threadIdx.x; row < tile.m; row += blockDim.x) {
    rows[row] = p.rows == nullptr ? first_row + row : p.rows[first_row + row];
  }
  __syncthreads();
  return true;
}

/// Grid: [number of tiles, n / 64]; block: SMALL_THREADS; dynamic shared memory: sizeof(ExpertsShared).
template <int TOKENS>
__device__ __forceinline__ void experts_gemm_small(const ExpertsGemmParams& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  auto& shared = *reinterpret_cast<ExpertsShared<SmallShared<TOKENS>, TOKENS>*>(dynamic_shared);
  Fp8GemmParams tile;
  if (!experts_tile(p, tile, shared.rows)) {
    return;
  }
  const uint32_t first_n = blockIdx.y * SMALL_BLOCK_N;
  const auto row_of = [&](uint32_t row) { return TileRow{row < tile.m, row < tile.m ? shared.rows[row] : 0}; };
  float sums[TOKENS / 8][4] = {};
  small_sum<TOKENS>(sums, shared.tiles, tile, row_of, first_n, 0, tile.k / SCALE_BLOCK);
  split_k_store<TOKENS>(tile, sums, first_n + threadIdx.x / 32 * 16);
}

/// Grid: [number of tiles, n / 128]; block: LARGE_THREADS; dynamic shared memory: sizeof(ExpertsShared).
__device__ __forceinline__ void experts_gemm_large(const ExpertsGemmParams& p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  auto& shared = *reinterpret_cast<ExpertsShared<LargeShared, LARGE_BLOCK>*>(dynamic_shared);
  Fp8GemmParams tile;
  if (!experts_tile(p, tile, shared.rows)) {
    return;
  }
  const auto row_of = [&](uint32_t row) { return TileRow{row < tile.m, row < tile.m ? shared.rows[row] : 0}; };
  large_block(shared.tiles, tile, row_of, 0, blockIdx.y * LARGE_BLOCK);
}

extern "C" __global__ void __launch_bounds__(SMALL_THREADS, 3)
    experts_gemm_16(const __grid_constant__ ExpertsGemmParams p) {
  experts_gemm_small<16>(p);
}

extern "C" __global__ void __launch_bounds__(SMALL_THREADS, 2)
    experts_gemm_64(const __grid_constant__ ExpertsGemmParams p) {
  experts_gemm_small<64>(p);
}

extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 1)
    experts_gemm_128(const __grid_constant__ ExpertsGemmParams p) {
  experts_gemm_large(p);
}
