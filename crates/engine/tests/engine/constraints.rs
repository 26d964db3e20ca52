//! Requests whose output is constrained: what they may yield, when they end, and that they depend on nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cachalot_engine::{
    Allowed, Constraint, ConstraintError, EngineConfig, FinishReason, KvCacheSize, Progress, Request, SamplingParams,
    TokenMask,
};
use proptest::prelude::*;

use crate::models::{PagedModel, VOCAB_SIZE};
use crate::{alone, engine, failure, finish_reason, ready, run, small, token_ids};

/// How a [`Digits`] misbehaves, at its third token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fail,
    Panic,
    Nothing,
    FailToAccept,
}

/// Three to `longest` tokens of 10 to 19, each greater than or equal to the one before; nothing but the end follows a 19.
#[derive(Clone, Debug)]
struct Digits {
    last: u32,
    count: usize,
    longest: usize,
    fault: Option<Fault>,
    num_asked: Arc<AtomicUsize>,
}

impl Digits {
    fn new(longest: usize) -> Self {
        Digits { last: 10, count: 0, longest, fault: None, num_asked: Arc::default() }
    }

    fn check(&self, ids: &[u32]) {
        assert!(ids.iter().all(|id| (10..20).contains(id)) && ids.is_sorted(), "{ids:?}");
        assert!(ids.len() >= 3 && ids.len() <= self.longest, "{ids:?}");
    }
}

impl Constraint for Digits {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<Allowed, ConstraintError> {
        self.num_asked.fetch_add(1, Ordering::Relaxed);
        mask.clear();
        match self.fault.filter(|_| self.count == 2) {
            Some(Fault::Fail) => return Err(ConstraintError::Failed("out of paper".to_owned())),
            Some(Fault::Panic) => panic!("out of ink"),
            Some(Fault::Nothing) => return Ok(Allowed::Tokens),
            Some(Fault::FailToAccept) | None => {}
        }
        (self.last..20).for_each(|id| mask.insert(id));
        Ok(if self.count < 3 { Allowed::Tokens } else { Allowed::TokensOrEnd })
    }

