//! Matrix products of a warp group: shared-memory descriptors, swizzles and fragments of `wgmma`.
