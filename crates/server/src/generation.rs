//! From the engine's events to text: one generation is all choices of one request.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use cachalot_engine::{
    Constraint, Event, EventStream, Failure, FinishReason, PositionLogprobs, Report, Request, SamplingParams,
    SubmitError,
};
use cachalot_prompt::{Defect, Delta, Ending};

use crate::decoder::{Channel, Decoder};
use crate::error::ApiError;
use crate::record::{self, Record};
use crate::sampling::choice_seed;
use crate::service::Service;
use crate::state::{AppState, ENGINE_FAILED, STOPPING};
use crate::wire::usage::{Drafts, Usage};

/// What a choice yields, in this order: at most one `Prompt`, any number of `Token`, one `End`.
#[derive(Debug)]
pub(crate) enum Output {
    /// Log-probabilities of the prompt; entry `i` belongs to token `i + 1`. Only if asked for.
    Prompt(Vec<PositionLogprobs>),
    /// One generated token.
    Token(TokenOutput),
    /// The choice has ended.
    End(End),
}

/// How a choice ended.
#[derive(Debug)]
pub(crate) struct End {
    /// What was held back until now.
    pub(crate) tail: Vec<Delta>,
    pub(crate) reason: EndReason,
    /// The model wanted to call a tool, and wrote it so that nobody can tell which or how.
    pub(crate) defect: Option<Defect>,
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The model ended its reply.
    Stop,
    /// This stop string came up.
    StopString(String),
    /// There was no room for more tokens.
    Length,
    /// The model ended its reply with tool calls.
    ToolCalls,
}

impl EndReason {
    /// The `finish_reason` of OpenAI's API.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            EndReason::Stop | EndReason::StopString(_) => "stop",
            EndReason::Length => "length",
            EndReason::ToolCalls => "tool_calls",
        }
    }
}

/// One generated token, and the text that it set free.
#[derive(Debug)]
pub(crate) struct TokenOutput {
    pub(crate) id: u32,
    /// May be empty: part of a character, markup, or text that may turn out to be a stop string.
    pub(crate) deltas: Vec<Delta>,
    /// Where the token belongs.
    pub(crate) channel: Channel,
    pub(crate) logprobs: Option<PositionLogprobs>,
    /// Characters of decoded text before this token.
    pub(crate) text_offset: usize,
}

/// One engine request and its decoder.
struct Choice {
    /// `None` once it has ended; dropping the stream cancels the request.
    events: Option<EventStream>,
    decoder: Decoder,
    /// The text ended before the engine's stream did; the `End` is still to be reported.
    ended: Option<EndReason>,
    limit: AnswerLimit,
    num_generated_tokens: usize,
    num_cached_tokens: usize,
    /// What the engine tells at the end. It tells nothing about those that end here, by a stop string or an answer limit.
    report: Option<Box<Report>>,
    finish_reason: Option<&'static str>,
}

/// All choices of one request.
pub(crate) struct Generation {
    state: AppState,
    record: Record,
    choices: Vec<Choice>,
    choices_per_prompt: usize,
    num_prompt_tokens: usize,
    counts_reasoning: bool,
    num_open: usize,
    /// The choice that is asked first: whoever yielded last keeps its turn until it has nothing, then the next.
    turn: usize,
}

/// What [`Generation::submit`] hands to the engine.
pub(crate) struct Plan {
    /// Token ids of each prompt, and its sampling parameters.
    pub(crate) prompts: Vec<(Vec<u32>, SamplingParams)>,
    /// What every choice must be like.
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    pub(crate) service: Service,
    pub(crate) record: Record,
    /// How often each prompt is continued.
    pub(crate) choices_per_prompt: usize,
    /// Whether `usage` tells reasoning tokens.
    pub(crate) counts_reasoning: bool,
    pub(crate) answer_limit: AnswerLimit,
}

/// What limits a choice beside the engine's `max_tokens`, which counts reasoning and answer alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerLimit {
    /// The most tokens of reasoning.
    pub(crate) reasoning_tokens: Option<usize>,
    /// The most tokens of what is not reasoning.
    pub(crate) answer_tokens: Option<usize>,
}

