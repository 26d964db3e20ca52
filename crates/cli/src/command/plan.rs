//! `cachalot plan`: where the memory goes, and what fits.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use anyhow::{Context, anyhow};
use cachalot_engine::SpeculativeTokens;
use cachalot_weights::{Config, KvFormat, StoredTensor};
use clap::{Args, ValueEnum};

use crate::args::speculative_tokens;
use crate::hint::ResultExt;
use crate::plan::{CpuDemand, CpuPlan, GpuSet, Wish, plan_gpus};
use crate::source::{Files, ModelSource};
use crate::{env, memory};

/// Show where the memory goes, what fits, and what to start `serve` with
///
/// A folder with config.json alone is enough; nothing is loaded. Without --gpu it plans for this machine's memory and the CPU, as
/// `serve` does when it starts. With --gpu it shows what each of the GPUs would hold, in either way of sharing the work; this
/// version does not compute on GPUs yet.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    /// A folder, the id of a downloaded model, or nothing for the embedded model
    #[arg(value_name = "MODEL", env = env::MODEL)]
    model: Option<String>,
    /// GPUs to plan for, such as h200x8, H100-80GB×16, or their size: 141GB×8 [default: none, this machine]
    #[arg(long, env = env::GPU, value_name = "NAME×N")]
    gpu: Option<GpuSet>,
    /// The most tokens of one sequence, prompt included [default: what the model supports]
    #[arg(long, env = env::MAX_MODEL_LEN, value_name = "TOKENS")]
    max_model_len: Option<NonZeroUsize>,
    /// The most sequences that run at once [default: 64, or --max-num-batched-tokens if that is less]
    #[arg(long, env = env::MAX_NUM_SEQS, value_name = "N")]
    max_num_seqs: Option<NonZeroUsize>,
    /// The most tokens that one step computes; longer prompts are computed in chunks
    #[arg(long, env = env::MAX_NUM_BATCHED_TOKENS, value_name = "TOKENS", default_value = "2048")]
    max_num_batched_tokens: NonZeroUsize,
    /// Numbers in the KV cache: f32 or bf16 on the CPU, bf16 or fp8 on GPUs [default: f32, bf16 on GPUs]
    #[arg(long, env = env::KV_CACHE_DTYPE, value_name = "DTYPE")]
    kv_cache_dtype: Option<PlannedDtype>,
    /// Tokens that the MTP module drafts per step: a number, 0 to leave it out, or auto
    #[arg(long, env = env::SPECULATIVE_TOKENS, value_name = "N", default_value = "auto", value_parser = speculative_tokens)]
    speculative_tokens: SpeculativeTokens,
    /// Print one JSON object
    #[arg(long, env = env::JSON)]
    json: bool,
}

/// Numbers in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PlannedDtype {
    /// Four bytes per number.
    F32,
    /// Two bytes per number.
    Bf16,
    /// Records of one byte per number, with scales.
    Fp8,
}

/// Runs the command.
///
/// # Errors
/// If the files are not those of a model that can be computed, or the options contradict one another.
pub(crate) fn run(args: PlanArgs) -> anyhow::Result<()> {
    let source = ModelSource::find(args.model.as_deref())?;
    let files = Files::open(&source.files()).with_context(|| format!("cannot plan for {source}"))?;
    let Config::DeepseekV3(config) = files.config() else {
        return Err(anyhow!("{source} is a Qwen3 model, which is not supported yet"))
            .hint("`cachalot inspect` tells its bytes; to serve, use a DeepSeek V3, R1, V3.1 or V3.2 model");
    };
    let tensors = files.tensors();
    let supported = config.max_position_embeddings;
    let max_model_len = args.max_model_len.map_or(supported, NonZeroUsize::get);
    if max_model_len > supported {
        return Err(anyhow!("max_model_len is {max_model_len}, but the model supports at most {supported} tokens"))
            .hint("lower --max-model-len, or leave it out");
    }
    let max_num_batched_tokens = args.max_num_batched_tokens.get();
    let max_num_seqs = args.max_num_seqs.map_or(max_num_batched_tokens.min(64), NonZeroUsize::get);
    if max_num_seqs > max_num_batched_tokens {
        return Err(anyhow!(
            "max_num_batched_tokens is {max_num_batched_tokens}, less than max_num_seqs {max_num_seqs}: a step must be able to \
             advance every sequence by a token"
        ))
        .hint("raise --max-num-batched-tokens, or lower --max-num-seqs");
    }
    let has_mtp = config.num_nextn_predict_layers > 0;
    let speculative_tokens = args.speculative_tokens.max_draft_tokens(has_mtp);
    if speculative_tokens > 0 && !has_mtp {
        return Err(anyhow!("{source} has no MTP module, so it drafts no tokens"))
            .hint("leave out --speculative-tokens");
    }
    let wish = Wish { max_model_len, max_num_seqs, max_num_batched_tokens, speculative_tokens };
    let kv_format = kv_format(args.kv_cache_dtype, args.gpu.is_some())?;
    let plan = match &args.gpu {
        Some(gpus) => plan_gpus(source.to_string(), config, &tensors, gpus, wish, kv_format),
        None => {
            let num_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let demand = CpuDemand {
                config,
                weight_bytes: tensors.iter().map(StoredTensor::bytes).sum(),
                kv_format,
                kv_cache_bytes: None,
                max_model_len: args.max_model_len.map(NonZeroUsize::get),
                max_num_seqs,
                max_num_batched_tokens,
                speculative_tokens,
                num_threads,
                takes_all_at_start: true,
                available_bytes: memory::available_bytes(),
            };
            CpuPlan::new(&demand).into_plan(source.to_string(), num_threads, kv_format)
        }
    };

    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &plan)?;
        writeln!(stdout)?;
    } else {
        write!(stdout, "{plan}")?;
    }
    Ok(())
}

/// The format, if the device has caches of it.
fn kv_format(dtype: Option<PlannedDtype>, on_gpus: bool) -> anyhow::Result<KvFormat> {
    match (dtype, on_gpus) {
        (None | Some(PlannedDtype::F32), false) => Ok(KvFormat::F32),
        (Some(PlannedDtype::Bf16), false) | (None | Some(PlannedDtype::Bf16), true) => Ok(KvFormat::Bf16),
        (Some(PlannedDtype::Fp8), true) => Ok(KvFormat::Fp8),
        (Some(PlannedDtype::Fp8), false) => Err(anyhow!("there are no FP8 caches on the CPU"))
            .hint("use --kv-cache-dtype f32 or bf16, or plan for GPUs with --gpu"),
        (Some(PlannedDtype::F32), true) => {
            Err(anyhow!("there are no f32 caches on GPUs")).hint("use --kv-cache-dtype bf16 or fp8")
        }
    }
}
