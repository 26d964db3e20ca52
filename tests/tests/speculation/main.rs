//! Speculation by the MTP module, of the engine with the real model, against what others say the module means: the tokens and
//! drafts of HF transformers ([`golden`]), and checkpoints that are right only under the published semantics ([`acceptance`]).
//!
//! Run with `--no-capture` to see what drafts save.

#![allow(clippy::print_stdout, reason = "the measured times are worth seeing")]

mod acceptance;
mod constructed;
mod golden;
mod witness;

use std::sync::{Arc, Mutex};

use cachalot_engine::{
    Engine, EngineConfig, EngineHandle, Event, EventStream, KvCacheSize, Report, Request, SamplingParams,
    SpeculativeTokens,
};
use cachalot_ops::Device;
use cachalot_weights::Source;
use witness::{Draft, Reading, Witness};

const DEVICES: [Device; 2] = [Device::Reference, Device::Cpu];

/// A request's tokens and its report.
struct Outcome {
    ids: Vec<u32>,
    report: Report,
}

/// An engine that steps when told, and what its model has drafted.
struct Subject {
    engine: Engine,
    handle: EngineHandle,
    drafts: Arc<Mutex<Vec<Draft>>>,
}

impl Subject {
    fn new(source: &Source, device: Device, reading: Reading, config: EngineConfig) -> Subject {
        let (model, drafts) = Witness::load(source, device, reading);
        let (engine, handle) = Engine::new(Box::new(model), config).expect("the configuration is valid");
        Subject { engine, handle, drafts }
    }

    /// Greedy continuations of all prompts at once.
    fn generate(&mut self, prompts: &[&[u32]], max_tokens: usize) -> Vec<Outcome> {
        let submit = |prompt_ids: &&[u32]| {
            let sampling = SamplingParams { max_tokens: max_tokens as u32, ..SamplingParams::default() };
            let request = Request { prompt_ids: prompt_ids.to_vec(), sampling, ..Request::default() };
            self.handle.submit(request).expect("the request is valid")
        };
        let streams: Vec<EventStream> = prompts.iter().map(submit).collect();
        while self.engine.step() {
            self.engine.check_integrity().expect("the accounts agree");
        }
        streams.into_iter().map(outcome).collect()
    }

    /// The drafts since the last call.
    fn take_drafts(&mut self) -> Vec<Draft> {
        std::mem::take(&mut *self.drafts.lock().expect("no panic"))
    }
}

fn outcome(mut stream: EventStream) -> Outcome {
    let mut ids = Vec::new();
    loop {
        match stream.try_recv() {
            Some(Event::Token { id, .. }) => ids.push(id),
            Some(Event::Finished { report, .. }) => return Outcome { ids, report: *report },
            other => panic!("unexpected {other:?} after {} tokens", ids.len()),
        }
    }
}

/// Drafts of a fixed length; one prompt is one step, and nothing is shared.
fn drafting(depth: usize) -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 512,
        max_model_len: Some(256),
        kv_cache: KvCacheSize::Blocks(16),
        prefix_cache: false,
        speculative_tokens: SpeculativeTokens::Fixed(depth),
        ..EngineConfig::default()
    }
}
