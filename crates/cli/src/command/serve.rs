//! `cachalot serve`: the HTTP server.
//!
//! It listens before the model is loaded, so that a port in use is reported at once and probes see 503 until the model is
//! there. A first SIGINT or SIGTERM ends it in order; a second one ends it at once.

use std::io;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use anyhow::{Context, anyhow};
use cachalot_engine::{EngineHandle, Health, OnFault};
use cachalot_server::{AllowedOrigins, AppState, ServerConfig, Traces, install_metrics};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::args::{MissingReasoningPolicy, ModelArgs};
use crate::byte_size::ByteSize;
use crate::config::ModelConfig;
use crate::hint::ResultExt;
use crate::say::say;
use crate::stop::Stop;
use crate::{env, load};

/// How often the engine is looked after.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Serve a model over an OpenAI-compatible API
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The most sequences that run at once [default: 64, or --max-num-batched-tokens if that is less]
    #[arg(long, env = env::MAX_NUM_SEQS, value_name = "N", help_heading = "Model")]
    max_num_seqs: Option<NonZeroUsize>,
    /// The most requests that wait; further ones are answered with 503
    #[arg(long, env = env::MAX_WAITING, value_name = "N", default_value = "512", help_heading = "Model")]
    max_waiting: usize,
    /// Whether requests share what the KV cache holds of their prompts
    #[arg(long, env = env::PREFIX_CACHE, value_name = "WHETHER", default_value = "on", help_heading = "Model")]
    prefix_cache: Switch,
    /// What to do when the model fails in a step: restart with an empty cache, and exit if it goes on failing, or exit at once
    #[arg(long, env = env::ON_FAULT, value_name = "POLICY", default_value = "restart", help_heading = "Model")]
    on_fault: OnFaultPolicy,
    /// A step that takes longer than this many seconds is stuck: the server says so and exits
    #[arg(long, env = env::STEP_TIMEOUT, value_name = "SECONDS", default_value = "300", help_heading = "Model")]
    step_timeout: NonZeroU64,
    /// Address to listen on; 0.0.0.0 is every address of this machine
    #[arg(long, env = env::HOST, value_name = "HOST", default_value = "127.0.0.1", help_heading = "Server")]
    host: String,
    /// Port to listen on; 0 takes any free one
    #[arg(long, env = env::PORT, value_name = "PORT", default_value = "8000", help_heading = "Server")]
    port: u16,
    /// Key that requests must carry as bearer token; may be repeated, or hold several with commas between
    #[arg(
        long,
        env = env::API_KEY,
        hide_env_values = true,
        value_name = "KEY",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Server"
    )]
    api_key: Vec<String>,
    /// The most requests that each key, or without keys each address, may start in a minute; further ones are answered with 429
    /// [default: no limit]
    #[arg(long, env = env::MAX_REQUESTS_PER_MINUTE, value_name = "N", help_heading = "Server")]
    max_requests_per_minute: Option<NonZeroU32>,
    /// What to do about assistant messages of a running tool turn that come back without their reasoning_content: refuse, as
    /// the hosted API does, or accept, for clients that forget it
    #[arg(long, env = env::MISSING_REASONING, value_name = "POLICY", default_value = "refuse", help_heading = "Server")]
    missing_reasoning: MissingReasoningPolicy,
    /// Name of the model in requests and answers [default: the name of its folder or its hub id]
    #[arg(long, env = env::SERVED_MODEL_NAME, value_name = "NAME", help_heading = "Server")]
    served_model_name: Option<String>,
    /// Origin of web pages that may call the server from a browser, or * for all; may be repeated
    #[arg(
        long,
        env = env::ALLOWED_ORIGIN,
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Server"
    )]
    allowed_origin: Vec<String>,
    /// Larger request bodies are refused
    #[arg(long, env = env::MAX_BODY_BYTES, value_name = "SIZE", default_value = "32MiB", help_heading = "Server")]
    max_body_bytes: ByteSize,
    /// Collector that is sent a trace of each request, by OTLP over HTTP, such as http://127.0.0.1:4318 [default: nobody]
    #[arg(long, env = env::OTLP_ENDPOINT, value_name = "URL", help_heading = "Server")]
    otlp_endpoint: Option<String>,
    /// Seconds that a request may take that does not say it itself; then it fails with 504 [default: no limit]
    #[arg(long, env = env::REQUEST_TIMEOUT, value_name = "SECONDS", help_heading = "Server")]
    request_timeout: Option<NonZeroU64>,
    /// Seconds that running requests get to finish on shutdown
    #[arg(long, env = env::SHUTDOWN_TIMEOUT, value_name = "SECONDS", default_value = "30", help_heading = "Server")]
    shutdown_timeout: u64,
}

