//! One row per task.

use crate::rows::{f32_row, for_each_row};
use crate::{Context, SwiGlu};

pub(super) fn run(ctx: &Context, args: SwiGlu<'_>) {
    let SwiGlu { gate, up, out } = args;
    for_each_row(ctx, out, |token, out| {
        for ((out, &gate), up) in out.iter_mut().zip(f32_row(&gate, token)).zip(f32_row(&up, token)) {
            *out = silu(gate) * up;
        }
    });
}

/// `g / (1 + exp(-g))`.
pub(crate) fn silu(g: f32) -> f32 {
    g / (1.0 + (-g).exp())
}
