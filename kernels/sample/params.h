// Parameters of sample. Mirrored by crates/ops/src/sample/cuda.rs.
#pragma once

#include <stdint.h>

#include "../common/params.h"

struct SampleParams {
    const float* logits;           // [num_seqs, row_stride] f32, 16-byte aligned
    const float* temperatures;     // [num_seqs]; 0: the likeliest token
    const uint64_t* uniforms;      // [num_seqs]: the random number of the row in [0, 1), times 2^64
    int32_t* tokens;               // [num_seqs]; -1 where none can be chosen
    float* logprobs;               // [num_seqs]: of the token under the logits as they are; NaN without one
    float* maxima;                 // [num_seqs]: the largest logit, NaN if one is NaN
    uint32_t row_stride;           // elements from row to row, a multiple of 4
    uint32_t vocab_size;           // at least 1, at most 2^19
};

PARAMS_SIZE(SampleParams, 56);
PARAMS_FIELD(SampleParams, logits, 0);
PARAMS_FIELD(SampleParams, temperatures, 8);
PARAMS_FIELD(SampleParams, uniforms, 16);
PARAMS_FIELD(SampleParams, tokens, 24);
PARAMS_FIELD(SampleParams, logprobs, 32);
PARAMS_FIELD(SampleParams, maxima, 40);
PARAMS_FIELD(SampleParams, row_stride, 48);
PARAMS_FIELD(SampleParams, vocab_size, 52);
