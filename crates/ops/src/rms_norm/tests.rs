//! Cases of this operation, on every device.
