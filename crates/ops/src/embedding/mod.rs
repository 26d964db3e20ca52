//! Token embedding.

mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Error, Result};

/// Arguments of [`embedding`].
#[derive(Debug)]
pub struct Embedding<'a> {
    /// `[num_tokens]`, token ids.
    pub ids: &'a [u32],
    /// `[vocab_size, hidden_size]`, f32, f16 or bf16.
    pub table: View<'a>,
    /// `[num_tokens, hidden_size]`, f32, overwritten.
    pub out: ViewMut<'a>,
}

/// Looks token ids up in the embedding table: `out[t,:] = table[ids[t],:]`, unscaled.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] the argument of another dtype,
/// [`Error::Range`] the id outside the vocabulary.
pub fn embedding(ctx: &Context, args: Embedding<'_>) -> Result<()> {
    let mut dims = Dims::new("embedding");
    let [vocab_size, _] = dims.bind_all("table", args.table.shape(), ["vocab_size", "hidden_size"])?;
    dims.bind("ids", "num_tokens", args.ids.len())?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "hidden_size"])?;
    dims.float("table", args.table.dtype())?;
    dims.f32("out", args.out.dtype())?;
    for (index, &id) in args.ids.iter().enumerate() {
        if id as usize >= vocab_size {
            return Err(Error::Range { op: "embedding", arg: "ids", index, got: id as usize, limit: vocab_size });
        }
    }
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
