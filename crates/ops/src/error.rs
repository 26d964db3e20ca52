//! What an operation refuses.

/// Why an operation did not run. Nothing was written to its outputs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two arguments disagree about a dimension.
    #[error("{op}: `{dim}` is {got} in `{got_in}`, {expected} in `{expected_in}`")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Name of the dimension, as in the argument struct's docs.
        dim: &'static str,
        /// Size seen first.
        expected: usize,
        /// Argument in which it was seen first.
        expected_in: &'static str,
        /// Size that disagrees.
        got: usize,
        /// Argument that disagrees.
        got_in: &'static str,
    },
    /// An argument has another number of dimensions than the operation takes.
    #[error("{op}: `{arg}` has shape {got}, expected dimensions [{expected}]")]
    Rank {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// Names of the dimensions expected.
        expected: String,
        /// Shape given.
        got: cachalot_tensor::Shape,
    },
    /// A value lies outside its range: a token id, a slot, a block.
    #[error("{op}: `{arg}[{index}]` is {got}, must be below {limit}")]
    Range {
        /// Operation.
        op: &'static str,
        /// Argument.
        arg: &'static str,
        /// Position in the argument.
        index: usize,
        /// Value found.
        got: usize,
        /// First value that is out of range.
        limit: usize,
    },
    /// The rotated elements reach past the end of a head.
    #[error("rope: `rotary_dim` is {rotary_dim} in `inv_freq`, at most {room} from `rotary_start` {rotary_start} on")]
    Rotary {
        /// Rotated elements.
        rotary_dim: usize,
        /// The first of them.
        rotary_start: usize,
        /// Elements from there to the end of the head.
        room: usize,
    },
    /// The combination is not implemented; `supported` lists what is.
    #[error("{op}: {got} is not supported; supported: {supported}")]
    Unsupported {
        /// Operation.
        op: &'static str,
        /// What was asked for.
        got: String,
        /// What there is.
        supported: &'static str,
    },
    /// Threads could not be started.
    #[error("cannot start {num_threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        num_threads: usize,
        /// The operating system's answer.
        reason: String,
    },
    /// A tensor has the wrong form.
    #[error("{op}: {source}")]
    Tensor {
        /// Operation.
        op: &'static str,
        /// What is wrong.
        source: cachalot_tensor::Error,
    },
    /// The GPU, or the emulator of one, refused something.
    #[error(transparent)]
    Cuda(#[from] cachalot_cuda::Error),
    /// The reference implementation failed inside candle.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
