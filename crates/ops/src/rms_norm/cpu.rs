//! One row per task; the sum of squares runs in sixteen lanes.

use cachalot_tensor::{View, ViewMut};

use crate::numerics::Row;
use crate::rows::{f32_row, for_each_row};
use crate::{Context, RmsNorm};

pub(super) fn run(ctx: &Context, args: RmsNorm<'_>) {
    let RmsNorm { x, weight, eps, residual, out } = args;
    match residual {
        None => norm(ctx, x, weight, eps, out),
        Some(mut residual) => {
            for_each_row(ctx, residual.reborrow(), |token, residual| {
                residual.iter_mut().zip(f32_row(&x, token)).for_each(|(residual, x)| *residual += x);
            });
            norm(ctx, residual.as_view(), weight, eps, out);
        }
    }
}

fn norm(ctx: &Context, x: View<'_>, weight: View<'_>, eps: f32, out: ViewMut<'_>) {
    let weight = Row::of_vector(&weight);
    for_each_row(ctx, out, |token, out| {
        let x = f32_row(&x, token);
        let mean_square = Row::F32(x).dot(x) / x.len() as f32;
        let factor = 1.0 / (mean_square + eps).sqrt();
        weight.decode(out);
        out.iter_mut().zip(x).for_each(|(out, x)| *out *= x * factor);
    });
}
