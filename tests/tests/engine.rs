//! Laws of the engine over the real model: what a request yields depends on the request alone.
//!
//! The engine's own tests check the same with models that notice every wrong key; these check that the real caches, the MTP
//! module's and the indexer's among them, are what those models stand for.

use std::collections::BTreeMap;
use std::time::Duration;

use cachalot_engine::{
    Engine, EngineConfig, Event, EventStream, KvCacheSize, MlaPrefill, Priority, Request, SamplingParams,
    SpeculativeTokens,
};
use cachalot_model::{DeepseekV3, Options};
use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_testkit::golden::folder;
use cachalot_weights::{Checkpoint, Source};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const MAX_MODEL_LEN: usize = 448;
const VOCAB_SIZE: u32 = 384;

/// A request, and at which step it comes and, if it does, goes.
#[derive(Clone, Debug)]
struct Job {
    request: Request,
    arrival_step: usize,
    cancel_step: Option<usize>,
}

fn model(case: &str) -> Box<DeepseekV3> {
    let checkpoint = Checkpoint::open(&Source::Folder(folder(case))).expect("the fixture is valid");
    let ctx = Context::new(Device::Cpu, None).expect("threads");
    let options = Options { kv_cache_dtype: DType::F32, max_model_len: Some(MAX_MODEL_LEN), mtp: true };
    Box::new(DeepseekV3::load(ctx, &checkpoint, options).expect("the checkpoint loads"))
}

fn config() -> impl Strategy<Value = EngineConfig> {
    let speculative_tokens = prop_oneof![
        1 => Just(SpeculativeTokens::Auto),
        4 => (0usize..=4).prop_map(SpeculativeTokens::Fixed),
    ];
    let further_tokens = prop_oneof![1 => 0usize..8, 2 => 0usize..400];
    (1usize..5, further_tokens, 7usize..24, any::<bool>(), speculative_tokens).prop_map(
        |(max_num_seqs, further_tokens, num_blocks, prefix_cache, speculative_tokens)| EngineConfig {
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + further_tokens,
            max_model_len: Some(MAX_MODEL_LEN),
            kv_cache: KvCacheSize::Blocks(num_blocks),
            max_waiting: 100,
            prefix_cache,
            speculative_tokens,
            ..EngineConfig::default()
        },
    )
}

/// Beginnings of one of two texts, with an end of their own.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let own = prop::collection::vec(2..VOCAB_SIZE, 1..60);
    (0..2u32, 0usize..300, own).prop_map(|(text, shared_len, own)| {
        let shared = (0..shared_len as u32).map(|i| 2 + (i * (37 + text) + i / 50) % (VOCAB_SIZE - 2));
        shared.chain(own).collect()
    })
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let draw = (prop_oneof![Just(0.0f32), 0.2f32..1.5], prop_oneof![Just(1.0f32), 0.3f32..1.0], any::<u64>());
    let penalties = (prop_oneof![Just(0.0f32), -1.0f32..1.5], prop_oneof![Just(1.0f32), 0.8f32..1.3]);
    (draw, penalties, 1u32..40).prop_map(
        |((temperature, top_p, seed), (frequency_penalty, repetition_penalty), max_tokens)| SamplingParams {
            temperature,
            top_p,
            seed,
            frequency_penalty,
            repetition_penalty,
            max_tokens,
            ..Default::default()
        },
    )
}

fn job() -> impl Strategy<Value = Job> {
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    (prompt(), sampling(), priority, 0usize..20, prop::option::weighted(0.2, 0usize..30)).prop_map(
        |(prompt_ids, sampling, priority, arrival_step, cancel_step)| Job {
            request: Request { prompt_ids, sampling, priority, ..Request::default() },
            arrival_step,
            cancel_step,
        },
    )
}

