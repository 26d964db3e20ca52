//! When generation ends and what is reported on the way.

use cachalot_engine::{Event, FinishReason, Logprob, PositionLogprobs, Request, SamplingParams};

use crate::models::{PagedModel, VOCAB_SIZE};
use crate::{alone, engine, finish_reason, ready, run, small, token_ids};

/// What a counting model yields after token 9: 10, 11, …
fn check_end(sampling: SamplingParams, expected_ids: &[u32], expected_reason: FinishReason) {
    let request = Request { prompt_ids: vec![3, 9], sampling, ..Request::default() };
    let events = alone(PagedModel::counting(), small(), request.clone());
    assert_eq!(token_ids(&events), expected_ids, "{request:?}");
    assert_eq!(finish_reason(&events), Some(expected_reason), "{request:?}");
    assert_eq!(events.len(), expected_ids.len() + 1, "{request:?}");
}

#[test]
fn ends_of_generation() {
    let base =
        SamplingParams { max_tokens: 4, stop_token_ids: vec![40], eos_token_ids: vec![12], ..Default::default() };
    let stop = |token_id| FinishReason::Stop { token_id };
    check_end(base.clone(), &[10, 11], stop(12));
    check_end(SamplingParams { max_tokens: 2, ..base.clone() }, &[10, 11], FinishReason::Length);
    check_end(SamplingParams { max_tokens: 0, ..base.clone() }, &[], FinishReason::Length);
    check_end(SamplingParams { ignore_eos: true, ..base.clone() }, &[10, 11, 12, 13], FinishReason::Length);
    // A stop token of the request's own counts although end-of-sequence tokens are ignored.
    let own = SamplingParams { stop_token_ids: vec![12], ignore_eos: true, ..base.clone() };
    check_end(own.clone(), &[10, 11], stop(12));
    check_end(SamplingParams { stop_token_ids: vec![10], ..base.clone() }, &[], stop(10));
    // At the third token 12 is forbidden; the first of the other tokens is chosen, and counting starts anew.
    let third = SamplingParams { min_tokens: 3, max_tokens: 5, ..base.clone() };
    check_end(third.clone(), &[10, 11, 0, 1, 2], FinishReason::Length);
    check_end(SamplingParams { min_tokens: 2, ..base.clone() }, &[10, 11], stop(12));
    check_end(SamplingParams { min_tokens: 3, max_tokens: 5, ..own }, &[10, 11, 0, 1, 2], FinishReason::Length);
    let ignored = SamplingParams { ignore_eos: true, ..third };
    check_end(ignored, &[10, 11, 12, 13, 14], FinishReason::Length);
    // Stop tokens beyond the vocabulary never come up and do no harm.
    let beyond = SamplingParams { stop_token_ids: vec![1 << 30], min_tokens: 4, ..base };
    check_end(beyond, &[10, 11, 0, 1], FinishReason::Length);
}

#[test]
fn a_full_context_ends_generation() {
    // The context is 256 tokens.
    for (num_prompt_tokens, num_generated) in [(250, 6), (255, 1), (1, 255)] {
        let sampling = SamplingParams { max_tokens: 1000, ..Default::default() };
        let events = alone(
            PagedModel::counting(),
            small(),
            Request { prompt_ids: vec![1; num_prompt_tokens], sampling, ..Request::default() },
        );
        assert_eq!(token_ids(&events).len(), num_generated, "after {num_prompt_tokens} tokens");
        assert_eq!(finish_reason(&events), Some(FinishReason::Length));
    }
}

/// Log-softmax in f64 with a plain sort.
fn naive_logprobs(logits: &[f32], token_id: u32, num_top: usize) -> PositionLogprobs {
    let log_sum = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
    let logprob = |id: u32| Logprob { id, logprob: (f64::from(logits[id as usize]) - log_sum) as f32 };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    PositionLogprobs { token: logprob(token_id), top: ids[..num_top].iter().map(|&id| logprob(id)).collect() }
}

fn assert_close(got: &PositionLogprobs, expected: &PositionLogprobs) {
    let is_close = |(a, b): (&Logprob, &Logprob)| a.id == b.id && (a.logprob - b.logprob).abs() < 1e-5;
    let both = |a: &PositionLogprobs, b: &PositionLogprobs| {
        a.top.len() == b.top.len() && [a.token].iter().chain(&a.top).zip([b.token].iter().chain(&b.top)).all(is_close)
    };
    assert!(both(got, expected), "{got:?}\n{expected:?}");
}

