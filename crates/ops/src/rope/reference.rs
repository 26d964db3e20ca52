//! `(a, b) -> (a cos - b sin, a sin + b cos)`

use candle_core::{D, Device, Tensor};

use crate::reference_util::{tensor, write};
use crate::{Result, Rope, RopeLayout};

pub(super) fn run(args: Rope<'_>) -> Result<()> {
    let x = tensor("rope", &args.x)?;
    let (num_tokens, num_heads, head_dim) = x.dims3()?;
    let pairs = args.inv_freq.len();
    let rotary_end = args.rotary_start + 2 * pairs;

    let positions = args.positions.iter().map(|&position| position as f32);
    let positions = Tensor::from_iter(positions, &Device::Cpu)?.reshape((num_tokens, 1, 1))?;
    let inv_freq = Tensor::from_slice(args.inv_freq, (1, 1, pairs), &Device::Cpu)?;
    let angle = positions.broadcast_mul(&inv_freq)?;
    let cos = (angle.cos()? * f64::from(args.attention_factor))?;
    let sin = (angle.sin()? * f64::from(args.attention_factor))?;

    // The two elements of a pair are the index of the dimension `pair_dim` of `paired`.
    let (paired, pair_dim) = match args.layout {
        RopeLayout::Interleaved => ((num_tokens, num_heads, pairs, 2), 3),
        RopeLayout::HalfSplit => ((num_tokens, num_heads, 2, pairs), 2),
    };
    let rotary = x.narrow(D::Minus1, args.rotary_start, 2 * pairs)?;
    let paired = rotary.reshape(paired)?;
    let a = paired.narrow(pair_dim, 0, 1)?.squeeze(pair_dim)?;
    let b = paired.narrow(pair_dim, 1, 1)?.squeeze(pair_dim)?;
    let rotated_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let rotated_b = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    let rotated = Tensor::stack(&[rotated_a, rotated_b], pair_dim)?.reshape(rotary.shape())?;

    let before = x.narrow(D::Minus1, 0, args.rotary_start)?;
    let after = x.narrow(D::Minus1, rotary_end, head_dim - rotary_end)?;
    write("rope", &Tensor::cat(&[before, rotated, after], D::Minus1)?, args.out)
}
