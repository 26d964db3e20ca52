//! [`experts`](super::experts) on FP8 activations and weights, as GPUs run it: launches `kernels/experts`.
//!
//! Pairs of a token and one of its slots are sorted by expert, on the device. What follows works on rows in that order, each
//! expert's from the start of a tile on: `gate_up` multiplies gathered tokens, SwiGLU quantises, `down` multiplies, and the
//! last kernel gathers each token's rows and adds them. No launch depends on the routing, so all of it can be captured.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{Buffer, DType, View, ViewMut};

use super::OP;
use crate::act_quant::{Quantised, SCALE_GROUP, ScaleFormat};
use crate::device_args::{aligned, contiguous, count, multiple};
use crate::dims::Dims;
use crate::swiglu::cuda::{SwiGlu, SwiGluKernel, swiglu};
use crate::{Error, Result};

const SORT_THREADS: u32 = 512;
const MAX_EXPERTS: usize = 1024;
/// Threads of a block of `experts_combine`, and the elements that one of them adds.
const COMBINE_THREADS: usize = 128;
const VECTOR: usize = 8;

params! {
    /// `ExpertsSortParams` of `params.h`.
    struct SortParams: 56 {
        ids: Address = 0,
        rows: Address = 8,
        positions: Address = 16,
        tiles: Address = 24,
        num_pairs: u32 = 32,
        num_chosen: u32 = 36,
        num_experts: u32 = 40,
        block_m: u32 = 44,
        num_tiles: u32 = 48,
        padding: u32 = 52,
    }
}

params! {
    /// `ExpertsGemmParams` of `params.h`.
    struct GemmParams: 72 {
        x: Address = 0,
        x_scale: Address = 8,
        w: Address = 16,
        w_scale: Address = 24,
        rows: Address = 32,
        tiles: Address = 40,
        out: Address = 48,
        n: u32 = 56,
        k: u32 = 60,
        x_scale_stride: u32 = 64,
        padding: u32 = 68,
    }
}

params! {
    /// `ExpertsCombineParams` of `params.h`.
    struct CombineParams: 48 {
        y: Address = 0,
        positions: Address = 8,
        weights: Address = 16,
        out: Address = 24,
        out_stride: i64 = 32,
        dim: u32 = 40,
        num_chosen: u32 = 44,
    }
}

/// One matrix of every expert.
#[derive(Clone, Copy, Debug)]
pub struct ExpertWeights<'a> {
    /// `[n_routed_experts, out_features, in_features]`, e4m3, contiguous.
    pub values: View<'a>,
    /// `[n_routed_experts, out_features / 128, in_features / 128]`, f32, contiguous.
    pub scales: View<'a>,
}

/// Arguments of [`experts`]. `hidden_size` and `moe_intermediate_size` are multiples of 128.
#[derive(Debug)]
pub struct Experts<'a> {
    /// `[num_tokens, hidden_size]`, e4m3, contiguous.
    pub x: View<'a>,
    /// `[hidden_size / 128, num_tokens]`, f32; rows may be strided.
    pub x_scale: View<'a>,
    /// `[n_routed_experts, 2 * moe_intermediate_size, hidden_size]`: of each expert `gate_proj`, then `up_proj`.
    pub gate_up_proj: ExpertWeights<'a>,
    /// `[n_routed_experts, hidden_size, moe_intermediate_size]`
    pub down_proj: ExpertWeights<'a>,
    /// `[num_tokens, num_experts_per_tok]`, i32, contiguous. What is no expert, such as the -1 of padding tokens, is left out.
    pub expert_ids: View<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32, contiguous: the weight of each.
    pub expert_weights: View<'a>,
    /// Rounding of the scales between the two products.
    pub scale_format: ScaleFormat,
    /// `[num_tokens, hidden_size]`, bf16, added to (it holds the shared expert's output); rows may be strided by a multiple of
    /// 8. The row of a token without experts is neither read nor written.
    pub out: ViewMut<'a>,
}

/// The largest call that a workspace serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsShape {
    /// Rows of x.
    pub max_tokens: usize,
    /// Experts of a token.
    pub num_experts_per_tok: usize,
    /// All experts.
    pub n_routed_experts: usize,
    /// Columns of x, a multiple of 128.
    pub hidden_size: usize,
    /// Columns between the two products, a multiple of 128.
    pub moe_intermediate_size: usize,
}

/// What lies between the kernels of one call. Calls that share it must not run at the same time.
#[derive(Debug)]
pub struct ExpertsWorkspace {
    /// The token of each row, -1 where there is none.
    pub(super) rows: Buffer,
    /// The row of each pair, -1 where there is none.
    pub(super) positions: Buffer,
    /// Expert and number of rows of each tile; -1 and 0 of those that are not used.
    pub(super) tiles: Buffer,
    /// The outputs of both products in turn.
    products: Buffer,
    activated: Buffer,
    activated_scales: Buffer,
}

