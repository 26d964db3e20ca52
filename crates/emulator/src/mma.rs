//! Warp-level matrix products: fragments and arithmetic of `mma.sync`, `ldmatrix`, `stmatrix` and `movmatrix`.
//!
//! All shapes executed here are `m16n8kK` with 16 or 32 bytes of K, and for those the PTX ISA 9.0
//! ("Matrix multiply-accumulate operation using mma instruction") describes one layout for every element type. With `g = lane / 4`, `t = lane % 4`:
//! - A, register `r`: row `g + 8·(r % 2)`, bytes `4t + 16·(r / 2)` and the next three of that row;
//! - B, register `r`: column `g`, bytes `4t + 16·r` and the next three of that column;
//! - C and D: rows `g` and `g + 8`, columns `2t` and `2t + 1`; two registers of f32 or s32 a row, or one of packed f16.
//!
//! Arithmetic: products are exact, sums are taken in f64, and the result is rounded once, to nearest even. The ISA leaves
//! order and rounding of the sums open, and tensor cores align the products and truncate, so a GPU may differ in the last
//! bits; fp8 on Hopper keeps about 14 bits inside one instruction (DeepSeek-V3 report, section 3.3.2). Neither is
//! modelled. Integer products are exact, and wrap or saturate once, at the end.
//!
//! Left out: `m8n8k4`, sparse, block-scaled, 4-bit, 1-bit and f64 forms.

mod block;
mod element;
mod matrices;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use block::{ABlock, BBlock, Block};
pub(crate) use element::{Accumulator, Element};
pub(crate) use matrices::{MatrixOrder, ldmatrix, movmatrix, stmatrix};

/// Types and shape of an `mma.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mma {
    k: usize,
    a: Element,
    b: Element,
    accumulator: Accumulator,
}

/// How many registers each operand of a matrix product has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegisterCounts {
    /// Registers of A.
    pub(crate) a: usize,
    /// Registers of B.
    pub(crate) b: usize,
    /// Registers of C, and as many of D.
    pub(crate) c: usize,
}

impl Mma {
    /// From what follows `mma` in the instruction's name: `["sync", "aligned", "m16n8k16", "row", "col", "f32", ...]`.
    /// `None` for a form that is not executed.
    pub(crate) fn parse(qualifiers: &[&str]) -> Option<Mma> {
        let ["sync", "aligned", shape, "row", "col", types @ ..] = qualifiers else { return None };
        let k = shape.strip_prefix("m16n8k")?.parse().ok()?;
        let (satfinite, types) = match types {
            ["satfinite", types @ ..] => (true, types),
            types => (false, types),
        };
        let [d, a, b, c] = types else { return None };
        // The ISA lets D and C differ for m8n8k4 only, and ptxas refuses it elsewhere.
        if d != c {
            return None;
        }
        let (a, b) = (Element::parse(a)?, Element::parse(b)?);
        let accumulator = Accumulator::parse(d, satfinite)?;
        let fits = Element::multiply(a, b, accumulator) && matches!(k * a.bytes(), 16 | 32);
        fits.then_some(Mma { k, a, b, accumulator })
    }

    /// How many registers the operands have.
    pub(crate) fn registers(&self) -> RegisterCounts {
        let k_bytes = self.k * self.a.bytes();
        RegisterCounts { a: k_bytes / 8, b: k_bytes / 16, c: self.accumulator.registers() }
    }
}

/// `D = A·B + C` of one warp. The slices have the lengths of [`Mma::registers`].
pub(crate) fn mma_sync(op: &Mma, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
    let a = ABlock::from_registers(op.a, a);
    let b = BBlock::from_registers(op.b, b);
    let mut block = Block::load(op.accumulator, c);
    block.add_product(&a, &b, op.k);
    block.store(op.accumulator, d);
}
