//! Ranges and defaults: from the fields of a request to [`SamplingParams`].
//!
//! The words of each refusal are those of the hosted API where it has the field.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use cachalot_engine::{Limits, SamplingParams};
use cachalot_prompt::SamplingDefaults;

use crate::error::ApiError;
use crate::wire::common::{CommonFields, StreamOptions};

/// The most choices per prompt.
const MAX_CHOICES: u32 = 16;
/// The most stop strings.
const MAX_STOP_STRINGS: usize = 16;
/// The most likeliest tokens that can be listed per position.
pub(crate) const MAX_LOGPROBS: u8 = 20;
/// Between these the penalty keeps every finite logit finite.
const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=100.0;

/// The checked common fields of a request. What depends on the prompt or on the endpoint (`max_tokens`, log-probabilities) is
/// still to be filled in by the endpoint.
#[derive(Debug)]
pub(crate) struct ValidFields {
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: Vec<String>,
    pub(crate) num_choices: usize,
    pub(crate) streaming: Streaming,
}

/// How the answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streaming {
    /// As one JSON object.
    Off,
    /// As server-sent events.
    On {
        /// Report `usage` in the last one.
        include_usage: bool,
    },
}

/// Checks the common fields and fills in what they leave open: first the checkpoint's advice, then temperature 1 and no filter.
pub(crate) fn validate(
    fields: &CommonFields,
    defaults: &SamplingDefaults,
    eos_token_ids: &[u32],
    limits: &Limits,
) -> Result<ValidFields, ApiError> {
    let temperature = in_range("temperature", fields.temperature, 0.0..=2.0, "[0, 2]")?;
    let top_p = in_range("top_p", fields.top_p, f64::from(f32::MIN_POSITIVE)..=1.0, "(0, 1.0]")?;
    let min_p = in_range("min_p", fields.min_p, 0.0..=1.0, "[0, 1]")?;
    let presence_penalty = in_range("presence_penalty", fields.presence_penalty, -2.0..=2.0, "[-2, 2]")?;
    let frequency_penalty = in_range("frequency_penalty", fields.frequency_penalty, -2.0..=2.0, "[-2, 2]")?;
    let repetition_penalty =
        in_range("repetition_penalty", fields.repetition_penalty, REPETITION_PENALTY, "[0.01, 100]")?;
    let top_k = match fields.top_k {
        None => defaults.top_k,
        Some(-1 | 0) => None,
        Some(top_k) if top_k >= 1 => Some(u32::try_from(top_k).unwrap_or(u32::MAX)),
        Some(_) => return Err(ApiError::range("top_k", "[1, vocabulary size], or 0 or -1 to switch it off")),
    };
    let stop_token_ids = fields.stop_token_ids.clone().unwrap_or_default();
    for (i, &id) in stop_token_ids.iter().enumerate() {
        check_token_id("stop_token_ids", || format!("stop_token_ids[{i}]"), id, limits)?;
    }
    let sampling = SamplingParams {
        temperature: temperature.or(defaults.temperature).unwrap_or(1.0),
        top_p: top_p.or(defaults.top_p).unwrap_or(1.0),
        top_k,
        min_p: min_p.or(defaults.min_p).unwrap_or(0.0),
        presence_penalty: presence_penalty.unwrap_or(0.0),
        frequency_penalty: frequency_penalty.unwrap_or(0.0),
        repetition_penalty: repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
        logit_bias: logit_bias(fields.logit_bias.as_ref(), limits)?,
        // The API takes signed seeds; the engine's stream takes any 64 bits.
        seed: fields.seed.map_or_else(random_seed, i64::cast_unsigned),
        max_tokens: 0,
        min_tokens: fields.min_tokens.unwrap_or(0),
        stop_token_ids,
        eos_token_ids: eos_token_ids.to_vec(),
        ignore_eos: fields.ignore_eos.unwrap_or(false),
        logprobs: None,
        prompt_logprobs: None,
    };
    let n = fields.n.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&n) {
        return Err(ApiError::range("n", format_args!("[1, {MAX_CHOICES}]")));
    }
    Ok(ValidFields { sampling, stop: stop(fields)?, num_choices: n as usize, streaming: streaming(fields)? })
}

impl ValidFields {
    /// Puts the checkpoint's advice in place of what the hosted API reads and ignores when the model thinks.
    pub(crate) fn ignore_sampling(&mut self, defaults: &SamplingDefaults) {
        self.sampling.temperature = defaults.temperature.unwrap_or(1.0);
        self.sampling.top_p = defaults.top_p.unwrap_or(1.0);
        self.sampling.presence_penalty = 0.0;
        self.sampling.frequency_penalty = 0.0;
    }
}

fn in_range(
    param: &str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
    shown: &'static str,
) -> Result<Option<f32>, ApiError> {
    match value {
        // A NaN is in no range.
        Some(value) if !range.contains(&value) => Err(ApiError::range(param, shown)),
        value => Ok(value.map(|value| value as f32)),
    }
}

