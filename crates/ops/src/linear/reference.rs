//! `out[t,:] = x[t,:] · wᵀ`

use crate::reference_util::{dequantise, tensor, write};
use crate::{Linear, Result};

pub(super) fn run(mut args: Linear<'_>) -> Result<()> {
    let transposed = dequantise("linear", args.weight)?.t()?;
    for token in 0..args.x.shape().num_rows() {
        // One product per token, so that how candle blocks a larger one cannot tie a token to its neighbours.
        let x = tensor("linear", &args.x.rows(token..token + 1))?;
        write("linear", &x.matmul(&transposed)?, args.out.reborrow().rows(token..token + 1))?;
    }
    Ok(())
}
