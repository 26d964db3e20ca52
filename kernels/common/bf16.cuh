// bf16 as bits: eight at a time, the 16 bytes that a thread loads or stores at once.
#pragma once

#include <stdint.h>

constexpr uint32_t kVector = 8;

__device__ inline uint4 load_vector(const uint16_t* from) {
    return *reinterpret_cast<const uint4*>(from);
}

__device__ inline void store_vector(uint16_t* to, uint4 packed) {
    *reinterpret_cast<uint4*>(to) = packed;
}

// A bf16 is the upper half of the f32 of the same value.
__device__ inline void unpack_bf16(uint4 packed, float (&values)[kVector]) {
    const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        values[2 * i] = __uint_as_float(pairs[i] << 16);
        values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
}

// Rounds to nearest, ties to even. `low` goes to the lower address.
__device__ inline uint32_t pack_bf16x2(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ inline uint4 pack_bf16(const float (&v)[kVector]) {
    return make_uint4(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]),
                      pack_bf16x2(v[6], v[7]));
}
