//! Traces, as a collector gets them.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, Uri, header};
use cachalot_server::Traces;
use common::{Answer, ScriptedModel, Setup, TestServer, merged};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";

/// Something that listens where traces are sent.
struct Collector {
    endpoint: String,
    received: Arc<Mutex<Vec<(Uri, Bytes)>>>,
}

impl Collector {
    async fn start(status: StatusCode) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let store = received.clone();
        let router = Router::new().fallback(async move |uri: Uri, body: Bytes| {
            store.lock().unwrap().push((uri, body));
            status
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Collector { endpoint, received }
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (uri, body) in self.received.lock().unwrap().iter() {
            assert_eq!(uri.path(), "/v1/traces");
            let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
            for resource in request.resource_spans {
                let about = attributes(&resource.resource.unwrap().attributes);
                assert_eq!(about["service.name"], Attribute::StringValue("cachalot".into()));
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans
    }
}

fn attributes(list: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, Attribute> {
    let pairs = list.iter().map(|pair| (pair.key.clone(), pair.value.clone().and_then(|value| value.value).unwrap()));
    pairs.collect()
}

fn text(text: &str) -> Attribute {
    Attribute::StringValue(text.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn server(model: ScriptedModel, traces: Option<&Traces>) -> TestServer {
    let mut setup = Setup::new(model);
    setup.server.traces = traces.cloned();
    setup.start()
}

async fn end(traces: &Traces) {
    let traces = traces.clone();
    tokio::task::spawn_blocking(move || traces.shutdown()).await.unwrap();
}

async fn chat(server: &TestServer, fields: Value) -> Answer {
    let body =
        merged(&json!({"messages": [{"role": "user", "content": "a secret"}], "model": "deepseek-chat"}), fields);
    let request = Request::post("/v1/chat/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-request-id", "my-request")
        .header("traceparent", format!("00-{TRACE_ID}-{PARENT_ID}-01"));
    server.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn a_request_is_a_span_with_three_below_it() {
    let collector = Collector::start(StatusCode::OK).await;
    let traces = Traces::to(&collector.endpoint).unwrap();
    let mut model = ScriptedModel::saying("hello");
    model.step_time = Duration::from_millis(10);
    let server = server(model, Some(&traces));
    for stream in [false, true] {
        assert_eq!(chat(&server, json!({"stream": stream})).await.status, 200);
    }
    // A refusal reaches no engine, and is no span.
    assert_eq!(chat(&server, json!({"temperature": 9})).await.status, 400);
    end(&traces).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 8, "{spans:?}");
    let roots: Vec<&Span> = spans.iter().filter(|span| hex(&span.parent_span_id) == PARENT_ID).collect();
    assert_eq!(roots.len(), 2, "{spans:?}");
    for root in roots {
        assert_eq!((root.name.as_str(), hex(&root.trace_id).as_str()), ("chat deepseek-chat", TRACE_ID));
        let about = attributes(&root.attributes);
        let expected = [
            ("gen_ai.operation.name", text("chat")),
            ("gen_ai.request.model", text("deepseek-chat")),
            ("gen_ai.usage.input_tokens", Attribute::IntValue(12)),
            ("gen_ai.usage.output_tokens", Attribute::IntValue(5)),
            ("gen_ai.usage.cache_read.input_tokens", Attribute::IntValue(0)),
            ("http.route", text("/v1/chat/completions")),
            ("http.response.status_code", Attribute::IntValue(200)),
            ("cachalot.request_id", text("my-request")),
        ];
        for (name, value) in expected {
            assert_eq!(about.get(name), Some(&value), "{name} in {about:?}");
        }
        let Attribute::ArrayValue(reasons) = &about["gen_ai.response.finish_reasons"] else { panic!("{about:?}") };
        assert_eq!(reasons.values[0].value, Some(text("stop")));
        assert!(!about.contains_key("error.type"), "{about:?}");
        // One after the other, without gaps, and within the request.
        let mut start = 0;
        for name in ["queue", "prefill", "decode"] {
            let mut children = spans.iter().filter(|span| span.parent_span_id == root.span_id && span.name == name);
            let child = children.next().unwrap_or_else(|| panic!("no {name} in {spans:?}"));
            assert!(children.next().is_none() && child.trace_id == root.trace_id);
            assert!(start == 0 || start == child.start_time_unix_nano, "{name}");
            assert!(root.start_time_unix_nano <= child.start_time_unix_nano, "{name}");
            assert!(child.end_time_unix_nano <= root.end_time_unix_nano, "{name}");
            let millis = (child.end_time_unix_nano - child.start_time_unix_nano) / 1_000_000;
            // One step for the prompt, five more.
            let expected = match name {
                "queue" => 0..5000,
                "prefill" => 9..5000,
                _ => 45..5000,
            };
            assert!(expected.contains(&millis), "{name}: {millis} ms");
            start = child.end_time_unix_nano;
        }
    }
    let all = format!("{spans:?}");
    assert!(!all.contains("secret") && !all.contains("hello"), "texts are nobody's business: {all}");
}

#[tokio::test]
async fn what_goes_wrong_is_in_the_span() {
    let collector = Collector::start(StatusCode::OK).await;
    let traces = Traces::to(&format!("{}/v1/traces", collector.endpoint)).unwrap();
    let mut model = ScriptedModel::saying("hello");
    (model.endless, model.step_time) = (true, Duration::from_millis(5));
    let server = server(model, Some(&traces));
    assert_eq!(chat(&server, json!({"timeout": 0.05})).await.status, 504);
    let gone = tokio::time::timeout(Duration::from_millis(50), chat(&server, json!({}))).await;
    assert!(gone.is_err(), "the client has not gone away");
    end(&traces).await;
    let about: Vec<_> = collector.spans().iter().map(|span| attributes(&span.attributes)).collect();
    let found: Vec<_> = about.iter().map(|about| (&about["error.type"], &about["http.response.status_code"])).collect();
    let (timeout, gone) = (text("request_timeout"), text("client_closed_request"));
    assert_eq!(found, [(&timeout, &Attribute::IntValue(504)), (&gone, &Attribute::IntValue(499))]);
}

/// Every line of the log of this process.
fn log() -> &'static Mutex<Vec<u8>> {
    struct Lines;
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            log().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    static STARTED: OnceLock<()> = OnceLock::new();
    let log = LOG.get_or_init(Mutex::default);
    STARTED.get_or_init(|| tracing_subscriber::fmt().with_writer(|| Lines).with_ansi(false).init());
    log
}

#[tokio::test]
async fn a_collector_that_fails_disturbs_nobody() {
    log();
    let refusing = Collector::start(StatusCode::BAD_REQUEST).await;
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [refusing.endpoint.clone(), format!("http://{nobody}")] {
        let traces = Traces::to(&endpoint).unwrap();
        let server = server(ScriptedModel::saying("hello"), Some(&traces));
        for _ in 0..2000 {
            assert_eq!(chat(&server, json!({"max_tokens": 1})).await.status, 200);
        }
        let start = Instant::now();
        end(&traces).await;
        assert!(start.elapsed() < Duration::from_secs(8), "{endpoint}: {:?}", start.elapsed());
        assert_eq!(chat(&server, json!({})).await.status, 200, "traces have ended, requests have not");
    }
    let lines = String::from_utf8(log().lock().unwrap().clone()).unwrap();
    let warnings: Vec<&str> = lines.lines().filter(|line| line.contains("traces cannot be sent")).collect();
    assert_eq!(warnings.len(), 2, "one for each: {warnings:?}");
    assert!(!refusing.received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_traced_unless_it_is_asked_for() {
    let collector = Collector::start(StatusCode::OK).await;
    let traces = Traces::to(&collector.endpoint).unwrap();
    let server = server(ScriptedModel::saying("hello"), None);
    assert_eq!(chat(&server, json!({})).await.status, 200);
    end(&traces).await;
    assert!(collector.received.lock().unwrap().is_empty());
}
