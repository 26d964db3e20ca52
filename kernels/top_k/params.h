// Parameters of top_k. Mirrored by crates/ops/src/top_k/cuda.rs.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct TopKParams {
    const float* scores;        // [num_rows, row_stride] f32, 16-byte aligned
    const uint32_t* lengths;    // [num_rows]: scores of each row that count; the others are not read
    int32_t* out;               // [num_rows, k]: the best positions ascending, then -1
    uint32_t row_stride;        // elements from row to row, a multiple of 4
    uint32_t k;
};

static_assert(sizeof(TopKParams) == 32);
static_assert(offsetof(TopKParams, scores) == 0);
static_assert(offsetof(TopKParams, lengths) == 8);
static_assert(offsetof(TopKParams, out) == 16);
static_assert(offsetof(TopKParams, row_stride) == 24);
static_assert(offsetof(TopKParams, k) == 28);
