// Right programs whose parts run beside one another: copies, warps with tasks of their own, clusters, matrix products.
// `in` holds 0, 1, 2, ..., and `out` zeros.
#include "ptx.cuh"

#define KERNEL(name) extern "C" __global__ void name(const uint32_t* in, uint32_t* out)

constexpr uint32_t kStages = 3, kTiles = 20, kTileWords = 128;

// One warp loads tiles, four use them. The phases of the barriers wrap many times.
KERNEL(producer_and_consumers) {
  __shared__ __align__(128) uint32_t tiles[kStages][kTileWords];
  __shared__ uint64_t full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      mbarrier_init(&full[stage], 1);
      mbarrier_init(&empty[stage], 4);
    }
    mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x == 128) {
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        const uint32_t stage = tile % kStages, round = tile / kStages;
        mbarrier_wait(&empty[stage], (round + 1) % 2);
        mbarrier_arrive_expect(&full[stage], kTileWords * 4);
        // In two parts, which report to the same barrier.
        bulk_load(tiles[stage], in + kTileWords * tile, kTileWords * 2, &full[stage]);
        bulk_load(tiles[stage] + kTileWords / 2, in + kTileWords * tile + kTileWords / 2, kTileWords * 2, &full[stage]);
      }
    }
  } else {
    uint32_t sum = 0;
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const uint32_t stage = tile % kStages, round = tile / kStages;
      mbarrier_wait(&full[stage], round % 2);
      sum = sum * 3 + tiles[stage][(threadIdx.x + tile) % kTileWords];
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(&empty[stage]);
      }
    }
    out[threadIdx.x] = sum;
  }
}

// The same with copies by each thread of a warp, and consumers of which one lane waits for its warp.
KERNEL(copies_that_arrive) {
  __shared__ __align__(16) uint32_t tiles[2][128];
  __shared__ uint64_t full[2], empty[2];
  if (threadIdx.x < 2) {
    mbarrier_init(&full[threadIdx.x], 32);
    mbarrier_init(&empty[threadIdx.x], 2);
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32;
  uint32_t sum = 0;
  for (uint32_t tile = 0; tile < 9; ++tile) {
    const uint32_t stage = tile % 2, parity = tile / 2 % 2;
    if (threadIdx.x >= 64) {
      mbarrier_wait(&empty[stage], parity ^ 1);
      copy_async_16(tiles[stage] + 4 * lane, in + 128 * tile + 4 * lane);
      copy_async_arrive(&full[stage]);
    } else {
      if (lane == 0) {
        mbarrier_wait(&full[stage], parity);
      }
      __syncwarp();
      sum = sum * 3 + tiles[stage][127 - threadIdx.x];
      __syncwarp();
      if (lane == 0) {
        mbarrier_arrive(&empty[stage]);
      }
    }
  }
  if (threadIdx.x < 64) {
    out[threadIdx.x] = sum;
  }
}

// Two pairs of warps hand a buffer to and fro: the first fills, the second empties.
KERNEL(pairs_of_warps) {
  __shared__ uint32_t buffer[64];
  constexpr int kFull = 1, kEmpty = 2;
  if (threadIdx.x < 64) {
    for (uint32_t step = 0; step < 6; ++step) {
      if (step > 0) {
        named_barrier<kEmpty, 128>();
      }
      buffer[threadIdx.x] = in[64 * step + threadIdx.x];
      named_barrier_arrive<kFull, 128>();
    }
  } else {
    uint32_t sum = 0;
    for (uint32_t step = 0; step < 6; ++step) {
      named_barrier<kFull, 128>();
      sum = sum * 5 + buffer[127 - threadIdx.x];
      if (step < 5) {
        named_barrier_arrive<kEmpty, 128>();
      }
    }
    out[threadIdx.x - 64] = sum;
  }
}

// Each block adds up what the others of its cluster hold. Between arrival and wait it does something else.
KERNEL(cluster_sum) {
  __shared__ uint32_t tile[64];
  const uint32_t i = 64 * blockIdx.x + threadIdx.x;
  tile[threadIdx.x] = in[i];
  cluster_arrive();
  uint32_t sum = in[threadIdx.x] * 1000;
  cluster_wait();
  uint32_t num_blocks;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(num_blocks));
  for (uint32_t step = 1; step < num_blocks; ++step) {
    const uint32_t rank = (cluster_rank() + step) % num_blocks;
    sum = sum + step * load_remote(remote_address(&tile[63 - threadIdx.x], rank));
  }
  cluster_arrive();
  out[i] = sum;
  cluster_wait();
}

