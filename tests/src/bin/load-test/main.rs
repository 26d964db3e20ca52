//! Loads a server over HTTP the way that many clients at once do, good ones and bad ones, and tells whether it held.
//!
//! First each question is asked alone. Then requests arrive at random, about `--streams` at once: some hang up, some read slowly,
//! some send rubbish; the others compare their answers with those given alone. At the end the server has to be as it was.
//!
//! The server under test runs on the same cores, so this program is small: one thread, and HTTP by hand.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command: what it prints is what it is for")]

mod answer;
mod check;
mod client;
mod connection;
mod figures;
mod fill;
mod load;
mod question;
mod rubbish;
mod server;
mod tally;
mod used;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cachalot_testkit::Random;
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use check::{Checks, Verdict};
use figures::Figures;
use load::{Load, Plan};
use question::{Material, Question};
use server::Server;

/// Load a server with many clients, good and bad, and check that it holds
#[derive(Debug, Parser)]
struct Args {
    /// How long requests arrive [default: 600; 15 with --brief]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Streams that are open at once [default: 512; 32 with --brief]
    #[arg(long, value_name = "N")]
    streams: Option<usize>,
    /// Folder of the model to serve [default: the embedded model]
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    model: Option<String>,
    /// Load the server that runs there; its memory, its computing time and its end are then not looked at
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Seed of questions, arrivals and behaviour
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// A short run for continuous integration: latency is told, not judged, because neighbours on the machine decide it, and memory
    /// may grow by 10 % instead of 2, because it has no time to settle
    #[arg(long)]
    brief: bool,
    /// Print one JSON object; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Further options of `cachalot serve`, after `--`
    #[arg(last = true)]
    serve_options: Vec<String>,
}

