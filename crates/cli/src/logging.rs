//! Log lines on standard error. Standard output belongs to results.

use std::io;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::env;
use crate::hint::ResultExt;

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,cachalot_engine=debug` [default: info for
    /// serve, batch and pull, warn for the others]
    #[arg(long, global = true, env = env::LOG, value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,
    /// Form of the log lines
    #[arg(long, global = true, env = env::LOG_FORMAT, value_name = "FORMAT", default_value = "text", help_heading = "Logging")]
    log_format: LogFormat,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogArgs {
    /// Starts logging, by the filter `default` unless the user gave one. Called once, before anything logs.
    ///
    /// # Errors
    /// If the filter cannot be read.
    pub(crate) fn start(&self, default: &str) -> anyhow::Result<()> {
        let filter = self.log.as_deref().unwrap_or(default);
        let filter = EnvFilter::try_new(filter).with_context(|| format!("--log `{filter}` cannot be read")).hint(
            "write error, warn, info, debug or trace, alone or after the name of a part, as in `cachalot_engine=debug`",
        )?;
        // A line that cannot be written is lost. To say so on the same standard error would end in a panic.
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
        match self.log_format {
            LogFormat::Text => builder.with_target(false).with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
            LogFormat::Json => builder.json().init(),
        }
        Ok(())
    }
}