/// Logits with many ties that depend on the last token and the position.
fn tied_logits(token_ids: &[u32], logits: &mut [f32]) {
    let last = token_ids[token_ids.len() - 1] as usize + token_ids.len();
    for (i, logit) in logits.iter_mut().enumerate() {
        *logit = ((i * 7 + last) % 11) as f32 * 0.5;
    }
}

#[test]
fn logprobs_are_those_of_the_model_itself() {
    // Bias, penalties, temperature and filters change the choice, not what is reported.
    for num_top in [0u8, 1, 5, 20] {
        let sampling = SamplingParams {
            temperature: 1.5,
            top_k: Some(7),
            repetition_penalty: 1.3,
            presence_penalty: 0.5,
            logit_bias: [(4, 3.0)].into(),
            max_tokens: 20,
            seed: 11,
            logprobs: Some(num_top),
            ..Default::default()
        };
        let prompt_ids = vec![3, 9, 17];
        let events = alone(
            PagedModel::new(tied_logits),
            small(),
            Request { prompt_ids: prompt_ids.clone(), sampling, ..Request::default() },
        );
        let mut all_ids = prompt_ids;
        for event in &events[..20] {
            let Event::Token { id, logprobs: Some(got) } = event else { panic!("{event:?}") };
            let mut logits = [0.0; VOCAB_SIZE];
            tied_logits(&all_ids, &mut logits);
            assert_close(got, &naive_logprobs(&logits, *id, num_top.into()));
            all_ids.push(*id);
        }
    }
}

#[test]
fn prompt_logprobs_are_the_same_in_any_chunks() {
    let prompt_ids: Vec<u32> = (0..150).map(|i| i * 13 % 50).collect();
    for (max_num_batched_tokens, max_tokens, num_top) in [(256, 3, 2), (64, 3, 2), (7, 0, 20), (4, 1, 0)] {
        let sampling = SamplingParams { prompt_logprobs: Some(num_top), max_tokens, ..Default::default() };
        let config = cachalot_engine::EngineConfig { max_num_batched_tokens, ..small() };
        let request = Request { prompt_ids: prompt_ids.clone(), sampling, ..Request::default() };
        let events = alone(PagedModel::new(tied_logits), config, request);
        let Event::Prompt { logprobs } = &events[0] else { panic!("{:?}", events[0]) };
        assert_eq!(logprobs.len(), prompt_ids.len() - 1);
        for (i, got) in logprobs.iter().enumerate() {
            let mut logits = [0.0; VOCAB_SIZE];
            tied_logits(&prompt_ids[..=i], &mut logits);
            assert_close(got, &naive_logprobs(&logits, prompt_ids[i + 1], num_top.into()));
        }
        assert_eq!(events.len(), 2 + max_tokens as usize);
        assert_eq!(finish_reason(&events), Some(FinishReason::Length));
    }
}

#[test]
fn a_prompt_of_one_token_has_no_logprobs_to_report() {
    let sampling = SamplingParams { prompt_logprobs: Some(3), max_tokens: 1, ..Default::default() };
    let events =
        alone(PagedModel::counting(), small(), Request { prompt_ids: vec![4], sampling, ..Request::default() });
    assert_eq!(events[0], Event::Prompt { logprobs: Vec::new() });
    assert_eq!(token_ids(&events), [5]);
}

#[test]
fn a_prompt_of_full_length_can_be_scored_without_generating() {
    let sampling = SamplingParams { prompt_logprobs: Some(0), max_tokens: 0, ..Default::default() };
    let events =
        alone(PagedModel::counting(), small(), Request { prompt_ids: vec![4; 256], sampling, ..Request::default() });
    let Event::Prompt { logprobs } = &events[0] else { panic!("{:?}", events[0]) };
    assert_eq!((logprobs.len(), events.len()), (255, 2));
}

#[test]
fn a_seed_reproduces_and_another_does_not() {
    let request = |seed| Request {
        prompt_ids: vec![1, 2, 3],
        sampling: SamplingParams { temperature: 1.0, max_tokens: 50, seed, ..Default::default() },
        ..Request::default()
    };
    let output = |seed| token_ids(&alone(PagedModel::hashing(), small(), request(seed)));
    assert_eq!(output(7), output(7));
    assert_ne!(output(7), output(8));
    // n choices of one prompt, side by side.
    let (mut engine, handle) = engine(PagedModel::hashing(), small());
    let mut streams: Vec<_> = (0..4).map(|seed| handle.submit(request(seed)).unwrap()).collect();
    run(&mut engine);
    for (seed, stream) in (0..).zip(&mut streams) {
        assert_eq!(token_ids(&ready(stream)), output(seed), "seed {seed}");
    }
}
