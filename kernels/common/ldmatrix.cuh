// Loads and stores of matrix fragments in shared memory (PTX ISA, "ldmatrix" and "stmatrix").
#pragma once
#include <cstdint>

/// Four 8x8 matrices of 16-bit elements: lanes 8i..8i+8 give the addresses of the eight 16-byte rows of matrix i,
/// and `fragment[i]` is the lane's part of it: row `lane / 4`, bytes `4 * (lane % 4) .. + 4`.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(row_address)
               : "memory");
}

/// The same with each matrix transposed: `fragment[i]` is rows `2 * (lane % 4)` and the next, column `lane / 4`.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&fragment)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(row_address)
               : "memory");
}

/// The reverse of `ldmatrix_x4`; sm_90 and later.
__device__ __forceinline__ void stmatrix_x4(uint32_t row_address, const uint32_t (&fragment)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address), "r"(fragment[0]),
               "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
               : "memory");
}
