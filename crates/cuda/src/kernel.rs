//! A kernel that can be launched, and the shape of a launch.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::backend::Function;
use crate::{Error, Gpu, Params, Result};

/// A kernel with the argument struct that it takes. Looked up once with [`Gpu::kernel`](crate::Gpu::kernel), which checks that
/// the struct has the size that the kernel expects; launched with [`Stream::launch`](crate::Stream::launch).
#[derive(Debug)]
pub struct Kernel<P> {
    pub(crate) gpu: Gpu,
    pub(crate) name: Arc<str>,
    pub(crate) function: Function,
    params: PhantomData<fn(&P)>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        Kernel { gpu: self.gpu.clone(), name: self.name.clone(), function: self.function, params: PhantomData }
    }
}

impl<P: Params> Kernel<P> {
    pub(crate) fn new(gpu: &Gpu, name: &str, function: Function) -> Result<Kernel<P>> {
        if size_of::<P>() != function.param_bytes {
            return Err(Error::Params {
                kernel: name.to_owned(),
                params: std::any::type_name::<P>(),
                expected: function.param_bytes,
                got: size_of::<P>(),
            });
        }
        Ok(Kernel { gpu: gpu.clone(), name: name.into(), function, params: PhantomData })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The most threads of a block: what `__launch_bounds__` says, or fewer if registers do not suffice.
    pub fn max_threads(&self) -> u32 {
        self.function.max_threads
    }

    /// The most dynamic shared memory of a block.
    pub fn max_dynamic_shared_bytes(&self) -> u32 {
        self.function.max_dynamic_shared_bytes
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch {
    /// Without clusters and dynamic shared memory.
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Launch {
        Launch { grid, block, cluster: [1, 1, 1], shared_bytes: 0 }
    }

    /// With clusters.
    pub const fn cluster(self, cluster: [u32; 3]) -> Launch {
        Launch { cluster, ..self }
    }

    /// With dynamic shared memory.
    pub const fn shared_bytes(self, shared_bytes: u32) -> Launch {
        Launch { shared_bytes, ..self }
    }

    /// What CUDA would answer with nothing but "invalid value", in words. `None` if it can be launched.
    pub(crate) fn refusal(&self, function: &Function) -> Option<String> {
        let threads = product(self.block);
        if product(self.grid) == 0 || threads == 0 || product(self.cluster) == 0 {
            Some("a dimension is 0; skip the launch where there is nothing to do".to_owned())
        } else if self.grid[1].max(self.grid[2]) > 65_535 || self.grid[0] > i32::MAX as u32 {
            Some("a grid has at most 2147483647 × 65535 × 65535 blocks".to_owned())
        } else if self.block[2] > 64 || threads > u64::from(function.max_threads) {
            Some(format!("a block has {threads} threads, at most {} and 64 in z can be", function.max_threads))
        } else if self.shared_bytes > function.max_dynamic_shared_bytes {
            Some(format!("at most {} bytes of dynamic shared memory can be had", function.max_dynamic_shared_bytes))
        } else if let Some(axis) = (0..3).find(|&axis| !self.grid[axis].is_multiple_of(self.cluster[axis])) {
            Some(format!("the grid is no multiple of the cluster in {}", ["x", "y", "z"][axis]))
        } else if product(self.cluster) > 8 {
            Some("a cluster has at most 8 blocks".to_owned())
        } else {
            None
        }
    }
}

fn product(dims: [u32; 3]) -> u64 {
    // Two full dimensions and a third one cannot be launched, so that the product may as well be cut at the largest number.
    dims.iter().fold(1, |product: u64, &dim| product.saturating_mul(u64::from(dim)))
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grid {:?}, block {:?}", self.grid, self.block)?;
        if self.cluster != [1, 1, 1] {
            write!(f, ", cluster {:?}", self.cluster)?;
        }
        if self.shared_bytes != 0 {
            write!(f, ", {} bytes of shared memory", self.shared_bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::FunctionHandle;

    #[test]
    fn impossible_launches_are_refused_in_words() {
        let function =
            Function { handle: FunctionHandle(0), param_bytes: 0, max_threads: 256, max_dynamic_shared_bytes: 100_000 };
        let launch = Launch::new([4, 1, 1], [256, 1, 1]).shared_bytes(100_000).cluster([2, 1, 1]);
        assert_eq!(launch.refusal(&function), None);
        for (launch, reason) in [
            (Launch { grid: [0, 1, 1], ..launch }, "a dimension is 0"),
            (Launch { block: [1, 0, 1], ..launch }, "a dimension is 0"),
            (Launch { grid: [4, 65_536, 1], ..launch }, "a grid has at most"),
            (Launch { grid: [u32::MAX; 3], ..launch }, "a grid has at most"),
            (Launch { block: [257, 1, 1], ..launch }, "a block has 257 threads, at most 256"),
            (Launch { block: [1, 1, 65], ..launch }, "64 in z"),
            (launch.shared_bytes(100_001), "at most 100000 bytes"),
            (launch.cluster([1, 2, 1]), "no multiple of the cluster in y"),
            (Launch { grid: [16, 1, 1], ..launch.cluster([16, 1, 1]) }, "at most 8 blocks"),
        ] {
            let refusal = launch.refusal(&function).unwrap();
            assert!(refusal.contains(reason), "{launch}: {refusal}");
        }
    }
}
