//! `cachalot inspect`: what a checkpoint is and what it needs.

use std::io::{self, Write};

use anyhow::Context;
use cachalot_prompt::{PromptFiles, Release};
use cachalot_weights::{Checkpoint, Config, Report, Source};
use clap::Args;

use crate::source::ModelSource;
use crate::{env, memory};

/// Show what a model is made of and what it needs
///
/// A folder with config.json alone is enough: the rest then follows from the architecture. With weights beside it, every
/// tensor is checked for presence, shape and dtype.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, the id of a downloaded model, or nothing for the embedded model
    #[arg(value_name = "MODEL", env = env::MODEL)]
    model: Option<String>,
    /// Tokens in the KV cache to plan for [default: one sequence of the full context]
    #[arg(long, env = env::CONTEXT_TOKENS, value_name = "TOKENS")]
    context_tokens: Option<u64>,
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
    let (config, report) = report(&source.files()).with_context(cannot)?;
    let context_tokens = args.context_tokens.unwrap_or(config.max_position_embeddings() as u64);
    let mut report = report.plan(context_tokens, memory::available_bytes());
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
fn report(files: &Source) -> anyhow::Result<(Config, Report)> {
    if let Source::Folder(folder) = files
        && let Some(config) = files.read("config.json")?
        && !holds_weights(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let config = Config::from_json(&config)?;
        let report = Report::from_config(&config);
        return Ok((config, report));
    }
    let checkpoint = Checkpoint::open(files)?;
    Ok((checkpoint.config().clone(), Report::from_checkpoint(&checkpoint)))
}

fn holds_weights(folder: &std::path::Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
            return Ok(true);
        }
    }
    Ok(false)
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
