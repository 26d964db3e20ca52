// Right programs that go many ways: loops, branches, warps, blocks and grids of all shapes. `in` holds 0, 1, 2, ..., and
// `out` zeros.
#include "ptx.cuh"

#define KERNEL(name) extern "C" __global__ void name(const uint32_t* in, uint32_t* out)

// Loops of different lengths, left and continued in different ways.
KERNEL(trip_counts) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  uint32_t x = in[i], steps = 0;
  if (x == 13) {
    out[i] = 99;
    return;
  }
  while (true) {
    if (x <= 1) {
      break;
    }
    ++steps;
    if (x % 2 != 0) {
      x = 3 * x + 1;
      continue;
    }
    x /= 2;
    if (steps > 60) {
      break;
    }
  }
  out[i] = 1000 * steps + x;
}

// Ways that part twice, meet at the warp's barrier, and a shuffle of what each has found.
KERNEL(nested_ways) {
  const uint32_t i = threadIdx.x, lane = i % 32;
  uint32_t value = in[i];
  if (lane % 2 == 1) {
    if (lane % 4 == 3) {
      for (uint32_t k = 0; k < in[lane]; ++k) {
        value += in[k] ^ value;
      }
    } else {
      value *= 3;
    }
  } else if (lane % 3 == 0) {
    value ^= 0x55;
  } else {
    do {
      value += 7;
    } while (value % 5 != 0);
  }
  __syncwarp();
  out[i] = value + __shfl_xor_sync(0xffffffff, value, 5);
}

KERNEL(choose) {
  uint32_t value = in[threadIdx.x];
#pragma unroll 1
  for (uint32_t round = 0; round < 3; ++round) {
    switch (value % 13) {
      case 0: out[threadIdx.x + 128] += value; break;
      case 1: value = value * 5 + 1; break;
      case 2: value ^= in[value % 64]; break;
      case 3: value = __brev(value) >> 20; break;
      case 4: value = value / 3; [[fallthrough]];
      case 5: value += out[threadIdx.x + 128]; break;
      case 6: value -= 2; out[threadIdx.x + 128] += value; break;
      case 7: value = __popc(value); break;
      case 8: out[threadIdx.x + 128] = 17; break;
      case 9: value += in[value % 32] * 3; break;
      case 10: value = value << 2 | value >> 30; break;
      case 11: value = out[threadIdx.x + 128] ^ 5; break;
    }
  }
  out[threadIdx.x] = value;
}

// nvcc makes comparisons of the above; a table of targets is written by hand.
KERNEL(choose_by_table) {
  uint32_t value = in[threadIdx.x];
  asm volatile(
      "{\n"
      ".reg .b32 index;\n"
      "rem.u32 index, %0, 3;\n"
      "targets: .branchtargets first, second, third;\n"
      "brx.idx index, targets;\n"
      "first: add.u32 %0, %0, 1000; bra over;\n"
      "second: mul.lo.u32 %0, %0, 7;\n"
      "third: add.u32 %0, %0, 1;\n"
      "over:\n"
      "}\n"
      : "+r"(value));
  out[threadIdx.x] = value;
}

// Each lane takes a lock that another lane of its warp may hold.
KERNEL(lane_lock) {
  volatile uint32_t* sum = out + 1;
  while (atomicCAS(out, 0, 1) != 0) {
  }
  __threadfence();
  *sum = *sum + in[threadIdx.x];
  __threadfence();
  atomicExch(out, 0);
}

// Into shared memory first, then from all blocks into one.
KERNEL(histogram) {
  __shared__ uint32_t counts[16];
  if (threadIdx.x < 16) {
    counts[threadIdx.x] = 0;
  }
  __syncthreads();
  const uint32_t value = in[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(&counts[value * 7 % 16 * (value % 3) % 16], 1);
  __syncthreads();
  if (threadIdx.x < 16) {
    atomicAdd(&out[threadIdx.x], counts[threadIdx.x]);
  }
}

// Additions of floats, a largest float by compare-and-swap, and 64 bits.
KERNEL(atomics) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const float value = float(in[i] % 100);
  atomicAdd(reinterpret_cast<float*>(out), value);
  uint32_t old = out[1];
  while (__uint_as_float(old) < value) {
    const uint32_t seen = atomicCAS(&out[1], old, __float_as_uint(value));
    if (seen == old) {
      break;
    }
    old = seen;
  }
  atomicAdd(reinterpret_cast<unsigned long long*>(out + 2), uint64_t(in[i]) << 24);
  atomicMax(reinterpret_cast<int*>(out + 4), int(in[i]) - 5000);
  atomicOr(out + 5, 1u << in[i] % 20);
}

