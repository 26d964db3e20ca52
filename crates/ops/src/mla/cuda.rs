//! [`mla_absorbed`](super::mla_absorbed) between its two projections, on bf16 activations, as GPUs run it: launches `kernels/mla`.
//!
//! The projections are [`bf16_batched_gemm`](crate::bf16_batched_gemm()): queries into the space of the latent before, the result
//! out of it behind.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use crate::device_args::{aligned, contiguous, count, multiple};
use crate::dims::Dims;
use crate::rope_cache_write::FP8_RECORD_BYTES;
use crate::{Error, Result};

const THREADS: u32 = 256;
/// The most that the kernels take, and what an FP8 record holds.
const MAX_RANK: usize = 512;
const MAX_ROPE: usize = 64;
/// Rows, which are (query, head) pairs, of the two sizes of tiles.
const TILE_ROWS: [usize; 2] = [16, 32];
/// Dynamic shared memory of each, for bf16 keys and for FP8 records; the kernels assert the same numbers.
const SHARED_BYTES: [[u32; 2]; 2] = [[168_960, 189_440], [179_200, 199_680]];

/// Keys that have sums of their own.
pub const SPLIT: usize = 512;
/// Rows of a plan, of `num_seqs + 1` numbers each.
pub const PLAN_ROWS: usize = 3;
/// Floats of a partial result behind its sums.
pub const PARTIAL_TAIL: usize = 4;

params! {
    /// `MlaPlanParams` of `params.h`.
    struct MlaPlanParams: 48 {
        query_start_loc: Address = 0,
        seq_lens: Address = 8,
        plan: Address = 16,
        num_seqs: u32 = 24,
        num_heads: u32 = 28,
        tile_rows: u32 = 32,
        index_topk: u32 = 36,
        num_slots: u32 = 40,
        unused: u32 = 44,
    }
}

params! {
    /// `MlaParams` of `params.h`.
    struct MlaParams: 144 {
        q_latent: Address = 0,
        q_rope: Address = 8,
        cache: Address = 16,
        query_start_loc: Address = 24,
        seq_lens: Address = 32,
        block_table: Address = 40,
        topk_indices: Address = 48,
        plan: Address = 56,
        partials: Address = 64,
        out: Address = 72,
        q_latent_stride: i64 = 80,
        q_rope_stride: i64 = 88,
        out_stride: i64 = 96,
        q_rope_head_stride: u32 = 104,
        block_table_stride: u32 = 108,
        topk_stride: u32 = 112,
        num_seqs: u32 = 116,
        num_heads: u32 = 120,
        rank: u32 = 124,
        rope: u32 = 128,
        block_size: u32 = 132,
        index_topk: u32 = 136,
        softmax_scale_log2: f32 = 140,
    }
}

/// Arguments of [`mla_plan`].
#[derive(Debug)]
pub struct MlaPlan<'a> {
    /// `[num_seqs + 1]`, i32, ascending: rows `query_start_loc[s]..query_start_loc[s + 1]` of the step belong to sequence `s`, which
    /// may have none, such as one that pads a graph.
    pub query_start_loc: View<'a>,
    /// `[num_seqs]`, i32: tokens of each sequence, those of this step included.
    pub seq_lens: View<'a>,
    /// Heads of this rank.
    pub num_heads: usize,
    /// The most queries that a sequence has, which chooses the size of tiles; a wrong number costs time alone.
    pub max_query_len: usize,
    /// Positions that each query chooses; `None` if it sees all up to its own.
    pub index_topk: Option<usize>,
    /// Partial results that there is room for; `0` splits no sequence.
    pub num_slots: usize,
    /// `[PLAN_ROWS, num_seqs + 1]`, i32, overwritten.
    pub plan: ViewMut<'a>,
}

