// out = weight * c / sqrt(mean(c^2) + eps) + bias, with c = x - mean(x).
//
// Bound: memory, 2 or 4 bytes in and 2 out per element: 512 bytes per token at 128 elements of bf16. In practice latency.
//
// One warp per row, which stays in registers; a large mean costs no digits, because the row is centred before it is squared.
// The order of the sums depends on `dim` alone.
//
// archs: 80+

#include "../common/bf16.cuh"
#include "../common/reduce.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kVectorsPerLane = 4;

__device__ void load(const uint16_t* from, float (&values)[kVector]) {
    unpack_bf16(load_vector(from), values);
}

__device__ void load(const float* from, float (&values)[kVector]) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        const float4 four = reinterpret_cast<const float4*>(from)[half];
        values[4 * half] = four.x;
        values[4 * half + 1] = four.y;
        values[4 * half + 2] = four.z;
        values[4 * half + 3] = four.w;
    }
}

template <typename X>
__device__ void layer_norm(const LayerNormParams& p) {
    const uint32_t lane = threadIdx.x % kWarp;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
    if (token >= p.num_tokens) {
        return;
    }
    float c[kVectorsPerLane][kVector] = {};
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kVectorsPerLane; ++i) {
        const uint32_t first = (i * kWarp + lane) * kVector;
        if (first < p.dim) {
            load(static_cast<const X*>(p.x) + token * p.x_stride + first, c[i]);
#pragma unroll
            for (uint32_t e = 0; e < kVector; ++e) {
                sum += c[i][e];
            }
        }
    }
    const float mean = warp_reduce(sum, Sum()) / static_cast<float>(p.dim);
    float squares = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kVectorsPerLane; ++i) {
        if ((i * kWarp + lane) * kVector < p.dim) {
#pragma unroll
            for (uint32_t e = 0; e < kVector; ++e) {
                c[i][e] -= mean;
                squares = fmaf(c[i][e], c[i][e], squares);
            }
        }
    }
    const float factor = 1.0f / sqrtf(warp_reduce(squares, Sum()) / static_cast<float>(p.dim) + p.eps);
#pragma unroll
    for (uint32_t i = 0; i < kVectorsPerLane; ++i) {
        const uint32_t first = (i * kWarp + lane) * kVector;
        if (first < p.dim) {
            float weight[kVector], bias[kVector];
            load(p.weight + first, weight);
            load(p.bias + first, bias);
#pragma unroll
            for (uint32_t e = 0; e < kVector; ++e) {
                c[i][e] = fmaf(c[i][e] * factor, weight[e], bias[e]);
            }
            store_vector(p.out + token * p.out_stride + first, pack_bf16(c[i]));
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) layer_norm_bf16(const __grid_constant__ LayerNormParams p) {
    layer_norm<uint16_t>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads) layer_norm_f32(const __grid_constant__ LayerNormParams p) {
    layer_norm<float>(p);
}
