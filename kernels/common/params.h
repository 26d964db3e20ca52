// How the argument struct of an op is pinned on this side.
//
// A kernel takes one struct by value: `__global__ void k(const __grid_constant__ Params params)`. The same struct is written
// once more in Rust, with `cachalot_cuda::params!`. Both sides state its size and the offset of each field, as numbers: a
// field that is added, moved or resized on one side alone does not compile. Fields are ordered so that no padding arises,
// which the Rust side checks.
//
//     struct ScaleParams {
//       float* x;           // [num_elements]
//       int num_elements;
//       float scale;
//     };
//     PARAMS_SIZE(ScaleParams, 16);
//     PARAMS_FIELD(ScaleParams, x, 0);
//     PARAMS_FIELD(ScaleParams, num_elements, 8);
//     PARAMS_FIELD(ScaleParams, scale, 12);
#pragma once

#include <cstddef>

#define PARAMS_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type ": the Rust side has another size")

#define PARAMS_FIELD(type, field, offset) \
  static_assert(offsetof(type, field) == (offset), #type "::" #field ": the Rust side has another offset")
