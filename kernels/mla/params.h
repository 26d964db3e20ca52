// Parameters of mla_plan, mla_absorbed and mla_combine. Mirrored by crates/ops/src/mla/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct MlaPlanParams {
    const int32_t* query_start_loc;  // [num_seqs + 1]
    const int32_t* seq_lens;         // [num_seqs]
    int32_t* plan;                   // [3, num_seqs + 1]: see mla.cu
    uint32_t num_seqs;
    uint32_t num_heads;
    uint32_t tile_rows;              // (query, head) pairs of a tile: 16 or 32
    uint32_t index_topk;             // positions that a query chooses; 0: it sees all
    uint32_t num_slots;              // places for partial results
    uint32_t unused;
};

PARAMS_SIZE(MlaPlanParams, 48);
PARAMS_FIELD(MlaPlanParams, query_start_loc, 0);
PARAMS_FIELD(MlaPlanParams, seq_lens, 8);
PARAMS_FIELD(MlaPlanParams, plan, 16);
PARAMS_FIELD(MlaPlanParams, num_seqs, 24);
PARAMS_FIELD(MlaPlanParams, num_heads, 28);
PARAMS_FIELD(MlaPlanParams, tile_rows, 32);
PARAMS_FIELD(MlaPlanParams, index_topk, 36);
PARAMS_FIELD(MlaPlanParams, num_slots, 40);
PARAMS_FIELD(MlaPlanParams, unused, 44);

struct MlaParams {
    const uint16_t* q_latent;        // [num_tokens, num_heads, rank] bf16
    const uint16_t* q_rope;          // [num_tokens, num_heads, rope] bf16, rotated; 16-byte aligned like q_latent and cache
    const uint8_t* cache;            // [num_blocks, block_size] rows of rank + rope bf16, or FP8 records of 656 bytes
    const int32_t* query_start_loc;  // [num_seqs + 1]
    const int32_t* seq_lens;         // [num_seqs]
    const int32_t* block_table;      // [num_seqs, block_table_stride]
    const int32_t* topk_indices;     // [num_tokens, topk_stride] positions ascending, then -1; null: every query sees all
    const int32_t* plan;             // [3, num_seqs + 1]
    float* partials;                 // [num_slots, rank + 4]
    uint16_t* out;                   // [num_tokens, num_heads, rank] bf16
    int64_t q_latent_stride;         // elements from token to token; a multiple of 8, like all strides of queries and out
    int64_t q_rope_stride;
    int64_t out_stride;
    uint32_t q_rope_head_stride;     // elements from head to head
    uint32_t block_table_stride;
    uint32_t topk_stride;
    uint32_t num_seqs;
    uint32_t num_heads;
    uint32_t rank;                   // a multiple of 8, at most 512; 512 in FP8 records
    uint32_t rope;                   // a multiple of 8, at most 64; 64 in FP8 records
    uint32_t block_size;
    uint32_t index_topk;             // 0 without topk_indices
    float softmax_scale_log2;        // factor on the logits, times log2(e)
};

PARAMS_SIZE(MlaParams, 144);
PARAMS_FIELD(MlaParams, q_latent, 0);
PARAMS_FIELD(MlaParams, q_rope, 8);
PARAMS_FIELD(MlaParams, cache, 16);
PARAMS_FIELD(MlaParams, query_start_loc, 24);
PARAMS_FIELD(MlaParams, seq_lens, 32);
PARAMS_FIELD(MlaParams, block_table, 40);
PARAMS_FIELD(MlaParams, topk_indices, 48);
PARAMS_FIELD(MlaParams, plan, 56);
PARAMS_FIELD(MlaParams, partials, 64);
PARAMS_FIELD(MlaParams, out, 72);
PARAMS_FIELD(MlaParams, q_latent_stride, 80);
PARAMS_FIELD(MlaParams, q_rope_stride, 88);
PARAMS_FIELD(MlaParams, out_stride, 96);
PARAMS_FIELD(MlaParams, q_rope_head_stride, 104);
PARAMS_FIELD(MlaParams, block_table_stride, 108);
PARAMS_FIELD(MlaParams, topk_stride, 112);
PARAMS_FIELD(MlaParams, num_seqs, 116);
PARAMS_FIELD(MlaParams, num_heads, 120);
PARAMS_FIELD(MlaParams, rank, 124);
PARAMS_FIELD(MlaParams, rope, 128);
PARAMS_FIELD(MlaParams, block_size, 132);
PARAMS_FIELD(MlaParams, index_topk, 136);
PARAMS_FIELD(MlaParams, softmax_scale_log2, 140);
