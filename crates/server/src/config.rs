//! What the caller decides about the server; nothing here changes after the start.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::history::MissingReasoning;
use crate::traces::Traces;

/// Settings of the HTTP server. The model itself arrives later, as [`Served`](crate::Served).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Accepted bearer keys; none means that no key is asked for.
    pub api_keys: Vec<String>,
    /// How many POST requests each client may start in a minute, all at once or one after the other; none means as many as it
    /// likes. A client is a key, or without keys an address.
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// Larger request bodies are answered with 413.
    pub max_body_bytes: usize,
    /// Origins that browsers may call from; none means no CORS headers at all.
    pub allowed_origins: AllowedOrigins,
    /// A stream that has been silent for so long gets a comment, so that proxies keep the connection.
    pub keep_alive_interval: Duration,
    /// How long a request may take that does not say it itself; none means as long as it needs.
    pub request_timeout: Option<Duration>,
    /// On shutdown, how long running requests may take to finish before they are ended with an error.
    pub shutdown_timeout: Duration,
    /// Who is sent a trace of each request.
    pub traces: Option<Traces>,
    /// What to do about messages of a running tool turn that come without the reasoning that they were sent with.
    pub missing_reasoning: MissingReasoning,
}

/// Which web pages may call this server from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// No page of another origin.
    None,
    /// Every page.
    Any,
    /// Pages of these origins, such as `https://chat.example.org`.
    List(Vec<axum::http::HeaderValue>),
}

impl Default for ServerConfig {
    /// No keys, no rate limit, 32 MiB, no CORS, a comment every 10 s, no timeout, 30 s to shut
    /// down, no traces.
    fn default() -> Self {
        ServerConfig {
            api_keys: Vec::new(),
            max_requests_per_minute: None,
            max_body_bytes: 32 << 20,
            allowed_origins: AllowedOrigins::None,
            keep_alive_interval: Duration::from_secs(10),
            request_timeout: None,
            shutdown_timeout: Duration::from_secs(30),
            traces: None,
            missing_reasoning: MissingReasoning::Refuse,
        }
    }
}
