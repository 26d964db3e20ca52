//! What requests share of their prompts.

use cachalot_engine::{EngineConfig, KvCacheSize, Priority, Request, SamplingParams, SpeculativeTokens};

use crate::draft_model::DraftModel;
use crate::models::PagedModel;
use crate::{engine, greedy, ready, report, run, small, token_ids};

fn sharing() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 512,
        max_model_len: Some(640),
        kv_cache: KvCacheSize::Blocks(64),
        max_waiting: 64,
        prefix_cache: true,
        ..small()
    }
}

/// `len` tokens of a text.
fn text(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i * 7 % 50).collect()
}

#[test]
fn whole_blocks_of_earlier_prompts_are_found() {
    // What the cache holds first, a prompt, and how many of its tokens are found.
    let check = |earlier: &[usize], prompt: Vec<u32>, expected: u32| {
        for speculative_tokens in [SpeculativeTokens::Fixed(0), SpeculativeTokens::Fixed(2)] {
            let (mut engine, handle) = engine(DraftModel::new(128), EngineConfig { speculative_tokens, ..sharing() });
            for &len in earlier {
                let _stream = handle.submit(greedy(&text(len), 4)).unwrap();
                run(&mut engine);
            }
            let num_cached_before = handle.stats().num_cached_tokens;
            let mut stream = handle.submit(greedy(&prompt, 4)).unwrap();
            run(&mut engine);
            let context = format!("{earlier:?}, then {} tokens, {speculative_tokens:?}", prompt.len());
            assert_eq!(report(&mut stream).num_cached_tokens, expected, "{context}");
            assert_eq!(handle.stats().num_cached_tokens - num_cached_before, u64::from(expected), "{context}");
        }
    };
    check(&[], text(300), 0);
    check(&[300], text(300), 256);
    check(&[300], text(600), 256);
    // The last token is always computed.
    check(&[300], text(256), 192);
    check(&[300], text(257), 256);
    check(&[63], text(300), 0);
    check(&[300], [text(100), vec![49; 200]].concat(), 64);
    check(&[300], [vec![49], text(300)].concat(), 0);
    check(&[100, 300], text(300), 256);
}

#[test]
fn what_was_generated_is_found_too() {
    let (mut engine, handle) = engine(PagedModel::hashing(), sharing());
    let mut first = handle.submit(greedy(&text(100), 120)).unwrap();
    run(&mut engine);
    let conversation = [text(100), token_ids(&ready(&mut first)), vec![1, 2, 3]].concat();
    let mut second = handle.submit(greedy(&conversation, 1)).unwrap();
    run(&mut engine);
    // 219 tokens have keys: the last generated one was never computed.
    assert_eq!(report(&mut second).num_cached_tokens, 192);
}

#[test]
fn salts_keep_apart() {
    let (mut engine, handle) = engine(PagedModel::hashing(), sharing());
    let mut ask = |salt: &str| {
        let request = Request { cache_salt: salt.to_owned(), ..greedy(&text(300), 1) };
        let mut stream = handle.submit(request).unwrap();
        run(&mut engine);
        report(&mut stream).num_cached_tokens
    };
    assert_eq!([ask("a"), ask("b"), ask("a"), ask("b"), ask("")], [0, 0, 256, 256, 0]);
}

#[test]
fn hits_are_known_before_the_end() {
    let (mut engine, handle) = engine(PagedModel::hashing(), sharing());
    let _first = handle.submit(greedy(&text(300), 1)).unwrap();
    run(&mut engine);
    let second = handle.submit(greedy(&text(300), 50)).unwrap();
    assert_eq!(second.num_cached_tokens(), 0);
    engine.step();
    assert_eq!(second.num_cached_tokens(), 256);
}

#[test]
fn the_switch_is_off() {
    let (mut engine, handle) = engine(PagedModel::hashing(), EngineConfig { prefix_cache: false, ..sharing() });
    for _ in 0..2 {
        let mut stream = handle.submit(greedy(&text(300), 1)).unwrap();
        run(&mut engine);
        assert_eq!(report(&mut stream).num_cached_tokens, 0);
        assert_eq!(handle.stats().num_blocks_cached, 0);
    }
}

#[test]
fn prompts_in_flight_are_computed_once() {
    let (model, batches) = PagedModel::hashing().keep_batches();
    let (mut engine, handle) = engine(model, EngineConfig { max_num_batched_tokens: 100, ..sharing() });
    let mut streams: Vec<_> = (0..6).map(|_| handle.submit(greedy(&text(400), 3)).unwrap()).collect();
    // Another one, behind them, waits for nobody.
    let mut other = handle.submit(greedy(&[9; 30], 1)).unwrap();
    run(&mut engine);
    let num_computed: usize = batches.lock().unwrap().iter().map(|batch| batch.num_tokens()).sum();
    // 400 + 5 × 16 tokens of the prompts, 2 further tokens of each, and the other's.
    assert_eq!(num_computed, 400 + 5 * 16 + 6 * 2 + 30);
    let outputs: Vec<_> = streams.iter_mut().map(|stream| token_ids(&ready(stream))).collect();
    assert!(outputs.iter().all(|ids| *ids == outputs[0] && ids.len() == 3), "{outputs:?}");
    assert_eq!(token_ids(&ready(&mut other)).len(), 1);
    assert_eq!(handle.stats().num_cached_tokens, 5 * 384);
}

