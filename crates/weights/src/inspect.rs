//! What `cachalot inspect` prints: a model's make-up and its bytes.
//!
//! Everything but the dtypes follows from config.json, so a report can be made before a single shard is downloaded; with
//! the files it tells what they hold rather than what they should hold.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, DeepseekV3Config, Qwen3Config, RopeConfig};
use crate::kv_format::KvFormat;
use crate::layout::{Component, Stage, TensorKind, TensorSpec};
use crate::stored::StoredTensor;

/// A model's make-up, for people through [`Display`](fmt::Display) and for programs through [`Serialize`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Folder, hub id or "the embedded model"; set by the caller.
    pub model: Option<String>,
    /// Release, as the prompt code detects it from the tokenizer and chat template; set by the caller.
    pub release: Option<String>,
    /// `architectures` of config.json.
    pub architecture: &'static str,
    /// Layers, heads, experts and so on, in words.
    pub facts: Vec<Fact>,
    /// Parameters by component.
    pub parameters: Vec<ComponentParameters>,
    /// Parameters of the main model, without block scales.
    pub main_parameters: u64,
    /// Parameters of the MTP layers, without block scales.
    pub mtp_parameters: u64,
    /// Weights that one token of the main model is multiplied with: no embedding, and of the routed experts
    /// `num_experts_per_tok`.
    pub active_parameters: u64,
    /// The same for one drafted token.
    pub mtp_active_parameters: u64,
    /// Whether `storage` was read from the files; otherwise it is what the published files of this configuration hold.
    pub storage_from_files: bool,
    /// Tensors and bytes by dtype, block scales included.
    pub storage: Vec<DTypeStorage>,
    /// Bytes of all tensors, block scales included.
    pub weight_bytes: u64,
    /// The cache's size.
    pub kv_cache: KvCache,
    /// What the user should know though it is no error.
    pub notices: Vec<String>,
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is about.
    pub name: &'static str,
    /// What is so.
    pub value: String,
}

/// Parameters of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentParameters {
    /// The component.
    pub component: Component,
    /// In the main model.
    pub main: u64,
    /// In the MTP layers.
    pub mtp: u64,
}

/// Tensors of one dtype.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DTypeStorage {
    /// The dtype, as safetensors names it.
    pub dtype: &'static str,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements.
    pub elements: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// Bytes that one token takes in the caches of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvCache {
    /// In F32, what `serve` takes unless told otherwise.
    pub f32_bytes_per_token: u64,
    /// The same with the MTP layers' caches.
    pub f32_bytes_per_token_with_mtp: u64,
    /// In BF16: latent, and indexer keys where there is an indexer; or keys and values.
    pub bf16_bytes_per_token: u64,
    /// The same with the MTP layers' caches.
    pub bf16_bytes_per_token_with_mtp: u64,
    /// In the FP8 records of FlashMLA and DeepGEMM, where the model has a latent cache.
    pub fp8_bytes_per_token: Option<u64>,
    /// The same with the MTP layers' caches.
    pub fp8_bytes_per_token_with_mtp: Option<u64>,
}

impl Report {
    /// The report of a configuration whose files are not at hand.
    pub fn from_config(config: &Config) -> Self {
        Report::new(config, config.published_tensors(), false)
    }

    /// The report of a checkpoint.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Self {
        let notices = checkpoint.notices().to_vec();
        Report { notices, ..Report::new(checkpoint.config(), checkpoint.stored_tensors(), true) }
    }

    fn new(config: &Config, stored: Vec<StoredTensor>, storage_from_files: bool) -> Self {
        let mut parameters: BTreeMap<Component, ComponentParameters> = BTreeMap::new();
        let mut storage: BTreeMap<&'static str, DTypeStorage> = BTreeMap::new();
        let [mut active_parameters, mut mtp_active_parameters] = [0, 0];
        let mut has_mtp = false;
        for StoredTensor { spec, dtype, scales } in stored {
            let num_elements = spec.shape.num_elements();
            for (dtype, elements) in std::iter::once((dtype, num_elements)).chain(scales) {
                let name = dtype.name();
                let entry =
                    storage.entry(name).or_insert(DTypeStorage { dtype: name, tensors: 0, elements: 0, bytes: 0 });
                entry.tensors += 1;
                entry.elements += elements as u64;
                entry.bytes += (elements * dtype.size_bytes()) as u64;
            }
            let component = spec.component;
            let entry = parameters.entry(component).or_insert(ComponentParameters { component, main: 0, mtp: 0 });
            let (total, active) = match spec.stage {
                Stage::Main => (&mut entry.main, &mut active_parameters),
                Stage::Mtp => (&mut entry.mtp, &mut mtp_active_parameters),
            };
            has_mtp |= spec.stage == Stage::Mtp;
            *total += num_elements as u64;
            *active += always_active_elements(&spec);
        }
        if let Some(routed_experts) = parameters.get(&Component::RoutedExperts) {
            active_parameters += chosen_elements(config, routed_experts.main);
            mtp_active_parameters += chosen_elements(config, routed_experts.mtp);
        }
        let parameters: Vec<ComponentParameters> = parameters.into_values().collect();
        let storage: Vec<DTypeStorage> = storage.into_values().collect();
        Report {
            model: None,
            release: None,
            architecture: config.architecture(),
            facts: facts(config, has_mtp),
            main_parameters: parameters.iter().map(|component| component.main).sum(),
            mtp_parameters: parameters.iter().map(|component| component.mtp).sum(),
            parameters,
            active_parameters,
            mtp_active_parameters,
            storage_from_files,
            weight_bytes: storage.iter().map(|dtype| dtype.bytes).sum(),
            storage,
            kv_cache: kv_cache(config, has_mtp),
            notices: Vec::new(),
        }
    }
}

