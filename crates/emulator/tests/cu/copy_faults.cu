// Copies that nobody waits for, and barriers in memory that are used wrongly. As in memory_faults.cu.
#include "ptx.cuh"

template <bool kWrong>
__global__ void missing_copy_wait(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t tile[128];
  copy_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
  copy_async_commit();
  if (!kWrong) {
    copy_async_wait<0>();
  }
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];  // FAULT missing_copy_wait
}

// Two stages: the wait lets the group that is read be under way.
template <bool kWrong>
__global__ void copy_wait_keeps_too_many(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t tile[2][128];
  uint32_t sum = 0;
  copy_async_16(tile[0] + 4 * threadIdx.x, in + 4 * threadIdx.x);
  copy_async_commit();
  for (uint32_t step = 0; step < 4; ++step) {
    copy_async_16(tile[(step + 1) % 2] + 4 * threadIdx.x, in + 128 * (step + 1) + 4 * threadIdx.x);
    copy_async_commit();
    copy_async_wait<kWrong ? 2 : 1>();
    __syncthreads();
    sum += tile[step % 2][threadIdx.x];  // FAULT copy_wait_keeps_too_many
    __syncthreads();
  }
  out[threadIdx.x] = sum;
  copy_async_wait<0>();
}

// The wait is each thread's own: others learn of it by a barrier.
template <bool kWrong>
__global__ void copy_wait_without_barrier(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t tile[256];
  copy_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
  copy_async_commit();
  copy_async_wait<0>();
  if (!kWrong) {
    __syncthreads();
  }
  out[threadIdx.x] = tile[threadIdx.x];  // FAULT copy_wait_without_barrier
}

template <bool kWrong>
__global__ void bulk_load_without_wait(const uint32_t* in, uint32_t* out) {
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
  out[threadIdx.x] = tile[threadIdx.x];  // FAULT bulk_load_without_wait
}

// The phase before the first one counts as over.
template <bool kWrong>
__global__ void wait_for_the_wrong_parity(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile));
    bulk_load(tile, in, sizeof(tile), &full);
  }
  __syncthreads();
  mbarrier_wait(&full, kWrong ? 1 : 0);
  out[threadIdx.x] = tile[threadIdx.x];  // FAULT wait_for_the_wrong_parity
}

// The same in a loop: the parity does not turn with the phase.
template <bool kWrong>
__global__ void parity_that_does_not_turn(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
  }
  __syncthreads();
  uint32_t sum = 0;
  for (uint32_t step = 0; step < 4; ++step) {
    if (threadIdx.x == 0) {
      fence_proxy_async();
      mbarrier_arrive_expect(&full, sizeof(tile));
      bulk_load(tile, in + 64 * step, sizeof(tile), &full);  // FAULT parity_that_does_not_turn
    }
    mbarrier_wait(&full, kWrong ? 0 : step % 2);
    sum += tile[threadIdx.x];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kWrong>
__global__ void too_few_bytes_expected(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, kWrong ? sizeof(tile) / 2 : sizeof(tile));
    bulk_load(tile, in, sizeof(tile), &full);
  }
  __syncthreads();
  mbarrier_wait(&full, 0);  // FAULT too_few_bytes_expected
  out[threadIdx.x] = tile[threadIdx.x];
}

template <bool kWrong>
__global__ void too_many_bytes_expected(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&full, sizeof(tile) + (kWrong ? 16 : 0));
    bulk_load(tile, in, sizeof(tile), &full);
  }
  __syncthreads();
  mbarrier_wait(&full, 0);  // FAULT too_many_bytes_expected
  out[threadIdx.x] = tile[threadIdx.x];
}

