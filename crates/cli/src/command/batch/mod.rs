//! `cachalot batch`: answers a file of requests.
//!
//! The requests go through the server's own routes, without a socket, so that a request in a batch is checked, understood and
//! answered as it would be by `serve`. A thread reads the input ahead, a bounded number of requests runs, and each answer is
//! appended to the output when it is there.

mod answers;
mod ask;
mod board;
mod index;
mod item;
mod lines;
mod output;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::args::{MissingReasoningPolicy, ModelArgs};
use crate::config::ModelConfig;
use crate::env;
use crate::hint::ResultExt;
use crate::load::{self, Loaded};
use crate::say::say;
use crate::stop::Stop;

use answers::Answers;
use ask::{ask, router};
use board::Board;
use index::Index;
use item::Item;
use output::Output;

/// Answer a file of requests, in OpenAI's batch format
///
/// Each line of INPUT is {"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}; the url can also
/// be /v1/completions or /v1/responses. Each gets a line in OUTPUT, in the order in which they are done. If the command is
/// stopped, by whatever, the same command goes on with the requests that OUTPUT does not answer yet.
#[derive(Args, Clone, Debug)]
pub(crate) struct BatchArgs {
    /// The file with the requests
    #[arg(value_name = "INPUT", env = env::INPUT)]
    input: PathBuf,
    /// The file for the answers; those that it has already are kept
    #[arg(value_name = "OUTPUT", env = env::OUTPUT)]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The most sequences that run at once [default: 64, or --max-num-batched-tokens if that is less]
    #[arg(long, env = env::MAX_NUM_SEQS, value_name = "N", help_heading = "Model")]
    max_num_seqs: Option<NonZeroUsize>,
    /// Name of the model in requests and answers [default: the name of its folder or its hub id]
    #[arg(long, env = env::SERVED_MODEL_NAME, value_name = "NAME")]
    served_model_name: Option<String>,
    /// What to do about assistant messages of a running tool turn that come without their reasoning_content: refuse, as the
    /// hosted API does, or accept
    #[arg(long, env = env::MISSING_REASONING, value_name = "POLICY", default_value = "refuse")]
    missing_reasoning: MissingReasoningPolicy,
    /// Seconds that running requests get to finish on SIGTERM or SIGINT
    #[arg(long, env = env::SHUTDOWN_TIMEOUT, value_name = "SECONDS", default_value = "30")]
    shutdown_timeout: u64,
}

/// Requests that have been handed to the server, for each sequence that can run. While some run, the others are made ready and
/// wait, so that a place that becomes free is taken in the next step.
const REQUESTS_PER_SEQUENCE: usize = 2;

/// It is the number of requests in flight that is bounded here. A request may ask for many sequences; the engine takes them all.
const MAX_WAITING: usize = 1 << 20;

/// How often the board is brought up to date.
const SHOW_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the command.
///
/// # Errors
/// If not every request has an answer in the end.
pub(crate) fn run(args: BatchArgs) -> anyhow::Result<()> {
    if [&args.input, &args.output].iter().any(|path| path.as_os_str() == "-") {
        return Err(anyhow!("`-` does not stand for standard input or output here"))
            .hint("requests are read twice, and answers tell where to go on: both must be in files");
    }
    let mut index = Index::read(&args.input)?;
    let mut output = Output::open(&args.output)?;
    output.resume(&mut index)?;
    if index.num_answered() == index.num_requests() {
        say(&Board::start(index.num_answered(), index.num_requests()).summary());
        return Ok(());
    }
    let max_num_seqs = args.max_num_seqs.unwrap_or(args.model.default_max_num_seqs()).get();
    let loaded = load::load(&ModelConfig::new(&args.model, max_num_seqs, MAX_WAITING)?)?;
    say(&loaded.describe());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(answer_all(&args, loaded, index, output));
    // What was stopped need not be waited for.
    runtime.shutdown_background();
    outcome
}

async fn answer_all(args: &BatchArgs, loaded: Loaded, index: Index, output: Output) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let engine = loaded.engine.clone();
    let model_name = args.served_model_name.clone().unwrap_or_else(|| loaded.summary.name.clone());
    let router = router(loaded.into_served(model_name), args.missing_reasoning.into());
    let max_in_flight = REQUESTS_PER_SEQUENCE * engine.limits().max_num_seqs;

    let board = Board::start(index.num_answered(), index.num_requests());
    let mut answers = Answers { output, board };
    let mut items = read_ahead(index, max_in_flight)?;
    let mut running = FuturesUnordered::new();
    let mut show = interval(SHOW_INTERVAL);
    show.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut input_ended, mut deadline) = (false, None);
    let outcome = loop {
        let takes_more = !input_ended && deadline.is_none();
        if running.is_empty() && !takes_more {
            break Ok(());
        }
        let written = tokio::select! {
            item = items.recv(), if takes_more && running.len() < max_in_flight => match item {
                Some(Ok(Item { custom_id, line, request: Ok(request) })) => {
                    // A task of its own, so that prompts are made ready side by side and a panic ends nothing else.
                    let reply = tokio::spawn(ask(router.clone(), request));
                    running.push(async move { (custom_id, line, reply.await) });
                    Ok(())
                }
                Some(Ok(Item { custom_id, request: Err(refusal), .. })) => answers.refuse(custom_id.as_deref(), &refusal),
                Some(Err(error)) => Err(error),
                None => {
                    input_ended = true;
                    Ok(())
                }
            },
            Some((custom_id, line, reply)) = running.next() => answers.write(custom_id.as_deref(), line, reply),
            _ = show.tick() => {
                answers.board.show(&engine.stats());
                Ok(())
            }
            () = stop.requested() => {
                if deadline.is_some() {
                    break Ok(());
                }
                let timeout = args.shutdown_timeout;
                tracing::warn!("{} requests get up to {timeout} s to finish; a second signal stops at once", running.len());
                deadline = Some(Instant::now() + Duration::from_secs(timeout));
                Ok(())
            }
            () = passed(deadline) => break Ok(()),
        };
        if written.is_err() {
            break written;
        }
    };
    answers.close(outcome)
}

/// Resolves at the deadline, if there is one.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Reads the requests in a thread of its own, `num_ahead` of them before they are wanted.
fn read_ahead(index: Index, num_ahead: usize) -> io::Result<mpsc::Receiver<anyhow::Result<Item>>> {
    let (send, items) = mpsc::channel(num_ahead);
    std::thread::Builder::new().name("input".into()).spawn(move || {
        // Nobody listens any more once the batch has been stopped.
        if let Err(error) = index.for_each_open(|item| send.blocking_send(Ok(item)).is_ok()) {
            let _ = send.blocking_send(Err(error));
        }
    })?;
    Ok(items)
}