    fn accept(&mut self, id: u32) -> Result<Progress, ConstraintError> {
        if self.fault == Some(Fault::FailToAccept) && self.count == 2 {
            return Err(ConstraintError::Failed("did not like it".to_owned()));
        }
        assert!((self.last..20).contains(&id), "{id} was not allowed");
        self.last = id;
        self.count += 1;
        let is_complete = self.count == self.longest || (id == 19 && self.count >= 3);
        Ok(if is_complete { Progress::Complete } else { Progress::Open })
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Everything until a token comes up, then nothing more.
#[derive(Clone)]
pub(crate) struct Until(pub(crate) u32);

impl Constraint for Until {
    fn allowed(&mut self, _: &mut TokenMask) -> Result<Allowed, ConstraintError> {
        Ok(Allowed::Anything)
    }

    fn accept(&mut self, id: u32) -> Result<Progress, ConstraintError> {
        Ok(if id == self.0 { Progress::Complete } else { Progress::Open })
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

fn constrained(constraint: impl Constraint + 'static, sampling: SamplingParams) -> Request {
    Request { prompt_ids: vec![3, 9], sampling, constraint: Some(Box::new(constraint)), ..Request::default() }
}

/// The model likes token 1, the end, best, then `favourite`, then the lower ids.
fn fond_of(favourite: u32) -> PagedModel {
    PagedModel::new(move |_, logits| {
        for (id, logit) in logits.iter_mut().enumerate() {
            *logit = -(id as f32);
        }
        logits[favourite as usize] = 5.0;
        logits[1] = 9.0;
    })
}

#[test]
fn the_end_comes_where_the_constraint_lets_it() {
    #[track_caller]
    fn check(favourite: u32, sampling: SamplingParams, expected_ids: &[u32], expected_reason: FinishReason) {
        let sampling = SamplingParams { eos_token_ids: vec![1], ..sampling };
        for temperature in [0.0, 1e-6] {
            let request = constrained(Digits::new(6), SamplingParams { temperature, ..sampling.clone() });
            let events = alone(fond_of(favourite), small(), request);
            assert_eq!(token_ids(&events), expected_ids, "{sampling:?}");
            assert_eq!(finish_reason(&events), Some(expected_reason), "{sampling:?}");
        }
    }
    let base = SamplingParams { max_tokens: 9, ..Default::default() };
    let eos = FinishReason::Stop { token_id: 1 };
    check(5, base.clone(), &[10, 10, 10], eos);
    check(12, base.clone(), &[12, 12, 12], eos);
    // Nothing can follow: no end token is waited for, and no minimum counts.
    check(19, base.clone(), &[19, 19, 19], FinishReason::Complete);
    check(19, SamplingParams { min_tokens: 8, ..base.clone() }, &[19, 19, 19], FinishReason::Complete);
    check(12, SamplingParams { min_tokens: 5, ..base.clone() }, &[12; 5], eos);
    check(12, SamplingParams { min_tokens: 8, ..base.clone() }, &[12; 6], FinishReason::Complete);
    check(12, SamplingParams { max_tokens: 2, ..base.clone() }, &[12, 12], FinishReason::Length);
    check(12, SamplingParams { max_tokens: 6, min_tokens: 6, ..base.clone() }, &[12; 6], FinishReason::Complete);
    // Ignored, the end of a sequence is no token of the constraint either.
    check(12, SamplingParams { ignore_eos: true, ..base.clone() }, &[12; 6], FinishReason::Complete);
    // A stop token that the constraint allows ends the reply wherever it comes, another one where the reply may end.
    check(12, SamplingParams { stop_token_ids: vec![12], ..base.clone() }, &[], FinishReason::Stop { token_id: 12 });
    let other = SamplingParams { stop_token_ids: vec![0], ignore_eos: true, ..base.clone() };
    check(5, other.clone(), &[10, 10, 10], FinishReason::Stop { token_id: 0 });
    check(5, SamplingParams { stop_token_ids: vec![1], ..other }, &[10, 10, 10], eos);
    // What the client prefers acts on what is left.
    check(
        12,
        SamplingParams { logit_bias: [(15, 30.0), (40, 90.0)].into(), ..base },
        &[15, 15, 15, 15, 15, 15],
        FinishReason::Complete,
    );
}

#[test]
fn without_a_restriction_every_token_may_come() {
    let sampling = SamplingParams { max_tokens: 60, eos_token_ids: vec![1], ..Default::default() };
    let events = alone(PagedModel::counting(), small(), constrained(Until(14), sampling.clone()));
    assert_eq!(token_ids(&events), [10, 11, 12, 13, 14]);
    assert_eq!(finish_reason(&events), Some(FinishReason::Complete));
    let events = alone(PagedModel::counting(), small(), constrained(Until(4), sampling));
    assert_eq!(finish_reason(&events), Some(FinishReason::Stop { token_id: 1 }));
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let sampling = SamplingParams { max_tokens: 9, eos_token_ids: vec![1], logprobs: Some(2), ..Default::default() };
    let events = alone(fond_of(12), small(), constrained(Digits::new(6), sampling.clone()));
    let cachalot_engine::Event::Token { id: 12, logprobs: Some(logprobs) } = &events[0] else {
        panic!("{:?}", events[0])
    };
    let top: Vec<u32> = logprobs.top.iter().map(|top| top.id).collect();
    assert_eq!(top, [1, 12], "the likeliest tokens of the model, allowed or not");
    assert!(logprobs.token.logprob < -4.0);
}

#[test]
fn a_constraint_that_fails_fails_its_request_only() {
    for (fault, words) in [
        (Fault::Fail, "the constraint on the reply failed: out of paper"),
        (Fault::Panic, "the constraint on the reply panicked: out of ink"),
        (Fault::Nothing, "the constraint on the reply leaves no token to choose: it allows none at this point"),
        (Fault::FailToAccept, "the constraint on the reply failed: did not like it"),
    ] {
        let sampling = SamplingParams { max_tokens: 6, eos_token_ids: vec![1], ..Default::default() };
        let (mut engine, handle) = engine(fond_of(12), small());
        let faulty = Digits { fault: Some(fault), ..Digits::new(6) };
        let mut bad = handle.submit(constrained(faulty, sampling.clone())).unwrap();
        let mut good = handle.submit(constrained(Digits::new(6), sampling)).unwrap();
        run(&mut engine);
        let events = ready(&mut bad);
        assert_eq!(token_ids(&events), [12, 12]);
        assert_eq!(failure(&events), Some(words));
        assert_eq!(token_ids(&ready(&mut good)), [12, 12, 12]);
        assert!(handle.stats().healthy);
        assert_eq!(handle.stats().num_blocks_in_use, 0);
    }
}

#[test]
fn what_a_constraint_leaves_may_be_ruled_out_otherwise() {
    // Only end tokens are left, and `min_tokens` bans them.
    #[derive(Clone)]
    struct EndOnly;
    impl Constraint for EndOnly {
        fn allowed(&mut self, mask: &mut TokenMask) -> Result<Allowed, ConstraintError> {
            mask.clear();
            Ok(Allowed::TokensOrEnd)
        }

        fn accept(&mut self, _: u32) -> Result<Progress, ConstraintError> {
            unreachable!("nothing comes")
        }

        fn boxed_clone(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }
    let sampling = SamplingParams { max_tokens: 6, eos_token_ids: vec![1], ..Default::default() };
    let events = alone(fond_of(12), small(), constrained(EndOnly, sampling.clone()));
    assert_eq!(finish_reason(&events), Some(FinishReason::Stop { token_id: 1 }));
    let events = alone(fond_of(12), small(), constrained(EndOnly, SamplingParams { min_tokens: 2, ..sampling }));
    assert!(failure(&events).unwrap().contains("end tokens before min_tokens"), "{events:?}");
}

#[test]
fn a_constraint_is_asked_once_per_token() {
    // Five blocks for three sequences of up to 120 tokens: all but the first are preempted, some more than once.
    let config = EngineConfig { kv_cache: KvCacheSize::Blocks(5), max_num_batched_tokens: 16, ..small() };
    let (mut engine, handle) = engine(PagedModel::hashing(), config);
    let sampling = SamplingParams { temperature: 1.0, max_tokens: 110, min_tokens: 110, ..Default::default() };
    #[derive(Clone)]
    struct Low(Arc<AtomicUsize>);
    impl Constraint for Low {
        fn allowed(&mut self, mask: &mut TokenMask) -> Result<Allowed, ConstraintError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            mask.clear();
            (0..25).for_each(|id| mask.insert(id));
            Ok(Allowed::Tokens)
        }

        fn accept(&mut self, id: u32) -> Result<Progress, ConstraintError> {
            assert!(id < 25);
            Ok(Progress::Open)
        }

        fn boxed_clone(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }
    let counts: [Arc<AtomicUsize>; 3] = Default::default();
    let mut streams: Vec<_> = (0..)
        .zip(&counts)
        .map(|(seed, count)| {
            let request = constrained(Low(count.clone()), SamplingParams { seed, ..sampling.clone() });
            handle.submit(Request { prompt_ids: vec![3; 40], ..request }).unwrap()
        })
        .collect();
    run(&mut engine);
    assert!(handle.stats().num_preemptions > 1, "{:?}", handle.stats());
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [110; 3]);
    for stream in &mut streams {
        let ids = token_ids(&ready(stream));
        assert!(ids.len() == 110 && ids.iter().all(|&id| id < 25), "{ids:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Neighbours, chunks and preemption change nothing; greedy and sampled output alike satisfies the constraint.
    #[test]
    fn constrained_requests_yield_the_same_in_any_company(
        num_blocks in 5usize..12,
        max_num_batched_tokens in 6usize..80,
        jobs in prop::collection::vec((1usize..200, 3usize..100, 0u64..1000, prop::bool::ANY, prop::bool::weighted(0.7)), 1..8),
    ) {
        let config = EngineConfig {
            max_num_batched_tokens,
            max_model_len: Some(320),
            kv_cache: KvCacheSize::Blocks(num_blocks),
            max_waiting: 100,
            ..small()
        };
        let request = |&(num_prompt_tokens, longest, seed, is_greedy, is_constrained): &(usize, usize, u64, bool, bool)| {
            let sampling = SamplingParams {
                temperature: if is_greedy { 0.0 } else { 1.0 },
                seed,
                max_tokens: 100,
                eos_token_ids: vec![1],
                presence_penalty: 0.5,
                ..Default::default()
            };
            let prompt_ids = (0..num_prompt_tokens).map(|i| (i as u32 * 7 + seed as u32) % VOCAB_SIZE as u32).collect();
            let constraint = is_constrained.then(|| Box::new(Digits::new(longest)) as Box<dyn Constraint>);
            Request { prompt_ids, sampling, constraint, ..Request::default() }
        };
        let (mut engine, handle) = engine(PagedModel::hashing(), config.clone());
        let mut streams: Vec<_> = jobs.iter().map(|job| handle.submit(request(job)).unwrap()).collect();
        run(&mut engine);
        let ample = EngineConfig { max_num_seqs: 1, max_num_batched_tokens: 320, kv_cache: KvCacheSize::Blocks(100), ..config };
        for (job, stream) in jobs.iter().zip(&mut streams) {
            let events = ready(stream);
            prop_assert_eq!(&events, &alone(PagedModel::hashing(), ample.clone(), request(job)));
            if job.4 {
                Digits::new(job.1).check(&token_ids(&events));
            }
        }
    }
}
