//! Pulls from a stand-in for the hub: it lists a repository, redirects large files to another path, honours ranges, and can
//! be told to cut connections and to alter bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Response, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the stand-in does, and what it saw.
#[derive(Default)]
struct Stand {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Ends the connection after this many bytes of a file's body.
    cut_after: Mutex<Option<usize>>,
    /// Sends this file with a flipped bit.
    damaged: Mutex<Option<&'static str>>,
    /// Answers 503 to so many requests for files.
    num_busy: AtomicUsize,
    /// Wants this token.
    token: Option<&'static str>,
    /// `Range` headers of transfers (not of `bytes=0-0`, which asks for the size).
    ranges: Mutex<Vec<(String, String)>>,
}

impl Stand {
    fn with_files() -> Self {
        let files = [
            ("config.json", b"{\"model_type\": \"deepseek_v32\"}".to_vec()),
            ("model-00001-of-000002.safetensors", (0..700_000u32).map(|i| (i * 7 + i / 251) as u8).collect()),
            ("model-00002-of-000002.safetensors", vec![9; 1000]),
            ("tokenizer.json", b"{}".to_vec()),
            ("LICENSE", b"MIT".to_vec()),
            (".gitattributes", b"*".to_vec()),
            ("README.md", b"# Model".to_vec()),
            ("inference/config.json", b"{}".to_vec()),
            ("pytorch_model.bin", vec![1; 10]),
        ];
        Stand { files: files.into(), ..Stand::default() }
    }

    fn tag(&self, name: &str) -> String {
        let content = &self.files[name];
        if name.ends_with(".safetensors") {
            hex(&Sha256::digest(content))
        } else {
            let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
            hasher.update(content);
            hex(&hasher.finalize())
        }
    }
}

async fn list(State(stand): State<Arc<Stand>>, headers: HeaderMap) -> Response<Body> {
    if !allowed(&stand, &headers) {
        return (axum::http::StatusCode::UNAUTHORIZED, "no").into_response();
    }
    let siblings: Vec<_> = stand.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    axum::Json(serde_json::json!({ "sha": COMMIT, "siblings": siblings })).into_response()
}

fn allowed(stand: &Stand, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    stand.token.is_none_or(|token| given == Some(&format!("Bearer {token}")))
}

/// Small files are answered here; large ones are redirected, as the hub does.
async fn resolve(
    State(stand): State<Arc<Stand>>,
    UrlPath((commit, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    assert_eq!(commit, COMMIT);
    if !allowed(&stand, &headers) {
        return (axum::http::StatusCode::UNAUTHORIZED, "no").into_response();
    }
    if !name.ends_with(".safetensors") {
        let mut response = content(&stand, &name, &headers);
        response.headers_mut().insert("etag", format!("\"{}\"", stand.tag(&name)).parse().expect("ascii"));
        response.headers_mut().insert("x-repo-commit", COMMIT.parse().expect("ascii"));
        return response;
    }
    Response::builder()
        .status(302)
        .header("location", format!("/storage/{name}"))
        .header("etag", "\"of-the-pointer\"")
        .header("x-linked-etag", format!("\"{}\"", stand.tag(&name)))
        .header("x-repo-commit", COMMIT)
        .body(Body::empty())
        .expect("a valid response")
}

async fn storage(
    State(stand): State<Arc<Stand>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let mut response = content(&stand, &name, &headers);
    response.headers_mut().insert("x-linked-etag", format!("\"{}\"", stand.tag(&name)).parse().expect("ascii"));
    response.headers_mut().insert("etag", "\"of-the-storage\"".parse().expect("ascii"));
    response.headers_mut().insert("x-repo-commit", COMMIT.parse().expect("ascii"));
    response
}

fn content(stand: &Stand, name: &str, headers: &HeaderMap) -> Response<Body> {
    let mut content = stand.files[name].clone();
    let size = content.len();
    if *stand.damaged.lock().expect("not poisoned") == Some(name) {
        content[size / 2] ^= 1;
    }
    let range = headers[header::RANGE].to_str().expect("ascii").to_owned();
    let (start, end) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let start: usize = start.parse().expect("a number");
    let end = end.parse::<usize>().map_or(size, |last| last + 1);
    if range != "bytes=0-0" {
        if stand.num_busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "busy").into_response();
        }
        stand.ranges.lock().expect("not poisoned").push((name.to_owned(), range));
    }
    let body = Bytes::from(content[start..end].to_vec());
    let response = Response::builder().status(206).header("content-range", format!("bytes {start}-{}/{size}", end - 1));
    let body = match *stand.cut_after.lock().expect("not poisoned") {
        Some(count) if body.len() > count => {
            let piece = stream::once(std::future::ready(Ok(body.slice(..count))));
            let cut = stream::once(async {
                // The piece is on its way before the connection ends.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(io::Error::other("cut"))
            });
            Body::from_stream(piece.chain(cut))
        }
        _ => Body::from(body),
    };
    response.body(body).expect("a valid response")
}

