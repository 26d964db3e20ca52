// The positions of the k best scores of each row, ascending. Equal scores prefer the lowest position, NaN is below
// everything: the choice is that of crates/ops/src/indexer, to the position.
//
// A radix select finds the k-th best key, 11 + 11 + 10 bits from the top, with one histogram per digit; a last pass writes
// the positions in order, those above the k-th key and as many of those equal to it as are missing.
//
// Bound: memory, 4 bytes per score: 655 KB for a row of 163,840. The row is read four times, the later ones from L2, by one
// block; with fewer rows than multiprocessors it is the block's own bandwidth that counts. Scores in few binades meet in
// few bins of the first histogram, whose atomics then queue.
//
// `top_k_merge` takes rows that are too long to be there at once, one stretch of positions after another: a row begins with
// the scores chosen so far, in ascending order of their positions, which `out` holds, and the scores of the next stretch
// follow. What is chosen of both is moved to the beginnings of the row and of `out`. No score that is among the k best of
// all is ever dropped, and equal scores stay in the order of their positions.
//
// Grid: one block per row.
//
// archs: 80+

#include "../common/order.cuh"
#include "../common/reduce.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kScores = 4;
constexpr uint32_t kTile = kThreads * kScores;
constexpr uint32_t kNumBins = 2048;
constexpr uint32_t kBinsPerThread = kNumBins / kThreads;
constexpr float kNan = __builtin_nanf("");

struct Shared {
    uint32_t histogram[kNumBins];
    uint32_t partials[2][kMaxWarps];
    // The digit in which the k-th best key lies, and how many of its keys are among the best.
    uint32_t digit;
    uint32_t num_wanted;
};

// Calls `f` with every score's key.
template <typename F>
__device__ void for_each_key(const float* row, uint32_t length, F f) {
    for (uint32_t first = threadIdx.x * kScores; first < length; first += kTile) {
        const float4 scores = load_scores(row, first, length, kNan);
        f(sort_key(scores.x));
        if (first + 1 < length) f(sort_key(scores.y));
        if (first + 2 < length) f(sort_key(scores.z));
        if (first + 3 < length) f(sort_key(scores.w));
    }
}

// Extends `prefix`, the upper bits of the k-th best key, by the digit of `num_bits` bits at `shift`. `num_wanted` of the
// keys with this prefix are among the best; afterwards it is those with the longer prefix.
__device__ void select_digit(const float* row, uint32_t length, uint32_t shift, uint32_t num_bits, uint32_t& prefix,
                             uint32_t& num_wanted, Shared& shared) {
    for (uint32_t bin = threadIdx.x; bin < kNumBins; bin += kThreads) {
        shared.histogram[bin] = 0;
    }
    __syncthreads();
    for_each_key(row, length, [&](uint32_t key) {
        // In two steps, because the first prefix is empty and a shift by 32 is not defined.
        if (key >> shift >> num_bits == prefix) {
            atomicAdd(&shared.histogram[key >> shift & ((1u << num_bits) - 1)], 1u);
        }
    });
    __syncthreads();

    // From the highest digit down: the one that takes the count to `num_wanted`.
    uint32_t counts[kBinsPerThread];
    uint32_t sum = 0;
    const uint32_t highest = kNumBins - 1 - threadIdx.x * kBinsPerThread;
#pragma unroll
    for (uint32_t i = 0; i < kBinsPerThread; ++i) {
        counts[i] = shared.histogram[highest - i];
        sum += counts[i];
    }
    uint32_t total;
    uint32_t above = block_exclusive_sum(sum, total, shared.partials[0]);
#pragma unroll
    for (uint32_t i = 0; i < kBinsPerThread; ++i) {
        if (above < num_wanted && num_wanted <= above + counts[i]) {
            shared.digit = highest - i;
            shared.num_wanted = num_wanted - above;
        }
        above += counts[i];
    }
    __syncthreads();
    prefix = prefix << num_bits | shared.digit;
    num_wanted = shared.num_wanted;
    // The next digit overwrites what was just read.
    __syncthreads();
}

