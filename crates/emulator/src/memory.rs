//! Global memory: allocations, bounds and what has been written.