// Every block tells the first one by its barrier, which waits for all; then by the cluster's barrier all may go.
KERNEL(cluster_arrivals) {
  __shared__ uint64_t done;
  __shared__ uint32_t received[4 * 32];
  if (threadIdx.x == 0) {
    mbarrier_init(&done, 4 * 32);
    mbarrier_fence_init();
  }
  cluster_arrive();
  cluster_wait();
  const uint32_t place = remote_address(&received[32 * cluster_rank() + threadIdx.x], 0);
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(place), "r"(in[32 * blockIdx.x + threadIdx.x]) : "memory");
  mbarrier_arrive_remote(&done, 0);
  if (cluster_rank() == 0) {
    mbarrier_wait(&done, 0);
    for (uint32_t row = 0; row < 4; ++row) {
      out[32 * (blockIdx.x + row) + threadIdx.x] = received[32 * row + 31 - threadIdx.x];
    }
  }
}

// ---- tensor maps

struct alignas(64) TensorMap {
  uint8_t bytes[128];
};

__device__ __forceinline__ void tensor_load(void* to, const TensorMap* map, int32_t x, int32_t y, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void tensor_load(void* to, const TensorMap* map, int32_t x, int32_t y, int32_t z,
                                            uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void tensor_load_multicast(void* to, const TensorMap* map, int32_t x, int32_t y,
                                                      uint64_t* barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier)), "h"(ranks)
      : "memory");
}

__device__ __forceinline__ void tensor_store(const TensorMap* map, int32_t x, int32_t y, const void* from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
               "r"(y), "r"(shared_address(from))
               : "memory");
}

__device__ __forceinline__ void tensor_store(const TensorMap* map, int32_t x, int32_t y, int32_t z, const void* from) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map),
               "r"(x), "r"(y), "r"(z), "r"(shared_address(from))
               : "memory");
}

// A box of 8 rows, each as wide as `kWidth` words: loaded, looked at as it lies, and stored elsewhere.
template <uint32_t kWidth>
__device__ __forceinline__ void copy_box(const TensorMap* from, const TensorMap* to, int32_t x, int32_t y,
                                         uint32_t* out) {
  __shared__ __align__(1024) uint32_t tile[8 * kWidth];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile));
    tensor_load(tile, from, x, y, &full);
  }
  __syncthreads();
  mbarrier_wait(&full, 0);
  for (uint32_t i = threadIdx.x; i < 8 * kWidth; i += blockDim.x) {
    out[i] = tile[i];
  }
  if (threadIdx.x == 0) {
    tensor_store(to, x, y, tile);
    bulk_commit();
    bulk_wait_read();
  }
}

extern "C" __global__ void copy_box_32(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                                       int32_t x, int32_t y, uint32_t* out) {
  copy_box<8>(&from, &to, x, y, out);
}
extern "C" __global__ void copy_box_64(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                                       int32_t x, int32_t y, uint32_t* out) {
  copy_box<16>(&from, &to, x, y, out);
}
extern "C" __global__ void copy_box_128(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                                        int32_t x, int32_t y, uint32_t* out) {
  copy_box<32>(&from, &to, x, y, out);
}

