// Parameters of top_k. Mirrored by crates/ops/src/top_k/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct TopKParams {
    const float* scores;        // [num_rows, row_stride] f32, 16-byte aligned
    const int32_t* lengths;     // [num_rows]: scores of each row that count, at most row_stride; the others are not read
    int32_t* out;               // [num_rows, k]: the best positions ascending, then -1
    uint32_t row_stride;        // elements from row to row, a multiple of 4
    uint32_t k;
};

PARAMS_SIZE(TopKParams, 32);
PARAMS_FIELD(TopKParams, scores, 0);
PARAMS_FIELD(TopKParams, lengths, 8);
PARAMS_FIELD(TopKParams, out, 16);
PARAMS_FIELD(TopKParams, row_stride, 24);
PARAMS_FIELD(TopKParams, k, 28);
