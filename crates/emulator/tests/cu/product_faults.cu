// Matrix products whose operands or results are touched at the wrong time, and blocks of a cluster that do not wait for
// each other. As in memory_faults.cu.
#include "ptx.cuh"

constexpr uint32_t kOne = 0x3f803f80;  // two bf16

// The lower half of A is never written.
template <bool kWrong>
__global__ void unwritten_fragment_rows(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t a_tile[16][8];
  for (uint32_t i = threadIdx.x; i < (kWrong ? 8 : 16) * 8; i += 32) {
    a_tile[i / 8][i % 8] = in[i] == i ? kOne : 0;
  }
  __syncwarp();
  const uint32_t row = threadIdx.x / 4, column = threadIdx.x % 4;
  const uint32_t a0 = a_tile[row][column], a2 = a_tile[row][column + 4];
  const uint32_t a1 = a_tile[row + 8][column];  // FAULT unwritten_fragment_rows
  const uint32_t a3 = a_tile[row + 8][column + 4];
  const uint32_t a[4] = {a0, a1, a2, a3};
  const uint32_t b[2] = {kOne, kOne};
  float d[4] = {};
  mma_m16n8k16(d, a, b);
  out[threadIdx.x] = uint32_t(d[0] + d[3]);
}

// A and B of a product of a warp group, both of ones.
struct Operands {
  uint32_t a[64 * 8];
  uint32_t b[8 * 8];

  __device__ void fill(const uint32_t* in) {
    for (uint32_t i = threadIdx.x; i < 64 * 8; i += 128) {
      a[i] = in[i] == i ? kOne : 0;
    }
    if (threadIdx.x < 64) {
      b[threadIdx.x] = kOne;
    }
  }
  __device__ uint64_t descriptor_a() const { return matrix_descriptor(a, 1024, 128); }
  __device__ uint64_t descriptor_b() const { return matrix_descriptor(b, 128, 128); }
};

template <bool kWrong>
__global__ void product_without_proxy_fence(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  operands.fill(in);
  if (!kWrong) {
    fence_proxy_async();
  }
  __syncthreads();
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());  // FAULT product_without_proxy_fence
  wgmma_commit();
  wgmma_wait();
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]);
}

template <bool kWrong>
__global__ void product_without_fence(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  operands.fill(in);
  fence_proxy_async();
  __syncthreads();
  float d[4] = {};
  if (!kWrong) {
    wgmma_fence();
  }
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());  // FAULT product_without_fence
  wgmma_commit();
  wgmma_wait();
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]);
}

template <bool kWrong>
__global__ void accumulators_before_wait(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  operands.fill(in);
  fence_proxy_async();
  __syncthreads();
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());
  wgmma_commit();
  if (!kWrong) {
    wgmma_wait();
  }
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]);  // FAULT accumulators_before_wait
  wgmma_wait();
}

template <bool kWrong>
__global__ void operand_overwritten_before_wait(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  operands.fill(in);
  fence_proxy_async();
  __syncthreads();
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());
  wgmma_commit();
  if (!kWrong) {
    wgmma_wait();
    __syncthreads();
  }
  operands.a[threadIdx.x] = in[threadIdx.x];  // FAULT operand_overwritten_before_wait
  wgmma_wait();
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]);
}

// The next tile is fetched into the place of one that a product still reads.
template <bool kWrong>
__global__ void stage_refilled_before_wait(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
  }
  operands.fill(in);
  fence_proxy_async();
  __syncthreads();
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());
  wgmma_commit();
  if (!kWrong) {
    wgmma_wait();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&full, sizeof(operands.a));
    bulk_load(operands.a, in, sizeof(operands.a), &full);  // FAULT stage_refilled_before_wait
  }
  wgmma_wait();
  mbarrier_wait(&full, 0);
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]) + operands.a[threadIdx.x];
}

// Every warp has waited for its own product, but not for those of the other warps.
template <bool kWrong>
__global__ void operand_overwritten_without_barrier(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) Operands operands;
  operands.fill(in);
  fence_proxy_async();
  __syncthreads();
  float d[4] = {};
  wgmma_fence();
  wgmma_m64n8k16(d, operands.descriptor_a(), operands.descriptor_b());
  wgmma_commit();
  wgmma_wait();
  if (!kWrong) {
    __syncthreads();
  }
  if (threadIdx.x < 64) {
    operands.b[threadIdx.x] = in[threadIdx.x];  // FAULT operand_overwritten_without_barrier
  }
  out[threadIdx.x] = uint32_t(d[0] + d[1] + d[2] + d[3]);
}

