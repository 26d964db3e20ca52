//! From a configuration to a running engine: open and check the files, read the weights, start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use cachalot_engine::{Engine, EngineConfig, EngineHandle, KvCacheSize};
use cachalot_model::{BLOCK_SIZE, DeepseekV3, LanguageModel, Options, Pages};
use cachalot_ops::Context;
use cachalot_prompt::{Prompt, PromptFiles};
use cachalot_server::Served;
use cachalot_tensor::DType;
use cachalot_weights::{Checkpoint, Config, KvFormat, Source, StoredTensor};

use crate::byte_size::ByteSize;
use crate::config::ModelConfig;
use crate::hint::ResultExt;
use crate::plan::{Budget, CpuDemand, CpuPlan};
use crate::progress::Progress;
use crate::source::ModelSource;
use crate::{embedded, memory};

/// A model that computes.
pub(crate) struct Loaded {
    /// Where requests go.
    pub(crate) engine: EngineHandle,
    /// The text side; none if the checkpoint has no tokenizer.
    pub(crate) prompt: Option<Arc<Prompt>>,
    /// Tokens that end a reply.
    pub(crate) eos_token_ids: Vec<u32>,
    /// What to know about it.
    pub(crate) summary: Summary,
}

/// Measured and derived facts about a loaded model, for people and reports.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// What the model is called.
    pub(crate) name: String,
    /// Architecture of config.json.
    pub(crate) architecture: &'static str,
    /// The release, if there is a tokenizer to tell it from, and how it was told.
    pub(crate) release: Option<(String, &'static str)>,
    /// Name of the device.
    pub(crate) device: &'static str,
    /// Threads that compute.
    pub(crate) num_threads: usize,
    /// Element type of the KV cache.
    pub(crate) kv_cache_dtype: String,
    /// Bytes of the KV cache.
    pub(crate) kv_cache_bytes: u64,
    /// Rows of the vocabulary.
    pub(crate) vocab_size: usize,
    /// Bytes of the weights.
    pub(crate) weight_bytes: u64,
    /// What takes the memory.
    pub(crate) memory: Budget,
    /// From opening the files to an engine that takes requests.
    pub(crate) load_time: Duration,
}

impl ModelSource {
    /// The files in the terms of the weights crate.
    pub(crate) fn files(&self) -> Source {
        match self {
            ModelSource::Folder { path, .. } => Source::Folder(path.clone()),
            ModelSource::Embedded => {
                let files: BTreeMap<_, _> =
                    embedded::names().filter_map(|name| embedded::file(&name).map(|bytes| (name, bytes))).collect();
                Source::Files(files)
            }
        }
    }

    /// The files in the terms of the prompt crate.
    pub(crate) fn prompt_files(&self) -> cachalot_prompt::Result<PromptFiles> {
        match self {
            ModelSource::Folder { path, name } => Ok(PromptFiles { name: name.clone(), ..PromptFiles::read(path)? }),
            ModelSource::Embedded => {
                PromptFiles::from_lookup(embedded::NAME, |name| Ok(embedded::file(name).map(|bytes| bytes.to_vec())))
            }
        }
    }
}

/// Loads the model and starts its engine.
///
/// # Errors
/// If the files are not a model that this engine computes, or the machine does not have what it takes.
pub(crate) fn load(config: &ModelConfig) -> anyhow::Result<Loaded> {
    let started = Instant::now();
    let checkpoint =
        Checkpoint::open(&config.source.files()).with_context(|| format!("cannot load {}", config.source))?;
    let Config::DeepseekV3(architecture) = checkpoint.config() else {
        return Err(anyhow!("{} is a Qwen3 model, which is not supported yet", config.source))
            .hint("`cachalot inspect` works on it; to serve, use a DeepSeek V3, R1, V3.1 or V3.2 model");
    };
    let prompt = open_prompt(config, &checkpoint)?;
    let notices = checkpoint.notices().iter().chain(prompt.iter().flat_map(|prompt| prompt.notices()));
    notices.for_each(|notice| tracing::warn!("{notice}"));

    let context = Context::new(config.device, config.num_threads)?;
    let num_threads = context.pool().current_num_threads();
    let speculative_tokens = config.speculative_tokens.max_draft_tokens(checkpoint.has_mtp());
    let plan = CpuPlan::new(&CpuDemand {
        config: architecture,
        weight_bytes: checkpoint.stored_tensors().iter().map(StoredTensor::bytes).sum(),
        kv_format: if config.kv_cache_dtype == DType::F32 { KvFormat::F32 } else { KvFormat::Bf16 },
        kv_cache_bytes: config.kv_cache_bytes,
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        speculative_tokens,
        num_threads,
        takes_all_at_start: config.takes_all_at_start,
        available_bytes: memory::available_bytes(),
    });
    if !plan.budget.fits() {
        let message = format!("{} needs more memory than this machine has free: {}", config.source, plan.budget);
        if config.takes_all_at_start {
            return Err(anyhow!(message)).hint(plan.advice());
        }
        tracing::warn!("{message}; it may end or be slow when it comes to use all of it");
    }

    let mut progress = None;
    let report = checkpoint.load(|done, total| {
        progress.get_or_insert_with(|| Progress::start("reading the weights", 0, total)).set(done);
    });
    drop(progress);
    let report = report.with_context(|| format!("cannot read the weights of {}", config.source))?;
    tracing::info!("read the weights: {report}");

    let options = Options {
        kv_cache_dtype: config.kv_cache_dtype,
        max_model_len: config.max_model_len,
        mtp: speculative_tokens > 0,
    };
    let mut model = DeepseekV3::load(context, &checkpoint, options).hint("lower --max-model-len, or leave it out")?;
    if config.takes_all_at_start {
        model.set_pages(Pages::AtStart(taking_memory()));
    }
    let engine_config = EngineConfig {
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        max_model_len: config.max_model_len,
        kv_cache: KvCacheSize::Bytes(plan.budget.kv_cache),
        max_waiting: config.max_waiting,
        prefix_cache: config.prefix_cache,
        speculative_tokens: config.speculative_tokens,
        mla_prefill: config.mla_prefill,
        on_fault: config.on_fault,
        step_timeout: config.step_timeout,
    };
    let vocab_size = model.vocab_size();
    let engine = Engine::start(Box::new(model), engine_config).hint(
        "see --kv-cache-bytes, --max-model-len, --max-num-seqs, --max-num-batched-tokens and --speculative-tokens; \
         left out, they follow from the model and the memory",
    )?;

    let eos_token_ids = match &prompt {
        Some(prompt) => prompt.eos_token_ids().to_vec(),
        None => checkpoint.config().eos_token_ids().to_vec(),
    };
    let summary = Summary {
        name: config.source.name().to_owned(),
        architecture: checkpoint.config().architecture(),
        release: prompt.as_ref().map(|prompt| (prompt.release().to_string(), prompt.release_reason())),
        device: config.device.name(),
        num_threads,
        kv_cache_dtype: config.kv_cache_dtype.to_string(),
        kv_cache_bytes: engine.limits().num_blocks as u64 * plan.kv_block_bytes,
        vocab_size,
        weight_bytes: report.bytes,
        memory: plan.budget,
        load_time: started.elapsed(),
    };
    Ok(Loaded { engine, prompt, eos_token_ids, summary })
}

