//! What can go wrong between an op and the device.

use cachalot_tensor::{DType, Shape};

use crate::Launch;

/// An error of the runtime or of the device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The binary has no kernels.
    #[error("this binary was built without the feature `cuda`; build it with `--features cuda`")]
    NotBuilt,
    /// The CUDA driver is not there or does not start.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// What was looked for, or what the driver said.
        reason: String,
    },
    /// There is no GPU of this number.
    #[error("there is no GPU {ordinal}: the driver lists {count}")]
    NoDevice {
        /// The GPU asked for, counted from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A call of the driver failed.
    #[error("{action}: {name} ({code}): {text}")]
    Driver {
        /// What was tried; for an error that a kernel caused, which kernels were launched last.
        action: String,
        /// The `CUresult`.
        code: u32,
        /// Its name, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
        name: String,
        /// What the driver says about it.
        text: String,
    },
    /// The emulator stopped a kernel, or refused an access by the host.
    #[error("{action}: {fault}")]
    Emulator {
        /// What was tried.
        action: String,
        /// What was wrong, with kernel, block, thread and source line.
        fault: String,
    },
    /// The arena has no room for a buffer.
    #[error("the arena of {total} bytes has {free} left, a buffer of {wanted} bytes does not fit: plan a larger arena")]
    ArenaFull {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes left.
        free: u64,
        /// Bytes of the arena.
        total: u64,
    },
    /// The planning is over.
    #[error("the arena is sealed: a buffer of {wanted} bytes must be planned before the first step")]
    Sealed {
        /// Bytes asked for.
        wanted: u64,
    },
    /// No source file of this name was compiled.
    #[error("there is no kernel module `{module}`; there are {known:?}")]
    UnknownModule {
        /// The module asked for.
        module: String,
        /// Those that there are.
        known: Vec<&'static str>,
    },
    /// The module has no kernel of this name.
    #[error("module `{module}` has no kernel `{kernel}`; it has {known:?}")]
    UnknownKernel {
        /// The module.
        module: &'static str,
        /// The kernel asked for.
        kernel: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// The module was not compiled for this GPU.
    #[error(
        "module `{module}` was compiled for {archs:?}, this GPU has compute capability {}.{}; \
         set CACHALOT_CUDA_ARCHS when building, if the kernel allows it", capability.0, capability.1
    )]
    NotForThisGpu {
        /// The module.
        module: &'static str,
        /// What it was compiled for.
        archs: &'static [&'static str],
        /// What the GPU is.
        capability: (u32, u32),
    },
    /// The argument struct is not the one that the kernel takes.
    #[error("kernel `{kernel}` takes {expected} bytes of parameters, `{params}` has {got}")]
    Params {
        /// The kernel.
        kernel: String,
        /// The Rust struct.
        params: &'static str,
        /// Bytes that the kernel takes.
        expected: usize,
        /// Bytes of the struct.
        got: usize,
    },
    /// A kernel with another number of parameters than one.
    #[error("kernel `{kernel}` takes {count} parameters: it must take one struct, see kernels/common/params.h")]
    ParamCount {
        /// The kernel.
        kernel: String,
        /// Parameters that it takes.
        count: usize,
    },
    /// A launch that no GPU would take.
    #[error("launch of `{kernel}` with {launch}: {reason}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Its shape.
        launch: Launch,
        /// What is wrong with it.
        reason: String,
    },
    /// A buffer or view of another dtype than asked for.
    #[error("{action}: the device holds {device}, the host {host}")]
    DType {
        /// What was tried.
        action: &'static str,
        /// Dtype on the device.
        device: DType,
        /// Dtype on the host, or of the other view.
        host: DType,
    },
    /// Two sides of a copy that do not fit, or rows with gaps where there must be none.
    #[error("{action}: {shape} of {dtype}: {reason}")]
    Shape {
        /// What was tried.
        action: &'static str,
        /// Shape on the device.
        shape: Shape,
        /// Dtype on the device.
        dtype: DType,
        /// What does not fit.
        reason: String,
    },
    /// Streams, events or graphs in an order that CUDA does not allow.
    #[error("{0}")]
    Order(String),
    /// A tensor map that TMA does not take.
    #[error("tensor map of {shape} {dtype}: {reason}")]
    TensorMap {
        /// Shape of the view.
        shape: Shape,
        /// Dtype of the view.
        dtype: DType,
        /// What is wrong.
        reason: String,
    },
}

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
