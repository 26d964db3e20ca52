//! Every environment variable that cachalot reads. Nothing else in the workspace reads any.
//!
//! Options take their variable through clap, so that the command line wins over the environment and `--help` shows both.
//! The variables of the hub keep the names that other tools of the hub use.

use std::path::PathBuf;

macro_rules! variables {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal;)*) => {
        $($(#[doc = $doc])* pub(crate) const $name: &str = $value;)*

        /// All of them, for the test that the documentation lists each.
        #[cfg(test)]
        pub(crate) const ALL: &[&str] = &[$($value),*];
    };
}

variables! {
    /// `MODEL` of every command.
    MODEL = "CACHALOT_MODEL";
    /// `--device`.
    DEVICE = "CACHALOT_DEVICE";
    /// `--threads`.
    THREADS = "CACHALOT_THREADS";
    /// `--release`.
    RELEASE = "CACHALOT_RELEASE";
    /// `--max-model-len`.
    MAX_MODEL_LEN = "CACHALOT_MAX_MODEL_LEN";
    /// `--max-num-seqs` of `serve` and `batch`.
    MAX_NUM_SEQS = "CACHALOT_MAX_NUM_SEQS";
    /// `--max-num-batched-tokens`.
    MAX_NUM_BATCHED_TOKENS = "CACHALOT_MAX_NUM_BATCHED_TOKENS";
    /// `--max-waiting`.
    MAX_WAITING = "CACHALOT_MAX_WAITING";
    /// `--kv-cache-bytes`.
    KV_CACHE_BYTES = "CACHALOT_KV_CACHE_BYTES";
    /// `--speculative-tokens`.
    SPECULATIVE_TOKENS = "CACHALOT_SPECULATIVE_TOKENS";
    /// `--mla-prefill`.
    MLA_PREFILL = "CACHALOT_MLA_PREFILL";
    /// `--prefix-cache`.
    PREFIX_CACHE = "CACHALOT_PREFIX_CACHE";
    /// `--on-fault`.
    ON_FAULT = "CACHALOT_ON_FAULT";
    /// `--step-timeout`.
    STEP_TIMEOUT = "CACHALOT_STEP_TIMEOUT";
    /// `--kv-cache-dtype`.
    KV_CACHE_DTYPE = "CACHALOT_KV_CACHE_DTYPE";
    /// `serve --host`.
    HOST = "CACHALOT_HOST";
    /// `serve --port`.
    PORT = "CACHALOT_PORT";
    /// `serve --api-key`.
    API_KEY = "CACHALOT_API_KEY";
    /// `serve --max-requests-per-minute`.
    MAX_REQUESTS_PER_MINUTE = "CACHALOT_MAX_REQUESTS_PER_MINUTE";
    /// `--missing-reasoning` of `serve` and `batch`.
    MISSING_REASONING = "CACHALOT_MISSING_REASONING";
    /// `--served-model-name` of `serve` and `batch`.
    SERVED_MODEL_NAME = "CACHALOT_SERVED_MODEL_NAME";
    /// `serve --allowed-origin`.
    ALLOWED_ORIGIN = "CACHALOT_ALLOWED_ORIGIN";
    /// `serve --max-body-bytes`.
    MAX_BODY_BYTES = "CACHALOT_MAX_BODY_BYTES";
    /// `serve --otlp-endpoint`.
    OTLP_ENDPOINT = "CACHALOT_OTLP_ENDPOINT";
    /// `serve --request-timeout`.
    REQUEST_TIMEOUT = "CACHALOT_REQUEST_TIMEOUT";
    /// `--shutdown-timeout` of `serve` and `batch`.
    SHUTDOWN_TIMEOUT = "CACHALOT_SHUTDOWN_TIMEOUT";
    /// `INPUT` of `batch`.
    INPUT = "CACHALOT_INPUT";
    /// `OUTPUT` of `batch`.
    OUTPUT = "CACHALOT_OUTPUT";
    /// `generate --prompt`.
    PROMPT = "CACHALOT_PROMPT";
    /// `generate --chat`.
    CHAT = "CACHALOT_CHAT";
    /// `chat --system`.
    SYSTEM = "CACHALOT_SYSTEM";
    /// `--thinking` of `generate` and `chat`.
    THINKING = "CACHALOT_THINKING";
    /// `--max-tokens` of `generate` and `chat`.
    MAX_TOKENS = "CACHALOT_MAX_TOKENS";
    /// `--temperature` of `generate` and `chat`.
    TEMPERATURE = "CACHALOT_TEMPERATURE";
    /// `--top-p` of `generate` and `chat`.
    TOP_P = "CACHALOT_TOP_P";
    /// `--seed` of `generate`, `chat` and `bench`.
    SEED = "CACHALOT_SEED";
    /// `bench --prompt-tokens`.
    PROMPT_TOKENS = "CACHALOT_PROMPT_TOKENS";
    /// `bench --generate-tokens`.
    GENERATE_TOKENS = "CACHALOT_GENERATE_TOKENS";
    /// `bench --batch`.
    BATCH = "CACHALOT_BATCH";
    /// `bench --repeat`.
    REPEAT = "CACHALOT_REPEAT";
    /// `plan --gpu`.
    GPU = "CACHALOT_GPU";
    /// `--json` of `bench`, `inspect` and `plan`.
    JSON = "CACHALOT_JSON";
    /// `parse --mode`.
    MODE = "CACHALOT_MODE";
    /// `parse --split`.
    SPLIT = "CACHALOT_SPLIT";
    /// `--log`.
    LOG = "CACHALOT_LOG";
    /// `--log-format`.
    LOG_FORMAT = "CACHALOT_LOG_FORMAT";
    /// Folder of the hub's cache and token; `~/.cache/huggingface` if unset.
    HF_HOME = "HF_HOME";
    /// `pull --endpoint`: another address for the hub.
    HF_ENDPOINT = "HF_ENDPOINT";
    /// `pull --token`: for models that need permission.
    HF_TOKEN = "HF_TOKEN";
}

/// The folder of downloaded models: `hub` in [`HF_HOME`], or in its default place. `None` if the user has no home.
pub(crate) fn hub_cache() -> Option<PathBuf> {
    let home = match std::env::var_os(HF_HOME) {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => std::env::home_dir()?.join(".cache").join("huggingface"),
    };
    Some(home.join("hub"))
}
