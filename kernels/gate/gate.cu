// The router, in two kernels: logits = x * weight^T by tensor cores, and the choice of experts by these.
//
// Order of sums: `dim` is cut into parts of 512. Each part is summed from zero, and the parts are added in order, in f32.
// With few tokens every part has its own blocks, which fill the GPU, and gate_choose adds them; with many, a block goes
// through all parts and adds them itself. Both give the same bits: a token does not depend on the others.
//
// The choice is that of crates/ops/src/gate: sigmoid scores p, biased scores b = p + bias; a group's score is the sum of its
// two highest b; among the best groups the highest b win. Equal scores prefer the lowest index, NaN is below everything.
//
// Bound: memory for few tokens, 2 * num_experts * dim bytes of weights, 3.7 MB for V3 (1.1 us at 3.35 TB/s), and the
// latency of two launches. For many: tiles of 64 experts x 64 tokens from L2, 2 * 4 * 2 * 7168 bytes per token.
//
// archs: 80+

#include "../common/cp_async.cuh"
#include "../common/mma.cuh"
#include "../common/order.cuh"
#include "../common/reduce.cuh"
#include "../common/swizzled_tile.cuh"
#include "params.h"

namespace {

constexpr uint32_t kExperts = 64;
constexpr uint32_t kTokens = 64;
constexpr uint32_t kStepK = 64;  // 128 bytes, a row of a tile.
constexpr uint32_t kPartSteps = 8;
constexpr uint32_t kStages = 4;
constexpr uint32_t kLogitThreads = kExperts / 16 * kWarp;  // A warp owns 16 experts.

struct alignas(1024) Stage {
    uint16_t weight[kExperts][kStepK];
    uint16_t x[kTokens][kStepK];
};

struct LogitsShared {
    Stage stages[kStages];
    bool is_token[kTokens];
};
static_assert(sizeof(LogitsShared) == 66560, "the launcher has this number");

constexpr uint32_t kMaxExperts = 1024;
constexpr uint32_t kChooseThreads = 256;

// Orders experts by score, then by lowest index; what is no candidate is 0. Not the compiler's `unsigned long`, for which
// there are no shuffles on every platform.
using Key = unsigned long long;

struct ChooseShared {
    Key keys[kMaxExperts];
    float scores[kMaxExperts];
    float biased[kMaxExperts];
    // Of groups.
    uint32_t group_keys[kMaxExperts];
    bool is_kept[kMaxExperts];
    // Of the chosen experts.
    float weights[kMaxExperts];
};

__device__ bool is_padding(const int32_t* slot_mapping, uint32_t token) {
    return slot_mapping != nullptr && slot_mapping[token] < 0;
}

// Starts the copies of one step along `dim`, and closes their group.
__device__ void load_step(LogitsShared& shared, uint32_t stage, const GateLogitsParams& p, uint32_t first_expert,
                          uint32_t first_token, uint32_t step) {
    Stage& to = shared.stages[stage];
    const uint32_t first_byte = step * TILE_ROW_BYTES;
    tile_load<kExperts, kLogitThreads>(shared_address(to.weight), p.weight, static_cast<int64_t>(p.weight_stride) * 2,
                                       p.num_experts, p.dim * 2, first_expert, first_byte);
    tile_load_rows<kTokens, kLogitThreads>(
        shared_address(to.x), p.x, static_cast<int64_t>(p.x_stride) * 2, p.dim * 2, first_byte,
        [&](uint32_t row) { return TileRow{shared.is_token[row], first_token + row}; });
    cp_async_commit();
}

// Adds the product of one step to the warp's 16 experts x 64 tokens.
__device__ void multiply_step(float (&products)[kTokens / 8][4], const Stage& stage, uint32_t warp) {
    const uint32_t weight_tile = shared_address(stage.weight), x_tile = shared_address(stage.x);
#pragma unroll
    for (uint32_t pair = 0; pair < 2; ++pair) {
        uint32_t a[2][4];
        tile_operand_a(a[0], weight_tile, warp * 16, 2 * pair);
        tile_operand_a(a[1], weight_tile, warp * 16, 2 * pair + 1);
#pragma unroll
        for (uint32_t j = 0; j < kTokens / 8; ++j) {
            uint32_t b[4];
            tile_operand_b_steps(b, x_tile, j * 8, pair);
            mma_bf16(products[j], a[0], b[0], b[1]);
            mma_bf16(products[j], a[1], b[2], b[3]);
        }
    }
}

// The score of a group of experts: the sum of its two best, or its only one.
__device__ float group_score(const float* biased, uint32_t size) {
    // NaN is below every score, so it stands for none.
    float best = __builtin_nanf(""), second = best;
    for (uint32_t i = 0; i < size; ++i) {
        if (sort_key(biased[i]) > sort_key(best)) {
            second = best;
            best = biased[i];
        } else if (sort_key(biased[i]) > sort_key(second)) {
            second = biased[i];
        }
    }
    return size == 1 ? best : best + second;
}

// One warp: the keys of the experts that may be chosen.
__device__ void find_candidates(const GateChooseParams& p, ChooseShared& shared) {
    const uint32_t lane = threadIdx.x, size = p.num_experts / p.n_group;
    for (uint32_t group = lane; group < p.n_group; group += kWarp) {
        shared.group_keys[group] = sort_key(group_score(shared.biased + group * size, size));
    }
    __syncwarp();
    for (uint32_t group = lane; group < p.n_group; group += kWarp) {
        const uint32_t key = shared.group_keys[group];
        uint32_t num_better = 0;
        for (uint32_t other = 0; other < p.n_group; ++other) {
            num_better += shared.group_keys[other] > key || (shared.group_keys[other] == key && other < group);
        }
        shared.is_kept[group] = num_better < p.topk_group;
    }
    __syncwarp();
    for (uint32_t expert = lane; expert < p.num_experts; expert += kWarp) {
        const Key key = static_cast<Key>(sort_key(shared.biased[expert])) << 32 | ~expert;
        shared.keys[expert] = shared.is_kept[expert / size] ? key : 0;
    }
    __syncwarp();
}

}  // namespace

