//! What every handler sees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cachalot_engine::{EngineHandle, Health};
use cachalot_prompt::Prompt;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::auth::ApiKeys;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::models::unix_seconds;
use crate::rate_limit::RateLimit;
use crate::traces::Traces;
use crate::turnover::Turnover;

/// The aliases of the hosted API; each also chooses whether the model thinks by default.
pub(crate) const CHAT_ALIAS: &str = "deepseek-chat";
pub(crate) const REASONER_ALIAS: &str = "deepseek-reasoner";

/// Codes of the errors that say why no request is taken.
pub(crate) const LOADING: &str = "loading";
pub(crate) const STOPPING: &str = "stopping";
pub(crate) const ENGINE_STUCK: &str = "engine_stuck";
pub(crate) const ENGINE_FAILED: &str = "engine_failed";

/// Shared by all handlers; clones are the same state.
///
/// The server listens before the model is loaded: `/health` answers 503 until [`publish`](Self::publish), so that whoever
/// starts it can wait for readiness in one way, and metrics can be read from the start.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    config: ServerConfig,
    api_keys: ApiKeys,
    rate_limit: Option<RateLimit>,
    metrics: PrometheusHandle,
    turnover: Turnover,
    served: OnceLock<Served>,
    stopping: AtomicBool,
    started: u64,
}

/// The model that is served.
pub struct Served {
    /// The name that requests give in `model`; any other than this and the two DeepSeek aliases is refused.
    pub model_name: String,
    /// Where token ids go.
    pub engine: EngineHandle,
    /// How text becomes token ids and back; a checkpoint without a tokenizer has none, and then serves token ids alone.
    pub prompt: Option<Arc<Prompt>>,
    /// Tokens that end a completion, from the checkpoint's generation_config.json or config.json. Chat also ends at the guards
    /// of [`Prompt::eos_token_ids`].
    pub eos_token_ids: Vec<u32>,
}

impl AppState {
    /// The state of a server whose model is still being loaded. `metrics` comes from [`install_metrics`](crate::install_metrics), or
    /// from [`unrecorded_metrics`](crate::unrecorded_metrics).
    pub fn loading(config: ServerConfig, metrics: PrometheusHandle) -> Self {
        let api_keys = ApiKeys::new(&config.api_keys);
        let rate_limit = config.max_requests_per_minute.map(RateLimit::new);
        AppState(Arc::new(Shared {
            config,
            api_keys,
            rate_limit,
            metrics,
            turnover: Turnover::default(),
            served: OnceLock::new(),
            stopping: AtomicBool::new(false),
            started: unix_seconds(),
        }))
    }

    /// Starts answering for this model.
    ///
    /// # Panics
    /// If a model has been published already: a server serves one model for its whole life.
    pub fn publish(&self, served: Served) {
        assert!(self.0.served.set(served).is_ok(), "a model has already been published");
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn api_keys(&self) -> &ApiKeys {
        &self.0.api_keys
    }

    pub(crate) fn rate_limit(&self) -> Option<&RateLimit> {
        self.0.rate_limit.as_ref()
    }

    pub(crate) fn metrics(&self) -> &PrometheusHandle {
        &self.0.metrics
    }

    pub(crate) fn traces(&self) -> Option<&Traces> {
        self.0.config.traces.as_ref()
    }

    /// What is known about how long requests run.
    pub(crate) fn turnover(&self) -> &Turnover {
        &self.0.turnover
    }

    /// When a place in the queue, if it is full, is expected to be free.
    pub(crate) fn expected_wait(&self) -> Duration {
        let num_running = self.0.served.get().map_or(0, |served| served.engine.stats().num_running);
        self.turnover().wait(num_running)
    }

    /// When the server started, in seconds since 1970.
    pub(crate) fn started(&self) -> u64 {
        self.0.started
    }

    /// The model, if it can take requests now.
    ///
    /// # Errors
    /// 503 with the reason: loading, shutting down, or the engine has failed or is stuck.
    pub(crate) fn served(&self) -> Result<&Served, ApiError> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable(STOPPING, "The server is shutting down", Duration::from_secs(5)));
        }
        let Some(served) = self.0.served.get() else {
            return Err(ApiError::unavailable(LOADING, "The model is still being loaded", Duration::from_secs(5)));
        };
        let unavailable = |code, message| Err(ApiError::unavailable(code, message, Duration::from_secs(60)));
        match served.engine.health() {
            Health::Ready | Health::Degraded { .. } => Ok(served),
            Health::Stuck { since } => unavailable(
                ENGINE_STUCK,
                format!("A step of the engine has taken {} s and is not over; restart the server", since.as_secs()),
            ),
            Health::Stopped { failure: Some(failure) } => {
                unavailable(ENGINE_FAILED, format!("The engine has stopped: {failure}; restart the server"))
            }
            Health::Stopped { failure: None } => unavailable(ENGINE_FAILED, "The engine has stopped".to_owned()),
        }
    }

    /// Why an engine that takes requests may not be at its best.
    pub(crate) fn degradation(&self) -> Option<String> {
        match self.0.served.get()?.engine.health() {
            Health::Degraded { reason } => Some(reason),
            _ => None,
        }
    }

    /// From now on every request is refused; returns the engine, if there is one, so that it can be brought to its end.
    pub(crate) fn stop(&self) -> Option<EngineHandle> {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.0.served.get().map(|served| served.engine.clone())
    }
}

impl Served {
    /// The tokenizer and encoding.
    ///
    /// # Errors
    /// 400 for a checkpoint without a tokenizer, with a hint at what works.
    pub(crate) fn prompt(&self) -> Result<&Arc<Prompt>, ApiError> {
        self.prompt.as_ref().ok_or_else(|| {
            ApiError::invalid(
                "This checkpoint has no tokenizer.json, so the server cannot read or write text; \
                 send token ids as `prompt` to /v1/completions",
            )
        })
    }

    /// Checks the `model` of a request, and returns the name to answer with.
    ///
    /// # Errors
    /// 400 that lists the names.
    pub(crate) fn check_model<'a>(&'a self, model: Option<&'a str>) -> Result<&'a str, ApiError> {
        let names = self.model_names();
        match model {
            None => Ok(&self.model_name),
            Some(model) if names.contains(&model) => Ok(model),
            Some(model) => Err(ApiError::invalid(format!(
                "Model Not Exist. The supported API model names are {}, but you passed {model}.",
                names.join(", ")
            ))
            .with_param("model")),
        }
    }

    /// The model name that is `id`.
    ///
    /// # Errors
    /// 404 that lists the names.
    pub(crate) fn find_model(&self, id: &str) -> Result<&str, ApiError> {
        let names = self.model_names();
        names.into_iter().find(|name| *name == id).ok_or_else(|| {
            ApiError::not_found(format!("There is no model `{id}`; the names are {}", names.join(", ")))
                .with_param("model")
        })
    }

    /// The names that `model` may have, the model's own first.
    pub(crate) fn model_names(&self) -> [&str; 3] {
        [&self.model_name, CHAT_ALIAS, REASONER_ALIAS]
    }
}