/// Memory for the KV cache per stream, for the embedded model: about as much as the streams need, so that now and then it does not
/// suffice, and preemption is part of the load.
const CACHE_MIB_PER_STREAM: usize = 4;
/// What the server takes, as an option, and what is over that.
const MAX_BODY: &str = "4MiB";
const OVER_MAX_BODY: usize = 5 << 20;
/// Over the limit that a server has by default.
const OVER_DEFAULT_MAX_BODY: usize = 33 << 20;
/// The server is idle when it computes less than this, as a share of one core.
const IDLE_CORES: f64 = 0.05;
const IDLE_WITHIN: Duration = Duration::from_secs(10);
/// Bars.
const OPEN_SLACK: f64 = 0.2;
const MAX_RSS_GROWTH: f64 = 0.02;
const MAX_LATENCY_RATIO: f64 = 3.0;
/// The first two for a short run, which has no time to settle.
const BRIEF_SLACKS: (f64, f64) = (0.5, 0.1);
/// What went wrong is shown this often, and counted beyond.
const MAX_SHOWN: usize = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("cannot start").and_then(|runtime| runtime.block_on(run_until_stopped(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and leaves no server behind if it is stopped.
async fn run_until_stopped(args: &Args) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        passed = run(args) => passed,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("stopped by SIGINT"),
    }
}

/// Runs everything; whether nothing failed.
async fn run(args: &Args) -> anyhow::Result<bool> {
    let num_streams = args.streams.unwrap_or(if args.brief { 32 } else { 512 });
    let duration = Duration::from_secs(args.seconds.unwrap_or(if args.brief { 15 } else { 600 }));
    let mut server = match &args.url {
        Some(url) => Server::at(url)?,
        None => Server::start(&serve_options(args, num_streams))?,
    };
    let mut random = Random::new(args.seed);
    let num_questions: u32 = if args.brief { 40 } else { 200 };
    let material = Material::of(server.address).await?;
    let mut questions = material.questions(num_questions as usize, &mut random);
    let began = Instant::now();
    for (index, question) in questions.iter_mut().enumerate() {
        question.answer = question::ask_alone(server.address, question).await?;
        if index.is_multiple_of(40) {
            eprintln!("asked {index} of {num_questions} questions alone");
        }
    }
    let time_alone = began.elapsed() / num_questions;
    eprintln!("asked {num_questions} questions alone, {:.0} ms each", time_alone.as_secs_f64() * 1e3);
    let began = Instant::now();
    let questions: Vec<Arc<Question>> = questions.into_iter().map(Arc::new).collect();

    if server.is_ours() {
        let share = fill::fill_cache(&server, &material, &mut random).await?;
        eprintln!("filled {:.0} % of the cache in {:.1} s", share * 100.0, began.elapsed().as_secs_f64());
    }
    let plan = Plan {
        duration,
        num_streams,
        // Batches answer faster than one after the other; the load finds out by how much.
        first_rate: 2.0 / time_alone.as_secs_f64(),
        warm_up: (duration / 4).min(Duration::from_secs(90)),
        num_in_surge: num_streams,
        slow_for: Duration::from_secs(if args.brief { 4 } else { 15 }),
        too_many_bytes: if args.url.is_some() { OVER_DEFAULT_MAX_BODY } else { OVER_MAX_BODY },
    };
    let mut load = load::run(&server, &questions, plan, &mut random, |line| eprintln!("{line}")).await?;
    let figures = Figures::new(&mut load, plan);

    let mut checks = Checks::default();
    check_answers(&mut checks, &server, &questions, &load, plan).await?;
    check_figures(&mut checks, &figures, plan, args);
    check_rest(&mut checks, &mut server, &questions).await?;

    let passed = checks.count(Verdict::Failed) == 0;
    if args.json {
        eprint!("\n{figures}\n{checks}");
        println!("{}", json!({ "seed": args.seed, "figures": figures, "checks": checks }));
    } else {
        println!("\n{figures}\n{checks}\n{}", checks.summary());
    }
    Ok(passed)
}

fn serve_options(args: &Args, num_streams: usize) -> Vec<String> {
    let mut options: Vec<String> = args.model.iter().cloned().collect();
    // All streams can run at once, and few more are accepted: the surge has to be refused in part.
    options.push(format!("--max-num-seqs={num_streams}"));
    options.push(format!("--max-waiting={}", num_streams / 4));
    options.push(format!("--max-body-bytes={MAX_BODY}"));
    if args.model.is_none() {
        options.push(format!("--kv-cache-bytes={}MiB", (num_streams * CACHE_MIB_PER_STREAM).max(64)));
    }
    options.extend(args.serve_options.iter().cloned());
    options
}

async fn check_answers(
    checks: &mut Checks,
    server: &Server,
    questions: &[Arc<Question>],
    load: &Load,
    plan: Plan,
) -> anyhow::Result<()> {
    let tally = &load.tally;
    let failed: Vec<String> = tally.failed.iter().map(|message| format!("ended with an error: {message}")).collect();
    checks.add(
        "every accepted request ends exactly once",
        tally.broken.is_empty() && tally.num_answered() > 0,
        format!("{} did; {}", tally.num_answered() + tally.failed.len(), shown(&tally.broken)),
    );
    checks.add("none of them ends with an error", tally.failed.is_empty(), shown(&failed));
    for (is_greedy, name, num_equal) in [
        (true, "greedy answers equal the answers alone", tally.num_greedy_equal),
        (false, "sampled answers equal the answers alone", tally.num_sampled_equal),
    ] {
        let different = tally.different.iter().filter(|(index, _)| questions[*index].is_greedy == is_greedy);
        let mut explained = Vec::new();
        for (index, answer) in different {
            // What is not shown need not be asked.
            explained.push(if explained.len() < MAX_SHOWN {
                format!("question {index}: {}", questions[*index].explain(server.address, answer).await?)
            } else {
                String::new()
            });
        }
        checks.add(name, explained.is_empty() && num_equal > 0, format!("{num_equal} do; {}", shown(&explained)));
    }
    let name = "who finds no room is told when to come again";
    let evidence = format!("{} refused with 503 or 429 and Retry-After", tally.num_refused);
    if tally.num_refused == 0 && !server.is_ours() {
        checks.skip(name, format!("the server had room for {} more", plan.num_in_surge));
    } else {
        checks.add(name, tally.num_refused > 0, evidence);
    }
    checks.add(
        "rubbish is refused as it should be",
        tally.broken_rubbish.is_empty() && tally.num_rubbish_refused > 0,
        format!("{} were; {}", tally.num_rubbish_refused, shown(&tally.broken_rubbish)),
    );
    Ok(())
}

fn check_figures(checks: &mut Checks, figures: &Figures, plan: Plan, args: &Args) {
    let (open_slack, rss_slack) = if args.brief { BRIEF_SLACKS } else { (OPEN_SLACK, MAX_RSS_GROWTH) };
    let wanted = plan.num_streams as f64;
    checks.add(
        "as many streams are open as were asked for",
        figures.mean_open >= wanted * (1.0 - open_slack),
        format!("{:.0} of {wanted} in the mean", figures.mean_open),
    );
    let name = "memory is flat";
    match figures.rss_growth() {
        Some(growth) => checks.add(
            name,
            growth <= rss_slack,
            format!("it grew by {:.2} %, {:.0} % are allowed", growth * 100.0, rss_slack * 100.0),
        ),
        None => checks.skip(name, "the process is not ours"),
    }
    let name = "p99 between tokens is within 3 times p50";
    let evidence = format!("{:.1} times", figures.latency_ratio());
    if args.brief {
        checks.skip(name, format!("{evidence}; not judged in a short run"));
    } else {
        checks.add(name, figures.num_waits > 0 && figures.latency_ratio() <= MAX_LATENCY_RATIO, evidence);
    }
}

/// Whether the server is again as it was before the load.
async fn check_rest(checks: &mut Checks, server: &mut Server, questions: &[Arc<Question>]) -> anyhow::Result<()> {
    let deadline = Instant::now() + IDLE_WITHIN;
    let gauges = ["cachalot_requests_running", "cachalot_requests_waiting", "cachalot_kv_blocks_in_use"];
    let values = loop {
        let mut values = Vec::new();
        for gauge in gauges {
            values.push(server.metric(gauge).await?);
        }
        if values.iter().all(|value| *value == 0.0) || Instant::now() > deadline {
            break values;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    checks.add(
        "no request is left",
        values[..2] == [0.0, 0.0],
        format!("{} running, {} waiting", values[0], values[1]),
    );
    checks.add("no block is lost", values[2] == 0.0, format!("{} in use", values[2]));

    let name = "the server is idle again";
    if let Some(before) = server.cpu_seconds() {
        let mut before = before;
        let cores = loop {
            let began = Instant::now();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = server.cpu_seconds().context("the server has gone")?;
            let cores = (after - before) / began.elapsed().as_secs_f64();
            before = after;
            if cores < IDLE_CORES || Instant::now() > deadline {
                break cores;
            }
        };
        checks.add(name, cores < IDLE_CORES, format!("{cores:.2} cores"));
    } else {
        checks.skip(name, "the process is not ours");
    }

    let mut num_equal = 0;
    for question in &questions[..MAX_SHOWN] {
        num_equal += usize::from(question::ask_alone(server.address, question).await? == question.answer);
    }
    checks.add("questions alone are answered as before", num_equal == MAX_SHOWN, format!("{num_equal} of {MAX_SHOWN}"));

    let name = "SIGTERM ends the server with status 0";
    if server.is_ours() {
        let status = server.stop()?;
        checks.add(name, status.success(), status.to_string());
    } else {
        checks.skip(name, "the process is not ours");
    }
    Ok(())
}

/// The first few of what went wrong, and how many there are.
fn shown(wrong: &[String]) -> String {
    match wrong.len() {
        0 => "none did not".to_owned(),
        count => {
            let first: Vec<&str> = wrong.iter().take(MAX_SHOWN).map(String::as_str).collect();
            format!("{count} did not, such as:\n    {}", first.join("\n    "))
        }
    }
}
