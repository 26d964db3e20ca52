//! The table, and the roofs that its last column counts from.

use cachalot_cuda::DeviceInfo;

use crate::case::{Case, TensorCores};
use crate::measure::Times;

/// What bounds an op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roofs {
    /// GB/s of a copy, measured in the same run.
    pub(crate) copy: f64,
    /// Dense TFLOPS in bf16 and FP8 as NVIDIA states them, where they are known.
    pub(crate) tensor: Option<[f64; 2]>,
}

impl Roofs {
    /// With the tensor cores' nominal rates: NVIDIA's data sheets of the H100 SXM and the H200.
    pub(crate) fn new(copy: f64, gpu: &DeviceInfo) -> Roofs {
        let is_known = gpu.capability == (9, 0) && gpu.num_multiprocessors == 132;
        Roofs { copy, tensor: is_known.then_some([989.0, 1979.0]) }
    }

    fn of(&self, cores: TensorCores) -> Option<f64> {
        self.tensor.map(|[bf16, fp8]| match cores {
            TensorCores::Bf16 => bf16,
            TensorCores::Fp8 => fp8,
        })
    }
}

/// The names of the columns.
pub(crate) fn header() -> String {
    format!(
        "{:<17} {:<24} {:<18} {:>10} {:>10} {:>8} {:>8} {:>6}",
        "op", "shape", "variant", "us", "p90", "GB/s", "TFLOPS", "roof"
    )
}

/// One case.
pub(crate) fn row(case: &Case, times: Times, roofs: &Roofs) -> String {
    let rate = case.work.bytes as f64 / times.median / 1e3;
    let tflops = case.work.flops as f64 / times.median / 1e6;
    let of_tensor = case.tensor_cores.and_then(|cores| roofs.of(cores)).map_or(0.0, |peak| tflops / peak);
    let share = (rate / roofs.copy).max(of_tensor);
    format!(
        "{:<17} {:<24} {:<18} {:>10.2} {:>10.2} {:>8.0} {:>8.1} {:>5.0}%",
        case.op,
        case.shape,
        case.variant,
        times.median,
        times.p90,
        rate,
        tflops,
        100.0 * share
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Work;

    #[test]
    fn a_row_has_the_larger_share() {
        let case = |bytes, flops| Case {
            op: "fp8_gemm",
            shape: "8x128x256".to_owned(),
            variant: "blocks of 128".to_owned(),
            work: Work { bytes, flops },
            tensor_cores: Some(TensorCores::Fp8),
            prepare: Box::new(|_, _| anyhow::bail!("only its numbers are asked for")),
        };
        let (times, roofs) = (Times { median: 2.0, p90: 2.5 }, Roofs { copy: 2000.0, tensor: Some([500.0, 1000.0]) });
        let columns = |text: &str| text.split_whitespace().rev().take(5).map(str::to_owned).collect::<Vec<_>>();
        let by_memory = row(&case(2_000_000, 200_000_000), times, &roofs);
        assert_eq!(columns(&by_memory), ["50%", "100.0", "1000", "2.50", "2.00"]);
        let by_products = row(&case(400_000, 1_600_000_000), times, &roofs);
        assert_eq!(columns(&by_products), ["80%", "800.0", "200", "2.50", "2.00"]);
        assert_eq!(header().len(), by_memory.len());
    }
}
