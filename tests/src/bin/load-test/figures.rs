//! The figures of a run.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Load, Plan, Sample};

/// Times are in milliseconds, of plain readers that arrived after the warm-up. A wait is the time from one arrival of tokens to
/// the next; tokens that come in one read are one arrival.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) num_plain: usize,
    pub(crate) num_hang_up: usize,
    pub(crate) num_slow: usize,
    pub(crate) num_rubbish: usize,
    pub(crate) mean_open: f64,
    pub(crate) generated_per_s: f64,
    pub(crate) prompt_per_s: f64,
    pub(crate) num_preemptions: f64,
    pub(crate) first_token_p50_ms: f64,
    pub(crate) first_token_p99_ms: f64,
    pub(crate) wait_p50_ms: f64,
    pub(crate) wait_p99_ms: f64,
    pub(crate) num_waits: usize,
    pub(crate) tokens_per_wait: f64,
    /// How late this program was itself.
    pub(crate) lag_p99_ms: f64,
    pub(crate) server_cores: Option<f64>,
    pub(crate) own_cores: f64,
    pub(crate) rss_warm_bytes: Option<u64>,
    pub(crate) rss_end_bytes: Option<u64>,
    pub(crate) drain_s: f64,
}

impl Figures {
    pub(crate) fn new(load: &mut Load, plan: Plan) -> Self {
        let elapsed_s = plan.duration.as_secs_f64();
        let warm = || load.samples.iter().filter(|sample| sample.at >= plan.warm_up);
        let num_open: usize = warm().map(|sample| sample.num_open).sum();
        let mean_open = num_open as f64 / warm().count().max(1) as f64;
        let window = (plan.duration / 20).max(Duration::from_secs(3));
        let rss_warm_bytes = median_rss(warm().filter(|sample| sample.at < plan.warm_up + window));
        let rss_end_bytes = median_rss(warm().filter(|sample| sample.at + window >= plan.duration));
        let behaviours = &load.tally.behaviours;
        let count = |name: &str| behaviours.get(name).copied().unwrap_or(0);
        let num_waits = load.tally.waits.0.len();
        Figures {
            num_plain: count("plain"),
            num_hang_up: count("hang up"),
            num_slow: count("slow readers"),
            num_rubbish: count("rubbish"),
            mean_open,
            generated_per_s: load.used.num_generated / elapsed_s,
            prompt_per_s: load.used.num_prompt / elapsed_s,
            num_preemptions: load.used.num_preemptions,
            first_token_p50_ms: load.tally.first_token.percentile_ms(50),
            first_token_p99_ms: load.tally.first_token.percentile_ms(99),
            wait_p50_ms: load.tally.waits.percentile_ms(50),
            wait_p99_ms: load.tally.waits.percentile_ms(99),
            num_waits,
            tokens_per_wait: load.tally.num_waited_tokens as f64 / num_waits.max(1) as f64,
            lag_p99_ms: load.lag.percentile_ms(99),
            server_cores: load.used.server_cpu_s.map(|seconds| seconds / elapsed_s),
            own_cores: load.used.own_cpu_s / elapsed_s,
            rss_warm_bytes,
            rss_end_bytes,
            drain_s: load.drain.as_secs_f64(),
        }
    }

    /// How far the slowest waits are from the usual ones.
    pub(crate) fn latency_ratio(&self) -> f64 {
        self.wait_p99_ms / self.wait_p50_ms.max(1e-3)
    }

    /// How much the memory has grown since the warm-up, as a share.
    pub(crate) fn rss_growth(&self) -> Option<f64> {
        Some(self.rss_end_bytes? as f64 / self.rss_warm_bytes? as f64 - 1.0)
    }
}

fn median_rss<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<u64> {
    let mut bytes: Vec<u64> = samples.filter_map(|sample| sample.rss_bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).copied()
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, text: String| writeln!(f, "{name:<24}{text}");
        row(
            "requests",
            format!(
                "{} plain, {} hang up, {} read slowly, {} rubbish",
                self.num_plain, self.num_hang_up, self.num_slow, self.num_rubbish
            ),
        )?;
        row("open streams", format!("{:.0} in the mean", self.mean_open))?;
        row(
            "throughput",
            format!(
                "{:.0} generated and {:.0} prompt tokens/s, {:.0} preemptions",
                self.generated_per_s, self.prompt_per_s, self.num_preemptions
            ),
        )?;
        row(
            "time to first token",
            format!("p50 {:.0} ms, p99 {:.0} ms", self.first_token_p50_ms, self.first_token_p99_ms),
        )?;
        row(
            "between tokens",
            format!(
                "p50 {:.1} ms, p99 {:.1} ms, ratio {:.1}, over {} waits of {:.2} tokens",
                self.wait_p50_ms,
                self.wait_p99_ms,
                self.latency_ratio(),
                self.num_waits,
                self.tokens_per_wait
            ),
        )?;
        row("lag of this program", format!("p99 {:.1} ms", self.lag_p99_ms))?;
        let server_cores = self.server_cores.map_or("unknown".to_owned(), |cores| format!("{cores:.2}"));
        row("cores", format!("server {server_cores}, this program {:.2}", self.own_cores))?;
        let mib = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        row("RSS", format!("{} after the warm-up, {} at the end", mib(self.rss_warm_bytes), mib(self.rss_end_bytes)))?;
        row("after the last arrival", format!("{:.1} s to the last end", self.drain_s))
    }
}
