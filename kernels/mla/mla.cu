// Latent attention in its absorbed form, over a paged cache that all heads share:
//
//     o_lat[t,h,:] = sum over j of softmax_j(softmax_scale * (q_lat[t,h]·c[j] + q_pe[t,h]·k_pe[j])) * c[j]
//
// A row is a (query, head) pair. What a row gives depends on its query, its position and its sequence's keys alone: keys are
// visited in tiles of 64, in order; every 512 of them, a split, have sums of their own, which are folded one after the other
// (`fold`). So it does not matter which block computes which split, how rows are put together, or how large a tile is.
//
// 1. mla_plan, once per step, shares the work out. Sequences with few queries and more than one split have a work item for each
//    tile of rows and split, whose results go to slots of `partials`, as long as these suffice; all others have one item for
//    each tile of rows, which folds its splits in registers.
// 2. mla_absorbed: blocks take items in turns. Eight warps share the 64 keys of the first product, and own 64 columns of the
//    latent each in the second, so that a value is read from shared memory once.
// 3. mla_combine folds the partial results.
//
// A tile has 16 or 32 rows: heads of several queries of one sequence; of one query only where each query chooses its keys,
// whose rows are gathered then. A key that is not finite reaches the queries before it that share its tile.
//
// Bound: for decode memory, 1152 bytes per key (656 in FP8 records) and query of up to 16 heads; for prefill tensor cores,
// 2176 operations per key and row. A block takes 165 to 195 KiB of shared memory, which GPUs below sm_90 do not have.
//
// The plan: item_start[num_seqs + 1], work items before each sequence; row_start[num_seqs + 1], rows that have slots before each
// sequence; slot_start[num_seqs], the first slot of each sequence, -1 without.
//
// archs: 80+

#include <cuda_fp16.h>

#include "../common/bf16.cuh"
#include "../common/mma.cuh"
#include "../common/reduce.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kNumWarps = kThreads / kWarp;
constexpr uint32_t kKeys = 64;
constexpr uint32_t kTilesPerSplit = 8;
constexpr uint32_t kSplit = kKeys * kTilesPerSplit;
// Sequences with more queries fill the GPU without being split.
constexpr uint32_t kMaxSplitQueries = 16;

// A row of a query or key is 8 tiles of 64 elements of the latent, one for each warp, and one tile of the rotated part; 128
// bytes each. What the model has not is zero.
constexpr uint32_t kLatentTiles = 8;
constexpr uint32_t kRowTiles = kLatentTiles + 1;
constexpr uint32_t kTileDim = TILE_ROW_BYTES / sizeof(uint16_t);
constexpr uint32_t kChunks = TILE_ROW_BYTES / 16;
constexpr uint32_t kKeyTileBytes = kKeys * TILE_ROW_BYTES;
constexpr uint32_t kKeysBytes = kRowTiles * kKeyTileBytes;
// Rows that the threads of a block copy a tile of at once.
constexpr uint32_t kRowsAtOnce = kThreads / kChunks;

constexpr uint32_t kRecordBytes = 656;
constexpr uint32_t kRecordScales = 512;
constexpr uint32_t kRecordKey = 528;

// Floats of a partial result behind its `rank` sums: maximum, sum of weights, and two that keep it aligned.
constexpr uint32_t kPartialTail = 4;

constexpr float kInfinity = __builtin_inff();
constexpr int32_t kNoPosition = 0x7fffffff;
constexpr uint32_t kOnes = 0x3f803f80u;  // Two bf16.

