//! The engine from the outside: requests in, events out, with models that check what they are given.

mod constraints;
mod draft_model;
mod failures;
mod generation;
mod laws;
mod metrics;
mod models;
mod prefix;
mod refusals;
mod scheduling;
mod speculation;
mod turns;

use std::sync::LazyLock;
use std::time::Instant;

use cachalot_engine::{
    Engine, EngineConfig, EngineHandle, Event, EventStream, FinishReason, KvCacheSize, Report, Request, SamplingParams,
};
use cachalot_model::LanguageModel;

/// A small engine: 4 sequences, 64 tokens a step, 16 blocks, 256 tokens of context, 4 waiting, nothing shared.
fn small() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: Some(256),
        kv_cache: KvCacheSize::Blocks(16),
        max_waiting: 4,
        prefix_cache: false,
        ..EngineConfig::default()
    }
}

/// An engine that steps when told.
fn engine(model: impl LanguageModel + 'static, config: EngineConfig) -> (Engine, EngineHandle) {
    Engine::new(Box::new(model), config).expect("the configuration is valid")
}

fn greedy(prompt_ids: &[u32], max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    Request { prompt_ids: prompt_ids.to_vec(), sampling, ..Request::default() }
}

/// The events that are there already, without the reports, which are never the same.
fn ready(stream: &mut EventStream) -> Vec<Event> {
    std::iter::from_fn(|| stream.try_recv()).map(without_report).collect()
}

fn without_report(event: Event) -> Event {
    static SOME_TIME: LazyLock<Instant> = LazyLock::new(Instant::now);
    let Event::Finished { reason, .. } = event else { return event };
    let report = Report {
        num_cached_tokens: 0,
        num_drafted: Vec::new(),
        num_accepted: Vec::new(),
        num_preemptions: 0,
        arrival: *SOME_TIME,
        first_scheduled: *SOME_TIME,
        first_token: None,
        end: *SOME_TIME,
    };
    Event::Finished { reason, report: Box::new(report) }
}

/// The report of a request that has ended.
fn report(stream: &mut EventStream) -> Report {
    match std::iter::from_fn(|| stream.try_recv()).last() {
        Some(Event::Finished { report, .. }) => *report,
        other => panic!("the request has not finished: {other:?}"),
    }
}

/// Steps until there is nothing to do, checking the accounts after every step.
fn run(engine: &mut Engine) {
    while engine.step() {
        engine.check_integrity().expect("the accounts agree");
    }
}

/// All events of one request on an engine of its own.
fn alone(model: impl LanguageModel + 'static, config: EngineConfig, request: Request) -> Vec<Event> {
    let (mut engine, handle) = engine(model, config);
    let mut stream = handle.submit(request).expect("the request is valid");
    run(&mut engine);
    ready(&mut stream)
}

fn token_ids(events: &[Event]) -> Vec<u32> {
    let id = |event: &Event| if let Event::Token { id, .. } = event { Some(*id) } else { None };
    events.iter().filter_map(id).collect()
}

fn finish_reason(events: &[Event]) -> Option<FinishReason> {
    if let Some(Event::Finished { reason, .. }) = events.last() { Some(*reason) } else { None }
}

fn failure(events: &[Event]) -> Option<&str> {
    if let Some(Event::Failed { message, .. }) = events.last() { Some(message) } else { None }
}
