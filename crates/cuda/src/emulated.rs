//! The backend that executes the embedded PTX on the CPU.
//!
//! Operations are done at the call, in the order of the calls, so that any program that is right on a GPU is done in one of the
//! orders that the GPU allows. What a GPU would let pass is checked: an event that is waited for without having been recorded, and
//! a capture whose other streams are not waited for. Left out: two streams that use the same memory without an event between
//! them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use cachalot_emulator::{Fault, Kernel, Machine, Misuse, Module, OutOfBoundsFill, TensorMapType};
use cachalot_tensor::DType;

use crate::backend::{
    EventHandle, Function, FunctionHandle, GraphHandle, StreamHandle, TensorMapEncoding, not_in_a_capture,
};
use crate::{DeviceInfo, EmbeddedModule, Error, Launch, Result, Swizzle};

/// An emulated GPU.
#[derive(Debug)]
pub(crate) struct Emulated {
    machine: Machine,
    info: DeviceInfo,
    state: Mutex<State>,
}

/// What handles mean. They are counted from 0 and never used again.
#[derive(Debug, Default)]
struct State {
    /// Parsed when a kernel of them is first looked up.
    modules: HashMap<&'static str, Module>,
    kernels: Vec<Kernel>,
    next_handle: u64,
    /// The event's last recording, if there was one.
    events: HashMap<u64, Option<Recording>>,
    graphs: HashMap<u64, Arc<[Operation]>>,
    /// Captures that have begun and not ended.
    captures: HashMap<u64, Capture>,
    /// The streams that are in one of them.
    capturing: HashMap<StreamHandle, Captured>,
}

/// An operation that a graph can hold.
#[derive(Debug)]
enum Operation {
    Launch { name: Arc<str>, kernel: FunctionHandle, launch: Launch, params: Box<[u8]> },
    Copy { to: u64, from: u64, bytes: u64 },
    Fill { to: u64, byte: u8, bytes: u64 },
}

/// A capture that is under way.
#[derive(Debug)]
struct Capture {
    origin: StreamHandle,
    operations: Vec<Operation>,
    /// For each stream of the capture, how many operations it has.
    counts: Clock,
}

/// For each stream, how many of its operations come before something.
type Clock = BTreeMap<StreamHandle, u64>;

/// A stream's part in a capture.
#[derive(Clone, Debug)]
struct Captured {
    capture: u64,
    /// What comes before its next operation.
    clock: Clock,
}

/// Where an event was recorded: in no capture, or in one.
#[derive(Clone, Debug)]
struct Recording(Option<Captured>);

impl Emulated {
    pub(crate) fn new() -> Emulated {
        let num_threads = thread::available_parallelism().map_or(1, usize::from);
        Emulated {
            machine: Machine::new(num_threads),
            // An H100 (SXM5), so that whatever depends on these numbers is decided as it is there.
            info: DeviceInfo {
                ordinal: 0,
                name: "emulated H100".to_owned(),
                capability: (9, 0),
                memory_bytes: 0,
                num_multiprocessors: 132,
                shared_bytes_per_block: 227 << 10,
            },
            state: Mutex::default(),
        }
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        self.machine.allocate(bytes.max(1)).map_err(|misuse| refused("taking the arena", &misuse))
    }

    pub(crate) fn carve(&self, address: u64, bytes: u64) -> Result<()> {
        self.machine.carve(address, bytes).map_err(|misuse| refused("making a buffer", &misuse))
    }

    pub(crate) fn function(&self, module: &'static EmbeddedModule, kernel: &str) -> Result<Function> {
        let mut state = self.state();
        let state = &mut *state;
        let parsed = match state.modules.get(module.name) {
            Some(parsed) => parsed,
            None => {
                let parsed = Module::parse(module.ptx).map_err(|error| Error::Emulator {
                    action: format!("reading the PTX of module `{}`", module.name),
                    fault: error.to_string(),
                })?;
                state.modules.entry(module.name).or_insert(parsed)
            }
        };
        let found = parsed.kernel(kernel).ok_or_else(|| Error::UnknownKernel {
            module: module.name,
            kernel: kernel.to_owned(),
            known: parsed.kernels().map(str::to_owned).collect(),
        })?;
        let of_this = module.resources.iter().filter(|resources| resources.kernel == kernel);
        let static_bytes = of_this.map(|resources| resources.shared_bytes).max().unwrap_or(0);
        let function = Function {
            handle: FunctionHandle(state.kernels.len() as u64),
            param_bytes: found.param_bytes(),
            max_threads: found.max_threads(),
            max_dynamic_shared_bytes: self.info.shared_bytes_per_block.saturating_sub(static_bytes),
        };
        state.kernels.push(found);
        Ok(function)
    }

    pub(crate) fn encode(&self, encoding: &TensorMapEncoding) -> Result<[u64; 16], String> {
        let mut opaque = [0; 16];
        bytemuck::bytes_of_mut(&mut opaque).copy_from_slice(&tensor_map(encoding)?.to_bytes());
        Ok(opaque)
    }

