// e4m3 with one f32 scale per 1x128 group, as the FP8 checkpoints were trained: the one place that defines the rounding.
//
// a = max(max|x|, 1e-4), s = a / 448, or the next power of two from there up (UE8M0); code = e4m3(x / s), to nearest,
// ties to even, saturating. A group of zeros has codes 0. NaN becomes the code NaN and is no part of the maximum; in a
// group with an infinity s is infinite and the infinity becomes NaN, so that neither passes for a number.
//
// Source: DeepSeek-V3.2-Exp inference/kernel.py, act_quant_kernel (the floor of 1e-4 and the power of two by bits).
#pragma once

#include <stdint.h>

#include "bf16.cuh"

constexpr uint32_t kScaleGroup = 128;
// Lanes that hold one group, kVector elements each.
constexpr uint32_t kGroupLanes = kScaleGroup / kVector;

// Values of `scale_format` in the parameter structs.
constexpr uint32_t kScaleUe8m0 = 1;

__device__ inline float fp8_scale(float amax, uint32_t scale_format) {
    const float scale = fmaxf(amax, 1e-4f) / 448.0f;
    if (scale_format != kScaleUe8m0) {
        return scale;
    }
    // Never subnormal, because of the floor: one more in the exponent, unless the mantissa is zero already.
    const uint32_t bits = __float_as_uint(scale);
    return __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
}

#if __CUDA_ARCH__ < 890
// What cvt.rn.satfinite.e4m3x2.f32 does, for one value, where there is no such instruction.
__device__ inline uint32_t e4m3_code(float value) {
    const uint32_t sign = __float_as_uint(value) >> 24 & 0x80u;
    const float magnitude = fabsf(value);
    if (magnitude != magnitude) {
        return 0x7f;
    }
    if (magnitude < 0x1p-6f) {
        // Subnormals are multiples of 2^-9, and eight of them are the smallest normal value, whose code is 8.
        return sign | __float2uint_rn(magnitude * 512.0f);
    }
    // Three bits of the mantissa stay; a carry out of them counts the exponent up, as it should.
    const uint32_t bits = __float_as_uint(fminf(magnitude, 448.0f));
    const uint32_t rounded = bits + 0x7ffffu + (bits >> 20 & 1u);
    return sign | ((rounded >> 20) - (120u << 3));
}
#endif

// `low` goes to the lower address.
__device__ inline uint32_t pack_e4m3x2(float low, float high) {
#if __CUDA_ARCH__ >= 890
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return e4m3_code(low) | e4m3_code(high) << 8;
#endif
}

// The codes of this lane's elements and the scale of their group, which kGroupLanes neighbouring lanes hold together.
// All 32 lanes of a warp call this at once; lanes without elements pass zeros, and a group has elements in all of its
// lanes or in none.
__device__ inline uint2 quantise_group(const float (&values)[kVector], uint32_t scale_format, float& scale) {
    float amax = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kVector; ++i) {
        amax = fmaxf(amax, fabsf(values[i]));
    }
#pragma unroll
    for (uint32_t distance = kGroupLanes / 2; distance > 0; distance /= 2) {
        amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, distance));
    }
    scale = fp8_scale(amax, scale_format);
    uint32_t pairs[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        pairs[i] = pack_e4m3x2(values[2 * i] / scale, values[2 * i + 1] / scale);
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}
