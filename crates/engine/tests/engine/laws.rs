//! What a request yields depends on the request alone: not on its neighbours, chunks, blocks, preemption, what is shared or
//! what is drafted.

use std::collections::BTreeMap;
use std::time::Duration;

use cachalot_engine::{
    Engine, EngineConfig, EngineStats, Event, EventStream, Failure, KvCacheSize, Priority, Request, SamplingParams,
    SpeculativeTokens,
};
use cachalot_model::LanguageModel;
use proptest::prelude::*;

use crate::draft_model::DraftModel;
use crate::models::{PagedModel, VOCAB_SIZE};
use crate::{alone, engine, ready, without_report};

const MAX_MODEL_LEN: usize = 320;

/// A request, when it comes, and when its reader goes away.
#[derive(Clone, Debug)]
struct Job {
    request: Request,
    arrival_step: usize,
    cancel_step: Option<usize>,
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let draw = (
        prop_oneof![1 => Just(0.0f32), 2 => 0.3f32..2.0],
        prop_oneof![Just(1.0f32), 0.2f32..1.0],
        prop::option::of(1u32..60),
        prop_oneof![Just(0.0f32), 0.0f32..0.3],
        any::<u64>(),
    );
    let penalties = (
        prop_oneof![Just(0.0f32), -1.0f32..2.0],
        prop_oneof![Just(0.0f32), -1.0f32..2.0],
        prop_oneof![Just(1.0f32), 0.8f32..1.5],
        prop::collection::btree_map(0..VOCAB_SIZE as u32, -3.0f32..3.0, 0..3),
    );
    let end = (0u32..150, 0u32..20, prop::collection::vec(0..VOCAB_SIZE as u32 + 5, 0..2), any::<bool>());
    let report = (prop::option::of(0u8..=20), prop::option::of(0u8..=20));
    (draw, penalties, end, report).prop_map(|(draw, penalties, end, report)| {
        let (temperature, top_p, top_k, min_p, seed) = draw;
        let (presence_penalty, frequency_penalty, repetition_penalty, logit_bias) = penalties;
        let (max_tokens, min_tokens, stop_token_ids, ignore_eos) = end;
        let (logprobs, prompt_logprobs) = report;
        SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
            presence_penalty,
            frequency_penalty,
            repetition_penalty,
            logit_bias,
            seed,
            max_tokens,
            min_tokens: min_tokens.min(max_tokens),
            stop_token_ids,
            eos_token_ids: vec![1],
            ignore_eos,
            logprobs,
            prompt_logprobs,
        }
    })
}

/// Prompts that have much in common: each is the beginning of one of two long texts, and an end of its own.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let own = prop::collection::vec(0..VOCAB_SIZE as u32, 1..100);
    (0..2u32, 0usize..200, own).prop_map(|(text, shared_len, own)| {
        let shared = (0..shared_len as u32).map(|i| (i * (7 + text) + i / 50) % VOCAB_SIZE as u32);
        shared.chain(own).collect()
    })
}

fn job() -> impl Strategy<Value = Job> {
    let priority = prop_oneof![1 => Just(Priority::High), 3 => Just(Priority::Normal), 1 => Just(Priority::Low)];
    // A deadline that is over at once, and one that is never.
    let timeout =
        prop_oneof![1 => Just(Some(Duration::ZERO)), 9 => Just(None), 9 => Just(Some(Duration::from_secs(999)))];
    let cache_salt = prop_oneof![3 => Just(String::new()), 1 => Just("another".to_owned())];
    let company = (priority, timeout, cache_salt, 0usize..40, prop::option::weighted(0.2, 0usize..60));
    (prompt(), sampling(), company).prop_map(|(prompt_ids, sampling, company)| {
        let (priority, timeout, cache_salt, arrival_step, cancel_step) = company;
        let request = Request { prompt_ids, sampling, priority, timeout, cache_salt, ..Request::default() };
        Job { request, arrival_step, cancel_step }
    })
}

