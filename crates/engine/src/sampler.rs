//! From logits to a token.
//!
//! The steps, in this order: `logit_bias`, repetition, presence and frequency penalties, the ban of stop tokens before
//! `min_tokens`, the mask of the request's constraint; then greedy choice, or temperature, `top_k`, `top_p`, `min_p` and a draw. Log-probabilities are those of the
//! model itself, before all of this.
//!
//! The draw walks through the kept tokens in the order of their ids with the request's own random number
//! ([`random`](crate::random)), so what is chosen depends on the row, the parameters, the seed and the number of tokens
//! generated before, and on nothing else. The vocabulary is never sorted.

use std::collections::{HashMap, HashSet};

use crate::candidates::Candidates;
use crate::row::{self, Peak};
use crate::{ConstraintError, Logprob, PositionLogprobs, SamplingParams, TokenMask, random};

/// Why no token can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    /// The model's output is unusable.
    #[error("the model computed logits that are not finite (NaN or +infinity); no token can be chosen")]
    NotFinite,
    /// Every token has probability 0.
    #[error(
        "every token is ruled out: all logits are -infinity, by the model or because all are stop tokens before min_tokens"
    )]
    NothingLeft,
    /// The constraint allows no token that the model or the parameters allow.
    #[error(
        "the constraint on the reply leaves no token to choose: it allows {}",
        if *mask_is_empty { "none at this point" } else { "only tokens that are ruled out otherwise, for example end tokens before min_tokens" }
    )]
    NothingAllowed {
        /// Nothing but the constraint is to blame.
        mask_is_empty: bool,
    },
    /// The constraint did not say what it allows.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
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
        mask: Option<&TokenMask>,
    ) -> Result<u32, SampleError> {
        let raw_peak = row::peak(logits)?;
        let bans_stops = num_generated < sampling.min_tokens as usize;
        if sampling.logit_bias.is_empty() && !counts.is_wanted && !bans_stops && mask.is_none() {
            return self.choose(logits, raw_peak, sampling, num_generated);
        }
        let mut processed = std::mem::take(&mut self.processed);
        processed.clear();
        processed.extend_from_slice(logits);
        process(&mut processed, sampling, counts, bans_stops);
        if let Some(mask) = mask {
            mask.apply(&mut processed);
        }
        let peak = row::peak(&processed).map_err(|error| match (error, mask) {
            (SampleError::NothingLeft, Some(mask)) => SampleError::NothingAllowed { mask_is_empty: mask.is_empty() },
            (error, _) => error,
        });
        let choice = peak.and_then(|peak| self.choose(&processed, peak, sampling, num_generated));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The distribution that the parameters describe, by a full sort in f64, from the definition.
    fn expected_distribution(
        logits: &[f32],
        sampling: &SamplingParams,
        prompt_ids: &[u32],
        output_ids: &[u32],
    ) -> Vec<f64> {
        let mut x: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        for (&id, &bias) in &sampling.logit_bias {
            x[id as usize] += f64::from(bias);
        }
        for (x, id) in x.iter_mut().zip(0u32..) {
            let count = output_ids.iter().filter(|&&other| other == id).count() as f64;
            if count > 0.0 || prompt_ids.contains(&id) {
                let penalty = f64::from(sampling.repetition_penalty);
                *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
            }
            if count > 0.0 {
                *x -= f64::from(sampling.presence_penalty) + f64::from(sampling.frequency_penalty) * count;
            }
        }
        if output_ids.len() < sampling.min_tokens as usize {
            let eos_token_ids = sampling.eos_token_ids.iter().filter(|_| !sampling.ignore_eos);
            sampling.stop_token_ids.iter().chain(eos_token_ids).for_each(|&id| x[id as usize] = f64::NEG_INFINITY);
        }
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
        let normalise = |p: &mut Vec<f64>| {
            let total: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= total);
        };
        if sampling.temperature == 0.0 {
            order.truncate(1);
        }
        let temperature = if sampling.temperature == 0.0 { 1.0 } else { f64::from(sampling.temperature) };
        let best = x[order[0]];
        let mut p: Vec<f64> = order.iter().map(|&id| ((x[id] - best) / temperature).exp()).collect();
        p.truncate(sampling.top_k.map_or(usize::MAX, |k| k as usize));
        normalise(&mut p);
        let mut sum = 0.0;
        let reaching = p.iter().position(|p| {
            sum += p;
            sum as f32 >= sampling.top_p
        });
        p.truncate(reaching.map_or(usize::MAX, |last| last + 1));
        let floor = f64::from(sampling.min_p) * p[0];
        p.retain(|&p| p >= floor);
        normalise(&mut p);
        let mut distribution = vec![0.0; x.len()];
        p.iter().zip(order).for_each(|(&p, id)| distribution[id] = p);
        distribution
    }

    /// Draws many tokens and compares their frequencies with the definition.
    fn check(logits: &[f32], sampling: &SamplingParams, prompt_ids: &[u32], output_ids: &[u32]) {
        let mut counts = TokenCounts::new(sampling, prompt_ids);
        output_ids.iter().for_each(|&id| counts.push(id));
        let mut sampler = Sampler::default();
        let num_draws = 20_000;
        let mut frequencies = vec![0u32; logits.len()];
        for seed in 0..num_draws {
            let sampling = SamplingParams { seed, ..sampling.clone() };
            let id = sampler.sample(logits, &sampling, &counts, output_ids.len(), None).unwrap();
            frequencies[id as usize] += 1;
        }
        let expected = expected_distribution(logits, sampling, prompt_ids, output_ids);
        let (mut chi_squared, mut num_cells) = (0.0, 0);
        for (id, (&got, &p)) in frequencies.iter().zip(&expected).enumerate() {
            assert!(p > 0.0 || got == 0, "token {id} cannot come up: {sampling:?}");
            let expected = p * num_draws as f64;
            if expected > 0.0 {
                num_cells += 1;
                chi_squared += (f64::from(got) - expected).powi(2) / expected;
            }
        }
        // Mean n − 1, deviation √(2(n − 1)); five deviations, and room for cells of few draws.
        let degrees = (num_cells - 1) as f64;
        let bound = degrees + 5.0 * (2.0 * degrees).sqrt() + 3.0 * f64::from(num_cells > 1);
        assert!(
            chi_squared <= bound,
            "χ² {chi_squared} of {num_cells} cells: {sampling:?}\n{frequencies:?}\n{expected:?}"
        );
    }

    /// Rejection sampling with a draft that is one token, from its definition in f64: `x` is accepted with probability `p(x)`,
    /// and else a token is drawn from `p` without `x`. What matters is the distribution of both outcomes.
    fn check_draft(logits: &[f32], sampling: &SamplingParams, draft_id: usize) {
        let counts = TokenCounts::new(sampling, &[]);
        let mut sampler = Sampler::default();
        let num_draws = 20_000;
        let (mut num_accepted, mut rejected) = (0u32, vec![0u32; logits.len()]);
        for seed in 0..num_draws {
            let sampling = SamplingParams { seed, ..sampling.clone() };
            match sampler.sample(logits, &sampling, &counts, 0, None).unwrap() as usize {
                id if id == draft_id => num_accepted += 1,
                id => rejected[id] += 1,
            }
        }
        let p = expected_distribution(logits, sampling, &[], &[]);
        let accepts = p[draft_id];
        let deviation = (num_draws as f64 * accepts * (1.0 - accepts)).sqrt();
        let distance = (f64::from(num_accepted) - num_draws as f64 * accepts).abs();
        assert!(distance <= 5.0 * deviation, "draft {draft_id}: {num_accepted} accepted, p = {accepts}, {sampling:?}");
        let num_rejected = num_draws as f64 - f64::from(num_accepted);
        let (mut chi_squared, mut num_cells) = (0.0, 0);
        for (id, &got) in rejected.iter().enumerate().filter(|&(id, _)| id != draft_id) {
            let expected = num_rejected * p[id] / (1.0 - accepts).max(f64::MIN_POSITIVE);
            assert!(expected > 0.0 || got == 0, "token {id} cannot come up: {sampling:?}");
            if expected > 0.0 {
                num_cells += 1;
                chi_squared += (f64::from(got) - expected).powi(2) / expected;
            }
        }
        let degrees = f64::from(num_cells) - 1.0;
        let bound = degrees + 5.0 * (2.0 * degrees.max(0.0)).sqrt() + 3.0;
        assert!(chi_squared <= bound, "draft {draft_id}: χ² {chi_squared} of {num_cells} cells: {sampling:?}");
    }

    #[test]
    fn a_draw_compared_with_a_draft_is_rejection_sampling() {
        let logits = [2.0, 1.5, -0.5, 2.0, 0.25, 1.0, -3.0, 0.5, 1.5, -1.0];
        let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let cases = [
            SamplingParams { temperature: 0.0, ..base.clone() },
            base.clone(),
            SamplingParams { temperature: 0.6, top_p: 0.8, ..base.clone() },
            SamplingParams { top_k: Some(4), min_p: 0.3, ..base.clone() },
            SamplingParams { logit_bias: [(6, 6.0), (0, -9.0)].into(), ..base.clone() },
            SamplingParams { stop_token_ids: vec![0, 3], min_tokens: 4, max_tokens: 9, ..base.clone() },
        ];
        for sampling in &cases {
            // The likeliest, one of equals, an unlikely one, one that some rule out.
            for draft_id in [0, 3, 6, 8] {
                check_draft(&logits, sampling, draft_id);
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [2.0, 1.5, -0.5, 2.0, 0.25, 1.0, -3.0, 0.5, 1.5, -1.0];
        let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let penalised = SamplingParams { presence_penalty: 0.4, frequency_penalty: 0.3, ..base.clone() };
        let cases = [
            SamplingParams { temperature: 0.0, ..base.clone() },
            base.clone(),
            SamplingParams { temperature: 0.4, ..base.clone() },
            SamplingParams { temperature: 3.0, ..base.clone() },
            // With a vanishing temperature only the best are left, and ties are drawn evenly.
            SamplingParams { temperature: 1e-40, ..base.clone() },
            SamplingParams { top_k: Some(1), ..base.clone() },
            SamplingParams { top_k: Some(3), ..base.clone() },
            SamplingParams { top_k: Some(10), ..base.clone() },
            SamplingParams { top_k: Some(4_000_000_000), ..base.clone() },
            SamplingParams { top_p: 0.01, ..base.clone() },
            SamplingParams { top_p: 0.6, ..base.clone() },
            SamplingParams { top_p: 0.95, temperature: 0.7, ..base.clone() },
            SamplingParams { min_p: 0.3, ..base.clone() },
            SamplingParams { min_p: 1.0, ..base.clone() },
            SamplingParams { top_k: Some(5), top_p: 0.8, ..base.clone() },
            SamplingParams { top_k: Some(6), top_p: 0.9, min_p: 0.5, ..base.clone() },
            SamplingParams { top_p: 0.9, min_p: 0.7, ..base.clone() },
            SamplingParams { logit_bias: [(6, 5.0), (0, -100.0)].into(), ..base.clone() },
            SamplingParams { repetition_penalty: 1.7, ..base.clone() },
            SamplingParams { repetition_penalty: 0.6, temperature: 0.0, ..base.clone() },
            penalised.clone(),
            SamplingParams { repetition_penalty: 1.2, logit_bias: [(1, 1.0)].into(), ..penalised.clone() },
            SamplingParams { presence_penalty: -1.0, temperature: 0.0, ..base.clone() },
            SamplingParams { frequency_penalty: 0.6, temperature: 0.0, ..base.clone() },
            SamplingParams { min_tokens: 6, stop_token_ids: vec![0], eos_token_ids: vec![3], ..base.clone() },
            SamplingParams { min_tokens: 5, stop_token_ids: vec![0], eos_token_ids: vec![3], ..base.clone() },
            SamplingParams {
                min_tokens: 6,
                stop_token_ids: vec![0],
                eos_token_ids: vec![3],
                ignore_eos: true,
                top_k: Some(2),
                ..base
            },
        ];
        for sampling in cases {
            // Among them tokens of negative logits, and one that is in both.
            check(&logits, &sampling, &[1, 1, 4, 9, 0], &[0, 3, 0, 8, 2]);
        }
    }

    #[test]
    fn draws_follow_the_distribution_across_chunks() {
        // More than two chunks, most of the weight in few tokens; a vanishing tail.
        let logits: Vec<f32> =
            (0..600).map(|i| if i % 97 == 5 { 4.0 - i as f32 / 300.0 } else { -((i % 13) as f32) * 20.0 }).collect();
        let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        for sampling in [
            SamplingParams { top_k: Some(4), ..base.clone() },
            SamplingParams { top_p: 0.5, ..base.clone() },
            SamplingParams { min_p: 0.2, ..base.clone() },
            SamplingParams { logit_bias: [(599, 7.0)].into(), top_k: Some(3), ..base.clone() },
        ] {
            check(&logits, &sampling, &[], &[]);
        }
    }

    #[test]
    fn the_extremes_of_a_draw_choose_tokens_with_weight() {
        let mut sampler = Sampler::default();
        for weights in [vec![0.0, 1.0, 0.0, 2.0, 0.0], {
            let mut weights = vec![0.0; 3 * row::CHUNK];
            weights[row::CHUNK + 7] = 1.0;
            weights[row::CHUNK + 9] = 0.5;
            weights
        }] {
            sampler.weights = weights;
            let total = row::chunk_sums(&sampler.weights, &mut sampler.sums);
            let first = sampler.weights.iter().position(|&weight| weight > 0.0).unwrap();
            let last = sampler.weights.iter().rposition(|&weight| weight > 0.0).unwrap();
            assert_eq!(sampler.draw(0.0) as usize, first);
            assert_eq!(sampler.draw(total * (1.0 - f64::EPSILON)) as usize, last);
        }
    }

    #[test]
    fn overflow_is_not_an_accident() {
        let counts = |sampling: &SamplingParams, output: &[u32]| {
            let mut counts = TokenCounts::new(sampling, &[]);
            output.iter().for_each(|&id| counts.push(id));
            counts
        };
        let check = |sampling: SamplingParams, output: &[u32], expected: Result<u32, SampleError>| {
            for temperature in [0.0, 1.0] {
                let sampling = SamplingParams { temperature, ..sampling.clone() };
                let got = Sampler::default().sample(
                    &[1.0, 2.0, 3.0],
                    &sampling,
                    &counts(&sampling, output),
                    output.len(),
                    None,
                );
                assert_eq!(got, expected, "{sampling:?}");
            }
        };
        let base = SamplingParams::default();
        check(SamplingParams { logit_bias: [(1, f32::MAX)].into(), ..base.clone() }, &[], Ok(1));
        check(SamplingParams { frequency_penalty: f32::MIN, ..base.clone() }, &[0, 0, 0], Ok(0));
        check(SamplingParams { repetition_penalty: 1e-40, ..base.clone() }, &[0], Ok(0));
        let all_stop = SamplingParams { min_tokens: 1, stop_token_ids: vec![0, 1, 2], ..base };
        check(all_stop, &[], Err(SampleError::NothingLeft));
    }

    #[test]
    fn logprobs_of_tokens_that_cannot_come_up_are_minus_infinity() {
        let logits = [0.0, f32::NEG_INFINITY, 0.0];
        let got = Sampler::default().logprobs(&logits, 1, 3).unwrap();
        assert_eq!(got.token, Logprob { id: 1, logprob: f32::NEG_INFINITY });
        assert_eq!(got.top.iter().map(|top| top.id).collect::<Vec<_>>(), [0, 2]);
        assert!((got.top[1].logprob + 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn scratch_of_one_request_does_not_reach_the_next() {
        let mut sampler = Sampler::default();
        let filtered =
            SamplingParams { temperature: 1.0, top_k: Some(2), logit_bias: [(0, 1.0)].into(), ..Default::default() };
        let plain = SamplingParams { temperature: 1.0, ..Default::default() };
        let counts = TokenCounts::default();
        for logits in [&[1.0, 2.0, 3.0, 4.0][..], &[4.0, 4.0][..], &[0.5, 0.0, 0.5][..]] {
            for sampling in [&plain, &filtered] {
                for index in 0..20 {
                    let fresh = Sampler::default().sample(logits, sampling, &counts, index, None);
                    assert_eq!(sampler.sample(logits, sampling, &counts, index, None), fresh);
                }
            }
        }
    }
}
