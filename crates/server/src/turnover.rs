//! When it is worth to try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cachalot_engine::Report;

/// Weight of the latest request in the running mean.
const WEIGHT: f64 = 1.0 / 8.0;
/// Nobody is sent away for longer: requests end early, too.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How long requests run, as a running mean in seconds. When `n` of them run, one of them is expected to end, and to leave its
/// place to another, after the `n`-th part of that.
#[derive(Debug, Default)]
pub(crate) struct Turnover(Mutex<Option<f64>>);

impl Turnover {
    /// Learns from a request that has ended.
    pub(crate) fn note(&self, report: &Report) {
        let seconds = (report.end - report.first_scheduled).as_secs_f64();
        let mut mean = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *mean = Some(mean.map_or(seconds, |mean| mean + WEIGHT * (seconds - mean)));
    }

    /// When a place is expected to be free; in whole seconds, of which there is at least one.
    pub(crate) fn wait(&self, num_running: usize) -> Duration {
        let mean = self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        let seconds = (mean / num_running.max(1) as f64).ceil();
        Duration::from_secs_f64(seconds.clamp(1.0, MAX_WAIT.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_wait_is_what_one_of_the_running_requests_still_takes() {
        let turnover = Turnover::default();
        assert_eq!(turnover.wait(4), Duration::from_secs(1), "before anything is known");
        let arrival = Instant::now();
        let first_scheduled = arrival + Duration::from_secs(1000);
        let mut report = Report {
            num_cached_tokens: 0,
            num_drafted: Vec::new(),
            num_accepted: Vec::new(),
            num_preemptions: 0,
            arrival,
            first_scheduled,
            first_token: None,
            end: first_scheduled + Duration::from_secs(40),
        };
        turnover.note(&report);
        assert_eq!(turnover.wait(4), Duration::from_secs(10));
        assert_eq!(turnover.wait(3), Duration::from_secs(14));
        assert_eq!(turnover.wait(0), Duration::from_secs(40));
        report.end = first_scheduled + Duration::from_secs(120);
        turnover.note(&report);
        assert_eq!(turnover.wait(1), Duration::from_secs(50));
        (0..100).for_each(|_| turnover.note(&report));
        assert_eq!(turnover.wait(1), MAX_WAIT);
        assert_eq!(turnover.wait(1000), Duration::from_secs(1));
    }
}
