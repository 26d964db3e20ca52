//! What a device does for the types of this crate: the CUDA driver or the emulator. Without the feature `cuda` there is neither,
//! and every type of this crate that needs one can be named but not made.

use std::sync::Arc;

use cachalot_tensor::DType;

use crate::{DeviceInfo, EmbeddedModule, Launch, Result};

#[cfg(feature = "cuda")]
use crate::{driver::Driver, emulated::Emulated};

/// One of the two.
#[derive(Debug)]
pub(crate) enum Backend {
    #[cfg(feature = "cuda")]
    Driver(Driver),
    #[cfg(feature = "cuda")]
    Emulated(Box<Emulated>),
}

/// A stream of the backend. A handle means something to the backend that made it alone, and until it destroys it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamHandle(pub(crate) u64);

/// An event of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventHandle(pub(crate) u64);

/// An instantiated graph of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GraphHandle(pub(crate) u64);

/// A kernel of the backend; it lives as long as the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FunctionHandle(pub(crate) u64);

/// A kernel and its limits.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a backend reads them"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    pub(crate) handle: FunctionHandle,
    pub(crate) param_bytes: usize,
    pub(crate) max_threads: u32,
    pub(crate) max_dynamic_shared_bytes: u32,
}

/// A tensor map as the driver's call takes it: innermost dimension first.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a backend reads them"))]
#[derive(Clone, Debug)]
pub(crate) struct TensorMapEncoding {
    pub(crate) dtype: DType,
    pub(crate) address: u64,
    pub(crate) dims: Vec<u64>,
    /// Bytes; one fewer than `dims`, as the innermost dimension is contiguous.
    pub(crate) strides: Vec<u64>,
    pub(crate) box_dims: Vec<u32>,
    pub(crate) swizzle: crate::Swizzle,
}

/// Calls the same method of whichever backend there is.
macro_rules! each {
    ($self:ident, $backend:ident => $call:expr) => {
        match *$self {
            #[cfg(feature = "cuda")]
            Backend::Driver(ref $backend) => $call,
            #[cfg(feature = "cuda")]
            Backend::Emulated(ref $backend) => $call,
        }
    };
}

#[cfg(feature = "cuda")]
impl Backend {
    pub(crate) fn open(ordinal: usize) -> Result<Backend> {
        Driver::open(ordinal).map(Backend::Driver)
    }

    pub(crate) fn emulated() -> Result<Backend> {
        Ok(Backend::Emulated(Box::new(Emulated::new())))
    }

    pub(crate) fn devices() -> Result<Vec<DeviceInfo>> {
        crate::driver::devices()
    }
}

#[cfg(not(feature = "cuda"))]
impl Backend {
    pub(crate) fn open(_ordinal: usize) -> Result<Backend> {
        Err(crate::Error::NotBuilt)
    }

    pub(crate) fn emulated() -> Result<Backend> {
        Err(crate::Error::NotBuilt)
    }

    pub(crate) fn devices() -> Result<Vec<DeviceInfo>> {
        Err(crate::Error::NotBuilt)
    }
}

// Without a backend there is no call that could take the arguments.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
impl Backend {
    pub(crate) fn info(&self) -> &DeviceInfo {
        each!(self, backend => backend.info())
    }

    pub(crate) fn is_emulated(&self) -> bool {
        match *self {
            #[cfg(feature = "cuda")]
            Backend::Driver(_) => false,
            #[cfg(feature = "cuda")]
            Backend::Emulated(_) => true,
        }
    }

    /// The arena, once.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        each!(self, backend => backend.allocate(bytes))
    }

    /// A part of the arena becomes a buffer whose bounds are watched, where somebody watches.
    pub(crate) fn carve(&self, address: u64, bytes: u64) -> Result<()> {
        each!(self, backend => backend.carve(address, bytes))
    }

    pub(crate) fn function(&self, module: &'static EmbeddedModule, kernel: &str) -> Result<Function> {
        each!(self, backend => backend.function(module, kernel))
    }

    pub(crate) fn encode(&self, encoding: &TensorMapEncoding) -> Result<[u64; 16], String> {
        each!(self, backend => backend.encode(encoding))
    }

    pub(crate) fn create_stream(&self) -> Result<StreamHandle> {
        each!(self, backend => backend.create_stream())
    }

    pub(crate) fn destroy_stream(&self, stream: StreamHandle) {
        each!(self, backend => backend.destroy_stream(stream))
    }

    /// `recent` describes what was launched last, for the error that one of these kernels may have caused.
    pub(crate) fn synchronize(&self, stream: StreamHandle, recent: &dyn Fn() -> String) -> Result<()> {
        each!(self, backend => backend.synchronize(stream, recent))
    }

    pub(crate) fn launch(
        &self,
        stream: StreamHandle,
        kernel: (&Arc<str>, &Function),
        launch: Launch,
        params: &[u8],
    ) -> Result<()> {
        each!(self, backend => backend.launch(stream, kernel, launch, params))
    }

    /// Returns when `bytes` may change again.
    pub(crate) fn upload(&self, stream: StreamHandle, to: u64, bytes: &[u8]) -> Result<()> {
        each!(self, backend => backend.upload(stream, to, bytes))
    }

    /// Returns when `bytes` are there.
    pub(crate) fn download(
        &self,
        stream: StreamHandle,
        from: u64,
        bytes: &mut [u8],
        recent: &dyn Fn() -> String,
    ) -> Result<()> {
        each!(self, backend => backend.download(stream, from, bytes, recent))
    }

    pub(crate) fn copy(&self, stream: StreamHandle, to: u64, from: u64, bytes: u64) -> Result<()> {
        each!(self, backend => backend.copy(stream, to, from, bytes))
    }

    pub(crate) fn fill(&self, stream: StreamHandle, to: u64, byte: u8, bytes: u64) -> Result<()> {
        each!(self, backend => backend.fill(stream, to, byte, bytes))
    }

    pub(crate) fn create_event(&self) -> Result<EventHandle> {
        each!(self, backend => backend.create_event())
    }

    pub(crate) fn destroy_event(&self, event: EventHandle) {
        each!(self, backend => backend.destroy_event(event))
    }

    pub(crate) fn record(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        each!(self, backend => backend.record(stream, event))
    }

    pub(crate) fn wait(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        each!(self, backend => backend.wait(stream, event))
    }

    pub(crate) fn synchronize_event(&self, event: EventHandle) -> Result<()> {
        each!(self, backend => backend.synchronize_event(event))
    }

    /// Milliseconds on the device's clock, if it has one.
    pub(crate) fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<Option<f32>> {
        each!(self, backend => backend.elapsed_ms(start, end))
    }

    pub(crate) fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        each!(self, backend => backend.begin_capture(stream))
    }

    pub(crate) fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        each!(self, backend => backend.end_capture(stream))
    }

    pub(crate) fn destroy_graph(&self, graph: GraphHandle) {
        each!(self, backend => backend.destroy_graph(graph))
    }

    pub(crate) fn replay(&self, stream: StreamHandle, graph: GraphHandle, name: &str) -> Result<()> {
        each!(self, backend => backend.replay(stream, graph, name))
    }
}

/// What cannot be part of a graph.
#[cfg(feature = "cuda")]
pub(crate) fn not_in_a_capture(what: &str) -> crate::Error {
    crate::Error::Order(format!("{what} cannot be captured in a graph: do it before the capture or after it"))
}
