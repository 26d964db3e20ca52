//! `r = residual + x;  out = weight * r / sqrt(mean(r^2) + eps)`

use candle_core::D;

use crate::reference_util::{tensor, write};
use crate::{Result, RmsNorm};

pub(super) fn run(args: RmsNorm<'_>) -> Result<()> {
    let mut r = tensor("rms_norm", &args.x)?;
    if let Some(residual) = args.residual {
        r = (tensor("rms_norm", &residual.as_view())? + r)?;
        write("rms_norm", &r, residual)?;
    }
    let weight = tensor("rms_norm", &args.weight)?;
    let mean_square = r.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = r.broadcast_div(&(mean_square + f64::from(args.eps))?.sqrt()?)?;
    write("rms_norm", &normed.broadcast_mul(&weight)?, args.out)
}