fn config() -> impl Strategy<Value = EngineConfig> {
    let speculative_tokens = prop_oneof![
        1 => Just(SpeculativeTokens::Auto),
        3 => (0usize..6).prop_map(SpeculativeTokens::Fixed),
    ];
    // From the fewest blocks that a sequence of full length needs.
    (1usize..6, 0usize..150, 5usize..16, any::<bool>(), speculative_tokens).prop_map(
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

/// What each job yields when it has the engine for itself, in one piece, with nothing shared and nothing drafted.
fn alone_each(jobs: &[Job]) -> Vec<Vec<Event>> {
    let ample = EngineConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: MAX_MODEL_LEN,
        max_model_len: Some(MAX_MODEL_LEN),
        kv_cache: KvCacheSize::Blocks(100),
        prefix_cache: false,
        speculative_tokens: SpeculativeTokens::Fixed(0),
        ..EngineConfig::default()
    };
    let untimed = |job: &Job| Request { timeout: None, ..job.request.clone() };
    jobs.iter().map(|job| alone(PagedModel::hashing(), ample.clone(), untimed(job))).collect()
}

fn check_against_alone(model: impl LanguageModel + 'static, config: EngineConfig, jobs: &[Job]) -> EngineStats {
    let (mut engine, handle) = engine(model, config);
    let mut streams: BTreeMap<usize, EventStream> = BTreeMap::new();
    let mut events: Vec<Vec<Event>> = vec![Vec::new(); jobs.len()];
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
            events[index].extend(ready(stream));
        }
        if !has_computed && step > 60 {
            break;
        }
        assert!(step < 10_000, "the engine does not come to an end");
    }
    let stats = handle.stats();
    assert_eq!((stats.num_blocks_in_use, stats.num_running, stats.num_waiting), (0, 0, 0));

    for (index, (job, expected)) in jobs.iter().zip(alone_each(jobs)).enumerate() {
        let got = &events[index];
        let is_overdue = |event: &Event| matches!(event, Event::Failed { failure: Failure::Timeout, .. });
        if job.request.timeout == Some(Duration::ZERO) && streams.contains_key(&index) {
            assert!(got.len() == 1 && is_overdue(&got[0]), "job {index}: {got:?}");
        } else if streams.contains_key(&index) {
            assert_eq!(got, &expected, "job {index}");
            let is_end = |event: &&Event| matches!(event, Event::Finished { .. } | Event::Failed { .. });
            assert_eq!(got.iter().filter(is_end).count(), 1, "job {index} ends once");
        } else if !got.last().is_some_and(is_overdue) {
            // Cancelled: what came before is the same.
            assert_eq!(got[..], expected[..got.len()], "job {index}");
        }
    }
    stats
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Prefix cache on or off, drafts of any length right or wrong, chunks, preemption, classes, deadlines and cancellations.
    #[test]
    fn a_request_yields_the_same_in_any_company(
        config in config(),
        accuracy in 0u64..=256,
        jobs in prop::collection::vec(job(), 1..12),
    ) {
        check_against_alone(DraftModel::new(accuracy), config, &jobs);
    }

    /// The loop that tells readers and prepares masks while the model computes, against one thing after the other.
    #[test]
    fn the_overlapped_loop_yields_the_same(config in config(), jobs in prop::collection::vec(job(), 1..12)) {
        let handle = Engine::start(Box::new(DraftModel::new(200)), config).expect("the configuration is valid");
        let untimed = |job: &Job| Request { timeout: None, ..job.request.clone() };
        let streams: Vec<_> = jobs.iter().map(|job| handle.submit(untimed(job)).expect("the request is valid")).collect();
        for (index, (mut stream, expected)) in streams.into_iter().zip(alone_each(&jobs)).enumerate() {
            let got: Vec<_> = std::iter::from_fn(|| stream.blocking_recv()).map(without_report).collect();
            prop_assert_eq!(got, expected, "job {}", index);
        }
        handle.shutdown(Duration::from_secs(10));
    }
}

#[test]
fn the_workloads_preempt() {
    // The law above would be empty if blocks never ran out.
    let config = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: Some(MAX_MODEL_LEN),
        kv_cache: KvCacheSize::Blocks(6),
        max_waiting: 100,
        ..EngineConfig::default()
    };
    let sampling = SamplingParams { temperature: 1.0, max_tokens: 150, prompt_logprobs: Some(2), ..Default::default() };
    let jobs: Vec<_> = (0..4)
        .map(|seed| Job {
            request: Request {
                prompt_ids: vec![3; 60],
                sampling: SamplingParams { seed, ..sampling.clone() },
                ..Request::default()
            },
            arrival_step: 0,
            cancel_step: None,
        })
        .collect();
    let stats = check_against_alone(DraftModel::new(200), config, &jobs);
    assert!(stats.num_preemptions >= 3, "{stats:?}");
}

#[test]
fn permuted_arrivals_yield_the_same() {
    let request = |seed: u64| Request {
        prompt_ids: (0..40 + seed as u32 * 7).map(|i| i % 50).collect(),
        sampling: SamplingParams { temperature: 0.8, seed, max_tokens: 40, ..Default::default() },
        ..Request::default()
    };
    let outputs = |order: &[u64]| {
        let (mut engine, handle) = engine(PagedModel::hashing(), crate::small());
        let mut streams: Vec<_> = order.iter().map(|&seed| (seed, handle.submit(request(seed)).unwrap())).collect();
        crate::run(&mut engine);
        streams.iter_mut().map(|(seed, stream)| (*seed, ready(stream))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(outputs(&[0, 1, 2, 3]), outputs(&[3, 1, 0, 2]));
}