    pub(crate) fn create_stream(&self) -> Result<StreamHandle> {
        Ok(StreamHandle(self.state().new_handle()))
    }

    pub(crate) fn destroy_stream(&self, stream: StreamHandle) {
        self.state().capturing.remove(&stream);
    }

    pub(crate) fn synchronize(&self, stream: StreamHandle, _recent: &dyn Fn() -> String) -> Result<()> {
        self.check_not_capturing(stream, "waiting for the stream")
    }

    pub(crate) fn launch(
        &self,
        stream: StreamHandle,
        (name, function): (&Arc<str>, &Function),
        launch: Launch,
        params: &[u8],
    ) -> Result<()> {
        let operation =
            Operation::Launch { name: name.clone(), kernel: function.handle, launch, params: params.into() };
        self.submit(stream, operation)
    }

    pub(crate) fn upload(&self, stream: StreamHandle, to: u64, bytes: &[u8]) -> Result<()> {
        self.check_not_capturing(stream, "an upload")?;
        self.machine.write(to, bytes).map_err(|misuse| refused("upload", &misuse))
    }

    pub(crate) fn download(
        &self,
        stream: StreamHandle,
        from: u64,
        bytes: &mut [u8],
        _recent: &dyn Fn() -> String,
    ) -> Result<()> {
        self.check_not_capturing(stream, "a download")?;
        self.machine.read(from, bytes).map_err(|misuse| refused("download", &misuse))
    }

    pub(crate) fn copy(&self, stream: StreamHandle, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.submit(stream, Operation::Copy { to, from, bytes })
    }

    pub(crate) fn fill(&self, stream: StreamHandle, to: u64, byte: u8, bytes: u64) -> Result<()> {
        self.submit(stream, Operation::Fill { to, byte, bytes })
    }

    pub(crate) fn create_event(&self) -> Result<EventHandle> {
        let mut state = self.state();
        let handle = state.new_handle();
        state.events.insert(handle, None);
        Ok(EventHandle(handle))
    }

    pub(crate) fn destroy_event(&self, event: EventHandle) {
        self.state().events.remove(&event.0);
    }

    pub(crate) fn record(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        let mut state = self.state();
        let recording = Recording(state.capturing.get(&stream).cloned());
        state.events.insert(event.0, Some(recording));
        Ok(())
    }

    pub(crate) fn wait(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        self.state().wait(stream, event)
    }

    pub(crate) fn synchronize_event(&self, event: EventHandle) -> Result<()> {
        match self.state().recording(event)? {
            Recording(None) => Ok(()),
            Recording(Some(_)) => Err(not_in_a_capture("waiting for an event on the host")),
        }
    }

    pub(crate) fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<Option<f32>> {
        let state = self.state();
        state.recording(start)?;
        state.recording(end)?;
        Ok(None)
    }

    pub(crate) fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        let mut state = self.state();
        if state.capturing.contains_key(&stream) {
            return Err(Error::Order("the stream is in a capture already".to_owned()));
        }
        let capture = state.new_handle();
        state.captures.insert(capture, Capture { origin: stream, operations: Vec::new(), counts: Clock::new() });
        state.capturing.insert(stream, Captured { capture, clock: Clock::new() });
        Ok(())
    }

    pub(crate) fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        self.state().end_capture(stream)
    }

    pub(crate) fn destroy_graph(&self, graph: GraphHandle) {
        self.state().graphs.remove(&graph.0);
    }

    pub(crate) fn replay(&self, stream: StreamHandle, graph: GraphHandle, name: &str) -> Result<()> {
        self.check_not_capturing(stream, "the replay of a graph")?;
        let operations = self.state().graphs.get(&graph.0).cloned();
        let operations = operations.ok_or_else(|| Error::Order(format!("graph `{name}` is gone")))?;
        operations.iter().try_for_each(|operation| self.execute(operation))
    }

    fn check_not_capturing(&self, stream: StreamHandle, what: &str) -> Result<()> {
        if self.state().capturing.contains_key(&stream) { Err(not_in_a_capture(what)) } else { Ok(()) }
    }

    /// Does it, or adds it to the capture that the stream is in.
    fn submit(&self, stream: StreamHandle, operation: Operation) -> Result<()> {
        // Apart, so that the lock is gone when the operation takes it.
        let not_captured = self.state().captured(stream, operation);
        match not_captured {
            None => Ok(()),
            Some(operation) => self.execute(&operation),
        }
    }

    fn execute(&self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Launch { name, kernel, launch, params } => {
                let kernel = self.state().kernels.get(kernel.0 as usize).cloned();
                let kernel = kernel.ok_or_else(|| Error::Order(format!("kernel `{name}` is of another GPU")))?;
                let Launch { grid, block, cluster, shared_bytes } = *launch;
                let shape = cachalot_emulator::Launch { grid, block, cluster, shared_bytes, params };
                self.machine.launch(&kernel, shape).map_err(|fault: Fault| Error::Emulator {
                    action: format!("launch of `{name}` with {launch}"),
                    fault: fault.to_string(),
                })
            }
            Operation::Copy { to, from, bytes } => {
                self.machine.copy(*to, *from, *bytes).map_err(|misuse| refused("copy", &misuse))
            }
            Operation::Fill { to, byte, bytes } => {
                self.machine.fill(*to, *byte, *bytes).map_err(|misuse| refused("fill", &misuse))
            }
        }
    }
}