/// A running stand-in, a hub that points to it, and the cache.
struct Bench {
    stand: Arc<Stand>,
    address: SocketAddr,
    cache: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(stand: Stand) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let stand = Arc::new(stand);
        let router = Router::new()
            .route("/api/models/owner/model/revision/main", get(list))
            .route("/owner/model/resolve/{commit}/{name}", get(resolve))
            .route("/storage/{name}", get(storage))
            .with_state(stand.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(async move { axum::serve(listener, router).await });
        Bench { stand, address, cache: tempfile::tempdir().expect("a temporary folder"), _runtime: runtime }
    }

    fn pull_with(&self, token: Option<&str>) -> anyhow::Result<Pulled> {
        let endpoint = format!("http://{}/", self.address);
        let mut hub = Hub::new(Some(&endpoint), self.cache.path().join("hub"), token.map(str::to_owned))?;
        hub.retry_delay = Duration::from_millis(1);
        hub.pull(&"owner/model".parse().expect("a hub id"))
    }

    fn pull(&self) -> anyhow::Result<Pulled> {
        self.pull_with(None)
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("hub").join("models--owner--model")
    }

    fn ranges_of(&self, name: &str) -> Vec<String> {
        let ranges = self.stand.ranges.lock().expect("not poisoned");
        ranges.iter().filter(|(of, _)| of == name).map(|(_, range)| range.clone()).collect()
    }

    /// The message as the user sees it.
    fn message(&self, outcome: anyhow::Result<Pulled>) -> String {
        let mut printed = Vec::new();
        crate::hint::print(&outcome.expect_err("the pull fails"), &mut printed).expect("a vector takes everything");
        String::from_utf8(printed).expect("messages are text")
    }

    fn assert_complete(&self, pulled: &Pulled) {
        assert_eq!(pulled.folder, self.repo().join("snapshots").join(COMMIT));
        let mut found: Vec<_> = fs::read_dir(&pulled.folder)
            .expect("the snapshot is a folder")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("ascii"))
            .collect();
        found.sort();
        assert_eq!(found, NEEDED);
        assert_eq!(pulled.num_files, NEEDED.len());
        for name in NEEDED {
            assert!(fs::read(pulled.folder.join(name)).expect("readable") == self.stand.files[name], "{name}");
        }
        let reference = fs::read_to_string(self.repo().join("refs").join("main")).expect("the revision is visible");
        assert_eq!(reference, COMMIT);
    }
}

const LARGE: &str = "model-00001-of-000002.safetensors";
const NEEDED: [&str; 5] = ["LICENSE", "config.json", LARGE, "model-00002-of-000002.safetensors", "tokenizer.json"];

#[test]
fn a_pull_brings_what_serving_needs_and_a_second_one_brings_nothing() {
    let bench = Bench::new(Stand::with_files());
    let first = bench.pull().expect("the pull succeeds");
    bench.assert_complete(&first);
    let sizes = NEEDED.iter().map(|name| bench.stand.files[name].len() as u64);
    assert_eq!((first.num_present, first.downloaded_bytes), (0, sizes.sum()));

    let second = bench.pull().expect("the pull succeeds");
    bench.assert_complete(&second);
    assert_eq!((second.num_present, second.downloaded_bytes), (5, 0));
    assert_eq!(bench.ranges_of(LARGE), ["bytes=0-"]);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let bench = Bench::new(Stand { cut_after: Mutex::new(Some(300_000)), ..Stand::with_files() });
    let pulled = bench.pull().expect("the pull succeeds");
    bench.assert_complete(&pulled);
    assert_eq!(bench.ranges_of(LARGE), ["bytes=0-", "bytes=300000-", "bytes=600000-"]);
}

#[test]
fn an_interrupted_pull_resumes_when_it_is_run_again() {
    let bench = Bench::new(Stand::with_files());
    // What a killed process leaves behind: a part and no revision.
    let part = bench.repo().join("blobs").join(format!("{}.part", bench.stand.tag(LARGE)));
    fs::create_dir_all(part.parent().expect("in a folder")).expect("in a temporary folder");
    fs::write(&part, &bench.stand.files[LARGE][..123_456]).expect("in a temporary folder");

    let pulled = bench.pull().expect("the pull succeeds");
    bench.assert_complete(&pulled);
    assert_eq!(bench.ranges_of(LARGE), ["bytes=123456-"]);
    assert!(!part.exists());
}

