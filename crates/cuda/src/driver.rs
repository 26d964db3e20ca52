//! The backend that speaks to the CUDA driver.
//!
//! cudarc loads `libcuda` at the first call and panics if it is not there, or if it lacks a function; [`start`] therefore comes
//! before every other call. Handles are the driver's pointers as numbers. What makes each call sound is the same everywhere:
//! the context is current on this thread ([`Driver::bind`]), a handle was made by this driver and is destroyed once, by the `Drop`
//! of the type that owns it, and pointers given to the driver point to live values of the type that the driver's reference states.
#![allow(unsafe_code)]

mod start;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cachalot_tensor::DType;
use cudarc::driver::sys;

pub(crate) use start::{devices, has_nvtx};

use crate::backend::{EventHandle, Function, FunctionHandle, GraphHandle, StreamHandle, TensorMapEncoding};
use crate::{DeviceInfo, EmbeddedModule, Error, Launch, MODULES, Result, Swizzle};

/// One GPU.
#[derive(Debug)]
pub(crate) struct Driver {
    device: sys::CUdevice,
    context: Context,
    info: DeviceInfo,
    /// The modules that run on this GPU, loaded.
    modules: HashMap<&'static str, u64>,
    /// What [`Driver::allocate`] gave.
    allocations: Mutex<Vec<u64>>,
}

/// The primary context of a device.
#[derive(Clone, Copy, Debug)]
struct Context(sys::CUcontext);

// SAFETY: the pointer is a name for the driver, which takes it from any thread (CUDA C++ Programming Guide, "Context").
unsafe impl Send for Context {}
// SAFETY: as above; nothing is read through the pointer.
unsafe impl Sync for Context {}

impl Driver {
    pub(crate) fn open(ordinal: usize) -> Result<Driver> {
        let (device, info) = start::device(ordinal)?;
        let mut context = ptr::null_mut();
        // SAFETY: `device` is a device that the driver listed; `context` takes the result.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) }, || format!("opening GPU {info}"))?;
        let mut driver = Driver {
            device,
            context: Context(context),
            info,
            modules: HashMap::new(),
            allocations: Mutex::new(Vec::new()),
        };
        driver.bind()?;
        for module in MODULES.iter().filter(|module| module.archs.iter().any(|arch| driver.info.runs(arch))) {
            driver.modules.insert(module.name, load(module)?);
        }
        Ok(driver)
    }

