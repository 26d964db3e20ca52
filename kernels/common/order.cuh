// The one order of scores, as in crates/ops/src/order.rs: highest first, NaN last, 0 equal to -0.
#pragma once

#include <stdint.h>

// Larger for the better score, and equal for equal scores; 0 for NaN and for nothing else.
__device__ inline uint32_t sort_key(float score) {
    if (score != score) {
        return 0;
    }
    // Adding 0 turns -0 into 0. Magnitudes compare like integers; negative ones the other way around.
    const uint32_t bits = __float_as_uint(score + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Four consecutive scores of a row whose start is 16-byte aligned; `fill` from `length` on, which is not read.
__device__ inline float4 load_scores(const float* row, uint32_t first, uint32_t length, float fill) {
    if (first + 4 <= length) {
        return *reinterpret_cast<const float4*>(row + first);
    }
    return make_float4(first < length ? row[first] : fill, first + 1 < length ? row[first + 1] : fill,
                       first + 2 < length ? row[first + 2] : fill, fill);
}
