//! Launches the kernels of `kernels/fp8_gemm`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Params, Stream, Swizzle, TensorMap, TensorMapArgs, params};
use cachalot_tensor::{Buffer, DType, View};

use super::plan::{NUM_COUNTERS, NUM_PARTIAL_SUMS};
use super::{Fp8Gemm, Fp8GemmPlan, Fp8GemmShape, SCALE_BLOCK};
use crate::{Error, Result};

params! {
    /// `Fp8GemmParams` of `params.h`: the kernels that read through pointers.
    struct MmaParams: 80 {
        x: Address = 0,
        x_scale: Address = 8,
        w: Address = 16,
        w_scale: Address = 24,
        out: Address = 32,
        partial: Address = 40,
        num_finished: Address = 48,
        m: u32 = 56,
        n: u32 = 60,
        k: u32 = 64,
        x_scale_stride: u32 = 68,
        out_stride: u32 = 72,
        num_splits: u32 = 76,
    }
}

params! {
    /// `Fp8GemmSm90SmallParams` of `params.h`.
    struct Sm90SmallParams: 448 {
        x: TensorMap = 0,
        w: TensorMap = 128,
        x_scale: TensorMap = 256,
        w_scale: Address = 384,
        out: Address = 392,
        partial: Address = 400,
        num_finished: Address = 408,
        m: u32 = 416,
        n: u32 = 420,
        k: u32 = 424,
        out_stride: u32 = 428,
        num_splits: u32 = 432,
        padding: [u32; 3] = 436,
    }
}

params! {
    /// `Fp8GemmSm90Params` of `params.h`.
    struct Sm90Params: 576 {
        x: TensorMap = 0,
        w: TensorMap = 128,
        x_scale: TensorMap = 256,
        out: TensorMap = 384,
        w_scale: Address = 512,
        num_blocks_m: u32 = 520,
        num_blocks_n: u32 = 524,
        num_blocks_k: u32 = 528,
        padding: [u32; 11] = 532,
    }
}

/// The kernels of one GPU, and the memory in which they add the parts of a split sum.
///
/// Launches that share it must not run at the same time, so there is one for each stream.
#[derive(Debug)]
pub struct Fp8GemmKernels {
    small: [Kernel<MmaParams>; 4],
    large: Kernel<MmaParams>,
    /// Hopper's; no other GPU can load them.
    sm90: Option<Sm90Kernels>,
    partial: Buffer,
    num_finished: Buffer,
}

#[derive(Debug)]
struct Sm90Kernels {
    small: [Kernel<Sm90SmallParams>; 3],
    large: [Kernel<Sm90Params>; 2],
}

/// The kernels that multiply through pointers and those of Hopper, by the number in their name.
const SMALL_TOKENS: [usize; 4] = [8, 16, 32, 64];
const SM90_SMALL_TOKENS: [usize; 3] = [16, 64, 128];
const SM90_BLOCK_M: [usize; 2] = [128, 256];

impl Fp8GemmKernels {
    /// Looks the kernels up, and takes 17 MiB of the arena.
    ///
    /// # Errors
    /// [`Error::Cuda`] if a kernel was not compiled for this GPU or the arena is too small.
    pub fn new(stream: &Stream) -> Result<Self> {
        let gpu = stream.gpu();
        let sm90 = (gpu.info().capability == (9, 0)).then(|| {
            let small = |max_tokens| kernel(gpu, Fp8GemmPlan::Sm90Small { max_tokens, num_splits: 1 });
            let large = |block_m| kernel(gpu, Fp8GemmPlan::Sm90 { block_m, num_blocks: 1 });
            Ok::<_, Error>(Sm90Kernels { small: each(SM90_SMALL_TOKENS, small)?, large: each(SM90_BLOCK_M, large)? })
        });
        let mut num_finished = gpu.alloc(DType::I32, [NUM_COUNTERS])?;
        stream.fill(&mut num_finished, 0)?;
        Ok(Fp8GemmKernels {
            small: each(SMALL_TOKENS, |max_tokens| kernel(gpu, Fp8GemmPlan::Small { max_tokens, num_splits: 1 }))?,
            large: kernel(gpu, Fp8GemmPlan::Large)?,
            sm90: sm90.transpose()?,
            partial: gpu.alloc(DType::F32, [NUM_PARTIAL_SUMS])?,
            num_finished,
        })
    }

