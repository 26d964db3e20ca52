// Barriers that are missing or that not all threads reach. As in memory_faults.cu.
#include <cassert>

#include "ptx.cuh"

// A warp reads what it should have been told of by the warp before it.
template <bool kWrong>
__global__ void missing_barrier_before_read(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[128];
  tile[threadIdx.x] = in[threadIdx.x];
  if (!kWrong) {
    __syncthreads();
  }
  if (threadIdx.x >= 32) {
    out[threadIdx.x] = tile[threadIdx.x - 32];  // FAULT missing_barrier_before_read
  }
}

// The tile is used again while others still read it.
template <bool kWrong>
__global__ void missing_barrier_before_reuse(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[128];
  uint32_t sum = 0;
  for (uint32_t step = 0; step < 4; ++step) {
    tile[threadIdx.x] = in[128 * step + threadIdx.x];  // FAULT missing_barrier_before_reuse
    __syncthreads();
    sum += tile[(threadIdx.x + 32) % 128];
    if (!kWrong) {
      __syncthreads();
    }
  }
  out[threadIdx.x] = sum;
}

// All write to one place.
template <bool kWrong>
__global__ void two_writers(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t largest;
  if (threadIdx.x == 0 || kWrong) {
    largest = in[threadIdx.x];  // FAULT two_writers
  }
  __syncthreads();
  out[threadIdx.x] = largest;
}

template <bool kWrong>
__global__ void missing_warp_barrier(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  if (!kWrong) {
    __syncwarp();
  }
  out[threadIdx.x] = tile[threadIdx.x ^ 1];  // FAULT missing_warp_barrier
}

// A tree of sums inside of one warp, as it was written for GPUs whose lanes ran in step.
template <bool kWrong>
__global__ void sum_in_step(const uint32_t* in, uint32_t* out) {
  __shared__ volatile uint32_t sums[64];
  sums[threadIdx.x] = in[threadIdx.x];
  sums[threadIdx.x + 32] = 0;
  __syncwarp();
  for (uint32_t step = 16; step > 0; step /= 2) {
    const uint32_t other = sums[threadIdx.x + step];
    if (!kWrong) {
      __syncwarp();
    }
    sums[threadIdx.x] = sums[threadIdx.x] + other;  // FAULT sum_in_step
    if (!kWrong) {
      __syncwarp();
    }
  }
  out[threadIdx.x] = sums[threadIdx.x];
}

// An ordinary read beside atomic additions.
template <bool kWrong>
__global__ void read_beside_atomics(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t sum;
  if (threadIdx.x == 0) {
    sum = 0;
  }
  __syncthreads();
  atomicAdd(&sum, in[threadIdx.x]);
  if (!kWrong) {
    __syncthreads();
  }
  out[threadIdx.x] = sum;  // FAULT read_beside_atomics
}

template <bool kWrong>
__global__ void barrier_for_some_lanes(const uint32_t* in, uint32_t* out) {
  if (!kWrong || in[threadIdx.x] < 16) {
    __syncthreads();  // FAULT barrier_for_some_lanes
  }
  out[threadIdx.x] = 1;
}

// Whole warps may go, a part of one may not.
template <bool kWrong>
__global__ void barrier_after_return(const uint32_t* in, uint32_t* out) {
  if (in[threadIdx.x] >= (kWrong ? 40 : 32)) {
    return;
  }
  __syncthreads();  // FAULT barrier_after_return
  out[threadIdx.x] = 1;
}

// The other lanes go on to another barrier.
template <bool kWrong>
__global__ void barriers_on_two_ways(const uint32_t* in, uint32_t* out) {
  if (kWrong && in[threadIdx.x] >= 64 + 16) {
    out[threadIdx.x] = 2;
    __syncthreads();
    out[threadIdx.x] = 3;
  } else {
    __syncthreads();  // FAULT barriers_on_two_ways
  }
}

// Two of four warps do not come; they wait for what the others do after the barrier.
template <bool kWrong>
__global__ void barrier_for_some_warps(const uint32_t* in, uint32_t* out) {
  __shared__ uint64_t ready;
  __shared__ uint32_t value;
  if (threadIdx.x == 0) {
    mbarrier_init(&ready, 64);
  }
  __syncthreads();
  if (threadIdx.x < 64 || !kWrong) {
    __syncthreads();  // FAULT barrier_for_some_warps
  }
  if (threadIdx.x < 64) {
    if (threadIdx.x == 0) {
      value = in[7];
    }
    mbarrier_arrive(&ready);
  } else {
    mbarrier_wait(&ready, 0);
    out[threadIdx.x] = value;
  }
}

template <bool kWrong>
__global__ void named_barrier_of_part_of_a_warp(const uint32_t* in, uint32_t* out) {
  named_barrier(1, kWrong ? in[48] : 64);  // FAULT named_barrier_of_part_of_a_warp
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void named_barrier_with_two_counts(const uint32_t* in, uint32_t* out) {
  if (threadIdx.x < 32) {
    named_barrier<1, 64>();
  } else {
    named_barrier<1, kWrong ? 96 : 64>();  // FAULT named_barrier_with_two_counts
  }
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void named_barrier_of_too_many(const uint32_t* in, uint32_t* out) {
  named_barrier<1, kWrong ? 96 : 64>();  // FAULT named_barrier_of_too_many
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kWrong>
__global__ void shuffle_outside_of_its_mask(const uint32_t* in, uint32_t* out) {
  const uint32_t mask = kWrong ? 0xffff : 0xffffffff;
  out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);  // FAULT shuffle_outside_of_its_mask
}

template <bool kWrong>
__global__ void shuffle_with_two_masks(const uint32_t* in, uint32_t* out) {
  const uint32_t mask = kWrong ? 1u << in[threadIdx.x] | 1 : 0xffffffff;
  out[threadIdx.x] = __shfl_sync(mask, in[threadIdx.x], 0);  // FAULT shuffle_with_two_masks
}

// Half of the lanes wait for the other half, which has gone to the block's barrier.
template <bool kWrong>
__global__ void warp_barrier_for_some_lanes(const uint32_t* in, uint32_t* out) {
  if (in[threadIdx.x] < 16) {
    out[threadIdx.x] = 1;
    __syncwarp(kWrong ? 0xffffffff : 0x0000ffff);  // FAULT warp_barrier_for_some_lanes
  }
  __syncthreads();
  out[threadIdx.x] = 2;
}

template <bool kWrong>
__global__ void assertion(const uint32_t* in, uint32_t* out) {
  assert(!kWrong || in[threadIdx.x] != 70);  // FAULT assertion
  out[threadIdx.x] = 1;
}

#define BOTH(name) \
  template __global__ void name<true>(const uint32_t*, uint32_t*); \
  template __global__ void name<false>(const uint32_t*, uint32_t*)
BOTH(missing_barrier_before_read);
BOTH(missing_barrier_before_reuse);
BOTH(two_writers);
BOTH(missing_warp_barrier);
BOTH(sum_in_step);
BOTH(read_beside_atomics);
BOTH(barrier_for_some_lanes);
BOTH(barrier_after_return);
BOTH(barriers_on_two_ways);
BOTH(barrier_for_some_warps);
BOTH(named_barrier_of_part_of_a_warp);
BOTH(named_barrier_with_two_counts);
BOTH(named_barrier_of_too_many);
BOTH(shuffle_outside_of_its_mask);
BOTH(shuffle_with_two_masks);
BOTH(warp_barrier_for_some_lanes);
BOTH(assertion);