/// Shows how far caches and activations have been taken, if it is not done in a moment.
fn taking_memory() -> Box<dyn FnMut(u64, u64) + Send> {
    let started = Instant::now();
    let mut progress = None;
    Box::new(move |done, total| {
        if started.elapsed() > Duration::from_secs(1) {
            progress.get_or_insert_with(|| Progress::start("taking memory", done, total)).set(done);
        }
        if done == total {
            progress = None;
        }
    })
}

/// The text side, checked against the model.
fn open_prompt(config: &ModelConfig, checkpoint: &Checkpoint) -> anyhow::Result<Option<Arc<Prompt>>> {
    let files = config.source.prompt_files()?;
    if !files.has_tokenizer() {
        tracing::warn!("{} has no tokenizer.json: it can be served with token ids, not with text", config.source);
        return Ok(None);
    }
    let prompt = Prompt::open(&files, config.release)
        .with_context(|| format!("cannot read the tokenizer of {}", config.source))
        .hint("download the tokenizer files again, or name the release with --release")?;
    let (tokens, rows) = (prompt.tokenizer().vocab_size(), checkpoint.config().vocab_size());
    if tokens > rows {
        return Err(anyhow!("the tokenizer of {} has {tokens} tokens, but the model has only {rows}", config.source))
            .hint("tokenizer.json and config.json are of different models: take both from the same one");
    }
    Ok(Some(Arc::new(prompt)))
}

impl Loaded {
    /// The text side.
    ///
    /// # Errors
    /// If the checkpoint has no tokenizer.
    pub(crate) fn prompt(&self) -> anyhow::Result<&Arc<Prompt>> {
        self.prompt
            .as_ref()
            .ok_or_else(|| anyhow!("{} has no tokenizer.json, so it cannot read or write text", self.summary.name))
            .hint("add the tokenizer.json that belongs to the model; `cachalot serve` works with token ids without it")
    }

    /// What the server needs of it, under the name that requests give.
    pub(crate) fn into_served(self, model_name: String) -> Served {
        Served { model_name, engine: self.engine, prompt: self.prompt, eos_token_ids: self.eos_token_ids }
    }

    /// A table for people: one line per fact.
    pub(crate) fn describe(&self) -> String {
        let summary = &self.summary;
        let limits = self.engine.limits();
        let release = match &summary.release {
            Some((release, reason)) => format!("{release} ({reason})"),
            None => "unknown: there is no tokenizer".to_owned(),
        };
        let rows = [
            ("model", format!("{}, {}", summary.name, summary.architecture)),
            ("release", release),
            ("device", format!("{} with {} threads computes every operation", summary.device, summary.num_threads)),
            ("weights", format!("{} in {:.1} s", ByteSize(summary.weight_bytes), summary.load_time.as_secs_f64())),
            (
                "KV cache",
                format!(
                    "{} blocks of {BLOCK_SIZE} tokens, {}, {}",
                    limits.num_blocks,
                    summary.kv_cache_dtype,
                    ByteSize(summary.kv_cache_bytes)
                ),
            ),
            ("memory", summary.memory.to_string()),
            (
                "limits",
                format!(
                    "{} tokens per sequence, {} sequences at once, {} tokens per step",
                    limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens
                ),
            ),
        ];
        rows.iter().map(|(name, value)| format!("{name:<10}{value}\n")).collect()
    }
}
