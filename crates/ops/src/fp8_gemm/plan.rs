//! Which kernel multiplies: a function of the shape and of the GPU, and of nothing else.

use std::fmt;

use cachalot_cuda::DeviceInfo;

use crate::{Error, Result};

/// Length of a scale's block, in x along `in_features` and in the weight along both dimensions.
pub const SCALE_BLOCK: usize = 128;

/// The dimensions of one multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fp8GemmShape {
    /// Rows of x.
    pub num_tokens: usize,
    /// Rows of the weight, a multiple of 8.
    pub out_features: usize,
    /// Columns of both, a multiple of 128.
    pub in_features: usize,
}

/// A kernel and how it cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8GemmPlan {
    /// `mma.sync` with the weight's rows as the long side of a tile, and the sums split along `in_features`.
    Small {
        /// Tokens that the kernel has room for: 8, 16, 32 or 64.
        max_tokens: usize,
        /// Parts of `in_features`.
        num_splits: usize,
    },
    /// The same with `wgmma` and tensor maps.
    Sm90Small {
        /// Tokens that the kernel has room for: 16, 64 or 128.
        max_tokens: usize,
        /// Parts of `in_features`.
        num_splits: usize,
    },
    /// `mma.sync` in tiles of 128 x 128.
    Large,
    /// `wgmma` and tensor maps in tiles of `block_m` x 128.
    Sm90 {
        /// Tokens of a tile: 128 or 256.
        block_m: usize,
        /// Blocks of the grid, which share the tiles.
        num_blocks: usize,
    },
}

/// How a kernel for few tokens cuts a weight into blocks.
///
/// The numbers are those of an H100 with its 132 multiprocessors, whatever GPU the kernel runs on, so that the order of a sum is
/// the same on all of them.
struct Split {
    /// Most tokens.
    max_tokens: usize,
    /// Rows of the weight that one block owns.
    block_n: usize,
    /// Most blocks, unless the weight has more rows than that even in one part.
    max_blocks: usize,
}

impl Split {
    /// Three blocks on each multiprocessor.
    const SMALL: Split = Split { max_tokens: 64, block_n: 64, max_blocks: 396 };
    /// Two blocks on each multiprocessor.
    const SM90: Split = Split { max_tokens: 128, block_n: 128, max_blocks: 264 };
    /// Fewest blocks of 128 along `in_features` in a part: as many as the kernels have stages.
    const MIN_SCALE_BLOCKS: usize = 4;

    /// Parts of `in_features`.
    fn num_splits(&self, shape: Fp8GemmShape) -> usize {
        let num_ranges = shape.out_features.div_ceil(self.block_n).max(1);
        let most = (shape.in_features / SCALE_BLOCK / Split::MIN_SCALE_BLOCKS).max(1);
        (self.max_blocks / num_ranges).clamp(1, most)
    }

    /// Elements of the partial sums, for any shape.
    const fn num_partial_sums(&self) -> usize {
        self.max_blocks * self.block_n * self.max_tokens
    }
}

/// Rows of the weight in a tile of the kernels for many tokens.
const BLOCK_N: usize = 128;

/// Elements of the partial sums that any plan needs.
pub(super) const NUM_PARTIAL_SUMS: usize = Split::SM90.num_partial_sums();
/// Counters that any plan needs: one for each range of rows of a weight that is split into two parts or more.
pub(super) const NUM_COUNTERS: usize = Split::SMALL.max_blocks / 2;
const _: () =
    assert!(Split::SMALL.num_partial_sums() <= NUM_PARTIAL_SUMS && Split::SM90.max_blocks / 2 <= NUM_COUNTERS);

impl Fp8GemmPlan {
    /// The kernel for a shape on a GPU.
    ///
    /// Few tokens (64, on Hopper 128) read the weights once, and a token's sums do not depend on how many they are. Above, the
    /// tensor cores are the bound.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no kernel takes the shape, or none runs on the GPU.
    pub fn new(shape: Fp8GemmShape, gpu: &DeviceInfo) -> Result<Self> {
        let unsupported = |got: String, supported| Err(Error::Unsupported { op: "fp8_gemm", got, supported });
        let Fp8GemmShape { num_tokens, out_features, in_features } = shape;
        if in_features == 0 || !in_features.is_multiple_of(SCALE_BLOCK) {
            return unsupported(
                format!("`in_features` of {in_features}"),
                "positive multiples of 128, the block of a scale",
            );
        }
        if !out_features.is_multiple_of(8) {
            return unsupported(format!("`out_features` of {out_features}"), "multiples of 8, 16 bytes of out");
        }
        if gpu.capability < (8, 9) {
            let (major, minor) = gpu.capability;
            return unsupported(format!("compute capability {major}.{minor}"), "8.9 and later, which multiply FP8");
        }
        if gpu.capability != (9, 0) {
            return Ok(match num_tokens {
                0..=64 => Fp8GemmPlan::Small {
                    max_tokens: num_tokens.next_power_of_two().max(8),
                    num_splits: Split::SMALL.num_splits(shape),
                },
                _ => Fp8GemmPlan::Large,
            });
        }
        let small = |max_tokens| Fp8GemmPlan::Sm90Small { max_tokens, num_splits: Split::SM90.num_splits(shape) };
        match num_tokens {
            0..=16 => return Ok(small(16)),
            17..=64 => return Ok(small(64)),
            65..=128 => return Ok(small(128)),
            _ => {}
        }
        let num_tiles = |block_m| num_tokens.div_ceil(block_m) * out_features.div_ceil(BLOCK_N);
        let num_multiprocessors = gpu.num_multiprocessors as usize;
        let block_m = if num_tiles(256) >= num_multiprocessors { 256 } else { 128 };
        Ok(Fp8GemmPlan::Sm90 { block_m, num_blocks: num_tiles(block_m).min(num_multiprocessors) })
    }

