//! `out = (x - max(x)) - ln(sum(exp(x - max(x))))`

use candle_core::D;

use crate::reference_util::{tensor, write};
use crate::{LogSoftmax, Result};

pub(super) fn run(args: LogSoftmax<'_>) -> Result<()> {
    let x = tensor("log_softmax", &args.x)?;
    if x.elem_count() == 0 {
        // There is no largest of no elements.
        return Ok(());
    }
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    write("log_softmax", &shifted.broadcast_sub(&log_sum)?, args.out)
}