// Hands over, in order, the scores whose keys are above `threshold` and the first `num_equal` that equal it:
// `write(place, position_of(index), score)`, with a place that is never above the index. No thread writes what belongs to a
// tile before every thread has read that tile, so that chosen scores may overwrite the row's beginning.
template <typename PositionOf, typename Write>
__device__ void write_chosen(const float* row, uint32_t length, uint32_t threshold, uint32_t num_equal,
                             PositionOf position_of, Write write, Shared& shared) {
    uint32_t above_before = 0;
    uint32_t equal_before = 0;
    for (uint32_t tile = 0; tile * kTile < length; ++tile) {
        const uint32_t first = tile * kTile + threadIdx.x * kScores;
        // NaN fills the end of the last tile: below the threshold, or equal to it behind every position of the row that
        // could be, of which there are enough.
        const float4 vector = load_scores(row, first, length, kNan);
        const float scores[kScores] = {vector.x, vector.y, vector.z, vector.w};
        int32_t positions[kScores];
        uint32_t keys[kScores];
        // Both counts in one number: those above in the upper half, those equal in the lower.
        uint32_t counts = 0;
#pragma unroll
        for (uint32_t i = 0; i < kScores; ++i) {
            positions[i] = position_of(first + i);
            keys[i] = sort_key(scores[i]);
            counts += static_cast<uint32_t>(keys[i] > threshold) << 16 | static_cast<uint32_t>(keys[i] == threshold);
        }
        uint32_t total;
        // The other half of `partials` in every second tile: one barrier lies between any two uses.
        const uint32_t before = block_exclusive_sum(counts, total, shared.partials[tile % 2]);
        uint32_t num_above = above_before + (before >> 16);
        uint32_t equal = equal_before + (before & 0xffffu);
#pragma unroll
        for (uint32_t i = 0; i < kScores; ++i) {
            const bool is_above = keys[i] > threshold;
            const bool is_equal = keys[i] == threshold;
            if (is_above || (is_equal && equal < num_equal)) {
                write(num_above + min(equal, num_equal), positions[i], scores[i]);
            }
            num_above += is_above;
            equal += is_equal;
        }
        above_before += total >> 16;
        equal_before += total & 0xffffu;
    }
}

// The key of the k-th best score, and how many of those equal to it are among the k best.
__device__ uint32_t find_threshold(const float* row, uint32_t length, uint32_t k, uint32_t& num_equal, Shared& shared) {
    uint32_t threshold = 0;
    num_equal = k;
    select_digit(row, length, 21, 11, threshold, num_equal, shared);
    select_digit(row, length, 10, 11, threshold, num_equal, shared);
    select_digit(row, length, 0, 10, threshold, num_equal, shared);
    return threshold;
}

// The choice of a row that has no more than k positions.
__device__ void choose_all(uint32_t length, uint32_t k, int32_t* out) {
    for (uint32_t i = threadIdx.x; i < k; i += kThreads) {
        out[i] = i < length ? static_cast<int32_t>(i) : -1;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) top_k(const __grid_constant__ TopKParams p) {
    __shared__ Shared shared;
    const int64_t row_index = blockIdx.x;
    const uint32_t length = max(p.lengths[row_index], 0);
    int32_t* out = p.out + row_index * p.k;
    if (length <= p.k) {
        choose_all(length, p.k, out);
        return;
    }
    const float* row = p.scores + row_index * p.row_stride;
    uint32_t num_equal;
    const uint32_t threshold = find_threshold(row, length, p.k, num_equal, shared);
    const auto position_of = [](uint32_t index) { return static_cast<int32_t>(index); };
    const auto write = [&](uint32_t place, int32_t position, float) { out[place] = position; };
    write_chosen(row, length, threshold, num_equal, position_of, write, shared);
}

extern "C" __global__ void __launch_bounds__(kThreads) top_k_merge(const __grid_constant__ TopKMergeParams p) {
    __shared__ Shared shared;
    const int64_t token = p.first_row + blockIdx.x;
    if (token >= *p.num_tokens) {
        return;
    }
    int32_t* out = p.out + token * p.k;
    const uint32_t num_visible = static_cast<uint32_t>(p.positions[token]) + 1;
    if (num_visible <= p.k) {
        if (p.first_position == 0) {
            choose_all(num_visible, p.k, out);
        }
        return;
    }
    if (num_visible <= p.first_position) {
        return;
    }
    const uint32_t num_carried = min(p.k, p.first_position);
    const uint32_t length = num_carried + min(num_visible - p.first_position, p.num_positions);
    if (length <= p.k) {
        // All are still among the best, and their scores are where they belong.
        for (uint32_t i = num_carried + threadIdx.x; i < length; i += kThreads) {
            out[i] = static_cast<int32_t>(i);
        }
        return;
    }
    float* row = p.scores + blockIdx.x * p.row_stride;
    uint32_t num_equal;
    const uint32_t threshold = find_threshold(row, length, p.k, num_equal, shared);
    const auto position_of = [&](uint32_t index) {
        return index < num_carried ? out[index] : static_cast<int32_t>(p.first_position + index - num_carried);
    };
    const auto write = [&](uint32_t place, int32_t position, float score) {
        out[place] = position;
        row[place] = score;
    };
    write_chosen(row, length, threshold, num_equal, position_of, write, shared);
}
