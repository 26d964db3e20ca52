// Parameters of embedding. Mirrored by crates/ops/src/embedding/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct EmbeddingParams {
    const uint16_t* table;    // [num_rows, dim] bf16
    const int32_t* ids;       // [num_tokens]
    uint16_t* out;            // [num_tokens, dim] bf16
    int64_t table_stride;     // elements from row to row, a multiple of 8
    int64_t out_stride;       // the same of out
    uint32_t num_rows;
    uint32_t dim;             // a multiple of 8
};

PARAMS_SIZE(EmbeddingParams, 48);
PARAMS_FIELD(EmbeddingParams, table, 0);
PARAMS_FIELD(EmbeddingParams, ids, 8);
PARAMS_FIELD(EmbeddingParams, out, 16);
PARAMS_FIELD(EmbeddingParams, table_stride, 24);
PARAMS_FIELD(EmbeddingParams, out_stride, 32);
PARAMS_FIELD(EmbeddingParams, num_rows, 40);
PARAMS_FIELD(EmbeddingParams, dim, 44);
