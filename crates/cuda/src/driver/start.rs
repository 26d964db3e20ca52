//! Finding the driver and its GPUs, on machines that may have neither.

use std::ffi::c_int;
use std::sync::OnceLock;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute};

use super::check;
use crate::{DeviceInfo, Error, Result};

/// The oldest driver that has every function that this crate calls: `cuEventElapsedTime_v2` came last, with 12.8.
const OLDEST_DRIVER: c_int = 12_080;

/// Loads and initialises the driver, once.
///
/// # Errors
/// [`Error::NoDriver`] if the library is not there, is too old, or finds no GPU.
fn start() -> Result<()> {
    static STARTED: OnceLock<Result<()>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // SAFETY: looks whether the library can be loaded; loading the CUDA driver runs its initialisers, which is what it is for.
            if !unsafe { sys::is_culib_present() } {
                let reason = "libcuda.so.1 cannot be loaded; it comes with NVIDIA's driver".to_owned();
                return Err(Error::NoDriver { reason });
            }
            let version = driver_version()?;
            if version < OLDEST_DRIVER {
                let (version, oldest) = (version_name(version), version_name(OLDEST_DRIVER));
                let reason = format!("the driver speaks CUDA {version}, {oldest} is needed: install a newer driver");
                return Err(Error::NoDriver { reason });
            }
            // SAFETY: the first call of all others; the flags must be 0.
            check(unsafe { sys::cuInit(0) }, || "starting the driver".to_owned())
                .map_err(|error| Error::NoDriver { reason: error.to_string() })
        })
        .clone()
}

/// The version of the driver's interface: 12080 for CUDA 12.8.
pub(super) fn driver_version() -> Result<c_int> {
    let mut version = 0;
    // SAFETY: may be called before `cuInit`; `version` takes the result.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }, || "asking for the driver's version".to_owned())?;
    Ok(version)
}

/// `12.8` for 12080.
pub(super) fn version_name(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Every GPU that the driver lists.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>> {
    (0..count()?).map(|ordinal| device(ordinal).map(|(_, info)| info)).collect()
}

fn count() -> Result<usize> {
    start()?;
    let count = result::device::get_count().map_err(|error| failed("counting the GPUs", error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// One GPU.
pub(super) fn device(ordinal: usize) -> Result<(sys::CUdevice, DeviceInfo)> {
    let count = count()?;
    let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
    let number = number.ok_or(Error::NoDevice { ordinal, count })?;
    let device = result::device::get(number).map_err(|error| failed("opening a GPU", error))?;
    use CUdevice_attribute as Attribute;
    let attribute = |attribute| {
        // SAFETY: `device` is a device that the driver listed.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value
            .map(|value| u32::try_from(value).unwrap_or(0))
            .map_err(|error| failed("asking for attributes of a GPU", error))
    };
    // SAFETY: `device` is a device that the driver listed.
    let memory_bytes = unsafe { result::device::total_mem(device) };
    let info = DeviceInfo {
        ordinal,
        name: result::device::get_name(device).map_err(|error| failed("asking for a GPU's name", error))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes: memory_bytes.map_err(|error| failed("asking for a GPU's memory", error))? as u64,
        num_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    };
    Ok((device, info))
}

fn failed(action: &str, error: cudarc::driver::DriverError) -> Error {
    match check(error.0, || action.to_owned()) {
        Err(error) => error,
        // `DriverError` is never made of a success.
        Ok(()) => Error::NoDriver { reason: action.to_owned() },
    }
}

/// Whether the library behind [`Gpu::range`](crate::Gpu::range) can be loaded.
pub(crate) fn has_nvtx() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: looks whether the library can be loaded; its initialisers do nothing but connect to a profiler.
    *PRESENT.get_or_init(|| unsafe { cudarc::nvtx::sys::is_culib_present() })
}
