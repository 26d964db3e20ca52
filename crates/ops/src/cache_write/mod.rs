//! Writing a step's keys into a paged cache.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{DType, View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Error, Result};

/// Arguments of [`cache_write`].
#[derive(Debug)]
pub struct CacheWrite<'a> {
    /// `[num_tokens, dim]`, f32; rows may be strided.
    pub rows: View<'a>,
    /// `[num_tokens]`, `block * block_size + offset` of each token.
    pub slot_mapping: &'a [u32],
    /// `[num_blocks, block_size, dim]`, contiguous, f32 or bf16 (rounded to nearest, ties to even). Other slots keep
    /// their content.
    pub cache: ViewMut<'a>,
}

/// Writes one row per token into a paged cache: `cache[slot / block_size, slot % block_size, :] = rows[t,:]` with
/// `slot = slot_mapping[t]`. Where a slot is named twice the later token stays.
///
/// The cache is the MLA latent with its rope key, or the indexer's keys.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] the argument of another dtype,
/// [`Error::Range`] the slot outside the cache.
pub fn cache_write(ctx: &Context, args: CacheWrite<'_>) -> Result<()> {
    let mut dims = Dims::new("cache_write");
    dims.bind_all("rows", args.rows.shape(), ["num_tokens", "dim"])?;
    dims.bind("slot_mapping", "num_tokens", args.slot_mapping.len())?;
    let [num_blocks, block_size, _] =
        dims.bind_all("cache", args.cache.shape(), ["num_blocks", "block_size", "dim"])?;
    dims.f32("rows", args.rows.dtype())?;
    dims.dtype("cache", args.cache.dtype(), &[DType::F32, DType::BF16], "F32, BF16")?;
    if !args.cache.as_view().is_contiguous() {
        return Err(Error::Unsupported { op: "cache_write", got: "strided `cache`".into(), supported: "contiguous" });
    }
    let limit = num_blocks * block_size;
    for (index, &slot) in args.slot_mapping.iter().enumerate() {
        if slot as usize >= limit {
            return Err(Error::Range { op: "cache_write", arg: "slot_mapping", index, got: slot as usize, limit });
        }
    }
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(args);
            Ok(())
        }
    }
}