    /// Makes the context current on this thread. It is looked up by the driver alone, so this costs some ten nanoseconds.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained until `self` is dropped.
        check(unsafe { sys::cuCtxSetCurrent(self.context.0) }, || "binding the context".to_owned())
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        self.bind()?;
        let mut address = 0;
        let num_bytes = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        // SAFETY: `address` takes the result.
        check(unsafe { sys::cuMemAlloc_v2(&mut address, num_bytes) }, || format!("taking {bytes} bytes of memory"))?;
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        Ok(address)
    }

    pub(crate) fn carve(&self, _address: u64, _bytes: u64) -> Result<()> {
        Ok(())
    }

    pub(crate) fn function(&self, module: &'static EmbeddedModule, kernel: &str) -> Result<Function> {
        self.bind()?;
        let Some(&loaded) = self.modules.get(module.name) else {
            let capability = self.info.capability;
            return Err(Error::NotForThisGpu { module: module.name, archs: module.archs, capability });
        };
        let unknown = || Error::UnknownKernel {
            module: module.name,
            kernel: kernel.to_owned(),
            known: module.resources.iter().map(|resources| resources.kernel.to_owned()).collect(),
        };
        let name = CString::new(kernel).map_err(|_| unknown())?;
        let mut function = ptr::null_mut();
        // SAFETY: `loaded` is a module of this context; `name` ends with a zero and outlives the call.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, loaded as sys::CUmodule, name.as_ptr()) };
        if result == sys::CUresult::CUDA_ERROR_NOT_FOUND {
            return Err(unknown());
        }
        check(result, || format!("looking up kernel `{kernel}`"))?;

        let (param_bytes, count) = parameters(function);
        if count != 1 {
            return Err(Error::ParamCount { kernel: kernel.to_owned(), count });
        }
        use sys::CUfunction_attribute::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX_DYNAMIC_SHARED_SIZE_BYTES,
            CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK as MAX_THREADS_PER_BLOCK,
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as SHARED_SIZE_BYTES,
        };
        let attribute = |attribute| {
            let mut value: c_int = 0;
            // SAFETY: `function` is a function of a loaded module; `value` takes the result.
            let result = unsafe { sys::cuFuncGetAttribute(&mut value, attribute, function) };
            check(result, || format!("asking for {attribute:?} of kernel `{kernel}`"))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let max_threads = attribute(MAX_THREADS_PER_BLOCK)?;
        let max_dynamic_shared_bytes = self.info.shared_bytes_per_block.saturating_sub(attribute(SHARED_SIZE_BYTES)?);
        // Beyond 48 KiB a kernel must ask for it. Asking for the most once costs nothing: what a launch takes is in the launch.
        let most = c_int::try_from(max_dynamic_shared_bytes).unwrap_or(c_int::MAX);
        // SAFETY: `function` is a function of a loaded module.
        check(unsafe { sys::cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, most) }, || {
            format!("allowing {most} bytes of shared memory to kernel `{kernel}`")
        })?;
        let handle = FunctionHandle(function as u64);
        Ok(Function { handle, param_bytes, max_threads, max_dynamic_shared_bytes })
    }

    pub(crate) fn encode(&self, encoding: &TensorMapEncoding) -> Result<[u64; 16], String> {
        // The driver answers "invalid value" to all that is wrong; the emulator checks the same and says what.
        crate::emulated::tensor_map(encoding)?;
        use sys::CUtensorMapDataType as Type;
        let data_type = match encoding.dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
            DType::F8E4M3 | DType::F8E8M0 | DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let swizzle = match encoding.swizzle {
            Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let element_strides = vec![1_u32; encoding.dims.len()];
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: each list has as many numbers as the rank asks for (`emulated::tensor_map` checked it) and outlives the call;
        // `map` has the alignment that the driver asks for.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                encoding.dims.len() as u32,
                encoding.address as *mut c_void,
                encoding.dims.as_ptr(),
                encoding.strides.as_ptr(),
                encoding.box_dims.as_ptr(),
                element_strides.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check(result, || "cuTensorMapEncodeTiled".to_owned()).map_err(|error| error.to_string())?;
        Ok(map.opaque)
    }

    pub(crate) fn create_stream(&self) -> Result<StreamHandle> {
        self.bind()?;
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `stream` takes the result.
        check(unsafe { sys::cuStreamCreate(&mut stream, flags) }, || "making a stream".to_owned())?;
        Ok(StreamHandle(stream as u64))
    }

    pub(crate) fn destroy_stream(&self, stream: StreamHandle) {
        // Nobody can act on an error while something is dropped; the context has reported it already, or will.
        if self.bind().is_ok() {
            // SAFETY: see the head of this file.
            _ = unsafe { sys::cuStreamDestroy_v2(stream.0 as sys::CUstream) };
        }
    }

    pub(crate) fn synchronize(&self, stream: StreamHandle, recent: &dyn Fn() -> String) -> Result<()> {
        self.bind()?;
        self.check_not_capturing(stream, "waiting for the stream")?;
        // SAFETY: see the head of this file.
        check(unsafe { sys::cuStreamSynchronize(stream.0 as sys::CUstream) }, || {
            format!("waiting for the stream; launched last, the newest first: {}", recent())
        })
    }

    pub(crate) fn launch(
        &self,
        stream: StreamHandle,
        (name, function): (&Arc<str>, &Function),
        launch: Launch,
        params: &[u8],
    ) -> Result<()> {
        self.bind()?;
        let [x, y, z] = launch.cluster;
        let mut cluster = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            hStream: stream.0 as sys::CUstream,
            attrs: &mut cluster,
            numAttrs: u32::from(launch.cluster != [1, 1, 1]),
        };
        debug_assert_eq!(params.len(), function.param_bytes);
        let mut arguments = [params.as_ptr() as *mut c_void];
        // SAFETY: the kernel has one parameter of `params.len()` bytes: `function` counted it, and `Kernel::new` compared its size
        // with that of the struct. The driver copies it before it returns. Otherwise see the head of this file.
        let result = unsafe {
            let function = function.handle.0 as sys::CUfunction;
            sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), ptr::null_mut())
        };
        check(result, || format!("launch of `{name}` with {launch}"))
    }

    pub(crate) fn upload(&self, stream: StreamHandle, to: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // A captured copy would read the slice whenever the graph is replayed.
        self.check_not_capturing(stream, "an upload")?;
        // SAFETY: the slice is ordinary memory, as this crate pins none: the driver has copied it when the call returns (CUDA
        // Driver API, "API synchronization behavior"). The address is data: a wrong one is an error of the device.
        let result = unsafe {
            let stream = stream.0 as sys::CUstream;
            sys::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), stream)
        };
        check(result, || format!("upload of {} bytes", bytes.len()))
    }

    pub(crate) fn download(
        &self,
        stream: StreamHandle,
        from: u64,
        bytes: &mut [u8],
        recent: &dyn Fn() -> String,
    ) -> Result<()> {
        self.bind()?;
        self.check_not_capturing(stream, "a download")?;
        // SAFETY: the slice is written before `synchronize` returns, while it is borrowed.
        let result = unsafe {
            let stream = stream.0 as sys::CUstream;
            sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from, bytes.len(), stream)
        };
        // Waiting comes before the look at the result: an error on the way must not leave a copy that is under way.
        let waited = self.synchronize(stream, recent);
        let num_bytes = bytes.len();
        check(result, || format!("download of {num_bytes} bytes; launched last, the newest first: {}", recent()))
            .and(waited)
    }

    pub(crate) fn copy(&self, stream: StreamHandle, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file; addresses are data.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, stream.0 as sys::CUstream) };
        check(result, || format!("copy of {bytes} bytes"))
    }

    pub(crate) fn fill(&self, stream: StreamHandle, to: u64, byte: u8, bytes: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file; addresses are data.
        let result = unsafe { sys::cuMemsetD8Async(to, byte, bytes as usize, stream.0 as sys::CUstream) };
        check(result, || format!("fill of {bytes} bytes"))
    }

    pub(crate) fn create_event(&self) -> Result<EventHandle> {
        self.bind()?;
        let mut event = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: `event` takes the result.
        check(unsafe { sys::cuEventCreate(&mut event, flags) }, || "making an event".to_owned())?;
        Ok(EventHandle(event as u64))
    }

    pub(crate) fn destroy_event(&self, event: EventHandle) {
        if self.bind().is_ok() {
            // SAFETY: see the head of this file.
            _ = unsafe { sys::cuEventDestroy_v2(event.0 as sys::CUevent) };
        }
    }

    pub(crate) fn record(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file.
        let result = unsafe { sys::cuEventRecord(event.0 as sys::CUevent, stream.0 as sys::CUstream) };
        check(result, || "recording an event".to_owned())
    }

    pub(crate) fn wait(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file.
        let result = unsafe { sys::cuStreamWaitEvent(stream.0 as sys::CUstream, event.0 as sys::CUevent, 0) };
        check(result, || "waiting for an event on a stream".to_owned())
    }

    pub(crate) fn synchronize_event(&self, event: EventHandle) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file.
        check(unsafe { sys::cuEventSynchronize(event.0 as sys::CUevent) }, || "waiting for an event".to_owned())
    }

    pub(crate) fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<Option<f32>> {
        self.bind()?;
        let mut elapsed = 0.0;
        // SAFETY: see the head of this file.
        let result =
            unsafe { sys::cuEventElapsedTime_v2(&mut elapsed, start.0 as sys::CUevent, end.0 as sys::CUevent) };
        check(result, || "asking for the time between two events".to_owned())?;
        Ok(Some(elapsed))
    }

    pub(crate) fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        self.bind()?;
        // Of this thread alone: another thread that allocates or loads does not spoil the capture.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: see the head of this file.
        let result = unsafe { sys::cuStreamBeginCapture_v2(stream.0 as sys::CUstream, mode) };
        check(result, || "beginning a capture".to_owned())
    }

    pub(crate) fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        self.bind()?;
        let mut graph = ptr::null_mut();
        // SAFETY: see the head of this file.
        let result = unsafe { sys::cuStreamEndCapture(stream.0 as sys::CUstream, &mut graph) };
        check(result, || "ending a capture".to_owned())?;
        let mut executable = ptr::null_mut();
        // SAFETY: `graph` is the graph just captured, and destroyed once, after its last use.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            _ = sys::cuGraphDestroy(graph);
            result
        };
        check(result, || "instantiating a graph".to_owned())?;
        Ok(GraphHandle(executable as u64))
    }

    pub(crate) fn destroy_graph(&self, graph: GraphHandle) {
        if self.bind().is_ok() {
            // SAFETY: see the head of this file.
            _ = unsafe { sys::cuGraphExecDestroy(graph.0 as sys::CUgraphExec) };
        }
    }

    pub(crate) fn replay(&self, stream: StreamHandle, graph: GraphHandle, name: &str) -> Result<()> {
        self.bind()?;
        // SAFETY: see the head of this file.
        let result = unsafe { sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, stream.0 as sys::CUstream) };
        check(result, || format!("replay of graph `{name}`"))
    }

    fn check_not_capturing(&self, stream: StreamHandle, what: &str) -> Result<()> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: see the head of this file; `status` takes the result.
        let result = unsafe { sys::cuStreamIsCapturing(stream.0 as sys::CUstream, &mut status) };
        check(result, || "asking whether a stream is in a capture".to_owned())?;
        if status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            Ok(())
        } else {
            Err(crate::backend::not_in_a_capture(what))
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let allocations = self.allocations.get_mut().unwrap_or_else(PoisonError::into_inner);
        for &address in allocations.iter() {
            // SAFETY: given by `allocate`; streams, events and graphs hold this driver, so all of them are gone.
            _ = unsafe { sys::cuMemFree_v2(address) };
        }
        for &module in self.modules.values() {
            // SAFETY: given by `load`; kernels hold this driver too.
            _ = unsafe { sys::cuModuleUnload(module as sys::CUmodule) };
        }
        // SAFETY: retained once by `open`.
        _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Loads the machine code of a module.
fn load(module: &EmbeddedModule) -> Result<u64> {
    // The driver reads 8-byte fields of the header, which bytes in a binary need not be aligned for.
    let mut image = vec![0_u64; module.fatbin.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut image)[..module.fatbin.len()].copy_from_slice(module.fatbin);
    let mut loaded = ptr::null_mut();
    // SAFETY: the image is a fatbin as nvcc wrote it, which states its own length; the driver copies what it needs.
    let result = unsafe { sys::cuModuleLoadData(&mut loaded, image.as_ptr().cast()) };
    check(result, || {
        format!(
            "loading the kernels of `{}` (compiled for {:?} by CUDA 13.0; the driver speaks {})",
            module.name,
            module.archs,
            start::driver_version().map_or_else(|error| error.to_string(), start::version_name)
        )
    })?;
    Ok(loaded as u64)
}

/// Bytes and number of a kernel's parameters.
fn parameters(function: sys::CUfunction) -> (usize, usize) {
    let (mut bytes, mut count) = (0, 0);
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: `function` is a function of a loaded module; the other two take the result.
        match unsafe { sys::cuFuncGetParamInfo(function, count, &mut offset, &mut size) } {
            sys::CUresult::CUDA_SUCCESS => (bytes, count) = (offset + size, count + 1),
            // "Invalid value" is how the driver says that there is no such parameter.
            _ => return (bytes, count),
        }
    }
}

/// Turns what the driver answered into an error, in the driver's words.
fn check(result: sys::CUresult, action: impl FnOnce() -> String) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let error = cudarc::driver::DriverError(result);
    let text = |text: Result<&CStr, _>| match text {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(cudarc::driver::DriverError(_)) => "unknown error".to_owned(),
    };
    Err(Error::Driver {
        action: action(),
        code: result as u32,
        name: text(error.error_name()),
        text: text(error.error_string()),
    })
}
