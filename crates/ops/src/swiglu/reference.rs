//! `out = silu(gate) * up`

use crate::reference_util::{tensor, write};
use crate::{Result, SwiGlu};

pub(super) fn run(args: SwiGlu<'_>) -> Result<()> {
    let gate = tensor("swiglu", &args.gate)?;
    let up = tensor("swiglu", &args.up)?;
    write("swiglu", &(gate.silu()? * up)?, args.out)
}