__device__ float exp2_approx(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// Exponents are taken relative to the maximum, which is -infinity as long as no key has been seen.
__device__ float finite_or_zero(float maximum) {
    return maximum == -kInfinity ? 0.0f : maximum;
}

__device__ uint32_t ceil_div(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

// The sequence that has item `index`; every lane of the warp asks for the same one.
__device__ uint32_t find_seq(const int32_t* start, uint32_t num_seqs, uint32_t index) {
    uint32_t seq = 0;
    for (uint32_t base = 1; base < num_seqs; base += kWarp) {
        const uint32_t other = base + threadIdx.x % kWarp;
        const bool begins_before = other < num_seqs && static_cast<uint32_t>(start[other]) <= index;
        const uint32_t num_before = __popc(__ballot_sync(kAllLanes, begins_before));
        seq += num_before;
        if (num_before < kWarp) {
            break;
        }
    }
    return seq;
}

// A sequence of the step, as far as a query is concerned.
struct Seq {
    uint32_t first_query;  // row of the step
    uint32_t num_queries;
    uint32_t seq_len;
    uint32_t index_topk;

    __device__ Seq(const int32_t* query_start_loc, const int32_t* seq_lens, uint32_t index_topk, uint32_t seq)
        : first_query(query_start_loc[seq]),
          num_queries(query_start_loc[seq + 1] - first_query),
          seq_len(seq_lens[seq]),
          index_topk(index_topk) {}

    __device__ uint32_t position(uint32_t query) const { return seq_len - num_queries + query; }

    // Keys that are visited for the query: those up to its own, or as many of those that it chose.
    __device__ uint32_t num_keys(uint32_t query) const {
        const uint32_t visible = position(query) + 1;
        return index_topk == 0 ? visible : min(visible, index_topk);
    }

    __device__ uint32_t num_splits() const {
        return num_queries == 0 ? 0 : ceil_div(num_keys(num_queries - 1), kSplit);
    }
};

// Adds the sums of the next split to those of the ones before. A split without a key changes nothing. Every operation is
// rounded as written, so that it does not matter which kernel does it.
struct Fold {
    float before, next;  // factors
    bool is_empty;

    // `maximum` and `weight`, of the splits before, become those of both.
    __device__ Fold(float& maximum, float& weight, float next_maximum, float next_weight) {
        is_empty = next_weight == 0.0f;
        const float both = is_empty ? maximum : fmaxf(maximum, next_maximum);
        before = exp2_approx(maximum - finite_or_zero(both));
        next = exp2_approx(next_maximum - finite_or_zero(both));
        apply(weight, next_weight);
        maximum = both;
    }

    __device__ void apply(float& sum, float next_sum) const {
        sum = is_empty ? sum : __fmaf_rn(next_sum, next, __fmul_rn(sum, before));
    }
};

// Divides by the sum of the weights; a row that sees no key gets zeros.
__device__ float inverse_weight(float weight) {
    return weight == 0.0f ? 0.0f : __frcp_rn(weight);
}

// Some rows of a sequence and some of their splits.
struct Item {
    uint32_t first, end;            // rows of the sequence: query * num_heads + head
    uint32_t last_position;         // of the last row
    uint32_t num_keys;              // that the last row visits
    uint32_t first_tile, end_tile;  // of keys
    int64_t slot;                   // of the first row; -1: folded here and written to out
    const int32_t* block_table;     // of the sequence
    const int32_t* chosen;          // positions that the query of all rows chose; null: all
};

template <uint32_t kRows>
__device__ Item find_item(const MlaParams& p, const Seq& seq, uint32_t seq_index, uint32_t index) {
    const int32_t slot_start = p.plan[2 * (p.num_seqs + 1) + seq_index];
    const uint32_t num_splits = slot_start < 0 ? 1 : seq.num_splits();
    const uint32_t local = index - static_cast<uint32_t>(p.plan[seq_index]);
    const uint32_t tile = local / num_splits, split = local % num_splits;
    Item item;
    item.chosen = nullptr;
    if (p.index_topk == 0) {
        item.first = tile * kRows;
        item.end = min(item.first + kRows, seq.num_queries * p.num_heads);
    } else {
        const uint32_t tiles_per_query = ceil_div(p.num_heads, kRows);
        const uint32_t query = tile / tiles_per_query;
        item.first = query * p.num_heads + tile % tiles_per_query * kRows;
        item.end = min(item.first + kRows, (query + 1) * p.num_heads);
        item.chosen = p.topk_indices + static_cast<int64_t>(seq.first_query + query) * p.topk_stride;
    }
    const uint32_t last_query = (item.end - 1) / p.num_heads;
    item.last_position = seq.position(last_query);
    item.num_keys = seq.num_keys(last_query);
    item.first_tile = split * kTilesPerSplit;
    item.end_tile = ceil_div(item.num_keys, kKeys);
    item.slot = -1;
    if (slot_start >= 0) {
        item.end_tile = min(item.end_tile, item.first_tile + kTilesPerSplit);
        item.slot = slot_start + static_cast<int64_t>(split) * seq.num_queries * p.num_heads + item.first;
    }
    item.block_table = p.block_table + static_cast<int64_t>(seq_index) * p.block_table_stride;
    return item;
}

template <uint32_t kRows, bool kIsFp8>
struct alignas(1024) Shared {
    uint8_t queries[kRowTiles * kRows * TILE_ROW_BYTES];
    // Two stages of keys, or one that is decoded from two stages of records.
    uint8_t keys[kIsFp8 ? kKeysBytes + 2 * kKeys * kRecordBytes : 2 * kKeysBytes];
    uint8_t weights[kRows * TILE_ROW_BYTES];  // Numerators of the softmax, bf16.
    int32_t positions[2][kKeys];              // Of the keys of a stage; kNoPosition where there is none.
    float maxima[kNumWarps * 16];             // Of the logits of each warp's keys, for each row.

    __device__ uint32_t query_tile(uint32_t tile) const {
        return shared_address(queries) + tile * kRows * TILE_ROW_BYTES;
    }
    __device__ uint32_t key_tile(uint32_t stage, uint32_t tile) const {
        return shared_address(keys) + (kIsFp8 ? 0 : stage * kKeysBytes) + tile * kKeyTileBytes;
    }
    __device__ const uint8_t* record(uint32_t stage, uint32_t key) const {
        return keys + kKeysBytes + (stage * kKeys + key) * kRecordBytes;
    }
};

// The launcher has these numbers.
static_assert(sizeof(Shared<16, false>) == 168960, "bf16, 16 rows");
static_assert(sizeof(Shared<32, false>) == 189440, "bf16, 32 rows");
static_assert(sizeof(Shared<16, true>) == 179200, "FP8, 16 rows");
static_assert(sizeof(Shared<32, true>) == 199680, "FP8, 32 rows");

// The keys that a thread copies a part of: kRowsAtOnce apart, from `threadIdx.x / kChunks` on.
struct Keys {
    int32_t row[kKeys / kRowsAtOnce];  // of the cache; -1: none
    int32_t position[kKeys / kRowsAtOnce];
};

__device__ Keys find_keys(const MlaParams& p, const Item& item, uint32_t tile) {
    Keys keys;
#pragma unroll
    for (uint32_t i = 0; i < kKeys / kRowsAtOnce; ++i) {
        const uint32_t index = tile * kKeys + i * kRowsAtOnce + threadIdx.x / kChunks;
        keys.row[i] = -1;
        keys.position[i] = kNoPosition;
        if (index < item.num_keys) {
            const uint32_t position = item.chosen == nullptr ? index : static_cast<uint32_t>(item.chosen[index]);
            // What is no position, -1, is larger than any.
            if (position <= item.last_position) {
                const int32_t block = item.block_table[position / p.block_size];
                keys.row[i] = static_cast<int32_t>(block * p.block_size + position % p.block_size);
                keys.position[i] = static_cast<int32_t>(position);
            }
        }
    }
    return keys;
}

// Starts the copies of a tile of keys.
template <uint32_t kRows, bool kIsFp8>
__device__ void load_keys(const MlaParams& p, Shared<kRows, kIsFp8>& shared, const Keys& keys, uint32_t stage) {
    const uint32_t chunk = threadIdx.x % kChunks;
#pragma unroll
    for (uint32_t i = 0; i < kKeys / kRowsAtOnce; ++i) {
        const uint32_t key = i * kRowsAtOnce + threadIdx.x / kChunks;
        const int64_t row = keys.row[i];
        const bool is_key = row >= 0;
        if (chunk == 0) {
            shared.positions[stage][key] = keys.position[i];
        }
        if constexpr (kIsFp8) {
            const uint32_t to = shared_address(shared.record(stage, key));
#pragma unroll
            for (uint32_t byte = chunk * 16; byte < kRecordBytes; byte += kChunks * 16) {
                cp_async_16(to + byte, p.cache + (is_key ? row * kRecordBytes + byte : 0), is_key);
            }
        } else {
            const int64_t from = row * (p.rank + p.rope) * sizeof(uint16_t);
#pragma unroll
            for (uint32_t tile = 0; tile < kRowTiles; ++tile) {
                const bool is_rope = tile == kLatentTiles;
                const uint32_t column = (is_rope ? 0 : tile * kTileDim) + chunk * kVector;
                const bool is_there = is_key && column < (is_rope ? p.rope : p.rank);
                const uint32_t byte = ((is_rope ? p.rank : 0) + column) * sizeof(uint16_t);
                cp_async_16(tile_chunk(shared.key_tile(stage, tile), key, chunk), p.cache + (is_there ? from + byte : 0),
                            is_there);
            }
        }
    }
}

// Starts the copies of the queries of an item.
template <uint32_t kRows, bool kIsFp8>
__device__ void load_queries(const MlaParams& p, Shared<kRows, kIsFp8>& shared, const Seq& seq, const Item& item) {
    const uint32_t chunk = threadIdx.x % kChunks;
    const uint32_t row = threadIdx.x / kChunks;
    if (row >= kRows) {
        return;
    }
    const bool is_row = item.first + row < item.end;
    const int64_t token = seq.first_query + (is_row ? (item.first + row) / p.num_heads : 0);
    const uint32_t head = is_row ? (item.first + row) % p.num_heads : 0;
    const uint16_t* latent = p.q_latent + token * p.q_latent_stride + head * p.rank;
    const uint16_t* rope = p.q_rope + token * p.q_rope_stride + head * p.q_rope_head_stride;
#pragma unroll
    for (uint32_t tile = 0; tile < kRowTiles; ++tile) {
        const bool is_rope = tile == kLatentTiles;
        const uint32_t column = (is_rope ? 0 : tile * kTileDim) + chunk * kVector;
        const bool is_there = is_row && column < (is_rope ? p.rope : p.rank);
        cp_async_16(tile_chunk(shared.query_tile(tile), row, chunk), (is_rope ? rope : latent) + (is_there ? column : 0),
                    is_there);
    }
}

// The values of two e4m3 codes times a scale, as bf16; the lower byte first.
__device__ uint32_t decode_e4m3x2(uint32_t codes, float scale) {
#if __CUDA_ARCH__ >= 890
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(codes)));
    const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    return pack_bf16x2(values.x * scale, values.y * scale);
#else
    float values[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t code = codes >> (8 * i) & 0xffu, magnitude = code & 0x7fu;
        // Exponent and mantissa where those of an f32 begin: subnormals too have their value then, times 2^-120.
        const float value = magnitude == 0x7fu ? __int_as_float(0x7fffffff) : __uint_as_float(magnitude << 20) * 0x1p120f;
        values[i] = (code >> 7 ? -value : value) * scale;
    }
    return pack_bf16x2(values[0], values[1]);
#endif
}

