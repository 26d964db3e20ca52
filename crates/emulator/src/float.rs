//! Floating-point formats, rounding and arithmetic, to the bit.