// A box of 4 x 3 x 2 words that is changed in between.
extern "C" __global__ void change_box(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                                      int32_t x, int32_t y, int32_t z) {
  __shared__ __align__(128) uint32_t tile[2 * 3 * 4];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile));
    tensor_load(tile, &from, x, y, z, &full);
  }
  __syncwarp();
  mbarrier_wait(&full, 0);
  if (threadIdx.x < 24) {
    tile[threadIdx.x] += 1000;
  }
  fence_proxy_async();
  __syncwarp();
  if (threadIdx.x == 0) {
    tensor_store(&to, x, y, z, tile);
    bulk_commit();
    bulk_wait_read();
  }
}

// Each of two blocks loads half of a tile for both.
extern "C" __global__ void __cluster_dims__(2, 1, 1) multicast(const __grid_constant__ TensorMap from, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[2][8 * 8];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile));
  }
  cluster_arrive();
  cluster_wait();
  const uint32_t rank = cluster_rank();
  if (threadIdx.x == 0) {
    tensor_load_multicast(tile[rank], &from, 8 * rank, 8 * (blockIdx.x / 2), &full, 3);
  }
  mbarrier_wait(&full, 0);
  out[128 * blockIdx.x + threadIdx.x] = tile[threadIdx.x / 64][threadIdx.x % 64];
  cluster_arrive();
  cluster_wait();
}

// Rows that end inside of a copy are filled with zeros.
KERNEL(copy_with_zeros) {
  __shared__ __align__(16) uint32_t tile[128];
  const uint32_t left = 4 * (in[threadIdx.x] % 5);
  copy_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x, left);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < 128; i += 32) {
    out[i] = tile[i];
  }
}

// A matrix of 16 x 16 halfwords: loaded transposed, and stored as it is.
KERNEL(transpose) {
  __shared__ __align__(16) uint16_t from[16][16], to[16][16];
  for (uint32_t i = threadIdx.x; i < 256; i += 32) {
    from[i / 16][i % 16] = uint16_t(in[i]);
  }
  __syncwarp();
  // Matrices 1 and 2 of the four trade places.
  const uint32_t row = threadIdx.x % 8 + threadIdx.x / 16 * 8, column = threadIdx.x / 8 % 2 * 8;
  uint32_t a[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(shared_address(&from[row][column]))
               : "memory");
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(&to[row][column])),
               "r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3])
               : "memory");
  __syncwarp();
  for (uint32_t i = threadIdx.x; i < 256; i += 32) {
    out[i] = to[i / 16][i % 16];
  }
}

// D[64, 8] = A[64, 16] B[16, 8], with A in shared memory and again in registers, added up. `in` holds A and then B
// transposed, two bf16 in each word.
extern "C" __global__ void products(const uint32_t* in, float* out) {
  __shared__ __align__(128) uint32_t a_tile[64 * 8];
  __shared__ __align__(128) uint32_t b_tile[8 * 8];
  // Without a swizzle: pieces of 16 bytes, those of eight rows side by side, then the other half of K.
  for (uint32_t i = threadIdx.x; i < 64 * 8; i += 128) {
    const uint32_t row = i / 8, word = i % 8;
    a_tile[row % 8 * 4 + row / 8 * 32 + word / 4 * 256 + word % 4] = in[i];
  }
  if (threadIdx.x < 64) {
    const uint32_t column = threadIdx.x / 8, word = threadIdx.x % 8;
    b_tile[column * 4 + word / 4 * 32 + word % 4] = in[512 + threadIdx.x];
  }
  fence_proxy_async();
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, pair = lane % 4;
  const uint32_t a[4] = {in[8 * row + pair], in[8 * (row + 8) + pair], in[8 * row + pair + 4],
                         in[8 * (row + 8) + pair + 4]};
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, matrix_descriptor(a_tile, 1024, 128), matrix_descriptor(b_tile, 128, 128));
  wgmma_m64n8k16(d, a, matrix_descriptor(b_tile, 128, 128));
  wgmma_commit();
  wgmma_wait();
  for (uint32_t i = 0; i < 4; ++i) {
    out[8 * (row + i / 2 * 8) + 2 * pair + i % 2] = d[i];
  }
}
