//! What the engine tells a metrics recorder.
//!
//! There is no prefix cache and no speculation yet. Their metrics are there all the same, at the 0 that is the truth, so that a
//! dashboard made for the stable names finds them all.

use metrics::{Counter, Gauge, Histogram, Unit};

/// Handles to the engine's metrics. Taken once, from the recorder that is installed when the engine is made, because looking
/// a metric up costs more than updating it.
pub(crate) struct Metrics {
    pub(crate) requests_running: Gauge,
    pub(crate) requests_waiting: Gauge,
    pub(crate) kv_blocks_in_use: Gauge,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) preemptions: Counter,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) time_per_output_token: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) step: Histogram,
    pub(crate) grammar_mask: Histogram,
}

impl Metrics {
    pub(crate) fn register(num_blocks: usize) -> Self {
        metrics::describe_gauge!("cachalot_kv_blocks_total", Unit::Count, "Blocks of the KV cache");
        metrics::gauge!("cachalot_kv_blocks_total").set(num_blocks as f64);
        gauge("cachalot_kv_blocks_cached", "KV cache blocks that hold keys of ended requests, for later ones to use")
            .set(0.0);
        for (name, description) in [
            ("cachalot_prefix_cache_hit_tokens_total", "Prompt tokens whose keys were found in the prefix cache"),
            ("cachalot_spec_decode_draft_tokens_total", "Tokens drafted by the MTP module"),
            ("cachalot_spec_decode_accepted_tokens_total", "Drafted tokens that the model accepted"),
        ] {
            counter(name, description).absolute(0);
        }
        Metrics {
            requests_running: gauge("cachalot_requests_running", "Requests that hold KV cache blocks"),
            requests_waiting: gauge("cachalot_requests_waiting", "Accepted requests that hold no KV cache blocks"),
            kv_blocks_in_use: gauge("cachalot_kv_blocks_in_use", "KV cache blocks held by live requests"),
            prompt_tokens: counter("cachalot_prompt_tokens_total", "Tokens of the prompts that have been computed"),
            generated_tokens: counter("cachalot_generated_tokens_total", "Tokens generated"),
            preemptions: counter(
                "cachalot_preemptions_total",
                "Times that a request gave up its KV cache blocks to be computed again",
            ),
            time_to_first_token: histogram(
                "cachalot_time_to_first_token_seconds",
                "From the acceptance of a request to its first token",
            ),
            time_per_output_token: histogram(
                "cachalot_time_per_output_token_seconds",
                "Mean time between the tokens of a request, taken at its end; requests of one token have none",
            ),
            queue: histogram("cachalot_queue_seconds", "From the acceptance of a request to its first step"),
            step: histogram("cachalot_step_seconds", "Duration of a step: schedule, forward, sample"),
            grammar_mask: histogram(
                "cachalot_grammar_mask_seconds",
                "Computation of the mask of one token of one constrained request, beside the forward pass",
            ),
        }
    }
}

fn gauge(name: &'static str, description: &'static str) -> Gauge {
    metrics::describe_gauge!(name, Unit::Count, description);
    metrics::gauge!(name)
}

fn counter(name: &'static str, description: &'static str) -> Counter {
    metrics::describe_counter!(name, Unit::Count, description);
    metrics::counter!(name)
}

fn histogram(name: &'static str, description: &'static str) -> Histogram {
    metrics::describe_histogram!(name, Unit::Seconds, description);
    metrics::histogram!(name)
}
