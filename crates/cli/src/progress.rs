//! Progress of long work: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::byte_size::ByteSize;

/// How often a line is logged where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes done of bytes to do.
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

struct Lines {
    what: String,
    next: Instant,
}

impl Progress {
    /// Starts at `done` of `total` bytes of `what`, such as `reading model.safetensors`.
    pub(crate) fn start(what: &str, done: u64, total: u64) -> Self {
        let on_terminal = io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(ProgressStyle::with_template(style).expect("the template is constant and valid"))
            .with_message(what.to_owned())
            .with_position(done);
        bar.reset_eta();
        let lines = (!on_terminal).then(|| Lines { what: what.to_owned(), next: Instant::now() + LINE_INTERVAL });
        Progress { bar, lines }
    }

    /// `bytes` more are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.set(self.bar.position() + bytes);
    }

    /// `done` bytes are done by now.
    pub(crate) fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if let Some(lines) = &mut self.lines
            && Instant::now() >= lines.next
        {
            lines.next = Instant::now() + LINE_INTERVAL;
            tracing::info!("{}: {} of {}", lines.what, ByteSize(done), ByteSize(self.bar.length().unwrap_or_default()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
