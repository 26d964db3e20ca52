//! The likeliest tokens of a row, found without sorting the row.

use std::cmp::Reverse;

use crate::row;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Orders tokens by their logit, and equal ones by the lower id: the greater the better, no two alike.
    rank: u64,
    /// Its share of the probability, up to a factor common to all.
    pub(crate) weight: f32,
}

impl Candidate {
    fn new(id: u32, logit: f32, weight: f32) -> Self {
        // −0 and 0 are equal logits. The bits of positive floats are ordered like the floats; those of negative ones the
        // other way round, and above.
        let bits = (logit + 0.0).to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Candidate { rank: (u64::from(ordered) << 32) | u64::from(!id), weight }
    }

    pub(crate) fn id(&self) -> u32 {
        !(self.rank as u32)
    }
}

/// A list of the best tokens, in no order unless a method says so. Keeps its memory.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.list.iter()
    }

    /// Takes the `k` tokens of the largest logits. A logit of −∞ is never taken.
    pub(crate) fn take_top_k(&mut self, logits: &[f32], weights: &[f32], k: usize) {
        // Tokens that beat the k-th best so far are collected; when they are twice too many, the best k are selected and the
        // bar is raised. Few chunks of a row have a token above the bar.
        let capacity = (2 * k).max(64);
        let mut bar = f32::NEG_INFINITY;
        self.list.clear();
        for (chunk, start) in logits.chunks(row::CHUNK).zip((0..).step_by(row::CHUNK)) {
            if row::max(chunk) <= bar {
                continue;
            }
            for (&logit, id) in chunk.iter().zip(start..) {
                // A token as good as the bar has a higher id than what set the bar.
                if logit <= bar {
                    continue;
                }
                self.list.push(Candidate::new(id, logit, weights[id as usize]));
                if self.list.len() == capacity {
                    bar = logits[self.truncate(k).id() as usize];
                }
            }
        }
        if self.list.len() > k {
            self.truncate(k);
        }
    }

    /// Keeps the best `k` of more than `k` tokens, and gives the worst of them.
    fn truncate(&mut self, k: usize) -> Candidate {
        let (_, &mut worst, _) = self.list.select_nth_unstable_by_key(k - 1, |candidate| Reverse(candidate.rank));
        self.list.truncate(k);
        worst
    }

    /// Takes the tokens with at least this weight.
    pub(crate) fn take_heavy(&mut self, logits: &[f32], weights: &[f32], min_weight: f32) {
        self.list.clear();
        for (chunk, start) in weights.chunks(row::CHUNK).zip((0..).step_by(row::CHUNK)) {
            if row::max(chunk) < min_weight {
                continue;
            }
            let heavy = chunk.iter().zip(start..).filter(|(weight, _)| **weight >= min_weight);
            self.list.extend(heavy.map(|(&weight, id): (_, u32)| Candidate::new(id, logits[id as usize], weight)));
        }
    }

    /// Takes tokens that contain the smallest set of the best with at least the share `top_p` of `total`, the sum of all
    /// weights.
    pub(crate) fn take_for_top_p(&mut self, logits: &[f32], weights: &[f32], top_p: f32, total: f64) {
        // The best tokens of a peaked distribution weigh much: the first attempt mostly suffices, and takes few.
        let mut min_weight = 1.0 / 1024.0;
        loop {
            self.take_heavy(logits, weights, min_weight);
            if reaches(self.total_weight(), total, top_p) || min_weight == f32::MIN_POSITIVE {
                return;
            }
            min_weight = (min_weight / 1024.0).max(f32::MIN_POSITIVE);
        }
    }

    /// Keeps the smallest set of the best tokens that has at least the share `top_p` of `total`, or all if none has.
    pub(crate) fn keep_top_p(&mut self, top_p: f32, total: f64) {
        // Everything before `start` is kept and weighs `kept`; everything from `end` on is dropped. Between them, half at a
        // time is decided by a selection, until there is little enough to sort.
        let (mut start, mut end, mut kept) = (0, self.list.len(), 0.0);
        while end - start > 32 {
            let middle = (end - start) / 2;
            let undecided = &mut self.list[start..end];
            undecided.select_nth_unstable_by_key(middle, |candidate| Reverse(candidate.rank));
            let with_better_half = kept + total_weight(&undecided[..middle]);
            if reaches(with_better_half, total, top_p) {
                end = start + middle;
            } else {
                (start, kept) = (start + middle, with_better_half);
            }
        }
        self.list[start..end].sort_unstable_by_key(|candidate| Reverse(candidate.rank));
        for candidate in &self.list[start..end] {
            start += 1;
            kept += f64::from(candidate.weight);
            if reaches(kept, total, top_p) {
                break;
            }
        }
        self.list.truncate(start);
    }

    /// Keeps the tokens with at least this weight.
    pub(crate) fn keep_heavy(&mut self, min_weight: f32) {
        self.list.retain(|candidate| candidate.weight >= min_weight);
    }

    /// Sorts the best to the front.
    pub(crate) fn sort(&mut self) {
        self.list.sort_unstable_by_key(|candidate| Reverse(candidate.rank));
    }

    pub(crate) fn total_weight(&self) -> f64 {
        total_weight(&self.list)
    }
}

