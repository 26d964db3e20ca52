//! What goes wrong around a server: it is stopped under load, killed, short of files, cannot write its log, loses its model.
//! docs/operations.md says what happens then; this is where it does.

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, Server, cachalot};
use serde_json::{Value, json};

/// More tokens than a server generates while a test waits for something else.
const ENDLESS: usize = 4000;

/// `cachalot` with these arguments as a shell script sees it: `exec "$0" "$@"` becomes it.
fn shell(script: &str, args: &[&str]) -> Command {
    let cachalot = cachalot(args);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(cachalot.get_program()).args(cachalot.get_args()).stdin(Stdio::null());
    for (name, value) in cachalot.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Asks for a stream of `max_tokens` tokens.
fn ask_for_stream(address: SocketAddr, max_tokens: usize) -> TcpStream {
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": max_tokens, "ignore_eos": true, "stream": true }).to_string();
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .expect("the server reads");
    stream
}

/// The greedy answer to a prompt that reads all of the model.
fn answer(server: &Server) -> Value {
    let prompt: Vec<usize> = (0..300).map(|index| 20 + index * 7 % 900).collect();
    let body = json!({ "prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": true });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["text"].clone()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = server.request("GET", "/metrics", "", "");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().expect("a number")
}

fn stop(server: &mut Server) {
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "the end is in order, after:\n{}", server.banner);
}

/// A folder with the embedded model in it.
fn model_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/embedded");
    for entry in fs::read_dir(embedded).expect("the model is committed") {
        let path = entry.expect("a readable folder").path();
        fs::copy(&path, folder.path().join(path.file_name().expect("a file"))).expect("in a temporary folder");
    }
    folder
}

