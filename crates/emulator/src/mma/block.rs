//! The 16×8 product that `mma` does once and `wgmma` does for every eight columns.

use super::element::{Accumulator, Element};

/// The most elements of K in one instruction.
const MAX_K: usize = 32;

/// Row and register of each 32-bit word of A: `(row, first byte of K)`.
fn a_place(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register % 2), 4 * (lane % 4) + 16 * (register / 2))
}

/// Sixteen rows of A.
pub(crate) struct ABlock {
    /// `[row][k]`
    values: [[f64; MAX_K]; 16],
}

impl ABlock {
    /// Of zeros.
    pub(crate) fn new() -> ABlock {
        ABlock { values: [[0.0; MAX_K]; 16] }
    }

    /// From a warp's registers.
    pub(crate) fn from_registers(element: Element, registers: &[[u32; 32]]) -> ABlock {
        let mut block = ABlock::new();
        for (register, words) in registers.iter().enumerate() {
            for (lane, &word) in words.iter().enumerate() {
                let (row, byte) = a_place(lane, register);
                block.set_word(element, row, byte, word);
            }
        }
        block
    }

    /// Sets the elements in the four bytes of `row` that begin at `byte` of K.
    pub(crate) fn set_word(&mut self, element: Element, row: usize, byte: usize, word: u32) {
        let (count, k) = (4 / element.bytes(), byte / element.bytes());
        self.values[row][k..k + count].copy_from_slice(&element.decode(word)[..count]);
    }

    /// Sets one element.
    pub(crate) fn set(&mut self, row: usize, k: usize, value: f64) {
        self.values[row][k] = value;
    }

    /// Multiplies every element by −1.
    pub(crate) fn negate(&mut self) {
        for value in self.values.as_flattened_mut() {
            *value = -*value;
        }
    }
}

/// Eight columns of B.
pub(crate) struct BBlock {
    /// `[k][column]`
    values: [[f64; 8]; MAX_K],
}

impl BBlock {
    /// Of zeros.
    pub(crate) fn new() -> BBlock {
        BBlock { values: [[0.0; 8]; MAX_K] }
    }

    /// From a warp's registers.
    pub(crate) fn from_registers(element: Element, registers: &[[u32; 32]]) -> BBlock {
        let mut block = BBlock::new();
        for (register, words) in registers.iter().enumerate() {
            for (lane, &word) in words.iter().enumerate() {
                block.set_word(element, lane / 4, 4 * (lane % 4) + 16 * register, word);
            }
        }
        block
    }

    /// Sets the elements in the four bytes of `column` that begin at `byte` of K.
    pub(crate) fn set_word(&mut self, element: Element, column: usize, byte: usize, word: u32) {
        let (count, k) = (4 / element.bytes(), byte / element.bytes());
        for (offset, value) in element.decode(word)[..count].iter().enumerate() {
            self.values[k + offset][column] = *value;
        }
    }

    /// Sets one element.
    pub(crate) fn set(&mut self, k: usize, column: usize, value: f64) {
        self.values[k][column] = value;
    }
}

/// Sixteen rows and eight columns of C or D.
pub(crate) struct Block {
    values: [[f64; 8]; 16],
}

impl Block {
    /// Of zeros.
    pub(crate) fn new() -> Block {
        Block { values: [[0.0; 8]; 16] }
    }

    /// From a warp's registers.
    pub(crate) fn load(accumulator: Accumulator, registers: &[[u32; 32]]) -> Block {
        let mut block = Block::new();
        let per_row = accumulator.registers() / 2;
        for (half, registers) in registers.chunks_exact(per_row).enumerate() {
            for lane in 0..32 {
                let pair = [registers[0][lane], registers[per_row - 1][lane]];
                let columns = 2 * (lane % 4)..2 * (lane % 4) + 2;
                block.values[lane / 4 + 8 * half][columns].copy_from_slice(&accumulator.decode(pair));
            }
        }
        block
    }

    /// Into a warp's registers.
    pub(crate) fn store(&self, accumulator: Accumulator, registers: &mut [[u32; 32]]) {
        let per_row = accumulator.registers() / 2;
        for (half, registers) in registers.chunks_exact_mut(per_row).enumerate() {
            for lane in 0..32 {
                let (row, column) = (&self.values[lane / 4 + 8 * half], 2 * (lane % 4));
                let pair = accumulator.encode([row[column], row[column + 1]]);
                for (register, bits) in registers.iter_mut().zip(pair) {
                    register[lane] = bits;
                }
            }
        }
    }

    /// Adds `A·B`, of which the first `k` columns and rows count.
    pub(crate) fn add_product(&mut self, a: &ABlock, b: &BBlock, k: usize) {
        for (sums, a) in self.values.iter_mut().zip(&a.values) {
            for (&a, b) in a.iter().zip(&b.values).take(k) {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
    }
}
