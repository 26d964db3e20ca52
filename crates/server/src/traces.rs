//! Traces for OpenTelemetry: one span for each request that the engine has taken, with a span below it for each stretch of its
//! life. Off unless the server is told where to send them.
//!
//! Spans are made when a request is over, from what the engine then reports, so that a running request costs nothing. They wait in
//! a bounded queue for a thread that sends them; what does not fit, or cannot be sent, is dropped. Names and attributes are
//! those of OpenTelemetry's conventions for generative AI, where there are any. No text of prompts or answers is in them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use axum::http::{HeaderMap, Uri};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::record::{Choice, Record};
use crate::wire::usage::Usage;

/// Where collectors of OTLP over HTTP take traces.
const TRACES_PATH: &str = "/v1/traces";
/// How long a collector may take to accept spans.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the server may wait for the last spans.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends traces to one collector; clones are the same sender.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Why traces cannot be sent to an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// It is no address of a web server.
    #[error("`{0}` is not an address such as http://127.0.0.1:4318")]
    Endpoint(String),
    /// The exporter refuses it.
    #[error(transparent)]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Traces {
    /// Starts a thread that sends traces to an OTLP collector by HTTP and protobuf. The path `/v1/traces` is added if it is not there.
    ///
    /// # Errors
    /// If the endpoint is not an `http` or `https` address. Whether anyone listens there is found out when there is something to
    /// send, and makes a warning in the log and no more.
    pub fn to(endpoint: &str) -> Result<Self, TracesError> {
        let uri: Uri = endpoint.parse().map_err(|_| TracesError::Endpoint(endpoint.to_owned()))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(TracesError::Endpoint(endpoint.to_owned()));
        }
        let base = endpoint.trim_end_matches('/');
        let url = if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") };
        let exporter =
            SpanExporter::builder().with_http().with_http_client(Sender::new()).with_endpoint(url).build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("cachalot").with_attribute(version).build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        let tracer = provider.tracer("cachalot");
        Ok(Traces { provider, tracer })
    }

    /// The span of the client that a request belongs to, if it names one in its `traceparent`.
    pub(crate) fn parent(&self, headers: &HeaderMap) -> Context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
    }

    /// Sends what is still to be sent, and then nothing more. Blocks for some seconds at most.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::debug!("the last traces were not sent: {error}");
        }
    }

    /// Makes the spans of a request that is over.
    pub(crate) fn write(&self, record: &Record, usage: &Usage, choices: &[Choice<'_>]) {
        let clock = Clock::new();
        let caller = record.caller();
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", record.operation()),
            KeyValue::new("gen_ai.provider.name", "cachalot"),
            KeyValue::new("gen_ai.request.model", record.model().to_owned()),
            KeyValue::new("gen_ai.response.model", record.model().to_owned()),
            KeyValue::new("gen_ai.usage.input_tokens", count(usage.prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", count(usage.completion_tokens)),
            KeyValue::new("gen_ai.usage.cache_read.input_tokens", count(usage.prompt_cache_hit_tokens)),
            KeyValue::new("cachalot.request_id", caller.request_id.clone()),
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", caller.route.clone()),
            KeyValue::new("http.response.status_code", i64::from(record.status())),
        ];
        let reasons = choices.iter().filter_map(|choice| choice.finish_reason).map(StringValue::from).collect();
        attributes.push(KeyValue::new("gen_ai.response.finish_reasons", Value::Array(Array::String(reasons))));
        if let Some((accepted, rejected)) = usage.draft_counts() {
            attributes.push(KeyValue::new("cachalot.usage.accepted_draft_tokens", accepted));
            attributes.push(KeyValue::new("cachalot.usage.rejected_draft_tokens", rejected));
        }
        if let Some(first_output) = record.first_output() {
            let seconds = (first_output - caller.began).as_secs_f64();
            attributes.push(KeyValue::new("gen_ai.response.time_to_first_chunk", seconds));
        }
        if let Some(code) = record.error_type() {
            attributes.push(KeyValue::new("error.type", code));
        }
        let name = format!("{} {}", record.operation(), record.model());
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(clock.at(caller.began))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &caller.trace_parent.clone().unwrap_or_default());
        if let Some(code) = record.error_type().filter(|_| record.status() >= 500) {
            span.set_status(Status::error(code));
        }
        let context = Context::new().with_span(span);
        for (index, choice) in choices.iter().enumerate() {
            let Some(report) = choice.report else { continue };
            let first_token = report.first_token.unwrap_or(report.end);
            let stretches = [
                ("queue", report.arrival, report.first_scheduled),
                ("prefill", report.first_scheduled, first_token),
                ("decode", first_token, report.end),
            ];
            for (name, start, end) in stretches {
                SpanBuilder::from_name(name)
                    .with_start_time(clock.at(start))
                    .with_attributes([
                        KeyValue::new("cachalot.choice", count(index)),
                        KeyValue::new("cachalot.preemptions", i64::from(report.num_preemptions)),
                    ])
                    .start_with_context(&self.tracer, &context)
                    .end_with_timestamp(clock.at(end));
            }
        }
        context.span().end_with_timestamp(clock.at(record.ended()));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Tells the time of day of an instant.
struct Clock {
    now: Instant,
    time: SystemTime,
}

impl Clock {
    fn new() -> Self {
        Clock { now: Instant::now(), time: SystemTime::now() }
    }

    fn at(&self, instant: Instant) -> SystemTime {
        self.time - self.now.saturating_duration_since(instant)
    }
}

/// Posts spans, on the thread that collects them.
#[derive(Debug)]
struct Sender {
    agent: ureq::Agent,
    /// The collector did not answer the last time, which has been said.
    is_failing: AtomicBool,
}

impl Sender {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(SEND_TIMEOUT)).http_status_as_error(false);
        Sender { agent: config.build().into(), is_failing: AtomicBool::new(false) }
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = response.into_parts();
        Ok(Response::from_parts(parts, Bytes::from(body.read_to_vec()?)))
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let result = self.post(request);
        let problem = match &result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        if let Some(problem) = problem.filter(|_| !was_failing) {
            tracing::warn!("traces cannot be sent to {uri}: {problem}; they are dropped until that works again");
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused() {
        for endpoint in ["", "localhost", "localhost:4317", "grpc://localhost:4317", "http://", "a b"] {
            let error = Traces::to(endpoint).expect_err(endpoint);
            assert!(error.to_string().contains("http://127.0.0.1:4318"), "{endpoint}: {error}");
        }
    }
}
