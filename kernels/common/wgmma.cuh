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

/// Keeps the compiler from moving a use of the accumulators across this line: `wgmma` writes them behind its back.
template <int TILES>
__device__ __forceinline__ void wgmma_pin(float (&d)[TILES][4]) {
#pragma unroll
  for (int j = 0; j < TILES; j++) {
    asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
  }
}

/// Before a product into registers that other instructions have read or written.
template <int TILES>
__device__ __forceinline__ void wgmma_fence(float (&d)[TILES][4]) {
  wgmma_pin(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// Closes the group of the products issued since the last.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits for all groups; the registers of the products can be used afterwards.
template <int TILES>
__device__ __forceinline__ void wgmma_wait(float (&d)[TILES][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  wgmma_pin(d);
}

// `d = a * b + (accumulate ? d : 0)`, 64 x (8 * the length of d) x 32, e4m3. `d[j]` is the lane's part of columns
// 8j..8j+8, laid out as in `mma.cuh`; warp w of the group owns rows 16w..16w+16.
#define WGMMA_ROW(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
__device__ __forceinline__ void wgmma_e4m3(float (&d)[2][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n\t"
      ".reg .pred accumulate;\n\t"
      "setp.ne.b32 accumulate, %10, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, accumulate, 1, 1;\n\t"
      "}"
      : WGMMA_ROW(0), WGMMA_ROW(1)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma_e4m3(float (&d)[8][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n\t"
      ".reg .pred accumulate;\n\t"
      "setp.ne.b32 accumulate, %34, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, accumulate, 1, 1;\n\t"
      "}"
      : WGMMA_ROW(0), WGMMA_ROW(1), WGMMA_ROW(2), WGMMA_ROW(3), WGMMA_ROW(4), WGMMA_ROW(5), WGMMA_ROW(6), WGMMA_ROW(7)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma_e4m3(float (&d)[16][4], uint64_t a, uint64_t b, bool accumulate) {
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
      : WGMMA_ROW(0), WGMMA_ROW(1), WGMMA_ROW(2), WGMMA_ROW(3), WGMMA_ROW(4), WGMMA_ROW(5), WGMMA_ROW(6), WGMMA_ROW(7),
        WGMMA_ROW(8), WGMMA_ROW(9), WGMMA_ROW(10), WGMMA_ROW(11), WGMMA_ROW(12), WGMMA_ROW(13), WGMMA_ROW(14),
        WGMMA_ROW(15)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
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
