//! Shared memory of a block: its bytes, and for each what is known about its accesses.
