//! The kernels that the build script compiled and that the binary carries.

/// One source file of `kernels/`, compiled.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedModule {
    /// Path of the source below `kernels/` without its extension: `rms_norm/rms_norm`.
    pub name: &'static str,
    /// Architectures that `fatbin` holds.
    pub archs: &'static [&'static str],
    /// Machine code for these; empty if there are none.
    pub fatbin: &'static [u8],
    /// PTX for `compute_90a`, which the emulator executes.
    pub ptx: &'static str,
    /// What ptxas says about lost performance.
    pub notes: &'static [&'static str],
    /// One entry for each kernel and architecture.
    pub resources: &'static [KernelResources],
}

/// Registers and memory that a kernel takes on one architecture, as ptxas reports them.
#[derive(Clone, Copy, Debug)]
pub struct KernelResources {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Architecture, such as `90a`.
    pub arch: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Local memory of a thread: arrays that are indexed at run time, and spills.
    pub stack_bytes: u32,
    /// Bytes that are stored to local memory because registers ran out.
    pub spill_store_bytes: u32,
    /// Bytes that are loaded back.
    pub spill_load_bytes: u32,
}

/// Every compiled source file, in the order of their names. Empty without the feature `cuda`.
#[cfg(feature = "cuda")]
pub static MODULES: &[EmbeddedModule] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Every compiled source file. Empty without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub static MODULES: &[EmbeddedModule] = &[];
