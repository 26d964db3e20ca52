// The cache of the V3.2 indexer's keys: blocks of 64 tokens, first the 64 vectors of 128 e4m3, then their 64 f32 scales.
// It is 132 bytes per token, and a block of keys is one piece for a tile load.
//
// Source: DeepGEMM, fp8_paged_mqa_logits.
#pragma once

#include <stdint.h>

constexpr uint32_t kIndexerHeadDim = 128;
constexpr uint32_t kIndexerBlockTokens = 64;
constexpr uint32_t kIndexerScalesAt = kIndexerBlockTokens * kIndexerHeadDim;
constexpr uint32_t kIndexerBlockBytes = kIndexerScalesAt + kIndexerBlockTokens * sizeof(float);

// Where the codes of token `offset` of block `block` lie.
__device__ inline int64_t indexer_codes_at(int64_t block, uint32_t offset) {
    return block * kIndexerBlockBytes + offset * kIndexerHeadDim;
}

// The same of its scale.
__device__ inline int64_t indexer_scale_at(int64_t block, uint32_t offset) {
    return block * kIndexerBlockBytes + kIndexerScalesAt + offset * sizeof(float);
}
