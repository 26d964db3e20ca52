// Matrix products of one warp (PTX ISA, "mma").
//
// Both take a 16x32-byte A (row major), a 32-byte x 8 B (column major: each column's bytes are contiguous) and a 16x8
// f32 accumulator, of which lane l holds rows l/4 and l/4 + 8, columns 2(l%4) and the next:
// {c[0], c[1]} in the first row, {c[2], c[3]} in the second.
#pragma once
#include <cstdint>

/// `c += a * b`, 16x8x16, bf16; sm_80 and later.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// `c += a * b`, 16x8x32, e4m3; sm_89 and later.
__device__ __forceinline__ void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
