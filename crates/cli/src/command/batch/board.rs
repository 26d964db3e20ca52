//! How a batch goes on: a bar on a terminal, a line every few seconds elsewhere, and a summary at the end.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use cachalot_engine::EngineStats;
use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;

/// How often a line is logged where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Rates are those of the latest past, because requests that are alike often stand together.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Counts, and shows them.
pub(super) struct Board {
    bar: ProgressBar,
    next_line: Option<Instant>,
    started: Instant,
    num_requests: u64,
    num_answered_before: u64,
    num_good: u64,
    num_failed: u64,
    usage: Usage,
    generated: Rate,
    prompt: Rate,
}

/// The token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    /// `/v1/responses` has its own names.
    #[serde(alias = "input_tokens")]
    prompt_tokens: u64,
    #[serde(alias = "output_tokens")]
    completion_tokens: u64,
}

impl Board {
    /// Starts where `num_answered_before` of `num_requests` have their answer.
    pub(super) fn start(num_answered_before: u64, num_requests: u64) -> Self {
        let on_terminal = io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(num_requests), target)
            .with_style(ProgressStyle::with_template("[{wide_bar}] {msg}").expect("the template is constant and valid"))
            .with_position(num_answered_before);
        let started = Instant::now();
        Board {
            bar,
            next_line: (!on_terminal).then(|| started + LINE_INTERVAL),
            started,
            num_requests,
            num_answered_before,
            num_good: 0,
            num_failed: 0,
            usage: Usage::default(),
            generated: Rate::default(),
            prompt: Rate::default(),
        }
    }

    /// A request was answered as it wished.
    pub(super) fn count_good(&mut self, usage: Usage) {
        self.num_good += 1;
        self.usage.prompt_tokens += usage.prompt_tokens;
        self.usage.completion_tokens += usage.completion_tokens;
    }

    /// A request was refused, or failed.
    pub(super) fn count_failed(&mut self) {
        self.num_failed += 1;
    }

    /// Requests that have an answer by now, from this run and those before.
    pub(super) fn num_answered(&self) -> u64 {
        self.num_answered_before + self.num_good + self.num_failed
    }

    /// Requests of the whole batch.
    pub(super) fn num_requests(&self) -> u64 {
        self.num_requests
    }

    /// Shows how things are. `stats` count tokens of requests that are not done yet as well.
    pub(super) fn show(&mut self, stats: &EngineStats) {
        let now = Instant::now();
        self.generated.note(now, stats.num_generated_tokens);
        self.prompt.note(now, stats.num_prompt_tokens);
        if let Some(next_line) = &mut self.next_line {
            if now >= *next_line {
                *next_line = now + LINE_INTERVAL;
                tracing::info!("{}, {:.0} tokens/s of prompts", self.status(now), self.prompt.per_second());
            }
        } else {
            self.bar.set_position(self.num_answered());
            self.bar.set_message(self.status(now));
        }
    }

    /// Short, so that it has room beside the bar.
    fn status(&self, now: Instant) -> String {
        let left = self.time_left(now - self.started).map_or_else(
            || "unknown time left".to_owned(),
            |left| format!("{} left", FormattedDuration(Duration::from_secs(left.as_secs()))),
        );
        format!(
            "{}/{} requests, {} failed, {:.0} tokens/s, {left}",
            self.num_answered(),
            self.num_requests,
            self.num_failed,
            self.generated.per_second(),
        )
    }

    /// As if the rest took as long as what this run has done.
    fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        let num_done = self.num_good + self.num_failed;
        let num_left = self.num_requests - self.num_answered();
        (num_done > 0).then(|| elapsed.mul_f64(num_left as f64 / num_done as f64))
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// What has become of the batch, in lines for people.
    pub(super) fn summary(&self) -> String {
        if self.num_good + self.num_failed == 0 {
            return format!("{} requests: {} answered before\n", self.num_requests, self.num_answered_before);
        }
        let before = match self.num_answered_before {
            0 => String::new(),
            before => format!(", {before} answered before"),
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let Usage { prompt_tokens, completion_tokens } = self.usage;
        format!(
            "{} requests: {} answered, {} failed{before}\n\
             {prompt_tokens} prompt tokens and {completion_tokens} generated tokens in {seconds:.1} s, \
             {:.1} generated tokens/s\n",
            self.num_requests,
            self.num_good,
            self.num_failed,
            completion_tokens as f64 / seconds,
        )
    }
}

/// How fast a count grows.
#[derive(Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn note(&mut self, now: Instant, count: u64) {
        self.samples.push_back((now, count));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, first)), Some((to, last))) if to > from => (last - first) as f64 / (*to - *from).as_secs_f64(),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_latest_past() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        let steps = [(0, 100, 0.0), (4, 140, 10.0), (10, 200, 10.0), (15, 200, 60.0 / 11.0), (30, 230, 2.0)];
        for (seconds, count, expected) in steps {
            rate.note(start + Duration::from_secs(seconds), count);
            assert!((rate.per_second() - expected).abs() < 1e-9, "after {seconds} s: {}", rate.per_second());
        }
        assert_eq!(rate.samples.len(), 2, "the past is forgotten");
    }

    #[test]
    fn the_time_left_follows_from_this_run_alone() {
        let mut board = Board::start(60, 100);
        assert_eq!(board.summary(), "100 requests: 60 answered before\n");
        let elapsed = Duration::from_secs(8);
        assert_eq!(board.time_left(elapsed), None);
        (0..5).for_each(|_| board.count_good(Usage::default()));
        (0..3).for_each(|_| board.count_failed());
        assert_eq!(board.time_left(elapsed), Some(Duration::from_secs(32)));
        assert_eq!(board.num_answered(), 68);
        let status = board.status(board.started + elapsed);
        assert!(status.starts_with("68/100 requests, 3 failed, "), "{status}");
        assert!(status.ends_with(", 00:00:32 left"), "{status}");
        assert!(board.summary().starts_with("100 requests: 5 answered, 3 failed, 60 answered before\n"));
    }
}
