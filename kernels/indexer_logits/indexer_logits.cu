// The scores of the V3.2 indexer over its paged cache:
//
//     logits[t, s] = key_scale[s] * sum_h weights[t, h] * max(q[t, h] . key[s], 0)    for s up to the position of t
//
// q and key are e4m3; products and sums are f32. NaN stays NaN. A logit's order of additions is the same wherever it stands
// in a batch or a tile. Positions that a token does not see, rows of no sequence and rows that see fewer than `min_visible`
// positions are not written, and no key past the last position that a row sees is read.
//
// Bound: 2 * 128 * num_heads operations per token and position in prefill, 16.4 kflop at 64 heads; in decode memory, 132
// bytes per position of each sequence: 17.3 MB at 131,072, 5.2 us at 3.35 TB/s.
//
// A block scores 128 positions of one sequence for up to 32 of its rows. Its keys are the A operand and stay in
// registers, 32 of each warp; the queries, one token's 64 heads at a time, pass through three stages of shared memory.
// Heads are columns of the product: a lane adds 16 of 64 in ascending order, then four lanes meet.
//
// Grid: x are the positions, y the pairs of a sequence and 32 rows of the launch that both have rows. As rows ascend with
// sequences, sequence + number of the 32 rows is different for each pair: y is that sum, and some y have no rows.
//
// archs: 89+

#include "../common/cp_async.cuh"
#include "../common/indexer_cache.cuh"
#include "../common/mma.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kNumKeys = 128;
constexpr uint32_t kKeysPerWarp = 32;
constexpr uint32_t kRowsPerBlock = 32;
constexpr uint32_t kMaxHeads = 64;
constexpr uint32_t kHeadsAtOnce = 16;
constexpr uint32_t kNumStages = 3;
constexpr uint32_t kSteps = kIndexerHeadDim / 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
// Chunks of 16 bytes of a vector, and vectors that the block copies at once.
constexpr uint32_t kChunks = kIndexerHeadDim / 16;
constexpr uint32_t kVectorsAtOnce = kThreads / kChunks;

static_assert(kIndexerHeadDim == TILE_ROW_BYTES, "a vector is a row of a tile");

struct Shared {
    alignas(1024) uint8_t keys[kNumKeys * kIndexerHeadDim];
    alignas(1024) uint8_t queries[kNumStages][kMaxHeads * kIndexerHeadDim];
    float key_scales[kNumKeys];
    float weights[kNumStages][kMaxHeads];
};

// Not fmaxf, which would turn NaN into 0.
__device__ float relu(float x) {
    return x < 0.0f ? 0.0f : x;
}

// The sequence of this block's pair, or num_seqs if there is none. All threads call this.
__device__ uint32_t find_sequence(const IndexerLogitsParams& p) {
    uint32_t num_starts = 0;
    for (uint32_t base = 0; base < p.num_seqs; base += kThreads) {
        const uint32_t seq = base + threadIdx.x;
        bool starts = false;
        if (seq < p.num_seqs) {
            const uint32_t start = max(static_cast<uint32_t>(p.query_start_loc[seq]), p.first_row) - p.first_row;
            starts = seq + start / kRowsPerBlock <= blockIdx.y;
        }
        num_starts += __syncthreads_count(starts);
    }
    return num_starts == 0 ? p.num_seqs : num_starts - 1;
}

// Starts the copies of `num_keys` keys and their scales; the others become zero.
__device__ void load_keys(const IndexerLogitsParams& p, const int32_t* blocks, uint32_t num_keys, Shared& shared) {
    const uint32_t chunk = threadIdx.x % kChunks;
#pragma unroll
    for (uint32_t first = 0; first < kNumKeys; first += kVectorsAtOnce) {
        const uint32_t key = first + threadIdx.x / kChunks;
        const bool is_key = key < num_keys;
        const int64_t block = is_key ? blocks[key / kIndexerBlockTokens] : 0;
        const uint8_t* codes = p.cache + indexer_codes_at(block, key % kIndexerBlockTokens) + chunk * 16;
        cp_async_16(tile_chunk(shared_address(shared.keys), key, chunk), codes, is_key);
    }
    const bool is_key = threadIdx.x < num_keys;
    const int64_t block = is_key ? blocks[threadIdx.x / kIndexerBlockTokens] : 0;
    const uint8_t* scale = p.cache + indexer_scale_at(block, threadIdx.x % kIndexerBlockTokens);
    cp_async_4(shared_address(&shared.key_scales[threadIdx.x]), scale, is_key);
}

// Starts the copies of one token's queries and weights, whose number is rounded up to whole products with zeros.
__device__ void load_query(const IndexerLogitsParams& p, uint32_t row, uint32_t stage, Shared& shared) {
    const int64_t first_vector = static_cast<int64_t>(row) * p.num_heads;
    const uint32_t chunk = threadIdx.x % kChunks;
    const uint32_t tile = shared_address(shared.queries[stage]);
    for (uint32_t first = 0; first < p.num_heads; first += kVectorsAtOnce) {
        const uint32_t head = first + threadIdx.x / kChunks;
        const bool is_head = head < p.num_heads;
        const uint8_t* codes = p.q + (first_vector + (is_head ? head : 0)) * kIndexerHeadDim + chunk * 16;
        cp_async_16(tile_chunk(tile, head, chunk), codes, is_head);
    }
    if (threadIdx.x < kMaxHeads) {
        const bool is_head = threadIdx.x < p.num_heads;
        const float* weight = p.weights + first_vector + (is_head ? threadIdx.x : 0);
        cp_async_4(shared_address(&shared.weights[stage][threadIdx.x]), weight, is_head);
    }
}