fn total_weight(list: &[Candidate]) -> f64 {
    list.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// Compared as f32, as `top_p` is one: 0.1 of ten equal weights is one of them, although f32's 0.1 is a little more.
fn reaches(weight: f64, total: f64, top_p: f32) -> bool {
    (weight / total) as f32 >= top_p
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All tokens, best first, by a plain sort.
    fn sorted(logits: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        ids
    }

    fn weights(logits: &[f32]) -> Vec<f32> {
        let mut weights = vec![0.0; logits.len()];
        row::exponentials(logits, row::max(logits), 1.0, &mut weights);
        weights
    }

    fn ids(candidates: &mut Candidates) -> Vec<u32> {
        candidates.sort();
        candidates.iter().map(Candidate::id).collect()
    }

    /// Rows with many ties, with zeros of both signs, and wide enough that weights vanish.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![4 => (-40i32..8).prop_map(|x| x as f32 / 4.0), 1 => -120.0f32..0.0, 1 => Just(f32::NEG_INFINITY)];
        prop::collection::vec(logit, 1..1500).prop_map(|mut row| {
            row[0] = 1.75;
            row
        })
    }

    proptest! {
        #[test]
        fn top_k_is_the_head_of_the_sorted_row(logits in rows(), k in 1usize..200) {
            let mut candidates = Candidates::default();
            candidates.take_top_k(&logits, &weights(&logits), k);
            let mut expected = sorted(&logits);
            expected.retain(|&id| logits[id as usize] > f32::NEG_INFINITY);
            expected.truncate(k);
            prop_assert_eq!(ids(&mut candidates), expected);
        }

        #[test]
        fn top_p_is_the_shortest_head_that_reaches_it(logits in rows(), top_p in 0.01f32..0.999) {
            let weights = weights(&logits);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let mut candidates = Candidates::default();
            candidates.take_for_top_p(&logits, &weights, top_p, total);
            candidates.keep_top_p(top_p, total);
            let kept = ids(&mut candidates);
            prop_assert_eq!(&kept[..], &sorted(&logits)[..kept.len()]);
            // Sums in another order may differ by a rounding.
            let share = |ids: &[u32]| ids.iter().map(|&id| f64::from(weights[id as usize])).sum::<f64>() / total;
            prop_assert!(share(&kept) >= f64::from(top_p) - 1e-6);
            prop_assert!(share(&kept[..kept.len() - 1]) < f64::from(top_p) + 1e-6);
        }
    }

    #[test]
    fn top_p_of_equal_weights_counts_exactly() {
        let logits = vec![0.0; 1000];
        for (top_p, expected) in
            [(0.001, 1), (0.1, 100), (0.1001, 101), (0.5, 500), (0.9, 900), (0.999, 999), (1.0, 1000)]
        {
            let mut candidates = Candidates::default();
            candidates.take_for_top_p(&logits, &[1.0; 1000], top_p, 1000.0);
            candidates.keep_top_p(top_p, 1000.0);
            assert_eq!(ids(&mut candidates), (0..expected).collect::<Vec<_>>(), "{top_p}");
        }
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        let mut candidates = Candidates::default();
        candidates.take_top_k(&[-0.0, 0.0, -0.0], &[1.0; 3], 2);
        assert_eq!(ids(&mut candidates), [0, 1]);
    }
}