impl State {
    fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    /// Adds the operation to the capture that the stream is in, or gives it back.
    fn captured(&mut self, stream: StreamHandle, operation: Operation) -> Option<Operation> {
        let Some(part) = self.capturing.get_mut(&stream) else {
            return Some(operation);
        };
        let Some(capture) = self.captures.get_mut(&part.capture) else {
            return Some(operation);
        };
        capture.operations.push(operation);
        let count = capture.counts.entry(stream).or_default();
        *count += 1;
        part.clock.insert(stream, *count);
        None
    }

    fn recording(&self, event: EventHandle) -> Result<Recording> {
        self.events.get(&event.0).cloned().flatten().ok_or_else(|| {
            Error::Order("an event is waited for that was not recorded: a GPU would not wait at all".to_owned())
        })
    }

    fn wait(&mut self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        let Recording(recorded) = self.recording(event)?;
        match (self.capturing.get_mut(&stream), recorded) {
            // Everything before the event has been done.
            (None, None) => Ok(()),
            // The stream joins the capture.
            (None, Some(recorded)) if self.captures.contains_key(&recorded.capture) => {
                // It must be waited for at the end even if it does nothing, as on a GPU.
                if let Some(capture) = self.captures.get_mut(&recorded.capture) {
                    capture.counts.entry(stream).or_default();
                }
                self.capturing.insert(stream, recorded);
                Ok(())
            }
            (Some(part), Some(recorded)) if part.capture == recorded.capture => {
                for (&other, &count) in &recorded.clock {
                    let known = part.clock.entry(other).or_default();
                    *known = count.max(*known);
                }
                Ok(())
            }
            (None, Some(_)) => Err(Error::Order("the event was recorded in a capture that has ended".to_owned())),
            (Some(_), None) => {
                Err(Error::Order("a stream in a capture waits for an event that is not in it".to_owned()))
            }
            (Some(_), Some(_)) => Err(Error::Order("a stream is to take part in two captures".to_owned())),
        }
    }

    fn end_capture(&mut self, stream: StreamHandle) -> Result<GraphHandle> {
        let not_begun = || Error::Order("a capture ends that did not begin on this stream".to_owned());
        let part = self.capturing.get(&stream).cloned().ok_or_else(not_begun)?;
        let is_origin = self.captures.get(&part.capture).is_some_and(|capture| capture.origin == stream);
        let capture = if is_origin { self.captures.remove(&part.capture) } else { None };
        let capture = capture.ok_or_else(not_begun)?;
        self.capturing.retain(|_, other| other.capture != part.capture);
        let unjoined = capture.counts.iter().find(|&(other, count)| part.clock.get(other).unwrap_or(&0) < count);
        if unjoined.is_some() {
            let reason = "a capture ends before its first stream waits for what another one does in it";
            return Err(Error::Order(reason.to_owned()));
        }
        let handle = self.new_handle();
        self.graphs.insert(handle, capture.operations.into());
        Ok(GraphHandle(handle))
    }
}

fn refused(action: &str, misuse: &Misuse) -> Error {
    Error::Emulator { action: action.to_owned(), fault: format!("{}: {misuse}", misuse.kind()) }
}

/// The map, after the checks that the driver makes without saying which one failed.
pub(crate) fn tensor_map(encoding: &TensorMapEncoding) -> Result<cachalot_emulator::TensorMap, String> {
    cachalot_emulator::TensorMap::new(&cachalot_emulator::TensorMapArgs {
        data_type: match encoding.dtype {
            DType::F32 => TensorMapType::F32,
            DType::F16 => TensorMapType::F16,
            DType::BF16 => TensorMapType::Bf16,
            DType::I32 => TensorMapType::S32,
            DType::F8E4M3 | DType::F8E8M0 | DType::U8 => TensorMapType::U8,
        },
        global_address: encoding.address,
        global_dims: &encoding.dims,
        global_strides: &encoding.strides,
        box_dims: &encoding.box_dims,
        element_strides: &vec![1; encoding.dims.len()],
        swizzle: match encoding.swizzle {
            Swizzle::None => cachalot_emulator::Swizzle::None,
            Swizzle::Bytes32 => cachalot_emulator::Swizzle::B32,
            Swizzle::Bytes64 => cachalot_emulator::Swizzle::B64,
            Swizzle::Bytes128 => cachalot_emulator::Swizzle::B128,
        },
        fill: OutOfBoundsFill::Zero,
    })
}
