//! How long drafts are.
//!
//! A draft of `k` tokens makes a step longer: `k` more rows for each sequence, and `k − 1` more passes of the MTP module. It yields
//! `1 + a₁ + a₁a₂ + … + a₁⋯a_k` tokens per sequence instead of one, where `aᵢ` is the probability that the `i`-th drafted token is
//! right if those before it are. [`DraftDepth`] learns both sides from what happens, and takes the `k` with the most tokens per
//! second. That also covers the size of the batch: what a row adds to a step depends on how many there are.
//!
//! Drafts are the module's likeliest tokens. With such a draft `d` of a final distribution `p`, rejection sampling accepts `d` with
//! probability `p(d)`, and else takes a token from `p` without `d`: that is a draw from `p`, compared with `d`. So the engine
//! draws every token as it always does, with the number that belongs to the request and the position, and a draft only decides
//! how many can be drawn from one step. The output is the same token for token, whatever the parameters.
//!
//! # Source
//! Rejection sampling for drafts: Leviathan, Kalman, Matias, "Fast inference from transformers via speculative decoding", 2023.

use std::time::Duration;

/// The longest draft that is tried without being asked for.
pub(crate) const MAX_AUTO_DRAFT_TOKENS: usize = 4;

/// Weight of the latest draft in the running means of acceptance, once there have been many.
const ACCEPTANCE_WEIGHT: f64 = 0.02;
/// What is thought of a module before anything is known: enough to try. It counts as much as two drafts.
const FIRST_ACCEPTANCE: f64 = 0.7;
/// One step in so many drafts a token more than seems best, so that it stays known what that would bring.
const EXPLORE_EVERY: u64 = 32;
/// A draft must promise so much more than none: what is known about costs is not exact.
const LEAST_GAIN: f64 = 1.03;
/// Weight of the latest step in what is known about costs.
const COST_WEIGHT: f64 = 0.05;

/// Chooses the length of the next draft.
#[derive(Debug)]
pub(crate) struct DraftDepth {
    /// `None` if the length is fixed.
    auto: Option<Auto>,
    max: usize,
}

#[derive(Debug)]
struct Auto {
    /// Entry `i`: how often the `i`-th token of a draft is right if those before it are.
    acceptance: Vec<f64>,
    /// Entry `i`: how often that has been seen.
    num_seen: Vec<u32>,
    step: Cost,
    pass: Cost,
    num_choices: u64,
}

/// Seconds as a line over the number of rows, by least squares with a fading memory.
#[derive(Debug, Default)]
struct Cost {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_squared: f64,
    rows_seconds: f64,
}

impl DraftDepth {
    /// Drafts of a fixed length.
    pub(crate) fn fixed(num_tokens: usize) -> Self {
        DraftDepth { auto: None, max: num_tokens }
    }

    /// Drafts of whatever length is worth it, up to `max`.
    pub(crate) fn auto(max: usize) -> Self {
        let auto = Auto {
            acceptance: vec![FIRST_ACCEPTANCE; max],
            num_seen: vec![0; max],
            step: Cost::default(),
            pass: Cost::default(),
            num_choices: 0,
        };
        DraftDepth { auto: Some(auto), max }
    }

    /// The length for a step of so many sequences.
    pub(crate) fn choose(&mut self, num_seqs: usize) -> usize {
        let Some(auto) = &mut self.auto else { return self.max };
        auto.num_choices += 1;
        let best = (0..=self.max)
            .max_by(|&a, &b| auto.tokens_per_second(a, num_seqs).total_cmp(&auto.tokens_per_second(b, num_seqs)))
            .unwrap_or(0);
        let explores = auto.num_choices.is_multiple_of(EXPLORE_EVERY);
        (best + usize::from(explores)).min(self.max)
    }

    /// Learns from a draft of which so many tokens were right.
    pub(crate) fn note_draft(&mut self, num_drafted: usize, num_accepted: usize) {
        let Some(auto) = &mut self.auto else { return };
        // The first wrong one tells nothing about those after it.
        let Auto { acceptance, num_seen, .. } = auto;
        for place in 0..num_drafted.min(num_accepted + 1) {
            let was_right = f64::from(u8::from(place < num_accepted));
            let weight = (1.0 / (3.0 + f64::from(num_seen[place]))).max(ACCEPTANCE_WEIGHT);
            acceptance[place] += weight * (was_right - acceptance[place]);
            num_seen[place] = num_seen[place].saturating_add(1);
        }
    }

    /// Learns what a pass of the main model over so many rows cost, none of them a prompt's.
    pub(crate) fn note_step(&mut self, num_rows: usize, elapsed: Duration) {
        if let Some(auto) = &mut self.auto {
            auto.step.note(num_rows, elapsed);
        }
    }

    /// Learns what a pass of the MTP module over so many rows cost.
    pub(crate) fn note_pass(&mut self, num_rows: usize, elapsed: Duration) {
        if let Some(auto) = &mut self.auto {
            auto.pass.note(num_rows, elapsed);
        }
    }
}

