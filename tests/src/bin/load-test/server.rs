//! The server under test: started here, or somewhere else and only talked to.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

use crate::connection::get;

const START_TIMEOUT: Duration = Duration::from_secs(600);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Linux counts the time of processes in these, whatever the kernel's own clock does.
const TICKS_PER_S: f64 = 100.0;

/// A server, and its process if it is ours.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Option<Child>,
}

impl Server {
    /// Starts `cachalot serve` beside this program, and waits until it takes requests.
    ///
    /// # Errors
    /// If it does not come to that.
    pub(crate) fn start(args: &[String]) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("cachalot");
        let mut child = Command::new(&binary)
            .args(["serve", "--port", "0", "--log", "warn"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}; build it first", binary.display()))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut server = Server { address: SocketAddr::from(([127, 0, 0, 1], 0)), child: Some(child) };
        let (send, ready) = mpsc::channel();
        // Reads to the end, so that the server never waits for its output to be read.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                if let Some(url) = line.strip_prefix("ready") {
                    // The receiver is gone if it came too late.
                    let _ = send.send(url.trim().to_owned());
                }
            }
        });
        let url = ready.recv_timeout(START_TIMEOUT).map_err(|_| anyhow!("the server did not become ready"))?;
        server.address = address(&url)?;
        Ok(server)
    }

    /// A server that runs at `url`.
    ///
    /// # Errors
    /// If `url` is no address.
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        Ok(Server { address: address(url)?, child: None })
    }

    /// Whether memory, time and the end of the process can be looked at.
    pub(crate) fn is_ours(&self) -> bool {
        self.child.is_some()
    }

    /// Memory of the process that is in use, in bytes.
    pub(crate) fn rss_bytes(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(self.proc("statm")?).ok()?;
        let num_pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        Some(num_pages * 4096)
    }

    /// Seconds that the process has computed, over all cores.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(&self.proc("stat")?)
    }

    fn proc(&self, file: &str) -> Option<String> {
        Some(format!("/proc/{}/{file}", self.child.as_ref()?.id()))
    }

    /// The value of a metric without labels.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(self.address, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("/metrics has no {name}"))?.trim().parse()?)
    }

    /// Asks the process to end.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let Some(child) = &mut self.child else { bail!("the server is not ours to stop") };
        let kill = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status()?;
        ensure!(kill.success(), "kill ended with {kill}");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the server did not end within {STOP_TIMEOUT:?} of SIGTERM")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Only after a failure is there still something to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Seconds of computing in a `/proc/PID/stat`.
pub(crate) fn cpu_seconds(stat: impl AsRef<Path>) -> Option<f64> {
    let stat = std::fs::read_to_string(stat).ok()?;
    // The name of the program is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.trim_end_matches('/').trim_end_matches("/v1");
    let rest = rest.strip_prefix("http://").with_context(|| format!("`{url}` does not begin with http://"))?;
    rest.parse().with_context(|| format!("`{url}` is not the URL of an address and a port"))
}
