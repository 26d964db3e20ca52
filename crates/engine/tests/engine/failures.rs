//! A model that fails, a reader that leaves, an engine that ends: every accepted request ends exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachalot_engine::{
    Engine, EngineConfig, EngineHandle, Event, Failure, Health, KvCacheSize, NoopModel, OnFault, SubmitError,
};

use crate::models::Outcome::{Fail, Panic, Succeed};
use crate::models::{FailingModel, PagedModel};
use crate::{engine, failure, greedy, ready, run, small, token_ids, without_report};

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    for (outcome, expected) in [
        (Fail, "the model failed while it computed this request: the device is on fire"),
        (Panic, "the model failed while it computed this request: panicked: index 64 out of bounds"),
    ] {
        let (mut engine, handle) = engine(FailingModel::new(&[Succeed, outcome]), small());
        let mut first = handle.submit(greedy(&[1, 2], 5)).unwrap();
        let mut second = handle.submit(greedy(&[3; 200], 5)).unwrap();
        engine.step();
        // The step that fails has a token of the first and a chunk of the second; the third waits.
        let mut third = handle.submit(greedy(&[4], 5)).unwrap();
        engine.step();
        engine.check_integrity().unwrap();
        assert_eq!(failure(&ready(&mut first)), Some(expected));
        assert_eq!(failure(&ready(&mut second)), Some(expected));
        run(&mut engine);
        assert_eq!(token_ids(&ready(&mut third)), [5, 6, 7, 8, 9]);
        assert!(handle.stats().healthy);
        assert_eq!(handle.stats().num_blocks_in_use, 0);
    }
}

#[test]
fn a_model_that_keeps_failing_stops_the_engine() {
    // A step that succeeds starts the count anew.
    let (mut engine, handle) = engine(FailingModel::new(&[Fail, Panic, Succeed, Fail, Fail, Fail]), small());
    let mut step_with_new_request = || {
        let mut stream = handle.submit(greedy(&[1], 1)).unwrap();
        assert!(engine.step());
        let has_failed = failure(&ready(&mut stream)).is_some();
        (has_failed, handle.stats().healthy)
    };
    let outcomes: Vec<_> = (0..5).map(|_| step_with_new_request()).collect();
    assert_eq!(outcomes, [(true, true), (true, true), (false, true), (true, true), (true, true)]);
    assert_eq!(step_with_new_request(), (true, false));
    assert_eq!(
        handle.submit(greedy(&[1], 1)).unwrap_err().to_string(),
        "the engine has stopped: the model failed in 3 steps in a row, last with: the device is on fire"
    );
}

#[test]
fn with_exit_the_first_failed_step_is_the_last() {
    let (mut engine, handle) = engine(FailingModel::new(&[Fail]), EngineConfig { on_fault: OnFault::Exit, ..small() });
    let mut stream = handle.submit(greedy(&[1], 1)).unwrap();
    assert!(engine.step());
    assert!(failure(&ready(&mut stream)).is_some());
    let failure = Some("the model failed in a step: the device is on fire".to_owned());
    assert_eq!(handle.health(), Health::Stopped { failure });
}

#[test]
fn logits_that_are_no_numbers_fail_their_request_and_empty_the_cache() {
    // A prompt with token 13 is poison.
    let poisonous = || {
        PagedModel::new(|token_ids, logits| {
            logits.fill(if token_ids.contains(&13) { f32::NAN } else { 0.0 });
            logits[5] += 1.0;
        })
    };
    let (mut engine, handle) = engine(poisonous(), EngineConfig { prefix_cache: true, ..small() });
    let mut before = handle.submit(greedy(&[1; 100], 1)).unwrap();
    run(&mut engine);
    assert_eq!(handle.stats().num_blocks_cached, 1);
    let mut beside = handle.submit(greedy(&[2; 20], 4)).unwrap();
    let mut poisoned = handle.submit(greedy(&[13; 30], 4)).unwrap();
    engine.step();
    engine.check_integrity().unwrap();
    let events = ready(&mut poisoned);
    let Some(Event::Failed { failure: Failure::Step, message }) = events.last() else { panic!("{events:?}") };
    assert!(message.contains("not finite"), "{message}");
    assert_eq!((handle.stats().num_blocks_cached, handle.stats().num_faults), (0, 1));
    let Health::Degraded { reason } = handle.health() else { panic!("{:?}", handle.health()) };
    assert!(reason.contains("not finite"), "{reason}");
    run(&mut engine);
    assert_eq!(token_ids(&ready(&mut beside)), [5; 4], "its neighbour is not concerned");
    assert_eq!(token_ids(&ready(&mut before)), [5]);
    // Two more steps of the same kind, and the model is broken.
    let streams: Vec<_> = (0..2).map(|_| handle.submit(greedy(&[13; 30], 4)).unwrap()).collect();
    run(&mut engine);
    assert_eq!(handle.stats().num_faults, 2, "both were in one step, and steps between had succeeded");
    drop(streams);
    for _ in 0..2 {
        let _stream = handle.submit(greedy(&[13; 30], 4)).unwrap();
        run(&mut engine);
    }
    assert!(matches!(handle.health(), Health::Stopped { failure: Some(_) }));
}