/// Arguments of [`mla_absorbed`]. Rows of queries and output may be strided, by a multiple of 8.
#[derive(Debug)]
pub struct MlaAbsorbed<'a> {
    /// `[num_tokens, num_heads, kv_lora_rank]`, bf16: `W_UKᵀ q_nope`; `kv_lora_rank` is a multiple of 8 up to 512.
    pub q_latent: View<'a>,
    /// `[num_tokens, num_heads, qk_head_dim]`, bf16: the queries, of whose heads the last elements, as many as keys have behind the
    /// latent, are rotated; the others are not read.
    pub q: View<'a>,
    /// Contiguous: `[num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]`, bf16, or `[num_blocks, block_size, 656]`, bytes, of
    /// FP8 records, as [`rope_cache_write`](crate::rope_cache_write()) writes it. Rows past a sequence's end are never read.
    pub kv_cache: View<'a>,
    /// As in the plan.
    pub query_start_loc: View<'a>,
    /// As in the plan.
    pub seq_lens: View<'a>,
    /// `[num_seqs, max_blocks]`, i32: physical block of each logical block; entries past the sequence are never read.
    pub block_table: View<'a>,
    /// `[num_tokens, index_topk]`, i32: the positions in the sequence that each query attends to, ascending, then
    /// [`NO_POSITION`](crate::NO_POSITION). Positions beyond the query's own are ignored.
    pub topk_indices: Option<View<'a>>,
    /// `[PLAN_ROWS, num_seqs + 1]`, i32: what [`mla_plan`] made of the same sequences, heads, `max_query_len`, `index_topk` and
    /// `num_slots`.
    pub plan: View<'a>,
    /// As in the plan.
    pub max_query_len: usize,
    /// Factor on the logits, YaRN's `mscale²` included.
    pub softmax_scale: f32,
    /// `[num_slots, kv_lora_rank + PARTIAL_TAIL]`, f32, contiguous: overwritten.
    pub partials: ViewMut<'a>,
    /// `[num_tokens, num_heads, kv_lora_rank]`, bf16; the rows of sequences are overwritten, the others left alone. A row that sees no
    /// position gets zeros.
    pub out: ViewMut<'a>,
}

/// The kernels of [`mla_plan`] and [`mla_absorbed`] on one GPU.
#[derive(Clone, Debug)]
pub struct MlaKernels {
    plan: Kernel<MlaPlanParams>,
    /// For bf16 keys and for FP8 records, by the size of tiles.
    absorbed: [[Kernel<MlaParams>; 2]; 2],
    combine: Kernel<MlaParams>,
    /// Blocks of a grid that fills the GPU.
    num_blocks: u32,
}

impl MlaKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = |name| gpu.kernel("mla/mla", name);
        Ok(MlaKernels {
            plan: gpu.kernel("mla/mla", "mla_plan")?,
            absorbed: [
                [kernel("mla_absorbed_16")?, kernel("mla_absorbed_32")?],
                [kernel("mla_absorbed_fp8_16")?, kernel("mla_absorbed_fp8_32")?],
            ],
            combine: kernel("mla_combine")?,
            num_blocks: gpu.info().num_multiprocessors,
        })
    }
}

/// Index of the size of tiles: the small one if it holds all rows that can share one.
fn tile_size(num_heads: usize, max_query_len: usize, is_sparse: bool) -> usize {
    let rows = if is_sparse { num_heads } else { num_heads * max_query_len };
    usize::from(rows > TILE_ROWS[0])
}

/// Shares the work of [`mla_absorbed`] out. All layers of a step use one plan.
///
/// A sequence with at most 16 queries and more than [`SPLIT`] keys is split among blocks, as long as there are slots: one for each
/// query, head and split. What it computes is the same without.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] a dtype; [`Error::Cuda`]. Lengths lie on the device
/// and are not checked: `query_start_loc` must ascend, and no sequence may have more queries than tokens.
pub fn mla_plan(stream: &Stream, kernels: &MlaKernels, args: MlaPlan<'_>) -> Result<()> {
    const OP: &str = "mla_plan";
    let MlaPlan { query_start_loc, seq_lens, num_heads, max_query_len, index_topk, num_slots, plan } = args;
    let mut dims = Dims::new(OP);
    let [num_seqs] = dims.bind_all("seq_lens", seq_lens.shape(), ["num_seqs"])?;
    check_seqs(OP, &mut dims, num_seqs, query_start_loc, seq_lens, plan.as_view())?;
    let params = MlaPlanParams {
        query_start_loc: query_start_loc.address(),
        seq_lens: seq_lens.address(),
        plan: plan.address(),
        num_seqs: count(OP, "num_seqs", num_seqs)?,
        num_heads: count(OP, "num_heads", num_heads)?,
        tile_rows: TILE_ROWS[tile_size(num_heads, max_query_len, index_topk.is_some())] as u32,
        index_topk: count(OP, "index_topk", index_topk.unwrap_or(0))?,
        num_slots: count(OP, "num_slots", num_slots)?,
        unused: 0,
    };
    Ok(stream.launch(&kernels.plan, Launch::new([1, 1, 1], [1024, 1, 1]), &params)?)
}

