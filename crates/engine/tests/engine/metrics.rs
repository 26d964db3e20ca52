//! What a recorder is told.

use std::collections::BTreeMap;

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::models::PagedModel;
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
        // What there is no code for yet counts nothing, under the names that it will have.
        let to_come = [
            "kv_blocks_cached",
            "prefix_cache_hit_tokens_total",
            "spec_decode_draft_tokens_total",
            "spec_decode_accepted_tokens_total",
        ];
        assert_eq!(to_come.map(value), [0.0; 4]);
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
