//! Laws that hold for every model on Reference and Cpu, whatever the weights: what a token's logits may depend on.

mod support;

use std::time::Duration;

use cachalot_engine::{Engine, EngineConfig, Event, KvCacheSize, Request, SamplingParams};
use cachalot_model::{DeepseekV3, Options};
use cachalot_ops::{Context, Device};
use cachalot_tensor::DType;
use cachalot_testkit::golden::folder;
use cachalot_weights::{Checkpoint, Source};
use support::{Harness, Part, edited_checkpoint, prompt};

const CASES: [&str; 4] = ["v3-bf16", "v3-fp8", "v32-bf16", "v32-fp8"];
const DEVICES: [Device; 2] = [Device::Reference, Device::Cpu];

fn for_each_case(check: impl Fn(&str, Device, &Checkpoint)) {
    for case in CASES {
        let checkpoint = Checkpoint::open(&Source::Folder(folder(case))).expect("the fixture is valid");
        for device in DEVICES {
            check(case, device, &checkpoint);
        }
    }
}

fn prompts() -> Vec<Vec<u32>> {
    [(1, 200), (2, 65), (3, 1), (4, 130)].map(|(seed, len)| prompt(seed, len, 384)).to_vec()
}

/// Largest absolute difference of two sets of rows.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

#[test]
fn chunked_prefill_equals_whole_prefill() {
    for_each_case(|case, device, checkpoint| {
        for absorbed in [false, true] {
            let whole = Harness::new(checkpoint, device, &prompts()).run_chunks(0, &[200], absorbed);
            let chunked = Harness::new(checkpoint, device, &prompts()).run_chunks(0, &[64, 1, 63, 7, 65], absorbed);
            assert_eq!(whole, chunked, "{case} on {device:?}, absorbed: {absorbed}");
        }
    });
}

#[test]
fn batch_equals_alone_in_any_order() {
    for_each_case(|case, device, checkpoint| {
        let prompts = prompts();
        let alone: Vec<_> = (0..4)
            .map(|seq| Harness::new(checkpoint, device, &prompts).run_chunks(seq, &[prompts[seq].len()], false))
            .collect();
        for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
            let mut harness = Harness::new(checkpoint, device, &prompts);
            let parts = order.map(|seq| Part { seq, start: 0, count: prompts[seq].len() });
            let mut rows = harness.run(&harness.batch(&parts, 0)).into_iter();
            for seq in order {
                let together: Vec<_> = rows.by_ref().take(prompts[seq].len()).collect();
                assert_eq!(together, alone[seq], "{case} on {device:?}, sequence {seq} in order {order:?}");
            }
        }
    });
}

#[test]
fn absorbed_equals_expanded_within_tolerance() {
    for_each_case(|case, device, checkpoint| {
        let expanded = Harness::new(checkpoint, device, &prompts()).run_chunks(0, &[200], false);
        let absorbed = Harness::new(checkpoint, device, &prompts()).run_chunks(0, &[200], true);
        let distance = distance(&expanded, &absorbed);
        // Logits of these checkpoints are of order 1 to 10; the two paths differ by the order of f32 sums only, until a
        // near-tie in routing or in the indexer turns.
        assert!(distance < 1e-2, "{case} on {device:?}: {distance}");
    });
}

#[test]
fn sparse_attention_with_topk_of_at_least_the_length_is_dense() {
    for case in ["v32-bf16", "v32-fp8"] {
        let sparse = edited_checkpoint(case, |config| {
            config.insert("index_topk".into(), 200.into());
        });
        let dense = edited_checkpoint(case, |config| {
            config.insert("architectures".into(), serde_json::json!(["DeepseekV3ForCausalLM"]));
            config.insert("model_type".into(), "deepseek_v3".into());
            config.retain(|key, _| !key.starts_with("index_"));
        });
        let narrow = Checkpoint::open(&Source::Folder(folder(case))).expect("the fixture is valid");
        for device in DEVICES {
            for absorbed in [false, true] {
                let run = |checkpoint| Harness::new(checkpoint, device, &prompts()).run_chunks(0, &[200], absorbed);
                assert_eq!(run(&sparse), run(&dense), "{case} on {device:?}, absorbed: {absorbed}");
                assert!(
                    distance(&run(&narrow), &run(&dense)) > 1e-3,
                    "{case} on {device:?}: the indexer has no effect"
                );
            }
        }
    }
}

/// Generates greedily and with sampling through the engine, all prompts at once or one after the other. Also returns how
/// often a sequence was preempted.
fn generate(case: &str, device: Device, config: EngineConfig, one_by_one: bool) -> (Vec<Vec<u32>>, u64) {
    let checkpoint = Checkpoint::open(&Source::Folder(folder(case))).expect("the fixture is valid");
    let ctx = Context::new(device, None).expect("threads");
    let kv_cache_dtype = if device == Device::Reference { DType::F32 } else { DType::BF16 };
    let model = DeepseekV3::load(ctx, &checkpoint, Options { kv_cache_dtype, max_model_len: Some(512), mtp: false })
        .expect("the checkpoint loads");
    let engine = Engine::start(Box::new(model), config).expect("the engine starts");
    let requests = prompts().into_iter().enumerate().map(|(index, prompt_ids)| Request {
        prompt_ids,
        sampling: SamplingParams {
            temperature: if index % 2 == 0 { 0.0 } else { 0.8 },
            seed: index as u64,
            max_tokens: 70,
            ..SamplingParams::default()
        },
        ..Request::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outputs = runtime.block_on(async {
        let mut outputs = Vec::new();
        let mut streams = Vec::new();
        for request in requests {
            let mut stream = engine.submit(request).expect("the request is accepted");
            if one_by_one {
                outputs.push(collect(&mut stream).await);
            } else {
                streams.push(stream);
            }
        }
        for mut stream in streams {
            outputs.push(collect(&mut stream).await);
        }
        outputs
    });
    let num_preemptions = engine.stats().num_preemptions;
    engine.shutdown(Duration::from_secs(5));
    (outputs, num_preemptions)
}

async fn collect(stream: &mut cachalot_engine::EventStream) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(event) = stream.recv().await {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Finished { .. } => return ids,
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended without an end");
}

#[test]
fn engine_output_does_not_depend_on_batching_chunking_or_preemption() {
    let roomy = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 512,
        kv_cache: KvCacheSize::Blocks(64),
        max_waiting: 16,
        ..EngineConfig::default()
    };
    for case in ["v3-fp8", "v32-fp8"] {
        for device in DEVICES {
            let (alone, _) = generate(case, device, roomy.clone(), true);
            assert!(alone.iter().all(|ids| ids.len() == 70), "{case} on {device:?} stopped early");
            let cases = [
                ("batched", roomy.clone()),
                ("chunked", EngineConfig { max_num_batched_tokens: 37, ..roomy.clone() }),
                // 400 prompt tokens and 280 generated ones need 12 blocks; 8 force preemption.
                ("preempted", EngineConfig { kv_cache: KvCacheSize::Blocks(8), ..roomy.clone() }),
            ];
            for (name, config) in cases {
                let (outputs, num_preemptions) = generate(case, device, config, false);
                assert_eq!(outputs, alone, "{case} on {device:?}, {name}");
                assert_eq!(num_preemptions > 0, name == "preempted", "{case} on {device:?}, {name}: {num_preemptions}");
            }
        }
    }
}
