//! What the engine tells a metrics recorder.

use metrics::{Counter, Gauge, Histogram, Unit};

use crate::Limits;

/// Handles to the engine's metrics. Taken once, from the recorder that is installed when the engine is made, because looking
/// a metric up costs more than updating it.
pub(crate) struct Metrics {
    pub(crate) requests_running: Gauge,
    pub(crate) requests_waiting: Gauge,
    pub(crate) kv_blocks_in_use: Gauge,
    pub(crate) kv_blocks_cached: Gauge,
    pub(crate) prefix_cache_hit_tokens: Counter,
    pub(crate) draft_tokens: Counter,
    pub(crate) accepted_tokens: Counter,
    /// By place in the draft.
    pub(crate) drafted_at: Vec<Counter>,
    pub(crate) accepted_at: Vec<Counter>,
    pub(crate) faults: Counter,
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
    pub(crate) fn register(limits: &Limits) -> Self {
        metrics::describe_gauge!("cachalot_kv_blocks_total", Unit::Count, "Blocks of the KV cache");
        metrics::gauge!("cachalot_kv_blocks_total").set(limits.num_blocks as f64);
        Metrics {
            requests_running: gauge("cachalot_requests_running", "Requests that hold KV cache blocks"),
            requests_waiting: gauge("cachalot_requests_waiting", "Accepted requests that hold no KV cache blocks"),
            kv_blocks_in_use: gauge("cachalot_kv_blocks_in_use", "KV cache blocks held by live requests"),
            kv_blocks_cached: gauge(
                "cachalot_kv_blocks_cached",
                "KV cache blocks that hold keys of ended requests, for later ones to use",
            ),
            prefix_cache_hit_tokens: counter(
                "cachalot_prefix_cache_hit_tokens_total",
                "Prompt tokens whose keys were found in the prefix cache",
            ),
            draft_tokens: counter(
                "cachalot_spec_decode_draft_tokens_total",
                "Tokens drafted by the MTP module and verified by the model",
            ),
            accepted_tokens: counter(
                "cachalot_spec_decode_accepted_tokens_total",
                "Drafted tokens that the model accepted",
            ),
            drafted_at: per_position(
                "cachalot_spec_decode_draft_tokens_per_position_total",
                "Verified tokens of drafts, by their place in the draft from 0",
                limits.max_draft_tokens,
            ),
            accepted_at: per_position(
                "cachalot_spec_decode_accepted_tokens_per_position_total",
                "Accepted tokens of drafts, by their place in the draft from 0",
                limits.max_draft_tokens,
            ),
            faults: counter("cachalot_step_faults_total", "Steps that the model failed in"),
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

fn per_position(name: &'static str, description: &'static str, num_positions: usize) -> Vec<Counter> {
    metrics::describe_counter!(name, Unit::Count, description);
    (0..num_positions).map(|position| metrics::counter!(name, "position" => position.to_string())).collect()
}

fn histogram(name: &'static str, description: &'static str) -> Histogram {
    metrics::describe_histogram!(name, Unit::Seconds, description);
    metrics::histogram!(name)
}
