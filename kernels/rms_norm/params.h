// Parameters of rms_norm. Mirrored by crates/ops/src/rms_norm/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct RmsNormParams {
    const uint16_t* x;         // [num_tokens, dim] bf16
    const void* weight;        // [dim] bf16 or f32, as the entry says
    uint16_t* residual;        // [num_tokens, dim] bf16, becomes bf16(x + residual); null: none
    uint16_t* out;             // [num_tokens, dim] bf16; null: none
    uint8_t* out_fp8;          // [num_tokens, dim] e4m3; null: none
    float* out_scales;         // [dim / 128, scale_stride] f32, one column per token; with out_fp8
    int64_t x_stride;          // elements from row to row, a multiple of 8, like the next two
    int64_t residual_stride;
    int64_t out_stride;
    int64_t out_fp8_stride;    // a multiple of 8
    uint32_t dim;              // a multiple of 8, of 128 with out_fp8; at most 16384
    uint32_t scale_stride;     // columns, at least num_tokens
    float eps;
    uint32_t scale_format;     // of fp8.cuh: 0 amax / 448, 1 UE8M0
};

PARAMS_SIZE(RmsNormParams, 96);
PARAMS_FIELD(RmsNormParams, x, 0);
PARAMS_FIELD(RmsNormParams, weight, 8);
PARAMS_FIELD(RmsNormParams, residual, 16);
PARAMS_FIELD(RmsNormParams, out, 24);
PARAMS_FIELD(RmsNormParams, out_fp8, 32);
PARAMS_FIELD(RmsNormParams, out_scales, 40);
PARAMS_FIELD(RmsNormParams, x_stride, 48);
PARAMS_FIELD(RmsNormParams, residual_stride, 56);
PARAMS_FIELD(RmsNormParams, out_stride, 64);
PARAMS_FIELD(RmsNormParams, out_fp8_stride, 72);
PARAMS_FIELD(RmsNormParams, dim, 80);
PARAMS_FIELD(RmsNormParams, scale_stride, 84);
PARAMS_FIELD(RmsNormParams, eps, 88);
PARAMS_FIELD(RmsNormParams, scale_format, 92);