// Records to keys.
template <uint32_t kRows>
__device__ void decode_records(Shared<kRows, true>& shared, uint32_t stage) {
    const uint32_t chunk = threadIdx.x % kChunks;
#pragma unroll
    for (uint32_t i = 0; i < kKeys / kRowsAtOnce; ++i) {
        const uint32_t key = i * kRowsAtOnce + threadIdx.x / kChunks;
        const uint8_t* record = shared.record(stage, key);
        // An offset, not a shared address, because these are ordinary stores.
        const uint32_t to = tile_chunk(0, key, chunk);
#pragma unroll
        for (uint32_t tile = 0; tile < kLatentTiles; ++tile) {
            const uint2 codes = *reinterpret_cast<const uint2*>(record + tile * kTileDim + chunk * kVector);
            const float scale = *reinterpret_cast<const float*>(record + kRecordScales + tile / 2 * sizeof(float));
            *reinterpret_cast<uint4*>(shared.keys + tile * kKeyTileBytes + to) =
                make_uint4(decode_e4m3x2(codes.x, scale), decode_e4m3x2(codes.x >> 16, scale),
                           decode_e4m3x2(codes.y, scale), decode_e4m3x2(codes.y >> 16, scale));
        }
        *reinterpret_cast<uint4*>(shared.keys + kLatentTiles * kKeyTileBytes + to) =
            *reinterpret_cast<const uint4*>(record + kRecordKey + chunk * 16);
    }
}

