// Parameters of the gate's kernels. Mirrored by crates/ops/src/gate/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct GateLogitsParams {
    const uint16_t* x;              // [num_tokens, dim] bf16, 16-byte aligned
    const uint16_t* weight;         // [num_experts, dim] bf16, 16-byte aligned
    const int32_t* slot_mapping;    // [num_tokens]; negative: a padding token; null: none is
    float* logits;                  // [num_parts or 1, num_tokens, num_experts] f32
    uint32_t num_tokens;
    uint32_t num_experts;
    uint32_t dim;                   // a multiple of 8
    uint32_t x_stride;              // elements from row to row, a multiple of 8
    uint32_t weight_stride;         // the same of weight
    uint32_t padding;
};

PARAMS_SIZE(GateLogitsParams, 56);
PARAMS_FIELD(GateLogitsParams, x, 0);
PARAMS_FIELD(GateLogitsParams, weight, 8);
PARAMS_FIELD(GateLogitsParams, slot_mapping, 16);
PARAMS_FIELD(GateLogitsParams, logits, 24);
PARAMS_FIELD(GateLogitsParams, num_tokens, 32);
PARAMS_FIELD(GateLogitsParams, num_experts, 36);
PARAMS_FIELD(GateLogitsParams, dim, 40);
PARAMS_FIELD(GateLogitsParams, x_stride, 44);
PARAMS_FIELD(GateLogitsParams, weight_stride, 48);
PARAMS_FIELD(GateLogitsParams, padding, 52);

struct GateChooseParams {
    const float* logits;            // [num_parts, num_tokens, num_experts] f32, to be added over the parts
    const float* bias;              // [num_experts] f32
    const int32_t* slot_mapping;    // as above
    int32_t* ids;                   // [num_tokens, num_chosen]
    float* weights;                 // [num_tokens, num_chosen] f32
    uint32_t num_tokens;
    uint32_t num_parts;
    uint32_t num_experts;           // at most 1024
    uint32_t n_group;
    uint32_t topk_group;
    uint32_t num_chosen;
    uint32_t id_stride;             // elements from row to row
    uint32_t weight_stride;
    uint32_t norm_topk_prob;        // 0 or 1
    float routed_scaling_factor;
};

PARAMS_SIZE(GateChooseParams, 80);
PARAMS_FIELD(GateChooseParams, logits, 0);
PARAMS_FIELD(GateChooseParams, bias, 8);
PARAMS_FIELD(GateChooseParams, slot_mapping, 16);
PARAMS_FIELD(GateChooseParams, ids, 24);
PARAMS_FIELD(GateChooseParams, weights, 32);
PARAMS_FIELD(GateChooseParams, num_tokens, 40);
PARAMS_FIELD(GateChooseParams, num_parts, 44);
PARAMS_FIELD(GateChooseParams, num_experts, 48);
PARAMS_FIELD(GateChooseParams, n_group, 52);
PARAMS_FIELD(GateChooseParams, topk_group, 56);
PARAMS_FIELD(GateChooseParams, num_chosen, 60);
PARAMS_FIELD(GateChooseParams, id_stride, 64);
PARAMS_FIELD(GateChooseParams, weight_stride, 68);
PARAMS_FIELD(GateChooseParams, norm_topk_prob, 72);
PARAMS_FIELD(GateChooseParams, routed_scaling_factor, 76);
