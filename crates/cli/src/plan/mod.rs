//! Where a machine's memory goes, and how much context is left room for.
//!
//! `cachalot plan` prints it, and `serve` holds to it: the figures are those of [`cachalot_model::footprint`].

mod budget;
mod cpu;
mod gpu;
mod gpu_set;

use std::fmt;

use cachalot_model::BLOCK_SIZE;
use cachalot_weights::KvFormat;
use serde::Serialize;

use crate::byte_size::ByteSize;

pub(crate) use budget::{Budget, NOTHING};
pub(crate) use cpu::{CpuDemand, CpuPlan};
pub(crate) use gpu::plan_gpus;
pub(crate) use gpu_set::GpuSet;

/// Contexts that the table of concurrency shows, up to the longest one asked for.
const SHOWN_CONTEXTS: [usize; 4] = [4096, 16_384, 65_536, 131_072];

/// What is asked of the machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Wish {
    /// The most tokens of one sequence.
    pub(crate) max_model_len: usize,
    /// The most sequences at once.
    pub(crate) max_num_seqs: usize,
    /// The most tokens of one step.
    pub(crate) max_num_batched_tokens: usize,
    /// Tokens drafted per step; none leaves the MTP module out.
    pub(crate) speculative_tokens: usize,
}

/// A plan for one machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Folder, hub id or "the embedded model".
    pub(crate) model: String,
    /// What the memory is of.
    pub(crate) machine: String,
    /// What is asked of it.
    pub(crate) wish: Wish,
    /// Numbers in the cache.
    pub(crate) kv_cache_dtype: &'static str,
    /// The ways to use the machine.
    pub(crate) layouts: Vec<Layout>,
    /// What to do.
    pub(crate) suggestion: Suggestion,
}

/// One way to use the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Layout {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Parts of the machine that each have a cache of their own, for sequences of their own.
    pub(crate) num_caches: usize,
    /// Memory of the machine, or of each GPU.
    pub(crate) budget: Budget,
    /// Bytes of a block of 64 tokens.
    pub(crate) kv_block_bytes: u64,
    /// Blocks that there is room for, in each cache.
    pub(crate) num_blocks: u64,
    /// Tokens that there is room for, in all caches.
    pub(crate) num_tokens: u64,
    /// How many sequences of some lengths fit at once.
    pub(crate) concurrency: Vec<Concurrency>,
}

/// How many sequences of a length fit at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Concurrency {
    /// Tokens of each sequence.
    pub(crate) context: usize,
    /// Sequences.
    pub(crate) sequences: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Suggestion {
    /// Whether a sequence of the length asked for fits.
    pub(crate) fits: bool,
    /// In words, a sentence each.
    pub(crate) sentences: Vec<String>,
    /// Options of `serve`.
    pub(crate) options: Vec<String>,
}

impl Layout {
    /// With room for `kv_bytes` of cache in each of `num_caches`.
    fn new(
        name: &'static str,
        num_caches: usize,
        budget: Budget,
        kv_block_bytes: u64,
        kv_bytes: u64,
        wish: Wish,
    ) -> Self {
        let num_blocks = kv_bytes / kv_block_bytes;
        let mut layout = Layout {
            name,
            num_caches,
            budget,
            kv_block_bytes,
            num_blocks,
            num_tokens: num_blocks * BLOCK_SIZE as u64 * num_caches as u64,
            concurrency: Vec::new(),
        };
        let contexts = SHOWN_CONTEXTS.into_iter().filter(|&context| context < wish.max_model_len);
        let contexts = contexts.chain([wish.max_model_len]);
        layout.concurrency =
            contexts.map(|context| Concurrency { context, sequences: layout.sequences(context) }).collect();
        layout
    }

    /// Sequences of `context` tokens that fit at once: each is whole in one cache.
    fn sequences(&self, context: usize) -> u64 {
        self.num_caches as u64 * (self.num_blocks / context.div_ceil(BLOCK_SIZE) as u64)
    }

    /// The most tokens of each of `num_seqs` sequences at once, as far as the cache is concerned.
    fn context(&self, num_seqs: usize) -> u64 {
        self.num_blocks / num_seqs.div_ceil(self.num_caches).max(1) as u64 * BLOCK_SIZE as u64
    }
}

/// The format by the name that `--kv-cache-dtype` has for it.
pub(crate) fn format_name(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F32 => "f32",
        KvFormat::Bf16 => "bf16",
        KvFormat::Fp8 => "fp8",
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wish { max_model_len, max_num_seqs, max_num_batched_tokens, speculative_tokens } = self.wish;
        writeln!(f, "{} on {}", self.model, self.machine)?;
        write!(
            f,
            "up to {} tokens per sequence, {max_num_seqs} sequences at once, {} tokens per step",
            grouped(max_model_len as u64),
            grouped(max_num_batched_tokens as u64)
        )?;
        if speculative_tokens > 0 {
            write!(f, ", {speculative_tokens} drafted")?;
        }
        writeln!(f, ", {} cache", self.kv_cache_dtype)?;

        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: &mut dyn Iterator<Item = String>| {
            let cells: String = cells.map(|cell| format!("{cell:>26}")).collect();
            writeln!(f, "{name:<30}{cells}")
        };
        writeln!(f)?;
        row(f, "memory", &mut self.layouts.iter().map(|layout| layout.name.to_owned()))?;
        for line in 0..self.layouts.first().map_or(0, |layout| layout.budget.rows().len()) {
            let cells = || self.layouts.iter().map(|layout| layout.budget.rows()[line].clone());
            let (name, _) = self.layouts[0].budget.rows()[line];
            if cells().any(|(_, size)| size != NOTHING) {
                row(f, &format!("  {name}"), &mut cells().map(|(_, size)| size))?;
            }
        }
        if self.layouts.iter().any(|layout| layout.num_tokens > 0) {
            writeln!(f)?;
            row(f, "tokens in the cache, at most", &mut self.layouts.iter().map(|layout| grouped(layout.num_tokens)))?;
            for line in 0..self.layouts.first().map_or(0, |layout| layout.concurrency.len()) {
                let context = grouped(self.layouts[0].concurrency[line].context as u64);
                let sequences = |layout: &Layout| grouped(layout.concurrency[line].sequences);
                row(f, &format!("  sequences of {context}"), &mut self.layouts.iter().map(sequences))?;
            }
        }
        writeln!(f)?;
        for sentence in &self.suggestion.sentences {
            writeln!(f, "{sentence}")?;
        }
        if !self.suggestion.options.is_empty() {
            writeln!(f, "serve: {}", self.suggestion.options.join(" "))?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = {
        let first = digits.len() % 3;
        let (head, tail) = digits.split_at(first);
        let tail = (0..tail.len()).step_by(3).map(|start| &tail[start..start + 3]);
        [head].into_iter().filter(|head| !head.is_empty()).chain(tail).collect()
    };
    groups.join(",")
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}