// Of a split, or of those before it: what a lane holds of 16 rows each. Rows are lane / 4, and that plus 8.
template <uint32_t kRowBlocks>
struct Sums {
    float maximum[kRowBlocks][2];     // of the logits, times log2(e)
    float weight[kRowBlocks][4];      // elements 0 and 2: sums of the numerators of the two rows
    float latent[kRowBlocks][8][4];   // of numerators times latent; the warp's columns, eight by eight

    __device__ void clear() {
#pragma unroll
        for (uint32_t i = 0; i < kRowBlocks; ++i) {
            maximum[i][0] = maximum[i][1] = -kInfinity;
#pragma unroll
            for (uint32_t e = 0; e < 4; ++e) {
                weight[i][e] = 0.0f;
#pragma unroll
                for (uint32_t j = 0; j < 8; ++j) {
                    latent[i][j][e] = 0.0f;
                }
            }
        }
    }

    __device__ void fold(const Sums& next) {
#pragma unroll
        for (uint32_t i = 0; i < kRowBlocks; ++i) {
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                const Fold fold(maximum[i][half], weight[i][2 * half], next.maximum[i][half], next.weight[i][2 * half]);
#pragma unroll
                for (uint32_t j = 0; j < 8; ++j) {
                    fold.apply(latent[i][j][2 * half], next.latent[i][j][2 * half]);
                    fold.apply(latent[i][j][2 * half + 1], next.latent[i][j][2 * half + 1]);
                }
            }
        }
    }
};

