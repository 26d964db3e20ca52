//! What goes into the engine and what comes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{Constraint, Limits, SubmitError};

/// One sequence to generate. A request for `n` choices is `n` of these.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt; not empty.
    pub prompt_ids: Vec<u32>,
    /// How to choose tokens and when to stop.
    pub sampling: SamplingParams,
    /// What the output must be like; `None` leaves the choice to the model.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Who goes first.
    pub priority: Priority,
    /// The request fails if it has not ended after so long.
    pub timeout: Option<Duration>,
    /// Requests share what the cache holds of their prompts only if their salts are the same.
    pub cache_salt: String,
}

/// Who goes first. Within a class it is who came first. Between classes, a request goes as if it had come
/// [`AGING`](Self::AGING) later for each class below the highest; so whoever waits for long enough goes before anyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for the answer, and matters more than others.
    High,
    /// Somebody waits for the answer.
    #[default]
    Normal,
    /// Nobody waits for the answer.
    Low,
}

impl Priority {
    /// How long the requests of a class go before those of the next class that came at the same time.
    pub const AGING: Duration = Duration::from_secs(60);

    /// How much later than it came a request of this class is taken to have come.
    pub(crate) fn handicap(self) -> Duration {
        match self {
            Priority::High => Duration::ZERO,
            Priority::Normal => Self::AGING,
            Priority::Low => 2 * Self::AGING,
        }
    }
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
    /// Stop tokens are forbidden before this many tokens. An output that its constraint calls complete ends all the same.
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
        /// How it went.
        report: Box<Report>,
    },
    /// The request failed inside the engine.
    Failed {
        /// What kind of failure it is.
        failure: Failure,
        /// What happened, for the client.
        message: String,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Something about this request: others are not concerned.
    Request,
    /// The step that computed it, and everything else in that step.
    Step,
    /// Its [`timeout`](Request::timeout) is over.
    Timeout,
    /// The engine stops.
    Shutdown,
}

/// What a request has cost, and when it came how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Prompt tokens whose keys came from the prefix cache.
    pub num_cached_tokens: u32,
    /// Entry `i`: how often the `i`-th token of a draft was verified.
    pub num_drafted: Vec<u32>,
    /// Entry `i`: how often it was the token that the model chose.
    pub num_accepted: Vec<u32>,
    /// Times that it gave up its blocks to be computed again.
    pub num_preemptions: u32,
    /// When it was accepted.
    pub arrival: Instant,
    /// When it was first computed.
    pub first_scheduled: Instant,
    /// When it had its first token, if it had any.
    pub first_token: Option<Instant>,
    /// When it ended.
    pub end: Instant,
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
    /// The request's constraint lets nothing follow: the output is what was asked for.
    Complete,
}

/// The most alternatives that [`SamplingParams::logprobs`] can ask for.
pub const MAX_LOGPROBS: u8 = 20;

impl Request {
    /// Checks everything that the engine relies on.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), SubmitError> {
        let &Limits { vocab_size, max_model_len, .. } = limits;
        let num_prompt_tokens = self.prompt_ids.len();
        if num_prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let num_output_tokens = self.sampling.max_tokens.min(1) as usize;
        if num_prompt_tokens + num_output_tokens > max_model_len {
            return Err(SubmitError::PromptTooLong { num_prompt_tokens, max_model_len });
        }
        let biased_ids = self.sampling.logit_bias.keys();
        for (field, highest) in [("prompt_ids", self.prompt_ids.iter().max()), ("logit_bias", biased_ids.max())] {
            if let Some(&token_id) = highest.filter(|&&id| id as usize >= vocab_size) {
                return Err(SubmitError::TokenOutOfRange { field, token_id, vocab_size });
            }
        }
        self.sampling.check()
    }
}

impl SamplingParams {
    /// Whether this token ends the output.
    pub(crate) fn stops_at(&self, id: u32) -> bool {
        let SamplingParams { stop_token_ids, eos_token_ids, ignore_eos, .. } = self;
        stop_token_ids.contains(&id) || (!ignore_eos && eos_token_ids.contains(&id))
    }

    /// Checks the range of every parameter. Stop tokens may lie outside the vocabulary: they then never come up.
    fn check(&self) -> Result<(), SubmitError> {
        let require = |holds: bool, name: &str, range: &str, got: &dyn std::fmt::Display| {
            if holds { Ok(()) } else { Err(SubmitError::InvalidParams(format!("{name} is {got}; it must be {range}"))) }
        };
        let &SamplingParams { temperature, top_p, min_p, repetition_penalty, .. } = self;
        require(temperature.is_finite() && temperature >= 0.0, "temperature", "a finite number ≥ 0", &temperature)?;
        require(top_p > 0.0 && top_p <= 1.0, "top_p", "in (0, 1]", &top_p)?;
        require(self.top_k != Some(0), "top_k", "at least 1, or absent to keep all tokens", &0)?;
        require((0.0..=1.0).contains(&min_p), "min_p", "in [0, 1]", &min_p)?;
        for (name, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            require(penalty.is_finite(), name, "a finite number", &penalty)?;
        }
        let positive = repetition_penalty.is_finite() && repetition_penalty > 0.0;
        require(positive, "repetition_penalty", "a finite number > 0", &repetition_penalty)?;
        for (id, bias) in &self.logit_bias {
            require(bias.is_finite(), &format!("logit_bias of token {id}"), "a finite number", bias)?;
        }
        for (name, count) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            require(count.is_none_or(|count| count <= MAX_LOGPROBS), name, "in 0..=20", &count.unwrap_or(0))?;
        }
        require(self.min_tokens <= self.max_tokens, "min_tokens", "at most max_tokens", &self.min_tokens)
    }
}
