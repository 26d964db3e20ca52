//! What goes into the engine and what comes out.

use std::collections::BTreeMap;

/// One sequence to generate. A request for `n` choices is `n` of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt; not empty.
    pub prompt_ids: Vec<u32>,
    /// How to choose tokens and when to stop.
    pub sampling: SamplingParams,
}

/// How tokens are chosen and when generation stops.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy. Range `0..=2` is checked by the server; the engine takes any finite value ≥ 0.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probabilities sum to at least this. `(0, 1]`.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens; `None` keeps all.
    pub top_k: Option<u32>,
    /// Drop tokens less likely than this share of the likeliest. `[0, 1]`.
    pub min_p: f32,
    /// Subtracted from the logit of every token generated at least once.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once per time it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the output; 1 is off. `> 0`.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the request's own counter-based random stream. The server draws one when the client gives none.
    pub seed: u64,
    /// Generation ends after this many tokens. 0 computes only prompt logprobs.
    pub max_tokens: u32,
    /// Stop tokens are forbidden before this many tokens.
    pub min_tokens: u32,
    /// Tokens that end generation; they are not part of the output.
    pub stop_token_ids: Vec<u32>,
    /// Tokens that end generation like `stop_token_ids`, unless `ignore_eos`.
    pub eos_token_ids: Vec<u32>,
    /// Generate past end-of-sequence tokens (they are then output like any token).
    pub ignore_eos: bool,
    /// Report the log-probability of each generated token and of this many likeliest (0 to 20) tokens beside it.
    pub logprobs: Option<u8>,
    /// The same for each prompt token but the first.
    pub prompt_logprobs: Option<u8>,
}

impl Default for SamplingParams {
    /// Greedy, 16 tokens, nothing else.
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            max_tokens: 16,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            eos_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

/// A token's log-probability under the model's own distribution (before temperature, penalties and filters).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionLogprobs {
    /// The token that stands at this position.
    pub token: Logprob,
    /// The likeliest tokens, best first, ties by the lower id.
    pub top: Vec<Logprob>,
}

/// What a request's stream yields, in this order: at most one `Prompt`, any number of `Token`, one `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt has been computed; entry `i` belongs to prompt token `i + 1`. Only if asked for.
    Prompt {
        /// One entry per prompt token but the first.
        logprobs: Vec<PositionLogprobs>,
    },
    /// One generated token.
    Token {
        /// Token id.
        id: u32,
        /// Only if asked for.
        logprobs: Option<PositionLogprobs>,
    },
    /// Generation ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Prompt tokens whose keys came from the prefix cache.
        num_cached_tokens: u32,
    },
    /// The request failed inside the engine.
    Failed {
        /// What happened, for the client.
        message: String,
    },
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token or an end-of-sequence token came up; it is not part of the output.
    Stop {
        /// The token.
        token_id: u32,
    },
    /// `max_tokens` were generated or the context is full.
    Length,
}