// The block that is the last to be done adds up what all have stored.
KERNEL(last_block) {
  __shared__ bool is_last;
  __shared__ uint32_t sums[64];
  uint32_t* partial = out + 2;
  sums[threadIdx.x] = in[64 * blockIdx.x + threadIdx.x];
  __syncthreads();
  for (uint32_t step = 32; step > 0; step /= 2) {
    if (threadIdx.x < step) {
      sums[threadIdx.x] += sums[threadIdx.x + step];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sums[0];
    __threadfence();
    is_last = atomicInc(out, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    __threadfence();
    uint32_t sum = 0;
    for (uint32_t block = 0; block < gridDim.x; ++block) {
      sum += static_cast<volatile uint32_t*>(partial)[block];
    }
    out[1] = sum;
  }
}

KERNEL(three_dimensions) {
  const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const uint32_t at = block * blockDim.x * blockDim.y * blockDim.z + thread;
  atomicAdd(&out[at], blockIdx.x | blockIdx.y << 4 | blockIdx.z << 8 | threadIdx.x << 12 | threadIdx.y << 18 |
                          threadIdx.z << 24);
}

// Blocks of any size, the last warp of which may lack lanes.
KERNEL(votes_of_a_block) {
  const uint32_t value = in[threadIdx.x];
  out[4 * threadIdx.x] = __syncthreads_count(value % 3 == 1);
  out[4 * threadIdx.x + 1] = __syncthreads_or(value == blockDim.x - 1) != 0;
  out[4 * threadIdx.x + 2] = __syncthreads_and(value < blockDim.x - 1) != 0;
  __shared__ uint32_t reversed[1024];
  reversed[blockDim.x - 1 - threadIdx.x] = value;
  __syncthreads();
  out[4 * threadIdx.x + 3] = reversed[threadIdx.x];
}

KERNEL(shuffles) {
  const uint32_t lane = threadIdx.x;
  const uint32_t value = in[lane] * 10;
  uint32_t* row = out + 10 * lane;
  row[0] = __shfl_sync(0xffffffff, value, 3, 8);
  row[1] = __shfl_up_sync(0xffffffff, value, 2, 16);
  row[2] = __shfl_down_sync(0xffffffff, value, 3, 8);
  row[3] = __shfl_xor_sync(0xffffffff, value, 12, 8);
  row[4] = __shfl_xor_sync(0xffffffff, value, 12);
  row[5] = __ballot_sync(0xffffffff, value % 30 == 0);
  row[6] = __any_sync(0xffffffff, lane == 40) * 2 + __all_sync(0xffffffff, lane < 32);
  row[7] = __match_any_sync(0xffffffff, value % 40);
  row[8] = __reduce_add_sync(0xffffffff, value) + __reduce_max_sync(0xffffffff, value);
  // Half of the warp, each half for itself.
  if (lane < 16) {
    row[9] = __shfl_down_sync(0x0000ffff, value, 1, 16) + __popc(__ballot_sync(0x0000ffff, lane > 3));
  } else {
    row[9] = __reduce_min_sync(0xffff0000, value);
  }
}

// Lanes with equal keys are a group, and each group does for itself what the instruction does.
KERNEL(groups_of_lanes) {
  const uint32_t lane = threadIdx.x % 32, value = in[threadIdx.x];
  const uint32_t group = __match_any_sync(0xffffffff, value * value % 7);
  const uint32_t sum = __reduce_add_sync(group, value);
  const uint32_t first = __shfl_sync(group, value, __ffs(group) - 1);
  if (lane == uint32_t(__ffs(group)) - 1) {
    atomicAdd(&out[threadIdx.x], sum);
  } else {
    out[threadIdx.x] = first;
  }
}

// An array of each thread's own, with indices that are known only when it runs.
KERNEL(local_array) {
  uint32_t values[12];
  for (uint32_t i = 0; i < 12; ++i) {
    values[i] = in[(threadIdx.x * 31 + i * 17) % 97];
  }
  for (uint32_t i = 1; i < 12; ++i) {
    const uint32_t value = values[i];
    uint32_t at = i;
    while (at > 0 && values[at - 1] > value) {
      values[at] = values[at - 1];
      --at;
    }
    values[at] = value;
  }
  uint32_t mixed = 0;
  for (uint32_t i = 0; i < 12; ++i) {
    mixed = mixed * 97 + values[i];
  }
  out[threadIdx.x] = mixed;
}

__constant__ uint32_t primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ float halves[4] = {0.5f, 1.5f, 2.5f, 3.5f};
__device__ uint32_t num_calls;

KERNEL(kinds_of_memory) {
  __shared__ uint8_t bytes[40];
  __shared__ uint32_t words[64];
  extern __shared__ __align__(16) uint32_t dynamic[];
  if (threadIdx.x < 40) {
    bytes[threadIdx.x] = uint8_t(threadIdx.x);
  }
  words[threadIdx.x] = primes[in[threadIdx.x] % 8];
  dynamic[threadIdx.x] = uint32_t(halves[in[threadIdx.x] % 4] * 2);
  dynamic[threadIdx.x + 64] = threadIdx.x;
  __syncthreads();
  const uint32_t other = 63 - threadIdx.x;
  out[threadIdx.x] = bytes[other % 40] + 100 * words[other] + 10000 * dynamic[other] + 100000 * dynamic[other + 64];
  if (threadIdx.x == 0) {
    out[64] = atomicAdd(&num_calls, 1);
  }
}
