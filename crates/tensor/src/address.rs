//! Places in the memory of a device.

use bytemuck::{Pod, Zeroable};

/// An address in device memory, as kernels take it. It is plain data: it keeps no buffer borrowed, and the host reads nothing there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// What a kernel takes for an argument that is not given.
    pub const NULL: Address = Address(0);

    /// So many bytes further on.
    pub(crate) fn offset(self, num_bytes: usize) -> Address {
        Address(self.0 + num_bytes as u64)
    }
}
