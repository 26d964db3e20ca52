//! What a step costs beside the model, and what choosing tokens costs.
//!
//! `step` measures everything that the engine does around a model that does nothing, at 64 and at 256 running sequences:
//! mailbox, schedule, batch, commit, events, statistics. The vocabulary has 16 tokens, so that choosing one from it is not what
//! is measured; `sample` measures that alone, for one row of the full vocabulary, with a copy of the row (`copy`) as the floor.
//! `prefix` measures what a prompt of 32,768 tokens costs whose keys are all in the cache: hashing it, where the request is
//! submitted, and looking its blocks up and taking them, in the step that admits it. `stream` measures tokens per second from
//! the engine's thread to the tasks of an async runtime that read them.
//!
//! The bars: a step of 64 sequences below 50 µs, of 256 below 200 µs; a lookup of 32k tokens below 100 µs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use cachalot_engine::{
    Engine, EngineConfig, EngineHandle, EventStream, KvCacheSize, NoopModel, Request, SamplingParams,
};
use cachalot_model::{BLOCK_SIZE, Batch, LanguageModel, Result};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const NUM_SEQS: usize = 64;
/// Tokens of the prompt that is looked up.
const LONG_PROMPT: usize = 32_768;

/// Steps that are measured before the sequences are started anew, so that they keep about the same length.
const STEPS_PER_RUN: u64 = 256;

/// An engine that is past the prompts of `num_seqs` sequences, and the streams that keep them alive.
fn decoding(
    model: impl LanguageModel + 'static,
    num_seqs: usize,
    num_prompt_tokens: usize,
    sampling: &SamplingParams,
) -> (Engine, EngineHandle, Vec<EventStream>) {
    let num_blocks = num_seqs * (num_prompt_tokens / BLOCK_SIZE + STEPS_PER_RUN as usize / BLOCK_SIZE + 3);
    let config = EngineConfig {
        max_num_seqs: num_seqs,
        max_num_batched_tokens: 8192,
        max_model_len: None,
        kv_cache: KvCacheSize::Blocks(num_blocks),
        max_waiting: 0,
        // All prompts are the same, and each is to have its own blocks.
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let (mut engine, handle) = Engine::new(Box::new(model), config).expect("a valid configuration");
    let sampling = SamplingParams { max_tokens: 1 << 30, ..sampling.clone() };
    let request = Request { prompt_ids: vec![1; num_prompt_tokens], sampling, ..Request::default() };
    let streams: Vec<_> = (0..num_seqs).map(|_| handle.submit(request.clone()).expect("room")).collect();
    let num_prompt_tokens = (num_seqs * num_prompt_tokens) as u64;
    while handle.stats().num_prompt_tokens < num_prompt_tokens {
        engine.step();
    }
    (engine, handle, streams)
}

/// The time of `num_steps` steps, a new engine every [`STEPS_PER_RUN`].
fn time_steps(num_steps: u64, start: impl Fn() -> (Engine, EngineHandle, Vec<EventStream>)) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut num_left = num_steps;
    while num_left > 0 {
        let num_in_run = num_left.min(STEPS_PER_RUN);
        let (mut engine, handle, streams) = start();
        let begin = Instant::now();
        for _ in 0..num_in_run {
            black_box(engine.step());
        }
        elapsed += begin.elapsed();
        assert_eq!(handle.stats().num_running, streams.len(), "every sequence took part in every step");
        num_left -= num_in_run;
    }
    elapsed
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for (num_seqs, num_prompt_tokens) in [(NUM_SEQS, 16), (NUM_SEQS, 1024), (NUM_SEQS, 16_384), (256, 16), (256, 1024)]
    {
        let id = BenchmarkId::new(format!("decode_{num_seqs}_seqs"), format!("context_{num_prompt_tokens}"));
        let model = NoopModel { vocab_size: 16, max_model_len: 1 << 20, token_id: 7, step_time: Duration::ZERO };
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|num_steps| {
                let sampling = SamplingParams::default();
                time_steps(num_steps, || decoding(model.clone(), num_seqs, num_prompt_tokens, &sampling))
            });
        });
    }
    group.finish();
}

/// Gives every row the same logits.
#[derive(Clone)]
struct CopyModel {
    logits: Vec<f32>,
}

impl CopyModel {
    /// A few likely tokens on a background of many unlikely ones, as a language model has: 129,280 logits of roughly normal
    /// distribution, of which every 5,000th is raised.
    fn new() -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let logits = (0..129_280).map(|i| {
            let normal = (0..6).map(|_| uniform()).sum::<f32>() - 3.0;
            if i % 5000 == 0 { 14.0 + 3.0 * normal } else { 2.5 * normal }
        });
        CopyModel { logits: logits.collect() }
    }
}

impl LanguageModel for CopyModel {
    fn vocab_size(&self) -> usize {
        self.logits.len()
    }

    fn max_model_len(&self) -> usize {
        1 << 20
    }

    fn kv_block_bytes(&self) -> usize {
        1
    }

