//! Times on the GPU's clock.

use anyhow::{Result, bail};
use cachalot_cuda::{Gpu, Stream};
use cachalot_tensor::DType;

use crate::case::{Case, Data};

/// More than the L2 cache of any GPU so far. So much is written between rounds, and so much data a round goes through if it
/// has 64 copies of it: no launch finds its data in the cache.
const COLD_BYTES: usize = 256 << 20;
const MAX_COPIES: usize = 64;
/// Fewest launches between two events.
const MIN_LAUNCHES: usize = 16;
const NUM_ROUNDS: usize = 15;
/// Room for the copies of any case: twice the largest, or `COLD_BYTES` and a little more.
const ARENA_BYTES: u64 = 2 << 30;

/// Microseconds of one launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Times {
    fn of(mut rounds: Vec<f64>) -> Times {
        rounds.sort_by(f64::total_cmp);
        let at = |share: f64| rounds[((rounds.len() - 1) as f64 * share).round() as usize];
        Times { median: at(0.5), p90: at(0.9) }
    }
}

/// Times a case on its own arena: one graph of many launches, each on another copy of the data.
pub(crate) fn time(ordinal: usize, case: &Case) -> Result<Times> {
    let gpu = Gpu::open(ordinal, ARENA_BYTES)?;
    let stream = gpu.stream()?;
    let num_copies = COLD_BYTES.div_ceil(case.work.bytes).clamp(2, MAX_COPIES);
    // The fill before a round is what makes cases cold that are too small for their copies to exceed the cache.
    let num_launches = num_copies.max(MIN_LAUNCHES);
    let mut launch = (case.prepare)(&Data { gpu: &gpu, stream: &stream }, num_copies)?;
    let mut cold = gpu.alloc(DType::U8, [COLD_BYTES])?;
    let mut failure = None;
    let graph = stream.capture(case.op, |stream| {
        failure = (0..num_launches).try_for_each(|index| launch(stream, index % num_copies)).err();
        Ok(())
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    stream.replay(&graph)?;
    let mut rounds = Vec::new();
    for _ in 0..NUM_ROUNDS {
        stream.fill(&mut cold, 1)?;
        rounds.push(elapsed_us(&gpu, &stream, |stream| stream.replay(&graph))? / num_launches as f64);
    }
    Ok(Times::of(rounds))
}

/// GB/s that a copy of 512 MiB on the device reads and writes: the roof of memory.
pub(crate) fn copy_rate(ordinal: usize) -> Result<f64> {
    let gpu = Gpu::open(ordinal, ARENA_BYTES)?;
    let stream = gpu.stream()?;
    let (mut to, mut from) = (gpu.alloc(DType::U8, [512 << 20])?, gpu.alloc(DType::U8, [512 << 20])?);
    stream.fill(&mut from, 1)?;
    stream.copy(&mut to, &from)?;
    let mut rounds = Vec::new();
    for _ in 0..NUM_ROUNDS {
        rounds.push(elapsed_us(&gpu, &stream, |stream| stream.copy(&mut to, &from))?);
    }
    Ok(2.0 * f64::from(512 << 20) / Times::of(rounds).median / 1e3)
}

fn elapsed_us(
    gpu: &Gpu,
    stream: &Stream,
    operations: impl FnOnce(&Stream) -> cachalot_cuda::Result<()>,
) -> Result<f64> {
    let (start, end) = (gpu.event()?, gpu.event()?);
    stream.record(&start)?;
    operations(stream)?;
    stream.record(&end)?;
    stream.synchronize()?;
    match end.elapsed_ms_since(&start)? {
        Some(ms) if ms > 0.0 => Ok(f64::from(ms) * 1e3),
        other => bail!("the time between two events is {other:?}: only a GPU has times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_ninth_of_ten() {
        let times = Times::of((0..=10).rev().map(f64::from).collect());
        assert_eq!(times, Times { median: 5.0, p90: 9.0 });
    }
}
