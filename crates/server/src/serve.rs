//! The routes, and serving them on a socket until told to stop.

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use crate::config::AllowedOrigins;
use crate::error::ApiError;
use crate::listener::Connections;
use crate::request_id::{X_DS_TRACE_ID, X_REQUEST_ID};
use crate::routes::Route;
use crate::state::AppState;
use crate::{auth, dialect, observe, rate_limit, request_id, routes};

/// After the engine has ended, how long readers get to fetch what was written for them.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the recorder folds fresh samples into its histograms, so that they do not pile up when nobody reads `/metrics`.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// All routes over `state`.
pub fn router(state: AppState) -> Router {
    let with = |router: Router<AppState>, route: Route| router.route(&route.path, route.handler);
    // Who may not ask is told so before it is counted.
    let api = routes::api()
        .into_iter()
        .fold(Router::new(), with)
        .route_layer(from_fn_with_state(state.clone(), rate_limit::limit))
        .route_layer(from_fn_with_state(state.clone(), auth::require_key));
    let router = routes::open()
        .into_iter()
        .fold(api, with)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(dialect::translate))
        .layer(from_fn(observe::count_responses));
    match cors(&state.config().allowed_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
    .layer(from_fn(request_id::identify))
    .with_state(state)
}

fn cors(origins: &AllowedOrigins) -> Option<CorsLayer> {
    // Clients send headers of their own making, which say what they are and change nothing here.
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([X_REQUEST_ID, X_DS_TRACE_ID, header::RETRY_AFTER]);
    match origins {
        AllowedOrigins::None => None,
        AllowedOrigins::Any => Some(layer.allow_origin(Any)),
        AllowedOrigins::List(origins) => Some(layer.allow_origin(origins.clone())),
    }
}

async fn no_such_route(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("There is no {method} {}; the API is under /v1", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(format!("{} does not take {method}", uri.path()))
}

/// Serves `state` on `listener` until `shutdown` resolves, then ends in order: no new connection or request is taken, running
/// requests get [`shutdown_timeout`](crate::ServerConfig::shutdown_timeout) to finish, what still runs then is ended with an
/// error that its client sees, and the call returns when every answer has been read or its reader has stalled.
///
/// The engine has ended when this returns.
///
/// # Errors
/// If the socket fails.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Tokens are small writes that should not wait for each other.
    let listener = Connections::new(listener).tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("could not set TCP_NODELAY: {error}");
        }
    });
    let upkeep = tokio::spawn({
        let metrics = state.metrics().clone();
        async move {
            let mut interval = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
            loop {
                interval.tick().await;
                metrics.run_upkeep();
            }
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let router = router(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async {
            // A dropped sender means that `serve` itself is gone.
            let _ = stopped.await;
        })
        .into_future();
    tokio::pin!(server);
    let result = tokio::select! {
        result = &mut server => result,
        () = shutdown => {
            tracing::info!("shutting down");
            let engine = state.stop();
            // The server future is alive, so its receiver is.
            let _ = stop.send(());
            let timeout = state.config().shutdown_timeout;
            let drained = async {
                if let Some(engine) = engine {
                    // It ends every stream by its deadline, finished or failed. A panic in there has been logged.
                    let _ = tokio::task::spawn_blocking(move || engine.shutdown(timeout)).await;
                }
                tokio::time::sleep(DELIVERY_TIMEOUT).await;
            };
            tokio::select! {
                result = &mut server => result,
                () = drained => {
                    tracing::warn!("closing connections whose clients have stopped reading");
                    Ok(())
                }
            }
        }
    };
    upkeep.abort();
    if let Some(traces) = state.traces().cloned() {
        // A panic in there has been logged.
        let _ = tokio::task::spawn_blocking(move || traces.shutdown()).await;
    }
    result
}
