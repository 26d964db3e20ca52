//! Times every op that has a kernel on a GPU: `gpu-bench [GPU]`, with the GPU's number, 0 by default. `scripts/gpu-check` packs it.

mod case;
mod measure;
mod ops;
mod table;

use std::io::{self, Write};

use anyhow::{Context, Result};
use cachalot_cuda::Gpu;

fn main() -> Result<()> {
    let ordinal = match std::env::args().nth(1) {
        Some(number) => number.parse().with_context(|| format!("{number} is not the number of a GPU"))?,
        None => 0,
    };
    // It stays open, so that the context is not made anew for each case.
    let gpu = Gpu::open(ordinal, 0).context("there is nothing to time on")?;
    let mut out = io::stdout().lock();
    writeln!(out, "GPU {}", gpu.info())?;
    let roofs = table::Roofs::new(measure::copy_rate(ordinal)?, gpu.info());
    writeln!(out, "roof of memory: {:.0} GB/s, a copy of 512 MiB on the device, reads and writes", roofs.copy)?;
    match roofs.tensor {
        Some([bf16, fp8]) => writeln!(out, "roof of products: {bf16} TFLOPS bf16, {fp8} TFLOPS FP8, nominal")?,
        None => writeln!(out, "roof of products: not known for this GPU; shares are those of memory alone")?,
    }
    writeln!(out, "data not in L2; one graph of 16 to 64 launches, whose gaps count; median and p90 of 15 rounds\n")?;
    writeln!(out, "{}", table::header())?;
    for case in ops::cases() {
        let times = measure::time(ordinal, &case).with_context(|| format!("{} {}", case.op, case.shape))?;
        writeln!(out, "{}", table::row(&case, times, &roofs))?;
        out.flush()?;
    }
    Ok(())
}