impl AnswerLimit {
    fn is_reached(&self, num_generated_tokens: usize, decoder: &Decoder) -> bool {
        let reasoning = decoder.num_reasoning_tokens();
        let reached = |limit: Option<usize>, count: usize| limit.is_some_and(|limit| count >= limit);
        // The tags count as answer tokens nowhere, but there are at most two.
        reached(self.reasoning_tokens, reasoning) || reached(self.answer_tokens, num_generated_tokens - reasoning)
    }
}

impl Generation {
    /// Submits every choice, or none: if the engine refuses one, those before it are cancelled. `decoder` makes one per choice.
    ///
    /// # Errors
    /// Whatever [`EngineHandle::submit`](cachalot_engine::EngineHandle::submit) refuses, and requests for more sequences than the engine ever takes.
    pub(crate) fn submit(state: &AppState, plan: Plan, mut decoder: impl FnMut() -> Decoder) -> Result<Self, ApiError> {
        let engine = &state.served()?.engine;
        let Plan { prompts, constraint, service, record, choices_per_prompt, counts_reasoning, answer_limit } = plan;
        let num_choices = prompts.len() * choices_per_prompt;
        let max_live = engine.limits().max_live;
        if num_choices > max_live {
            return Err(ApiError::invalid(format!(
                "The request asks for {num_choices} sequences ({} prompts, n = {choices_per_prompt}), but this server takes \
                 at most {max_live} at a time; split it",
                prompts.len()
            )));
        }
        let num_prompt_tokens = prompts.iter().map(|(ids, _)| ids.len()).sum();
        let mut choices = Vec::with_capacity(num_choices);
        for (prompt_ids, sampling) in prompts {
            for i in 0..choices_per_prompt {
                let sampling = SamplingParams { seed: choice_seed(sampling.seed, i), ..sampling.clone() };
                let request = Request {
                    prompt_ids: prompt_ids.clone(),
                    sampling,
                    constraint: constraint.clone(),
                    priority: service.priority,
                    timeout: service.timeout,
                    cache_salt: service.cache_salt.clone(),
                };
                let events = Some(engine.submit(request).map_err(|error| refusal(error, state))?);
                choices.push(Choice {
                    events,
                    decoder: decoder(),
                    ended: None,
                    limit: answer_limit,
                    num_generated_tokens: 0,
                    num_cached_tokens: 0,
                    report: None,
                    finish_reason: None,
                });
            }
        }
        let num_open = choices.len();
        let state = state.clone();
        Ok(Generation {
            state,
            record,
            choices,
            choices_per_prompt,
            num_prompt_tokens,
            counts_reasoning,
            num_open,
            turn: 0,
        })
    }

    /// The next output of any choice, with the choice's index; `None` once all have ended. An error ends the generation: the
    /// other choices are cancelled.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(usize, Output), ApiError>>> {
        if self.num_open == 0 {
            return Poll::Ready(None);
        }
        for _ in 0..self.choices.len() {
            match self.choices[self.turn].poll_next(context) {
                Poll::Ready(Some(Ok(output))) => {
                    self.record.note_output();
                    if let Output::End(End { reason, .. }) = &output {
                        self.num_open -= 1;
                        self.choices[self.turn].finish_reason = Some(reason.name());
                        if self.num_open == 0 {
                            self.record.note_end(None);
                        }
                        if let Some(report) = &self.choices[self.turn].report {
                            self.state.turnover().note(report);
                        }
                    }
                    return Poll::Ready(Some(Ok((self.turn, output))));
                }
                Poll::Ready(Some(Err(error))) => {
                    // The other choices are cancelled.
                    self.choices.iter_mut().for_each(|choice| choice.events = None);
                    self.num_open = 0;
                    self.record.note_end(Some(error.clone()));
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) | Poll::Pending => self.turn = (self.turn + 1) % self.choices.len(),
            }
        }
        Poll::Pending
    }

    /// [`poll_next`](Self::poll_next) as a future.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Output), ApiError>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Whether every choice has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.num_open == 0
    }

    /// The choices of all prompts.
    pub(crate) fn num_choices(&self) -> usize {
        self.choices.len()
    }

    /// What has been used so far.
    pub(crate) fn usage(&self) -> Usage {
        // A prompt counts once, so its cache hits do too: those of its first choice.
        let cached = self.choices.iter().step_by(self.choices_per_prompt).map(|choice| choice.num_cached_tokens).sum();
        let completion = self.choices.iter().map(|choice| choice.num_generated_tokens).sum();
        let reasoning = || self.choices.iter().map(|choice| choice.decoder.num_reasoning_tokens()).sum();
        let mut drafts = Drafts::default();
        for report in self.choices.iter().filter_map(|choice| choice.report.as_ref()) {
            drafts += (&report.num_drafted, &report.num_accepted);
        }
        Usage::new(self.num_prompt_tokens, cached, completion, self.counts_reasoning.then(reasoning))
            .with_drafts(drafts)
    }
}

