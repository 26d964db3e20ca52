//! Blocks of columns of a matrix of results, one per thread.
//!
//! Kernels that walk weight rows (or heads) in parallel produce columns of the row-major output. Threads may not share a
//! slice, so the output is handed out as blocks of columns that cannot overlap.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// A range of the columns of all rows, borrowed mutably.
pub(crate) struct ColumnBlock<'a> {
    start: *mut f32,
    row_stride: usize,
    num_rows: usize,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a block is a set of `&mut [f32]`, which may move to another thread; `column_blocks` makes no two that overlap.
unsafe impl Send for ColumnBlock<'_> {}

impl ColumnBlock<'_> {
    /// The columns.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The elements of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.num_rows, "row {row} of {}", self.num_rows);
        // SAFETY: `column_blocks` checked that all rows and columns lie inside the slice that it borrowed for `'a`, and
        // no other block has these columns; `&mut self` keeps two rows of this one from being borrowed at once.
        unsafe {
            let first = self.start.add(row * self.row_stride + self.columns.start);
            std::slice::from_raw_parts_mut(first, self.columns.len())
        }
    }
}

/// Splits `[num_rows, num_cols]` at the start of `values`, with rows `row_stride` apart, into blocks of `block_cols`
/// columns (the last may be narrower).
///
/// # Panics
/// If the rows overlap or reach past the end of `values`, or if a block would have no columns.
pub(crate) fn column_blocks(
    values: &mut [f32],
    [num_rows, num_cols]: [usize; 2],
    row_stride: usize,
    block_cols: usize,
) -> impl IndexedParallelIterator<Item = ColumnBlock<'_>> {
    assert!(block_cols > 0, "blocks without columns");
    if num_rows > 0 && num_cols > 0 {
        assert!(row_stride >= num_cols, "rows of {num_cols} are {row_stride} apart");
        let end = (num_rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(num_cols));
        assert!(end.is_some_and(|end| end <= values.len()), "{num_rows} rows {row_stride} apart in {}", values.len());
    }
    let start = Start(values.as_mut_ptr());
    (0..num_cols.div_ceil(block_cols)).into_par_iter().map(move |block| {
        let first = block * block_cols;
        ColumnBlock {
            start: start.get(),
            row_stride,
            num_rows,
            columns: first..num_cols.min(first + block_cols),
            borrow: PhantomData,
        }
    })
}

/// The address that all blocks count from.
#[derive(Clone, Copy)]
struct Start(*mut f32);

// SAFETY: the address alone gives no access; only `ColumnBlock` reads or writes through it.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

impl Start {
    fn get(self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_block_and_gaps_in_none() {
        for (num_rows, num_cols, row_stride, block_cols) in
            [(3, 7, 9, 2), (1, 1, 1, 5), (2, 8, 8, 4), (0, 5, 5, 1), (4, 0, 0, 3)]
        {
            let mut values = vec![0.0; num_rows * row_stride];
            column_blocks(&mut values, [num_rows, num_cols], row_stride, block_cols).for_each(|mut block| {
                for row in 0..num_rows {
                    block.row_mut(row).iter_mut().for_each(|value| *value += 1.0);
                }
            });
            for (index, &value) in values.iter().enumerate() {
                let expected = if index % row_stride < num_cols { 1.0 } else { 0.0 };
                assert_eq!(value, expected, "element {index} of {num_rows}x{num_cols}, {row_stride} apart");
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 rows 4 apart in 11")]
    fn rows_past_the_end_are_refused() {
        column_blocks(&mut [0.0; 11], [3, 4], 4, 1).for_each(drop);
    }
}