#[test]
fn a_step_that_takes_too_long_is_seen_while_it_lasts() {
    let config = EngineConfig { step_timeout: Duration::from_millis(20), ..small() };
    let handle = noop(Duration::from_millis(150), config);
    assert_eq!(handle.health(), Health::Ready);
    let mut stream = handle.submit(greedy(&[1], 1)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(handle.health(), Health::Stuck { .. }) {
        assert!(Instant::now() < deadline, "{:?}", handle.health());
        std::thread::sleep(Duration::from_millis(1));
    }
    while stream.blocking_recv().is_some() {}
    assert_eq!(handle.health(), Health::Ready);
    handle.shutdown(Duration::from_secs(10));
    assert_eq!(handle.health(), Health::Stopped { failure: None });
}

#[test]
fn a_full_queue_is_no_good_health() {
    let (mut engine, handle) =
        engine(PagedModel::counting(), EngineConfig { max_num_seqs: 1, max_waiting: 1, ..small() });
    let streams = [1, 2].map(|id| handle.submit(greedy(&[id], 3)).unwrap());
    assert!(matches!(handle.health(), Health::Degraded { .. }));
    run(&mut engine);
    assert_eq!(handle.health(), Health::Ready);
    drop(streams);
}

#[test]
fn when_the_engine_stops_waiting_requests_fail_too() {
    let config = EngineConfig { max_num_seqs: 1, ..small() };
    let handle = Engine::start(Box::new(FailingModel::new(&[Fail; 9])), config).unwrap();
    let mut streams: Vec<_> = (0..5).filter_map(|_| handle.submit(greedy(&[1], 100)).ok()).collect();
    assert!(streams.len() >= 3);
    for stream in &mut streams {
        assert!(matches!(stream.blocking_recv(), Some(Event::Failed { .. })));
        assert_eq!(stream.blocking_recv(), None);
    }
    handle.shutdown(Duration::ZERO);
    assert!(matches!(handle.submit(greedy(&[1], 1)), Err(SubmitError::Unhealthy(_))));
}

#[test]
fn logits_that_are_not_finite_fail_their_request_only() {
    for (poison, spoils_prompt) in
        [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (f32::NAN, true)]
    {
        let model = PagedModel::new(move |token_ids, logits| {
            logits.fill(0.0);
            logits[token_ids.len() % 50] = 1.0;
            if token_ids[0] == 13 && (spoils_prompt || token_ids.len() == 5) {
                logits.fill(poison);
            }
        });
        let (mut engine, handle) = engine(model, small());
        let mut good = handle.submit(greedy(&[1, 2, 3], 6)).unwrap();
        let mut request = greedy(&[13, 2, 3], 6);
        request.sampling.prompt_logprobs = spoils_prompt.then_some(1);
        let mut bad = handle.submit(request).unwrap();
        run(&mut engine);
        assert_eq!(token_ids(&ready(&mut good)), [3, 4, 5, 6, 7, 8]);
        let events = ready(&mut bad);
        assert_eq!(token_ids(&events), if spoils_prompt { vec![] } else { vec![3, 4] }, "{poison}");
        let message = failure(&events).unwrap();
        let expected =
            if poison == f32::NEG_INFINITY { "every token is ruled out" } else { "logits that are not finite" };
        assert!(message.contains(expected), "{message}");
        assert_eq!(handle.stats().num_blocks_in_use, 0);
    }
}

fn noop(step_time: Duration, config: EngineConfig) -> EngineHandle {
    let model = NoopModel { vocab_size: 10, max_model_len: 100_000, token_id: 7, step_time };
    Engine::start(Box::new(model), EngineConfig { max_model_len: None, kv_cache: KvCacheSize::Blocks(2000), ..config })
        .unwrap()
}

#[test]
fn shutdown_finishes_what_it_can() {
    let handle = noop(Duration::from_millis(1), small());
    let mut streams: Vec<_> = (0..8).map(|_| handle.submit(greedy(&[1], 10)).unwrap()).collect();
    handle.shutdown(Duration::from_secs(60));
    assert_eq!(handle.submit(greedy(&[1], 10)).unwrap_err(), SubmitError::ShuttingDown);
    for stream in &mut streams {
        assert_eq!(token_ids(&ready(stream)), [7; 10]);
    }
    handle.shutdown(Duration::ZERO);
}

#[test]
fn shutdown_fails_the_rest_at_the_deadline() {
    let handle = noop(Duration::from_millis(2), small());
    let mut streams: Vec<_> = (0..8).map(|_| handle.submit(greedy(&[1], 90_000)).unwrap()).collect();
    // The first has begun.
    assert!(matches!(streams[0].blocking_recv(), Some(Event::Token { .. })));
    let start = Instant::now();
    handle.shutdown(Duration::from_millis(50));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(start.elapsed() < Duration::from_secs(20));
    for stream in &mut streams {
        let events = ready(stream);
        assert_eq!(failure(&events), Some("the engine was shut down before the request was finished"));
        assert_eq!(ready(stream), []);
    }
    assert_eq!((handle.stats().num_running, handle.stats().num_waiting), (0, 0));
}

#[test]
fn a_second_shutdown_can_hurry_the_first() {
    let handle = noop(Duration::from_millis(2), small());
    let mut stream = handle.submit(greedy(&[1], 90_000)).unwrap();
    let other = handle.clone();
    let patient = std::thread::spawn(move || other.shutdown(Duration::from_secs(3600)));
    while handle.submit(greedy(&[1], 1)).err() != Some(SubmitError::ShuttingDown) {}
    handle.shutdown(Duration::ZERO);
    patient.join().unwrap();
    while let Some(event) = stream.blocking_recv() {
        assert!(matches!(event, Event::Token { .. } | Event::Failed { .. }));
    }
}

#[test]
fn without_handles_the_engine_finishes_and_ends() {
    let (model, owned_by_model) = PagedModel::counting().keep_batches();
    let handle = Engine::start(Box::new(model), small()).unwrap();
    let mut stream = handle.submit(greedy(&[1], 200)).unwrap();
    drop(handle);
    let mut num_tokens = 0;
    while let Some(Event::Token { .. }) = stream.blocking_recv() {
        num_tokens += 1;
    }
    assert_eq!(num_tokens, 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Arc::strong_count(&owned_by_model) > 1 {
        assert!(Instant::now() < deadline, "the engine and its model are still there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_engine_that_is_gone_leaves_nobody_waiting() {
    let (mut engine, handle) = engine(PagedModel::counting(), small());
    let mut running = handle.submit(greedy(&[1], 100)).unwrap();
    engine.step();
    let mut submitted = handle.submit(greedy(&[1], 100)).unwrap();
    drop(engine);
    assert_eq!(running.blocking_recv(), Some(Event::Token { id: 2, logprobs: None }));
    for stream in [&mut running, &mut submitted] {
        let message = "the engine stopped before the request was finished".to_owned();
        assert_eq!(stream.blocking_recv(), Some(Event::Failed { failure: Failure::Shutdown, message }));
        assert_eq!(stream.blocking_recv(), None);
    }
    assert_eq!(handle.submit(greedy(&[1], 100)).unwrap_err(), SubmitError::ShuttingDown);
}

#[test]
fn an_engine_that_panics_is_unhealthy() {
    let (engine, handle) = engine(PagedModel::counting(), small());
    let mut stream = handle.submit(greedy(&[1], 100)).unwrap();
    let thread = std::thread::spawn(move || {
        let _engine = engine;
        panic!("a bug");
    });
    assert!(thread.join().is_err());
    assert!(matches!(stream.blocking_recv(), Some(Event::Failed { .. })));
    let error = handle.submit(greedy(&[1], 100)).unwrap_err();
    assert_eq!(error.to_string(), "the engine has stopped: its thread panicked, which is a bug");
    assert!(!handle.stats().healthy);
}

/// Many threads, streams read in part and dropped, while the engine runs on its own thread.
#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    let config = EngineConfig { max_num_seqs: 8, max_num_batched_tokens: 128, max_waiting: 20, ..small() };
    let handle = Engine::start(Box::new(PagedModel::hashing()), config).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6u32 {
            let handle = &handle;
            scope.spawn(move || {
                for round in 0..60u32 {
                    let request = greedy(&vec![thread; 1 + (round * 37 % 150) as usize], 40);
                    let mut stream = handle.submit(request).unwrap();
                    let num_read = if round % 3 == 0 { round % 5 } else { 1000 };
                    let mut events = Vec::new();
                    while (events.len() as u32) < num_read
                        && let Some(event) = stream.blocking_recv()
                    {
                        events.push(event);
                    }
                    if round % 3 != 0 {
                        assert_eq!(events.len(), 41);
                        assert!(crate::finish_reason(&events).is_some());
                    }
                }
            });
        }
    });
    handle.shutdown(Duration::from_secs(60));
    let stats = handle.stats();
    assert_eq!((stats.num_running, stats.num_waiting, stats.num_blocks_in_use), (0, 0, 0), "{stats:?}");
    assert!(stats.healthy);
}

#[tokio::test]
async fn streams_work_in_an_async_runtime() {
    use futures::StreamExt;
    let handle = noop(Duration::ZERO, small());
    let mut first = handle.submit(greedy(&[1], 3)).unwrap();
    let second = handle.submit(greedy(&[1], 3)).unwrap();
    let mut events = Vec::new();
    while let Some(event) = first.recv().await {
        events.push(event);
    }
    let others: Vec<_> = second.collect().await;
    let plain = |events: &[Event]| events.iter().cloned().map(without_report).collect::<Vec<_>>();
    assert_eq!(plain(&events), plain(&others));
    assert_eq!(token_ids(&events), [7; 3]);
    assert_eq!(first.recv().await, None);
    tokio::task::spawn_blocking(move || handle.shutdown(Duration::from_secs(60))).await.unwrap();
}