    fn allocate(&mut self, _num_blocks: usize, _max_num_batched_tokens: usize, _max_num_logits: usize) -> Result<()> {
        Ok(())
    }

    fn forward(&mut self, _batch: &Batch, logits: &mut [f32]) -> Result<()> {
        for row in logits.chunks_exact_mut(self.logits.len()) {
            row.copy_from_slice(&self.logits);
        }
        Ok(())
    }
}

fn sample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sample_129280");
    let model = CopyModel::new();
    let mut row = vec![0.0f32; model.logits.len()];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            row.copy_from_slice(&model.logits);
            black_box(&mut row);
        });
    });
    let drawn = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let cases = [
        ("greedy", SamplingParams::default()),
        ("temperature", drawn.clone()),
        ("top_p_0.95", SamplingParams { top_p: 0.95, ..drawn.clone() }),
        ("top_p_0.95_flat", SamplingParams { top_p: 0.95, temperature: 20.0, ..drawn.clone() }),
        ("top_k_50", SamplingParams { top_k: Some(50), ..drawn.clone() }),
        ("min_p_0.05", SamplingParams { min_p: 0.05, ..drawn.clone() }),
        ("penalties", SamplingParams { presence_penalty: 0.5, repetition_penalty: 1.1, ..SamplingParams::default() }),
        ("logprobs_20", SamplingParams { logprobs: Some(20), ..SamplingParams::default() }),
    ];
    for (name, sampling) in cases {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|num_steps| time_steps(num_steps, || decoding(model.clone(), 1, 16, &sampling)));
        });
    }
    group.finish();
}

fn prefix(criterion: &mut Criterion) {
    let model = NoopModel { vocab_size: 16, max_model_len: 1 << 20, token_id: 7, step_time: Duration::ZERO };
    let config = EngineConfig {
        max_num_batched_tokens: LONG_PROMPT,
        kv_cache: KvCacheSize::Blocks(4 * LONG_PROMPT / BLOCK_SIZE),
        ..EngineConfig::default()
    };
    let (mut engine, handle) = Engine::new(Box::new(model), config).expect("a valid configuration");
    let request = |first: u32| Request {
        prompt_ids: (0..LONG_PROMPT as u32).map(|i| if i == 0 { first } else { i % 16 }).collect(),
        sampling: SamplingParams { max_tokens: 1, ..SamplingParams::default() },
        ..Request::default()
    };
    let known = request(1);
    let warm = handle.submit(known.clone()).expect("room");
    while engine.step() {}
    drop(warm);

    let mut group = criterion.benchmark_group("prefix_32k");
    group.bench_function("submit", |bencher| {
        bencher.iter_custom(|num_rounds| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..num_rounds {
                let request = known.clone();
                let begin = Instant::now();
                let stream = handle.submit(request).expect("room");
                elapsed += begin.elapsed();
                engine.step();
                drop(stream);
            }
            elapsed
        });
    });
    // Looked up, taken, computed for its last token, and given back: more than the lookup.
    group.bench_function("step_of_a_known_prompt", |bencher| {
        bencher.iter_custom(|num_rounds| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..num_rounds {
                let stream = handle.submit(known.clone()).expect("room");
                let begin = Instant::now();
                engine.step();
                elapsed += begin.elapsed();
                drop(stream);
            }
            elapsed
        });
    });
    group.finish();
    assert_eq!(handle.stats().num_cached_tokens % (LONG_PROMPT - BLOCK_SIZE) as u64, 0, "every later one was found");
    assert!(handle.stats().num_cached_tokens > 0);
}

fn stream(criterion: &mut Criterion) {
    const TOKENS_PER_SEQ: u32 = 1000;
    let model = NoopModel { vocab_size: 16, max_model_len: 1 << 20, token_id: 7, step_time: Duration::ZERO };
    let config = EngineConfig { max_model_len: None, kv_cache: KvCacheSize::Blocks(2000), ..EngineConfig::default() };
    let engine = Engine::start(Box::new(model), config).expect("a valid configuration");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let sampling = SamplingParams { max_tokens: TOKENS_PER_SEQ, ..SamplingParams::default() };
    let request = Request { prompt_ids: vec![1; 16], sampling, ..Request::default() };

    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(NUM_SEQS as u64 * u64::from(TOKENS_PER_SEQ)));
    group.bench_function("64_readers", |bencher| {
        bencher.iter(|| {
            let readers: Vec<_> = (0..NUM_SEQS)
                .map(|_| {
                    let mut events = engine.submit(request.clone()).expect("room");
                    runtime.spawn(async move {
                        let mut num_events = 0;
                        while events.recv().await.is_some() {
                            num_events += 1;
                        }
                        num_events
                    })
                })
                .collect();
            for reader in readers {
                assert_eq!(runtime.block_on(reader).expect("no panic"), TOKENS_PER_SEQ + 1);
            }
        });
    });
    group.finish();
    engine.shutdown(Duration::from_secs(10));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = step, sample, prefix, stream
}
criterion_main!(benches);
