//! The HTTP API over the engine: OpenAI's completions and chat completions as DeepSeek's servers speak them, and Anthropic's
//! messages.
//!
//! The nouns are [`AppState`], what all handlers share, and [`Served`], the model behind it. [`router`] makes an
//! [`axum::Router`] of a state, which tests drive without a socket; [`serve`] puts it on one.
//!
//! ```no_run
//! # async fn example(served: cachalot_server::Served) -> Result<(), Box<dyn std::error::Error>> {
//! use cachalot_server::{AppState, ServerConfig, install_metrics, serve};
//!
//! let state = AppState::loading(ServerConfig::default(), install_metrics()?);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! let server = tokio::spawn(serve(listener, state.clone(), async { std::future::pending().await }));
//! state.publish(served); // once the model is loaded; until then /health says 503
//! server.await??;
//! # Ok(())
//! # }
//! ```
//!
//! A request passes `body` (size, syntax), `wire` (types), `sampling`, `service` and `chat_prompt` (ranges, defaults, token ids)
//! before the engine sees it, so that all that can be refused is refused with a status. `generation` turns the engine's events into
//! text, for whole answers and for `sse` alike.
//!
//! Left out on purpose: TLS, which a reverse proxy does better, and reading the environment, which only the binary does.

#![forbid(unsafe_code)]

mod answer;
mod anthropic;
mod auth;
mod balance;
mod blocking;
mod body;
mod caller;
mod chat;
mod chat_prompt;
mod chat_request;
mod completions;
mod config;
mod constraint;
mod decoder;
mod dialect;
mod error;
mod generation;
mod history;
mod hosted;
mod listener;
mod models;
mod observe;
mod openapi;
mod page;
mod rate_limit;
mod record;
mod request_id;
mod responses;
mod routes;
mod sampling;
mod serve;
mod service;
mod sse;
mod state;
mod token_names;
mod tokenize;
mod traces;
mod turnover;
mod whole;
mod wire;

pub use config::{AllowedOrigins, ServerConfig};
pub use error::ApiError;
pub use history::MissingReasoning;
pub use observe::{install_metrics, unrecorded_metrics};
pub use serve::{router, serve};
pub use state::{AppState, Served};
pub use traces::{Traces, TracesError};