    /// The module and the kernel in it.
    pub fn kernel(self) -> (&'static str, &'static str) {
        match self {
            Fp8GemmPlan::Small { max_tokens: 8, .. } => ("fp8_gemm/small", "fp8_gemm_small_8"),
            Fp8GemmPlan::Small { max_tokens: 16, .. } => ("fp8_gemm/small", "fp8_gemm_small_16"),
            Fp8GemmPlan::Small { max_tokens: 32, .. } => ("fp8_gemm/small", "fp8_gemm_small_32"),
            Fp8GemmPlan::Small { .. } => ("fp8_gemm/small", "fp8_gemm_small_64"),
            Fp8GemmPlan::Sm90Small { max_tokens: 16, .. } => ("fp8_gemm/sm90_small", "fp8_gemm_sm90_small_16"),
            Fp8GemmPlan::Sm90Small { max_tokens: 64, .. } => ("fp8_gemm/sm90_small", "fp8_gemm_sm90_small_64"),
            Fp8GemmPlan::Sm90Small { .. } => ("fp8_gemm/sm90_small", "fp8_gemm_sm90_small_128"),
            Fp8GemmPlan::Large => ("fp8_gemm/large", "fp8_gemm_large"),
            Fp8GemmPlan::Sm90 { block_m: 128, .. } => ("fp8_gemm/sm90", "fp8_gemm_sm90_128"),
            Fp8GemmPlan::Sm90 { .. } => ("fp8_gemm/sm90", "fp8_gemm_sm90_256"),
        }
    }

    /// Blocks of the grid in x, y and z.
    pub(super) fn grid(self, shape: Fp8GemmShape) -> [usize; 3] {
        match self {
            Fp8GemmPlan::Small { num_splits, .. } => [shape.out_features.div_ceil(Split::SMALL.block_n), num_splits, 1],
            Fp8GemmPlan::Sm90Small { num_splits, .. } => {
                [shape.out_features.div_ceil(Split::SM90.block_n), num_splits, 1]
            }
            Fp8GemmPlan::Large => [shape.num_tokens.div_ceil(128), shape.out_features.div_ceil(BLOCK_N), 1],
            Fp8GemmPlan::Sm90 { num_blocks, .. } => [num_blocks, 1, 1],
        }
    }

    /// Threads of a block.
    pub(super) fn num_threads(self) -> u32 {
        match self {
            Fp8GemmPlan::Small { .. } => 128,
            Fp8GemmPlan::Sm90Small { .. } => 288,
            Fp8GemmPlan::Large => 256,
            Fp8GemmPlan::Sm90 { .. } => 384,
        }
    }

    /// Dynamic shared memory of a block; the kernels assert the same numbers.
    pub(super) fn shared_bytes(self) -> u32 {
        match self {
            Fp8GemmPlan::Small { max_tokens: 8, .. } => 41_984,
            Fp8GemmPlan::Small { max_tokens: 16, .. } => 46_080,
            Fp8GemmPlan::Small { max_tokens: 32, .. } => 54_272,
            Fp8GemmPlan::Small { .. } => 70_656,
            Fp8GemmPlan::Sm90Small { max_tokens: 16, .. } => 74_312,
            Fp8GemmPlan::Sm90Small { max_tokens: 64, .. } => 99_400,
            Fp8GemmPlan::Sm90Small { .. } => 199_784,
            Fp8GemmPlan::Large => 99_852,
            Fp8GemmPlan::Sm90 { block_m: 128, .. } => 199_248,
            Fp8GemmPlan::Sm90 { .. } => 216_112,
        }
    }
}

