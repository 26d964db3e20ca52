//! One row per task. The centred row is made first and its variance taken from that, which loses no digits to a large mean.

use crate::numerics::Row;
use crate::rows::{f32_row, for_each_row};
use crate::scratch::with_scratch;
use crate::{Context, LayerNorm};

pub(super) fn run(ctx: &Context, args: LayerNorm<'_>) {
    let LayerNorm { x, weight, bias, eps, out } = args;
    let (weight, bias) = (Row::of_vector(&weight), Row::of_vector(&bias));
    for_each_row(ctx, out, |token, out| {
        let x = f32_row(&x, token);
        with_scratch(2 * x.len(), |scratch| {
            let (ones_then_weight, centred) = scratch.split_at_mut(x.len());
            ones_then_weight.fill(1.0);
            let mean = Row::F32(x).dot(ones_then_weight) / x.len() as f32;
            centred.iter_mut().zip(x).for_each(|(centred, x)| *centred = x - mean);
            let variance = Row::F32(centred).dot(centred) / x.len() as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            weight.decode(ones_then_weight);
            bias.decode(out);
            for ((out, weight), centred) in out.iter_mut().zip(&*ones_then_weight).zip(&*centred) {
                *out += weight * (centred * factor);
            }
        });
    });
}
