//! Rotary position embedding, with YaRN's frequencies.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use std::f64::consts::TAU;

use cachalot_tensor::{View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Error, Result};

/// Which elements a rotation pairs. Never a default: main attention is interleaved, the V3.2 indexer is half-split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Pairs `(2j, 2j+1)`.
    Interleaved,
    /// Pairs `(j, j + rotary_dim/2)`, as in GPT-NeoX.
    HalfSplit,
}

/// Arguments of [`rope`].
#[derive(Debug)]
pub struct Rope<'a> {
    /// `[num_tokens, num_heads, head_dim]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[num_tokens]`, position of each token in its sequence.
    pub positions: &'a [u32],
    /// `[rotary_dim / 2]`, radians per position; see [`yarn_inv_freq`].
    pub inv_freq: &'a [f32],
    /// Factor on cos and sin: 1 for every DeepSeek-V3 release.
    pub attention_factor: f32,
    /// Pairing.
    pub layout: RopeLayout,
    /// First rotated element of each head; the `rotary_dim` elements from here are rotated, the others copied.
    pub rotary_start: usize,
    /// `[num_tokens, num_heads, head_dim]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// Rotates pairs of elements by an angle that grows with the position.
///
/// For pair `j` of each head, `(a, b)` becomes `(a·cos - b·sin, a·sin + b·cos)` in the same two places, with
/// `angle = f32(positions[t]) * inv_freq[j]` rounded to f32, and `cos` and `sin` times `attention_factor`.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] the argument of another dtype;
/// [`Error::Rotary`] if the rotated elements reach past the head.
///
/// # Source
/// RoFormer (arXiv 2104.09864), section 3.2.2; compared with DeepSeek-V3.2-Exp `inference/model.py`, `apply_rotary_emb`.
pub fn rope(ctx: &Context, args: Rope<'_>) -> Result<()> {
    let mut dims = Dims::new("rope");
    let [_, _, head_dim] = dims.bind_all("x", args.x.shape(), ["num_tokens", "num_heads", "head_dim"])?;
    dims.bind("positions", "num_tokens", args.positions.len())?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "num_heads", "head_dim"])?;
    dims.f32("x", args.x.dtype())?;
    dims.f32("out", args.out.dtype())?;
    let (rotary_dim, room) = (2 * args.inv_freq.len(), head_dim.saturating_sub(args.rotary_start));
    if rotary_dim > room || args.rotary_start > head_dim {
        return Err(Error::Rotary { rotary_dim, rotary_start: args.rotary_start, room });
    }
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}

/// YaRN's stretching of the rotary frequencies, with the names of `rope_scaling` in config.json.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How much longer the context is than the one trained on.
    pub factor: f64,
    /// Tokens of the context trained on.
    pub original_max_position_embeddings: usize,
    /// Frequencies that turn at least this often within the original context stay as they are.
    pub beta_fast: f64,
    /// Frequencies that turn at most this often within the original context are divided by `factor`.
    pub beta_slow: f64,
}

/// The frequencies of [`Rope::inv_freq`], in radians per position: `rotary_dim / 2` values, applied at all positions.
///
/// Without YaRN `f_j = rope_theta^(-2j / rotary_dim)`. With it `f_j * (1 - ramp_j) + f_j / factor * ramp_j`, where
/// `ramp_j = clamp((j - low) / (high - low), 0, 1)`, `low = floor(dim(beta_fast))`, `high = ceil(dim(beta_slow))`, both
/// clamped to `0 ..= rotary_dim - 1`, and
/// `dim(turns) = rotary_dim * ln(original_max_position_embeddings / (2π * turns)) / (2 * ln rope_theta)`.
///
/// # Source
/// YaRN (arXiv 2309.00071), section 3.2; compared with DeepSeek-V3 `inference/model.py`, `precompute_freqs_cis`.
pub fn yarn_inv_freq(rotary_dim: usize, rope_theta: f64, yarn: Option<&Yarn>) -> Vec<f32> {
    let frequency = |j: usize| rope_theta.powf(-2.0 * j as f64 / rotary_dim as f64);
    let Some(yarn) = yarn else {
        return (0..rotary_dim / 2).map(|j| frequency(j) as f32).collect();
    };
    let dim = |turns: f64| {
        let context = yarn.original_max_position_embeddings as f64;
        rotary_dim as f64 * (context / (turns * TAU)).ln() / (2.0 * rope_theta.ln())
    };
    let last = rotary_dim as f64 - 1.0;
    let low = dim(yarn.beta_fast).floor().max(0.0);
    let high = dim(yarn.beta_slow).ceil().min(last);
    // Equal bounds would divide by zero; a step this narrow lies between two values of j.
    let width = if high == low { 0.001 } else { high - low };
    let stretched = |j: usize| {
        let ramp = ((j as f64 - low) / width).clamp(0.0, 1.0);
        let frequency = frequency(j);
        (frequency * (1.0 - ramp) + frequency / yarn.factor * ramp) as f32
    };
    (0..rotary_dim / 2).map(stretched).collect()
}
