//! Streams and events: in which order things happen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachalot_tensor::{DType, Element, View, ViewMut};

use crate::backend::{EventHandle, StreamHandle};
use crate::{Error, Gpu, Graph, Kernel, Launch, Params, Result};

/// So many launches are named when the device reports an error.
const NUM_RECENT: usize = 8;

/// A queue of operations that happen one after the other. Calls return before the operation has happened, unless they say
/// otherwise; an error that a kernel causes appears at a later call, at the latest at [`synchronize`](Stream::synchronize). On the
/// emulator operations happen in the order of the calls, whatever their streams, and a fault appears at the launch.
#[derive(Debug)]
pub struct Stream {
    gpu: Gpu,
    pub(crate) handle: StreamHandle,
    /// What was launched last, the oldest first.
    recent: Mutex<VecDeque<(Arc<str>, Option<Launch>)>>,
}

impl Stream {
    pub(crate) fn new(gpu: &Gpu) -> Result<Stream> {
        let handle = gpu.0.backend.create_stream()?;
        Ok(Stream { gpu: gpu.clone(), handle, recent: Mutex::new(VecDeque::with_capacity(NUM_RECENT)) })
    }

    /// The GPU it belongs to.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Launches a kernel.
    ///
    /// # Errors
    /// [`Error::Launch`] for a shape that cannot be launched; [`Error::Driver`] with the kernel and its shape; on the emulator
    /// [`Error::Emulator`] with block, thread and source line.
    pub fn launch<P: Params>(&self, kernel: &Kernel<P>, launch: Launch, params: &P) -> Result<()> {
        self.gpu.check_same(&kernel.gpu, "the kernel")?;
        if let Some(reason) = launch.refusal(&kernel.function) {
            return Err(Error::Launch { kernel: kernel.name.to_string(), launch, reason });
        }
        let params = bytemuck::bytes_of(params);
        self.gpu.0.backend.launch(self.handle, (&kernel.name, &kernel.function), launch, params)?;
        self.remember(kernel.name.clone(), Some(launch));
        Ok(())
    }

