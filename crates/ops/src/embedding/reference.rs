//! `out = table[ids]`

use candle_core::{Device, Tensor};

use crate::reference_util::{tensor, write};
use crate::{Embedding, Result};

pub(super) fn run(args: Embedding<'_>) -> Result<()> {
    let ids = Tensor::from_slice(args.ids, args.ids.len(), &Device::Cpu)?;
    let table = tensor("embedding", &args.table)?;
    write("embedding", &table.index_select(&ids, 0)?, args.out)
}
