//! Every metric moves as it should; docs/grafana/cachalot.json shows all of them, and docs/observability.md explains them.
//!
//! The recorder belongs to the process, so what is counted here is one test.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cachalot_engine::{EngineConfig, KvCacheSize, SpeculativeTokens};
use common::{ScriptedModel, Setup, TestServer};
use serde_json::{Value, json};

/// Metrics that the dashboard does not show.
const LEFT_OUT: [&str; 0] = [];

/// The samples of `/metrics`, by name and labels.
async fn samples(server: &TestServer) -> BTreeMap<String, f64> {
    let text = server.get("/metrics").await.body;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// The sample of this name, of which there must be one.
#[track_caller]
fn value(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    let name = format!("cachalot_{name}");
    *samples.get(&name).unwrap_or_else(|| panic!("no {name} in {:?}", samples.keys()))
}

async fn eventually(server: &TestServer, what: &str, holds: impl Fn(&BTreeMap<String, f64>) -> bool) {
    for _ in 0..200 {
        if holds(&samples(server).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {:?}", samples(server).await);
}

fn start(has_mtp: bool, breaks_after: Option<usize>) -> TestServer {
    let mut model = ScriptedModel::saying("{\"a\": 1}");
    (model.has_mtp, model.breaks_after, model.step_time) = (has_mtp, breaks_after, Duration::from_millis(2));
    model.max_model_len = 512;
    let mut setup = Setup::new(model);
    setup.engine = EngineConfig {
        kv_cache: KvCacheSize::Blocks(8),
        max_num_seqs: 2,
        speculative_tokens: SpeculativeTokens::Fixed(if has_mtp { 2 } else { 0 }),
        ..setup.engine
    };
    setup.start()
}

#[tokio::test]
async fn metrics_move_and_the_dashboard_shows_them() {
    let server = start(true, None);
    let before = samples(&server).await;
    assert_eq!(value(&before, "kv_blocks_total"), 8.0);
    for name in
        ["requests_running", "requests_waiting", "kv_blocks_in_use", "kv_blocks_cached", "generated_tokens_total"]
    {
        assert_eq!(value(&before, name), 0.0, "{name}");
    }

    // Two prompts that begin alike: 130 tokens each, of which two blocks are found the second time.
    let prompt = format!("{}\n", "x".repeat(129));
    let body = json!({"prompt": prompt, "max_tokens": 40, "temperature": 0});
    let first = server.complete(body.clone()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let cold = samples(&server).await;
    assert_eq!(value(&cold, "prompt_tokens_total"), 130.0);
    assert_eq!(value(&cold, "prefix_cache_hit_tokens_total"), 0.0);
    assert_eq!(value(&cold, "kv_blocks_cached"), 2.0);
    assert_eq!(value(&cold, "generated_tokens_total"), first.at("/usage/completion_tokens").as_f64().unwrap());
    let second = server.complete(body.clone()).await;
    let warm = samples(&server).await;
    let hits = second.at("/usage/prompt_cache_hit_tokens").as_f64().unwrap();
    assert_eq!((hits, value(&warm, "prefix_cache_hit_tokens_total")), (128.0, 128.0));
    assert_eq!(value(&warm, "prompt_tokens_total"), 260.0);

    // Drafts, all of them and by place.
    let drafted = value(&warm, "spec_decode_draft_tokens_total");
    let accepted = value(&warm, "spec_decode_accepted_tokens_total");
    assert!(drafted > 0.0 && accepted > 0.0 && accepted <= drafted, "{accepted} of {drafted}");
    for (name, sum) in [("draft", drafted), ("accepted", accepted)] {
        let at = |position| {
            let name = format!("spec_decode_{name}_tokens_per_position_total{{position=\"{position}\"}}");
            value(&warm, &name)
        };
        assert_eq!(at(0) + at(1), sum, "{name}");
    }

    // A grammar, whose masks are timed.
    let chat = json!({"messages": [{"role": "user", "content": "json"}], "response_format": {"type": "json_object"}});
    assert_eq!(server.chat(chat).await.status, 200);

    // More than fits: one waits while two run, and as they grow one gives up its blocks.
    let server = start(true, None);
    let long = |salt: &str| json!({"prompt": format!("{salt}{prompt}"), "max_tokens": 150, "ignore_eos": true, "cache_salt": salt});
    let all =
        async { futures::join!(server.complete(long("a")), server.complete(long("b")), server.complete(long("c"))) };
    let watch = eventually(&server, "two run and one waits", |samples| {
        value(samples, "requests_running") == 2.0
            && value(samples, "requests_waiting") == 1.0
            && value(samples, "kv_blocks_in_use") >= 6.0
    });
    let ((a, b, c), ()) = futures::join!(all, watch);
    for answer in [&a, &b, &c] {
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    eventually(&server, "all have ended", |samples| {
        value(samples, "requests_running") == 0.0
            && value(samples, "requests_waiting") == 0.0
            && value(samples, "kv_blocks_in_use") == 0.0
    })
    .await;
    let after = samples(&server).await;
    assert!(value(&after, "preemptions_total") >= 1.0);
    for name in ["time_to_first_token", "time_per_output_token", "queue", "step", "grammar_mask"] {
        assert!(value(&after, &format!("{name}_seconds_count")) >= 1.0, "{name}");
        assert!(value(&after, &format!("{name}_seconds_sum")) > 0.0, "{name}");
    }
    assert_eq!(value(&after, "time_to_first_token_seconds_count"), 6.0);
    assert_eq!(value(&after, "queue_seconds_count"), 6.0);
    assert!(value(&after, "http_responses_total{status=\"200\"}") >= 6.0);

    // A model that breaks when it has filled some blocks.
    assert_eq!(value(&after, "step_faults_total"), 0.0);
    let server = start(false, Some(3));
    let failed = server.complete(body).await;
    assert_eq!(failed.status, 500, "{}", failed.body);
    let after = samples(&server).await;
    assert_eq!(value(&after, "step_faults_total"), 1.0);
    assert_eq!(value(&after, "kv_blocks_cached"), 0.0, "what a failed step has touched is forgotten");

    check_dashboard(&after);
}

/// The names in the expressions of the dashboard are those of the samples, all of them.
fn check_dashboard(samples: &BTreeMap<String, f64>) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("grafana/cachalot.json")).unwrap();
    let explained = read("observability.md");
    let mut shown = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels are {}", panel["id"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let words = target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            shown.extend(words.filter(|word| word.starts_with("cachalot_")).map(str::to_owned));
        }
    }
    assert!(shown.len() > 15, "{shown:?}");
    let exposed: BTreeSet<&str> = samples.keys().map(|name| name.split('{').next().unwrap()).collect();
    for name in &shown {
        assert!(exposed.contains(name.as_str()), "the dashboard shows {name}, which the server does not tell");
    }
    for name in exposed {
        // A histogram is several samples.
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(explained.contains(&format!("| `{base}` |")), "docs/observability.md does not explain {base}");
        let is_shown = shown.contains(name) || shown.contains(&format!("{base}_bucket"));
        assert!(is_shown || LEFT_OUT.contains(&name), "the dashboard does not show {name}, which the server tells");
    }
}
