// Asynchronous copies of sm_80, from global to shared memory (PTX ISA, "Data Movement: cp.async").
#pragma once
#include <cstdint>

/// The address of something in shared memory as PTX wants it: 32 bits, in the shared window.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes past L1, or writes 16 zeros and reads nothing if `valid` is false.
__device__ __forceinline__ void cp_async_16(uint32_t destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination),
               "l"(__cvta_generic_to_global(source)), "r"(valid ? 16 : 0)
               : "memory");
}

/// Copies 4 bytes, or writes 4 zeros and reads nothing if `valid` is false.
__device__ __forceinline__ void cp_async_4(uint32_t destination, const void* source, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(destination), "l"(__cvta_generic_to_global(source)),
               "r"(valid ? 4 : 0)
               : "memory");
}

/// Closes this thread's group of copies. A group may be empty.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most the `PENDING` newest groups of this thread are under way.
/// The copies of other threads are visible after a barrier that follows their wait.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
