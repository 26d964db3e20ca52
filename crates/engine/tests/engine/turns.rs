//! Who goes first: classes, ageing, deadlines.

use std::time::Duration;

use cachalot_engine::{EngineConfig, Event, Failure, KvCacheSize, NoopModel, Priority, Request};

use crate::models::PagedModel;
use crate::{engine, greedy, ready, report, run, small, token_ids};

fn of_class(priority: Priority, prompt_ids: &[u32], max_tokens: u32) -> Request {
    Request { priority, ..greedy(prompt_ids, max_tokens) }
}

#[test]
fn classes_go_first_and_within_them_who_came_first() {
    let (mut engine, handle) =
        engine(PagedModel::counting(), EngineConfig { max_num_seqs: 1, max_waiting: 9, ..small() });
    let names = ["low", "normal", "high", "normal 2", "high 2", "low 2"];
    let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High, Priority::Low];
    let mut streams: Vec<_> = priorities.map(|priority| handle.submit(of_class(priority, &[1; 3], 3)).unwrap()).into();
    let mut order = Vec::new();
    while engine.step() {
        engine.check_integrity().unwrap();
        for (name, stream) in names.iter().zip(&mut streams) {
            if ready(stream).iter().any(|event| matches!(event, Event::Finished { .. })) {
                order.push(*name);
            }
        }
    }
    assert_eq!(order, ["high", "high 2", "normal", "normal 2", "low", "low 2"]);
}

#[test]
fn a_higher_class_takes_the_seat_and_the_blocks_of_a_lower_one() {
    let config = EngineConfig { max_num_seqs: 2, kv_cache: KvCacheSize::Blocks(4), ..small() };
    let (mut engine, handle) = engine(PagedModel::counting(), config);
    let mut low = [1, 2].map(|id| handle.submit(of_class(Priority::Low, &[id; 60], 60)).unwrap());
    (0..10).for_each(|_| assert!(engine.step()));
    let mut high = handle.submit(of_class(Priority::High, &[3; 120], 5)).unwrap();
    while token_ids(&ready(&mut high)).is_empty() {
        assert!(engine.step());
        engine.check_integrity().unwrap();
    }
    assert!(handle.stats().num_running <= 2);
    run(&mut engine);
    assert_eq!(low.each_mut().map(|stream| report(stream).num_preemptions), [0, 1]);
    // A class does not take from itself.
    let mut first = [1, 2].map(|id| handle.submit(of_class(Priority::Normal, &[id; 60], 20)).unwrap());
    assert!(engine.step());
    let mut third = handle.submit(of_class(Priority::Normal, &[3; 60], 5)).unwrap();
    run(&mut engine);
    assert_eq!(first.each_mut().map(|stream| report(stream).num_preemptions), [0, 0]);
    assert_eq!(report(&mut third).num_preemptions, 0);
}

#[test]
fn nothing_is_taken_for_what_will_not_fit_all_the_same() {
    // The high one needs 4 of 4 blocks, one of which a normal one keeps: the low one runs on.
    let config = EngineConfig { max_num_seqs: 4, kv_cache: KvCacheSize::Blocks(4), ..small() };
    let (mut engine, handle) = engine(PagedModel::counting(), config);
    let mut streams = vec![handle.submit(of_class(Priority::High, &[1; 30], 30)).unwrap()];
    streams.push(handle.submit(of_class(Priority::Low, &[2; 30], 10)).unwrap());
    assert!(engine.step());
    streams.push(handle.submit(of_class(Priority::High, &[3; 250], 2)).unwrap());
    run(&mut engine);
    assert!(streams.iter_mut().all(|stream| report(stream).num_preemptions == 0));
}

#[test]
fn deadlines_end_what_waits_and_what_runs() {
    let model = NoopModel { vocab_size: 10, max_model_len: 1000, token_id: 7, step_time: Duration::from_millis(2) };
    let (mut engine, handle) = engine(model, EngineConfig { max_num_seqs: 1, ..small() });
    let timed = |timeout: Duration| Request { timeout: Some(timeout), ..greedy(&[1; 3], 200) };
    let mut running = handle.submit(timed(Duration::from_millis(60))).unwrap();
    let mut waiting = handle.submit(timed(Duration::from_millis(20))).unwrap();
    let mut patient = handle.submit(Request { timeout: Some(Duration::MAX), ..greedy(&[1; 3], 4) }).unwrap();
    run(&mut engine);
    for (stream, has_tokens) in [(&mut running, true), (&mut waiting, false)] {
        let events = ready(stream);
        assert_eq!(token_ids(&events).is_empty(), !has_tokens);
        let Some(Event::Failed { failure: Failure::Timeout, message }) = events.last() else { panic!("{events:?}") };
        assert!(message.starts_with("the request's timeout is over: 0."), "{message}");
    }
    assert_eq!(token_ids(&ready(&mut patient)), [7; 4]);
    assert_eq!((handle.stats().num_blocks_in_use, handle.stats().num_running), (0, 0));
}
