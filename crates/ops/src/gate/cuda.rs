//! [`gate`](super::gate) on bf16 activations, as GPUs run it: launches `kernels/gate`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use super::{OP, check_choice};
use crate::device_args::{aligned, count, multiple};
use crate::dims::Dims;
use crate::{Error, Result};

/// Tokens and experts of a block of `gate_logits`, its threads, its dynamic shared memory; the kernel asserts the same.
const BLOCK: u32 = 64;
const LOGIT_THREADS: u32 = 128;
const SHARED_BYTES: u32 = 66_560;
/// Elements of a row that are summed from zero.
const PART: usize = 512;
/// Most tokens of which each part has its own blocks.
const MAX_SPLIT_TOKENS: usize = 1024;
const CHOOSE_THREADS: u32 = 256;
const MAX_EXPERTS: usize = 1024;

params! {
    /// `GateLogitsParams` of `params.h`.
    struct GateLogitsParams: 56 {
        x: Address = 0,
        weight: Address = 8,
        slot_mapping: Address = 16,
        logits: Address = 24,
        num_tokens: u32 = 32,
        num_experts: u32 = 36,
        dim: u32 = 40,
        x_stride: u32 = 44,
        weight_stride: u32 = 48,
        padding: u32 = 52,
    }
}

params! {
    /// `GateChooseParams` of `params.h`.
    struct GateChooseParams: 80 {
        logits: Address = 0,
        bias: Address = 8,
        slot_mapping: Address = 16,
        ids: Address = 24,
        weights: Address = 32,
        num_tokens: u32 = 40,
        num_parts: u32 = 44,
        num_experts: u32 = 48,
        n_group: u32 = 52,
        topk_group: u32 = 56,
        num_chosen: u32 = 60,
        id_stride: u32 = 64,
        weight_stride: u32 = 68,
        norm_topk_prob: u32 = 72,
        routed_scaling_factor: f32 = 76,
    }
}

/// Arguments of [`gate`].
#[derive(Debug)]
pub struct Gate<'a> {
    /// `[num_tokens, hidden_size]`, bf16; `hidden_size` is a multiple of 8. Rows may be strided by one.
    pub x: View<'a>,
    /// `[n_routed_experts, hidden_size]`, bf16, at most 1024 experts. Rows may be strided by a multiple of 8.
    pub weight: View<'a>,
    /// `[n_routed_experts]`, f32: `e_score_correction_bias`.
    pub bias: View<'a>,
    /// `[num_tokens]`, i32: negative for a padding token, whose `x` is not read. It gets ids -1 and weights 0.
    pub slot_mapping: Option<View<'a>>,
    /// Groups of `n_routed_experts / n_group` consecutive experts.
    pub n_group: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights, after that division.
    pub routed_scaling_factor: f32,
    /// f32, [`num_logits`] elements or more: working memory.
    pub logits: ViewMut<'a>,
    /// `[num_tokens, num_experts_per_tok]`, i32, overwritten: expert ids, best biased score first; rows may be strided.
    pub expert_ids: ViewMut<'a>,
    /// `[num_tokens, num_experts_per_tok]`, f32, overwritten: the weight of each; rows may be strided.
    pub expert_weights: ViewMut<'a>,
}

/// Elements of `logits` that any number of tokens up to `max_tokens` needs.
pub fn num_logits(max_tokens: usize, n_routed_experts: usize, hidden_size: usize) -> usize {
    let split = max_tokens.min(MAX_SPLIT_TOKENS);
    max_tokens.max(split * num_parts(split, hidden_size)) * n_routed_experts
}

/// Parts of a row that have blocks of their own.
fn num_parts(num_tokens: usize, hidden_size: usize) -> usize {
    if num_tokens <= MAX_SPLIT_TOKENS { hidden_size.div_ceil(PART).max(1) } else { 1 }
}

/// The kernels of [`gate`] on one GPU.
#[derive(Clone, Debug)]
pub struct GateKernels {
    logits: Kernel<GateLogitsParams>,
    choose: Kernel<GateChooseParams>,
}

impl GateKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(GateKernels {
            logits: gpu.kernel("gate/gate", "gate_logits")?,
            choose: gpu.kernel("gate/gate", "gate_choose")?,
        })
    }
}