impl ExpertsWorkspace {
    /// Takes what calls up to `shape` need from the arena: about `moe_intermediate_size + 2 * max(hidden_size,
    /// 2 * moe_intermediate_size)` bytes for each row, of which there are as many as pairs and the padding of tiles.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the arena is too small.
    pub fn new(gpu: &Gpu, shape: ExpertsShape) -> Result<Self> {
        let ExpertsShape { max_tokens, num_experts_per_tok, n_routed_experts, hidden_size, moe_intermediate_size } =
            shape;
        // The height of a tile depends on the number of tokens, so that more of them may need less.
        let plans = || (0..=max_tokens).map(|tokens| Plan::new(tokens * num_experts_per_tok, n_routed_experts));
        let num_rows = plans().map(Plan::num_rows).max().unwrap_or(0);
        let num_tiles = plans().map(|plan| plan.num_tiles).max().unwrap_or(0);
        Ok(ExpertsWorkspace {
            rows: gpu.alloc(DType::I32, [num_rows])?,
            positions: gpu.alloc(DType::I32, [max_tokens * num_experts_per_tok])?,
            tiles: gpu.alloc(DType::I32, [num_tiles, 2])?,
            products: gpu.alloc(DType::BF16, [num_rows, hidden_size.max(2 * moe_intermediate_size)])?,
            activated: gpu.alloc(DType::F8E4M3, [num_rows, moe_intermediate_size])?,
            activated_scales: gpu.alloc(DType::F32, [moe_intermediate_size / SCALE_GROUP, num_rows])?,
        })
    }

    /// Refuses a call that needs more.
    fn check(&self, plan: Plan, num_pairs: usize, hidden_size: usize, intermediate_size: usize) -> Result<()> {
        let num_rows = plan.num_rows();
        let fits = [
            (&self.rows, num_rows),
            (&self.positions, num_pairs),
            (&self.tiles, 2 * plan.num_tiles),
            (&self.products, num_rows * hidden_size.max(2 * intermediate_size)),
            (&self.activated, num_rows * intermediate_size),
            (&self.activated_scales, num_rows * (intermediate_size / SCALE_GROUP)),
        ];
        if fits.iter().all(|(buffer, needed)| buffer.shape().num_elements() >= *needed) {
            return Ok(());
        }
        let got = format!("{num_pairs} pairs of a token and an expert, {hidden_size} and {intermediate_size} columns");
        Err(Error::Unsupported { op: OP, got, supported: "calls up to the shape of the workspace" })
    }
}

/// How pairs are cut into tiles: a function of their number and that of experts, not of the routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows of a tile.
    pub(super) block_m: usize,
    /// Tiles that any routing fits.
    pub(super) num_tiles: usize,
}

/// The kernels of [`Plan::block_m`] rows: rows of the weight in a tile, threads, dynamic shared memory. The kernels assert the
/// same numbers.
const GEMMS: [(usize, Gemm); 3] = [
    (16, Gemm { name: "experts_gemm_16", block_n: 64, threads: 128, shared_bytes: 47_104 }),
    (64, Gemm { name: "experts_gemm_64", block_n: 64, threads: 128, shared_bytes: 71_680 }),
    (128, Gemm { name: "experts_gemm_128", block_n: 128, threads: 256, shared_bytes: 100_364 }),
];

#[derive(Clone, Copy, Debug)]
struct Gemm {
    name: &'static str,
    block_n: u32,
    threads: u32,
    shared_bytes: u32,
}

impl Plan {
    pub(super) fn new(num_pairs: usize, num_experts: usize) -> Plan {
        // Twice the average and more fits a tile: few experts need a second one, which reads the weights again.
        let block_m = match num_pairs {
            pairs if pairs <= 8 * num_experts => 16,
            pairs if pairs <= 32 * num_experts => 64,
            _ => 128,
        };
        // The first pair of an expert opens a tile, and then every `block_m` at best.
        let num_chosen_experts = num_pairs.min(num_experts);
        Plan { block_m, num_tiles: num_chosen_experts + (num_pairs - num_chosen_experts) / block_m }
    }

    fn num_rows(self) -> usize {
        self.num_tiles * self.block_m
    }
}

/// `out[r] = x[rows[r]] · w[expert of r]ᵀ`; if `rows` is null, of the same row of x.
struct Product<'a> {
    x: View<'a>,
    x_scale: View<'a>,
    weights: ExpertWeights<'a>,
    rows: Address,
    tiles: Address,
    out: Address,
}

/// The kernels of [`experts`] on one GPU.
#[derive(Clone, Debug)]
pub struct ExpertsKernels {
    sort: Kernel<SortParams>,
    gemms: Vec<(usize, Gemm, Kernel<GemmParams>)>,
    swiglu: SwiGluKernel,
    combine: Kernel<CombineParams>,
}

