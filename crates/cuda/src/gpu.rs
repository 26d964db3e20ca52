//! A GPU, or the emulator of one: its arena, its kernels, and what is made of it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachalot_tensor::{Buffer, DType, Shape, View};

use crate::arena::Arena;
use crate::backend::Backend;
use crate::{
    Address, EmbeddedModule, Error, Event, Kernel, MODULES, Params, Result, Stream, TensorMap, TensorMapArgs,
    tensor_map,
};

/// What is known about a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, counted from 0.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability: `(9, 0)` for Hopper.
    pub capability: (u32, u32),
    /// Bytes of memory; the arena of an emulator is limited by the host alone, and this is 0.
    pub memory_bytes: u64,
    /// Number of streaming multiprocessors.
    pub num_multiprocessors: u32,
    /// The most shared memory that a block can ask for.
    pub shared_bytes_per_block: u32,
}

impl DeviceInfo {
    /// Whether machine code for `arch` runs here. Code for `90` runs on 9.0 and later 9.x, for `90a` on 9.0 alone, for `90f`
    /// like `90` (CUDA C++ Programming Guide, "Compute Capability and Streaming Multiprocessor Versions").
    pub fn runs(&self, arch: &str) -> bool {
        let digits = arch.trim_end_matches(['a', 'f']);
        let Ok(number) = digits.parse::<u32>() else {
            return false;
        };
        let (major, minor) = (number / 10, number % 10);
        if arch.ends_with('a') {
            self.capability == (major, minor)
        } else {
            self.capability.0 == major && self.capability.1 >= minor
        }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceInfo { ordinal, name, capability: (major, minor), memory_bytes, num_multiprocessors, .. } = self;
        let mebibytes = memory_bytes >> 20;
        write!(f, "{ordinal}: {name}, compute capability {major}.{minor}, {mebibytes} MiB, {num_multiprocessors} SMs")
    }
}

/// One GPU, or the emulator of one. Clones are the same GPU; it is closed when the last clone and everything made of it is gone.
#[derive(Clone, Debug)]
pub struct Gpu(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Backend,
    arena: Mutex<Arena>,
}

impl Gpu {
    /// Opens a GPU, takes `arena_bytes` of its memory and loads every kernel that was compiled for it.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] without the feature `cuda`, [`Error::NoDriver`] and [`Error::NoDevice`] where there is no GPU,
    /// [`Error::Driver`] if the driver refuses something.
    pub fn open(ordinal: usize, arena_bytes: u64) -> Result<Gpu> {
        Gpu::with(Backend::open(ordinal), arena_bytes)
    }

    /// An emulated H100: the same calls, executed by `cachalot-emulator` on the CPU with all its checks.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] without the feature `cuda`.
    pub fn emulated(arena_bytes: u64) -> Result<Gpu> {
        Gpu::with(Backend::emulated(), arena_bytes)
    }

    fn with(backend: Result<Backend>, arena_bytes: u64) -> Result<Gpu> {
        let backend = backend?;
        let arena = Mutex::new(Arena::new(backend.allocate(arena_bytes)?, arena_bytes));
        Ok(Gpu(Arc::new(Inner { backend, arena })))
    }

    /// The GPUs of this machine.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] or [`Error::NoDriver`] say why there are none.
    pub fn devices() -> Result<Vec<DeviceInfo>> {
        Backend::devices()
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        self.0.backend.info()
    }

    /// Whether it is an emulator.
    pub fn is_emulated(&self) -> bool {
        self.0.backend.is_emulated()
    }

    /// A buffer in the arena. Its contents are not defined until something writes them; the emulator reports who reads before.
    ///
    /// # Errors
    /// [`Error::ArenaFull`], or [`Error::Sealed`] after [`seal`](Gpu::seal).
    pub fn alloc(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Buffer> {
        let shape = shape.into();
        let bytes = (shape.num_elements() * dtype.size_bytes()) as u64;
        let address = self.arena().take(bytes)?;
        if bytes > 0 {
            self.0.backend.carve(address, bytes)?;
        }
        Ok(Buffer::on_device(dtype, shape, Address(address)))
    }

    /// Ends the planning: from here on [`alloc`](Gpu::alloc) is an error.
    pub fn seal(&self) {
        self.arena().seal();
    }

    /// Bytes of the arena that are taken, and all of its bytes.
    pub fn arena_use(&self) -> (u64, u64) {
        let arena = self.arena();
        (arena.used(), arena.total())
    }

    /// Handles of one GPU mean nothing to another.
    pub(crate) fn check_same(&self, other: &Gpu, what: &str) -> Result<()> {
        if Arc::ptr_eq(&self.0, &other.0) {
            Ok(())
        } else {
            Err(Error::Order(format!("{what} belongs to {}, the stream to {}", other.info(), self.info())))
        }
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.0.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a kernel up by the path of its source below `kernels/`, without extension, and its name there:
    /// `gpu.kernel::<RmsNormParams>("rms_norm/rms_norm", "rms_norm_bf16")`.
    ///
    /// # Errors
    /// [`Error::UnknownModule`], [`Error::UnknownKernel`], [`Error::NotForThisGpu`], or [`Error::Params`] if `P` has not the
    /// size that the kernel takes.
    pub fn kernel<P: Params>(&self, module: &str, kernel: &str) -> Result<Kernel<P>> {
        let embedded = module_named(module)?;
        Kernel::new(self, kernel, self.0.backend.function(embedded, kernel)?)
    }

    /// Describes `view` to the bulk copies of sm_90.
    ///
    /// # Errors
    /// [`Error::TensorMap`] says which rule is broken: the view begins at a multiple of 16 bytes, its rows are a multiple of 16
    /// bytes apart, a row of the box is a multiple of 16 bytes, ...
    pub fn tensor_map(&self, view: View<'_>, args: &TensorMapArgs) -> Result<TensorMap> {
        let encoding = tensor_map::encoding(&view, args)?;
        let refuse = |reason| Error::TensorMap { shape: view.shape(), dtype: view.dtype(), reason };
        self.0.backend.encode(&encoding).map(TensorMap::new).map_err(refuse)
    }

    /// A stream: operations on it happen in order.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn stream(&self) -> Result<Stream> {
        Stream::new(self)
    }

    /// An event, not recorded yet.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn event(&self) -> Result<Event> {
        Event::new(self)
    }
}

fn module_named(name: &str) -> Result<&'static EmbeddedModule> {
    MODULES.iter().find(|module| module.name == name).ok_or_else(|| Error::UnknownModule {
        module: name.to_owned(),
        known: MODULES.iter().map(|module| module.name).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_runs_where_the_programming_guide_says() {
        let at = |major, minor| DeviceInfo {
            ordinal: 0,
            name: String::new(),
            capability: (major, minor),
            memory_bytes: 0,
            num_multiprocessors: 0,
            shared_bytes_per_block: 0,
        };
        for (arch, capability, runs) in [
            ("80", (8, 0), true),
            ("80", (8, 9), true),
            ("89", (8, 6), false),
            ("80", (9, 0), false),
            ("90a", (9, 0), true),
            ("100a", (10, 0), true),
            ("100a", (10, 3), false),
            ("100f", (10, 3), true),
            ("120", (12, 1), true),
            ("", (9, 0), false),
        ] {
            assert_eq!(at(capability.0, capability.1).runs(arch), runs, "{arch} on {capability:?}");
        }
    }
}
