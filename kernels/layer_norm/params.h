// Parameters of layer_norm. Mirrored by crates/ops/src/layer_norm/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct LayerNormParams {
    const void* x;          // [num_tokens, dim] bf16 or f32, as the entry says
    const float* weight;    // [dim]
    const float* bias;      // [dim]
    uint16_t* out;          // [num_tokens, dim] bf16
    int64_t x_stride;       // elements from row to row, a multiple of 8, like the next
    int64_t out_stride;
    uint32_t num_tokens;
    uint32_t dim;           // a multiple of 8, at most 1024
    float eps;
    uint32_t unused;
};

PARAMS_SIZE(LayerNormParams, 64);
PARAMS_FIELD(LayerNormParams, x, 0);
PARAMS_FIELD(LayerNormParams, weight, 8);
PARAMS_FIELD(LayerNormParams, bias, 16);
PARAMS_FIELD(LayerNormParams, out, 24);
PARAMS_FIELD(LayerNormParams, x_stride, 32);
PARAMS_FIELD(LayerNormParams, out_stride, 40);
PARAMS_FIELD(LayerNormParams, num_tokens, 48);
PARAMS_FIELD(LayerNormParams, dim, 52);
PARAMS_FIELD(LayerNormParams, eps, 56);
PARAMS_FIELD(LayerNormParams, unused, 60);
