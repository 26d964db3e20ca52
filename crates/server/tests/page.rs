//! The chat page's files: types, caching, and the headers that keep model text harmless. What the page does is tested in a
//! browser, by `scripts/page`.

mod common;

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use cachalot_server::ServerConfig;
use common::{Answer, Setup, TestServer, loading};

fn server() -> TestServer {
    Setup::saying("hello").start()
}

/// The paths that the page's own files name, beginning with the page.
async fn paths(server: &TestServer) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let mut open = vec!["/".to_owned()];
    while let Some(path) = open.pop() {
        let body = server.get(&path).await.body;
        // In the page `"/assets/app.js"`, in modules `"./sse.js"`.
        let absolute = body.split("\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        let relative = body.split("from \"./").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        let names: Vec<String> = absolute.chain(relative).map(|name| format!("/assets/{name}")).collect();
        if known.insert(path) {
            open.extend(names);
        }
    }
    known
}

fn check_headers(path: &str, headers: &HeaderMap) {
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|found| found == directive), "{path}: no {directive} in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{path}: {policy}");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{path}");
    assert_eq!(headers[header::CACHE_CONTROL], "no-cache", "{path}");
}

#[tokio::test]
async fn every_file_that_the_page_names_is_there_with_its_type_and_headers() {
    let server = server();
    let paths = paths(&server).await;
    assert!(paths.len() >= 5, "{paths:?}");
    for path in &paths {
        let Answer { status, headers, body } = server.get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(!body.is_empty(), "{path}");
        check_headers(path, &headers);
        let expected = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(headers[header::CONTENT_TYPE], expected, "{path}");
    }
}

#[tokio::test]
async fn nothing_in_the_page_is_inline_or_foreign() {
    let server = server();
    for path in paths(&server).await {
        let body = server.get(&path).await.body;
        if path == "/" {
            let handler = body.split(" on").skip(1).find(|rest| {
                rest.trim_start_matches(|character: char| character.is_ascii_lowercase()).starts_with('=')
            });
            assert_eq!(handler, None, "an inline handler in {path}");
            assert!(!body.contains("style=") && !body.contains("<style"), "an inline style in {path}");
            assert_eq!(body.matches("<script").count(), body.matches("></script>").count(), "a script with text");
        }
        for address in body.split("://").skip(1).map(|rest| rest.split('/').next().unwrap()) {
            // The names of XML vocabularies are no addresses.
            assert!(matches!(address, "www.w3.org") || !address.contains('.'), "{path} names {address}");
        }
    }
}

#[tokio::test]
async fn a_file_that_the_browser_has_is_not_sent_again() {
    let server = server();
    for path in ["/", "/assets/app.js"] {
        let first = server.get(path).await;
        let tag = first.headers[header::ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("W/{tag}"), StatusCode::NOT_MODIFIED),
            (format!("\"other\", {tag}"), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            let request = Request::get(path).header(header::IF_NONE_MATCH, &known).body(Body::empty()).unwrap();
            let answer = server.send(request).await;
            assert_eq!(answer.status, status, "{path} {known}");
            assert_eq!(answer.body.is_empty(), status == StatusCode::NOT_MODIFIED, "{path} {known}");
            assert_eq!(answer.headers[header::ETAG], tag.as_str(), "{path} {known}");
            check_headers(path, &answer.headers);
        }
    }
    let tag = |answer: Answer| answer.headers[header::ETAG].clone();
    assert_ne!(tag(server.get("/").await), tag(server.get("/assets/app.js").await));
}

#[tokio::test]
async fn head_has_the_headers_without_the_body() {
    let server = server();
    for path in ["/", "/assets/style.css"] {
        let whole = server.get(path).await;
        let answer = server.send(Request::head(path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""), "{path}");
        for name in [header::CONTENT_TYPE, header::ETAG, header::CONTENT_SECURITY_POLICY] {
            assert_eq!(answer.headers[&name], whole.headers[&name], "{path} {name}");
        }
        assert_eq!(answer.headers[header::CONTENT_LENGTH], whole.body.len().to_string().as_str(), "{path}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = server();
    for (method, path, status) in [
        ("GET", "/assets/", 404),
        ("GET", "/assets/nothing.js", 404),
        ("GET", "/assets/index.html", 404),
        ("GET", "/assets/..%2Fmod.rs", 404),
        ("GET", "/assets/%2e%2e/mod.rs", 404),
        ("POST", "/", 405),
        ("DELETE", "/assets/app.js", 405),
    ] {
        let answer = server.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        assert!(answer.at("/error/message").as_str().unwrap().contains(method), "{method} {path}");
    }
}

#[tokio::test]
async fn the_page_needs_no_key_and_no_model() {
    let config = ServerConfig { api_keys: vec!["secret".to_owned()], ..ServerConfig::default() };
    let mut setup = Setup::saying("hello");
    setup.server = config.clone();
    let server = setup.start();
    assert_eq!(server.get("/").await.status, 200);
    assert_eq!(server.get("/assets/app.js").await.status, 200);
    assert_eq!(server.get("/v1/models").await.status, 401);

    let state = loading(config);
    let server = TestServer { router: cachalot_server::router(state.clone()), state, engine: server.engine };
    assert_eq!(server.get("/").await.status, 200);
    assert_eq!(server.get("/health").await.status, 503);
}
