//! The load: requests arrive at random, and about so many are open at any time.
//!
//! Arrivals are a Poisson process whose rate is corrected once a second, towards the number of open streams that is wanted:
//! with a fixed rate it would fall to nothing on a fast machine and grow without bound on a slow one.

use std::sync::Arc;
use std::time::Duration;

use cachalot_testkit::Random;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::client::{self, Behaviour, Outcome, Times};
use crate::question::{Question, unit};
use crate::rubbish;
use crate::server::Server;
use crate::tally::{Tally, Timings};
use crate::used::Used;

/// How much more arrives at once when streams are missing: with a quarter too many open, nothing does.
const HASTE: f64 = 4.0;
/// One arrival in so many is of several clients who ask the same.
const ONE_IN_IS_SEVERAL: usize = 10;
/// How often this program looks whether it is late itself.
const LAG_INTERVAL: Duration = Duration::from_millis(20);
/// How often it says how far it is.
const SECONDS_PER_LINE: u64 = 10;

/// What is asked of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How long requests arrive.
    pub(crate) duration: Duration,
    /// Streams that are open at once.
    pub(crate) num_streams: usize,
    /// Arrivals in a second, to begin with.
    pub(crate) first_rate: f64,
    /// Nothing is measured before.
    pub(crate) warm_up: Duration,
    /// Requests that arrive at once, at half time.
    pub(crate) num_in_surge: usize,
    /// How long slow readers are slow.
    pub(crate) slow_for: Duration,
    /// The size of a body that the server refuses for it.
    pub(crate) too_many_bytes: usize,
}

/// What was seen once a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) num_open: usize,
    pub(crate) rss_bytes: Option<u64>,
}

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) tally: Tally,
    /// What was used from the first arrival to the last.
    pub(crate) used: Used,
    pub(crate) samples: Vec<Sample>,
    /// How late this program was where it had only itself to wait for: what the times cannot be finer than.
    pub(crate) lag: Timings,
    /// From the last arrival to the last end.
    pub(crate) drain: Duration,
}

struct Client {
    index: usize,
    behaviour: Behaviour,
    measured: bool,
    result: (Outcome, Times),
}

/// Runs a load to its end. `report` gets a line now and then.
pub(crate) async fn run(
    server: &Server,
    questions: &[Arc<Question>],
    plan: Plan,
    random: &mut Random,
    report: impl Fn(&str),
) -> anyhow::Result<Load> {
    let mut load = Load::default();
    let before = Used::until_now(server).await?;
    let mut clients: JoinSet<Client> = JoinSet::new();
    let began = Instant::now();
    let end = began + plan.duration;
    // `rate` is at once corrected by what is missing, `lasting_rate` by what keeps missing.
    let (mut rate, mut lasting_rate) = (plan.first_rate, plan.first_rate);
    let mut next_arrival = began;
    let mut surge = Some(began + plan.duration / 2);
    let mut seconds = interval(Duration::from_secs(1));
    let mut lag = interval(LAG_INTERVAL);
    lag.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let arrive = |clients: &mut JoinSet<Client>, index: usize, behaviour: Behaviour| {
        let question = questions[index].clone();
        let (address, measured) = (server.address, began.elapsed() >= plan.warm_up);
        clients.spawn(async move {
            let result = client::run(address, &question, &behaviour).await;
            Client { index, behaviour, measured, result }
        });
    };
    // However short the load is, rubbish of every kind is part of it.
    for kind in 0..rubbish::NUM_KINDS {
        arrive(&mut clients, 0, Behaviour::Rubbish(rubbish::of_kind(kind, plan.too_many_bytes)));
    }
    while Instant::now() < end {
        tokio::select! {
            () = sleep_until(next_arrival.min(end)) => {
                next_arrival += exponential(random, rate);
                let index = random.below(questions.len());
                let num_clients = if random.below(ONE_IN_IS_SEVERAL) == 0 { 2 + random.below(3) } else { 1 };
                for _ in 0..num_clients {
                    arrive(&mut clients, index, Behaviour::draw(random, &questions[index], &plan));
                }
            }
            Some(client) = clients.join_next() => {
                add(&mut load.tally, questions, client);
            }
            scheduled = lag.tick() => load.lag.0.push(scheduled.elapsed()),
            _ = seconds.tick() => {
                let missing = 1.0 - clients.len() as f64 / plan.num_streams as f64;
                // Changed no faster than streams are replaced, it does not swing.
                lasting_rate *= 1.0 + lasting_rate / plan.num_streams as f64 * missing;
                rate = (lasting_rate * (1.0 + HASTE * missing)).max(0.1);
                // An arrival that is still to come is drawn again: a Poisson process does not remember how long it has waited.
                if next_arrival > Instant::now() {
                    next_arrival = Instant::now() + exponential(random, rate);
                }
                let at = began.elapsed();
                load.samples.push(Sample { at, num_open: clients.len(), rss_bytes: server.rss_bytes() });
                if at.as_secs().is_multiple_of(SECONDS_PER_LINE) {
                    report(&progress(at, plan.duration, clients.len(), &load));
                }
                if surge.take_if(|surge| *surge <= Instant::now()).is_some() {
                    for _ in 0..plan.num_in_surge {
                        arrive(&mut clients, random.below(questions.len()), Behaviour::Plain);
                    }
                }
            }
        }
    }
    load.used = Used::until_now(server).await?.since(&before);
    while let Some(client) = clients.join_next().await {
        add(&mut load.tally, questions, client);
    }
    load.drain = Instant::now() - end;
    Ok(load)
}

/// The time to the next of events that come at random, so many in a second.
fn exponential(random: &mut Random, per_s: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - unit(random)).ln() / per_s)
}

fn add(tally: &mut Tally, questions: &[Arc<Question>], client: Result<Client, tokio::task::JoinError>) {
    match client {
        Ok(Client { index, behaviour, measured, result }) => {
            tally.add(index, &questions[index], &behaviour, result, measured);
        }
        Err(error) => tally.broken.push(format!("a client of the test failed: {error}")),
    }
}

fn progress(at: Duration, duration: Duration, num_open: usize, load: &Load) -> String {
    let tally = &load.tally;
    let rss = load.samples.last().and_then(|sample| sample.rss_bytes);
    let rss = rss.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    format!(
        "{:>4} of {} s: {num_open} open, {} answered, {} refused, {} hung up, {} wrong, RSS {rss}",
        at.as_secs(),
        duration.as_secs(),
        tally.num_answered(),
        tally.num_refused,
        tally.num_hung_up,
        tally.different.len() + tally.failed.len() + tally.broken.len() + tally.broken_rubbish.len(),
    )
}
