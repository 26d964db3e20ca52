//! The plan of some GPUs: what each would hold, in either way of sharing the work.

use cachalot_model::footprint::{Rank, Split, StepLimits, logits_bytes, max_num_logits};
use cachalot_weights::{DeepseekV3Config, KvFormat, StoredTensor};

use super::gpu_set::MAX_COUNT;
use super::{Budget, GpuSet, Layout, Plan, Suggestion, Wish, format_name, grouped, size};

/// One part of so many of a GPU's memory is left for the driver's context, graphs, buffers of collectives and libraries. Other
/// engines leave the same tenth free unless told otherwise.
const RESERVE_SHARE: u64 = 10;

/// A model that is to be planned for.
struct Model<'a> {
    config: &'a DeepseekV3Config,
    tensors: &'a [StoredTensor],
    wish: Wish,
    kv_format: KvFormat,
}

/// The plan of `gpus` for a model.
pub(crate) fn plan_gpus(
    model: String,
    config: &DeepseekV3Config,
    tensors: &[StoredTensor],
    gpus: &GpuSet,
    wish: Wish,
    kv_format: KvFormat,
) -> Plan {
    let planned = Model { config, tensors, wish, kv_format };
    let layouts = planned.layouts(gpus);
    Plan {
        model,
        machine: format!("{gpus}, {} each", size(gpus.memory_bytes)),
        wish,
        kv_cache_dtype: format_name(kv_format),
        suggestion: planned.suggestion(gpus, &layouts),
        layouts,
    }
}

