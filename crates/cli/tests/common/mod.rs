//! The real binary as a child process.

// Each test program uses its part of these helpers.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far beyond what anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, without the user's own settings.
pub(crate) fn cachalot(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CACHALOT_") || name.to_string_lossy().starts_with("HF_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    cachalot(args).output().expect("the binary starts")
}

pub(crate) fn succeed(args: &[&str]) -> String {
    let output = run(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} ended with {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("output is text")
}

/// Runs a command that has to fail with status 1 and nothing on standard output, and returns its message.
pub(crate) fn fail(args: &[&str]) -> String {
    let output = run(args);
    let message = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert!(
        message.lines().last().is_some_and(|line| line.starts_with("hint: ")),
        "{args:?} ends in no hint: {message}"
    );
    message
}

/// A server on a free port.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) banner: String,
}

impl Server {
    /// Starts `serve` and waits until it says that it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Server::from_command(cachalot(&["serve", "--port", "0"]).args(args))
    }

    /// The same for a command that ends in `serve`, with whatever else was done to it.
    pub(crate) fn from_command(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut banner = String::new();
        let address = loop {
            let Some(line) = lines.next() else { panic!("the server ended before it was ready, after:\n{banner}") };
            let line = line.expect("output is text");
            banner += &format!("{line}\n");
            if let Some(url) = line.strip_prefix("ready") {
                let url = url.trim().strip_prefix("http://").and_then(|url| url.strip_suffix("/v1"));
                break url.expect("the line ends in an address").parse().expect("an address");
            }
        };
        Server { child, address, banner }
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        )
        .expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers with text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        // An answer that takes long begins with whitespace, to show that it is alive, and comes in chunks.
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status.expect("a status line"), if is_chunked { join_chunks(body) } else { body.to_owned() })
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.request("POST", path, "", &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only after a failed test is there still something to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").expect("a chunk has its size first");
        let size = usize::from_str_radix(size, 16).expect("the size is hexadecimal");
        if size == 0 {
            return joined;
        }
        joined += &rest[..size];
        body = rest[size..].strip_prefix("\r\n").expect("a chunk ends where it says");
    }
}

/// Sends a signal, such as TERM.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill exists").success());
}

/// Waits for the end, within reason.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the process did not end within {PATIENCE:?}");
}