impl Drop for Generation {
    /// However it came to its end, it is told about once.
    fn drop(&mut self) {
        let choices = self
            .choices
            .iter()
            .map(|choice| record::Choice { report: choice.report.as_deref(), finish_reason: choice.finish_reason });
        let choices: Vec<_> = choices.collect();
        self.record.write(&self.state, &self.usage(), &choices);
    }
}

impl Choice {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Output, ApiError>>> {
        if let Some(reason) = self.ended.take() {
            return Poll::Ready(Some(Ok(self.end(reason))));
        }
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        let event = ready!(events.poll_recv(context));
        Poll::Ready(Some(match event {
            Some(Event::Prompt { logprobs }) => Ok(Output::Prompt(logprobs)),
            Some(Event::Token { id, logprobs }) => {
                self.num_generated_tokens += 1;
                self.num_cached_tokens = events.num_cached_tokens() as usize;
                let text_offset = self.decoder.num_chars();
                let (deltas, channel) = self.decoder.push(id);
                self.ended = match self.decoder.stop_hit() {
                    Some(stop) => Some(EndReason::StopString(stop.to_owned())),
                    None if self.limit.is_reached(self.num_generated_tokens, &self.decoder) => Some(EndReason::Length),
                    None => None,
                };
                if self.ended.is_some() {
                    self.events = None;
                }
                Ok(Output::Token(TokenOutput { id, deltas, channel, logprobs, text_offset }))
            }
            Some(Event::Finished { reason, report }) => {
                self.events = None;
                self.num_cached_tokens = report.num_cached_tokens as usize;
                self.report = Some(report);
                Ok(self.end(match reason {
                    FinishReason::Stop { .. } | FinishReason::Complete => EndReason::Stop,
                    FinishReason::Length => EndReason::Length,
                }))
            }
            Some(Event::Failed { failure, message }) => Err(failed(failure, &message)),
            None => Err(ApiError::internal("The engine ended the request without saying why")),
        }))
    }

    fn end(&mut self, reason: EndReason) -> Output {
        let ending = match reason {
            EndReason::Length => Ending::Length,
            EndReason::Stop | EndReason::StopString(_) | EndReason::ToolCalls => Ending::Stop,
        };
        let tail = self.decoder.finish(ending);
        let reason = match reason {
            EndReason::Stop if self.decoder.num_calls() > 0 => EndReason::ToolCalls,
            reason => reason,
        };
        Output::End(End { tail, reason, defect: self.decoder.defect().cloned() })
    }
}

/// What a failure within the engine means over HTTP.
fn failed(failure: Failure, message: &str) -> ApiError {
    match failure {
        Failure::Request => ApiError::internal(format!("The request failed: {message}")),
        Failure::Step => ApiError::engine_fault(message),
        Failure::Timeout => ApiError::timed_out(message),
        // Another server may serve the same request.
        Failure::Shutdown => {
            ApiError::unavailable(STOPPING, format!("The request failed: {message}"), Duration::from_secs(5))
        }
    }
}

/// What a refusal of the engine means over HTTP.
fn refusal(error: SubmitError, state: &AppState) -> ApiError {
    let message = error.to_string();
    match error {
        SubmitError::QueueFull { .. } => ApiError::unavailable("queue_full", message, state.expected_wait()),
        SubmitError::ShuttingDown => ApiError::unavailable(STOPPING, message, Duration::from_secs(5)),
        SubmitError::Unhealthy(_) => ApiError::unavailable(ENGINE_FAILED, message, Duration::from_secs(60)),
        SubmitError::EmptyPrompt
        | SubmitError::PromptTooLong { .. }
        | SubmitError::TokenOutOfRange { .. }
        | SubmitError::InvalidParams(_) => ApiError::invalid(message),
    }
}
