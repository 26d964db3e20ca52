// Sorts pairs of a token and a slot by expert, stably: within an expert, pairs keep their order.
//
// Every block counts all pairs by expert, which costs a second reading of the ids and saves a second launch. The counts
// are sums of integers, whose order does not matter; a pair's place among its expert's comes from a scan. So the result is
// the same in every run.
//
// Bound: latency for few pairs. For many: two readings of the ids by every block, 8 * num_pairs * num_experts bytes from
// L2, 67 MB for 4096 tokens of V3 (about 15 us).
//
// Grid: one block per expert.
//
// archs: 80+

#include "../common/reduce.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kMaxExperts = 1024;

struct Shared {
    uint32_t counts[kMaxExperts];
    uint32_t partials[2][kMaxWarps];
};

// Writes the rows and positions of the pairs of `expert`, from `first_row` on.
__device__ void place(const ExpertsSortParams& p, uint32_t expert, uint32_t first_row, Shared& shared) {
    const uint32_t count = shared.counts[expert];
    uint32_t num_placed = 0;
    for (uint32_t step = 0; num_placed < count; ++step) {
        const uint32_t pair = step * kThreads + threadIdx.x;
        const bool is_mine = pair < p.num_pairs && static_cast<uint32_t>(p.ids[pair]) == expert;
        // The other half of `partials` in every second step: one barrier lies between any two uses. The caller has used
        // the first.
        uint32_t total;
        const uint32_t before =
            block_exclusive_sum(static_cast<uint32_t>(is_mine), total, shared.partials[(step + 1) % 2]);
        if (is_mine) {
            const uint32_t row = first_row + num_placed + before;
            p.rows[row] = static_cast<int32_t>(pair / p.num_chosen);
            p.positions[pair] = static_cast<int32_t>(row);
        }
        num_placed += total;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) experts_sort(const __grid_constant__ ExpertsSortParams p) {
    __shared__ Shared shared;
    const uint32_t expert = blockIdx.x;
    for (uint32_t e = threadIdx.x; e < p.num_experts; e += kThreads) {
        shared.counts[e] = 0;
    }
    __syncthreads();
    for (uint32_t pair = threadIdx.x; pair < p.num_pairs; pair += kThreads) {
        // Negative ids become large ones.
        const uint32_t id = static_cast<uint32_t>(p.ids[pair]);
        if (id < p.num_experts) {
            atomicAdd(&shared.counts[id], 1u);
        } else if (expert == 0) {
            p.positions[pair] = -1;
        }
    }
    __syncthreads();

    const auto num_tiles_of = [&](uint32_t e) { return (shared.counts[e] + p.block_m - 1) / p.block_m; };
    uint32_t below = 0;
    for (uint32_t e = threadIdx.x; e < expert; e += kThreads) {
        below += num_tiles_of(e);
    }
    const uint32_t first_tile = block_reduce(below, 0u, Sum(), shared.partials[0]);
    place(p, expert, first_tile * p.block_m, shared);

    // The last expert's block marks everything behind its tiles as unused.
    const uint32_t count = shared.counts[expert];
    const uint32_t end_tile = expert == p.num_experts - 1 ? p.num_tiles : first_tile + num_tiles_of(expert);
    for (uint32_t tile = first_tile + threadIdx.x; tile < end_tile; tile += kThreads) {
        const uint32_t before = (tile - first_tile) * p.block_m;
        p.tiles[2 * tile] = before < count ? static_cast<int32_t>(expert) : -1;
        p.tiles[2 * tile + 1] = before < count ? static_cast<int32_t>(min(count - before, p.block_m)) : 0;
    }
    for (uint32_t row = first_tile * p.block_m + count + threadIdx.x; row < end_tile * p.block_m; row += kThreads) {
        p.rows[row] = -1;
    }
}