// The others do not know that the barrier is there.
template <bool kWrong>
__global__ void mbarrier_without_block_barrier(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t ready;
  if (threadIdx.x == 0) {
    mbarrier_init(&ready, 64);
    mbarrier_fence_init();
  }
  if (!kWrong) {
    __syncthreads();
  }
  mbarrier_arrive(&ready);  // FAULT mbarrier_without_block_barrier
  mbarrier_wait(&ready, 0);
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void mbarrier_without_init(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t ready;
  if (threadIdx.x == 0 && !kWrong) {
    mbarrier_init(&ready, 64);
  }
  __syncthreads();
  mbarrier_arrive(&ready);  // FAULT mbarrier_without_init
  mbarrier_wait(&ready, 0);
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void too_many_arrivals(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t ready;
  if (threadIdx.x == 0) {
    mbarrier_init(&ready, 64);
  }
  __syncthreads();
  mbarrier_arrive(&ready, kWrong ? 3 : 1);  // FAULT too_many_arrivals
  mbarrier_wait(&ready, 0);
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void too_few_arrivals(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t ready;
  if (threadIdx.x == 0) {
    mbarrier_init(&ready, kWrong ? 65 : 64);
  }
  __syncthreads();
  mbarrier_arrive(&ready);
  mbarrier_wait(&ready, 0);  // FAULT too_few_arrivals
  out[threadIdx.x] = in[threadIdx.x];
}

// The stage is filled again before the consumers have said that they are done with it.
template <bool kWrong>
__global__ void stage_filled_too_early(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full, empty;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_init(&empty, 64);
    mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x == 64) {
    for (uint32_t step = 0; step < 4; ++step) {
      mbarrier_wait(&empty, kWrong ? 1 : (step + 1) % 2);
      mbarrier_arrive_expect(&full, sizeof(tile));  // FAULT stage_filled_too_early
      bulk_load(tile, in + 64 * step, sizeof(tile), &full);
    }
  } else if (threadIdx.x < 64) {
    uint32_t sum = 0;
    for (uint32_t step = 0; step < 4; ++step) {
      mbarrier_wait(&full, step % 2);
      sum += tile[threadIdx.x];
      mbarrier_arrive(&empty);
    }
    out[threadIdx.x] = sum;
  }
}

template <bool kWrong>
__global__ void bulk_store_without_fence(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  if (!kWrong) {
    fence_proxy_async();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(out, tile, sizeof(tile));  // FAULT bulk_store_without_fence
    bulk_commit();
    bulk_wait_read();
  }
}

template <bool kWrong>
__global__ void bulk_store_overwritten(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  for (uint32_t step = 0; step < 2; ++step) {
    tile[threadIdx.x] = in[64 * step + threadIdx.x];  // FAULT bulk_store_overwritten
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
      bulk_store(out + 64 * step, tile, sizeof(tile));
      bulk_commit();
      if (!kWrong || step == 1) {
        bulk_wait_read();
      }
    }
    __syncthreads();
  }
}

template <bool kWrong>
__global__ void exit_before_bulk_store(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(out, tile, sizeof(tile));
    bulk_commit();
    if (!kWrong) {
      bulk_wait_read();
    }
  }
}  // FAULT exit_before_bulk_store

template <bool kWrong>
__global__ void bulk_copy_of_odd_size(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(128) uint32_t tile[64];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
    const uint32_t bytes = kWrong ? 100 : 112;
    mbarrier_arrive_expect(&full, bytes);
    bulk_load(tile, in, bytes, &full);  // FAULT bulk_copy_of_odd_size
  }
  __syncthreads();
  mbarrier_wait(&full, 0);
  if (threadIdx.x < 25) {
    out[threadIdx.x] = tile[threadIdx.x];
  }
}

#define BOTH(name) \
  template __global__ void name<true>(const uint32_t*, uint32_t*); \
  template __global__ void name<false>(const uint32_t*, uint32_t*)
BOTH(missing_copy_wait);
BOTH(copy_wait_keeps_too_many);
BOTH(copy_wait_without_barrier);
BOTH(bulk_load_without_wait);
BOTH(wait_for_the_wrong_parity);
BOTH(parity_that_does_not_turn);
BOTH(too_few_bytes_expected);
BOTH(too_many_bytes_expected);
BOTH(mbarrier_without_block_barrier);
BOTH(mbarrier_without_init);
BOTH(too_many_arrivals);
BOTH(too_few_arrivals);
BOTH(stage_filled_too_early);
BOTH(bulk_store_without_fence);
BOTH(bulk_store_overwritten);
BOTH(exit_before_bulk_store);
BOTH(bulk_copy_of_odd_size);
