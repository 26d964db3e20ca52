//! Every route, in one list: the router is made of it, and the tests hold `openapi.json` against it.

use axum::http::Method;
use axum::routing::{MethodRouter, get, post};

use crate::state::AppState;
use crate::{anthropic, balance, chat, completions, models, observe, openapi, page, responses, tokenize};

/// Where the API is: as DeepSeek's documentation has it, as OpenAI's clients expect it, and where the hosted API keeps what it
/// calls beta. Here they are all the same.
pub(crate) const PREFIXES: [&str; 4] = ["", "/v1", "/beta", "/beta/v1"];

/// What answers one method of one path. Where there is a GET there is a HEAD.
pub(crate) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the handler knows it, and does not tell the tests"))]
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) handler: MethodRouter<AppState>,
}

impl Route {
    fn get(path: impl Into<String>, handler: MethodRouter<AppState>) -> Self {
        Route { method: Method::GET, path: path.into(), handler }
    }

    fn post(path: impl Into<String>, handler: MethodRouter<AppState>) -> Self {
        Route { method: Method::POST, path: path.into(), handler }
    }
}

/// The API: the routes that ask for a key, if the server has any.
pub(crate) fn api() -> Vec<Route> {
    let under = |prefix: &str| {
        [
            Route::post(format!("{prefix}/chat/completions"), post(chat::complete)),
            Route::post(format!("{prefix}/completions"), post(completions::complete)),
            Route::post(format!("{prefix}/responses"), post(responses::create)),
            Route::get(format!("{prefix}/models"), get(models::list)),
            // A name may be that of a hub, with a slash in it.
            Route::get(format!("{prefix}/models/{{*model}}"), get(models::retrieve)),
            Route::post(format!("{prefix}/tokenize"), post(tokenize::tokenize)),
            Route::post(format!("{prefix}/detokenize"), post(tokenize::detokenize)),
            Route::get(format!("{prefix}/user/balance"), get(balance::balance)),
        ]
    };
    // Anthropic's clients add `/v1/…` to their base address.
    let anthropic_under = |prefix: &str| {
        [
            Route::post(format!("{prefix}/v1/messages"), post(anthropic::messages::create)),
            Route::post(format!("{prefix}/v1/messages/count_tokens"), post(anthropic::messages::count_tokens)),
        ]
    };
    let anthropic_models = [
        Route::get("/anthropic/v1/models", get(anthropic::models::list)),
        Route::get("/anthropic/v1/models/{*model}", get(anthropic::models::retrieve)),
    ];
    let anthropic = ["", "/anthropic"].into_iter().flat_map(anthropic_under).chain(anthropic_models);
    PREFIXES.into_iter().flat_map(under).chain(anthropic).collect()
}

/// The routes that ask for no key: probes, scrapers and browsers have none.
pub(crate) fn open() -> Vec<Route> {
    vec![
        Route::get("/health", get(observe::health)),
        Route::get("/metrics", get(observe::metrics)),
        Route::get("/openapi.json", get(openapi::document)),
        Route::get("/", get(page::index)),
        Route::get("/assets/{name}", get(page::asset)),
    ]
}
