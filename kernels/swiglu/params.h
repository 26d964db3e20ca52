// Parameters of swiglu. Mirrored by crates/ops/src/swiglu/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct SwiGluParams {
    const uint16_t* gate;           // [num_tokens, dim] bf16
    const uint16_t* up;             // [num_tokens, dim] bf16
    const int32_t* slot_mapping;    // [num_tokens]; negative: a padding row; null: none is
    uint16_t* out;                  // [num_tokens, dim] bf16; null: none
    uint8_t* out_fp8;               // [num_tokens, dim] e4m3; null: none
    float* out_scales;              // [dim / 128, scale_stride] f32, one column per token; with out_fp8
    int64_t gate_stride;            // elements from row to row, a multiple of 8, like every stride of rows here
    int64_t up_stride;
    int64_t out_stride;
    int64_t out_fp8_stride;
    uint32_t dim;                   // a multiple of 8, of 128 with out_fp8
    uint32_t scale_stride;          // columns, at least num_tokens
    uint32_t scale_format;          // of fp8.cuh: 0 amax / 448, 1 UE8M0
    uint32_t padding;
};

PARAMS_SIZE(SwiGluParams, 96);
PARAMS_FIELD(SwiGluParams, gate, 0);
PARAMS_FIELD(SwiGluParams, up, 8);
PARAMS_FIELD(SwiGluParams, slot_mapping, 16);
PARAMS_FIELD(SwiGluParams, out, 24);
PARAMS_FIELD(SwiGluParams, out_fp8, 32);
PARAMS_FIELD(SwiGluParams, out_scales, 40);
PARAMS_FIELD(SwiGluParams, gate_stride, 48);
PARAMS_FIELD(SwiGluParams, up_stride, 56);
PARAMS_FIELD(SwiGluParams, out_stride, 64);
PARAMS_FIELD(SwiGluParams, out_fp8_stride, 72);
PARAMS_FIELD(SwiGluParams, dim, 80);
PARAMS_FIELD(SwiGluParams, scale_stride, 84);
PARAMS_FIELD(SwiGluParams, scale_format, 88);
PARAMS_FIELD(SwiGluParams, padding, 92);
