// Parameters of act_quant. Mirrored by crates/ops/src/act_quant/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct ActQuantParams {
    const uint16_t* x;        // [num_tokens, k] bf16
    uint8_t* out;             // [num_tokens, k] e4m3
    float* scales;            // [k / 128, scale_stride] f32, one column per token
    int64_t x_stride;         // elements from row to row, a multiple of 8
    uint32_t out_stride;      // the same of out
    uint32_t k;               // a multiple of 128
    uint32_t scale_stride;    // columns, at least num_tokens
    uint32_t scale_format;    // of fp8.cuh: 0 amax / 448, 1 UE8M0
};

PARAMS_SIZE(ActQuantParams, 48);
PARAMS_FIELD(ActQuantParams, x, 0);
PARAMS_FIELD(ActQuantParams, out, 8);
PARAMS_FIELD(ActQuantParams, scales, 16);
PARAMS_FIELD(ActQuantParams, x_stride, 24);
PARAMS_FIELD(ActQuantParams, out_stride, 32);
PARAMS_FIELD(ActQuantParams, k, 36);
PARAMS_FIELD(ActQuantParams, scale_stride, 40);
PARAMS_FIELD(ActQuantParams, scale_format, 44);