/// Chooses each token's experts: steps and ties as in [`gate`](super::gate), logits of bf16 products summed in f32.
///
/// A token's logits are summed in an order that `hidden_size` alone decides, so its choice does not depend on the others.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] the dtype, size or stride that the kernels do
/// not take, or the numbers of groups and experts that do not allow a choice; [`Error::Cuda`].
pub fn gate(stream: &Stream, kernels: &GateKernels, args: Gate<'_>) -> Result<()> {
    let Gate { x, weight, bias, slot_mapping, n_group, topk_group, .. } = args;
    let mut dims = Dims::new(OP);
    let [num_tokens, hidden_size] = dims.bind_all("x", x.shape(), ["num_tokens", "hidden_size"])?;
    let [num_experts, _] = dims.bind_all("weight", weight.shape(), ["n_routed_experts", "hidden_size"])?;
    dims.bind_all("bias", bias.shape(), ["n_routed_experts"])?;
    let [_, num_chosen] =
        dims.bind_all("expert_ids", args.expert_ids.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.bind_all("expert_weights", args.expert_weights.shape(), ["num_tokens", "num_experts_per_tok"])?;
    dims.dtype("x", x.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("weight", weight.dtype(), &[DType::BF16], "BF16")?;
    dims.f32("bias", bias.dtype())?;
    dims.f32("logits", args.logits.dtype())?;
    dims.dtype("expert_ids", args.expert_ids.dtype(), &[DType::I32], "I32")?;
    dims.f32("expert_weights", args.expert_weights.dtype())?;
    if let Some(slot_mapping) = slot_mapping {
        dims.bind_all("slot_mapping", slot_mapping.shape(), ["num_tokens"])?;
        dims.dtype("slot_mapping", slot_mapping.dtype(), &[DType::I32], "I32")?;
    }
    multiple(OP, "hidden_size", hidden_size, 8, u32::MAX as usize, "multiples of 8")?;
    multiple(OP, "n_routed_experts", num_experts, 1, MAX_EXPERTS, "at most 1024")?;
    aligned(OP, "x", x, 16)?;
    aligned(OP, "weight", weight, 16)?;
    check_choice(num_chosen, num_experts, topk_group, n_group)?;
    let num_parts = num_parts(num_tokens, hidden_size);
    if args.logits.shape().num_elements() < num_parts * num_tokens * num_experts {
        return Err(Error::Unsupported {
            op: OP,
            got: format!("`logits` of {} elements", args.logits.shape().num_elements()),
            supported: "as many as `num_logits` says",
        });
    }
    if num_tokens == 0 || num_chosen == 0 {
        return Ok(());
    }

    let slot_mapping = slot_mapping.map_or(Address::NULL, |slots| slots.address());
    let logits_params = GateLogitsParams {
        x: x.address(),
        weight: weight.address(),
        slot_mapping,
        logits: args.logits.address(),
        num_tokens: count(OP, "num_tokens", num_tokens)?,
        num_experts: count(OP, "n_routed_experts", num_experts)?,
        dim: count(OP, "hidden_size", hidden_size)?,
        x_stride: count(OP, "stride of x", x.row_stride())?,
        weight_stride: count(OP, "stride of weight", weight.row_stride())?,
        padding: 0,
    };
    let GateLogitsParams { num_tokens, num_experts, .. } = logits_params;
    let num_parts = count(OP, "hidden_size", num_parts)?;
    let grid = [num_tokens.div_ceil(BLOCK), num_experts.div_ceil(BLOCK), num_parts];
    let launch = Launch::new(grid, [LOGIT_THREADS, 1, 1]).shared_bytes(SHARED_BYTES);
    stream.launch(&kernels.logits, launch, &logits_params)?;

    let choose_params = GateChooseParams {
        logits: args.logits.address(),
        bias: bias.address(),
        slot_mapping,
        ids: args.expert_ids.address(),
        weights: args.expert_weights.address(),
        num_tokens,
        num_parts,
        num_experts,
        n_group: count(OP, "n_group", n_group)?,
        topk_group: count(OP, "topk_group", topk_group)?,
        num_chosen: count(OP, "num_experts_per_tok", num_chosen)?,
        id_stride: count(OP, "stride of expert_ids", args.expert_ids.row_stride())?,
        weight_stride: count(OP, "stride of expert_weights", args.expert_weights.row_stride())?,
        norm_topk_prob: u32::from(args.norm_topk_prob),
        routed_scaling_factor: args.routed_scaling_factor,
    };
    Ok(stream.launch(&kernels.choose, Launch::new([num_tokens, 1, 1], [CHOOSE_THREADS, 1, 1]), &choose_params)?)
}