#[test]
fn a_complete_part_is_checked_and_not_fetched_again() {
    let bench = Bench::new(Stand::with_files());
    let part = bench.repo().join("blobs").join(format!("{}.part", bench.stand.tag(LARGE)));
    fs::create_dir_all(part.parent().expect("in a folder")).expect("in a temporary folder");
    fs::write(&part, &bench.stand.files[LARGE]).expect("in a temporary folder");

    bench.assert_complete(&bench.pull().expect("the pull succeeds"));
    assert!(bench.ranges_of(LARGE).is_empty());
}

#[test]
fn a_part_that_is_too_long_is_started_over() {
    let bench = Bench::new(Stand::with_files());
    let part = bench.repo().join("blobs").join(format!("{}.part", bench.stand.tag(LARGE)));
    fs::create_dir_all(part.parent().expect("in a folder")).expect("in a temporary folder");
    fs::write(&part, vec![0; 700_001]).expect("in a temporary folder");

    bench.assert_complete(&bench.pull().expect("the pull succeeds"));
    assert_eq!(bench.ranges_of(LARGE), ["bytes=0-"]);
}

#[test]
fn a_damaged_file_is_refused_and_the_next_pull_starts_it_over() {
    let check = |name: &'static str, hash: &str| {
        let bench = Bench::new(Stand { damaged: Mutex::new(Some(name)), ..Stand::with_files() });
        let message = bench.message(bench.pull());
        assert!(message.starts_with(&format!("error: {name} arrived damaged and was removed\n")), "{message}");
        assert!(message.contains(&format!("its {hash} is ")), "{message}");
        assert!(message.contains(&format!("but should be {}", bench.stand.tag(name))), "{message}");
        assert!(message.contains("hint: run the same command again"), "{message}");
        assert!(!bench.repo().join("snapshots").join(COMMIT).join(name).exists());
        assert!(!bench.repo().join("refs").join("main").exists(), "an incomplete revision is not visible");

        *bench.stand.damaged.lock().expect("not poisoned") = None;
        bench.assert_complete(&bench.pull().expect("the pull succeeds"));
    };
    check(LARGE, "sha256");
    check("config.json", "git sha1");
}

#[test]
fn a_busy_hub_is_asked_again_but_not_for_ever() {
    let bench = Bench::new(Stand { num_busy: AtomicUsize::new(3), ..Stand::with_files() });
    bench.assert_complete(&bench.pull().expect("the pull succeeds"));

    let bench = Bench::new(Stand { num_busy: AtomicUsize::new(usize::MAX), ..Stand::with_files() });
    let message = bench.message(bench.pull());
    assert!(message.contains("the hub answers 503 Service Unavailable"), "{message}");
    assert!(message.contains("hint: run the same command again: it resumes where it stopped"), "{message}");
}

#[test]
fn permission_is_asked_for_and_used() {
    let bench = Bench::new(Stand { token: Some("secret"), ..Stand::with_files() });
    let message = bench.message(bench.pull());
    assert!(message.contains("hint: the model needs permission, or does not exist: set HF_TOKEN"), "{message}");
    let message = bench.message(bench.pull_with(Some("wrong")));
    assert!(message.contains("hint: your token may not read this model"), "{message}");
    bench.assert_complete(&bench.pull_with(Some("secret")).expect("the pull succeeds"));
}

#[test]
fn what_is_not_a_model_is_refused() {
    let bench = Bench::new(Stand { files: [("README.md", b"text".to_vec())].into(), ..Stand::default() });
    let message = bench.message(bench.pull());
    assert!(message.contains("owner/model has no config.json"), "{message}");

    let mut hub =
        Hub::new(Some(&format!("http://{}", bench.address)), bench.cache.path().to_owned(), None).expect("a hub");
    hub.retry_delay = Duration::from_millis(1);
    let message = bench.message(hub.pull(&"owner/other".parse().expect("a hub id")));
    assert!(message.contains("hint: check the spelling: there is no owner/other"), "{message}");
}

#[test]
fn two_pulls_of_one_file_do_not_mix() {
    let bench = Bench::new(Stand::with_files());
    let part = bench.repo().join("blobs").join(format!("{}.part", bench.stand.tag("LICENSE")));
    fs::create_dir_all(part.parent().expect("in a folder")).expect("in a temporary folder");
    let other = File::create(&part).expect("in a temporary folder");
    other.lock().expect("nobody else has it");
    let message = bench.message(bench.pull());
    assert!(message.contains("another process is downloading LICENSE"), "{message}");
    drop(other);
    bench.assert_complete(&bench.pull().expect("the pull succeeds"));
}

#[test]
fn tags_from_the_network_cannot_leave_the_folder() {
    let local = Cache::new(PathBuf::from("/cache")).repo(Repo::model("a/b".to_owned()));
    let check = |tag: &str, expected: bool| assert_eq!(blob_path(&local, tag).is_ok(), expected, "{tag}");
    check("0123abcdef", true);
    check("W-tag_1", true);
    check("", false);
    check("../../refs/main", false);
    check("a/b", false);
    check("..", false);
}
