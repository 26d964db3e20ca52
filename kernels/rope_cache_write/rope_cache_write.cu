// Rotates the queries in place, and writes the key of each token, its latent part as it is and its rotated part rotated,
// into the paged cache.
//
// For pair j, (a, b) becomes (a cos - b sin, a sin + b cos) with angle = f32(position) * inv_freq[j] rounded to f32; f32
// throughout, rounded to bf16 once. The pairs are (2j, 2j+1) when interleaved, as in MLA, and (j, j + num_pairs) when
// half-split, as in V3.2's indexer.
//
// A row of the cache is bf16, [latent | key] in MLA (1152 bytes) and [key | latent] for the indexer's keys, of which only
// the first half is rotated (256 bytes); or the FP8 record of MLA, 656 bytes: 512 e4m3, 4 f32 scales of 128 of them each,
// 64 bf16 of the key. A slot must not be named twice in one launch: which token stays is not defined.
//
// Bound: memory. Per token 2 * 2 * num_heads * rotary_dim bytes for the queries (32 KiB at 128 heads of 64) and 1152 bytes
// read plus a row written for the key: about 35 KB, 10.5 ns at 3.35 TB/s.
//
// Grid: x is the token; block 0 of y writes the key, the others rotate queries, one piece of 8 pairs per thread.
//
// archs: 80+

#include "../common/bf16.cuh"
#include "../common/fp8.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kMaxPairs = 64;
// Pairs that a thread rotates at once: two vectors.
constexpr uint32_t kPiece = kVector;

enum class Layout { Interleaved, HalfSplit };
enum class Cache { Bf16, Fp8 };

// cos and sin of a token, of each pair.
struct Angles {
    float cos[kMaxPairs];
    float sin[kMaxPairs];
};

__device__ void compute_angles(const RopeCacheWriteParams& p, int64_t token, Angles& angles) {
    for (uint32_t j = threadIdx.x; j < p.num_pairs; j += kThreads) {
        float sin, cos;
        sincosf(static_cast<float>(p.positions[token]) * p.inv_freq[j], &sin, &cos);
        angles.cos[j] = cos * p.attention_factor;
        angles.sin[j] = sin * p.attention_factor;
    }
    __syncthreads();
}

// Rotates kPiece pairs from `pair` on of one head. `to` may be `from`.
template <Layout layout>
__device__ void rotate(const uint16_t* from, uint16_t* to, uint32_t pair, uint32_t num_pairs, const Angles& angles) {
    constexpr bool is_interleaved = layout == Layout::Interleaved;
    const uint32_t first = is_interleaved ? 2 * pair : pair;
    const uint32_t second = is_interleaved ? first + kVector : first + num_pairs;
    float x[2][kVector];
    unpack_bf16(load_vector(from + first), x[0]);
    unpack_bf16(load_vector(from + second), x[1]);
#pragma unroll
    for (uint32_t j = 0; j < kPiece; ++j) {
        const float cos = angles.cos[pair + j];
        const float sin = angles.sin[pair + j];
        float& a = is_interleaved ? x[2 * j / kVector][2 * j % kVector] : x[0][j];
        float& b = is_interleaved ? x[2 * j / kVector][2 * j % kVector + 1] : x[1][j];
        const float rotated = a * cos - b * sin;
        b = a * sin + b * cos;
        a = rotated;
    }
    store_vector(to + first, pack_bf16(x[0]));
    store_vector(to + second, pack_bf16(x[1]));
}

template <Layout layout>
__device__ void rotate_query(const RopeCacheWriteParams& p, int64_t token, const Angles& angles) {
    const uint32_t pieces_per_head = p.num_pairs / kPiece;
    const uint32_t piece = (blockIdx.y - 1) * kThreads + threadIdx.x;
    const uint32_t head = piece / pieces_per_head;
    if (head < p.num_heads) {
        uint16_t* q = p.q + token * p.q_stride + static_cast<int64_t>(head) * p.q_head_stride;
        rotate<layout>(q, q, piece % pieces_per_head * kPiece, p.num_pairs, angles);
    }
}

template <Layout layout>
__device__ void write_key(const RopeCacheWriteParams& p, int64_t token, uint16_t* to, const Angles& angles) {
    const uint32_t pair = threadIdx.x * kPiece;
    if (pair < p.num_pairs) {
        rotate<layout>(p.key + token * p.key_stride, to, pair, p.num_pairs, angles);
    }
}

template <Layout layout>
__device__ void write_bf16(const RopeCacheWriteParams& p, int64_t token, int64_t slot, const Angles& angles) {
    const uint32_t row_dim = p.latent_dim + 2 * p.num_pairs;
    uint16_t* row = reinterpret_cast<uint16_t*>(p.cache) + slot * row_dim;
    for (uint32_t i = threadIdx.x * kVector; i < p.latent_dim; i += kThreads * kVector) {
        store_vector(row + p.latent_column + i, load_vector(p.latent + token * p.latent_stride + i));
    }
    write_key<layout>(p, token, row + p.key_column, angles);
}

template <Layout layout>
__device__ void write_fp8(const RopeCacheWriteParams& p, int64_t token, int64_t slot, const Angles& angles) {
    const uint32_t scales_at = p.latent_dim;
    const uint32_t key_at = scales_at + p.latent_dim / kScaleGroup * sizeof(float);
    const uint32_t record_bytes = key_at + 2 * p.num_pairs * sizeof(uint16_t);
    uint8_t* record = p.cache + slot * record_bytes;
    // Whole warps stay together, as quantise_group asks for.
    for (uint32_t base = 0; base < p.latent_dim; base += kThreads * kVector) {
        const uint32_t i = base + threadIdx.x * kVector;
        const bool has_elements = i < p.latent_dim;
        float values[kVector] = {};
        if (has_elements) {
            unpack_bf16(load_vector(p.latent + token * p.latent_stride + i), values);
        }
        float scale;
        const uint2 codes = quantise_group(values, p.scale_format, scale);
        if (has_elements) {
            *reinterpret_cast<uint2*>(record + i) = codes;
            if (i % kScaleGroup == 0) {
                *reinterpret_cast<float*>(record + scales_at + i / kScaleGroup * sizeof(float)) = scale;
            }
        }
    }
    write_key<layout>(p, token, reinterpret_cast<uint16_t*>(record + key_at), angles);
}

template <Layout layout, Cache cache>
__device__ void rope_cache_write(const RopeCacheWriteParams& p) {
    __shared__ Angles angles;
    const int64_t token = blockIdx.x;
    compute_angles(p, token, angles);
    if (blockIdx.y > 0) {
        rotate_query<layout>(p, token, angles);
        return;
    }
    const int64_t slot = p.slot_mapping[token];
    if (slot < 0) {
        return;
    }
    if constexpr (cache == Cache::Bf16) {
        write_bf16<layout>(p, token, slot, angles);
    } else {
        write_fp8<layout>(p, token, slot, angles);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    rope_cache_write_interleaved_bf16(const __grid_constant__ RopeCacheWriteParams p) {
    rope_cache_write<Layout::Interleaved, Cache::Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    rope_cache_write_interleaved_fp8(const __grid_constant__ RopeCacheWriteParams p) {
    rope_cache_write<Layout::Interleaved, Cache::Fp8>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    rope_cache_write_half_split_bf16(const __grid_constant__ RopeCacheWriteParams p) {
    rope_cache_write<Layout::HalfSplit, Cache::Bf16>(p);
}