// The sum over heads for this lane's share of its warp's keys: 16 m + 8 half + lane / 4, of which lane % 4 = 2 m + half
// gets the sum.
__device__ float sum_heads(const IndexerLogitsParams& p, const uint32_t (&keys)[2][kSteps][4], uint32_t stage,
                           const Shared& shared) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t tile = shared_address(shared.queries[stage]);
    float sums[2][2] = {};
    for (uint32_t head = 0; head < p.num_heads; head += kHeadsAtOnce) {
        float products[2][2][4] = {};
#pragma unroll
        for (uint32_t step = 0; step < kSteps; ++step) {
            uint32_t queries[4];
            tile_operand_b_pair(queries, tile, head, step);
#pragma unroll
            for (uint32_t m = 0; m < 2; ++m) {
                mma_e4m3(products[m][0], keys[m][step], queries[0], queries[1]);
                mma_e4m3(products[m][1], keys[m][step], queries[2], queries[3]);
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < 2; ++n) {
            const float2 weight =
                *reinterpret_cast<const float2*>(&shared.weights[stage][head + 8 * n + lane % 4 * 2]);
#pragma unroll
            for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
                for (uint32_t half = 0; half < 2; ++half) {
                    sums[m][half] = fmaf(weight.x, relu(products[m][n][2 * half]), sums[m][half]);
                    sums[m][half] = fmaf(weight.y, relu(products[m][n][2 * half + 1]), sums[m][half]);
                }
            }
        }
    }
    float chosen = 0.0f;
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float sum = sums[m][half];
            sum += __shfl_xor_sync(kAllLanes, sum, 1);
            sum += __shfl_xor_sync(kAllLanes, sum, 2);
            chosen = lane % 4 == 2 * m + half ? sum : chosen;
        }
    }
    return chosen;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    indexer_logits(const __grid_constant__ IndexerLogitsParams p) {
    __shared__ Shared shared;
    const uint32_t seq = find_sequence(p);
    if (seq == p.num_seqs) {
        return;
    }
    // Rows and positions as signed numbers: a row of position s is at row s - offset.
    const int32_t seq_start = p.query_start_loc[seq];
    const int32_t seq_end = p.query_start_loc[seq + 1];
    const int32_t offset = p.seq_lens[seq] - seq_end;
    const int32_t block_start = static_cast<int32_t>(p.first_row + (blockIdx.y - seq) * kRowsPerBlock);
    const int32_t launch_end = static_cast<int32_t>(p.first_row + p.num_rows);
    const int32_t first_column = static_cast<int32_t>(blockIdx.x * kNumKeys);
    const int32_t first_key = static_cast<int32_t>(p.first_position) + first_column;
    // The first row that sees the first key, and enough of them.
    const int32_t first_seeing = max(first_key, static_cast<int32_t>(p.min_visible) - 1) - offset;
    const int32_t row_start = max(max(seq_start, block_start), first_seeing);
    const int32_t row_end = min(min(seq_end, block_start + static_cast<int32_t>(kRowsPerBlock)), launch_end);
    if (row_start >= row_end) {
        return;
    }

    const int32_t num_columns = min(static_cast<int32_t>(kNumKeys), static_cast<int32_t>(p.num_positions) - first_column);
    const uint32_t num_keys = static_cast<uint32_t>(min(num_columns, offset + row_end - first_key));
    const int32_t* blocks = p.block_table + static_cast<int64_t>(seq) * p.block_table_stride +
                            first_key / static_cast<int32_t>(kIndexerBlockTokens);
    load_keys(p, blocks, num_keys, shared);
    cp_async_commit();
#pragma unroll
    for (uint32_t stage = 0; stage < kNumStages - 1; ++stage) {
        if (row_start + static_cast<int32_t>(stage) < row_end) {
            load_query(p, row_start + stage, stage, shared);
        }
        cp_async_commit();
    }
    cp_async_wait<kNumStages - 1>();
    __syncthreads();
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t first_of_warp = threadIdx.x / 32 * kKeysPerWarp;
    uint32_t keys[2][kSteps][4];
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
        for (uint32_t step = 0; step < kSteps; ++step) {
            tile_operand_a(keys[m][step], shared_address(shared.keys), first_of_warp + 16 * m, step);
        }
    }
    const uint32_t key = first_of_warp + lane % 4 * 8 + lane / 4;
    const float key_scale = shared.key_scales[key];

    uint32_t stage = 0;
    for (int32_t row = row_start; row < row_end; ++row) {
        cp_async_wait<kNumStages - 2>();
        // Besides: the stage that is filled next is the one that was read last.
        __syncthreads();
        const uint32_t next_stage = stage == 0 ? kNumStages - 1 : stage - 1;
        if (row + static_cast<int32_t>(kNumStages) - 1 < row_end) {
            load_query(p, row + kNumStages - 1, next_stage, shared);
        }
        cp_async_commit();
        const float logit = key_scale * sum_heads(p, keys, stage, shared);
        if (key < num_keys && first_key + static_cast<int32_t>(key) <= offset + row) {
            p.logits[(row - static_cast<int32_t>(p.first_row)) * p.logits_stride + first_column + key] = logit;
        }
        stage = stage == kNumStages - 1 ? 0 : stage + 1;
    }
}