// Grid: [ceil(num_tokens / 64), ceil(num_experts / 64), number of parts or 1]; dynamic shared memory:
// sizeof(LogitsShared).
extern "C" __global__ void __launch_bounds__(kLogitThreads) gate_logits(const __grid_constant__ GateLogitsParams p) {
    extern __shared__ __align__(1024) uint8_t dynamic_shared[];
    LogitsShared& shared = *reinterpret_cast<LogitsShared*>(dynamic_shared);
    const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const uint32_t first_token = blockIdx.x * kTokens, first_expert = blockIdx.y * kExperts;
    const uint32_t num_steps = (p.dim + kStepK - 1) / kStepK;
    const uint32_t begin = blockIdx.z * kPartSteps;
    const uint32_t end = gridDim.z == 1 ? num_steps : min(begin + kPartSteps, num_steps);

    if (threadIdx.x < kTokens) {
        const uint32_t token = first_token + threadIdx.x;
        shared.is_token[threadIdx.x] = token < p.num_tokens && !is_padding(p.slot_mapping, token);
    }
    __syncthreads();

    // A group is closed for every stage, even an empty one, so that the number of groups under way is always known.
#pragma unroll
    for (uint32_t i = 0; i < kStages - 1; ++i) {
        if (begin + i < end) {
            load_step(shared, i, p, first_expert, first_token, begin + i);
        } else {
            cp_async_commit();
        }
    }
    float sums[kTokens / 8][4] = {}, products[kTokens / 8][4] = {};
    for (uint32_t step = begin; step < end; ++step) {
        cp_async_wait<kStages - 2>();
        // The copies of all threads have arrived, and all warps have finished with the stage that is filled next.
        __syncthreads();
        const uint32_t next = step + kStages - 1;
        if (next < end) {
            load_step(shared, (next - begin) % kStages, p, first_expert, first_token, next);
        } else {
            cp_async_commit();
        }
        multiply_step(products, shared.stages[(step - begin) % kStages], warp);
        if ((step + 1) % kPartSteps == 0 || step + 1 == end) {
#pragma unroll
            for (uint32_t j = 0; j < kTokens / 8; ++j) {
#pragma unroll
                for (uint32_t i = 0; i < 4; ++i) {
                    sums[j][i] += products[j][i];
                    products[j][i] = 0.0f;
                }
            }
        }
    }
#pragma unroll
    for (uint32_t j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t expert = first_expert + warp * 16 + lane / 4 + i / 2 * 8;
            const uint32_t row = j * 8 + lane % 4 * 2 + i % 2;
            if (expert < p.num_experts && shared.is_token[row]) {
                const int64_t token = static_cast<int64_t>(blockIdx.z) * p.num_tokens + first_token + row;
                p.logits[token * p.num_experts + expert] = sums[j][i];
            }
        }
    }
}

// Grid: one block per token.
extern "C" __global__ void __launch_bounds__(kChooseThreads) gate_choose(const __grid_constant__ GateChooseParams p) {
    __shared__ ChooseShared shared;
    const uint32_t token = blockIdx.x;
    int32_t* ids = p.ids + static_cast<int64_t>(token) * p.id_stride;
    float* weights = p.weights + static_cast<int64_t>(token) * p.weight_stride;
    if (is_padding(p.slot_mapping, token)) {
        for (uint32_t slot = threadIdx.x; slot < p.num_chosen; slot += kChooseThreads) {
            ids[slot] = -1;
            weights[slot] = 0.0f;
        }
        return;
    }
    for (uint32_t expert = threadIdx.x; expert < p.num_experts; expert += kChooseThreads) {
        float logit = 0.0f;
        for (uint32_t part = 0; part < p.num_parts; ++part) {
            logit += p.logits[(static_cast<int64_t>(part) * p.num_tokens + token) * p.num_experts + expert];
        }
        const float score = 1.0f / (1.0f + expf(-logit));
        shared.scores[expert] = score;
        shared.biased[expert] = score + p.bias[expert];
    }
    __syncthreads();
    if (threadIdx.x >= kWarp) {
        return;
    }

    find_candidates(p, shared);
    const uint32_t lane = threadIdx.x;
    Key previous = ~Key(0);
    float sum = 0.0f;
    for (uint32_t slot = 0; slot < p.num_chosen; ++slot) {
        Key best = 0;
        for (uint32_t expert = lane; expert < p.num_experts; expert += kWarp) {
            const Key key = shared.keys[expert];
            best = key < previous ? Max()(best, key) : best;
        }
        previous = warp_reduce(best, Max());
        const uint32_t expert = ~static_cast<uint32_t>(previous);
        sum += shared.scores[expert];
        if (lane == 0) {
            ids[slot] = static_cast<int32_t>(expert);
            shared.weights[slot] = shared.scores[expert];
        }
    }
    __syncwarp();
    const float divisor = p.norm_topk_prob ? sum + 1e-20f : 1.0f;
    for (uint32_t slot = lane; slot < p.num_chosen; slot += kWarp) {
        weights[slot] = shared.weights[slot] / divisor * p.routed_scaling_factor;
    }
}
