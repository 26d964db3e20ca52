//! How much of a prompt a step may take on beside sequences that generate.

use std::time::Duration;

/// A step with a chunk of a prompt may take this many times as long as one without.
const MAX_SLOWDOWN: f64 = 2.0;
/// Nobody minds a pause of so many seconds.
const SHORT_PAUSE: f64 = 0.01;
/// Prompts advance by at least this much per step, however slow they are.
const MIN_PROMPT_TOKENS: usize = 16;
/// One step in so many goes without prompts, so that it is known what they add.
const MEASURE_EVERY: u32 = 32;
/// Weight of the latest step in the running means.
const WEIGHT: f64 = 0.1;

/// Learns from the times of steps what a prompt token costs, and what a step costs without any.
///
/// Who reads a stream notices the longest pause between two tokens. A chunk that fills the step can take a hundred times as
/// long as a token of every running sequence; so beside sequences that generate, prompts get no more tokens than fit into the
/// time of the step itself. That halves the speed of streams at worst, and gives prompts half of the time at least.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Seconds of a step without prompt tokens.
    step_seconds: Option<f64>,
    seconds_per_prompt_token: Option<f64>,
    /// Steps in which others generated, since one went without prompt tokens.
    num_unmeasured: u32,
}

impl Pace {
    /// Learns from a step.
    pub(crate) fn note(&mut self, num_generating: usize, num_prompt_tokens: usize, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let learn = |mean: &mut Option<f64>, seconds: f64| match mean {
            Some(mean) => *mean += WEIGHT * (seconds - *mean),
            None => *mean = Some(seconds),
        };
        if num_prompt_tokens == 0 {
            learn(&mut self.step_seconds, seconds);
            self.num_unmeasured = 0;
        } else {
            let without = if num_generating > 0 { self.step_seconds.unwrap_or(0.0) } else { 0.0 };
            learn(&mut self.seconds_per_prompt_token, (seconds - without).max(0.0) / num_prompt_tokens as f64);
            self.num_unmeasured += u32::from(num_generating > 0);
        }
    }

    /// How many of `num_tokens` prompt tokens a step may take on in which others generate.
    pub(crate) fn limit(&self, num_tokens: usize) -> usize {
        let pause = ((MAX_SLOWDOWN - 1.0) * self.step_seconds.unwrap_or(0.0)).max(SHORT_PAUSE);
        // By the saturation of `as`, what costs nothing is not limited.
        let num_affordable = (pause / self.seconds_per_prompt_token.unwrap_or(0.0)) as usize;
        if num_affordable >= num_tokens {
            num_tokens
        } else if self.num_unmeasured >= MEASURE_EVERY {
            0
        } else {
            num_affordable.max(MIN_PROMPT_TOKENS).min(num_tokens)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 100_000;

    #[test]
    fn a_chunk_takes_as_long_as_the_step_beside_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.limit(MANY), MANY, "nothing is known");
        pace.note(0, 1000, Duration::from_secs(1));
        assert_eq!(pace.limit(MANY), 16, "a millisecond for each token");
        assert_eq!(pace.limit(7), 7);
        pace.note(4, 0, Duration::from_millis(100));
        assert_eq!((pace.limit(MANY), pace.limit(50)), (100, 50));
        // A step with both: what the prompt adds is what counts.
        for _ in 0..MEASURE_EVERY {
            assert!(pace.limit(MANY) > 0);
            pace.note(4, 100, Duration::from_millis(150));
        }
        assert_eq!((pace.limit(MANY), pace.limit(50)), (0, 50), "it is time to measure a step without prompts");
        pace.note(4, 0, Duration::from_millis(100));
        assert!((180..=200).contains(&pace.limit(MANY)), "{}", pace.limit(MANY));
    }

    #[test]
    fn short_steps_are_not_held_back() {
        let mut pace = Pace::default();
        pace.note(1, 0, Duration::from_micros(10));
        pace.note(1, 2000, Duration::from_millis(2));
        assert!(pace.limit(MANY) > 9000);
        assert_eq!(pace.limit(2000), 2000);
        pace.note(1, 50, Duration::ZERO);
        assert!(pace.limit(MANY) > 9000);
    }
}