impl ExpertsKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let gemm = |(block_m, gemm): (usize, Gemm)| Ok((block_m, gemm, gpu.kernel("experts/gemm", gemm.name)?));
        Ok(ExpertsKernels {
            sort: gpu.kernel("experts/sort", "experts_sort")?,
            gemms: GEMMS.into_iter().map(gemm).collect::<Result<_>>()?,
            swiglu: SwiGluKernel::new(gpu)?,
            combine: gpu.kernel("experts/combine", "experts_combine")?,
        })
    }

    fn multiply(&self, stream: &Stream, plan: Plan, product: Product<'_>) -> Result<()> {
        let Product { x, x_scale, weights, rows, tiles, out } = product;
        let (_, gemm, kernel) =
            self.gemms.iter().find(|(block_m, ..)| *block_m == plan.block_m).expect("a plan's height");
        let [_, n, k] = [0, 1, 2].map(|dim| weights.values.shape().dims()[dim]);
        let params = GemmParams {
            x: x.address(),
            x_scale: x_scale.address(),
            w: weights.values.address(),
            w_scale: weights.scales.address(),
            rows,
            tiles,
            out,
            n: count(OP, "out_features", n)?,
            k: count(OP, "in_features", k)?,
            x_scale_stride: count(OP, "stride of x_scale", x_scale.row_stride())?,
            padding: 0,
        };
        let grid = [count(OP, "num_tokens", plan.num_tiles)?, params.n / gemm.block_n, 1];
        let launch = Launch::new(grid, [gemm.threads, 1, 1]).shared_bytes(gemm.shared_bytes);
        Ok(stream.launch(kernel, launch, &params)?)
    }
}

/// Adds each token's weighted experts to `out`: the sum of [`experts`](super::experts), with FP8 products as in
/// [`fp8_gemm`](crate::fp8_gemm()).
///
/// Both products are rounded to bf16, SwiGLU's result to bf16 and then to FP8 with a scale for 128 columns. `out` is read, the
/// weighted experts are added in f32 in the order of the slots, and the sum is rounded to bf16 once. A token's result does not
/// depend on the others.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] the dtype, size or stride that the kernels do
/// not take, or a call that the workspace is too small for; [`Error::Cuda`].
///
/// # Source
/// DeepSeek-V3.2-Exp `inference/model.py`, classes `Expert` and `MoE`; rows of experts from the starts of tiles on are
/// DeepGEMM's contiguous layout.
pub fn experts(
    stream: &Stream,
    kernels: &ExpertsKernels,
    workspace: &mut ExpertsWorkspace,
    args: Experts<'_>,
) -> Result<()> {
    let (num_experts, intermediate_size) = check(&args)?;
    let Experts { x, x_scale, gate_up_proj, down_proj, expert_ids, expert_weights, scale_format, out } = args;
    let [num_tokens, hidden_size] = [0, 1].map(|dim| x.shape().dims()[dim]);
    let num_chosen = expert_ids.shape().row_len();
    let num_pairs = num_tokens * num_chosen;
    let plan = Plan::new(num_pairs, num_experts);
    workspace.check(plan, num_pairs, hidden_size, intermediate_size)?;
    if num_pairs == 0 || num_experts == 0 || hidden_size == 0 || intermediate_size == 0 {
        return Ok(());
    }

    let ExpertsWorkspace { rows, positions, tiles, products, activated, activated_scales } = workspace;
    let num_rows = plan.num_rows();
    let sort = SortParams {
        ids: expert_ids.address(),
        rows: rows.view_mut().address(),
        positions: positions.view_mut().address(),
        tiles: tiles.view_mut().address(),
        num_pairs: count(OP, "num_tokens", num_pairs)?,
        num_chosen: count(OP, "num_experts_per_tok", num_chosen)?,
        num_experts: count(OP, "n_routed_experts", num_experts)?,
        block_m: plan.block_m as u32,
        num_tiles: count(OP, "num_tokens", plan.num_tiles)?,
        padding: 0,
    };
    stream.launch(&kernels.sort, Launch::new([sort.num_experts, 1, 1], [SORT_THREADS, 1, 1]), &sort)?;

    let both = products.workspace(DType::BF16, [num_rows, 2 * intermediate_size]);
    let SortParams { rows: row_tokens, positions, tiles, .. } = sort;
    let product = Product { x, x_scale, weights: gate_up_proj, rows: row_tokens, tiles, out: both.address() };
    kernels.multiply(stream, plan, product)?;

    let mut values = activated.workspace(DType::F8E4M3, [num_rows, intermediate_size]);
    let mut scales = activated_scales.workspace(DType::F32, [intermediate_size / SCALE_GROUP, num_rows]);
    let gated = SwiGlu {
        gate: both.as_view().columns(0..intermediate_size),
        up: both.as_view().columns(intermediate_size..2 * intermediate_size),
        slot_mapping: Some(rows.view().rows(0..num_rows)),
        out: None,
        quantised: Some(Quantised { values: values.reborrow(), scales: scales.reborrow(), scale_format }),
    };
    swiglu(stream, &kernels.swiglu, gated)?;

    let y = products.workspace(DType::BF16, [num_rows, hidden_size]).address();
    let (x, x_scale) = (values.as_view(), scales.as_view());
    kernels.multiply(stream, plan, Product { x, x_scale, weights: down_proj, rows: Address::NULL, tiles, out: y })?;

    let combine = CombineParams {
        y,
        positions,
        weights: expert_weights.address(),
        out: out.address(),
        out_stride: out.row_stride() as i64,
        dim: count(OP, "hidden_size", hidden_size)?,
        num_chosen: sort.num_chosen,
    };
    let pieces = count(OP, "hidden_size", hidden_size.div_ceil(COMBINE_THREADS * VECTOR))?;
    let launch = Launch::new([count(OP, "num_tokens", num_tokens)?, pieces, 1], [COMBINE_THREADS as u32, 1, 1]);
    Ok(stream.launch(&kernels.combine, launch, &combine)?)
}