/// The values of `--prefix-cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// The values of `--on-fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnFaultPolicy {
    /// Go on with an empty cache.
    Restart,
    /// End the process.
    Exit,
}

/// Runs the command until it is told to stop.
///
/// # Errors
/// If the address cannot be had or the model cannot be loaded.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let max_num_seqs = args.max_num_seqs.unwrap_or(args.model.default_max_num_seqs());
    let model = ModelConfig {
        takes_all_at_start: true,
        prefix_cache: args.prefix_cache == Switch::On,
        on_fault: match args.on_fault {
            OnFaultPolicy::Restart => OnFault::Restart,
            OnFaultPolicy::Exit => OnFault::Exit,
        },
        step_timeout: Duration::from_secs(args.step_timeout.get()),
        ..ModelConfig::new(&args.model, max_num_seqs.get(), args.max_waiting)?
    };
    let model_name = args.served_model_name.clone().unwrap_or_else(|| model.source.name().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(&args, model, model_name));
    // A load that was interrupted keeps its thread; the process does not wait for it.
    runtime.shutdown_background();
    outcome
}

async fn serve(args: &ServeArgs, model: ModelConfig, model_name: String) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let listener = listen(&args.host, args.port).await?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() && args.api_key.is_empty() {
        tracing::warn!("everyone who can reach {address} can use this server: there is no --api-key");
    }
    say(&format!("cachalot {} listens on http://{address}, loading {}\n", env!("CARGO_PKG_VERSION"), model.source));

    let state = AppState::loading(server_config(args)?, install_metrics()?);
    let (end, ended) = oneshot::channel::<()>();
    let server = tokio::spawn(cachalot_server::serve(listener, state.clone(), async {
        // A dropped sender means the same as a message: it is over.
        let _ = ended.await;
    }));

    let (send_loaded, loaded) = oneshot::channel();
    std::thread::Builder::new().name("load".into()).spawn(move || {
        // Nobody listens any more if the server was stopped meanwhile.
        let _ = send_loaded.send(load::load(&model));
    })?;
    let engine = tokio::select! {
        loaded = loaded => {
            let loaded = loaded.map_err(|_| anyhow!("loading the model ended in a panic")).flatten();
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(error) => {
                    // The server says nothing about its own end: the error is the last word.
                    server.abort();
                    let _ = server.await;
                    return Err(error);
                }
            };
            let banner = loaded.describe();
            if let Some(prompt) = loaded.prompt.clone() {
                // Requests can come meanwhile; those with a grammar wait for it.
                std::thread::Builder::new().name("grammars".into()).spawn(move || {
                    if let Err(error) = prompt.prepare_grammars() {
                        tracing::warn!("there can be no grammars: {error}");
                    }
                })?;
            }
            let engine = loaded.engine.clone();
            state.publish(loaded.into_served(model_name));
            say(&format!("{banner}{:<10}http://{address}/v1\n", "ready"));
            Some(engine)
        }
        () = stop.requested() => None,
    };
    let is_serving = engine.is_some();
    // An engine that cannot go on ends the server, also while it is stopping.
    let failed = async move {
        match engine {
            Some(engine) => watch(&engine).await,
            None => std::future::pending().await,
        }
    };
    let mut failed = std::pin::pin!(failed);
    if is_serving {
        tokio::select! {
            () = stop.requested() => {}
            failure = &mut failed => return Err(failure),
        }
    }
    tokio::spawn(async move {
        stop.requested().await;
        tracing::warn!("stopped at once by a second signal");
        #[expect(clippy::exit, reason = "the user insists, so nothing is waited for")]
        std::process::exit(130);
    });
    drop(end);
    tokio::select! {
        ended = server => ended.context("the server ended in a panic")?.context("the server's socket failed")?,
        failure = failed => return Err(failure),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Resolves when the engine cannot go on: a step that is stuck cannot be interrupted, and a model that keeps failing needs its
/// weights and its device anew. Whoever runs the server starts it again.
async fn watch(engine: &EngineHandle) -> anyhow::Error {
    let failure = loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        match engine.health() {
            Health::Ready | Health::Degraded { .. } => {}
            Health::Stopped { failure: None } => std::future::pending().await,
            Health::Stopped { failure: Some(failure) } => break anyhow!("the engine has stopped: {failure}"),
            Health::Stuck { since } => {
                let seconds = since.as_secs();
                break anyhow!(
                    "a step of the engine has taken {seconds} s and is not over; --step-timeout is how long it may take"
                );
            }
        }
    };
    // Those who wait for an answer of a failed step get it first.
    tokio::time::sleep(WATCH_INTERVAL).await;
    failure.context("the server ends, because its engine cannot go on: start it again")
}

