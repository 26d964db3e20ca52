// Activations to e4m3 with one f32 scale per token and 128 channels; fp8.cuh says how.
//
// Scales are stored with the tokens next to each other, `[k / 128, scale_stride]`: a tile of the GEMM that follows needs
// one scale of each of its tokens per 128 of k. Columns from `num_tokens` on are not written.
//
// Bound: memory, 3 + 4/128 bytes per element: at 7168 21.2 KiB per token, 6.5 ns at 3.35 TB/s.
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

extern "C" __global__ void __launch_bounds__(kThreads) act_quant(const __grid_constant__ ActQuantParams p) {
    const int64_t token = blockIdx.x;
    const uint32_t first = (blockIdx.y * kThreads + threadIdx.x) * kVector;
    const bool has_elements = first < p.k;
    float values[kVector] = {};
    if (has_elements) {
        unpack_bf16(load_vector(p.x + token * p.x_stride + first), values);
    }
    float scale;
    const uint2 codes = quantise_group(values, p.scale_format, scale);
    if (has_elements) {
        *reinterpret_cast<uint2*>(p.out + token * p.out_stride + first) = codes;
        if (first % kScaleGroup == 0) {
            p.scales[static_cast<int64_t>(first / kScaleGroup) * p.scale_stride + token] = scale;
        }
    }
}