fn logit_bias(biases: Option<&BTreeMap<String, f64>>, limits: &Limits) -> Result<BTreeMap<u32, f32>, ApiError> {
    let mut checked = BTreeMap::new();
    for (key, &bias) in biases.into_iter().flatten() {
        let id = key.parse().map_err(|_| {
            ApiError::invalid(format!("Invalid logit_bias value, the key `{key}` is not a token id"))
                .with_param("logit_bias")
        })?;
        check_token_id("logit_bias", || "a key of logit_bias".to_owned(), id, limits)?;
        if let Some(bias) = in_range("logit_bias", Some(bias), -100.0..=100.0, "[-100, 100]")? {
            checked.insert(id, bias);
        }
    }
    Ok(checked)
}

fn stop(fields: &CommonFields) -> Result<Vec<String>, ApiError> {
    let stop = fields.stop.as_ref().map(|stop| stop.0.clone()).unwrap_or_default();
    if stop.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid(format!(
            "Invalid stop value, at most {MAX_STOP_STRINGS} stop strings are allowed, but you passed {}",
            stop.len()
        ))
        .with_param("stop"));
    }
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::invalid("Invalid stop value, a stop string must not be empty").with_param("stop"));
    }
    Ok(stop)
}

fn streaming(fields: &CommonFields) -> Result<Streaming, ApiError> {
    match (fields.stream.unwrap_or(false), &fields.stream_options) {
        (false, None) => Ok(Streaming::Off),
        (false, Some(_)) => {
            Err(ApiError::invalid("stream_options may be set only when stream is true").with_param("stream_options"))
        }
        (true, options) => {
            let include_usage = matches!(options, Some(StreamOptions { include_usage: Some(true) }));
            Ok(Streaming::On { include_usage })
        }
    }
}

/// Refuses a token id that the model does not have. `at` says where it stood.
pub(crate) fn check_token_id(
    param: &str,
    at: impl FnOnce() -> String,
    id: u32,
    limits: &Limits,
) -> Result<(), ApiError> {
    if (id as usize) < limits.vocab_size {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Token id {id} ({}) is out of range: the vocabulary of this model has {} tokens",
        at(),
        limits.vocab_size
    ))
    .with_param(param))
}

/// What to do about a request for more tokens than there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Excess {
    /// Refuse it, as DeepSeek's and OpenAI's APIs do.
    #[default]
    Refuse,
    /// Give it what there is: clients of Anthropic's API ask for what Anthropic's models can do.
    Clamp,
}

/// How many tokens to generate after a prompt.
///
/// `requested` is what the client asked for, within `range`; without it, `default` as far as the context has room, or all the
/// room.
pub(crate) fn max_tokens(
    requested: Option<i64>,
    excess: Excess,
    range: RangeInclusive<usize>,
    default: Option<u32>,
    num_prompt_tokens: usize,
    limits: &Limits,
) -> Result<u32, ApiError> {
    let max_model_len = limits.max_model_len;
    let room = max_model_len.saturating_sub(num_prompt_tokens);
    let requested = match excess {
        Excess::Refuse => requested,
        Excess::Clamp if room == 0 => return Err(ApiError::prompt_too_long(max_model_len, num_prompt_tokens)),
        Excess::Clamp => {
            let most = room.min(*range.end());
            requested.map(|requested| requested.min(i64::try_from(most).unwrap_or(i64::MAX)))
        }
    };
    let requested = match requested {
        None => None,
        Some(requested) => match u32::try_from(requested) {
            Ok(requested) if range.contains(&(requested as usize)) => Some(requested),
            _ => return Err(ApiError::range("max_tokens", format_args!("[{}, {}]", range.start(), range.end()))),
        },
    };
    // A prompt that fills the context leaves nothing to ask the model for, even if no token is wanted.
    let wanted = requested.map_or(1, |requested| requested.max(1) as usize);
    if wanted > room {
        return Err(ApiError::context_length(max_model_len, num_prompt_tokens, wanted));
    }
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    Ok(requested.unwrap_or_else(|| default.map_or(room, |default| default.min(room))))
}

/// `min_tokens` is checked once `max_tokens` is known.
pub(crate) fn check_min_tokens(sampling: &SamplingParams) -> Result<(), ApiError> {
    if sampling.min_tokens > sampling.max_tokens {
        return Err(ApiError::range(
            "min_tokens",
            format_args!("[0, max_tokens], and max_tokens is {}", sampling.max_tokens),
        ));
    }
    Ok(())
}

/// The seed of choice `index` of a request. The first has the request's own seed, so that asking for more choices does not
/// change the first.
pub(crate) fn choice_seed(seed: u64, index: usize) -> u64 {
    // The odd constant of splitmix64: different indices give different seeds.
    seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
