// Parameters of rope_cache_write. Mirrored by crates/ops/src/rope_cache_write/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct RopeCacheWriteParams {
    uint16_t* q;                    // [num_tokens, num_heads, rotary_dim] bf16: the elements to rotate, in place
    const uint16_t* latent;         // [num_tokens, latent_dim] bf16: cached as it is
    const uint16_t* key;            // [num_tokens, rotary_dim] bf16: cached rotated
    uint8_t* cache;                 // [num_slots] rows of bf16, or FP8 records
    const int32_t* positions;       // [num_tokens]
    const int32_t* slot_mapping;    // [num_tokens]; negative: a padding token, which is not cached
    const float* inv_freq;          // [num_pairs] radians per position
    int64_t q_stride;               // elements from token to token; a multiple of 8, like every stride here
    int64_t latent_stride;
    int64_t key_stride;
    uint32_t num_heads;             // 0: no q
    uint32_t q_head_stride;         // elements from head to head
    uint32_t num_pairs;             // rotary_dim / 2: a multiple of 8, at most 64
    uint32_t latent_dim;            // a multiple of 8; 512 in FP8 records
    uint32_t latent_column;         // where the latent starts in a bf16 row: 0 before the key, rotary_dim after it
    uint32_t key_column;            // where the key starts in a bf16 row: latent_dim or 0
    float attention_factor;         // factor on cos and sin
    uint32_t scale_format;          // of fp8.cuh: 0 amax / 448, 1 UE8M0; for FP8 records
};

PARAMS_SIZE(RopeCacheWriteParams, 112);
PARAMS_FIELD(RopeCacheWriteParams, q, 0);
PARAMS_FIELD(RopeCacheWriteParams, latent, 8);
PARAMS_FIELD(RopeCacheWriteParams, key, 16);
PARAMS_FIELD(RopeCacheWriteParams, cache, 24);
PARAMS_FIELD(RopeCacheWriteParams, positions, 32);
PARAMS_FIELD(RopeCacheWriteParams, slot_mapping, 40);
PARAMS_FIELD(RopeCacheWriteParams, inv_freq, 48);
PARAMS_FIELD(RopeCacheWriteParams, q_stride, 56);
PARAMS_FIELD(RopeCacheWriteParams, latent_stride, 64);
PARAMS_FIELD(RopeCacheWriteParams, key_stride, 72);
PARAMS_FIELD(RopeCacheWriteParams, num_heads, 80);
PARAMS_FIELD(RopeCacheWriteParams, q_head_stride, 84);
PARAMS_FIELD(RopeCacheWriteParams, num_pairs, 88);
PARAMS_FIELD(RopeCacheWriteParams, latent_dim, 92);
PARAMS_FIELD(RopeCacheWriteParams, latent_column, 96);
PARAMS_FIELD(RopeCacheWriteParams, key_column, 100);
PARAMS_FIELD(RopeCacheWriteParams, attention_factor, 104);
PARAMS_FIELD(RopeCacheWriteParams, scale_format, 108);
