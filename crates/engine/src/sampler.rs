//! From logits to a token.
//!
//! The steps, in this order: `logit_bias`, repetition, presence and frequency penalties, the ban of stop tokens before
//! `min_tokens`; then greedy choice, or temperature, `top_k`, `top_p`, `min_p` and a draw. Log-probabilities are those of the
//! model itself, before all of this.
//!
//! The draw walks through the kept tokens in the order of their ids with the request's own random number
//! ([`random`](crate::random)), so what is chosen depends on the row, the parameters, the seed and the number of tokens
//! generated before, and on nothing else. The vocabulary is never sorted.

use std::collections::{HashMap, HashSet};

use crate::candidates::Candidates;
use crate::row::{self, Peak};
use crate::{Logprob, PositionLogprobs, SamplingParams, random};

/// Why no token can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    /// The model's output is unusable.
    #[error("the model computed logits that are not finite (NaN or +infinity); no token can be chosen")]
    NotFinite,
    /// Every token has probability 0.
    #[error(
        "every token is ruled out: all logits are -infinity, by the model or because all are stop tokens before min_tokens"
    )]
    NothingLeft,
}

/// How often tokens occur in a sequence. Empty if no penalty wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenCounts {
    is_wanted: bool,
    in_prompt: HashSet<u32>,
    in_output: HashMap<u32, u32>,
}

impl TokenCounts {
    pub(crate) fn new(sampling: &SamplingParams, prompt_ids: &[u32]) -> Self {
        let &SamplingParams { presence_penalty, frequency_penalty, repetition_penalty, .. } = sampling;
        let is_wanted = presence_penalty != 0.0 || frequency_penalty != 0.0 || repetition_penalty != 1.0;
        let in_prompt = if repetition_penalty != 1.0 { prompt_ids.iter().copied().collect() } else { HashSet::new() };
        TokenCounts { is_wanted, in_prompt, in_output: HashMap::new() }
    }

    /// Counts a generated token.
    pub(crate) fn push(&mut self, id: u32) {
        if self.is_wanted {
            *self.in_output.entry(id).or_default() += 1;
        }
    }
}

/// Chooses tokens. Holds scratch memory only.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// Logits after bias, penalties and bans.
    processed: Vec<f32>,
    /// Probabilities up to a factor.
    weights: Vec<f32>,
    /// Sums of the chunks of `weights`.
    sums: Vec<f64>,
    candidates: Candidates,
}