fn check_seqs(
    op: &'static str,
    dims: &mut Dims,
    num_seqs: usize,
    query_start_loc: View<'_>,
    seq_lens: View<'_>,
    plan: View<'_>,
) -> Result<()> {
    dims.bind("seq_lens", "num_seqs + 1", num_seqs + 1)?;
    dims.bind_all("query_start_loc", query_start_loc.shape(), ["num_seqs + 1"])?;
    dims.bind("rows of a plan", "plan rows", PLAN_ROWS)?;
    dims.bind_all("plan", plan.shape(), ["plan rows", "num_seqs + 1"])?;
    for (arg, view) in [("query_start_loc", query_start_loc), ("seq_lens", seq_lens), ("plan", plan)] {
        dims.dtype(arg, view.dtype(), &[DType::I32], "I32")?;
    }
    contiguous(op, "plan", plan)
}

/// Attention in the space of the latent, over a paged cache:
/// `out[t,h] = Σ_j softmax_j(softmax_scale · (q_latent[t,h]·c[j] + q_rope[t,h]·k_pe[j])) · c[j]`, over the positions `j` up to the
/// query's own, or those of them that it chose.
///
/// Products take bf16, weights of the softmax included, and are summed in f32; `out` is rounded once. A row's result depends on its
/// query, its position and its sequence's keys alone, to the bit; choosing all positions is the same as choosing none. A key that is
/// not finite may reach a few queries before it, of its own sequence.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] the dtype, size or stride that no kernel takes;
/// [`Error::Cuda`]. What lies on the device is not checked: lengths, blocks and positions must be as said.
///
/// # Source
/// DeepSeek-V2 report, section 2.1.2; splits and their combination: Flash-Decoding; the record: FlashMLA, `README.md`.
pub fn mla_absorbed(stream: &Stream, kernels: &MlaKernels, args: MlaAbsorbed<'_>) -> Result<()> {
    const OP: &str = "mla_absorbed";
    let MlaAbsorbed { q_latent, q, kv_cache, block_table, .. } = args;
    let is_fp8 = kv_cache.dtype() == DType::U8;
    let mut dims = Dims::new(OP);
    let [num_tokens, num_heads, rank] =
        dims.bind_all("q_latent", q_latent.shape(), ["num_tokens", "num_heads", "kv_lora_rank"])?;
    let [_, _, head_dim] = dims.bind_all("q", q.shape(), ["num_tokens", "num_heads", "qk_head_dim"])?;
    let [num_blocks, block_size, row] =
        dims.bind_all("kv_cache", kv_cache.shape(), ["num_blocks", "block_size", "row"])?;
    let [num_seqs, _] = dims.bind_all("block_table", block_table.shape(), ["num_seqs", "max_blocks"])?;
    dims.bind_all("seq_lens", args.seq_lens.shape(), ["num_seqs"])?;
    check_seqs(OP, &mut dims, num_seqs, args.query_start_loc, args.seq_lens, args.plan)?;
    let index_topk = match args.topk_indices {
        Some(indices) => {
            dims.dtype("topk_indices", indices.dtype(), &[DType::I32], "I32")?;
            dims.bind_all("topk_indices", indices.shape(), ["num_tokens", "index_topk"])?[1]
        }
        None => 0,
    };
    dims.bind("kv_lora_rank", "kv_lora_rank + tail", rank + PARTIAL_TAIL)?;
    let [num_slots, _] = dims.bind_all("partials", args.partials.shape(), ["num_slots", "kv_lora_rank + tail"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "num_heads", "kv_lora_rank"])?;
    for (arg, dtype) in [("q_latent", q_latent.dtype()), ("q", q.dtype()), ("out", args.out.dtype())] {
        dims.dtype(arg, dtype, &[DType::BF16], "BF16")?;
    }
    dims.dtype("kv_cache", kv_cache.dtype(), &[DType::BF16, DType::U8], "BF16, U8 (FP8 records)")?;
    dims.dtype("block_table", block_table.dtype(), &[DType::I32], "I32")?;
    dims.f32("partials", args.partials.dtype())?;
    let rope = if is_fp8 {
        dims.bind("FP8 records", "kv_lora_rank", MAX_RANK)?;
        dims.bind("FP8 records", "row", FP8_RECORD_BYTES)?;
        MAX_ROPE
    } else {
        row.saturating_sub(rank)
    };
    multiple(OP, "kv_lora_rank", rank, 8, MAX_RANK, "multiples of 8 up to 512")?;
    multiple(OP, "qk_rope_head_dim", rope, 8, MAX_ROPE, "multiples of 8 up to 64")?;
    multiple(OP, "qk_head_dim", head_dim, 8, u32::MAX as usize, "multiples of 8")?;
    if head_dim < rope
        || row < rank
        || num_blocks * block_size > i32::MAX as usize
        || args.topk_indices.is_some() && index_topk == 0
    {
        let got = format!(
            "`qk_head_dim` of {head_dim}, a cache of {num_blocks} x {block_size} x {row}, `index_topk` of {index_topk}"
        );
        let supported =
            "heads that hold the rotated part, rows that hold the latent, up to 2^31 of them; one choice at least";
        return Err(Error::Unsupported { op: OP, got, supported });
    }
    for (arg, view) in [
        ("q_latent", q_latent),
        ("q", q),
        ("kv_cache", kv_cache),
        ("partials", args.partials.as_view()),
        ("out", args.out.as_view()),
    ] {
        aligned(OP, arg, view, 16)?;
    }
    contiguous(OP, "kv_cache", kv_cache)?;
    contiguous(OP, "partials", args.partials.as_view())?;
    if num_tokens == 0 || num_heads == 0 || num_seqs == 0 {
        return Ok(());
    }

    let params = MlaParams {
        q_latent: q_latent.address(),
        q_rope: Address(q.address().0 + ((head_dim - rope) * q.dtype().size_bytes()) as u64),
        cache: kv_cache.address(),
        query_start_loc: args.query_start_loc.address(),
        seq_lens: args.seq_lens.address(),
        block_table: block_table.address(),
        topk_indices: args.topk_indices.map_or(Address::NULL, |indices| indices.address()),
        plan: args.plan.address(),
        partials: args.partials.address(),
        out: args.out.address(),
        q_latent_stride: q_latent.row_stride() as i64,
        q_rope_stride: q.row_stride() as i64,
        out_stride: args.out.row_stride() as i64,
        q_rope_head_stride: count(OP, "qk_head_dim", head_dim)?,
        block_table_stride: count(OP, "stride of block_table", block_table.row_stride())?,
        topk_stride: count(OP, "stride of topk_indices", args.topk_indices.map_or(0, |indices| indices.row_stride()))?,
        num_seqs: count(OP, "num_seqs", num_seqs)?,
        num_heads: count(OP, "num_heads", num_heads)?,
        rank: count(OP, "kv_lora_rank", rank)?,
        rope: count(OP, "qk_rope_head_dim", rope)?,
        block_size: count(OP, "block_size", block_size)?,
        index_topk: count(OP, "index_topk", index_topk)?,
        softmax_scale_log2: args.softmax_scale * std::f32::consts::LOG2_E,
    };
    let size = tile_size(num_heads, args.max_query_len, args.topk_indices.is_some());
    let launch = Launch::new([kernels.num_blocks, 1, 1], [THREADS, 1, 1]);
    let shared_bytes = SHARED_BYTES[usize::from(is_fp8)][size];
    stream.launch(&kernels.absorbed[usize::from(is_fp8)][size], launch.shared_bytes(shared_bytes), &params)?;
    if num_slots > 0 {
        stream.launch(&kernels.combine, launch, &params)?;
    }
    Ok(())
}