// The logits of 16 rows and 8 * kRowBlocks keys of each warp become numerators in shared memory; sums of earlier tiles are
// made relative to the new maximum. `positions` are those of the lane's two rows of the warp's 16.
template <uint32_t kRows, bool kIsFp8>
__device__ void weigh_keys(float scale, Shared<kRows, kIsFp8>& shared, Sums<kRows / 16>& sums, uint32_t stage,
                           const int32_t (&positions)[2]) {
    constexpr uint32_t kRowBlocks = kRows / 16;
    constexpr uint32_t kWarpsPerRow = kNumWarps / kRowBlocks;
    const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const uint32_t first_row = warp % kRowBlocks * 16, slice = warp / kRowBlocks;
    const uint32_t first_key = slice * 8 * kRowBlocks;

    float logits[kRowBlocks][4] = {};
#pragma unroll 3
    for (uint32_t tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (uint32_t pair = 0; pair < 2; ++pair) {
            uint32_t a[2][4];
            tile_operand_a(a[0], shared.query_tile(tile), first_row, 2 * pair);
            tile_operand_a(a[1], shared.query_tile(tile), first_row, 2 * pair + 1);
#pragma unroll
            for (uint32_t j = 0; j < kRowBlocks; ++j) {
                uint32_t b[4];
                tile_operand_b_steps(b, shared.key_tile(stage, tile), first_key + j * 8, pair);
                mma_bf16(logits[j], a[0], b[0], b[1]);
                mma_bf16(logits[j], a[1], b[2], b[3]);
            }
        }
    }

    float largest[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (uint32_t j = 0; j < kRowBlocks; ++j) {
#pragma unroll
        for (uint32_t e = 0; e < 4; ++e) {
            const int32_t position = shared.positions[stage][first_key + j * 8 + lane % 4 * 2 + e % 2];
            logits[j][e] = position <= positions[e / 2] ? logits[j][e] * scale : -kInfinity;
            largest[e / 2] = fmaxf(largest[e / 2], logits[j][e]);
        }
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        largest[half] = fmaxf(largest[half], __shfl_xor_sync(kAllLanes, largest[half], 1));
        largest[half] = fmaxf(largest[half], __shfl_xor_sync(kAllLanes, largest[half], 2));
        if (lane % 4 == 0) {
            shared.maxima[slice * kRows + first_row + half * 8 + lane / 4] = largest[half];
        }
    }
    __syncthreads();

    float shift[2];
#pragma unroll
    for (uint32_t i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float maximum = sums.maximum[i][half];
#pragma unroll
            for (uint32_t w = 0; w < kWarpsPerRow; ++w) {
                maximum = fmaxf(maximum, shared.maxima[w * kRows + i * 16 + half * 8 + lane / 4]);
            }
            const float factor = exp2_approx(sums.maximum[i][half] - finite_or_zero(maximum));
            sums.maximum[i][half] = maximum;
            sums.weight[i][2 * half] *= factor;
#pragma unroll
            for (uint32_t j = 0; j < 8; ++j) {
                sums.latent[i][j][2 * half] *= factor;
                sums.latent[i][j][2 * half + 1] *= factor;
            }
            if (i * 16 == first_row) {
                shift[half] = finite_or_zero(maximum);
            }
        }
    }
#pragma unroll
    for (uint32_t j = 0; j < kRowBlocks; ++j) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t row = first_row + half * 8 + lane / 4;
            const uint32_t to = tile_chunk(0, row, (first_key + j * 8) / kVector) + lane % 4 * 4;
            *reinterpret_cast<uint32_t*>(shared.weights + to) =
                pack_bf16x2(exp2_approx(logits[j][2 * half] - shift[half]),
                            exp2_approx(logits[j][2 * half + 1] - shift[half]));
        }
    }
    __syncthreads();
}