// ---- clusters of two blocks

template <bool kWrong>
__global__ void remote_read_without_barrier(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  cluster_arrive();
  cluster_wait();
  tile[threadIdx.x] += 1;  // FAULT remote_read_without_barrier
  if (!kWrong) {
    cluster_arrive();
    cluster_wait();
  }
  const uint32_t other = remote_address(tile + threadIdx.x, cluster_rank() ^ 1);
  out[32 * blockIdx.x + threadIdx.x] = load_remote(other);
  cluster_arrive();
  cluster_wait();
}

// Block 0 reads from block 1, which has done its work and exits.
template <bool kWrong>
__global__ void remote_read_of_an_exited_block(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  cluster_arrive();
  cluster_wait();
  if (cluster_rank() == 0) {
    const uint32_t other = remote_address(tile + threadIdx.x, 1);
    out[threadIdx.x] = load_remote(other);  // FAULT remote_read_of_an_exited_block
  }
  if (!kWrong) {
    cluster_arrive();
    cluster_wait();
  }
}

// The other way round: block 1 happens to read before block 0 exits.
template <bool kWrong>
__global__ void exit_beside_a_remote_read(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  cluster_arrive();
  cluster_wait();
  if (cluster_rank() == 1) {
    const uint32_t other = remote_address(tile + threadIdx.x, 0);
    out[threadIdx.x] = load_remote(other);
  }
  if (!kWrong) {
    cluster_arrive();
    cluster_wait();
  }
}  // FAULT exit_beside_a_remote_read

// Block 1 tells block 0 that it is done, and does not care whether that one is still there.
template <bool kWrong>
__global__ void exit_beside_a_remote_arrival(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t done;
  if (threadIdx.x == 0) {
    mbarrier_init(&done, 32);
    mbarrier_fence_init();
  }
  cluster_arrive();
  cluster_wait();
  if (cluster_rank() == 1) {
    mbarrier_arrive_remote(&done, 0);
  } else if (!kWrong) {
    mbarrier_wait(&done, 0);
  }
  out[32 * blockIdx.x + threadIdx.x] = in[threadIdx.x];
}  // FAULT exit_beside_a_remote_arrival

// The data arrives where another block's data may already be.
template <bool kWrong>
__global__ void exit_beside_a_bulk_load(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile));
    bulk_load(tile, in, sizeof(tile), &full);
  }
  __syncthreads();
  if (!kWrong) {
    mbarrier_wait(&full, 0);
  }
  out[threadIdx.x] = 1;
}  // FAULT exit_beside_a_bulk_load

template <bool kWrong>
__global__ void remote_block_that_is_not_there(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  cluster_arrive();
  cluster_wait();
  const uint32_t other = remote_address(tile + threadIdx.x, kWrong ? 2 : 1);  // FAULT remote_block_that_is_not_there
  out[32 * blockIdx.x + threadIdx.x] = load_remote(other);
  cluster_arrive();
  cluster_wait();
}

// Block 1 does not come.
template <bool kWrong>
__global__ void cluster_barrier_of_one_block(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t never;
  if (threadIdx.x == 0) {
    mbarrier_init(&never, 1);
    mbarrier_fence_init();
  }
  __syncthreads();
  if (kWrong && cluster_rank() == 1) {
    mbarrier_wait(&never, 0);
  }
  cluster_arrive();
  cluster_wait();  // FAULT cluster_barrier_of_one_block
  out[32 * blockIdx.x + threadIdx.x] = in[threadIdx.x];
}

#define BOTH(name) \
  template __global__ void name<true>(const uint32_t*, uint32_t*); \
  template __global__ void name<false>(const uint32_t*, uint32_t*)
BOTH(unwritten_fragment_rows);
BOTH(product_without_proxy_fence);
BOTH(product_without_fence);
BOTH(accumulators_before_wait);
BOTH(operand_overwritten_before_wait);
BOTH(stage_refilled_before_wait);
BOTH(operand_overwritten_without_barrier);
BOTH(remote_read_without_barrier);
BOTH(remote_read_of_an_exited_block);
BOTH(exit_beside_a_remote_read);
BOTH(exit_beside_a_remote_arrival);
BOTH(exit_beside_a_bulk_load);
BOTH(remote_block_that_is_not_there);
BOTH(cluster_barrier_of_one_block);
