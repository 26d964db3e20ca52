//! Swizzles: how bulk tensor copies and `wgmma` permute sixteen-byte pieces of shared memory.

/// The width in which sixteen-byte pieces trade places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// Nothing is moved.
    None,
    /// Within 32 bytes; the pattern repeats after 256.
    B32,
    /// Within 64 bytes; the pattern repeats after 512.
    B64,
    /// Within 128 bytes; the pattern repeats after 1024.
    B128,
}

impl Swizzle {
    /// Bytes of a row of the pattern; 16 for [`Swizzle::None`], where a piece stays what it is.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the byte that would lie at shared address `address` is: bits from 7 upward are added without carry to bits
    /// from 4 upward, one, two or three of them. The pattern hangs on the address itself, not on where a tile begins
    /// (CUDA programming guide, section on swizzles of the tensor memory accelerator).
    pub(crate) fn apply(self, address: u32) -> u32 {
        let pattern = self.bytes() - 16;
        address ^ (address >> 3 & pattern)
    }
}
