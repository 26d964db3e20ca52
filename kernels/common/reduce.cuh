// Reductions and scans over a warp and a block, in an order that the number of threads alone decides.
//
// All threads of a block call the block's functions, and all threads get the result. `partials` is shared memory of one
// element per warp; before it is used again there must be a barrier.
#pragma once

#include <stdint.h>

constexpr uint32_t kWarp = 32;
constexpr uint32_t kMaxWarps = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct Sum {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a + b;
    }
};

struct Max {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};

template <typename T, typename Op>
__device__ T warp_reduce(T value, Op op) {
#pragma unroll
    for (uint32_t distance = kWarp / 2; distance > 0; distance /= 2) {
        value = op(value, __shfl_xor_sync(kAllLanes, value, distance));
    }
    return value;
}

// `identity` changes nothing under `op`.
template <typename T, typename Op>
__device__ T block_reduce(T value, T identity, Op op, T* partials) {
    const uint32_t lane = threadIdx.x % kWarp;
    const uint32_t warp = threadIdx.x / kWarp;
    value = warp_reduce(value, op);
    if (lane == 0) {
        partials[warp] = value;
    }
    __syncthreads();
    // Every warp does the same, which saves the barrier that a broadcast would take.
    return warp_reduce(lane < blockDim.x / kWarp ? partials[lane] : identity, op);
}

// The sum of the values of this lane and the lanes below it.
template <typename T>
__device__ T warp_inclusive_sum(T value) {
    const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
    for (uint32_t distance = 1; distance < kWarp; distance *= 2) {
        const T below = __shfl_up_sync(kAllLanes, value, distance);
        value += lane >= distance ? below : T(0);
    }
    return value;
}

// The sum of the values of the threads below this one, and in `total` of all.
template <typename T>
__device__ T block_exclusive_sum(T value, T& total, T* partials) {
    const uint32_t lane = threadIdx.x % kWarp;
    const uint32_t warp = threadIdx.x / kWarp;
    const T in_warp = warp_inclusive_sum(value);
    if (lane == kWarp - 1) {
        partials[warp] = in_warp;
    }
    __syncthreads();
    const T warps = warp_inclusive_sum(lane < blockDim.x / kWarp ? partials[lane] : T(0));
    total = __shfl_sync(kAllLanes, warps, kWarp - 1);
    const T warps_below = __shfl_sync(kAllLanes, warps, warp == 0 ? 0 : warp - 1);
    return (warp == 0 ? T(0) : warps_below) + in_warp - value;
}