/// Elements of a tensor that every token is multiplied with.
fn always_active_elements(spec: &TensorSpec) -> u64 {
    let is_weight = matches!(spec.kind, TensorKind::Linear | TensorKind::Table);
    let is_chosen = matches!(spec.component, Component::Embedding | Component::RoutedExperts);
    if is_weight && !is_chosen { spec.shape.num_elements() as u64 } else { 0 }
}

/// Elements of the routed experts that one token is multiplied with.
fn chosen_elements(config: &Config, routed_experts: u64) -> u64 {
    match config {
        Config::DeepseekV3(config) => {
            routed_experts / config.n_routed_experts as u64 * config.num_experts_per_tok as u64
        }
        Config::Qwen3(_) => 0,
    }
}

fn kv_cache(config: &Config, has_mtp: bool) -> KvCache {
    let (num_layers, num_mtp_layers, bf16, fp8) = match config {
        Config::DeepseekV3(config) => {
            let bytes = |format: KvFormat| format.latent_bytes(config) + format.index_key_bytes(config);
            let (bf16, fp8) = (bytes(KvFormat::Bf16), bytes(KvFormat::Fp8));
            let num_mtp_layers = if has_mtp { config.num_nextn_predict_layers } else { 0 };
            (config.num_hidden_layers, num_mtp_layers, bf16, Some(fp8))
        }
        Config::Qwen3(config) => {
            (config.num_hidden_layers, 0, 2 * 2 * config.num_key_value_heads * config.head_dim, None)
        }
    };
    let total = |per_layer: usize, layers: usize| (per_layer * layers) as u64;
    KvCache {
        f32_bytes_per_token: total(2 * bf16, num_layers),
        f32_bytes_per_token_with_mtp: total(2 * bf16, num_layers + num_mtp_layers),
        bf16_bytes_per_token: total(bf16, num_layers),
        bf16_bytes_per_token_with_mtp: total(bf16, num_layers + num_mtp_layers),
        fp8_bytes_per_token: fp8.map(|fp8| total(fp8, num_layers)),
        fp8_bytes_per_token_with_mtp: fp8.map(|fp8| total(fp8, num_layers + num_mtp_layers)),
    }
}

fn facts(config: &Config, has_mtp: bool) -> Vec<Fact> {
    let mut facts = match config {
        Config::DeepseekV3(config) => deepseek_v3_facts(config, has_mtp),
        Config::Qwen3(config) => qwen3_facts(config),
    };
    let quantization = config.quantization().map_or("none".to_owned(), |quantization| {
        let [rows, columns] = quantization.weight_block_size;
        format!("FP8 in blocks of {rows}×{columns}, scales {}", quantization.scale_fmt)
    });
    facts.push(Fact { name: "quantisation", value: quantization });
    facts.push(Fact { name: "vocabulary", value: format!("{} tokens", grouped(config.vocab_size() as u64)) });
    let context = grouped(config.max_position_embeddings() as u64);
    facts.push(Fact { name: "context", value: format!("{context} tokens") });
    facts
}

