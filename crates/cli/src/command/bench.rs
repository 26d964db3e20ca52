//! `cachalot bench`: how fast a model runs on this machine.
//!
//! Each repetition submits a batch of random prompts at once and watches the tokens arrive. Prefill is the time until every
//! sequence has its first token; decode is everything after. Prompts differ in every repetition, so that no cache helps.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{anyhow, bail};
use cachalot_engine::{Event, EventStream, Request, SamplingParams};
use clap::Args;
use futures::StreamExt;
use futures::stream::SelectAll;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::byte_size::ByteSize;
use crate::config::ModelConfig;
use crate::hint::ResultExt;
use crate::load::{self, Loaded};
use crate::{env, memory};

/// Measure how fast a model runs
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of each prompt
    #[arg(long, env = env::PROMPT_TOKENS, value_name = "N", default_value = "512")]
    prompt_tokens: NonZeroUsize,
    /// Tokens to generate after each prompt; at least 2, since the first one belongs to the prefill
    #[arg(long, env = env::GENERATE_TOKENS, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(2..))]
    generate_tokens: u32,
    /// Sequences at once
    #[arg(long, env = env::BATCH, value_name = "N", default_value = "1")]
    batch: NonZeroUsize,
    /// Repetitions; the medians are reported
    #[arg(long, env = env::REPEAT, value_name = "N", default_value = "3")]
    repeat: NonZeroUsize,
    /// Seed of the random prompts
    #[arg(long, env = env::SEED, value_name = "N", default_value = "0")]
    seed: u64,
    /// Print one JSON object
    #[arg(long, env = env::JSON)]
    json: bool,
}

/// The JSON object that is printed. Names are stable; keys may be added.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    model: String,
    architecture: &'static str,
    device: &'static str,
    threads: usize,
    kv_cache_dtype: String,
    prompt_tokens: usize,
    generate_tokens: u32,
    batch: usize,
    repeat: usize,
    /// Median over the repetitions: prompt tokens of the batch by the time until every sequence has its first token.
    prefill_tokens_per_s: f64,
    /// Median over the repetitions: tokens generated after that, by the time they took.
    decode_tokens_per_s: f64,
    /// Median over the repetitions: seconds until the first token of the whole batch.
    time_to_first_token_s: f64,
    /// Every repetition, in order.
    prefill_tokens_per_s_each: Vec<f64>,
    decode_tokens_per_s_each: Vec<f64>,
    /// From opening the files to an engine that takes requests.
    load_s: f64,
    weight_bytes: u64,
    kv_cache_bytes: u64,
    /// Null where the operating system does not tell.
    peak_rss_bytes: Option<u64>,
}

/// One repetition.
struct Run {
    first_token_s: f64,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be loaded, or the sequences do not fit into its context.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    // Every prompt is to be computed, also when it is repeated.
    let config = ModelConfig { prefix_cache: false, ..ModelConfig::new(&args.model, args.batch.get(), 0)? };
    let loaded = load::load(&config)?;
    let needed = args.prompt_tokens.get() + args.generate_tokens as usize;
    let max_model_len = loaded.engine.limits().max_model_len;
    if needed > max_model_len {
        return Err(anyhow!(
            "--prompt-tokens and --generate-tokens need {needed} tokens, but a sequence holds {max_model_len}"
        ))
        .hint("lower one of them, or enlarge --kv-cache-bytes if it is the cache that limits");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut prompts = Prompts { state: args.seed, vocab_size: loaded.summary.vocab_size as u64 };
    let mut repetition = || runtime.block_on(measure(&loaded, &mut prompts, &args));
    // The first one reads pages and wakes threads; it is not counted.
    repetition()?;
    let runs = (0..args.repeat.get()).map(|_| repetition()).collect::<anyhow::Result<Vec<Run>>>()?;

    let report = report(&args, &loaded, &runs);
    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        write!(stdout, "{}", report.for_people())?;
    }
    Ok(())
}