// Adds numerators times latent for the warp's columns, and the numerators as the product sees them: rounded to bf16.
template <uint32_t kRows, bool kIsFp8>
__device__ void add_latent(const Shared<kRows, kIsFp8>& shared, Sums<kRows / 16>& sums, uint32_t stage) {
    const uint32_t tile = shared.key_tile(stage, threadIdx.x / kWarp);
    const uint32_t weights = shared_address(shared.weights);
#pragma unroll
    for (uint32_t step = 0; step < kKeys / 16; ++step) {
        uint32_t a[kRows / 16][4];
#pragma unroll
        for (uint32_t i = 0; i < kRows / 16; ++i) {
            tile_operand_a(a[i], weights, i * 16, step);
            mma_bf16(sums.weight[i], a[i], kOnes, kOnes);
        }
#pragma unroll
        for (uint32_t j = 0; j < 8; j += 2) {
            uint32_t b[4];
            tile_operand_b_transposed(b, tile, step * 16, j);
#pragma unroll
            for (uint32_t i = 0; i < kRows / 16; ++i) {
                mma_bf16(sums.latent[i][j], a[i], b[0], b[1]);
                mma_bf16(sums.latent[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

template <uint32_t kRowBlocks>
__device__ void write_partial(const MlaParams& p, const Item& item, const Sums<kRowBlocks>& sums) {
    const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
    for (uint32_t i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t row = i * 16 + half * 8 + lane / 4;
            if (item.first + row >= item.end) {
                continue;
            }
            float* partial = p.partials + (item.slot + row) * (p.rank + kPartialTail);
#pragma unroll
            for (uint32_t j = 0; j < 8; ++j) {
                const uint32_t column = warp * kTileDim + j * 8 + lane % 4 * 2;
                if (column < p.rank) {
                    *reinterpret_cast<float2*>(partial + column) =
                        make_float2(sums.latent[i][j][2 * half], sums.latent[i][j][2 * half + 1]);
                }
            }
            if (warp == 0 && lane % 4 == 0) {
                *reinterpret_cast<float2*>(partial + p.rank) =
                    make_float2(sums.maximum[i][half], sums.weight[i][2 * half]);
            }
        }
    }
}

template <uint32_t kRowBlocks>
__device__ void write_out(const MlaParams& p, const Seq& seq, const Item& item, const Sums<kRowBlocks>& sums) {
    const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
    for (uint32_t i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t row = item.first + i * 16 + half * 8 + lane / 4;
            if (row >= item.end) {
                continue;
            }
            const int64_t token = seq.first_query + row / p.num_heads;
            uint16_t* out = p.out + token * p.out_stride + row % p.num_heads * p.rank;
            const float inverse = inverse_weight(sums.weight[i][2 * half]);
#pragma unroll
            for (uint32_t j = 0; j < 8; ++j) {
                const uint32_t column = warp * kTileDim + j * 8 + lane % 4 * 2;
                if (column < p.rank) {
                    *reinterpret_cast<uint32_t*>(out + column) =
                        pack_bf16x2(sums.latent[i][j][2 * half] * inverse, sums.latent[i][j][2 * half + 1] * inverse);
                }
            }
        }
    }
}

template <uint32_t kRows, bool kIsFp8>
__device__ void attend(const MlaParams& p, Shared<kRows, kIsFp8>& shared, const Seq& seq, const Item& item) {
    if (item.first_tile >= item.end_tile) {
        return;  // No row of this tile reaches as far as this split.
    }
    int32_t positions[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t row = item.first + threadIdx.x / kWarp % (kRows / 16) * 16 + half * 8 + threadIdx.x % kWarp / 4;
        positions[half] = row < item.end ? static_cast<int32_t>(seq.position(row / p.num_heads)) : -1;
    }
    Sums<kRows / 16> total, split;
    total.clear();
    split.clear();

    __syncthreads();  // The item before has been read.
    load_queries(p, shared, seq, item);
    load_keys(p, shared, find_keys(p, item, item.first_tile), item.first_tile % 2);
    cp_async_commit();
    // Where the next tile's keys lie is looked up a tile ahead, so that its copies do not wait for that.
    Keys next = find_keys(p, item, item.first_tile + 1);
    for (uint32_t tile = item.first_tile; tile < item.end_tile; ++tile) {
        cp_async_wait<0>();
        __syncthreads();  // The tile is there, and all warps have finished with the one before.
        if (tile + 1 < item.end_tile) {
            load_keys(p, shared, next, (tile + 1) % 2);
            next = find_keys(p, item, tile + 2);
        }
        cp_async_commit();
        if constexpr (kIsFp8) {
            decode_records(shared, tile % 2);
            __syncthreads();
        }
        weigh_keys(p.softmax_scale_log2, shared, split, tile % 2, positions);
        add_latent(shared, split, tile % 2);
        if ((tile + 1) % kTilesPerSplit == 0 || tile + 1 == item.end_tile) {
            if (item.slot >= 0) {
                write_partial(p, item, split);
            } else {
                total.fold(split);
                split.clear();
            }
        }
    }
    if (item.slot < 0) {
        write_out(p, seq, item, total);
    }
}

// Grid: any number of blocks; dynamic shared memory: sizeof(Shared).
template <uint32_t kRows, bool kIsFp8>
__device__ void mla_absorbed(const MlaParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic_shared[];
    Shared<kRows, kIsFp8>& shared = *reinterpret_cast<Shared<kRows, kIsFp8>*>(dynamic_shared);
    const uint32_t num_items = p.plan[p.num_seqs];
    for (uint32_t i = blockIdx.x; i < num_items; i += gridDim.x) {
        // From the end: later queries of a sequence see more keys, and what takes longest should begin first.
        const uint32_t index = num_items - 1 - i;
        const uint32_t seq_index = find_seq(p.plan, p.num_seqs, index);
        const Seq seq(p.query_start_loc, p.seq_lens, p.index_topk, seq_index);
        attend(p, shared, seq, find_item<kRows>(p, seq, seq_index, index));
    }
}

}  // namespace

// One block.
extern "C" __global__ void __launch_bounds__(kWarp * kMaxWarps) mla_plan(const __grid_constant__ MlaPlanParams p) {
    __shared__ uint32_t partials[3][kMaxWarps];
    int32_t* item_start = p.plan;
    int32_t* row_start = p.plan + (p.num_seqs + 1);
    int32_t* slot_start = p.plan + 2 * (p.num_seqs + 1);
    uint32_t num_items = 0, num_rows = 0, num_slots = 0;
    for (uint32_t first = 0; first < p.num_seqs; first += blockDim.x) {
        const uint32_t index = first + threadIdx.x;
        uint32_t rows = 0, splits = 0, tiles = 0;
        bool wants_slots = false;
        if (index < p.num_seqs) {
            const Seq seq(p.query_start_loc, p.seq_lens, p.index_topk, index);
            rows = seq.num_queries * p.num_heads;
            splits = seq.num_splits();
            tiles = p.index_topk == 0 ? ceil_div(rows, p.tile_rows) : seq.num_queries * ceil_div(p.num_heads, p.tile_rows);
            wants_slots = splits > 1 && seq.num_queries <= kMaxSplitQueries;
        }
        uint32_t all_slots, all_rows, all_items;
        const uint32_t slots = wants_slots ? rows * splits : 0;
        const uint32_t slot = num_slots + block_exclusive_sum(slots, all_slots, partials[0]);
        const bool is_split = wants_slots && slot + slots <= p.num_slots;
        const uint32_t row = num_rows + block_exclusive_sum(is_split ? rows : 0, all_rows, partials[1]);
        const uint32_t item = num_items + block_exclusive_sum(is_split ? tiles * splits : tiles, all_items, partials[2]);
        if (index < p.num_seqs) {
            item_start[index] = item;
            row_start[index] = row;
            slot_start[index] = is_split ? static_cast<int32_t>(slot) : -1;
        }
        num_slots += all_slots;
        num_rows += all_rows;
        num_items += all_items;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        item_start[p.num_seqs] = num_items;
        row_start[p.num_seqs] = num_rows;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) mla_absorbed_16(const __grid_constant__ MlaParams p) {
    mla_absorbed<16, false>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) mla_absorbed_32(const __grid_constant__ MlaParams p) {
    mla_absorbed<32, false>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) mla_absorbed_fp8_16(const __grid_constant__ MlaParams p) {
    mla_absorbed<16, true>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) mla_absorbed_fp8_32(const __grid_constant__ MlaParams p) {
    mla_absorbed<32, true>(p);
}

// Any number of blocks. A warp folds 128 columns of a row.
extern "C" __global__ void __launch_bounds__(kThreads) mla_combine(const __grid_constant__ MlaParams p) {
    constexpr uint32_t kColumns = 4;
    const int32_t* row_start = p.plan + (p.num_seqs + 1);
    const int32_t* slot_start = p.plan + 2 * (p.num_seqs + 1);
    const uint32_t num_parts = ceil_div(p.rank, kWarp * kColumns);
    const uint32_t num_items = row_start[p.num_seqs] * num_parts;
    for (uint32_t i = blockIdx.x * kNumWarps + threadIdx.x / kWarp; i < num_items; i += gridDim.x * kNumWarps) {
        const uint32_t seq_index = find_seq(row_start, p.num_seqs, i / num_parts);
        const Seq seq(p.query_start_loc, p.seq_lens, p.index_topk, seq_index);
        const uint32_t row = i / num_parts - static_cast<uint32_t>(row_start[seq_index]);
        const uint32_t query = row / p.num_heads;
        const uint32_t column = (i % num_parts * kWarp + threadIdx.x % kWarp) * kColumns;
        if (column >= p.rank) {
            continue;
        }
        const int64_t stride = p.rank + kPartialTail;
        const float* partial = p.partials + (slot_start[seq_index] + static_cast<int64_t>(row)) * stride;
        const uint32_t num_splits = ceil_div(seq.num_keys(query), kSplit);
        float maximum = -kInfinity, weight = 0.0f;
        float4 sums = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (uint32_t split = 0; split < num_splits; ++split) {
            const float* from = partial + static_cast<int64_t>(split) * seq.num_queries * p.num_heads * stride;
            const float4 next = *reinterpret_cast<const float4*>(from + column);
            const float2 tail = *reinterpret_cast<const float2*>(from + p.rank);
            const Fold fold(maximum, weight, tail.x, tail.y);
            fold.apply(sums.x, next.x);
            fold.apply(sums.y, next.y);
            fold.apply(sums.z, next.z);
            fold.apply(sums.w, next.w);
        }
        const float inverse = inverse_weight(weight);
        uint16_t* out = p.out + (seq.first_query + query) * p.out_stride + row % p.num_heads * p.rank + column;
        *reinterpret_cast<uint2*>(out) = make_uint2(pack_bf16x2(sums.x * inverse, sums.y * inverse),
                                                    pack_bf16x2(sums.z * inverse, sums.w * inverse));
    }
}
