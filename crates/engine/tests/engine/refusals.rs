//! What is refused at start and at submission, with which words.

use cachalot_engine::{Engine, EngineConfig, KvCacheSize, NoopModel, Request, SamplingParams, StartError, SubmitError};

use crate::models::PagedModel;
use crate::{engine, greedy, ready, run, small};

#[test]
fn a_bad_request_is_refused_with_the_reason() {
    let (_engine, handle) = engine(PagedModel::counting(), small());
    let check = |request: Request, message: &str| {
        let error = handle.submit(request).expect_err(message);
        assert_eq!(error.to_string(), message);
    };
    let with = |change: fn(&mut SamplingParams)| {
        let mut request = greedy(&[1], 4);
        change(&mut request.sampling);
        request
    };
    check(greedy(&[], 4), "the prompt is empty; it must have at least one token");
    check(
        greedy(&[1; 256], 4),
        "the prompt has 256 tokens, which leaves no room for output in the context of 256 tokens; shorten the prompt",
    );
    check(
        greedy(&[1; 257], 0),
        "the prompt has 257 tokens, which leaves no room for output in the context of 256 tokens; shorten the prompt",
    );
    check(greedy(&[1, 50], 4), "prompt_ids has token id 50, but the vocabulary has 50 tokens (0 to 49)");
    check(
        with(|s| s.logit_bias = [(4_000_000_000, 1.0)].into()),
        "logit_bias has token id 4000000000, but the vocabulary has 50 tokens (0 to 49)",
    );
    check(with(|s| s.temperature = f32::NAN), "temperature is NaN; it must be a finite number ≥ 0");
    check(with(|s| s.temperature = -0.5), "temperature is -0.5; it must be a finite number ≥ 0");
    check(with(|s| s.temperature = f32::INFINITY), "temperature is inf; it must be a finite number ≥ 0");
    check(with(|s| s.top_p = 0.0), "top_p is 0; it must be in (0, 1]");
    check(with(|s| s.top_p = 1.5), "top_p is 1.5; it must be in (0, 1]");
    check(with(|s| s.top_p = f32::NAN), "top_p is NaN; it must be in (0, 1]");
    check(with(|s| s.top_k = Some(0)), "top_k is 0; it must be at least 1, or absent to keep all tokens");
    check(with(|s| s.min_p = -0.1), "min_p is -0.1; it must be in [0, 1]");
    check(with(|s| s.min_p = f32::NAN), "min_p is NaN; it must be in [0, 1]");
    check(with(|s| s.presence_penalty = f32::NAN), "presence_penalty is NaN; it must be a finite number");
    check(with(|s| s.frequency_penalty = f32::INFINITY), "frequency_penalty is inf; it must be a finite number");
    check(with(|s| s.repetition_penalty = 0.0), "repetition_penalty is 0; it must be a finite number > 0");
    check(with(|s| s.repetition_penalty = f32::INFINITY), "repetition_penalty is inf; it must be a finite number > 0");
    check(with(|s| s.logit_bias = [(7, f32::NAN)].into()), "logit_bias of token 7 is NaN; it must be a finite number");
    check(with(|s| s.logprobs = Some(21)), "logprobs is 21; it must be in 0..=20");
    check(with(|s| s.prompt_logprobs = Some(255)), "prompt_logprobs is 255; it must be in 0..=20");
    check(with(|s| s.min_tokens = 5), "min_tokens is 5; it must be at most max_tokens");
    // Nothing of them was kept.
    assert!(handle.submit(greedy(&[1], 4)).is_ok());
}

#[test]
fn one_request_too_many_is_refused() {
    let config = EngineConfig { max_num_seqs: 2, max_waiting: 1, ..small() };
    let (mut engine, handle) = engine(PagedModel::counting(), config);
    let submit = || handle.submit(greedy(&[1, 2], 3));
    let mut streams: Vec<_> = (0..3).map(|_| submit().unwrap()).collect();
    let full = SubmitError::QueueFull { max_live: 3 };
    assert_eq!(
        full.to_string(),
        "the engine is busy: 3 requests are running or waiting, and no more are accepted; try again later"
    );
    assert_eq!(submit().unwrap_err(), full);
    engine.step();
    assert_eq!(submit().unwrap_err(), full, "they have only been started");
    // A reader that goes away makes room, once the engine has noticed.
    drop(streams.pop());
    engine.step();
    streams.push(submit().unwrap());
    assert_eq!(submit().unwrap_err(), full);
    run(&mut engine);
    assert!(submit().is_ok());
    assert!(streams.iter_mut().all(|stream| ready(stream).len() == 4));
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let check = |change: fn(&mut EngineConfig), message: &str| {
        let mut config = small();
        change(&mut config);
        let error: StartError = Engine::new(Box::new(PagedModel::counting()), config).err().expect(message);
        assert_eq!(error.to_string(), message);
    };
    check(|config| config.max_num_seqs = 0, "max_num_seqs is 0; it must be at least 1");
    check(|config| config.max_model_len = Some(0), "max_model_len is 0; it must be at least 1");
    check(
        |config| config.max_num_batched_tokens = 3,
        "max_num_batched_tokens is 3, less than max_num_seqs 4: a step must be able to advance every sequence by a token; \
         raise the first or lower the second",
    );
    check(
        |config| config.max_model_len = Some(5000),
        "max_model_len is 5000, but the model supports at most 4096 tokens",
    );
    check(
        |config| config.kv_cache = KvCacheSize::Bytes(3999),
        "the KV cache has 3 blocks of 64 tokens, but one sequence of max_model_len 256 needs 4 (4000 bytes); enlarge the cache \
         or lower max_model_len to 192",
    );
    check(
        |config| (config.kv_cache, config.max_model_len) = (KvCacheSize::Bytes(999), None),
        "the KV cache has no blocks: one block of 64 tokens takes 1000 bytes; enlarge the cache",
    );
}

#[test]
fn limits_follow_from_the_configuration_and_the_model() {
    let limits = |config| *engine(PagedModel::counting(), config).1.limits();
    let by_bytes = EngineConfig { kv_cache: KvCacheSize::Bytes(20_999), max_model_len: None, ..small() };
    let derived = limits(by_bytes);
    // 20 blocks hold less than the model's 4096 tokens.
    assert_eq!((derived.num_blocks, derived.max_model_len), (20, 1280));
    let ample = limits(EngineConfig { kv_cache: KvCacheSize::Blocks(1000), max_model_len: None, ..small() });
    assert_eq!((ample.num_blocks, ample.max_model_len, ample.max_live, ample.max_num_logits), (1000, 4096, 8, 64));
    // A cache beyond what a slot number can say is cut.
    let model = NoopModel { vocab_size: 2, max_model_len: 64, token_id: 0, step_time: std::time::Duration::ZERO };
    let config = EngineConfig { kv_cache: KvCacheSize::Bytes(1 << 40), max_model_len: None, ..small() };
    assert!(
        matches!(Engine::new(Box::new(model), config), Ok((_, handle)) if handle.limits().num_blocks == (1 << 26) - 1)
    );
}