    /// Copies from the host. Returns when `values` may change again.
    ///
    /// # Errors
    /// [`Error::DType`] or [`Error::Shape`] if `values` are not exactly the elements of `to`; [`Error::Order`] in a capture.
    pub fn upload<'a, T: Element>(&self, to: impl Into<ViewMut<'a>>, values: &[T]) -> Result<()> {
        let to = to.into();
        check_dtype("upload", to.dtype(), T::DTYPE)?;
        self.upload_bytes(to, bytemuck::cast_slice(values))
    }

    /// [`upload`](Stream::upload) of the bytes of elements of any dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` are not exactly the bytes of `to`; [`Error::Order`] in a capture.
    pub fn upload_bytes<'a>(&self, to: impl Into<ViewMut<'a>>, bytes: &[u8]) -> Result<()> {
        let to = to.into();
        check_bytes("upload", &to.as_view(), bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.gpu.0.backend.upload(self.handle, to.address().0, bytes)
    }

    /// Copies to the host. Returns when all earlier operations of the stream have happened and `values` are there.
    ///
    /// # Errors
    /// [`Error::DType`] or [`Error::Shape`] if `values` are not exactly the elements of `from`; [`Error::Order`] in a capture;
    /// [`Error::Driver`] names the last launches if one of them failed.
    pub fn download<'a, T: Element>(&self, from: impl Into<View<'a>>, values: &mut [T]) -> Result<()> {
        let from = from.into();
        check_dtype("download", from.dtype(), T::DTYPE)?;
        self.download_bytes(from, bytemuck::cast_slice_mut(values))
    }

    /// [`download`](Stream::download) of the bytes of elements of any dtype.
    ///
    /// # Errors
    /// As [`download`](Stream::download).
    pub fn download_bytes<'a>(&self, from: impl Into<View<'a>>, bytes: &mut [u8]) -> Result<()> {
        let from = from.into();
        check_bytes("download", &from, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.gpu.0.backend.download(self.handle, from.address().0, bytes, &|| self.recent_launches())
    }

    /// All elements of a view, on the host, as [`download`](Stream::download) gives them.
    ///
    /// # Errors
    /// As [`download`](Stream::download).
    pub fn to_vec<'a, T: Element>(&self, from: impl Into<View<'a>>) -> Result<Vec<T>> {
        let from = from.into();
        let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); from.shape().num_elements()];
        self.download(from, &mut values)?;
        Ok(values)
    }

    /// Copies on the device.
    ///
    /// # Errors
    /// [`Error::DType`] or [`Error::Shape`] if the two differ, or if there are gaps between rows.
    pub fn copy<'a, 'b>(&self, to: impl Into<ViewMut<'a>>, from: impl Into<View<'b>>) -> Result<()> {
        let (to, from) = (to.into(), from.into());
        check_dtype("copy", to.dtype(), from.dtype())?;
        check_bytes("copy", &from, from.num_bytes())?;
        check_bytes("copy", &to.as_view(), from.num_bytes())?;
        if from.num_bytes() == 0 {
            return Ok(());
        }
        self.gpu.0.backend.copy(self.handle, to.address().0, from.address().0, from.num_bytes() as u64)
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are gaps between rows.
    pub fn fill<'a>(&self, to: impl Into<ViewMut<'a>>, byte: u8) -> Result<()> {
        let to = to.into();
        let num_bytes = to.as_view().num_bytes();
        check_bytes("fill", &to.as_view(), num_bytes)?;
        if num_bytes == 0 {
            return Ok(());
        }
        self.gpu.0.backend.fill(self.handle, to.address().0, byte, num_bytes as u64)
    }

    /// Marks the place in the queue that is reached when all earlier operations have happened.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn record(&self, event: &Event) -> Result<()> {
        self.gpu.check_same(&event.gpu, "the event")?;
        self.gpu.0.backend.record(self.handle, event.handle)
    }

    /// Later operations of this stream happen after the event, which must have been recorded.
    ///
    /// # Errors
    /// [`Error::Order`] on the emulator, if the event was not recorded: CUDA would not wait at all.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.gpu.check_same(&event.gpu, "the event")?;
        self.gpu.0.backend.wait(self.handle, event.handle)
    }

    /// Waits until everything has happened.
    ///
    /// # Errors
    /// [`Error::Driver`] names the last launches if one of them failed; [`Error::Order`] in a capture.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.0.backend.synchronize(self.handle, &|| self.recent_launches())
    }

    /// Records what `operations` does on this stream, and on streams that wait for its events, without doing it. Those other
    /// streams must be waited for before the end. The graph has the addresses and arguments of the capture: what changes from
    /// step to step is passed in buffers. `name` appears in errors.
    ///
    /// # Errors
    /// Those of `operations`; [`Error::Order`] for what cannot be captured (uploads, downloads, waiting on the host).
    pub fn capture(&self, name: &str, operations: impl FnOnce(&Stream) -> Result<()>) -> Result<Graph> {
        let backend = &self.gpu.0.backend;
        backend.begin_capture(self.handle)?;
        let done = operations(self);
        // The capture is ended in any case: a stream that stays in it cannot be used.
        let graph = backend.end_capture(self.handle).map(|handle| Graph::new(&self.gpu, handle, name));
        done.and(graph)
    }

    /// Does what was captured.
    ///
    /// # Errors
    /// [`Error::Driver`], or on the emulator [`Error::Emulator`].
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        self.gpu.check_same(&graph.gpu, "the graph")?;
        self.gpu.0.backend.replay(self.handle, graph.handle, graph.name())?;
        self.remember(graph.name.clone(), None);
        Ok(())
    }

    fn remember(&self, name: Arc<str>, launch: Option<Launch>) {
        let mut recent = self.recent();
        if recent.len() == NUM_RECENT {
            recent.pop_front();
        }
        recent.push_back((name, launch));
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<(Arc<str>, Option<Launch>)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last launches in words, the newest first.
    fn recent_launches(&self) -> String {
        let launches: Vec<String> = self
            .recent()
            .iter()
            .rev()
            .map(|(name, launch)| match launch {
                Some(launch) => format!("`{name}` with {launch}"),
                None => format!("graph `{name}`"),
            })
            .collect();
        if launches.is_empty() { "nothing".to_owned() } else { launches.join("; ") }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gpu.0.backend.destroy_stream(self.handle);
    }
}

/// A place in the queue of a stream.
#[derive(Debug)]
pub struct Event {
    gpu: Gpu,
    handle: EventHandle,
}

impl Event {
    pub(crate) fn new(gpu: &Gpu) -> Result<Event> {
        Ok(Event { gpu: gpu.clone(), handle: gpu.0.backend.create_event()? })
    }

    /// Waits until it is reached.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::Order`] on the emulator, if it was not recorded.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.0.backend.synchronize_event(self.handle)
    }

    /// Milliseconds from `start` to this event on the GPU's clock; `None` on the emulator, whose time means nothing.
    ///
    /// # Errors
    /// [`Error::Driver`] if one of the two was not recorded or is not reached yet.
    pub fn elapsed_ms_since(&self, start: &Event) -> Result<Option<f32>> {
        self.gpu.check_same(&start.gpu, "the start")?;
        self.gpu.0.backend.elapsed_ms(start.handle, self.handle)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.gpu.0.backend.destroy_event(self.handle);
    }
}

fn check_dtype(action: &'static str, device: DType, host: DType) -> Result<()> {
    if device == host { Ok(()) } else { Err(Error::DType { action, device, host }) }
}

fn check_bytes(action: &'static str, view: &View<'_>, num_bytes: usize) -> Result<()> {
    let reason = if !view.is_contiguous() {
        format!("its rows are {} elements apart", view.row_stride())
    } else if view.num_bytes() != num_bytes {
        format!("these are {} bytes and not {num_bytes}", view.num_bytes())
    } else {
        return Ok(());
    };
    Err(Error::Shape { action, shape: view.shape(), dtype: view.dtype(), reason })
}
