// One token of each row from softmax(logits / temperature), and its log-probability under the logits as they are.
//
// The token is the first, in the order of ids, at which the running sum of the weights exp((logit - max) / temperature)
// passes u times the sum of all. Temperature 0 takes the largest logit, the first of equals. A row with NaN or +infinity,
// or with nothing but -infinity, gets token -1; its maximum says which of them it was.
//
// Weights are summed as integers, multiples of 2^-44 of the largest weight: such sums do not depend on their order, so the
// walk through the row agrees with the total to the last bit, and no rounding can carry the draw past the end. Tokens
// lighter than that have probability 0, which takes less than 1e-8 from a row of 129,280.
//
// Bound: memory, 4 bytes per logit: 517 KB for a row of 129,280, read twice and a 32nd, the later ones from L2. With few
// rows it is the bandwidth of one multiprocessor that counts.
//
// Grid: one block per row; each warp has its own part of the row, in order.
//
// archs: 80+

#include "../common/order.cuh"
#include "../common/reduce.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kNumWarps = kThreads / kWarp;
constexpr uint32_t kLogits = 4;
// Logits that a warp looks at together.
constexpr uint32_t kStep = kWarp * kLogits;
constexpr float kOne = 0x1p44f;
constexpr uint32_t kKeyOfNan = 0xffffffffu;
constexpr float kInfinity = __builtin_inff();

// Not the compiler's `unsigned long`, for which there are no shuffles on every platform.
using Weight = unsigned long long;

struct Shared {
    Weight peaks[kNumWarps];
    Weight raw_sums[kNumWarps];
    Weight sums[kNumWarps];
};

// A row and the part of it that belongs to this warp.
struct Part {
    const float* logits;
    uint32_t vocab_size;
    uint32_t start;
    uint32_t end;
};

// Orders logits by value, then by lowest id; NaN is above all, so that it is found.
__device__ Weight peak_key(float logit, uint32_t id) {
    const uint32_t key = logit != logit ? kKeyOfNan : sort_key(logit);
    return static_cast<Weight>(key) << 32 | ~id;
}

// `x` is not positive.
__device__ Weight weight_of(float x) {
    return __float2ull_rz(expf(x) * kOne);
}

// The largest logit of the row, packed by peak_key.
__device__ Weight find_peak(const Part& part, Weight* partials) {
    Weight peak = 0;
    for (uint32_t first = part.start + threadIdx.x % kWarp * kLogits; first < part.end; first += kStep) {
        const float4 logits = load_scores(part.logits, first, part.vocab_size, -kInfinity);
        peak = Max()(peak, peak_key(logits.x, first));
        peak = Max()(peak, peak_key(logits.y, first + 1));
        peak = Max()(peak, peak_key(logits.z, first + 2));
        peak = Max()(peak, peak_key(logits.w, first + 3));
    }
    return block_reduce(peak, Weight(0), Max(), partials);
}

// The weights of four tokens. Past the end of the vocabulary they are 0.
__device__ void weigh(const Part& part, uint32_t first, float max, float scale, Weight (&weights)[kLogits]) {
    const float4 logits = load_scores(part.logits, first, part.vocab_size, -kInfinity);
    weights[0] = weight_of((logits.x - max) * scale);
    weights[1] = weight_of((logits.y - max) * scale);
    weights[2] = weight_of((logits.z - max) * scale);
    weights[3] = weight_of((logits.w - max) * scale);
}

// The sum of this warp's weights.
__device__ Weight sum_weights(const Part& part, float max, float scale) {
    Weight sum = 0;
    for (uint32_t first = part.start + threadIdx.x % kWarp * kLogits; first < part.end; first += kStep) {
        Weight weights[kLogits];
        weigh(part, first, max, scale, weights);
        sum += weights[0] + weights[1] + weights[2] + weights[3];
    }
    return warp_reduce(sum, Sum());
}

