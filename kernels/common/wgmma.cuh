// Matrix products of a warpgroup, four warps starting at a multiple of four (PTX ISA, "wgmma"); sm_90a only.
#pragma once
#include <cstdint>

/// Describes a K-major operand in shared memory whose rows are 128 bytes long and swizzled by 128 bytes, as a tensor
/// map with that swizzle writes it: atoms of 8 rows follow each other at 1024 bytes, and `tile` is a multiple of 1024.
/// A step of 32 bytes along K adds `WGMMA_STEP` to the descriptor.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t tile) {
  constexpr uint64_t swizzle_128_bytes = 1;
  constexpr uint64_t stride_between_atoms = 1024 >> 4;
  constexpr uint64_t leading_offset = 1;  // Unused in this layout; 1 by convention.
  return swizzle_128_bytes << 62 | stride_between_atoms << 32 | leading_offset << 16 | (tile & 0x3ffff) >> 4;
}
constexpr uint64_t WGMMA_STEP = 32 >> 4;

// The operands of every accumulator register of a 64x128 product: `wgmma` reads and writes them behind the compiler's
// back, so fence and wait name them too, and no use of them moves across.
#define WGMMA_ROW(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define WGMMA_ROWS(d)                                                                                         \
  WGMMA_ROW(d, 0), WGMMA_ROW(d, 1), WGMMA_ROW(d, 2), WGMMA_ROW(d, 3), WGMMA_ROW(d, 4), WGMMA_ROW(d, 5),       \
      WGMMA_ROW(d, 6), WGMMA_ROW(d, 7), WGMMA_ROW(d, 8), WGMMA_ROW(d, 9), WGMMA_ROW(d, 10), WGMMA_ROW(d, 11), \
      WGMMA_ROW(d, 12), WGMMA_ROW(d, 13), WGMMA_ROW(d, 14), WGMMA_ROW(d, 15)

/// Before a product into registers that other instructions have read or written.
__device__ __forceinline__ void wgmma_fence(float (&d)[16][4]) {
  asm volatile("wgmma.fence.sync.aligned;" : WGMMA_ROWS(d)::"memory");
}

/// Closes the group of the products issued since the last.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits for all groups; the registers of the products can be used afterwards.
__device__ __forceinline__ void wgmma_wait(float (&d)[16][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : WGMMA_ROWS(d)::"memory");
}

/// `d = a * b + (accumulate ? d : 0)`, 64x128x32, e4m3. `d[j]` is the lane's part of columns 8j..8j+8, laid out as in
/// `mma.cuh`; warp w of the group owns rows 16w..16w+16.
__device__ __forceinline__ void wgmma_e4m3_64x128x32(float (&d)[16][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n\t"
      ".reg .pred accumulate;\n\t"
      "setp.ne.b32 accumulate, %66, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, accumulate, 1, 1;\n\t"
      "}"
      : WGMMA_ROWS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

#undef WGMMA_ROWS
#undef WGMMA_ROW

/// Gives registers back to the block's pool. Every warp of the warpgroup executes it.
template <int REGISTERS>
__device__ __forceinline__ void registers_shrink_to() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/// Takes registers from the block's pool, waiting until there are enough.
template <int REGISTERS>
__device__ __forceinline__ void registers_grow_to() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