#[test]
fn sigterm_under_load_ends_every_stream_once_and_takes_no_new_one() {
    let mut server = Server::start(&["--shutdown-timeout=4", "--max-num-seqs=4"]);
    // Two can finish in that time. The others cannot: two of them run, the rest wait for a place.
    let lengths = [200, ENDLESS, 200, ENDLESS, ENDLESS, ENDLESS, ENDLESS, ENDLESS];
    let mut streams = Vec::new();
    for length in lengths {
        streams.push(ask_for_stream(server.address, length));
        // One after the other, so that it is known who has a place.
        let num_taken = || metric(&server, "cachalot_requests_running") + metric(&server, "cachalot_requests_waiting");
        eventually("load", || num_taken() >= streams.len() as f64);
    }
    let readers = streams.into_iter().map(|mut stream| {
        std::thread::spawn(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("the answer is text to its end");
            answer
        })
    });
    let readers: Vec<_> = readers.collect();
    let began = Instant::now();
    server.signal("TERM");
    eventually("refusal", || TcpStream::connect(server.address).is_err());
    assert!(server.child.try_wait().expect("the child is ours").is_none(), "what was accepted still runs");

    let answers: Vec<String> = readers.into_iter().map(|reader| reader.join().expect("it reads")).collect();
    let count = |pattern: &str| -> Vec<usize> { answers.iter().map(|text| text.matches(pattern).count()).collect() };
    let (done, mut errors) = (count("data: [DONE]"), count(r#"data: {"error":"#));
    // Who had no token and no sign of life yet is told by the status.
    let is_refused = |text: &str| text.starts_with("HTTP/1.1 503 ") && text.contains(r#"{"error":"#);
    for (text, errors) in answers.iter().zip(&mut errors) {
        *errors += usize::from(is_refused(text));
    }
    assert_eq!((done[0], done[2]), (1, 1), "the short ones finish: {done:?} and {errors:?}");
    assert!(errors[4..].iter().all(|&count| count == 1), "those that wait are told: {errors:?}");
    for (index, text) in answers.iter().enumerate() {
        assert_eq!(done[index] + errors[index], 1, "stream {index} ends once");
        assert!(is_refused(text) || text.ends_with("\r\n0\r\n\r\n"), "stream {index} ends as HTTP does: {text}");
    }
    assert_eq!(server.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
}

#[test]
fn kill_9_leaves_nothing_behind_and_the_port_is_free_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let serve = |port: u16| {
        let port = port.to_string();
        Server::from_command(
            cachalot(&["serve", "--port", &port]).current_dir(folder.path()).env("TMPDIR", folder.path()),
        )
    };
    let mut server = serve(0);
    let mut stream = ask_for_stream(server.address, ENDLESS);
    stream.read_exact(&mut [0; 300]).expect("the answer begins");
    server.signal("KILL");
    assert_eq!(server.wait().signal(), Some(9));

    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.is_err() || !rest.ends_with(b"\r\n0\r\n\r\n"), "the client can tell that the answer is not whole");
    assert_eq!(fs::read_dir(folder.path()).expect("it is still there").count(), 0, "no lock, no temporary file");

    let mut again = serve(server.address.port());
    assert_eq!(again.address, server.address);
    answer(&again);
    stop(&mut again);
}

/// Seconds that a process has computed.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("its name ends").1.split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

#[test]
fn a_server_out_of_files_waits_and_serves_again() {
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut command = shell(r#"ulimit -n 32; exec "$0" "$@""#, &["serve", "--port", "0"]);
    let mut server = Server::from_command(command.stderr(log.reopen().expect("a file")));
    let mut first = TcpStream::connect(server.address).expect("the server listens");
    first.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    // The system takes them for the server, which cannot.
    let idle: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(server.address).expect("the queue has room")).collect();
    let count = |text: &str| fs::read_to_string(log.path()).expect("the log is text").matches(text).count();
    eventually("complaint", || count("cannot accept connections: Too many open files") == 1);

    let pid = server.child.id();
    let before = cpu_seconds(pid);
    std::thread::sleep(Duration::from_millis(2500));
    let used = cpu_seconds(pid) - before;
    assert!(used < 0.5, "{used} s of computing in 2.5 s of waiting");
    write!(first, "GET /health HTTP/1.1\r\nHost: test\r\n\r\n").expect("the server reads");
    let mut status = [0; 12];
    first.read_exact(&mut status).expect("who is in is served");
    assert_eq!(&status, b"HTTP/1.1 200");

    drop((first, idle));
    answer(&server);
    assert_eq!(count("cannot accept connections"), 1, "it is said once a minute");
    stop(&mut server);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let full_disk = || File::options().write(true).open("/dev/full").map(Stdio::from);
    let unread_pipe = || io::pipe().map(|(_, writer)| Stdio::from(writer));
    for format in ["text", "json"] {
        for stderr in [full_disk(), unread_pipe()] {
            let mut command = cachalot(&["serve", "--port", "0", "--log", "debug", "--log-format", format]);
            let mut server = Server::from_command(command.stderr(stderr.expect("Linux has both")));
            answer(&server);
            stop(&mut server);
        }
    }
}

#[test]
fn a_closed_standard_output_stops_nothing() {
    for script in [r#"exec "$0" "$@" >&-"#, r#"exec "$0" "$@" >/dev/full"#] {
        // Without output it cannot say which port it has got.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let mut command = shell(script, &["serve", "--port", &address.port().to_string()]);
        let child = command.spawn().expect("the shell starts");
        let mut server = Server { child, address, banner: script.to_owned() };
        eventually("listening", || TcpStream::connect(address).is_ok());
        eventually("readiness", || server.request("GET", "/health", "", "").0 == 200);
        answer(&server);
        stop(&mut server);
    }
}

#[test]
fn a_model_that_is_deleted_is_served_to_the_end() {
    let folder = model_folder();
    let mut server = Server::start(&[folder.path().to_str().expect("ascii")]);
    let expected = answer(&server);
    folder.close().expect("the folder can be deleted");
    assert_eq!(answer(&server), expected);
    assert_eq!(server.request("GET", "/health", "", "").0, 200);
    stop(&mut server);
}

#[test]
fn a_model_that_is_cut_short_ends_the_process() {
    let folder = model_folder();
    let mut server = Server::start(&[folder.path().to_str().expect("ascii")]);
    answer(&server);
    let mut stream = ask_for_stream(server.address, ENDLESS);
    stream.read_exact(&mut [0; 300]).expect("the answer begins");
    File::options()
        .write(true)
        .open(folder.path().join("model.safetensors"))
        .and_then(|file| file.set_len(0))
        .expect("the file can be cut");
    // SIGBUS: the pages are gone.
    assert_eq!(server.wait().signal(), Some(7));
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.is_err() || !rest.ends_with(b"\r\n0\r\n\r\n"), "the client can tell that the answer is not whole");
}

/// A jump of the wall clock changes times that are shown, and nothing else: these files show times, and no other reads that clock.
/// Deadlines, rates, keep-alives and metrics go by the monotonic clock, which does not jump.
#[test]
fn the_wall_clock_is_read_to_be_shown_only() {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && fs::read_to_string(&path).expect("source is text").contains("SystemTime")
            {
                found.push(path);
            }
        }
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for entry in fs::read_dir(&crates).expect("a readable folder") {
        let sources = entry.expect("a readable folder").path().join("src");
        if sources.is_dir() {
            visit(&sources, &mut found);
        }
    }
    let mut found: Vec<&Path> = found.iter().map(|path| path.strip_prefix(&crates).expect("below it")).collect();
    found.sort();
    let expected = [
        // `strftime_now` of chat templates.
        "prompt/src/clock.rs",
        "prompt/src/template.rs",
        // `created` of answers and models.
        "server/src/models.rs",
        // When spans of traces began and ended.
        "server/src/traces.rs",
    ];
    assert_eq!(found, expected.map(Path::new), "does what a new one decides survive a jump?");
}
