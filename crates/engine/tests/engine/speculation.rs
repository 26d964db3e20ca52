//! Drafts: how many tokens come from a step, and what is told about it.

use cachalot_engine::{EngineConfig, Event, SamplingParams, SpeculativeTokens, StartError};

use crate::draft_model::DraftModel;
use crate::models::PagedModel;
use crate::{engine, greedy, ready, report, run, small};

fn drafting(num_tokens: usize) -> EngineConfig {
    EngineConfig { speculative_tokens: SpeculativeTokens::Fixed(num_tokens), ..small() }
}

#[test]
fn right_drafts_save_steps() {
    for depth in 0..=8 {
        let (mut engine, handle) = engine(DraftModel::new(256), drafting(depth));
        let mut stream = handle.submit(greedy(&[5; 10], 90)).unwrap();
        run(&mut engine);
        // The prompt's step gives one token; every other one gives the draft and one more.
        let expected = 1 + 89usize.div_ceil(1 + depth);
        assert_eq!(handle.stats().num_steps, expected as u64, "depth {depth}");
        let report = report(&mut stream);
        assert_eq!(report.num_drafted, report.num_accepted, "depth {depth}");
        assert_eq!(report.num_drafted.len(), depth);
        let stats = handle.stats();
        assert_eq!(stats.num_drafted_tokens, u64::from(report.num_drafted.iter().sum::<u32>()));
        assert_eq!(stats.num_accepted_tokens, stats.num_drafted_tokens);
    }
}

#[test]
fn wrong_drafts_cost_no_step_and_change_nothing() {
    let (mut engine, handle) = engine(DraftModel::new(0), drafting(3));
    let mut stream = handle.submit(greedy(&[5; 10], 90)).unwrap();
    run(&mut engine);
    assert_eq!(handle.stats().num_steps, 90);
    let report = report(&mut stream);
    // The last two steps have room for shorter drafts only.
    assert_eq!((report.num_drafted, report.num_accepted), (vec![88, 87, 86], vec![0, 0, 0]));
}

#[test]
fn drafts_end_where_the_output_and_the_context_end() {
    let (mut engine, handle) = engine(DraftModel::new(256), drafting(8));
    let mut streams = Vec::new();
    for max_tokens in 0..12 {
        streams.push((max_tokens, handle.submit(greedy(&[max_tokens; 3], max_tokens)).unwrap()));
        run(&mut engine);
    }
    for (max_tokens, stream) in &mut streams {
        assert_eq!(ready(stream).len(), *max_tokens as usize + 1);
    }
    let mut full = handle.submit(greedy(&[7; 250], 100)).unwrap();
    run(&mut engine);
    assert_eq!(ready(&mut full).len(), 7);
}

#[test]
fn log_probabilities_come_with_every_token() {
    let request = || {
        let sampling =
            SamplingParams { logprobs: Some(3), max_tokens: 40, temperature: 0.7, seed: 3, ..Default::default() };
        cachalot_engine::Request { prompt_ids: vec![5; 10], sampling, ..Default::default() }
    };
    let events = [0, 5].map(|depth| {
        let (mut engine, handle) = engine(DraftModel::new(230), drafting(depth));
        let mut stream = handle.submit(request()).unwrap();
        run(&mut engine);
        ready(&mut stream)
    });
    assert_eq!(events[0], events[1]);
    let has_logprobs = |event: &Event| matches!(event, Event::Token { logprobs: Some(_), .. });
    assert_eq!(events[1].iter().filter(|event| has_logprobs(event)).count(), 40);
}

#[test]
fn sampled_outputs_are_the_same_and_accepted_as_often_as_they_are_likely() {
    // The module is always right about the likeliest token; a draw takes that one with its probability.
    let (mut num_drafted, mut num_accepted) = (0, 0);
    for seed in 0..40 {
        let sampling = SamplingParams { temperature: 0.5, top_p: 0.9, seed, max_tokens: 200, ..Default::default() };
        let request = cachalot_engine::Request { prompt_ids: vec![seed as u32; 5], sampling, ..Default::default() };
        let outputs = [0, 1].map(|depth| {
            let (mut engine, handle) = engine(DraftModel::new(256), drafting(depth));
            let mut stream = handle.submit(request.clone()).unwrap();
            run(&mut engine);
            num_drafted += handle.stats().num_drafted_tokens;
            num_accepted += handle.stats().num_accepted_tokens;
            ready(&mut stream)
        });
        assert_eq!(outputs[0], outputs[1], "seed {seed}");
    }
    // Of the 50 logits, multiples of 1/8 from −4 to 4, the best few share 90 %.
    let rate = num_accepted as f64 / num_drafted as f64;
    assert!((0.15..0.6).contains(&rate), "{num_accepted} of {num_drafted}");
}

#[test]
fn models_without_a_module_cannot_draft() {
    let start = |config| crate::Engine::new(Box::new(PagedModel::counting()), config).map(drop);
    assert!(matches!(start(drafting(1)), Err(StartError::NoMtp)));
    assert!(start(EngineConfig { speculative_tokens: SpeculativeTokens::Auto, ..small() }).is_ok());
    let too_long = crate::Engine::new(Box::new(DraftModel::new(0)), drafting(17)).map(drop);
    assert!(matches!(too_long, Err(StartError::DraftTooLong { wanted: 17 })));
}
