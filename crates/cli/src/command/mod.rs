//! The commands, one file each.

mod batch;
mod bench;
mod chat;
mod generate;
mod inspect;
mod parse;
mod plan;
mod pull;
mod serve;

use clap::Subcommand;

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    Serve(serve::ServeArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Batch(batch::BatchArgs),
    Bench(bench::BenchArgs),
    Inspect(inspect::InspectArgs),
    Plan(plan::PlanArgs),
    Pull(pull::PullArgs),
    Parse(parse::ParseArgs),
}

impl Command {
    /// What is logged unless the user says otherwise: where someone watches, how things go; where someone reads the
    /// result, only what disturbs.
    pub(crate) fn default_log(&self) -> &'static str {
        match self {
            Command::Serve(_) | Command::Pull(_) => "info",
            // The server has a line for every request.
            Command::Batch(_) => "info,cachalot_server=warn",
            Command::Generate(_)
            | Command::Chat(_)
            | Command::Bench(_)
            | Command::Inspect(_)
            | Command::Plan(_)
            | Command::Parse(_) => "warn",
        }
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever went wrong, for the user, with a hint where one can be given.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Serve(args) => serve::run(args),
            Command::Generate(args) => generate::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Batch(args) => batch::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Pull(args) => pull::run(args),
            Command::Parse(args) => parse::run(args),
        }
    }
}
