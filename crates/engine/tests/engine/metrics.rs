//! What a recorder is told.

use std::collections::BTreeMap;

use cachalot_engine::{EngineConfig, SpeculativeTokens};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::draft_model::DraftModel;
use crate::models::{FailingModel, Outcome, PagedModel};
use crate::{engine, greedy, run, small};

#[test]
fn metrics_follow_the_requests() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle_of_recorder = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let (mut engine, handle) = engine(PagedModel::counting(), small());
        let value = |name: &str| {
            let text = handle_of_recorder.render();
            let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
            let values: BTreeMap<_, f64> = lines.map(|(name, value)| (name, value.parse().unwrap())).collect();
            *values.get(format!("cachalot_{name}").as_str()).unwrap_or_else(|| panic!("no {name} in:\n{text}"))
        };
        let streams: Vec<_> =
            [1, 2, 3, 4, 5].map(|num_tokens| handle.submit(greedy(&[7; 5], num_tokens)).unwrap()).into();
        engine.step();
        let gauges = || ["requests_running", "requests_waiting", "kv_blocks_in_use", "kv_blocks_total"].map(value);
        assert_eq!(gauges(), [3.0, 1.0, 3.0, 16.0]);
        run(&mut engine);
        assert_eq!(gauges(), [0.0, 0.0, 0.0, 16.0]);
        assert_eq!(
            ["prompt_tokens_total", "generated_tokens_total", "preemptions_total"].map(value),
            [25.0, 15.0, 0.0]
        );
        let idle = [
            "kv_blocks_cached",
            "prefix_cache_hit_tokens_total",
            "spec_decode_draft_tokens_total",
            "spec_decode_accepted_tokens_total",
            "step_faults_total",
        ];
        assert_eq!(idle.map(value), [0.0; 5]);
        // The request of one token has no time between tokens.
        let histograms = ["time_to_first_token", "time_per_output_token", "queue", "step"];
        let num_steps = handle.stats().num_steps as f64;
        assert_eq!(histograms.map(|name| value(&format!("{name}_seconds_count"))), [5.0, 4.0, 5.0, num_steps]);
        drop(streams);
        assert_eq!(value("grammar_mask_seconds_count"), 0.0, "unconstrained requests have no masks");
        let mut request = greedy(&[7; 5], 6);
        request.constraint = Some(Box::new(crate::constraints::Until(11)));
        let _stream = handle.submit(request).unwrap();
        run(&mut engine);
        assert_eq!(value("grammar_mask_seconds_count"), 4.0, "one for each of 8, 9, 10 and 11");
    });
    for name in ["requests_running", "preemptions_total", "step_seconds", "grammar_mask_seconds"] {
        assert!(handle_of_recorder.render().contains(&format!("# HELP cachalot_{name} ")), "{name} is described");
    }
}

#[test]
fn sharing_drafts_and_faults_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle_of_recorder = recorder.handle();
    let value = |name: &str| -> f64 {
        let text = handle_of_recorder.render();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cachalot_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
    };
    metrics::with_local_recorder(&recorder, || {
        let config = EngineConfig { prefix_cache: true, speculative_tokens: SpeculativeTokens::Fixed(2), ..small() };
        let (mut engine, handle) = engine(DraftModel::new(256), config);
        for _ in 0..2 {
            // One token from the prompt, then three from each of three steps.
            let _stream = handle.submit(greedy(&[7; 150], 10)).unwrap();
            run(&mut engine);
        }
        assert_eq!((value("kv_blocks_cached"), value("prefix_cache_hit_tokens_total")), (2.0, 128.0));
        let speculation = ["draft_tokens_total", "accepted_tokens_total"];
        assert_eq!(speculation.map(|name| value(&format!("spec_decode_{name}"))), [12.0, 12.0]);
        for place in 0..2 {
            for name in ["draft", "accepted"] {
                let name = format!("spec_decode_{name}_tokens_per_position_total{{position=\"{place}\"}}");
                assert_eq!(value(&name), 6.0, "{name}");
            }
        }
    });
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle_of_recorder = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let (mut engine, handle) = engine(FailingModel::new(&[Outcome::Fail]), small());
        let _stream = handle.submit(greedy(&[7], 1)).unwrap();
        run(&mut engine);
    });
    assert!(handle_of_recorder.render().contains("\ncachalot_step_faults_total 1\n"));
}
