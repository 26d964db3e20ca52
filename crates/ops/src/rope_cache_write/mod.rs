//! Rotation of queries and keys, fused with the write into the paged cache: [`rope`](crate::rope()) and
//! [`cache_write`](crate::cache_write()) on bf16 activations, as GPUs run them.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::RopeCacheWriteKernels;

use crate::device_args::{aligned, contiguous, multiple};
use crate::dims::Dims;
use crate::{Error, Result, RopeLayout, ScaleFormat};

const OP: &str = "rope_cache_write";

/// Bytes of the FP8 record of one token: 512 e4m3 of the latent, an f32 scale for each 128 of them, 64 bf16 of the rotated key.
pub const FP8_RECORD_BYTES: usize = FP8_LATENT_DIM + 4 * 4 + 2 * FP8_ROTARY_DIM;
const FP8_LATENT_DIM: usize = 512;
const FP8_ROTARY_DIM: usize = 64;

/// The most elements of a head that are rotated.
const MAX_ROTARY_DIM: usize = 128;

/// Where the rotated key stands in a bf16 row of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyPlace {
    /// `[latent | key]`: MLA.
    AfterLatent,
    /// `[key | latent]`: the V3.2 indexer, whose keys are rotated in their first half.
    BeforeLatent,
}

/// Arguments of [`rope_cache_write`]. Rows may be strided, by a multiple of 8.
#[derive(Debug)]
pub struct RopeCacheWrite<'a> {
    /// `[num_tokens, num_heads, head_dim]`, bf16: if given, `rotary_dim` elements of each head from `rotary_start` on are rotated
    /// in place.
    pub q: Option<ViewMut<'a>>,
    /// First rotated element of each head of `q`, a multiple of 8 like `head_dim`.
    pub rotary_start: usize,
    /// `[num_tokens, latent_dim]`, bf16: cached as it is, or quantised; `latent_dim` is a multiple of 8.
    pub latent: View<'a>,
    /// `[num_tokens, rotary_dim]`, bf16: cached rotated; `rotary_dim` is a multiple of 16 up to 128.
    pub key: View<'a>,
    /// Order of a bf16 row of the cache.
    pub key_place: KeyPlace,
    /// `[num_tokens]`, i32, position of each token in its sequence.
    pub positions: View<'a>,
    /// `[num_tokens]`, i32: `block * block_size + offset` of each token, no slot twice; a negative one is a padding token's,
    /// which is not cached.
    pub slot_mapping: View<'a>,
    /// `[rotary_dim / 2]`, f32, radians per position; see [`yarn_inv_freq`](crate::rope::yarn_inv_freq).
    pub inv_freq: View<'a>,
    /// Factor on cos and sin.
    pub attention_factor: f32,
    /// Pairing.
    pub layout: RopeLayout,
    /// Contiguous: `[num_blocks, block_size, latent_dim + rotary_dim]`, bf16, or `[num_blocks, block_size, 656]`, bytes, of FP8
    /// records. Other slots keep their content.
    pub cache: ViewMut<'a>,
    /// Rounding of the scales of FP8 records.
    pub scale_format: ScaleFormat,
}

/// Rotates `q` in place and writes each token's latent and rotated key into its slot of the cache.
///
/// For pair `j`, `(a, b)` becomes `(a·cos - b·sin, a·sin + b·cos)` with `angle = f32(positions[t]) * inv_freq[j]`, in f32, rounded
/// to bf16 once. An FP8 record has the latent as [`act_quant`](crate::act_quant()) makes it.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Rotary`] rotated elements that reach past a head,
/// [`Error::Unsupported`] the dtype, size, stride or combination that no kernel takes; [`Error::Cuda`]. Slots and positions lie on
/// the device and are not checked.
///
/// # Source
/// RoFormer (arXiv 2104.09864), section 3.2.2; the record: FlashMLA, `README.md`, "FP8 KV cache".
pub fn rope_cache_write(stream: &Stream, kernels: &RopeCacheWriteKernels, args: RopeCacheWrite<'_>) -> Result<()> {
    let num_tokens = check(&args)?;
    if num_tokens == 0 {
        return Ok(());
    }
    kernels.run(stream, args)
}

