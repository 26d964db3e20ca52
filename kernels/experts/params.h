// Parameters of the experts' kernels. Mirrored by crates/ops/src/experts/cuda.rs.
//
// A pair is a token and one of its slots: number token * num_chosen + slot. Pairs are sorted by expert, and each expert's
// begin at a multiple of block_m rows, the height of a tile: a tile belongs to one expert. A tile is {expert, number of its
// rows that hold pairs, the first ones}; unused tiles are {-1, 0}.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct ExpertsSortParams {
    const int32_t* ids;      // [num_pairs]; ids that are no expert, -1 of padding tokens among them, are left out
    int32_t* rows;           // [num_tiles * block_m]: the token of each row, -1 where there is none
    int32_t* positions;      // [num_pairs]: the row of each pair, -1 of those left out
    int32_t* tiles;          // [num_tiles, 2]
    uint32_t num_pairs;
    uint32_t num_chosen;
    uint32_t num_experts;    // at most 1024
    uint32_t block_m;
    uint32_t num_tiles;      // the most that num_pairs can need
    uint32_t padding;
};

PARAMS_SIZE(ExpertsSortParams, 56);
PARAMS_FIELD(ExpertsSortParams, ids, 0);
PARAMS_FIELD(ExpertsSortParams, rows, 8);
PARAMS_FIELD(ExpertsSortParams, positions, 16);
PARAMS_FIELD(ExpertsSortParams, tiles, 24);
PARAMS_FIELD(ExpertsSortParams, num_pairs, 32);
PARAMS_FIELD(ExpertsSortParams, num_chosen, 36);
PARAMS_FIELD(ExpertsSortParams, num_experts, 40);
PARAMS_FIELD(ExpertsSortParams, block_m, 44);
PARAMS_FIELD(ExpertsSortParams, num_tiles, 48);
PARAMS_FIELD(ExpertsSortParams, padding, 52);

struct ExpertsGemmParams {
    const uint8_t* x;           // [number of rows, k] e4m3, 16-byte aligned
    const float* x_scale;       // [k / 128, x_scale_stride] f32, one column per row of x
    const uint8_t* w;           // [num_experts, n, k] e4m3, 16-byte aligned
    const float* w_scale;       // [num_experts, n / 128, k / 128] f32
    const int32_t* rows;        // [num_tiles * block_m]: the row of x for each row of out; null: the same row
    const int32_t* tiles;       // [num_tiles, 2]
    uint16_t* out;              // [num_tiles * block_m, n] bf16, 16-byte aligned; only rows that hold pairs are written
    uint32_t n;                 // a multiple of 128
    uint32_t k;                 // a multiple of 128
    uint32_t x_scale_stride;    // elements
    uint32_t padding;
};

PARAMS_SIZE(ExpertsGemmParams, 72);
PARAMS_FIELD(ExpertsGemmParams, x, 0);
PARAMS_FIELD(ExpertsGemmParams, x_scale, 8);
PARAMS_FIELD(ExpertsGemmParams, w, 16);
PARAMS_FIELD(ExpertsGemmParams, w_scale, 24);
PARAMS_FIELD(ExpertsGemmParams, rows, 32);
PARAMS_FIELD(ExpertsGemmParams, tiles, 40);
PARAMS_FIELD(ExpertsGemmParams, out, 48);
PARAMS_FIELD(ExpertsGemmParams, n, 56);
PARAMS_FIELD(ExpertsGemmParams, k, 60);
PARAMS_FIELD(ExpertsGemmParams, x_scale_stride, 64);
PARAMS_FIELD(ExpertsGemmParams, padding, 68);

struct ExpertsCombineParams {
    const uint16_t* y;           // [number of rows, dim] bf16, 16-byte aligned
    const int32_t* positions;    // [num_tokens * num_chosen]
    const float* weights;        // [num_tokens * num_chosen] f32
    uint16_t* out;               // [num_tokens, dim] bf16, added to
    int64_t out_stride;          // elements from row to row, a multiple of 8
    uint32_t dim;                // a multiple of 8
    uint32_t num_chosen;
};

PARAMS_SIZE(ExpertsCombineParams, 48);
PARAMS_FIELD(ExpertsCombineParams, y, 0);
PARAMS_FIELD(ExpertsCombineParams, positions, 8);
PARAMS_FIELD(ExpertsCombineParams, weights, 16);
PARAMS_FIELD(ExpertsCombineParams, out, 24);
PARAMS_FIELD(ExpertsCombineParams, out_stride, 32);
PARAMS_FIELD(ExpertsCombineParams, dim, 40);
PARAMS_FIELD(ExpertsCombineParams, num_chosen, 44);