/// Checks everything but the workspace. Number of experts and `moe_intermediate_size`.
fn check(args: &Experts<'_>) -> Result<(usize, usize)> {
    let Experts { x, x_scale, gate_up_proj, down_proj, expert_ids, expert_weights, out, .. } = args;
    let mut dims = Dims::new(OP);
    let [_, hidden_size] = dims.bind_all("x", x.shape(), ["num_tokens", "hidden_size"])?;
    let [num_experts, _, intermediate_size] = dims.bind_all(
        "down_proj",
        down_proj.values.shape(),
        ["n_routed_experts", "hidden_size", "moe_intermediate_size"],
    )?;
    multiple(OP, "hidden_size", hidden_size, SCALE_GROUP, u32::MAX as usize, "multiples of 128")?;
    multiple(OP, "moe_intermediate_size", intermediate_size, SCALE_GROUP, u32::MAX as usize / 2, "multiples of 128")?;
    multiple(OP, "n_routed_experts", num_experts, 1, MAX_EXPERTS, "at most 1024")?;
    dims.bind("x", "hidden_size / 128", hidden_size / SCALE_GROUP)?;
    dims.bind("down_proj", "moe_intermediate_size / 128", intermediate_size / SCALE_GROUP)?;
    dims.bind("down_proj", "2 * moe_intermediate_size", 2 * intermediate_size)?;
    dims.bind("down_proj", "2 * moe_intermediate_size / 128", 2 * intermediate_size / SCALE_GROUP)?;
    dims.bind_all("x_scale", x_scale.shape(), ["hidden_size / 128", "num_tokens"])?;
    dims.bind_all(
        "gate_up_proj",
        gate_up_proj.values.shape(),
        ["n_routed_experts", "2 * moe_intermediate_size", "hidden_size"],
    )?;
    dims.bind_all(
        "scales of gate_up_proj",
        gate_up_proj.scales.shape(),
        ["n_routed_experts", "2 * moe_intermediate_size / 128", "hidden_size / 128"],
    )?;
    dims.bind_all(
        "scales of down_proj",
        down_proj.scales.shape(),
        ["n_routed_experts", "hidden_size / 128", "moe_intermediate_size / 128"],
    )?;
    dims.bind_all("expert_ids", expert_ids.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("expert_weights", expert_weights.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("out", out.shape(), ["num_tokens", "hidden_size"])?;
    for (arg, view) in [("x", *x), ("gate_up_proj", gate_up_proj.values), ("down_proj", down_proj.values)] {
        dims.dtype(arg, view.dtype(), &[DType::F8E4M3], "F8_E4M3")?;
        contiguous(OP, arg, view)?;
        aligned(OP, arg, view, 16)?;
    }
    for (arg, view) in [
        ("scales of gate_up_proj", gate_up_proj.scales),
        ("scales of down_proj", down_proj.scales),
        ("expert_weights", *expert_weights),
    ] {
        dims.f32(arg, view.dtype())?;
        contiguous(OP, arg, view)?;
    }
    dims.f32("x_scale", x_scale.dtype())?;
    dims.dtype("expert_ids", expert_ids.dtype(), &[DType::I32], "I32")?;
    contiguous(OP, "expert_ids", *expert_ids)?;
    dims.dtype("out", out.dtype(), &[DType::BF16], "BF16")?;
    aligned(OP, "out", out.as_view(), 16)?;
    Ok((num_experts, intermediate_size))
}
