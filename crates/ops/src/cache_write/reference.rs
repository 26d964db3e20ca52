//! `cache[slot] = rows[t]`

use cachalot_tensor::{DType, Element, ViewMut};
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
    let [num_blocks, block_size, dim] = args.cache.shape().dims().try_into().expect("three dimensions were checked");
    let cache: ViewMut<'_> = args.cache;
    let cache = cache.into_slice::<T>().map_err(|source| Error::Tensor { op: "cache_write", source })?;
    let mut slots: Vec<&mut [T]> = cache.chunks_exact_mut(dim).collect();
    debug_assert_eq!(slots.len(), num_blocks * block_size);
    for (row, &slot) in rows.iter().zip(args.slot_mapping) {
        slots[slot as usize].copy_from_slice(row);
    }
    Ok(())
}
