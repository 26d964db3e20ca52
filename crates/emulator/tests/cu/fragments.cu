// A product of 16 x 8 by one warp whose first operand is gathered rightly, and with the rows of two registers exchanged:
// all of it is written, so only the result tells.
#include "ptx.cuh"

template <bool kWrong>
__global__ void fragments(const uint32_t* in, float* out) {
  __shared__ uint32_t a_tile[16][8];
  __shared__ uint32_t b_tile[8][8];
  for (uint32_t i = threadIdx.x; i < 16 * 8; i += 32) {
    a_tile[i / 8][i % 8] = in[i];
  }
  for (uint32_t i = threadIdx.x; i < 8 * 8; i += 32) {
    b_tile[i / 8][i % 8] = in[128 + i];
  }
  __syncwarp();
  const uint32_t row = threadIdx.x / 4, column = threadIdx.x % 4;
  const uint32_t down = kWrong ? 0 : 8, right = kWrong ? 8 : 0;
  const uint32_t a[4] = {a_tile[row][column], a_tile[row + down][column + (kWrong ? 4 : 0)],
                         a_tile[row + right][column + (kWrong ? 0 : 4)], a_tile[row + 8][column + 4]};
  const uint32_t b[2] = {b_tile[row][column], b_tile[row][column + 4]};
  float d[4] = {};
  mma_m16n8k16(d, a, b);
  for (uint32_t i = 0; i < 4; ++i) {
    out[8 * (row + i / 2 * 8) + 2 * column + i % 2] = d[i];
  }
}

template __global__ void fragments<true>(const uint32_t*, float*);
template __global__ void fragments<false>(const uint32_t*, float*);
