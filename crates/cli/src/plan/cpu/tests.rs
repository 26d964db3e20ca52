//! The default size of the cache, what is refused, and what is said to fit.

use cachalot_weights::Config;
use clap::Parser;

use super::*;
use crate::args::Args;

const GIB: u64 = 1 << 30;

/// Three layers and an MTP module of 2 heads.
fn small() -> DeepseekV3Config {
    let config = Config::from_json(include_bytes!("../../../../../tests/fixtures/untrained/config.json"));
    match config.expect("the fixture's") {
        Config::DeepseekV3(config) => config,
        Config::Qwen3(_) => panic!("the fixture is of V3.2"),
    }
}

/// 8,448 bytes per token; 42 MiB of activations and 6 MiB of workspaces and logits.
fn demand(config: &DeepseekV3Config) -> CpuDemand<'_> {
    CpuDemand {
        config,
        weight_bytes: 0,
        kv_format: KvFormat::F32,
        kv_cache_bytes: None,
        max_model_len: None,
        max_num_seqs: 64,
        max_num_batched_tokens: 2048,
        speculative_tokens: 0,
        num_threads: 2,
        takes_all_at_start: false,
        available_bytes: Some(16 * GIB),
    }
}

#[test]
fn the_cache_takes_what_is_needed_up_to_a_share_of_the_memory() {
    let config = small();
    let block = 64 * 3 * 4 * (512 + 64 + 128);
    let check = |demand: CpuDemand<'_>, expected: u64| {
        let plan = CpuPlan::new(&demand);
        assert_eq!(plan.kv_block_bytes, block, "{demand:?}");
        assert_eq!(plan.budget.kv_cache, expected / block * block, "{demand:?}");
    };
    let base = demand(&config);
    check(base, 64 * 64 * block);
    check(CpuDemand { max_model_len: Some(65), max_num_seqs: 3, ..base }, 3 * 2 * block);
    check(CpuDemand { kv_cache_bytes: Some(1000 * block + 1), ..base }, 1000 * block);
    // A quarter of what everything else leaves.
    let many = CpuDemand { max_num_seqs: 2000, ..base };
    let others = CpuPlan::new(&many).budget.without_cache();
    check(many, (16 * GIB - others) / 4);
    check(CpuDemand { weight_bytes: 8 * GIB, ..many }, (8 * GIB - others) / 4);
    // Little is left, or less than nothing.
    check(CpuDemand { weight_bytes: 15 * GIB, ..many }, GIB);
    check(CpuDemand { weight_bytes: 99 * GIB, available_bytes: Some(2 * GIB), ..many }, GIB / 2);
    check(CpuDemand { available_bytes: None, ..many }, GIB);
    // What is touched at start is modest.
    let all_at_start = CpuDemand { takes_all_at_start: true, ..base };
    check(all_at_start, 256 << 20);
    check(CpuDemand { weight_bytes: GIB, ..all_at_start }, GIB);
    check(
        CpuDemand { weight_bytes: 9 * GIB, ..all_at_start },
        (7 * GIB - CpuPlan::new(&base).budget.without_cache()) / 4,
    );
    // Where a modest cache fits, the least share is no reason to refuse.
    let tight = CpuDemand { weight_bytes: 3 * GIB, available_bytes: Some(3 * GIB + (400 << 20)), ..all_at_start };
    let room = CpuPlan::new(&tight).budget.room().expect("known");
    assert!((1..256 << 20).contains(&room) && CpuPlan::new(&tight).budget.fits(), "{room}");
    check(tight, room);
    // A length that was asked for fits, whatever the share.
    check(CpuDemand { max_model_len: Some(4096), available_bytes: Some(1), ..base }, 64 * block);
}

#[test]
fn what_does_not_fit_is_advised_about() {
    let config = small();
    let check = |demand: CpuDemand<'_>, expected: &str| {
        let plan = CpuPlan::new(&demand);
        assert!(!plan.budget.fits(), "{demand:?}");
        let advice = plan.advice();
        assert!(advice.contains(expected), "no \"{expected}\" in {advice}");
    };
    let base = CpuDemand { available_bytes: Some(GIB), ..demand(&config) };
    let cache = |bytes: u64| CpuDemand { kv_cache_bytes: Some(bytes), ..base };
    let room = CpuPlan::new(&base).budget.room().expect("known") / 540_672 * 540_672;
    check(cache(2 * GIB), &format!("fits: --kv-cache-bytes {room}"));
    let small = CpuDemand { available_bytes: Some(310 << 20), ..cache(2 * GIB) };
    check(small, "and sequences of as many: --kv-cache-bytes ");
    check(CpuDemand { weight_bytes: 700 * GIB, ..base }, "a machine with 700.3 GiB of free memory");

    // Taking the advice helps.
    let advised = CpuPlan::new(&cache(room));
    assert!(advised.budget.fits() && !CpuPlan::new(&cache(room + 540_672)).budget.fits());
    assert!(CpuPlan::new(&CpuDemand { available_bytes: None, ..cache(u64::MAX) }).budget.fits(), "unknown is enough");
}

#[test]
fn the_suggested_options_are_those_of_serve() {
    let config = small();
    let check = |demand: CpuDemand<'_>, fits: bool, expected: &str| {
        let plan = CpuPlan::new(&demand).into_plan("model".to_owned(), 2, KvFormat::F32);
        assert_eq!(plan.suggestion.fits, fits, "{plan}");
        assert!(plan.to_string().contains(expected), "no \"{expected}\" in:\n{plan}");
        let options: Vec<&str> = plan.suggestion.options.iter().flat_map(|option| option.split(' ')).collect();
        Args::try_parse_from(["cachalot", "serve"].into_iter().chain(options)).expect("options of serve");
        plan
    };
    let base = CpuDemand { takes_all_at_start: true, ..demand(&config) };
    check(base, true, "All 64 sequences fit at full length, in 2.1 GiB of cache.");
    check(base, true, "Unless told otherwise, serve takes 255.8 MiB of cache: 31,744 tokens.");
    let plan = check(
        CpuDemand { available_bytes: Some(GIB), ..base },
        true,
        "of 64 sequences fit at full length; all of them",
    );
    assert!(plan.suggestion.options[2].starts_with("--kv-cache-bytes "), "{plan}");
    check(CpuDemand { available_bytes: Some(310 << 20), ..base }, false, "The longest that fits has");
    let plan = check(CpuDemand { weight_bytes: 700 * GIB, ..base }, false, "would hold it");
    assert_eq!(plan.suggestion.options, Vec::<String>::new());
    check(CpuDemand { available_bytes: None, ..base }, true, "unknown memory");
}
