// x[i] = x[i] * scale + offset, in place. Tests of the runtime launch it: the order of two such launches shows in the result.
// archs: 80+
#include "common/params.h"

struct AffineParams {
  int* x;  // [num_elements]
  long long num_elements;
  int scale;
  int offset;
};
PARAMS_SIZE(AffineParams, 24);
PARAMS_FIELD(AffineParams, x, 0);
PARAMS_FIELD(AffineParams, num_elements, 8);
PARAMS_FIELD(AffineParams, scale, 16);
PARAMS_FIELD(AffineParams, offset, 20);

extern "C" __global__ void __launch_bounds__(256) affine_i32(const __grid_constant__ AffineParams params) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < params.num_elements) params.x[i] = params.x[i] * params.scale + params.offset;
}

// out[block] = the sum of the block's elements of x, in dynamic shared memory, of which tests ask for more than 48 KiB.
struct BlockSumParams {
  const int* x;  // [gridDim.x, blockDim.x]
  int* out;      // [gridDim.x]
};
PARAMS_SIZE(BlockSumParams, 16);
PARAMS_FIELD(BlockSumParams, x, 0);
PARAMS_FIELD(BlockSumParams, out, 8);

extern "C" __global__ void __launch_bounds__(256) block_sum_i32(const __grid_constant__ BlockSumParams params) {
  extern __shared__ int partial[];
  partial[threadIdx.x] = params.x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) params.out[blockIdx.x] = partial[0];
}