/// What has come out of a stream.
fn drain(stream: &mut EventStream, ids: &mut Vec<u32>) {
    while let Some(event) = stream.try_recv() {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Finished { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Runs the jobs together.
fn run(case: &str, config: EngineConfig, jobs: &[Job]) -> (BTreeMap<usize, EventStream>, Vec<Vec<u32>>) {
    let (mut engine, handle) = Engine::new(model(case), config).expect("the configuration is valid");
    let mut streams = BTreeMap::new();
    let mut outputs = vec![Vec::new(); jobs.len()];
    for step in 0.. {
        for (index, job) in jobs.iter().enumerate() {
            if job.arrival_step == step {
                streams.insert(index, handle.submit(job.request.clone()).expect("the request is valid"));
            }
            if job.cancel_step == Some(step) && job.arrival_step < step {
                streams.remove(&index);
            }
        }
        let has_computed = engine.step();
        engine.check_integrity().expect("the accounts agree");
        for (&index, stream) in &mut streams {
            drain(stream, &mut outputs[index]);
        }
        if !has_computed && step > 30 {
            break;
        }
    }
    assert_eq!((handle.stats().num_blocks_in_use, handle.stats().num_running), (0, 0));
    (streams, outputs)
}

/// Runs each job for itself on one engine that shares and drafts nothing.
fn run_alone(case: &str, jobs: &[Job]) -> Vec<Vec<u32>> {
    let ample = EngineConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: MAX_MODEL_LEN,
        max_model_len: Some(MAX_MODEL_LEN),
        kv_cache: KvCacheSize::Blocks(8),
        prefix_cache: false,
        speculative_tokens: SpeculativeTokens::Fixed(0),
        ..EngineConfig::default()
    };
    let (mut engine, handle) = Engine::new(model(case), ample).expect("the configuration is valid");
    let run = |job: &Job| {
        let mut stream = handle.submit(job.request.clone()).expect("the request is valid");
        while engine.step() {}
        let mut ids = Vec::new();
        drain(&mut stream, &mut ids);
        ids
    };
    jobs.iter().map(run).collect()
}

fn check(case: &str) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
    let workload = (config(), prop::collection::vec(job(), 1..7));
    let result = runner.run(&workload, |(config, jobs)| {
        let (streams, outputs) = run(case, config, &jobs);
        for (index, (got, expected)) in outputs.iter().zip(run_alone(case, &jobs)).enumerate() {
            // Of a request that was cancelled, what came before is the same.
            let expected = if streams.contains_key(&index) { &expected } else { &expected[..got.len()] };
            prop_assert_eq!(got, expected, "job {}", index);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{case}: {error}");
    }
}

#[test]
fn v3_yields_the_same_in_any_company() {
    check("v3-bf16");
}

#[test]
fn v3_in_fp8_yields_the_same_in_any_company() {
    check("v3-fp8");
}

#[test]
fn v32_yields_the_same_in_any_company() {
    check("v32-bf16");
}

#[test]
fn v32_in_fp8_yields_the_same_in_any_company() {
    check("v32-fp8");
}

/// This prompt's last token once came out otherwise, when long chunks had expanded attention: near-ties of the indexer turned.
#[test]
fn a_prompt_token_by_token_yields_the_same() {
    let prompt_ids = vec![
        2, 39, 76, 113, 150, 187, 224, 261, 298, 335, 372, 27, 64, 101, 138, 175, 212, 249, 286, 323, 360, 15, 52, 89,
        126, 163, 200, 237, 274, 311, 348, 3, 40, 77, 114, 151, 188, 225, 262, 299, 336, 373, 28, 65, 102, 139, 176,
        213, 250, 287, 325, 362, 17, 54, 91, 128, 165, 202, 239, 276, 313, 350, 5, 42, 79, 116, 153, 190, 227, 264,
        301, 338, 375, 30, 67, 104, 141, 178, 215, 252, 289, 326, 363, 18, 55, 92, 129, 166, 203, 240, 277, 314, 351,
        6, 43, 80, 117, 154, 191, 228, 266, 303, 340, 377, 32, 69, 106, 143, 180, 217, 254, 291, 192, 27, 369, 243,
        299, 192, 367, 365, 165, 239, 122, 45, 134, 200, 178, 96, 183,
    ];
    let sampling = SamplingParams {
        temperature: 1.2176794,
        top_p: 0.6477378,
        frequency_penalty: 0.7201654,
        repetition_penalty: 1.2495778,
        seed: 660205339967576879,
        max_tokens: 8,
        ..Default::default()
    };
    let jobs =
        [Job { request: Request { prompt_ids, sampling, ..Request::default() }, arrival_step: 0, cancel_step: None }];
    for speculative_tokens in [SpeculativeTokens::Fixed(0), SpeculativeTokens::Fixed(1), SpeculativeTokens::Auto] {
        let config = EngineConfig {
            max_num_seqs: 1,
            max_num_batched_tokens: 1,
            max_model_len: Some(MAX_MODEL_LEN),
            kv_cache: KvCacheSize::Blocks(7),
            prefix_cache: false,
            speculative_tokens,
            ..EngineConfig::default()
        };
        let (_, outputs) = run("v32-bf16", config, &jobs);
        assert_eq!(outputs, run_alone("v32-bf16", &jobs), "{speculative_tokens:?}");
    }
}

/// Greedy tokens do not hang on the form of attention, as long as no two are nearly level.
#[test]
fn expanded_prefill_yields_the_same_greedy_tokens() {
    for case in ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"] {
        let jobs: Vec<_> = (0..4u32)
            .map(|seed| {
                let prompt_ids = (0..130 + 60 * seed).map(|i| 2 + (i * 37 + seed) % 380).collect();
                let sampling = SamplingParams { temperature: 0.0, max_tokens: 30, ..Default::default() };
                let request = Request { prompt_ids, sampling, ..Request::default() };
                Job { request, arrival_step: 0, cancel_step: None }
            })
            .collect();
        let config = EngineConfig {
            max_model_len: Some(MAX_MODEL_LEN),
            kv_cache: KvCacheSize::Blocks(32),
            mla_prefill: MlaPrefill::Expanded,
            ..EngineConfig::default()
        };
        assert_eq!(run(case, config, &jobs).1, run_alone(case, &jobs), "{case}");
    }
}

#[test]
fn the_overlapped_loop_yields_the_same() {
    for case in ["v3-fp8", "v32-fp8"] {
        let jobs: Vec<_> = (0..6u64)
            .map(|seed| {
                let prompt_ids = (0..120 + 30 * seed as u32).map(|i| 2 + i * 37 % 380).collect();
                let sampling =
                    SamplingParams { temperature: 0.3 * seed as f32, seed, max_tokens: 40, ..Default::default() };
                Job {
                    request: Request { prompt_ids, sampling, ..Request::default() },
                    arrival_step: 0,
                    cancel_step: None,
                }
            })
            .collect();
        let config = EngineConfig {
            max_num_seqs: 4,
            max_num_batched_tokens: 100,
            max_model_len: Some(MAX_MODEL_LEN),
            kv_cache: KvCacheSize::Blocks(14),
            speculative_tokens: SpeculativeTokens::Fixed(2),
            ..EngineConfig::default()
        };
        let (_, plain) = run(case, config.clone(), &jobs);
        let handle = Engine::start(model(case), config).expect("the configuration is valid");
        let streams: Vec<_> = jobs.iter().map(|job| handle.submit(job.request.clone()).expect("accepted")).collect();
        for (index, mut stream) in streams.into_iter().enumerate() {
            let events = std::iter::from_fn(|| stream.blocking_recv());
            let ids: Vec<_> =
                events.filter_map(|event| if let Event::Token { id, .. } = event { Some(id) } else { None }).collect();
            assert_eq!(ids, plain[index], "{case}, request {index}");
        }
        handle.shutdown(Duration::from_secs(10));
        assert_eq!(plain, run_alone(case, &jobs), "{case}");
    }
}
