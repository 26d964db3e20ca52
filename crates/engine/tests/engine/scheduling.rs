//! Who is computed when, and in which blocks.

use std::time::Duration;

use cachalot_engine::{EngineConfig, Event, KvCacheSize, MlaPrefill, NoopModel, Request, SamplingParams};
use cachalot_model::Batch;

use crate::models::PagedModel;
use crate::{engine, greedy, ready, run, small, token_ids};

#[test]
fn a_scripted_run_uses_exactly_these_blocks() {
    // 5 blocks; 100 tokens a step. A: 60 tokens, B: 130 tokens.
    let config = EngineConfig {
        max_num_seqs: 3,
        max_num_batched_tokens: 100,
        max_model_len: Some(256),
        kv_cache: KvCacheSize::Blocks(5),
        max_waiting: 10,
        ..small()
    };
    let (model, batches) = PagedModel::counting().keep_batches();
    let (mut engine, handle) = engine(model, config);
    let mut a = handle.submit(greedy(&[5; 60], 10)).unwrap();
    let mut b = handle.submit(greedy(&[6; 130], 4)).unwrap();

    // Sequence, its tokens, its length after the step, its blocks.
    let mut step = |expected: &[(u32, u32, &[u32])], num_logits: usize| {
        assert!(engine.step());
        engine.check_integrity().unwrap();
        let batches = batches.lock().unwrap();
        let batch: &Batch = batches.last().unwrap();
        let got: Vec<(u32, u32, Vec<u32>)> = (0..batch.num_seqs())
            .map(|seq| {
                let row = &batch.block_table[seq * batch.max_blocks..(seq + 1) * batch.max_blocks];
                let blocks = row.iter().copied().take_while(|&block| block != u32::MAX).collect();
                (batch.query_start_loc[seq + 1] - batch.query_start_loc[seq], batch.seq_lens[seq], blocks)
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|&(len, end, blocks)| (len, end, blocks.to_vec())).collect();
        assert_eq!(got, expected);
        assert_eq!(batch.logits_indices.len(), num_logits);
    };
    // B gets all its blocks at once, and the rest of the step.
    step(&[(60, 60, &[0]), (40, 40, &[1, 2, 3])], 1);
    step(&[(1, 61, &[0]), (90, 130, &[1, 2, 3])], 2);
    step(&[(1, 62, &[0]), (1, 131, &[1, 2, 3])], 2);
    step(&[(1, 63, &[0]), (1, 132, &[1, 2, 3])], 2);
    step(&[(1, 64, &[0]), (1, 133, &[1, 2, 3])], 2);
    // B has its 4 tokens. A goes on alone, and takes a second block for its 65th token: the first that B had.
    step(&[(1, 65, &[0, 1])], 1);
    assert_eq!(token_ids(&ready(&mut b)), [7, 8, 9, 10]);
    let c = handle.submit(greedy(&[1, 2], 1)).unwrap();
    step(&[(1, 66, &[0, 1]), (2, 2, &[2])], 2);
    drop(c);
    assert_eq!(token_ids(&ready(&mut a)), [6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn long_chunks_come_last_if_they_are_to_be_expanded() {
    let cases = [(MlaPrefill::Absorbed, [128, 3, 200, 127], 4), (MlaPrefill::Expanded, [3, 127, 128, 200], 2)];
    for (mla_prefill, seq_lens, num_absorbed_seqs) in cases {
        let (model, batches) = PagedModel::counting().keep_batches();
        let config = EngineConfig { max_num_batched_tokens: 1000, max_model_len: Some(1000), mla_prefill, ..small() };
        let (mut engine, handle) = engine(model, config);
        let lens = [128, 3, 200, 127];
        let streams: Vec<_> = lens.map(|len| handle.submit(greedy(&vec![1; len], 2)).unwrap()).into();
        engine.step();
        engine.step();
        let batches = batches.lock().unwrap();
        assert_eq!((&batches[0].seq_lens[..], batches[0].num_absorbed_seqs), (&seq_lens[..], num_absorbed_seqs));
        // In decode all are short, in the order of arrival.
        assert_eq!((&batches[1].seq_lens[..], batches[1].num_absorbed_seqs), (&[129, 4, 201, 128][..], 4));
        drop(streams);
    }
}

#[test]
fn new_prompts_do_not_stop_running_sequences() {
    let (mut engine, handle) = engine(PagedModel::counting(), small());
    let mut old = handle.submit(greedy(&[1; 3], 100)).unwrap();
    assert!(engine.step());
    let mut streams = Vec::new();
    for step in 0..50 {
        // Every prompt is longer than a step.
        if let Ok(stream) = handle.submit(greedy(&[2; 200], 3)) {
            streams.push(stream);
        }
        assert!(engine.step());
        assert_eq!(ready(&mut old).len(), if step == 0 { 2 } else { 1 }, "step {step}");
    }
    assert!(streams.len() > 5);
}

#[test]
fn first_come_first_served() {
    // A holds 3 of 5 blocks; B needs 4; C would fit beside A, but must not overtake B.
    let config = EngineConfig { kv_cache: KvCacheSize::Blocks(5), max_model_len: Some(320), ..small() };
    let (mut engine, handle) = engine(PagedModel::counting(), config);
    let mut a = handle.submit(greedy(&[1; 130], 20)).unwrap();
    let mut b = handle.submit(greedy(&[1; 200], 2)).unwrap();
    let mut c = handle.submit(greedy(&[1; 3], 2)).unwrap();
    let mut order = Vec::new();
    while engine.step() {
        engine.check_integrity().unwrap();
        for (name, stream) in [("a", &mut a), ("b", &mut b), ("c", &mut c)] {
            if ready(stream).iter().any(|event| matches!(event, Event::Finished { .. })) {
                order.push(name);
            }
        }
        let stats = handle.stats();
        assert!(order.contains(&"a") || (stats.num_running, stats.num_waiting) == (1, 2), "{stats:?}");
    }
    assert_eq!(order[0], "a");
    assert_eq!(order.len(), 3);
}

#[test]
fn the_latest_arrival_is_preempted_and_resumes_unnoticed() {
    // Two sequences of one block each grow to two; there are three blocks.
    let config = EngineConfig { kv_cache: KvCacheSize::Blocks(3), max_model_len: Some(192), ..small() };
    let (mut engine, handle) = engine(PagedModel::counting(), config);
    let mut a = handle.submit(greedy(&[1; 40], 60)).unwrap();
    let mut b = handle.submit(greedy(&[9; 20], 60)).unwrap();
    let mut numbers = Vec::new();
    while engine.step() {
        engine.check_integrity().unwrap();
        let stats = handle.stats();
        numbers.push((stats.num_running, stats.num_waiting, stats.num_preemptions));
    }
    numbers.dedup();
    assert_eq!(numbers, [(2, 0, 0), (1, 1, 1), (0, 1, 1), (1, 0, 1), (0, 0, 1)]);
    let count_from = |first: u32| (0..60).map(|i| (first + i) % 50).collect::<Vec<_>>();
    let events = [ready(&mut a), ready(&mut b)];
    assert_eq!(events.each_ref().map(|events| token_ids(events)), [count_from(2), count_from(10)]);
    assert!(events.iter().all(|events| events.len() == 61));
}

#[test]
fn admission_leaves_room_to_grow() {
    // 200 blocks, of which 2 are kept free when there are others.
    let check = |num_blocks: [usize; 2], num_running: usize| {
        let model = NoopModel { vocab_size: 10, max_model_len: 100_000, token_id: 7, step_time: Duration::ZERO };
        let config = EngineConfig { kv_cache: KvCacheSize::Blocks(200), max_model_len: None, ..small() };
        let (mut engine, handle) = engine(model, EngineConfig { max_num_batched_tokens: 20_000, ..config });
        let streams = num_blocks.map(|num_blocks| handle.submit(greedy(&vec![1; num_blocks * 64 - 1], 1)).unwrap());
        engine.step();
        // All have ended after one step, so what ran is seen in what was computed.
        let num_blocks_run: usize = num_blocks[..num_running].iter().sum();
        let expected = (num_blocks_run * 64 - num_running) as u64;
        assert_eq!(handle.stats().num_prompt_tokens, expected, "{num_blocks:?}");
        run(&mut engine);
        assert!(streams.into_iter().all(|mut stream| ready(&mut stream).len() == 2));
    };
    check([100, 98], 2);
    check([100, 99], 1);
    check([200, 1], 1);
}

#[test]
fn max_num_seqs_is_kept() {
    let (mut engine, handle) = engine(PagedModel::counting(), EngineConfig { max_num_seqs: 2, ..small() });
    let streams: Vec<_> = (0..5).map(|_| handle.submit(greedy(&[1], 5)).unwrap()).collect();
    engine.step();
    assert_eq!((handle.stats().num_running, handle.stats().num_waiting), (2, 3));
    run(&mut engine);
    drop(streams);
}

#[test]
fn a_dropped_stream_is_gone_before_the_next_step() {
    let (model, batches) = PagedModel::counting().keep_batches();
    let (mut engine, handle) = engine(model, small());
    let running = handle.submit(greedy(&[1; 30], 50)).unwrap();
    let mut other = handle.submit(greedy(&[2; 30], 50)).unwrap();
    engine.step();
    let waiting = handle.submit(greedy(&[3; 30], 50)).unwrap();
    assert_eq!(handle.stats().num_blocks_in_use, 2);
    drop((running, waiting));
    engine.step();
    engine.check_integrity().unwrap();
    assert_eq!((handle.stats().num_blocks_in_use, handle.stats().num_running, handle.stats().num_waiting), (1, 1, 0));
    assert_eq!(batches.lock().unwrap().last().unwrap().seq_lens, [31]);
    // A stream that is dropped after its end, or whose request ends in the meantime, cancels nothing.
    run(&mut engine);
    assert_eq!(ready(&mut other).len(), 51);
    let unread = handle.submit(greedy(&[4; 3], 2)).unwrap();
    run(&mut engine);
    drop((other, unread));
    let mut last = handle.submit(greedy(&[5; 3], 2)).unwrap();
    run(&mut engine);
    assert_eq!(token_ids(&ready(&mut last)), [6, 7]);
}

#[test]
fn a_reader_that_does_not_read_delays_nobody() {
    let (mut engine, handle) = engine(PagedModel::counting(), small());
    let mut slow = handle.submit(greedy(&[1; 3], 200)).unwrap();
    let mut quick = handle.submit(greedy(&[2; 3], 200)).unwrap();
    let mut num_read = 0;
    while engine.step() {
        num_read += ready(&mut quick).len();
    }
    assert_eq!(num_read, 201);
    // The slow one holds no blocks any more, and has lost nothing.
    assert_eq!(handle.stats().num_blocks_in_use, 0);
    assert_eq!(ready(&mut slow).len(), 201);
}

#[test]
fn prompt_logprobs_keep_the_logits_buffer_small() {
    let (model, batches) = PagedModel::hashing().keep_batches();
    let config = EngineConfig {
        max_num_batched_tokens: 2000,
        max_model_len: Some(2000),
        kv_cache: KvCacheSize::Blocks(100),
        ..small()
    };
    let (mut engine, handle) = engine(model, config);
    assert_eq!(handle.limits().max_num_logits, 260);
    let prompt_ids: Vec<u32> = (0..700).map(|i| i * 7 % 50).collect();
    let sampling = SamplingParams { prompt_logprobs: Some(1), max_tokens: 1, ..Default::default() };
    let scored = Request { prompt_ids: prompt_ids.clone(), sampling, ..Request::default() };
    let mut streams: Vec<_> = (0..2).map(|_| handle.submit(scored.clone()).unwrap()).collect();
    // A plain prompt beside them is not held back, but for its turn.
    streams.push(handle.submit(greedy(&prompt_ids, 1)).unwrap());
    run(&mut engine);
    let lens = |batch: &Batch| batch.query_start_loc.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    let lens: Vec<_> = batches.lock().unwrap().iter().map(lens).collect();
    // 699 rows each, 256 in a step; the last row gives the token and comes on top.
    assert_eq!(lens, [vec![256], vec![256], vec![188, 69, 700], vec![256], vec![256], vec![119]]);
    let events: Vec<_> = streams.iter_mut().map(ready).collect();
    let Event::Prompt { logprobs } = &events[0][0] else { panic!("{:?}", events[0][0]) };
    assert_eq!(logprobs.len(), 699);
    assert_eq!(events[0], events[1]);
    assert_eq!(token_ids(&events[0]), token_ids(&events[2]));
}
