// A tile of shared memory with 128-byte rows, filled by cp.async and read by ldmatrix without bank conflicts.
//
// Chunk c (16 bytes) of row r lies at chunk c ^ (r & 7) of that row: the eight rows that ldmatrix reads together then
// lie in eight different groups of four banks. It is the 128-byte swizzle of tensor maps, for a tile at a multiple of
// 1024 bytes.
#pragma once
#include <cstdint>

#include "cp_async.cuh"
#include "ldmatrix.cuh"

constexpr uint32_t TILE_ROW_BYTES = 128;

/// Address of 16-byte chunk `chunk` of row `row`.
__device__ __forceinline__ uint32_t tile_chunk(uint32_t tile, uint32_t row, uint32_t chunk) {
  return tile + row * TILE_ROW_BYTES + ((chunk ^ (row & 7)) << 4);
}

/// A row of a matrix, or none.
struct TileRow {
  bool exists;
  uint32_t number;
};

/// Starts the copy of ROWS rows of a tile: bytes `first_byte .. + 128` of row `row_of(i)` of a row-major matrix, whose
/// rows have `row_bytes` bytes (a multiple of 16) and start every `stride_bytes`. Where there is none, and
/// beyond the end of a row, nothing is read and the tile becomes zero.
template <int ROWS, int THREADS, typename RowOf>
__device__ __forceinline__ void tile_load_rows(uint32_t tile, const void* matrix, int64_t stride_bytes,
                                               uint32_t row_bytes, uint32_t first_byte, RowOf row_of) {
  static_assert(ROWS * 8 % THREADS == 0, "every thread copies the same number of chunks");
#pragma unroll
  for (int i = 0; i < ROWS * 8 / THREADS; i++) {
    const uint32_t row = (i * THREADS + threadIdx.x) / 8, chunk = threadIdx.x % 8;
    const uint32_t byte = first_byte + chunk * 16;
    const TileRow from = row_of(row);
    const bool valid = from.exists && byte < row_bytes;
    const char* source = static_cast<const char*>(matrix) + (valid ? from.number * stride_bytes + byte : 0);
    cp_async_16(tile_chunk(tile, row, chunk), source, valid);
  }
}

/// The same for consecutive rows, `first_row .. first_row + ROWS` of `num_rows`; what lies outside becomes zero.
template <int ROWS, int THREADS>
__device__ __forceinline__ void tile_load(uint32_t tile, const void* matrix, int64_t stride_bytes, uint32_t num_rows,
                                          uint32_t row_bytes, uint32_t first_row, uint32_t first_byte) {
  tile_load_rows<ROWS, THREADS>(
      tile, matrix, stride_bytes, row_bytes, first_byte,
      [=](uint32_t row) { return TileRow{first_row + row < num_rows, first_row + row}; });
}

/// The A operand of one `mma`: rows `row .. row + 16`, bytes `32 * step .. + 32`.
__device__ __forceinline__ void tile_operand_a(uint32_t (&a)[4], uint32_t tile, uint32_t row, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4(a, tile_chunk(tile, row + lane % 16, 2 * step + lane / 16));
}

/// The B operands of two neighbouring `mma`s: rows (columns of B) `row .. row + 16`, bytes `32 * step .. + 32`;
/// `b[0], b[1]` belong to the first eight rows, `b[2], b[3]` to the next.
__device__ __forceinline__ void tile_operand_b_pair(uint32_t (&b)[4], uint32_t tile, uint32_t row, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4(b, tile_chunk(tile, row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
}

/// The B operands of eight rows (columns of B) for two steps: bytes `64 * pair .. + 64`;
/// `b[0], b[1]` belong to the first step, `b[2], b[3]` to the next.
__device__ __forceinline__ void tile_operand_b_steps(uint32_t (&b)[4], uint32_t tile, uint32_t row, uint32_t pair) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4(b, tile_chunk(tile, row + lane % 8, 4 * pair + lane / 8));
}

/// The B operands of two neighbouring `mma`s of 16-bit elements from a tile whose rows are rows of B: rows `row .. row + 16`,
/// columns `8 * chunk .. + 16`; `b[0], b[1]` belong to the first eight columns, `b[2], b[3]` to the next.
__device__ __forceinline__ void tile_operand_b_transposed(uint32_t (&b)[4], uint32_t tile, uint32_t row, uint32_t chunk) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4_transposed(b, tile_chunk(tile, row + lane % 16, chunk + lane / 16));
}
