//! `c = x - mean(x);  out = weight * c / sqrt(mean(c^2) + eps) + bias`

use candle_core::D;

use crate::reference_util::{tensor, write};
use crate::{LayerNorm, Result};

pub(super) fn run(args: LayerNorm<'_>) -> Result<()> {
    let x = tensor("layer_norm", &args.x)?;
    let weight = tensor("layer_norm", &args.weight)?;
    let bias = tensor("layer_norm", &args.bias)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + f64::from(args.eps))?.sqrt()?)?;
    write("layer_norm", &normed.broadcast_mul(&weight)?.broadcast_add(&bias)?, args.out)
}
