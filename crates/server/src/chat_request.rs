//! A chat request from its fields to a running generation: the same for every API that the server speaks.
//!
//! Each API has its own wire types. It turns them into [`ChatFields`] and [`CommonFields`], starts the generation here, and
//! writes what comes out in its own form.

use cachalot_engine::SamplingParams;
use cachalot_prompt::{OutputOptions, Release, ReplySpec};

use crate::answer::Answer;
use crate::blocking::on_blocking_thread;
use crate::caller::Caller;
use crate::chat_prompt;
use crate::constraint::{self, JSON_OBJECT, Wish};
use crate::decoder::Decoder;
use crate::error::ApiError;
use crate::generation::{AnswerLimit, Generation, Plan};
use crate::hosted;
use crate::record::Record;
use crate::sampling::{self, Excess, MAX_LOGPROBS, Streaming};
use crate::service::Service;
use crate::state::{AppState, REASONER_ALIAS};
use crate::token_names::TokenNames;
use crate::wire::chat::{ChatFields, ToolChoice};
use crate::wire::common::CommonFields;

/// Tokens of a reply without thinking, if the request does not say.
const DEFAULT_ANSWER_TOKENS: u32 = 4 << 10;
/// Tokens of a reply with thinking, reasoning included, if the request does not say; of R1, tokens of the reasoning alone.
const DEFAULT_REASONER_TOKENS: u32 = 32 << 10;

/// A chat request that the engine has taken.
pub(crate) struct Started {
    pub(crate) generation: Generation,
    pub(crate) answer: Answer,
    pub(crate) names: TokenNames,
    /// The reply has reasoning.
    pub(crate) thinking: bool,
    pub(crate) with_logprobs: bool,
    pub(crate) streaming: Streaming,
}

/// Checks a request and hands it to the engine.
///
/// # Errors
/// Everything that can be refused is refused here, before the first byte of an answer.
pub(crate) async fn start(
    state: &AppState,
    caller: &Caller,
    mut fields: ChatFields,
    common: &CommonFields,
) -> Result<Started, ApiError> {
    let served = state.served()?;
    let prompt = served.prompt()?.clone();
    let model = served.check_model(common.model.as_deref())?;
    let user = fields.user_id.as_deref().or(fields.end_user.as_deref());
    let service = Service::validate(common, user, caller, state.config().request_timeout)?;
    let answer = Answer::new(model, service.tier);
    let limits = served.engine.limits();
    let mut valid = sampling::validate(common, &prompt.sampling_defaults(), prompt.eos_token_ids(), limits)?;
    let logprobs = num_logprobs(&fields)?;
    let excess = fields.excess;
    let reasoning_budget = fields.thinking_token_budget.map(|budget| budget as usize);
    let wish = Wish::of_chat(&mut fields)?;
    let requested_max_tokens = fields.max_completion_tokens.or(fields.max_tokens);
    let chat = chat_prompt::validate(fields, common.model.as_deref())?.settle(&prompt)?;
    chat.check_completeness(prompt.release(), state.config().missing_reasoning)?;
    if chat.thinking
        && matches!(chat.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
        && common.model.as_deref() == Some(REASONER_ALIAS)
    {
        return Err(ApiError::invalid("deepseek-reasoner does not support this tool_choice").with_param("tool_choice"));
    }
    if wish.is_from(JSON_OBJECT) && !chat.mentions("json") {
        return Err(ApiError::invalid(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
        )
        .with_param("response_format"));
    }
    let thinking = chat.thinking;
    let (rendered, grammar) = on_blocking_thread({
        let prompt = prompt.clone();
        move || {
            let rendered = chat.render(&prompt)?;
            let begun = chat.begun().to_owned();
            let spec = ReplySpec { answer: wish.answer.clone(), calls: chat.calls, reasoning_budget, begun };
            let grammar = prompt.grammar(&spec, rendered.reasoning_open, rendered.thinking);
            Ok((rendered, grammar.map_err(|error| wish.refusal(error))?))
        }
    })
    .await?;

    let names_hosted_model = hosted::is_named(common.model.as_deref());
    if names_hosted_model && thinking {
        valid.ignore_sampling(&prompt.sampling_defaults());
    }
    let at_most = match excess {
        Excess::Refuse if names_hosted_model => hosted::max_chat_tokens(prompt.release(), thinking),
        // Every name is a hosted one there, and what clients ask for is what they need.
        Excess::Refuse | Excess::Clamp => limits.max_model_len,
    };
    let default = default_max_tokens(prompt.release(), thinking);
    let max_tokens =
        sampling::max_tokens(requested_max_tokens, excess, 1..=at_most, default, rendered.ids.len(), limits)?;
    let (max_tokens, answer_limit) = if prompt.release() == Release::R1 {
        // R1's hosted API counts the answer alone, and lets the reasoning come on top.
        let room = limits.max_model_len - rendered.ids.len();
        let total = (max_tokens as usize + DEFAULT_REASONER_TOKENS as usize).min(room);
        let limit = AnswerLimit {
            reasoning_tokens: Some(DEFAULT_REASONER_TOKENS as usize),
            answer_tokens: Some(max_tokens as usize),
        };
        (u32::try_from(total).unwrap_or(u32::MAX), limit)
    } else {
        (max_tokens, AnswerLimit::default())
    };
    let sampling = SamplingParams { max_tokens, logprobs, ..valid.sampling };
    sampling::check_min_tokens(&sampling)?;
    let plan = Plan {
        prompts: vec![(rendered.ids, sampling)],
        constraint: grammar.map(constraint::boxed),
        service,
        record: Record::new(caller, "chat", model),
        choices_per_prompt: valid.num_choices,
        counts_reasoning: thinking,
        answer_limit,
    };
    let new_decoder = || {
        let options = OutputOptions { stop: valid.stop.clone(), ..OutputOptions::default() };
        Decoder::chat(&prompt, rendered.reasoning_open, options)
    };
    let generation = Generation::submit(state, plan, new_decoder)?;
    Ok(Started {
        generation,
        answer,
        names: TokenNames::new(Some(prompt.tokenizer().clone()), false),
        thinking,
        with_logprobs: logprobs.is_some(),
        streaming: valid.streaming,
    })
}

fn num_logprobs(fields: &ChatFields) -> Result<Option<u8>, ApiError> {
    match (fields.logprobs.unwrap_or(false), fields.top_logprobs) {
        (_, Some(count)) if count > MAX_LOGPROBS => {
            Err(ApiError::range("top_logprobs", format_args!("[0, {MAX_LOGPROBS}].")))
        }
        (false, Some(count)) if count > 0 => Err(ApiError::invalid(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
        )
        .with_param("top_logprobs")),
        (false, _) => Ok(None),
        (true, count) => Ok(Some(count.unwrap_or(0))),
    }
}

/// The hosted API's defaults; they are bounded by the room that the context has. `None` is all the room.
fn default_max_tokens(release: Release, thinking: bool) -> Option<u32> {
    match release {
        Release::V3_2Speciale => None,
        // Of the answer alone.
        Release::R1 => Some(DEFAULT_ANSWER_TOKENS),
        _ if thinking => Some(DEFAULT_REASONER_TOKENS),
        _ => Some(DEFAULT_ANSWER_TOKENS),
    }
}
