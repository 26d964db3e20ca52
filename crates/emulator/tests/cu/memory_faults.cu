// Wrong accesses of memory. `k<true>` makes the mistake, `k<false>` is right; the line that is to be reported bears the
// kernel's name. `in` holds 0, 1, 2, ... in 4096 words; nobody has written to `out`.
#include "ptx.cuh"

// `out` has 100 words.
template <bool kWrong>
__global__ void store_past_the_end(const uint32_t* in, uint32_t* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < 100 + kWrong) {
    out[i] = in[i];  // FAULT store_past_the_end
  }
}

template <bool kWrong>
__global__ void load_past_the_end(const uint32_t* in, uint32_t* out) {
  const uint4* rows = reinterpret_cast<const uint4*>(in);
  const uint4 row = rows[threadIdx.x + (kWrong ? 1024 - 31 : 0)];  // FAULT load_past_the_end
  out[threadIdx.x] = row.x + row.y + row.z + row.w;
}

template <bool kWrong>
__global__ void shared_past_the_end(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[64];
  tile[threadIdx.x + kWrong] = in[threadIdx.x];  // FAULT shared_past_the_end
  __syncthreads();
  if (threadIdx.x > 0) {
    out[threadIdx.x] = tile[threadIdx.x];
  }
}

template <bool kWrong>
__global__ void unwritten_global(const uint32_t* in, uint32_t* out) {
  uint32_t sum = in[threadIdx.x];
  if (kWrong) {
    sum += out[threadIdx.x];  // FAULT unwritten_global
  }
  out[threadIdx.x] = sum;
}

// The last row of the tile is left out.
template <bool kWrong>
__global__ void unwritten_shared(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32][33];
  for (uint32_t row = threadIdx.x / 32; row < 32 - kWrong; row += 4) {
    tile[row][threadIdx.x % 32] = in[32 * row + threadIdx.x % 32];
  }
  __syncthreads();
  for (uint32_t row = threadIdx.x / 32; row < 32; row += 4) {
    out[32 * row + threadIdx.x % 32] = tile[threadIdx.x % 32][row];  // FAULT unwritten_shared
  }
}

template <bool kWrong>
__global__ void unwritten_local(const uint32_t* in, uint32_t* out) {
  uint32_t order[16];
  for (uint32_t i = 0; i < 16 - kWrong; ++i) {
    order[in[i] & 15] = i;
  }
  out[threadIdx.x] = order[in[threadIdx.x] & 15];  // FAULT unwritten_local
}

template <bool kWrong>
__global__ void misaligned_vector(const uint32_t* in, uint32_t* out) {
  const uint32_t* row = in + 4 * threadIdx.x + (kWrong ? 2 : 0);
  const uint4 values = *reinterpret_cast<const uint4*>(row);  // FAULT misaligned_vector
  out[threadIdx.x] = values.x + values.w;
}

template <bool kWrong>
__global__ void misaligned_shared(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t tile[36];
  tile[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 4) {
    tile[32 + threadIdx.x] = 0;
  }
  __syncwarp();
  if (threadIdx.x < 8) {
    const uint32_t* row = tile + 4 * threadIdx.x + (kWrong ? 1 : 0);
    const uint4 values = *reinterpret_cast<const uint4*>(row);  // FAULT misaligned_shared
    out[threadIdx.x] = values.x + values.w;
  }
}

// The address is taken for that of another space.
template <bool kWrong>
__global__ void shared_address_as_global(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  const uint64_t address = kWrong ? shared_address(tile + threadIdx.x) : uint64_t(out + threadIdx.x);
  asm volatile("st.global.u32 [%0], %1;" ::"l"(address), "r"(tile[threadIdx.x]) : "memory");  // FAULT shared_address_as_global
}

template <bool kWrong>
__global__ void null_pointer(const uint32_t* in, uint32_t* out) {
  const uint32_t* source = kWrong ? reinterpret_cast<const uint32_t*>(uint64_t(in[0])) : in;
  out[threadIdx.x] = source[threadIdx.x];  // FAULT null_pointer
}

template <bool kWrong>
__global__ void trap(const uint32_t* in, uint32_t* out) {
  if (kWrong && in[threadIdx.x] == 37) {
    __trap();  // FAULT trap
  }
  out[threadIdx.x] = 1;
}

template <bool kWrong>
__global__ void endless_wait_for_a_flag(const uint32_t* in, uint32_t* out) {
  if (kWrong) {
    while (*static_cast<const volatile uint32_t*>(in) == 0) {  // FAULT endless_wait_for_a_flag
    }
  }
  out[threadIdx.x] = 1;
}

// Nobody unlocks.
template <bool kWrong>
__global__ void endless_wait_for_a_lock(const uint32_t* in, uint32_t* out) {
  __shared__ uint32_t lock;
  if (threadIdx.x == 0) {
    lock = in[0];
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(&lock, 0, 1) != 0) {  // FAULT endless_wait_for_a_lock
    }
    out[threadIdx.x] = 1;
    if (!kWrong) {
      atomicExch(&lock, 0);
    }
  }
}

#define BOTH(name) \
  template __global__ void name<true>(const uint32_t*, uint32_t*); \
  template __global__ void name<false>(const uint32_t*, uint32_t*)
BOTH(store_past_the_end);
BOTH(load_past_the_end);
BOTH(shared_past_the_end);
BOTH(unwritten_global);
BOTH(unwritten_shared);
BOTH(unwritten_local);
BOTH(misaligned_vector);
BOTH(misaligned_shared);
BOTH(shared_address_as_global);
BOTH(null_pointer);
BOTH(trap);
BOTH(endless_wait_for_a_flag);
BOTH(endless_wait_for_a_lock);