impl Sampler {
    /// Chooses the token that follows `num_generated` generated ones.
    ///
    /// # Shapes
    /// - `logits`: `[vocab_size]`
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        sampling: &SamplingParams,
        counts: &TokenCounts,
        num_generated: usize,
    ) -> Result<u32, SampleError> {
        let raw_peak = row::peak(logits)?;
        let bans_stops = num_generated < sampling.min_tokens as usize;
        if sampling.logit_bias.is_empty() && !counts.is_wanted && !bans_stops {
            return self.choose(logits, raw_peak, sampling, num_generated);
        }
        let mut processed = std::mem::take(&mut self.processed);
        processed.clear();
        processed.extend_from_slice(logits);
        process(&mut processed, sampling, counts, bans_stops);
        let choice = row::peak(&processed).and_then(|peak| self.choose(&processed, peak, sampling, num_generated));
        self.processed = processed;
        choice
    }

    fn choose(
        &mut self,
        logits: &[f32],
        peak: Peak,
        sampling: &SamplingParams,
        num_generated: usize,
    ) -> Result<u32, SampleError> {
        if sampling.temperature == 0.0 {
            return Ok(peak.id);
        }
        // The reciprocal of the smallest temperatures is infinite, and would turn the peak's 0 into NaN.
        let scale = (1.0 / sampling.temperature).min(f32::MAX);
        self.weigh(logits, peak.logit, scale);
        let mut total = row::chunk_sums(&self.weights, &mut self.sums);
        if self.keep(logits, sampling, total) {
            self.weights.fill(0.0);
            for candidate in self.candidates.iter() {
                self.weights[candidate.id() as usize] = candidate.weight;
            }
            total = row::chunk_sums(&self.weights, &mut self.sums);
        }
        Ok(self.draw(random::uniform(sampling.seed, num_generated as u64) * total))
    }

    fn weigh(&mut self, logits: &[f32], max: f32, scale: f32) {
        self.weights.resize(logits.len(), 0.0);
        row::exponentials(logits, max, scale, &mut self.weights);
    }

    /// Collects the tokens that `top_k`, `top_p` and `min_p` keep, the best always among them. False if they keep all.
    fn keep(&mut self, logits: &[f32], sampling: &SamplingParams, total: f64) -> bool {
        let &SamplingParams { top_p, min_p, .. } = sampling;
        let candidates = &mut self.candidates;
        match sampling.top_k.map(|k| k as usize).filter(|&k| k < logits.len()) {
            Some(k) => {
                candidates.take_top_k(logits, &self.weights, k);
                // Of the probability that is left, as filters act one after the other.
                if top_p < 1.0 {
                    candidates.keep_top_p(top_p, candidates.total_weight());
                }
            }
            None if top_p < 1.0 => {
                candidates.take_for_top_p(logits, &self.weights, top_p, total);
                candidates.keep_top_p(top_p, total);
            }
            None if min_p > 0.0 => candidates.take_heavy(logits, &self.weights, min_p),
            None => return false,
        }
        // The best token weighs 1.
        candidates.keep_heavy(min_p);
        true
    }

    /// The token at which the running sum of the weights passes `target`, a number from 0 to less than the sum of all.
    fn draw(&self, mut target: f64) -> u32 {
        let mut start = 0;
        for (&sum, chunk_start) in self.sums.iter().zip((0..).step_by(row::CHUNK)).filter(|(sum, _)| **sum > 0.0) {
            start = chunk_start;
            if target < sum {
                break;
            }
            target -= sum;
        }
        // The weights of a chunk add up to its sum but for the rounding: where that leaves the target beyond them, it is the
        // last of them that was meant.
        let mut id = start as u32;
        for (&weight, weight_id) in self.weights[start..].iter().zip(start as u32..).take(row::CHUNK) {
            if weight > 0.0 {
                id = weight_id;
                target -= f64::from(weight);
                if target < 0.0 {
                    break;
                }
            }
        }
        id
    }

    /// The log-probability of `token_id` and of the `num_top` likeliest tokens: `logits[i] − ln Σ_j exp(logits[j])`.
    pub(crate) fn logprobs(
        &mut self,
        logits: &[f32],
        token_id: u32,
        num_top: u8,
    ) -> Result<PositionLogprobs, SampleError> {
        let max = row::peak(logits)?.logit;
        self.weigh(logits, max, 1.0);
        let log_sum = row::chunk_sums(&self.weights, &mut self.sums).ln();
        let logprob = |id: u32| {
            let logprob = (f64::from(logits[id as usize]) - f64::from(max) - log_sum) as f32;
            Logprob { id, logprob }
        };
        let mut top = Vec::with_capacity(num_top.into());
        if num_top > 0 {
            self.candidates.take_top_k(logits, &self.weights, num_top.into());
            self.candidates.sort();
            top.extend(self.candidates.iter().map(|candidate| logprob(candidate.id())));
        }
        Ok(PositionLogprobs { token: logprob(token_id), top })
    }
}

/// Applies bias, penalties and bans. A logit that overflows stays the largest finite number, so that it wins; one that
/// overflows downwards is as good as banned.
fn process(logits: &mut [f32], sampling: &SamplingParams, counts: &TokenCounts, bans_stops: bool) {
    for (&id, bias) in &sampling.logit_bias {
        let logit = &mut logits[id as usize];
        *logit = (*logit + bias).min(f32::MAX);
    }
    let penalty = sampling.repetition_penalty;
    if penalty != 1.0 {
        let output_only = counts.in_output.keys().filter(|id| !counts.in_prompt.contains(id));
        for &id in counts.in_prompt.iter().chain(output_only) {
            let logit = &mut logits[id as usize];
            *logit = (if *logit > 0.0 { *logit / penalty } else { *logit * penalty }).min(f32::MAX);
        }
    }
    for (&id, &count) in &counts.in_output {
        let logit = &mut logits[id as usize];
        let penalty = sampling.presence_penalty + sampling.frequency_penalty * count as f32;
        *logit = (*logit - penalty).min(f32::MAX);
    }
    if bans_stops {
        let eos_token_ids: &[u32] = if sampling.ignore_eos { &[] } else { &sampling.eos_token_ids };
        for &id in sampling.stop_token_ids.iter().chain(eos_token_ids) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
