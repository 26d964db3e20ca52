// Parameters of indexer_quant. Mirrored by crates/ops/src/indexer_quant/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct IndexerQuantParams {
    const uint16_t* q;              // [num_tokens, num_heads, 128] bf16: the output of wq_b
    const uint16_t* key;            // [num_tokens, 128] bf16: the output of wk
    const float* norm_weight;       // [128]
    const float* norm_bias;         // [128]
    const float* weights;           // [num_tokens, num_heads]: the output of weights_proj
    const float* inv_freq;          // [32] radians per position
    const int32_t* positions;       // [num_tokens]
    const int32_t* slot_mapping;    // [num_tokens]; negative: a padding token, of which nothing is read or written
    uint8_t* q_codes;               // [num_tokens, num_heads, 128] e4m3
    float* q_weights;               // [num_tokens, num_heads]
    uint8_t* cache;                 // [num_blocks] of kIndexerBlockBytes
    int64_t q_stride;               // elements from token to token, a multiple of 8 like that of key
    int64_t key_stride;
    uint32_t weights_stride;
    uint32_t num_heads;
    float weight_scale;             // factor on the weights
    float attention_factor;         // factor on cos and sin
    float eps;                      // of the key's norm
    uint32_t scale_format;          // of fp8.cuh: 0 amax / 448, 1 UE8M0
};

PARAMS_SIZE(IndexerQuantParams, 128);
PARAMS_FIELD(IndexerQuantParams, q, 0);
PARAMS_FIELD(IndexerQuantParams, key, 8);
PARAMS_FIELD(IndexerQuantParams, norm_weight, 16);
PARAMS_FIELD(IndexerQuantParams, norm_bias, 24);
PARAMS_FIELD(IndexerQuantParams, weights, 32);
PARAMS_FIELD(IndexerQuantParams, inv_freq, 40);
PARAMS_FIELD(IndexerQuantParams, positions, 48);
PARAMS_FIELD(IndexerQuantParams, slot_mapping, 56);
PARAMS_FIELD(IndexerQuantParams, q_codes, 64);
PARAMS_FIELD(IndexerQuantParams, q_weights, 72);
PARAMS_FIELD(IndexerQuantParams, cache, 80);
PARAMS_FIELD(IndexerQuantParams, q_stride, 88);
PARAMS_FIELD(IndexerQuantParams, key_stride, 96);
PARAMS_FIELD(IndexerQuantParams, weights_stride, 104);
PARAMS_FIELD(IndexerQuantParams, num_heads, 108);
PARAMS_FIELD(IndexerQuantParams, weight_scale, 112);
PARAMS_FIELD(IndexerQuantParams, attention_factor, 116);
PARAMS_FIELD(IndexerQuantParams, eps, 120);
PARAMS_FIELD(IndexerQuantParams, scale_format, 124);
