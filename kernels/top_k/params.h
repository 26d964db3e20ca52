// Parameters of top_k and top_k_merge. Mirrored by crates/ops/src/top_k/cuda.rs.
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

struct TopKMergeParams {
    float* scores;                // [num_rows, row_stride] f32, 16-byte aligned: the carried scores of each row, then the new ones
    const int32_t* positions;     // [num_tokens]: a token sees the positions up to its own
    const int32_t* num_tokens;    // one number: tokens from there on are padding, of which nothing is read or written
    int32_t* out;                 // [num_tokens, k]: the best positions so far, ascending
    int64_t row_stride;           // elements from row to row, a multiple of 4
    uint32_t k;
    uint32_t first_row;           // the token of the first row
    uint32_t first_position;      // of the new scores; min(k, first_position) are carried
    uint32_t num_positions;       // the most new scores of a row
};

PARAMS_SIZE(TopKMergeParams, 56);
PARAMS_FIELD(TopKMergeParams, scores, 0);
PARAMS_FIELD(TopKMergeParams, positions, 8);
PARAMS_FIELD(TopKMergeParams, num_tokens, 16);
PARAMS_FIELD(TopKMergeParams, out, 24);
PARAMS_FIELD(TopKMergeParams, row_stride, 32);
PARAMS_FIELD(TopKMergeParams, k, 40);
PARAMS_FIELD(TopKMergeParams, first_row, 44);
PARAMS_FIELD(TopKMergeParams, first_position, 48);
PARAMS_FIELD(TopKMergeParams, num_positions, 52);
