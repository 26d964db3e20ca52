//! Where operations run.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

/// The implementation that a [`Context`] dispatches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// candle in f32: the definition of every operation.
    Reference,
    /// Multi-threaded kernels that decode the stored weights as they go.
    Cpu,
}

impl Device {
    /// The name on the command line and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Device::Reference => "reference",
            Device::Cpu => "cpu",
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "reference" => Ok(Device::Reference),
            "cpu" => Ok(Device::Cpu),
            other => Err(format!("unknown device `{other}`; known: cpu, reference")),
        }
    }
}

/// A device and the threads that work for it. Cloning shares the threads.
#[derive(Clone, Debug)]
pub struct Context {
    device: Device,
    pool: Arc<rayon::ThreadPool>,
}

impl Context {
    /// A context with its own persistent threads; one per available core if `num_threads` is not given.
    ///
    /// # Errors
    /// [`Error::Threads`] if the operating system refuses to start them.
    pub fn new(device: Device, num_threads: Option<NonZeroUsize>) -> Result<Self> {
        let num_threads = match num_threads {
            Some(n) => n.get(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .thread_name(|index| format!("cachalot-op-{index}"))
            .build()
            .map_err(|error| Error::Threads { num_threads, reason: error.to_string() })?;
        Ok(Context { device, pool: Arc::new(pool) })
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The threads.
    pub fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_names() {
        for device in [Device::Reference, Device::Cpu] {
            assert_eq!(device.name().parse(), Ok(device));
        }
        assert_eq!("cuda".parse::<Device>(), Err("unknown device `cuda`; known: cpu, reference".to_owned()));
    }

    #[test]
    fn a_context_has_the_threads_asked_for() {
        let threads =
            |num| Context::new(Device::Cpu, NonZeroUsize::new(num)).expect("threads").pool().current_num_threads();
        assert_eq!((threads(1), threads(3)), (1, 3));
        assert_eq!(
            threads(0),
            std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            "one per core if not said"
        );
    }
}
