//! What the long commands tell on standard output.

use std::io::{self, Write};

/// Writes to standard output at once, also into a pipe. The command goes on if nobody reads it.
pub(crate) fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::debug!("cannot write to standard output: {error}");
    }
}
