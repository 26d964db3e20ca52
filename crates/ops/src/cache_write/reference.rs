//! `cache[slot] = rows[t]`

use cachalot_tensor::{DType, Element};
use candle_core::WithDType;
use half::bf16;

use crate::reference_util::tensor;
use crate::{CacheWrite, Error, Result};

pub(super) fn run(args: CacheWrite<'_>) -> Result<()> {
    match args.cache.dtype() {
        DType::BF16 => write::<bf16>(args),
        _ => write::<f32>(args),
    }
}

fn write<T: Element + WithDType>(args: CacheWrite<'_>) -> Result<()> {
    let rows = tensor("cache_write", &args.rows)?.to_dtype(<T as WithDType>::DTYPE)?.to_vec2::<T>()?;
    let cache = args.cache.into_slice::<T>().map_err(|source| Error::Tensor { op: "cache_write", source })?;
    for (row, &slot) in rows.iter().zip(args.slot_mapping) {
        let slot = slot as usize * row.len();
        cache[slot..slot + row.len()].copy_from_slice(row);
    }
    Ok(())
}
