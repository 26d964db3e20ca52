//! The command line: options that several commands share, and the whole.

use std::num::NonZeroUsize;

use cachalot_engine::{MAX_SPECULATIVE_TOKENS, SpeculativeTokens};
use cachalot_ops::Device;
use cachalot_prompt::Release;
use cachalot_server::MissingReasoning;
use clap::{Args as ClapArgs, Parser, ValueEnum};

use crate::byte_size::ByteSize;
use crate::command::Command;
use crate::env;
use crate::logging::LogArgs;

/// What `--max-num-seqs` is unless a step has fewer tokens.
const MAX_NUM_SEQS: NonZeroUsize = NonZeroUsize::new(64).expect("it is not 0");

/// Serve the DeepSeek open weights from one binary
///
/// MODEL is a folder with config.json and .safetensors files, the id of a model that `cachalot pull` has brought, or
/// nothing: then a small untrained model that is part of this binary is used.
///
/// Every option can also be given as an environment variable, named beside it; the command line wins.
#[derive(Parser, Clone, Debug)]
#[command(name = "cachalot", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The model and how it is computed.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder, the id of a downloaded model, or nothing for the embedded model
    #[arg(value_name = "MODEL", env = env::MODEL, help_heading = clap::builder::Resettable::Reset)]
    pub(crate) model: Option<String>,
    /// Where to compute: cpu, or reference, which is slow and exact in f32
    #[arg(long, env = env::DEVICE, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Threads that compute [default: one per core]
    #[arg(long, env = env::THREADS, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Treat the model as this release, such as V3.1 or R1-0528 [default: told from its files]
    #[arg(long, env = env::RELEASE, value_name = "RELEASE")]
    pub(crate) release: Option<Release>,
    /// The most tokens of one sequence, prompt included [default: what the model supports and memory allows]
    #[arg(long, env = env::MAX_MODEL_LEN, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<NonZeroUsize>,
    /// The most tokens that one step computes; longer prompts are computed in chunks
    #[arg(long, env = env::MAX_NUM_BATCHED_TOKENS, value_name = "TOKENS", default_value = "2048")]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Memory for the KV cache, such as 4GiB [default: what all sequences need, up to a quarter of the free memory; serve takes no
    /// more than the weights do, or 256MiB]
    #[arg(long, env = env::KV_CACHE_BYTES, value_name = "SIZE")]
    pub(crate) kv_cache_bytes: Option<ByteSize>,
    /// Numbers in the KV cache; bf16 takes half the memory, and its rounding can turn near-ties in routing
    #[arg(long, env = env::KV_CACHE_DTYPE, value_name = "DTYPE", default_value = "f32")]
    pub(crate) kv_cache_dtype: KvCacheDtype,
    /// Tokens that the MTP module drafts for each step to verify: a number, 0 for none, or auto for as many as are worth it.
    /// Drafts change no output
    #[arg(long, env = env::SPECULATIVE_TOKENS, value_name = "N", default_value = "auto", value_parser = speculative_tokens)]
    pub(crate) speculative_tokens: SpeculativeTokens,
    /// How the attention of prompts is computed: absorbed, as that of every other token, or expanded, which is faster on prompts of
    /// many thousand tokens but lets near-ties turn when a prompt is cut otherwise
    #[arg(long, env = env::MLA_PREFILL, value_name = "FORM", default_value = "absorbed")]
    pub(crate) mla_prefill: MlaForm,
}

impl ModelArgs {
    /// The most sequences that run at once, where many can come at a time. Every running sequence advances in every step, so a
    /// step cannot have fewer tokens than there are sequences.
    pub(crate) fn default_max_num_seqs(&self) -> NonZeroUsize {
        self.max_num_batched_tokens.min(MAX_NUM_SEQS)
    }
}

/// The values of `--missing-reasoning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MissingReasoningPolicy {
    /// Answer with 400.
    Refuse,
    /// Go on as if the reasoning had been empty.
    Accept,
}

impl From<MissingReasoningPolicy> for MissingReasoning {
    fn from(policy: MissingReasoningPolicy) -> Self {
        match policy {
            MissingReasoningPolicy::Refuse => MissingReasoning::Refuse,
            MissingReasoningPolicy::Accept => MissingReasoning::Accept,
        }
    }
}

/// Numbers in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    /// Half the size.
    Bf16,
    /// For exact comparison.
    F32,
}

/// The values of `--mla-prefill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MlaForm {
    /// In the space of the latent.
    Absorbed,
    /// With keys and values expanded from it.
    Expanded,
}

/// How tokens are chosen, where the model's own recommendation is not wanted.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// The most tokens to generate [default: as many as the context holds]
    #[arg(long, env = env::MAX_TOKENS, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Randomness; 0 takes the likeliest token every time [default: the model's recommendation]
    #[arg(long, env = env::TEMPERATURE, value_name = "T", value_parser = temperature)]
    pub(crate) temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability [default: the model's recommendation]
    #[arg(long, env = env::TOP_P, value_name = "P", value_parser = probability)]
    pub(crate) top_p: Option<f32>,
    /// Seed of the random choices; the same seed gives the same text [default: another one each time]
    #[arg(long, env = env::SEED, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

pub(crate) fn speculative_tokens(text: &str) -> Result<SpeculativeTokens, String> {
    match text.parse() {
        Ok(num_tokens) if num_tokens <= MAX_SPECULATIVE_TOKENS => Ok(SpeculativeTokens::Fixed(num_tokens)),
        _ if text == "auto" => Ok(SpeculativeTokens::Auto),
        _ => Err(format!("`{text}` is neither auto nor a number from 0 to {MAX_SPECULATIVE_TOKENS}")),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text)
        .filter(|number| (0.0..=2.0).contains(number))
        .ok_or_else(|| format!("`{text}` is not a number from 0 to 2"))
}

fn probability(text: &str) -> Result<f32, String> {
    let number = number(text).filter(|&number| number > 0.0 && number <= 1.0);
    number.ok_or_else(|| format!("`{text}` is not a number over 0 and up to 1"))
}

fn number(text: &str) -> Option<f32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::env;

    const DOCUMENTATION: &str = include_str!("../../../docs/options.md");

    fn commands() -> Vec<clap::Command> {
        let mut command = Args::command();
        command.build();
        command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_variable_from_the_list_and_is_documented() {
        for command in commands() {
            for arg in command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
                let place = format!("{} of `{}`", arg.get_id(), command.get_name());
                let variable = arg.get_env().and_then(|name| name.to_str());
                let variable = variable.unwrap_or_else(|| panic!("{place} has no environment variable"));
                assert!(env::ALL.contains(&variable), "{place} takes {variable}, which is not in env.rs");
                let value_name =
                    || arg.get_value_names().expect("what has no name of its own is named by its value").join(" ");
                let option = arg.get_long().map_or_else(|| format!("`{}`", value_name()), |long| format!("`--{long}"));
                assert!(DOCUMENTATION.contains(&option), "docs/options.md lacks {option} ({place})");
                assert!(arg.get_help().is_some(), "{place} has no help");
            }
            assert!(DOCUMENTATION.contains(&format!("`cachalot {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn every_variable_is_documented_and_used() {
        let used: Vec<String> = commands()
            .iter()
            .flat_map(|command| command.get_arguments())
            .filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned()))
            .chain([env::HF_HOME.to_owned()])
            .collect();
        for variable in env::ALL {
            assert!(DOCUMENTATION.contains(&format!("`{variable}`")), "docs/options.md lacks {variable}");
            assert!(used.iter().any(|name| name == variable), "nothing reads {variable}");
        }
    }
}
