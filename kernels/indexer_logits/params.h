// Parameters of indexer_logits. Mirrored by crates/ops/src/indexer_logits/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct IndexerLogitsParams {
    const uint8_t* q;                  // [num_tokens, num_heads, 128] e4m3
    const float* weights;              // [num_tokens, num_heads]
    const uint8_t* cache;              // [num_blocks] of kIndexerBlockBytes
    const int32_t* query_start_loc;    // [num_seqs + 1]
    const int32_t* seq_lens;           // [num_seqs]
    const int32_t* block_table;        // [num_seqs, block_table_stride]
    float* logits;                     // [num_rows, logits_stride]: of tokens from first_row on, positions from first_position on
    int64_t logits_stride;             // elements from row to row, like the next
    uint32_t block_table_stride;
    uint32_t num_seqs;
    uint32_t num_heads;                // at most 64
    uint32_t first_row;
    uint32_t num_rows;
    uint32_t first_position;           // a multiple of 128
    uint32_t num_positions;
    uint32_t min_visible;              // rows that see fewer positions are left out
};

PARAMS_SIZE(IndexerLogitsParams, 96);
PARAMS_FIELD(IndexerLogitsParams, q, 0);
PARAMS_FIELD(IndexerLogitsParams, weights, 8);
PARAMS_FIELD(IndexerLogitsParams, cache, 16);
PARAMS_FIELD(IndexerLogitsParams, query_start_loc, 24);
PARAMS_FIELD(IndexerLogitsParams, seq_lens, 32);
PARAMS_FIELD(IndexerLogitsParams, block_table, 40);
PARAMS_FIELD(IndexerLogitsParams, logits, 48);
PARAMS_FIELD(IndexerLogitsParams, logits_stride, 56);
PARAMS_FIELD(IndexerLogitsParams, block_table_stride, 64);
PARAMS_FIELD(IndexerLogitsParams, num_seqs, 68);
PARAMS_FIELD(IndexerLogitsParams, num_heads, 72);
PARAMS_FIELD(IndexerLogitsParams, first_row, 76);
PARAMS_FIELD(IndexerLogitsParams, num_rows, 80);
PARAMS_FIELD(IndexerLogitsParams, first_position, 84);
PARAMS_FIELD(IndexerLogitsParams, num_positions, 88);
PARAMS_FIELD(IndexerLogitsParams, min_visible, 92);
