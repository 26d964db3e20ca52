//! The engine from the outside: requests in, events out, with models that check what they are given.

mod constraints;
mod failures;
mod generation;
mod laws;
mod metrics;
mod models;
mod refusals;
mod scheduling;

use cachalot_engine::{
    Engine, EngineConfig, EngineHandle, Event, EventStream, FinishReason, KvCacheSize, Request, SamplingParams,
};
use cachalot_model::LanguageModel;

/// A small engine: 4 sequences, 64 tokens a step, 16 blocks, 256 tokens of context, 4 waiting.
fn small() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: Some(256),
        kv_cache: KvCacheSize::Blocks(16),
        max_waiting: 4,
    }
}

/// An engine that steps when told.
fn engine(model: impl LanguageModel + 'static, config: EngineConfig) -> (Engine, EngineHandle) {
    Engine::new(Box::new(model), config).expect("the configuration is valid")
}

fn greedy(prompt_ids: &[u32], max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    Request { prompt_ids: prompt_ids.to_vec(), sampling, constraint: None }
}

/// The events that are there already.
fn ready(stream: &mut EventStream) -> Vec<Event> {
    std::iter::from_fn(|| stream.try_recv()).collect()
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
    if let Some(Event::Failed { message }) = events.last() { Some(message) } else { None }
}
