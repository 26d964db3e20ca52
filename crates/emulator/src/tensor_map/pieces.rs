//! The walk over a box: piece by piece, where in shared memory and where in global memory.

use super::TensorMap;

/// At most sixteen bytes of a box, contiguous on both sides and all inside or all outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes from the beginning of the box in shared memory, swizzled.
    pub(crate) shared_offset: u32,
    /// Length, a multiple of the element's size.
    pub(crate) bytes: u32,
    /// Where the piece is in global memory. `None` outside the tensor: a load fills it, a store or reduction skips it.
    pub(crate) global: Option<u64>,
}

impl TensorMap {
    /// The pieces of the box at `start`, innermost coordinate first, that begins at `shared_address`, in order of
    /// unswizzled shared addresses.
    ///
    /// # Errors
    /// If `start` has not one number a dimension, or `shared_address` is no multiple of 128.
    pub(crate) fn pieces(&self, start: &[i32], shared_address: u32) -> Result<impl Iterator<Item = Piece>, String> {
        if start.len() != self.rank() {
            return Err(format!("{} coordinates for a tensor map of rank {}", start.len(), self.rank()));
        }
        if !shared_address.is_multiple_of(128) {
            return Err(format!(
                "bulk tensor copy at shared address {shared_address:#x}: it must be a multiple of 128"
            ));
        }
        let start: Vec<i64> = start.iter().map(|&coordinate| coordinate.into()).collect();
        let chunks_per_row = self.inner_bytes() / 16;
        Ok((0..self.rows()).flat_map(move |row| {
            let row_address = self.row_address(&start[1..], row);
            let inner_start = start[0];
            (0..chunks_per_row).flat_map(move |chunk| {
                let linear = (row * chunks_per_row + chunk) * 16;
                let offset = self.swizzle.apply(shared_address.wrapping_add(linear)).wrapping_sub(shared_address);
                self.split(row_address, inner_start, chunk, offset)
            })
        }))
    }

    /// Address of the tensor's row that is row `row` of the box at `start`; `None` outside the tensor.
    fn row_address(&self, start: &[i64], row: u32) -> Option<u64> {
        let mut rest = row;
        let mut address = self.global_address;
        for (dimension, start) in self.dimensions[1..].iter().zip(start) {
            let index = rest % dimension.copied();
            rest /= dimension.copied();
            let coordinate = u64::try_from(start + i64::from(index * dimension.step)).ok()?;
            if coordinate >= dimension.size {
                return None;
            }
            address += coordinate * dimension.stride;
        }
        Some(address)
    }

    /// Sixteen bytes of a row, split where the tensor begins and ends.
    fn split(
        &self,
        row: Option<u64>,
        inner_start: i64,
        chunk: u32,
        offset: u32,
    ) -> impl Iterator<Item = Piece> + use<> {
        let element_bytes = i64::from(self.data_type.bytes());
        let count = 16 / element_bytes;
        let first = inner_start + i64::from(chunk) * count;
        // The size is at most 2^32.
        let size = if row.is_some() { self.dimensions[0].size as i64 } else { 0 };
        let inside = (-first).clamp(0, count)..(size - first).clamp(0, count);
        let inside = if inside.is_empty() { count..count } else { inside };
        let address = row.map(|row| row.wrapping_add_signed((first + inside.start) * element_bytes));
        [(0..inside.start, None), (inside.clone(), address), (inside.end..count, None)]
            .into_iter()
            .filter(|(elements, _)| !elements.is_empty())
            .map(move |(elements, global)| Piece {
                shared_offset: offset + (elements.start * element_bytes) as u32,
                bytes: ((elements.end - elements.start) * element_bytes) as u32,
                global,
            })
    }
}