impl Model<'_> {
    /// Both ways, where there is more than one GPU and the heads can be shared out.
    fn layouts(&self, gpus: &GpuSet) -> Vec<Layout> {
        let splits: &[Split] = if gpus.count == 1 { &[Split::Data] } else { &[Split::Tensor, Split::Data] };
        splits.iter().filter_map(|&split| self.layout(gpus, split)).collect()
    }

    fn layout(&self, gpus: &GpuSet, split: Split) -> Option<Layout> {
        let Wish { max_model_len, max_num_seqs, max_num_batched_tokens, speculative_tokens } = self.wish;
        let rank = Rank { config: self.config, split, num_ranks: gpus.count, mtp: speculative_tokens > 0 };
        if !rank.is_possible() {
            return None;
        }
        let num_caches = if split == Split::Data { gpus.count } else { 1 };
        let max_num_logits =
            max_num_logits(max_num_batched_tokens, max_num_seqs.div_ceil(num_caches), speculative_tokens);
        let limits = StepLimits { max_model_len, max_num_batched_tokens, max_num_logits };
        let mut budget = Budget {
            weights: rank.weight_bytes(self.tensors),
            kv_cache: 0,
            activations: rank.activation_bytes(limits),
            indexer_workspace: rank.indexer_workspace_bytes(limits),
            workspaces: rank.workspace_bytes(limits),
            logits: logits_bytes(self.config.vocab_size, max_num_logits),
            reserve: gpus.memory_bytes / RESERVE_SHARE,
            available: Some(gpus.memory_bytes),
        };
        let block_bytes = rank.kv_block_bytes(self.kv_format);
        budget.kv_cache = budget.room().unwrap_or(0) / block_bytes * block_bytes;
        let name = match (split, gpus.count) {
            (_, 1) => "one GPU",
            (Split::Tensor, _) => "tensor parallel",
            (Split::Data, _) => "data parallel attention",
        };
        Some(Layout::new(name, num_caches, budget, block_bytes, budget.kv_cache, self.wish))
    }

    fn suggestion(&self, gpus: &GpuSet, layouts: &[Layout]) -> Suggestion {
        let Wish { max_model_len, max_num_seqs, .. } = self.wish;
        let Some(best) = layouts.iter().reduce(|tensor, data| {
            // All GPUs on every sequence answer sooner; sequences of their own are for more of them than that has room for.
            let [of_tensor, of_data] = [tensor, data].map(|layout| layout.sequences(max_model_len));
            if of_tensor >= max_num_seqs as u64 || of_tensor >= of_data { tensor } else { data }
        }) else {
            return Suggestion { fits: false, sentences: Vec::new(), options: Vec::new() };
        };
        let sequences = best.sequences(max_model_len);
        if sequences == 0 {
            return self.too_large(gpus, layouts);
        }
        let mut sentences = Vec::new();
        if let [tensor, data] = layouts {
            let choice = if std::ptr::eq(best, data) {
                "Attention in data parallel, experts shared out"
            } else {
                "Attention in tensor parallel, experts shared out: every GPU works on every sequence"
            };
            sentences.push(format!("{choice}."));
            sentences.push(format!(
                "The cache of a token is on all {} GPUs in tensor parallel, and on one in data parallel: {} or {} tokens.",
                gpus.count,
                grouped(tensor.num_tokens),
                grouped(data.num_tokens)
            ));
        } else if gpus.count > 1 {
            sentences.push(format!(
                "{} heads cannot be shared out evenly to {} GPUs: attention in data parallel, experts shared out.",
                self.config.num_attention_heads, gpus.count
            ));
        }
        sentences.push(if sequences >= max_num_seqs as u64 {
            format!("All {max_num_seqs} sequences fit at full length.")
        } else {
            format!(
                "{} of {max_num_seqs} sequences fit at full length; all of them with {} tokens each.",
                grouped(sequences),
                grouped(best.context(max_num_seqs))
            )
        });
        sentences.push("This version computes on the CPU: the plan is for when it computes on GPUs.".to_owned());
        Suggestion { fits: true, sentences, options: options(self.wish, max_model_len) }
    }

    /// Not one sequence of the full length fits: say what is too large, and what would do.
    fn too_large(&self, gpus: &GpuSet, layouts: &[Layout]) -> Suggestion {
        let max_model_len = self.wish.max_model_len;
        let least = layouts.iter().min_by_key(|layout| layout.budget.without_cache());
        let longest = layouts.iter().map(|layout| layout.context(1)).max().unwrap_or(0);
        let mut sentences = Vec::new();
        let mut options = Vec::new();
        if let Some(least) = least.filter(|_| longest == 0) {
            let budget = least.budget;
            sentences.push(format!(
                "It does not fit: each GPU would hold {} of weights and {} beside them, and has {}, of which {} are left in reserve.",
                size(budget.weights),
                size(budget.without_cache() - budget.weights - budget.reserve),
                size(gpus.memory_bytes),
                size(budget.reserve)
            ));
        } else {
            sentences.push(format!(
                "One sequence of {} tokens does not fit; the longest that fits has {} tokens.",
                grouped(max_model_len as u64),
                grouped(longest)
            ));
            options = self::options(self.wish, usize::try_from(longest).unwrap_or(max_model_len));
        }
        let enough = |count: usize| {
            let gpus = GpuSet { count, ..gpus.clone() };
            self.layouts(&gpus).into_iter().find(|layout| layout.sequences(max_model_len) > 0)
        };
        let found = (gpus.count + 1..=MAX_COUNT).find_map(|count| Some((count, enough(count)?)));
        sentences.push(match found {
            Some((count, layout)) => format!(
                "{count} × {} would hold it, {}, with {} sequences of {} tokens at once.",
                gpus.name,
                layout.name,
                layout.sequences(max_model_len),
                grouped(max_model_len as u64)
            ),
            None => format!("No number of {} up to {MAX_COUNT} would hold it.", gpus.name),
        });
        Suggestion { fits: false, sentences, options }
    }
}

fn options(wish: Wish, max_model_len: usize) -> Vec<String> {
    vec![
        format!("--max-model-len {max_model_len}"),
        format!("--max-num-seqs {}", wish.max_num_seqs),
        format!("--max-num-batched-tokens {}", wish.max_num_batched_tokens),
    ]
}

#[cfg(test)]
mod tests;
