// out = weight * r / sqrt(mean(r^2) + eps), with r = x or the new residual = bf16(x + residual).
//
// The FP8 output quantises the bf16 output's values, so that it equals rms_norm followed by act_quant to the bit.
//
// Bound: memory. Per element 2 bytes in and 2 (bf16) or 1 + 4/128 (FP8) out, 4 more with a residual; the weights stay in
// L2. At 7168 that is 28 KiB per token, 8.6 ns at 3.35 TB/s; a single token is bound by latency.
//
// One block per row, one vector of 8 per thread (two above 8192), so that the row stays in registers between the sum and
// the scaling. The sum's order depends on `dim` alone, through the number of threads: `dim / 8` rounded up to whole warps,
// at most 1024.
//
// archs: 80+

#include "../common/bf16.cuh"
#include "../common/fp8.cuh"
#include "../common/reduce.cuh"
#include "params.h"

namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kVectorsPerThread = 2;

__device__ void load_weight(const uint16_t* weight, float (&values)[kVector]) {
    unpack_bf16(load_vector(weight), values);
}

__device__ void load_weight(const float* weight, float (&values)[kVector]) {
    const float4 low = reinterpret_cast<const float4*>(weight)[0];
    const float4 high = reinterpret_cast<const float4*>(weight)[1];
    values[0] = low.x;
    values[1] = low.y;
    values[2] = low.z;
    values[3] = low.w;
    values[4] = high.x;
    values[5] = high.y;
    values[6] = high.z;
    values[7] = high.w;
}

// bf16(x + residual), which is stored and is what the norm sees.
__device__ void add_residual(uint16_t* residual, float (&r)[kVector]) {
    float before[kVector];
    unpack_bf16(load_vector(residual), before);
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        r[e] += before[e];
    }
    const uint4 sum = pack_bf16(r);
    store_vector(residual, sum);
    unpack_bf16(sum, r);
}

template <typename Weight>
__device__ void rms_norm(const RmsNormParams& p) {
    __shared__ float partials[kMaxWarps];
    const int64_t token = blockIdx.x;

    float r[kVectorsPerThread][kVector] = {};
    float squares = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kVectorsPerThread; ++i) {
        const uint32_t first = (i * blockDim.x + threadIdx.x) * kVector;
        if (first < p.dim) {
            unpack_bf16(load_vector(p.x + token * p.x_stride + first), r[i]);
            if (p.residual != nullptr) {
                add_residual(p.residual + token * p.residual_stride + first, r[i]);
            }
#pragma unroll
            for (uint32_t e = 0; e < kVector; ++e) {
                squares = fmaf(r[i][e], r[i][e], squares);
            }
        }
    }
    const float mean = block_reduce(squares, 0.0f, Sum(), partials) / static_cast<float>(p.dim);
    const float factor = 1.0f / sqrtf(mean + p.eps);

#pragma unroll
    for (uint32_t i = 0; i < kVectorsPerThread; ++i) {
        const uint32_t first = (i * blockDim.x + threadIdx.x) * kVector;
        const bool has_elements = first < p.dim;
        uint4 normed = make_uint4(0, 0, 0, 0);
        if (has_elements) {
            float weight[kVector];
            load_weight(static_cast<const Weight*>(p.weight) + first, weight);
#pragma unroll
            for (uint32_t e = 0; e < kVector; ++e) {
                r[i][e] = r[i][e] * factor * weight[e];
            }
            normed = pack_bf16(r[i]);
            if (p.out != nullptr) {
                store_vector(p.out + token * p.out_stride + first, normed);
            }
        }
        if (p.out_fp8 != nullptr) {
            unpack_bf16(normed, r[i]);
            float scale;
            const uint2 codes = quantise_group(r[i], p.scale_format, scale);
            if (has_elements) {
                *reinterpret_cast<uint2*>(p.out_fp8 + token * p.out_fp8_stride + first) = codes;
                if (first % kScaleGroup == 0) {
                    p.out_scales[static_cast<int64_t>(first / kScaleGroup) * p.scale_stride + token] = scale;
                }
            }
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kMaxThreads)
    rms_norm_bf16(const __grid_constant__ RmsNormParams p) {
    rms_norm<uint16_t>(p);
}

extern "C" __global__ void __launch_bounds__(kMaxThreads)
    rms_norm_f32(const __grid_constant__ RmsNormParams p) {
    rms_norm<float>(p);
}