impl Auto {
    /// What drafts of `depth` tokens would yield for each of `num_seqs` sequences, less what they must bring at least.
    /// The pass that takes over the true hidden
    /// states comes with every step, and gives the first token of a draft as well.
    fn tokens_per_second(&self, depth: usize, num_seqs: usize) -> f64 {
        let mut num_tokens = 1.0;
        let mut all_right = 1.0;
        for acceptance in &self.acceptance[..depth] {
            all_right *= acceptance;
            num_tokens += all_right;
        }
        let step = self.step.predict(num_seqs * (1 + depth));
        let passes = self.pass.predict(num_seqs) * depth.max(1) as f64;
        let least_gain = if depth > 0 { LEAST_GAIN } else { 1.0 };
        num_tokens / (step + passes) / least_gain
    }
}

impl Cost {
    fn note(&mut self, num_rows: usize, elapsed: Duration) {
        let (x, y) = (num_rows as f64, elapsed.as_secs_f64());
        let fade = |sum: &mut f64, value: f64| *sum += COST_WEIGHT * (value - *sum);
        fade(&mut self.weight, 1.0);
        fade(&mut self.rows, x);
        fade(&mut self.seconds, y);
        fade(&mut self.rows_squared, x * x);
        fade(&mut self.rows_seconds, x * y);
    }

    /// Seconds for so many rows. Before anything is known, a row costs next to nothing: nothing speaks against trying.
    fn predict(&self, num_rows: usize) -> f64 {
        if self.weight == 0.0 {
            return 1.0;
        }
        let mean = |sum: f64| sum / self.weight;
        let (rows, seconds) = (mean(self.rows), mean(self.seconds));
        let variance = mean(self.rows_squared) - rows * rows;
        let covariance = mean(self.rows_seconds) - rows * seconds;
        // Rows never make a step cheaper, and a step of no rows never costs less than nothing.
        let slope = if variance > 1e-9 { (covariance / variance).clamp(0.0, seconds / rows) } else { 0.0 };
        (seconds + slope * (num_rows as f64 - rows)).max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of `num_seqs` sequences whose drafts are right with the given probabilities, under costs in milliseconds; the
    /// depths chosen in the latest of them, those of exploration left out.
    fn settle(num_seqs: usize, acceptance: [f64; 4], step: impl Fn(usize) -> f64, pass: f64) -> usize {
        let mut depth = DraftDepth::auto(4);
        let mut random = 1u64;
        let mut uniform = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        let milliseconds = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        let mut chosen = [0; 5];
        for round in 0..3000 {
            let k = depth.choose(num_seqs);
            if round >= 2000 {
                chosen[k] += 1;
            }
            depth.note_step(num_seqs * (1 + k), milliseconds(step(num_seqs * (1 + k))));
            (0..k.max(1)).for_each(|_| depth.note_pass(num_seqs, milliseconds(pass)));
            for _ in 0..num_seqs {
                let num_accepted = acceptance[..k].iter().take_while(|&&a| uniform() < a).count();
                depth.note_draft(k, num_accepted);
            }
        }
        (0..5).max_by_key(|&k| chosen[k]).unwrap()
    }

    #[test]
    fn the_depth_is_what_yields_most() {
        // A step that costs the same for any number of rows, and passes of 5 %: every token that is likely enough is worth it.
        let flat = |_| 20.0;
        assert_eq!(settle(1, [0.95, 0.9, 0.9, 0.9], flat, 1.0), 4);
        assert_eq!(settle(1, [0.9, 0.8, 0.01, 0.9], flat, 1.0), 2);
        // What is hardly ever right is left, even where it costs nothing.
        assert_eq!(settle(1, [0.02, 0.9, 0.9, 0.9], flat, 1.0), 0);
        assert_eq!(settle(1, [0.1, 0.1, 0.1, 0.1], flat, 1.0), 1);
        // Rows that cost as much as steps: a draft must be right nearly always.
        let linear = |rows| 20.0 * rows as f64;
        assert_eq!(settle(1, [0.8, 0.8, 0.8, 0.8], linear, 1.0), 0);
        assert_eq!(settle(16, [0.8, 0.8, 0.8, 0.8], linear, 1.0), 0);
        // Rows are for free up to 32.
        let bounded = |rows: usize| 20.0 + (rows as f64 - 32.0).max(0.0);
        assert_eq!(settle(8, [0.8, 0.8, 0.8, 0.8], bounded, 0.2), 3);
        assert_eq!(settle(32, [0.5, 0.4, 0.4, 0.4], bounded, 0.2), 0);
    }

    #[test]
    fn a_fixed_depth_is_fixed() {
        let mut depth = DraftDepth::fixed(3);
        depth.note_draft(3, 0);
        depth.note_step(4, Duration::from_secs(9));
        assert_eq!(depth.choose(1), 3);
    }
}
