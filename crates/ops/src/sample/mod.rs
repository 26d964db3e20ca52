//! Drawing tokens on the GPU, for requests that filter nothing.
//!
//! The engine's sampler on the host has all the rest: penalties, `top_k`, `top_p`, `min_p`, grammars.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::SampleKernel;

use crate::device_args::{aligned, multiple};
use crate::dims::Dims;
use crate::{Error, Result};

const OP: &str = "sample";

/// In [`Sample::tokens`]: the row has no token to choose.
pub const NO_TOKEN: i32 = -1;

/// The largest vocabulary: so many weights of 2^44 fit into 63 bits.
const MAX_VOCAB_SIZE: usize = 1 << 19;

/// Arguments of [`sample`].
#[derive(Debug)]
pub struct Sample<'a> {
    /// `[num_seqs, vocab_size]`, f32; rows may be strided by a multiple of 4.
    pub logits: View<'a>,
    /// `[num_seqs]`, f32, finite and not negative; 0 takes the largest logit.
    pub temperatures: View<'a>,
    /// `[num_seqs, 2]`, i32: the low and the high word of `u * 2^64`, with `u` a random number in `[0, 1)`.
    pub uniforms: View<'a>,
    /// `[num_seqs]`, i32, overwritten: the tokens, or [`NO_TOKEN`].
    pub tokens: ViewMut<'a>,
    /// `[num_seqs]`, f32, overwritten: log-probability of each token under the logits as they are; NaN without a token.
    pub logprobs: ViewMut<'a>,
    /// `[num_seqs]`, f32, overwritten: the largest logit, NaN if one is NaN.
    pub maxima: ViewMut<'a>,
}

/// Draws one token of each row from `softmax(logits / temperature)`.
///
/// The token is the first, in the order of ids, at which the running sum of the weights `exp((logit - max) / temperature)`
/// passes `u` times the sum of all; at temperature 0 the largest logit's, the lowest id of equals. A row with NaN or +infinity,
/// or of -infinity alone, has no token.
///
/// Weights count in multiples of 2^-44 of the largest: sums are integers, and what is drawn depends on the row alone.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`]
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`].
pub fn sample(stream: &Stream, kernel: &SampleKernel, args: Sample<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_seqs, vocab_size] = dims.bind_all("logits", args.logits.shape(), ["num_seqs", "vocab_size"])?;
    dims.bind_all("temperatures", args.temperatures.shape(), ["num_seqs"])?;
    let [_, words] = dims.bind_all("uniforms", args.uniforms.shape(), ["num_seqs", "words"])?;
    multiple(OP, "words", words, 2, 2, "2 words")?;
    for (arg, shape) in
        [("tokens", args.tokens.shape()), ("logprobs", args.logprobs.shape()), ("maxima", args.maxima.shape())]
    {
        dims.bind_all(arg, shape, ["num_seqs"])?;
    }
    for (arg, dtype) in [
        ("logits", args.logits.dtype()),
        ("temperatures", args.temperatures.dtype()),
        ("logprobs", args.logprobs.dtype()),
        ("maxima", args.maxima.dtype()),
    ] {
        dims.f32(arg, dtype)?;
    }
    for (arg, dtype) in [("uniforms", args.uniforms.dtype()), ("tokens", args.tokens.dtype())] {
        dims.dtype(arg, dtype, &[DType::I32], "I32")?;
    }
    if !(1..=MAX_VOCAB_SIZE).contains(&vocab_size) {
        let got = format!("`vocab_size` of {vocab_size}");
        return Err(Error::Unsupported { op: OP, got, supported: "1 to 2^19" });
    }
    aligned(OP, "logits", args.logits, 16)?;
    aligned(OP, "uniforms", args.uniforms, 8)?;
    if num_seqs == 0 {
        return Ok(());
    }
    kernel.run(stream, args)
}
