//! One row per task. The sum runs in f64, in order, so that it neither drifts nor depends on how it is split.

use crate::rows::{f32_row, for_each_row};
use crate::{Context, LogSoftmax};

pub(super) fn run(ctx: &Context, args: LogSoftmax<'_>) {
    let LogSoftmax { x, out } = args;
    for_each_row(ctx, out, |row, out| {
        let x = f32_row(&x, row);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&x| f64::from((x - max).exp())).sum();
        let log_sum = sum.ln() as f32;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - max) - log_sum);
    });
}