#[test]
fn who_waits_for_another_is_let_go_when_that_one_goes() {
    let (mut engine, handle) = engine(PagedModel::hashing(), EngineConfig { max_num_batched_tokens: 100, ..sharing() });
    let first = handle.submit(greedy(&text(400), 3)).unwrap();
    let mut second = handle.submit(greedy(&text(400), 3)).unwrap();
    engine.step();
    assert_eq!((handle.stats().num_running, handle.stats().num_waiting), (1, 1));
    drop(first);
    run(&mut engine);
    // What the first had computed by then is there.
    assert_eq!(report(&mut second).num_cached_tokens, 64);
}

#[test]
fn who_waits_for_another_takes_no_seat_before_that_one_is_done() {
    let config = EngineConfig { max_num_batched_tokens: 100, max_num_seqs: 2, ..sharing() };
    let (mut engine, handle) = engine(PagedModel::hashing(), config);
    let of_class = |priority, prompt_ids: &[u32]| Request { priority, ..greedy(prompt_ids, 30) };
    let mut low = handle.submit(of_class(Priority::Low, &[9; 30])).unwrap();
    engine.step();
    let mut first = handle.submit(of_class(Priority::High, &text(400))).unwrap();
    engine.step();
    let mut second = handle.submit(of_class(Priority::High, &text(400))).unwrap();
    engine.step();
    assert_eq!((handle.stats().num_running, handle.stats().num_preemptions), (2, 0));
    run(&mut engine);
    assert_eq!(report(&mut second).num_cached_tokens, 384);
    assert_eq!(report(&mut first).num_preemptions, 0);
    // It gives way when the other can start.
    assert_eq!(report(&mut low).num_preemptions, 1);
}

#[test]
fn blocks_are_evicted_when_they_are_needed_the_oldest_first() {
    let config = EngineConfig { kv_cache: KvCacheSize::Blocks(10), max_model_len: Some(640), ..sharing() };
    let (mut engine, handle) = engine(PagedModel::hashing(), config);
    let mut ask = |prompt: &[u32]| {
        let mut stream = handle.submit(greedy(prompt, 1)).unwrap();
        run(&mut engine);
        (report(&mut stream).num_cached_tokens, handle.stats().num_blocks_cached)
    };
    let [a, b, c] = [3, 11, 19].map(|factor| (0..255u32).map(|i| i * factor % 50).collect::<Vec<_>>());
    assert_eq!(ask(&a), (0, 3));
    assert_eq!(ask(&b), (0, 6));
    assert_eq!(ask(&a), (192, 6));
    // Four blocks are needed, and four were never known: nothing is forgotten.
    assert_eq!(ask(&c), (0, 9));
    // One was, and three are the oldest known: those of b.
    let d: Vec<u32> = (0..255u32).map(|i| i * 23 % 50).collect();
    assert_eq!(ask(&d), (0, 9));
    assert_eq!(ask(&a), (192, 9));
    assert_eq!(ask(&b).0, 0);
}

#[test]
fn prompts_whose_log_probabilities_are_wanted_are_computed() {
    let (mut engine, handle) = engine(PagedModel::hashing(), sharing());
    for _ in 0..2 {
        let sampling = SamplingParams { prompt_logprobs: Some(1), max_tokens: 1, ..SamplingParams::default() };
        let mut stream = handle.submit(Request { prompt_ids: text(300), sampling, ..Request::default() }).unwrap();
        run(&mut engine);
        assert_eq!(report(&mut stream).num_cached_tokens, 0);
    }
    // Others find what they have left.
    let mut stream = handle.submit(greedy(&text(300), 1)).unwrap();
    run(&mut engine);
    assert_eq!(report(&mut stream).num_cached_tokens, 256);
}

#[test]
fn a_preempted_request_finds_its_own_blocks() {
    let config = EngineConfig { kv_cache: KvCacheSize::Blocks(7), max_model_len: Some(448), ..sharing() };
    let (mut engine, handle) = engine(PagedModel::hashing(), config);
    let mut first = handle.submit(greedy(&text(130), 100)).unwrap();
    let mut second = handle.submit(greedy(&[vec![49], text(190)].concat(), 100)).unwrap();
    run(&mut engine);
    assert_eq!((report(&mut first).num_preemptions, report(&mut second).num_preemptions), (0, 1));
    // Found again, but not reported: it had been computed for this very request.
    assert_eq!(handle.stats().num_cached_tokens, 0);
}
