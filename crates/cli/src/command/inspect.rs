//! `cachalot inspect`: what a checkpoint is made of.

use std::io::{self, Write};

use anyhow::Context;
use cachalot_prompt::{PromptFiles, Release};
use cachalot_weights::{Report, Source};
use clap::Args;

use crate::env;
use crate::source::{Files, ModelSource};

/// Show what a model is made of
///
/// A folder with config.json alone is enough: the rest then follows from the architecture. With weights beside it, every
/// tensor is checked for presence, shape and dtype.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, the id of a downloaded model, or nothing for the embedded model
    #[arg(value_name = "MODEL", env = env::MODEL)]
    model: Option<String>,
    /// Print one JSON object
    #[arg(long, env = env::JSON)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the files are not those of a known model.
pub(crate) fn run(args: InspectArgs) -> anyhow::Result<()> {
    let source = ModelSource::find(args.model.as_deref())?;
    let cannot = || format!("cannot inspect {source}");
    let mut report = report(&source.files()).with_context(cannot)?;
    report.model = Some(source.to_string());
    report.release = release(&source.prompt_files().with_context(cannot)?);

    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        write!(stdout, "{report}")?;
    }
    Ok(())
}

/// From the weights if there are any, else from config.json alone.
fn report(files: &Source) -> anyhow::Result<Report> {
    Ok(match Files::open(files)? {
        Files::Config(config) => Report::from_config(&config),
        Files::Checkpoint(checkpoint) => Report::from_checkpoint(&checkpoint),
    })
}

/// The release and how it was told, if the files tell.
fn release(files: &PromptFiles) -> Option<String> {
    if !files.has_tokenizer() {
        return None;
    }
    match Release::detect(files) {
        Ok((release, reason)) => Some(format!("{release} ({reason})")),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}
