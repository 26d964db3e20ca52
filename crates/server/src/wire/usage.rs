//! `usage`: what a request cost, in tokens.

use std::ops::AddAssign;

use serde::Serialize;
use serde_json::{Map, Value};

/// Token counts of a request, summed over its prompts and choices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Each prompt once, however many choices it has; hit plus miss.
    pub(crate) prompt_tokens: usize,
    /// Every generated token but the one that ended generation, closing markup included.
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    pub(crate) prompt_cache_hit_tokens: usize,
    pub(crate) prompt_cache_miss_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    /// Only when the request was one for thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<usize>,
    /// Only when drafts were verified.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    drafts: Option<DraftUsage>,
}

/// What became of the drafts that were made of a completion. The first two are OpenAI's, about tokens that a client predicts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct DraftUsage {
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
    draft_tokens_per_position: Vec<u32>,
    accepted_tokens_per_position: Vec<u32>,
}

/// How often each place of a draft was verified, and how often it was right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drafts {
    drafted: Vec<u32>,
    accepted: Vec<u32>,
}

impl AddAssign<(&[u32], &[u32])> for Drafts {
    fn add_assign(&mut self, (drafted, accepted): (&[u32], &[u32])) {
        for (sums, counts) in [(&mut self.drafted, drafted), (&mut self.accepted, accepted)] {
            sums.resize(sums.len().max(counts.len()), 0);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
        }
    }
}

impl Usage {
    /// `reasoning_tokens` is given for requests with thinking, even when it is 0.
    pub(crate) fn new(
        prompt_tokens: usize,
        cached_tokens: usize,
        completion_tokens: usize,
        reasoning_tokens: Option<usize>,
    ) -> Self {
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            prompt_cache_hit_tokens: cached_tokens,
            prompt_cache_miss_tokens: prompt_tokens - cached_tokens,
            completion_tokens_details: reasoning_tokens
                .map(|tokens| CompletionTokensDetails { reasoning_tokens: Some(tokens), drafts: None }),
        }
    }

    /// The same with what became of the drafts, if there were any.
    pub(crate) fn with_drafts(mut self, Drafts { drafted, accepted }: Drafts) -> Self {
        if drafted.is_empty() {
            return self;
        }
        let sum = |counts: &[u32]| counts.iter().copied().map(u64::from).sum::<u64>();
        let drafts = DraftUsage {
            accepted_prediction_tokens: sum(&accepted),
            rejected_prediction_tokens: sum(&drafted).saturating_sub(sum(&accepted)),
            draft_tokens_per_position: drafted,
            accepted_tokens_per_position: accepted,
        };
        let reasoning_tokens = self.completion_tokens_details.and_then(|details| details.reasoning_tokens);
        self.completion_tokens_details = Some(CompletionTokensDetails { reasoning_tokens, drafts: Some(drafts) });
        self
    }

    /// Tokens of reasoning, 0 where none was asked for.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens).unwrap_or(0)
    }

    /// Drafted tokens that were accepted, and that were not, if there were any.
    pub(crate) fn draft_counts(&self) -> Option<(i64, i64)> {
        let drafts = self.completion_tokens_details.as_ref()?.drafts.as_ref()?;
        Some((drafts.accepted_prediction_tokens.cast_signed(), drafts.rejected_prediction_tokens.cast_signed()))
    }

    /// What became of the drafts, as members of a JSON object.
    pub(crate) fn drafts(&self) -> Option<Map<String, Value>> {
        let drafts = self.completion_tokens_details.as_ref()?.drafts.as_ref()?;
        match serde_json::to_value(drafts) {
            Ok(Value::Object(members)) => Some(members),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_are_there_when_there_is_something_to_tell() {
        let mut drafts = Drafts::default();
        drafts += (&[5, 3], &[4, 1]);
        drafts += (&[2], &[2]);
        let told = json!({"accepted_prediction_tokens": 7, "rejected_prediction_tokens": 3,
                          "draft_tokens_per_position": [7, 3], "accepted_tokens_per_position": [6, 1]});
        let mut with_reasoning = told.clone();
        with_reasoning["reasoning_tokens"] = json!(2);
        let cases = [
            (None, Drafts::default(), None),
            (Some(2), Drafts::default(), Some(json!({"reasoning_tokens": 2}))),
            (None, drafts.clone(), Some(told.clone())),
            (Some(2), drafts, Some(with_reasoning)),
        ];
        for (reasoning_tokens, drafts, expected) in cases {
            let has_drafts = drafts != Drafts::default();
            let usage = Usage::new(10, 0, 20, reasoning_tokens).with_drafts(drafts);
            let json = serde_json::to_value(&usage).unwrap();
            assert_eq!(json.get("completion_tokens_details"), expected.as_ref(), "{reasoning_tokens:?}");
            assert_eq!(usage.drafts().map(Value::Object), has_drafts.then(|| told.clone()));
            assert_eq!(usage.reasoning_tokens(), reasoning_tokens.unwrap_or(0));
        }
    }
}
