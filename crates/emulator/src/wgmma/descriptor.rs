//! Matrix descriptors: where in shared memory the sixteen-byte rows of a matrix of `wgmma` are.
//!
//! The canonical layouts of the PTX ISA (9.0, "Shared Memory Matrix Layout" of wgmma), in units of sixteen bytes. `W` is the width of the
//! swizzle (1, 2, 4 or 8 units), SBO and LBO are the stride and leading byte offsets:
//!
//! | | unit | no swizzle | swizzle |
//! |---|---|---|---|
//! | K-major | row `r` of M or N, half `c` of the 32 bytes of K | `r%8 + r/8·SBO + c·LBO` | `r%8·W + r/8·SBO + c` |
//! | MN-major | `q`: eight elements of M or N, row `k` | `q·SBO + k%8 + k/8·LBO` | `q%W + q/W·LBO + k%8·W + k/8·SBO` |
//!
//! The swizzle is applied to the sum of this and the start address, so a start address that is advanced along K inside an
//! atom means what kernels expect of it.

use crate::tensor_map::Swizzle;

/// Along which dimension neighbouring elements lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    K,
    MN,
}

/// A decoded matrix descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

impl Descriptor {
    /// From the 64 bits that the instruction takes.
    ///
    /// # Errors
    /// If a bit is set that the ISA gives no meaning, or the matrix base offset.
    pub(crate) fn decode(bits: u64) -> Result<Descriptor, String> {
        let field = |first: u32, count: u32| (bits >> first) as u32 & ((1 << count) - 1);
        if field(14, 2) | field(30, 2) | field(46, 3) | field(52, 10) != 0 {
            return Err(format!(
                "matrix descriptor {bits:#018x} has bits set outside its fields (0-13 address, 16-29 leading byte offset, \
                 32-45 stride byte offset, each divided by 16, and 62-63 swizzle); was an offset not divided by 16?"
            ));
        }
        if field(49, 3) != 0 {
            return Err(format!(
                "matrix descriptor {bits:#018x} has matrix base offset {}; the emulator takes 0 only: \
                 align the tile to 1024, 512 or 256 bytes for the 128, 64 or 32 byte swizzle",
                field(49, 3)
            ));
        }
        let swizzle = match field(62, 2) {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Ok(Descriptor { start: field(0, 14) * 16, leading: field(16, 14) * 16, stride: field(32, 14) * 16, swizzle })
    }

    /// Address of half `chunk` (0 or 1) of the 32 bytes of K in `row` of M or N.
    pub(crate) fn k_major_address(&self, row: usize, chunk: usize) -> u32 {
        let (row, chunk) = (row as u32, chunk as u32);
        let (group, row) = (row / 8, row % 8);
        let offset = match self.swizzle {
            Swizzle::None => row * 16 + chunk * self.leading,
            swizzle => row * swizzle.bytes() + chunk * 16,
        };
        self.swizzle.apply(self.start + group * self.stride + offset)
    }

    /// Address of elements `8·group..8·group + 8` of M or N in row `k`.
    pub(crate) fn mn_major_address(&self, group: usize, k: usize) -> u32 {
        let (group, k) = (group as u32, k as u32);
        let offset = match self.swizzle {
            Swizzle::None => group * self.stride + k % 8 * 16 + k / 8 * self.leading,
            swizzle => {
                let width = swizzle.bytes() / 16;
                let along = group % width * 16 + group / width * self.leading;
                along + k % 8 * swizzle.bytes() + k / 8 * self.stride
            }
        };
        self.swizzle.apply(self.start + offset)
    }
}
