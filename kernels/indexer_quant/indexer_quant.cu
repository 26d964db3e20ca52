// Queries and keys of the V3.2 indexer from the outputs of their projections to FP8, the keys into the paged cache.
//
// The key is layer-normed. Then both: the first 64 of 128 elements are rotated in the pairs (j, j + 32), as
// rope_cache_write does it; z becomes 128^-0.5 H z with the Hadamard matrix H[i][j] = (-1)^popcount(i & j); the vector is
// quantised as one group of fp8.cuh. After each of these steps but the last the values are rounded to bf16, as in the
// published code. The scale of a query is folded into the weight of its head: weight * weight_scale * scale.
//
// A slot must not be named twice in one launch: which token stays is not defined.
//
// Bound: memory. Per token 3 * 128 * num_heads + 8 * num_heads bytes for the queries (24.5 KiB at 64 heads) and
// 2 * 128 + 132 for the key: 7.6 ns at 3.35 TB/s. One token is bound by latency.
//
// Grid: x is the token; y is 0 for its key, the others are eight heads each. 16 lanes hold a vector, 8 elements each.
//
// archs: 80+

#include "../common/bf16.cuh"
#include "../common/fp8.cuh"
#include "../common/indexer_cache.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kVectorsPerBlock = kThreads / kGroupLanes;
constexpr uint32_t kNumPairs = 32;
// Lanes between the two elements of a pair.
constexpr uint32_t kPairLanes = kNumPairs / kVector;
constexpr float kHadamardScale = 0.08838834764831845f;    // 128^-0.5
constexpr uint32_t kAllLanes = 0xffffffffu;

static_assert(kIndexerHeadDim == kScaleGroup, "a vector is one group");

struct Angles {
    float cos[kNumPairs];
    float sin[kNumPairs];
};

// The sum over the 16 lanes of a vector.
__device__ float vector_sum(float value) {
#pragma unroll
    for (uint32_t distance = kGroupLanes / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, distance);
    }
    return value;
}

__device__ void round_to_bf16(float (&x)[kVector]) {
    unpack_bf16(pack_bf16(x), x);
}

__device__ void layer_norm(const IndexerQuantParams& p, uint32_t lane, float (&x)[kVector]) {
    float sum = 0.0f;
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        sum += x[e];
    }
    const float mean = vector_sum(sum) / static_cast<float>(kIndexerHeadDim);
    float squares = 0.0f;
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        x[e] -= mean;
        squares = fmaf(x[e], x[e], squares);
    }
    const float variance = vector_sum(squares) / static_cast<float>(kIndexerHeadDim);
    const float factor = 1.0f / sqrtf(variance + p.eps);
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        x[e] = x[e] * factor * p.norm_weight[lane * kVector + e] + p.norm_bias[lane * kVector + e];
    }
    round_to_bf16(x);
}

__device__ void rotate(const Angles& angles, uint32_t lane, float (&x)[kVector]) {
    const bool is_first = lane < kPairLanes;
    const bool is_second = lane >= kPairLanes && lane < 2 * kPairLanes;
    const uint32_t pair = lane % kPairLanes * kVector;
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        const float other = __shfl_xor_sync(kAllLanes, x[e], kPairLanes);
        const float cos = angles.cos[pair + e];
        const float sin = angles.sin[pair + e];
        if (is_first) {
            x[e] = x[e] * cos - other * sin;
        } else if (is_second) {
            x[e] = other * sin + x[e] * cos;
        }
    }
    round_to_bf16(x);
}

__device__ void hadamard(uint32_t lane, float (&x)[kVector]) {
    // One bit of the index of an element after another: the lower three are in a thread, the upper four are the lane's.
#pragma unroll
    for (uint32_t bit = 1; bit < kVector; bit *= 2) {
#pragma unroll
        for (uint32_t e = 0; e < kVector; ++e) {
            if ((e & bit) == 0) {
                const float a = x[e];
                const float b = x[e | bit];
                x[e] = a + b;
                x[e | bit] = a - b;
            }
        }
    }
#pragma unroll
    for (uint32_t bit = 1; bit < kGroupLanes; bit *= 2) {
#pragma unroll
        for (uint32_t e = 0; e < kVector; ++e) {
            const float other = __shfl_xor_sync(kAllLanes, x[e], bit);
            x[e] = (lane & bit) == 0 ? x[e] + other : other - x[e];
        }
    }
#pragma unroll
    for (uint32_t e = 0; e < kVector; ++e) {
        x[e] *= kHadamardScale;
    }
    round_to_bf16(x);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    indexer_quant(const __grid_constant__ IndexerQuantParams p) {
    __shared__ Angles angles;
    const int64_t token = blockIdx.x;
    const int32_t slot = p.slot_mapping[token];
    if (slot < 0) {
        return;
    }
    if (threadIdx.x < kNumPairs) {
        float sin, cos;
        sincosf(static_cast<float>(p.positions[token]) * p.inv_freq[threadIdx.x], &sin, &cos);
        angles.cos[threadIdx.x] = cos * p.attention_factor;
        angles.sin[threadIdx.x] = sin * p.attention_factor;
    }
    __syncthreads();

    const bool is_key = blockIdx.y == 0;
    const uint32_t lane = threadIdx.x % kGroupLanes;
    const uint32_t head = (is_key ? 0 : (blockIdx.y - 1) * kVectorsPerBlock) + threadIdx.x / kGroupLanes;
    // Whole warps stay together, as the shuffles ask for; those without elements hold zeros.
    const bool has_elements = head < (is_key ? 1 : p.num_heads);
    float x[kVector] = {};
    if (has_elements) {
        const uint16_t* from = is_key ? p.key + token * p.key_stride : p.q + token * p.q_stride + head * kIndexerHeadDim;
        unpack_bf16(load_vector(from + lane * kVector), x);
    }
    if (is_key) {
        layer_norm(p, lane, x);
    }
    rotate(angles, lane, x);
    hadamard(lane, x);
    float scale;
    const uint2 codes = quantise_group(x, p.scale_format, scale);
    if (!has_elements) {
        return;
    }
    uint8_t* to;
    if (is_key) {
        const int64_t block = slot / kIndexerBlockTokens;
        const uint32_t offset = slot % kIndexerBlockTokens;
        to = p.cache + indexer_codes_at(block, offset);
        if (lane == 0) {
            *reinterpret_cast<float*>(p.cache + indexer_scale_at(block, offset)) = scale;
        }
    } else {
        const int64_t vector = token * p.num_heads + head;
        to = p.q_codes + vector * kIndexerHeadDim;
        if (lane == 0) {
            p.q_weights[vector] = p.weights[token * p.weights_stride + head] * p.weight_scale * scale;
        }
    }
    *reinterpret_cast<uint2*>(to + lane * kVector) = codes;
}
