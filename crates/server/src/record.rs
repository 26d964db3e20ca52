//! What is told about each request when it is over: a line in the log, and its trace.
//!
//! Neither has any text of the prompt or of the answer.

use std::time::Instant;

use cachalot_engine::Report;

use crate::caller::Caller;
use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::usage::Usage;

/// What nginx calls a request whose client has not waited for the answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request that the engine has taken, from then to its end.
#[derive(Debug)]
pub(crate) struct Record {
    caller: Caller,
    operation: &'static str,
    model: String,
    first_output: Option<Instant>,
    end: Option<(Instant, Option<ApiError>)>,
}

/// What is known of one choice.
pub(crate) struct Choice<'a> {
    /// None of those that the engine did not bring to their end.
    pub(crate) report: Option<&'a Report>,
    pub(crate) finish_reason: Option<&'static str>,
}

impl Record {
    /// `operation` is OpenTelemetry's name for what is done.
    pub(crate) fn new(caller: &Caller, operation: &'static str, model: &str) -> Self {
        Record { caller: caller.clone(), operation, model: model.to_owned(), first_output: None, end: None }
    }

    /// Something of the answer is there.
    pub(crate) fn note_output(&mut self) {
        self.first_output.get_or_insert_with(Instant::now);
    }

    /// The answer is whole, or has failed. Without this, its reader has gone away.
    pub(crate) fn note_end(&mut self, error: Option<ApiError>) {
        self.end.get_or_insert_with(|| (Instant::now(), error));
    }

    /// Tells all of it.
    pub(crate) fn write(&self, state: &AppState, usage: &Usage, choices: &[Choice<'_>]) {
        let seconds = |until: Instant| (until - self.caller.began).as_secs_f64();
        let (accepted, rejected) = usage.draft_counts().unwrap_or_default();
        let reasons: Vec<&str> = choices.iter().filter_map(|choice| choice.finish_reason).collect();
        tracing::debug!(
            request_id = self.caller.request_id,
            route = self.caller.route,
            model = self.model,
            status = self.status(),
            error = self.error_type(),
            finish_reasons = reasons.join(","),
            num_choices = choices.len(),
            num_prompt_tokens = usage.prompt_tokens,
            num_cached_tokens = usage.prompt_cache_hit_tokens,
            num_generated_tokens = usage.completion_tokens,
            num_accepted_draft_tokens = accepted,
            num_rejected_draft_tokens = rejected,
            first_output_s = self.first_output.map(seconds),
            total_s = seconds(self.ended()),
            "request ended"
        );
        if let Some(traces) = state.traces() {
            traces.write(self, usage, choices);
        }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    pub(crate) fn first_output(&self) -> Option<Instant> {
        self.first_output
    }

    /// When it ended; now, if its reader has just gone away.
    pub(crate) fn ended(&self) -> Instant {
        self.end.as_ref().map_or_else(Instant::now, |(when, _)| *when)
    }

    /// The HTTP status that says how it ended, whether or not there was still one to send.
    pub(crate) fn status(&self) -> u16 {
        match &self.end {
            None => CLIENT_CLOSED_REQUEST,
            Some((_, None)) => 200,
            Some((_, Some(error))) => error.status().as_u16(),
        }
    }

    /// What kept it from ending well.
    pub(crate) fn error_type(&self) -> Option<&'static str> {
        match &self.end {
            None => Some("client_closed_request"),
            Some((_, error)) => error.as_ref().map(ApiError::code),
        }
    }
}