async fn measure(loaded: &Loaded, prompts: &mut Prompts, args: &BenchArgs) -> anyhow::Result<Run> {
    let batch = args.batch.get();
    let requests: Vec<Request> = (0..batch)
        .map(|_| Request {
            prompt_ids: prompts.take(args.prompt_tokens.get()),
            sampling: SamplingParams { max_tokens: args.generate_tokens, ..SamplingParams::default() },
            ..Request::default()
        })
        .collect();
    let started = Instant::now();
    let streams = requests.into_iter().map(|request| loaded.engine.submit(request));
    let streams = streams.collect::<Result<Vec<EventStream>, _>>()?;
    let mut events: SelectAll<_> =
        streams.into_iter().enumerate().map(|(index, stream)| stream.map(move |event| (index, event))).collect();
    let mut is_waiting = vec![true; batch];
    let (mut num_waiting, mut first_tokens_at, mut num_decoded) = (batch, None, 0u64);
    while let Some((index, event)) = events.next().await {
        match event {
            Event::Token { .. } if first_tokens_at.is_some() => num_decoded += 1,
            Event::Token { .. } => {
                num_waiting -= usize::from(std::mem::replace(&mut is_waiting[index], false));
                if num_waiting == 0 {
                    first_tokens_at = Some(Instant::now());
                }
            }
            Event::Failed { message, .. } => bail!("the engine failed: {message}"),
            Event::Prompt { .. } | Event::Finished { .. } => {}
        }
    }
    let first_tokens_at =
        first_tokens_at.ok_or_else(|| anyhow!("the engine ended without a token for every prompt"))?;
    let first_token_s = (first_tokens_at - started).as_secs_f64();
    Ok(Run {
        first_token_s,
        prefill_tokens_per_s: (batch * args.prompt_tokens.get()) as f64 / first_token_s,
        decode_tokens_per_s: num_decoded as f64 / first_tokens_at.elapsed().as_secs_f64(),
    })
}

/// Random token ids (splitmix64). Which ones does not matter, only that they differ.
struct Prompts {
    state: u64,
    vocab_size: u64,
}

impl Prompts {
    fn take(&mut self, num_tokens: usize) -> Vec<u32> {
        let next = || {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((bits ^ (bits >> 31)) % self.vocab_size) as u32
        };
        std::iter::repeat_with(next).take(num_tokens).collect()
    }
}

fn report(args: &BenchArgs, loaded: &Loaded, runs: &[Run]) -> Report {
    let summary = loaded.summary.clone();
    let each = |value: fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<f64>>();
    let (prefill, decode) = (each(|run| run.prefill_tokens_per_s), each(|run| run.decode_tokens_per_s));
    Report {
        version: env!("CARGO_PKG_VERSION"),
        model: summary.name,
        architecture: summary.architecture,
        device: summary.device,
        threads: summary.num_threads,
        kv_cache_dtype: summary.kv_cache_dtype,
        prompt_tokens: args.prompt_tokens.get(),
        generate_tokens: args.generate_tokens,
        batch: args.batch.get(),
        repeat: args.repeat.get(),
        prefill_tokens_per_s: median(&prefill),
        decode_tokens_per_s: median(&decode),
        time_to_first_token_s: median(&each(|run| run.first_token_s)),
        prefill_tokens_per_s_each: prefill,
        decode_tokens_per_s_each: decode,
        load_s: summary.load_time.as_secs_f64(),
        weight_bytes: summary.weight_bytes,
        kv_cache_bytes: summary.kv_cache_bytes,
        peak_rss_bytes: memory::peak_rss_bytes(),
    }
}

impl Report {
    fn for_people(&self) -> String {
        let rss = self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
        format!(
            "{} on {} with {} threads: {} x ({} + {}) tokens, median of {}\n\
             prefill      {:>10.1} tokens/s, {:.3} s to the first token\n\
             decode       {:>10.1} tokens/s\n\
             load         {:>10.2} s\n\
             peak memory  {:>10}\n",
            self.model,
            self.device,
            self.threads,
            self.batch,
            self.prompt_tokens,
            self.generate_tokens,
            self.repeat,
            self.prefill_tokens_per_s,
            self.time_to_first_token_s,
            self.decode_tokens_per_s,
            self.load_s,
            rss,
        )
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |values: &[f64], expected: f64| assert_eq!(median(values), expected, "{values:?}");
        check(&[3.0], 3.0);
        check(&[3.0, 1.0], 2.0);
        check(&[9.0, 1.0, 5.0], 5.0);
        check(&[4.0, 1.0, 9.0, 2.0], 3.0);
    }

    #[test]
    fn prompts_differ_and_stay_in_the_vocabulary() {
        let mut prompts = Prompts { state: 7, vocab_size: 10 };
        let (first, second) = (prompts.take(200), prompts.take(200));
        assert_ne!(first, second);
        assert_eq!(Prompts { state: 7, vocab_size: 10 }.take(200), first);
        assert!((0..10).all(|id| first.contains(&id)) && first.iter().all(|&id| id < 10));
    }
}
