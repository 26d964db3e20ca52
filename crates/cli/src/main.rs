//! The binary `cachalot`: commands, configuration, progress, error messages.
//!
//! Each command is a file in `command/`: its options as clap reads them, and a `run` that turns them into typed
//! configuration, calls the libraries and prints. Results go to standard output, everything else to standard error.
//! Signals and links are those of Unix; there is no other platform so far.

#![forbid(unsafe_code)]

mod args;
mod byte_size;
mod command;
mod config;
mod embedded;
mod env;
mod hint;
mod hub;
mod load;
mod logging;
mod memory;
mod plan;
mod progress;
mod reply;
mod say;
mod source;
mod stop;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::Args;

fn main() -> ExitCode {
    // Wrong usage ends here, with clap's message and status 2.
    let args = Args::parse();
    match args.log.start(args.command.default_log()).and_then(|()| args.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is no one to tell.
            let _ = hint::print(&error, &mut io::stderr());
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
