//! What has been counted and timed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::answer::Answer;
use crate::client::{Behaviour, Outcome, Times};
use crate::question::Question;

/// The sum of all outcomes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests by what their clients do.
    pub(crate) behaviours: BTreeMap<&'static str, usize>,
    pub(crate) num_greedy_equal: usize,
    pub(crate) num_sampled_equal: usize,
    /// Index of the question, and an answer that is not the one it gets alone.
    pub(crate) different: Vec<(usize, Answer)>,
    /// What error events said.
    pub(crate) failed: Vec<String>,
    pub(crate) num_refused: usize,
    pub(crate) num_hung_up: usize,
    pub(crate) num_rubbish_refused: usize,
    /// What must not happen, rubbish apart.
    pub(crate) broken: Vec<String>,
    /// Rubbish that was not answered as it should be.
    pub(crate) broken_rubbish: Vec<String>,
    pub(crate) first_token: Timings,
    pub(crate) waits: Timings,
    /// Tokens that came in those waits.
    pub(crate) num_waited_tokens: usize,
}

impl Tally {
    /// Adds an outcome; its times only if they are to be `measured`.
    pub(crate) fn add(
        &mut self,
        index: usize,
        question: &Question,
        behaviour: &Behaviour,
        (outcome, times): (Outcome, Times),
        measured: bool,
    ) {
        *self.behaviours.entry(behaviour.name()).or_default() += 1;
        match outcome {
            Outcome::Answered(answer) if answer != question.answer => self.different.push((index, answer)),
            Outcome::Answered(_) if question.is_greedy => self.num_greedy_equal += 1,
            Outcome::Answered(_) => self.num_sampled_equal += 1,
            Outcome::Failed(message) => self.failed.push(message),
            Outcome::Refused => self.num_refused += 1,
            Outcome::HungUp => self.num_hung_up += 1,
            Outcome::RubbishRefused => self.num_rubbish_refused += 1,
            Outcome::Broken(message) if matches!(behaviour, Behaviour::Rubbish(_)) => self.broken_rubbish.push(message),
            Outcome::Broken(message) => self.broken.push(format!("{}: {message}", behaviour.name())),
        }
        if measured && matches!(behaviour, Behaviour::Plain) && question.has_ids {
            self.first_token.0.extend(times.first_token);
            self.waits.0.extend(times.waits);
            self.num_waited_tokens += times.num_later_tokens;
        }
    }

    /// Answers that came to their end, right or wrong.
    pub(crate) fn num_answered(&self) -> usize {
        self.num_greedy_equal + self.num_sampled_equal + self.different.len()
    }
}

/// A set of times.
#[derive(Debug, Default)]
pub(crate) struct Timings(pub(crate) Vec<Duration>);

impl Timings {
    /// The time in milliseconds that `percent` of them do not exceed; 0 if there are none.
    pub(crate) fn percentile_ms(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let mut timings = Timings((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!([50, 99, 100].map(|percent| timings.percentile_ms(percent)), [100.0, 198.0, 200.0]);
        assert_eq!(Timings::default().percentile_ms(99), 0.0);
    }
}