    /// Launches the kernel of a plan.
    pub(super) fn run(
        &mut self,
        stream: &Stream,
        args: Fp8Gemm<'_>,
        shape: Fp8GemmShape,
        plan: Fp8GemmPlan,
    ) -> Result<()> {
        let num_splits = match plan {
            Fp8GemmPlan::Small { num_splits, .. } | Fp8GemmPlan::Sm90Small { num_splits, .. } => num_splits,
            Fp8GemmPlan::Large | Fp8GemmPlan::Sm90 { .. } => 1,
        };
        let [m, n, k] = [narrow(shape.num_tokens)?, narrow(shape.out_features)?, narrow(shape.in_features)?];
        let num_splits = narrow(num_splits)?;
        let grid = plan.grid(shape);
        let grid = [narrow(grid[0])?, narrow(grid[1])?, narrow(grid[2])?];
        let launch = Launch::new(grid, [plan.num_threads(), 1, 1]).shared_bytes(plan.shared_bytes());
        let mma = MmaParams {
            x: args.x.address(),
            x_scale: args.x_scale.address(),
            w: args.weight.address(),
            w_scale: args.weight_scale.address(),
            out: args.out.address(),
            partial: self.partial.view_mut().address(),
            num_finished: self.num_finished.view_mut().address(),
            m,
            n,
            k,
            x_scale_stride: narrow(args.x_scale.row_stride())?,
            out_stride: narrow(args.out.row_stride())?,
            num_splits,
        };
        match (plan, &self.sm90) {
            (Fp8GemmPlan::Small { max_tokens, .. }, _) => {
                stream.launch(numbered(&self.small, SMALL_TOKENS, max_tokens, plan)?, launch, &mma)?;
            }
            (Fp8GemmPlan::Large, _) => stream.launch(&self.large, launch, &mma)?,
            (Fp8GemmPlan::Sm90Small { max_tokens, .. }, Some(kernels)) => {
                let [x, w, x_scale] = input_maps(stream.gpu(), &args, max_tokens)?;
                let MmaParams { w_scale, out, partial, num_finished, out_stride, .. } = mma;
                let params = Sm90SmallParams {
                    x,
                    w,
                    x_scale,
                    w_scale,
                    out,
                    partial,
                    num_finished,
                    m,
                    n,
                    k,
                    out_stride,
                    num_splits,
                    padding: [0; 3],
                };
                stream.launch(numbered(&kernels.small, SM90_SMALL_TOKENS, max_tokens, plan)?, launch, &params)?;
            }
            (Fp8GemmPlan::Sm90 { block_m, .. }, Some(kernels)) => {
                let [x, w, x_scale] = input_maps(stream.gpu(), &args, block_m)?;
                let params = Sm90Params {
                    x,
                    w,
                    x_scale,
                    out: map(stream.gpu(), args.out.as_view(), [64, 64], Swizzle::Bytes128)?,
                    w_scale: mma.w_scale,
                    num_blocks_m: narrow(shape.num_tokens.div_ceil(block_m))?,
                    num_blocks_n: narrow(shape.out_features.div_ceil(SCALE_BLOCK))?,
                    num_blocks_k: narrow(shape.in_features / SCALE_BLOCK)?,
                    padding: [0; 11],
                };
                stream.launch(numbered(&kernels.large, SM90_BLOCK_M, block_m, plan)?, launch, &params)?;
            }
            (Fp8GemmPlan::Sm90Small { .. } | Fp8GemmPlan::Sm90 { .. }, None) => return Err(not_here(plan)),
        }
        Ok(())
    }
}

/// Looks up the kernel of a plan.
fn kernel<P: Params>(gpu: &Gpu, plan: Fp8GemmPlan) -> Result<Kernel<P>> {
    let (module, kernel) = plan.kernel();
    Ok(gpu.kernel(module, kernel)?)
}

fn each<T, const N: usize>(numbers: [usize; N], make: impl Fn(usize) -> Result<T>) -> Result<[T; N]> {
    let made = numbers.into_iter().map(make).collect::<Result<Vec<T>>>()?;
    Ok(made.try_into().unwrap_or_else(|_| unreachable!("as many as there are numbers")))
}

/// The kernel that has `number` in its name.
fn numbered<K, const N: usize>(kernels: &[K; N], numbers: [usize; N], number: usize, plan: Fp8GemmPlan) -> Result<&K> {
    let position = numbers.iter().position(|&known| known == number);
    position.map(|position| &kernels[position]).ok_or_else(|| not_here(plan))
}

fn not_here(plan: Fp8GemmPlan) -> Error {
    let supported = "the plan that Fp8GemmPlan::new makes for this GPU";
    Error::Unsupported { op: "fp8_gemm", got: format!("{plan}"), supported }
}

/// Tensor maps of x, the weight and the scales of x, for kernels that take `tokens` tokens and 128 rows of the weight at once.
fn input_maps(gpu: &Gpu, args: &Fp8Gemm<'_>, tokens: usize) -> Result<[TensorMap; 3]> {
    Ok([
        map(gpu, args.x, [tokens, SCALE_BLOCK], Swizzle::Bytes128)?,
        map(gpu, args.weight, [128, SCALE_BLOCK], Swizzle::Bytes128)?,
        map(gpu, args.x_scale, [1, tokens], Swizzle::None)?,
    ])
}

fn map(gpu: &Gpu, view: View<'_>, box_shape: [usize; 2], swizzle: Swizzle) -> Result<TensorMap> {
    Ok(gpu.tensor_map(view, &TensorMapArgs { box_shape: box_shape.into(), swizzle })?)
}

/// The kernels count in 32 bits.
fn narrow(size: usize) -> Result<u32> {
    let supported = "sizes below 2^31";
    let fits = u32::try_from(size).ok().filter(|&size| size < 1 << 31);
    fits.ok_or_else(|| Error::Unsupported { op: "fp8_gemm", got: format!("a size of {size}"), supported })
}
