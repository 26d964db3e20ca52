// Copies of whole tiles between global and shared memory through a tensor map (PTX ISA, "cp.async.bulk.tensor"); sm_90.
#pragma once
#include <cstdint>

/// The driver's `CUtensorMap`: opaque, made by the host, passed inside a `__grid_constant__` parameter.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};
static_assert(sizeof(TensorMap) == 128, "the driver's CUtensorMap has 128 bytes");

/// Loads the map's box at element (`x`, `y`), `x` along the contiguous dimension; its bytes count on `barrier`.
__device__ __forceinline__ void tma_load_2d(uint32_t destination, const TensorMap& map, uint32_t barrier, uint32_t x,
                                            uint32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(destination),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

/// Stores the map's box at element (`x`, `y`); what lies outside of the tensor is not written.
__device__ __forceinline__ void tma_store_2d(const TensorMap& map, uint32_t source, uint32_t x, uint32_t y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(source), "r"(x), "r"(y)
               : "memory");
}

/// Closes this thread's group of stores.
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

/// Waits until this thread's stores have read their shared memory, so that it can be written again.
__device__ __forceinline__ void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

/// Orders this thread's ordinary accesses of shared memory before later ones by tensor cores and bulk copies.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
