//! One token per task: its angles are the same for all heads.

use crate::rows::{f32_row, for_each_row};
use crate::scratch::with_scratch;
use crate::{Context, Rope, RopeLayout};

pub(super) fn run(ctx: &Context, args: Rope<'_>) {
    let Rope { x, positions, inv_freq, attention_factor, layout, rotary_start, out } = args;
    let (head_dim, pairs) = (x.shape().dims()[2], inv_freq.len());
    for_each_row(ctx, out, |token, out| {
        let x = f32_row(&x, token);
        out.copy_from_slice(x);
        with_scratch(2 * pairs, |cos_sin| {
            let (cos, sin) = cos_sin.split_at_mut(pairs);
            for j in 0..pairs {
                let angle = positions[token] as f32 * inv_freq[j];
                (cos[j], sin[j]) = (angle.cos() * attention_factor, angle.sin() * attention_factor);
            }
            for head in out.chunks_exact_mut(head_dim) {
                let rotary = &mut head[rotary_start..rotary_start + 2 * pairs];
                for j in 0..pairs {
                    let (first, second) = match layout {
                        RopeLayout::Interleaved => (2 * j, 2 * j + 1),
                        RopeLayout::HalfSplit => (j, j + pairs),
                    };
                    let (a, b) = (rotary[first], rotary[second]);
                    rotary[first] = a * cos[j] - b * sin[j];
                    rotary[second] = a * sin[j] + b * cos[j];
                }
            }
        });
    });
}
