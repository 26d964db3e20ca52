// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)), in f32 and rounded to bf16 once.
//
// The FP8 output quantises the bf16 output's values, so that it equals swiglu followed by act_quant to the bit.
//
// Bound: memory. Per element 4 bytes in and 2 (bf16) or 1 + 4/128 (FP8) out: at 2048 10.1 KiB per token and expert, 3.1 ns
// at 3.35 TB/s.
//
// Grid: x is the token, y a piece of its row of 16 groups; 16 lanes hold a group, 8 elements each.
//
// archs: 80+

#include "../common/bf16.cuh"
#include "../common/fp8.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) swiglu(const __grid_constant__ SwiGluParams p) {
    const int64_t token = blockIdx.x;
    if (p.slot_mapping != nullptr && p.slot_mapping[token] < 0) {
        return;
    }
    const uint32_t first = (blockIdx.y * kThreads + threadIdx.x) * kVector;
    const bool has_elements = first < p.dim;
    uint4 gated = make_uint4(0, 0, 0, 0);
    if (has_elements) {
        float gate[kVector], up[kVector];
        unpack_bf16(load_vector(p.gate + token * p.gate_stride + first), gate);
        unpack_bf16(load_vector(p.up + token * p.up_stride + first), up);
#pragma unroll
        for (uint32_t e = 0; e < kVector; ++e) {
            gate[e] = gate[e] / (1.0f + expf(-gate[e])) * up[e];
        }
        gated = pack_bf16(gate);
        if (p.out != nullptr) {
            store_vector(p.out + token * p.out_stride + first, gated);
        }
    }
    if (p.out_fp8 != nullptr) {
        float values[kVector];
        unpack_bf16(gated, values);
        float scale;
        const uint2 codes = quantise_group(values, p.scale_format, scale);
        if (has_elements) {
            *reinterpret_cast<uint2*>(p.out_fp8 + token * p.out_fp8_stride + first) = codes;
            if (first % kScaleGroup == 0) {
                p.out_scales[static_cast<int64_t>(first / kScaleGroup) * p.scale_stride + token] = scale;
            }
        }
    }
}