/// Checks the arguments; the number of tokens.
fn check(args: &RopeCacheWrite<'_>) -> Result<usize> {
    let mut dims = Dims::new(OP);
    let [num_tokens, latent_dim] = dims.bind_all("latent", args.latent.shape(), ["num_tokens", "latent_dim"])?;
    let [_, rotary_dim] = dims.bind_all("key", args.key.shape(), ["num_tokens", "rotary_dim"])?;
    dims.bind_all("positions", args.positions.shape(), ["num_tokens"])?;
    dims.bind_all("slot_mapping", args.slot_mapping.shape(), ["num_tokens"])?;
    dims.bind("key", "rotary_dim / 2", rotary_dim / 2)?;
    dims.bind_all("inv_freq", args.inv_freq.shape(), ["rotary_dim / 2"])?;
    for (arg, dtype) in [("latent", args.latent.dtype()), ("key", args.key.dtype())] {
        dims.dtype(arg, dtype, &[DType::BF16], "BF16")?;
    }
    for (arg, dtype) in [("positions", args.positions.dtype()), ("slot_mapping", args.slot_mapping.dtype())] {
        dims.dtype(arg, dtype, &[DType::I32], "I32")?;
    }
    dims.f32("inv_freq", args.inv_freq.dtype())?;
    multiple(OP, "rotary_dim", rotary_dim, 16, MAX_ROTARY_DIM, "multiples of 16 up to 128")?;
    multiple(OP, "latent_dim", latent_dim, 8, u32::MAX as usize, "multiples of 8")?;
    aligned(OP, "latent", args.latent, 16)?;
    aligned(OP, "key", args.key, 16)?;
    if let Some(q) = &args.q {
        let [_, _, head_dim] = dims.bind_all("q", q.shape(), ["num_tokens", "num_heads", "head_dim"])?;
        dims.dtype("q", q.dtype(), &[DType::BF16], "BF16")?;
        aligned(OP, "q", q.as_view(), 16)?;
        multiple(OP, "head_dim", head_dim, 8, u32::MAX as usize, "multiples of 8")?;
        multiple(OP, "rotary_start", args.rotary_start, 8, u32::MAX as usize, "multiples of 8")?;
        let room = head_dim.saturating_sub(args.rotary_start);
        if rotary_dim > room {
            return Err(Error::Rotary { rotary_dim, rotary_start: args.rotary_start, room });
        }
    }
    let row_dim = match args.cache.dtype() {
        DType::U8 => {
            let supported = "FP8 records of 512 latent elements and a key of 64, interleaved, after the latent";
            let is_known = (latent_dim, rotary_dim) == (FP8_LATENT_DIM, FP8_ROTARY_DIM)
                && (args.layout, args.key_place) == (RopeLayout::Interleaved, KeyPlace::AfterLatent);
            if !is_known {
                let RopeCacheWrite { layout, key_place, .. } = args;
                let got = format!("FP8 records of {latent_dim} and {rotary_dim} elements, {layout:?}, {key_place:?}");
                return Err(Error::Unsupported { op: OP, got, supported });
            }
            FP8_RECORD_BYTES
        }
        _ => latent_dim + rotary_dim,
    };
    dims.bind("latent and key", "row", row_dim)?;
    dims.bind_all("cache", args.cache.shape(), ["num_blocks", "block_size", "row"])?;
    dims.dtype("cache", args.cache.dtype(), &[DType::BF16, DType::U8], "BF16, U8 (FP8 records)")?;
    contiguous(OP, "cache", args.cache.as_view())?;
    aligned(OP, "cache", args.cache.as_view(), 16)?;
    Ok(num_tokens)
}
