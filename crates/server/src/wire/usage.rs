//! `usage`: what a request cost, in tokens.

use serde::Serialize;

/// Token counts of a request, summed over its prompts and choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Each prompt once, however many choices it has; hit plus miss.
    pub(crate) prompt_tokens: usize,
    /// Every generated token but the one that ended generation, closing markup included.
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    pub(crate) prompt_cache_hit_tokens: usize,
    pub(crate) prompt_cache_miss_tokens: usize,
    /// Only when the request was one for thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: usize,
}

impl Usage {
    /// Tokens of reasoning, 0 where none was asked for.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.completion_tokens_details.map_or(0, |details| details.reasoning_tokens)
    }

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
                .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens }),
        }
    }
}