impl fmt::Display for Fp8GemmPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fp8GemmPlan::Small { max_tokens, num_splits } => {
                write!(f, "mma.sync for up to {max_tokens} tokens, in_features in {num_splits} parts")
            }
            Fp8GemmPlan::Sm90Small { max_tokens, num_splits } => {
                write!(f, "wgmma for up to {max_tokens} tokens, in_features in {num_splits} parts")
            }
            Fp8GemmPlan::Large => write!(f, "mma.sync in tiles of 128 x 128"),
            Fp8GemmPlan::Sm90 { block_m, num_blocks } => {
                write!(f, "wgmma in tiles of {block_m} x 128 on {num_blocks} multiprocessors")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(capability: (u32, u32), num_multiprocessors: u32) -> DeviceInfo {
        let name = format!("{capability:?}");
        DeviceInfo { ordinal: 0, name, capability, memory_bytes: 0, num_multiprocessors, shared_bytes_per_block: 0 }
    }

    fn hopper() -> DeviceInfo {
        gpu((9, 0), 132)
    }

    fn ada() -> DeviceInfo {
        gpu((8, 9), 142)
    }

    fn plan(num_tokens: usize, [out_features, in_features]: [usize; 2], gpu: &DeviceInfo) -> Result<Fp8GemmPlan> {
        Fp8GemmPlan::new(Fp8GemmShape { num_tokens, out_features, in_features }, gpu)
    }

    #[test]
    fn the_shapes_of_the_model() {
        for (num_tokens, shape, hopper_plan, ada_plan) in [
            (1, [2112, 7168], ("small_16", Some(14)), ("small_8", Some(12))),
            (9, [2112, 7168], ("small_16", Some(14)), ("small_16", Some(12))),
            (64, [2112, 7168], ("small_64", Some(14)), ("small_64", Some(12))),
            (65, [2112, 7168], ("small_128", Some(14)), ("large", None)),
            (32, [576, 7168], ("small_64", Some(14)), ("small_32", Some(14))),
            (1, [24576, 1536], ("small_16", Some(1)), ("small_8", Some(1))),
            (1, [7168, 16384], ("small_16", Some(4)), ("small_8", Some(3))),
            (1, [8, 128], ("small_16", Some(1)), ("small_8", Some(1))),
            (129, [2112, 7168], ("128", None), ("large", None)),
            (4096, [7168, 2048], ("256", None), ("large", None)),
        ] {
            for (gpu, prefix, expected) in [(hopper(), "fp8_gemm_sm90_", hopper_plan), (ada(), "fp8_gemm_", ada_plan)] {
                let plan = plan(num_tokens, shape, &gpu).expect("a kernel");
                let num_splits = match plan {
                    Fp8GemmPlan::Small { num_splits, .. } | Fp8GemmPlan::Sm90Small { num_splits, .. } => {
                        Some(num_splits)
                    }
                    Fp8GemmPlan::Large | Fp8GemmPlan::Sm90 { .. } => None,
                };
                let kernel = plan.kernel().1.strip_prefix(prefix).expect("the prefix");
                assert_eq!((kernel, num_splits), expected, "{num_tokens} tokens, {shape:?}, {gpu:?}");
            }
        }
    }

    #[test]
    fn the_order_of_a_sum_of_few_tokens_does_not_depend_on_their_number() {
        for shape in [[2112, 7168], [7168, 16384], [576, 512]] {
            for (gpu, most) in [(hopper(), 128), (ada(), 64)] {
                let splits = |num_tokens| match plan(num_tokens, shape, &gpu) {
                    Ok(
                        Fp8GemmPlan::Small { max_tokens, num_splits }
                        | Fp8GemmPlan::Sm90Small { max_tokens, num_splits },
                    ) if num_tokens <= max_tokens => num_splits,
                    other => panic!("{num_tokens} tokens: {other:?}"),
                };
                assert!((1..=most).all(|num_tokens| splits(num_tokens) == splits(1)), "{shape:?}");
            }
        }
    }

    #[test]
    fn the_workspace_has_room_for_every_shape() {
        for out_features in (8..40_000).step_by(8) {
            let shape = Fp8GemmShape { num_tokens: 1, out_features, in_features: 1 << 20 };
            for split in [Split::SMALL, Split::SM90] {
                let num_splits = split.num_splits(shape);
                if num_splits > 1 {
                    assert!(num_splits * split.max_tokens * out_features <= NUM_PARTIAL_SUMS, "{out_features}");
                    assert!(out_features.div_ceil(split.block_n) <= NUM_COUNTERS, "{out_features}");
                }
            }
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let ampere = gpu((8, 0), 108);
        for (shape, gpu, message) in [
            (
                [128, 192],
                hopper(),
                "fp8_gemm: `in_features` of 192 is not supported; supported: positive multiples of 128",
            ),
            ([12, 128], hopper(), "fp8_gemm: `out_features` of 12 is not supported; supported: multiples of 8"),
            ([128, 128], ampere, "fp8_gemm: compute capability 8.0 is not supported; supported: 8.9"),
        ] {
            let error = plan(1, shape, &gpu).expect_err("refused").to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
