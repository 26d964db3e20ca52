//! 8×8 matrices of 16-bit elements between shared memory and fragments: `ldmatrix`, `stmatrix` and `movmatrix`.
//!
//! In a fragment, lane `l` holds elements `2·(l % 4)` and the next of row `l / 4` (PTX ISA 9.0, ldmatrix).

/// Whether the rows in memory are the rows of the fragment, or its columns (`.trans`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixOrder {
    Rows,
    Columns,
}

/// Row and first byte in memory of the two elements in a lane's register, lower half first.
fn places(order: MatrixOrder, lane: usize) -> [(usize, usize); 2] {
    let (outer, inner) = (lane / 4, 2 * (lane % 4));
    match order {
        MatrixOrder::Rows => [(outer, 2 * inner), (outer, 2 * inner + 2)],
        MatrixOrder::Columns => [(inner, 2 * outer), (inner + 1, 2 * outer)],
    }
}

/// Registers of one, two or four matrices, one a matrix; `rows` are the sixteen bytes at the addresses that lanes
/// 0, 1, 2, ... give, eight a matrix.
pub(crate) fn ldmatrix(order: MatrixOrder, rows: &[[u8; 16]], registers: &mut [[u32; 32]]) {
    for (matrix, register) in rows.chunks_exact(8).zip(registers) {
        for (lane, word) in register.iter_mut().enumerate() {
            let [low, high] =
                places(order, lane).map(|(row, byte)| u16::from_le_bytes([matrix[row][byte], matrix[row][byte + 1]]));
            *word = u32::from(low) | u32::from(high) << 16;
        }
    }
}

/// The inverse of [`ldmatrix`]: the sixteen bytes to write at each lane's address.
pub(crate) fn stmatrix(order: MatrixOrder, registers: &[[u32; 32]], rows: &mut [[u8; 16]]) {
    for (matrix, register) in rows.chunks_exact_mut(8).zip(registers) {
        for (lane, word) in register.iter().enumerate() {
            let halves = [word & 0xffff, word >> 16];
            for ((row, byte), half) in places(order, lane).into_iter().zip(halves) {
                matrix[row][byte..byte + 2].copy_from_slice(&half.to_le_bytes()[..2]);
            }
        }
    }
}

/// The transposed matrix: `movmatrix.sync.aligned.m8n8.trans.b16`.
pub(crate) fn movmatrix(a: &[u32; 32]) -> [u32; 32] {
    let mut rows = [[0; 16]; 8];
    stmatrix(MatrixOrder::Rows, &[*a], &mut rows);
    let mut d = [[0; 32]];
    ldmatrix(MatrixOrder::Columns, &rows, &mut d);
    d[0]
}