fn deepseek_v3_facts(config: &DeepseekV3Config, has_mtp: bool) -> Vec<Fact> {
    let num_layers = config.num_hidden_layers;
    let num_dense = config.first_k_dense_replace.min(num_layers);
    let mtp = match config.num_nextn_predict_layers {
        0 => "no MTP layer".to_owned(),
        count if has_mtp => format!("{count} MTP"),
        _ => "MTP promised but absent".to_owned(),
    };
    let mut facts = vec![
        Fact {
            name: "layers",
            value: format!("{num_layers} ({num_dense} dense, {} with experts), {mtp}", num_layers - num_dense),
        },
        Fact {
            name: "attention",
            value: format!(
                "{} heads over a latent of {} + {}",
                config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
            ),
        },
    ];
    if let Some(indexer) = &config.indexer {
        let value = format!(
            "{} heads of {} choose {} positions per token",
            indexer.index_n_heads, indexer.index_head_dim, indexer.index_topk
        );
        facts.push(Fact { name: "indexer", value });
    }
    facts.push(Fact {
        name: "experts",
        value: format!(
            "{} in {} groups, {} per token from {} groups, {} shared",
            config.n_routed_experts,
            config.n_group,
            config.num_experts_per_tok,
            config.topk_group,
            config.n_shared_experts
        ),
    });
    facts.push(Fact { name: "rope", value: rope_in_words(&config.rope) });
    facts
}

fn qwen3_facts(config: &Qwen3Config) -> Vec<Fact> {
    vec![
        Fact { name: "layers", value: config.num_hidden_layers.to_string() },
        Fact {
            name: "attention",
            value: format!(
                "{} heads of {}, {} key heads",
                config.num_attention_heads, config.head_dim, config.num_key_value_heads
            ),
        },
        Fact { name: "rope", value: rope_in_words(&config.rope) },
    ]
}

fn rope_in_words(rope: &RopeConfig) -> String {
    let theta = rope.rope_theta;
    match &rope.yarn {
        None => format!("theta {theta}"),
        Some(yarn) => {
            format!(
                "theta {theta}, YaRN ×{} from {} tokens",
                yarn.factor,
                grouped(yarn.original_max_position_embeddings as u64)
            )
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, value: &str| writeln!(f, "{name:<16}{value}");
        for (name, value) in [("model", &self.model), ("release", &self.release)] {
            if let Some(value) = value {
                line(f, name, value)?;
            }
        }
        line(f, "architecture", self.architecture)?;
        for fact in &self.facts {
            line(f, fact.name, &fact.value)?;
        }

        let row = |f: &mut fmt::Formatter<'_>, name: &str, main: &str, mtp: &str| {
            writeln!(f, "{}", format!("  {name:<18}{main:>20}{mtp:>20}").trim_end())
        };
        let has_mtp = self.mtp_parameters > 0;
        let mtp = |count: u64| if has_mtp { grouped(count) } else { String::new() };
        writeln!(f)?;
        writeln!(
            f,
            "{}",
            format!("{:<20}{:>20}{:>20}", "parameters", "main", if has_mtp { "MTP" } else { "" }).trim_end()
        )?;
        for component in &self.parameters {
            row(f, component.component.name(), &grouped(component.main), &mtp(component.mtp))?;
        }
        row(f, "total", &grouped(self.main_parameters), &mtp(self.mtp_parameters))?;
        row(f, "active per token", &grouped(self.active_parameters), &mtp(self.mtp_active_parameters))?;

        let header = if self.storage_from_files { "weights in the files" } else { "weights as published" };
        writeln!(f, "\n{header:<20}{:>20}{:>20}{:>14}", "elements", "bytes", "tensors")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, elements: u64, bytes: u64, tensors: u64| {
            writeln!(f, "  {name:<18}{:>20}{:>20}{:>14}", grouped(elements), grouped(bytes), grouped(tensors))
        };
        for DTypeStorage { dtype, tensors, elements, bytes } in &self.storage {
            row(f, dtype, *elements, *bytes, *tensors)?;
        }
        let sum = |count: fn(&DTypeStorage) -> u64| self.storage.iter().map(count).sum();
        row(f, "total", sum(|dtype| dtype.elements), self.weight_bytes, sum(|dtype| dtype.tensors))?;

        let kv = &self.kv_cache;
        let with_mtp = |bytes: u64| if has_mtp { format!("{} with MTP", grouped(bytes)) } else { String::new() };
        writeln!(f, "\nKV cache, bytes per token")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, main: u64, mtp: u64| {
            writeln!(f, "{}", format!("  {name:<18}{:>20}{:>28}", grouped(main), with_mtp(mtp)).trim_end())
        };
        row(f, "F32", kv.f32_bytes_per_token, kv.f32_bytes_per_token_with_mtp)?;
        row(f, "BF16", kv.bf16_bytes_per_token, kv.bf16_bytes_per_token_with_mtp)?;
        if let (Some(main), Some(mtp)) = (kv.fp8_bytes_per_token, kv.fp8_bytes_per_token_with_mtp) {
            row(f, "FP8 records", main, mtp)?;
        }
        for notice in &self.notices {
            writeln!(f, "\nnotice: {notice}")?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
