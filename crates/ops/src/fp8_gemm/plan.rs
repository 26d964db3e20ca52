//! Which kernel multiplies: a function of the shape and of the GPU, and of nothing else.

use std::fmt;

use crate::{Error, Result};

/// Length of a scale's block, in x along `in_features` and in the weight along both dimensions.
pub const SCALE_BLOCK: usize = 128;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fp8GemmShape {
    /// Rows of x.
    pub num_tokens: usize,
    /// Rows of the weight, a multiple of 8.
    pub out_features: usize,
    /// Columns of both, a multiple of 128.
    pub in_features: usize,
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpu {
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub num_multiprocessors: usize,
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
    /// `mma.sync` in tiles of 128 x 128.
    Large,
    /// `wgmma` and tensor maps, in tiles of `block_m` x 128.
    Sm90 {
        /// Tokens of a tile: 128 or 256.
        block_m: usize,
    },
}

/// Rows of the weight that one block of the small kernel owns.
const SMALL_BLOCK_N: usize = 64;
/// Most tokens of the small kernel.
const SMALL_MAX_TOKENS: usize = 64;
/// Blocks that the small kernel aims at: three for each of an H100's 132 multiprocessors, whatever GPU it runs on, so that
/// the order of a sum is the same on all of them.
const SMALL_NUM_BLOCKS: usize = 396;
/// Fewest scale blocks along `in_features` in a part: as many as the kernel has stages.
const SMALL_MIN_SCALE_BLOCKS: usize = 4;
/// Rows of the weight in a tile of the two kernels for many tokens.
const BLOCK_N: usize = 128;

/// Elements of the small kernel's partial sums, for any shape: a split weight has at most [`SMALL_NUM_BLOCKS`] blocks.
pub(super) const NUM_PARTIAL_SUMS: usize = SMALL_NUM_BLOCKS * SMALL_BLOCK_N * SMALL_MAX_TOKENS;
/// Counters of the small kernel, for any shape: a weight is split into two parts or more.
pub(super) const NUM_COUNTERS: usize = SMALL_NUM_BLOCKS / 2;

impl Fp8GemmPlan {
    /// The kernel for a shape on a GPU.
    ///
    /// Up to 64 tokens the weights are read once and a token's sums do not depend on the number of tokens; above, the tensor
    /// cores are the bound.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no kernel takes the shape, or none runs on the GPU.
    pub fn new(shape: Fp8GemmShape, gpu: Gpu) -> Result<Self> {
        let unsupported = |got: String, supported| Err(Error::Unsupported { op: "fp8_gemm", got, supported });
        let Fp8GemmShape { num_tokens, out_features, in_features } = shape;
        if in_features == 0 || in_features % SCALE_BLOCK != 0 {
            return unsupported(format!("`in_features` of {in_features}"), "positive multiples of 128, the block of a scale");
        }
        if out_features % 8 != 0 {
            return unsupported(format!("`out_features` of {out_features}"), "multiples of 8, 16 bytes of out");
        }
        if gpu.compute_capability < (8, 9) {
            let (major, minor) = gpu.compute_capability;
            return unsupported(format!("compute capability {major}.{minor}"), "8.9 and later, which multiply FP8");
        }
        if num_tokens <= SMALL_MAX_TOKENS {
            let num_blocks = out_features.div_ceil(SMALL_BLOCK_N).max(1);
            let most = (in_features / SCALE_BLOCK / SMALL_MIN_SCALE_BLOCKS).max(1);
            let num_splits = (SMALL_NUM_BLOCKS / num_blocks).clamp(1, most);
            return Ok(Fp8GemmPlan::Small { max_tokens: num_tokens.next_power_of_two().max(8), num_splits });
        }
        if gpu.compute_capability != (9, 0) {
            return Ok(Fp8GemmPlan::Large);
        }
        let num_tiles = num_tokens.div_ceil(256) * out_features.div_ceil(BLOCK_N);
        Ok(Fp8GemmPlan::Sm90 { block_m: if num_tiles >= gpu.num_multiprocessors { 256 } else { 128 } })
    }

    /// The module and the kernel in it.
    pub fn kernel(self) -> (&'static str, &'static str) {
        match self {
            Fp8GemmPlan::Small { max_tokens: 8, .. } => ("fp8_gemm/small", "fp8_gemm_small_8"),
            Fp8GemmPlan::Small { max_tokens: 16, .. } => ("fp8_gemm/small", "fp8_gemm_small_16"),
            Fp8GemmPlan::Small { max_tokens: 32, .. } => ("fp8_gemm/small", "fp8_gemm_small_32"),
            Fp8GemmPlan::Small { .. } => ("fp8_gemm/small", "fp8_gemm_small_64"),
            Fp8GemmPlan::Large => ("fp8_gemm/large", "fp8_gemm_large"),
            Fp8GemmPlan::Sm90 { block_m: 128 } => ("fp8_gemm/sm90", "fp8_gemm_sm90_128"),
            Fp8GemmPlan::Sm90 { .. } => ("fp8_gemm/sm90", "fp8_gemm_sm90_256"),
        }
    }

    /// Blocks of the grid in x, y and z.
    pub(super) fn grid(self, shape: Fp8GemmShape, gpu: Gpu) -> [usize; 3] {
        match self {
            Fp8GemmPlan::Small { num_splits, .. } => [shape.out_features.div_ceil(SMALL_BLOCK_N), num_splits, 1],
            Fp8GemmPlan::Large => [shape.num_tokens.div_ceil(128), shape.out_features.div_ceil(BLOCK_N), 1],
            Fp8GemmPlan::Sm90 { block_m } => {
                let num_tiles = shape.num_tokens.div_ceil(block_m) * shape.out_features.div_ceil(BLOCK_N);
                [num_tiles.min(gpu.num_multiprocessors), 1, 1]
            }
        }
    }

    /// Threads of a block.
    pub(super) fn num_threads(self) -> u32 {
        match self {
            Fp8GemmPlan::Small { .. } => 128,
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
            Fp8GemmPlan::Large => 99_852,
            Fp8GemmPlan::Sm90 { block_m: 128 } => 199_248,
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
            Fp8GemmPlan::Large => write!(f, "mma.sync in tiles of 128 x 128"),
            Fp8GemmPlan::Sm90 { block_m } => write!(f, "wgmma in tiles of {block_m} x 128"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Gpu = Gpu { compute_capability: (9, 0), num_multiprocessors: 132 };

    fn plan(num_tokens: usize, [out_features, in_features]: [usize; 2], gpu: Gpu) -> Result<Fp8GemmPlan> {
        Fp8GemmPlan::new(Fp8GemmShape { num_tokens, out_features, in_features }, gpu)
    }

    #[test]
    fn the_shapes_of_the_model() {
        let small = |max_tokens, num_splits| Fp8GemmPlan::Small { max_tokens, num_splits };
        for (num_tokens, shape, expected) in [
            (1, [2112, 7168], small(8, 12)),
            (9, [2112, 7168], small(16, 12)),
            (64, [2112, 7168], small(64, 12)),
            (32, [576, 7168], small(32, 14)),
            (1, [24576, 1536], small(8, 1)),
            (1, [7168, 16384], small(8, 3)),
            (1, [8, 128], small(8, 1)),
            (65, [2112, 7168], Fp8GemmPlan::Sm90 { block_m: 128 }),
            (4096, [7168, 2048], Fp8GemmPlan::Sm90 { block_m: 256 }),
        ] {
            assert_eq!(plan(num_tokens, shape, H100).expect("a kernel"), expected, "{num_tokens} tokens, {shape:?}");
        }
        let l40 = Gpu { compute_capability: (8, 9), num_multiprocessors: 142 };
        assert_eq!(plan(65, [2112, 7168], l40).expect("a kernel"), Fp8GemmPlan::Large);
        assert_eq!(plan(64, [2112, 7168], l40).expect("a kernel"), small(64, 12), "sums as on any other GPU");
    }

    #[test]
    fn the_order_of_a_small_sum_does_not_depend_on_the_number_of_tokens() {
        for shape in [[2112, 7168], [7168, 16384], [576, 512]] {
            let splits = |num_tokens| match plan(num_tokens, shape, H100) {
                Ok(Fp8GemmPlan::Small { max_tokens, num_splits }) if num_tokens <= max_tokens => num_splits,
                other => panic!("{num_tokens} tokens: {other:?}"),
            };
            assert!((1..=64).all(|num_tokens| splits(num_tokens) == splits(1)), "{shape:?}");
        }
    }

    #[test]
    fn the_workspace_has_room_for_every_shape() {
        for out_features in (8..30_000).step_by(8) {
            match plan(64, [out_features, 1 << 20], H100) {
                Ok(Fp8GemmPlan::Small { num_splits, .. }) if num_splits > 1 => {
                    assert!(num_splits * 64 * out_features <= NUM_PARTIAL_SUMS, "{out_features}");
                    assert!(out_features.div_ceil(SMALL_BLOCK_N) <= NUM_COUNTERS, "{out_features}");
                }
                Ok(Fp8GemmPlan::Small { .. }) => {}
                other => panic!("{out_features}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let ampere = Gpu { compute_capability: (8, 0), num_multiprocessors: 108 };
        for (shape, gpu, message) in [
            ([128, 192], H100, "fp8_gemm: `in_features` of 192 is not supported; supported: positive multiples of 128"),
            ([12, 128], H100, "fp8_gemm: `out_features` of 12 is not supported; supported: multiples of 8"),
            ([128, 128], ampere, "fp8_gemm: compute capability 8.0 is not supported; supported: 8.9"),
        ] {
            let error = plan(1, shape, gpu).expect_err("refused").to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