async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let hint = |error: &io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or choose another port with --port (0 takes any free one)"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another one with --port",
        _ => "--host must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
    };
    TcpListener::bind((host, port)).await.or_else(|error| {
        let hint = hint(&error);
        Err(error).with_context(|| format!("cannot listen on {host}:{port}")).hint(hint)
    })
}

fn server_config(args: &ServeArgs) -> anyhow::Result<ServerConfig> {
    let allowed_origins = match args.allowed_origin.as_slice() {
        [] => AllowedOrigins::None,
        [any] if any == "*" => AllowedOrigins::Any,
        origins => {
            let origins = origins.iter().map(|origin| {
                origin
                    .parse()
                    .with_context(|| format!("--allowed-origin `{origin}` cannot be a header"))
                    .hint("write it as the browser sends it, such as https://chat.example.org")
            });
            AllowedOrigins::List(origins.collect::<Result<_, _>>()?)
        }
    };
    let traces = args.otlp_endpoint.as_deref().map(Traces::to).transpose();
    let traces = traces
        .context("--otlp-endpoint cannot be used")
        .hint("give the address of an OTLP collector that speaks HTTP, such as http://127.0.0.1:4318")?;
    Ok(ServerConfig {
        traces,
        api_keys: args.api_key.clone(),
        max_requests_per_minute: args.max_requests_per_minute,
        missing_reasoning: args.missing_reasoning.into(),
        max_body_bytes: usize::try_from(args.max_body_bytes.0)?,
        allowed_origins,
        request_timeout: args.request_timeout.map(|seconds| Duration::from_secs(seconds.get())),
        shutdown_timeout: Duration::from_secs(args.shutdown_timeout),
        ..ServerConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use cachalot_engine::{Engine, EngineConfig, KvCacheSize, NoopModel, Request};
    use cachalot_model::{Batch, Error, LanguageModel, Result};

    use super::*;

    /// A model that fails in every step.
    struct BrokenModel;

    impl LanguageModel for BrokenModel {
        fn vocab_size(&self) -> usize {
            10
        }

        fn max_model_len(&self) -> usize {
            100
        }

        fn kv_block_bytes(&self) -> usize {
            1
        }

        fn allocate(&mut self, _: usize, _: usize, _: usize) -> Result<()> {
            Ok(())
        }

        fn forward(&mut self, _: &Batch, _: &mut [f32]) -> Result<()> {
            Err(Error::Invalid("the device is gone".into()))
        }
    }

    #[tokio::test]
    async fn an_engine_that_cannot_go_on_ends_the_server() {
        let config = EngineConfig { kv_cache: KvCacheSize::Blocks(4), on_fault: OnFault::Exit, ..Default::default() };
        let engine = Engine::start(Box::new(BrokenModel), config.clone()).expect("it starts");
        let _stream = engine.submit(Request { prompt_ids: vec![1], ..Request::default() }).expect("it is accepted");
        let failure = format!("{:#}", watch(&engine).await);
        assert!(
            failure.ends_with("the engine has stopped: the model failed in a step: the device is gone"),
            "{failure}"
        );

        let step_time = Duration::from_millis(1500);
        let model = NoopModel { vocab_size: 10, max_model_len: 100, token_id: 7, step_time };
        let config = EngineConfig { step_timeout: Duration::from_millis(1), ..config };
        let engine = Engine::start(Box::new(model), config).expect("it starts");
        let stream = engine.submit(Request { prompt_ids: vec![1], ..Request::default() }).expect("it is accepted");
        let failure = format!("{:#}", watch(&engine).await);
        assert!(failure.contains("a step of the engine has taken"), "{failure}");
        drop(stream);
    }
}