// The token of this warp's part at which the running sum passes `target`, which is less than the part's sum.
__device__ uint32_t walk(const Part& part, float max, float scale, Weight target) {
    const uint32_t lane = threadIdx.x % kWarp;
    uint32_t token = part.start;
    for (uint32_t step = part.start; step < part.end; step += kStep) {
        const uint32_t first = step + lane * kLogits;
        Weight weights[kLogits];
        weigh(part, first, max, scale, weights);
        const Weight own = weights[0] + weights[1] + weights[2] + weights[3];
        const Weight up_to_here = warp_inclusive_sum(own);
        const uint32_t passed = __ballot_sync(kAllLanes, target < up_to_here);
        if (passed != 0) {
            const uint32_t chosen = __ffs(passed) - 1;
            Weight sum = up_to_here - own;
            token = first;
#pragma unroll
            for (uint32_t i = 0; i < kLogits; ++i) {
                sum += weights[i];
                token += target >= sum;
            }
            return __shfl_sync(kAllLanes, token, chosen);
        }
        target -= __shfl_sync(kAllLanes, up_to_here, kWarp - 1);
    }
    return token;
}

__device__ void write(const SampleParams& p, uint32_t row, uint32_t token, float logit, float max, Weight raw_sum) {
    p.tokens[row] = static_cast<int32_t>(token);
    p.logprobs[row] = logit - max - logf(__ull2float_rn(raw_sum) / kOne);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) sample(const __grid_constant__ SampleParams p) {
    __shared__ Shared shared;
    const uint32_t row = blockIdx.x;
    const uint32_t lane = threadIdx.x % kWarp;
    const uint32_t warp = threadIdx.x / kWarp;
    const uint32_t num_steps = (p.vocab_size + kStep - 1) / kStep;
    const uint32_t part_len = (num_steps + kNumWarps - 1) / kNumWarps * kStep;
    Part part;
    part.logits = p.logits + static_cast<int64_t>(row) * p.row_stride;
    part.vocab_size = p.vocab_size;
    part.start = min(warp * part_len, p.vocab_size);
    part.end = min(part.start + part_len, p.vocab_size);

    const Weight peak = find_peak(part, shared.peaks);
    const uint32_t peak_id = ~static_cast<uint32_t>(peak);
    const float max = part.logits[peak_id];
    if (threadIdx.x == 0) {
        p.maxima[row] = max;
    }
    // Neither NaN nor an infinity of either sign.
    if (!(fabsf(max) < kInfinity)) {
        if (threadIdx.x == 0) {
            p.tokens[row] = -1;
            p.logprobs[row] = __builtin_nanf("");
        }
        return;
    }

    const float temperature = p.temperatures[row];
    // The reciprocal of the smallest temperatures is infinite, and would turn the maximum's 0 into NaN.
    const float scale = fminf(1.0f / temperature, 0x1.fffffep127f);
    const Weight own_raw_sum = sum_weights(part, max, 1.0f);
    // The greedy choice has no use for it.
    const bool needs_sum = temperature != 0.0f && scale != 1.0f;
    const Weight own_sum = needs_sum ? sum_weights(part, max, scale) : own_raw_sum;
    if (lane == 0) {
        shared.raw_sums[warp] = own_raw_sum;
        shared.sums[warp] = own_sum;
    }
    __syncthreads();
    const Weight raw_sum = warp_reduce(shared.raw_sums[lane], Sum());
    if (temperature == 0.0f) {
        if (threadIdx.x == 0) {
            write(p, row, peak_id, max, max, raw_sum);
        }
        return;
    }

    // u * total, rounded down: less than the total, so that one warp's part has the token.
    const Weight up_to_warp = warp_inclusive_sum(shared.sums[lane]);
    const Weight total = __shfl_sync(kAllLanes, up_to_warp, kWarp - 1);
    const Weight target = __umul64hi(p.uniforms[row], total);
    const Weight end = __shfl_sync(kAllLanes, up_to_warp, warp);
    const Weight start = end - own_sum;
    if (start <= target && target < end) {
        const uint32_t token = walk(part, max, scale, target - start);
        if (lane == 0) {
            write(p, row, token, part.logits[token], max, raw_sum);
        }
    }
}
