//! Matrix products of a warp group: descriptors of matrices in shared memory, and the arithmetic of `wgmma.mma_async`.
//!
//! A warp group multiplies 64 rows of A by N columns of B; its warp `w` owns rows `16w..16w + 16`, and what it does
//! depends on no other warp, so warps are computed one by one. Fragments and arithmetic are those of [`crate::mma`]:
//! A in registers is a 16×K fragment with 32 bytes of K, and D is N / 8 fragments of 16×8, one after the other.
//!
//! Left out: sparse and 1-bit forms, and descriptors with a matrix base offset: the PTX ISA says how to compute one, not
//! what it does to an address, and a tile that begins where the swizzle's pattern begins needs none.

mod descriptor;
#[cfg(test)]
mod tests;

pub(crate) use descriptor::{Descriptor, Major};

use crate::mma::{ABlock, Accumulator, BBlock, Block, Element, RegisterCounts};

/// Types and shape of a `wgmma.mma_async`, and what its immediates ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wgmma {
    n: usize,
    k: usize,
    a: Element,
    b: Element,
    accumulator: Accumulator,
    /// Whether the product is subtracted: one of `imm-scale-a` and `imm-scale-b` is −1.
    negative: bool,
    major_a: Major,
    major_b: Major,
}

/// Where A is.
pub(crate) enum OperandA<'a> {
    /// In registers of the warp, as many as [`Wgmma::registers`] says.
    Registers(&'a [[u32; 32]]),
    /// In shared memory.
    Shared(Descriptor),
}

impl Wgmma {
    /// From what follows `wgmma` in the instruction's name:
    /// `["mma_async", "sync", "aligned", "m64n128k16", "f32", "bf16", "bf16"]`. `None` for a form that is not executed.
    /// The immediates are those that negate and transpose nothing.
    pub(crate) fn parse(qualifiers: &[&str]) -> Option<Wgmma> {
        let ["mma_async", "sync", "aligned", shape, types @ ..] = qualifiers else { return None };
        let (n, k) = shape.strip_prefix("m64n")?.split_once('k')?;
        let (n, k): (usize, usize) = (n.parse().ok()?, k.parse().ok()?);
        let (satfinite, types) = match types {
            ["satfinite", types @ ..] => (true, types),
            types => (false, types),
        };
        let [d, a, b] = types else { return None };
        let (a, b) = (Element::parse(a)?, Element::parse(b)?);
        let accumulator = Accumulator::parse(d, satfinite)?;
        // Integers have fewer widths: the ISA's list, which ptxas enforces.
        let step = if matches!(a, Element::S8 | Element::U8) && n > 32 { 16 } else { 8 };
        let fits = Element::multiply(a, b, accumulator)
            && k * a.bytes() == 32
            && (8..=256).contains(&n)
            && n.is_multiple_of(step);
        let (negative, major_a, major_b) = (false, Major::K, Major::K);
        fits.then_some(Wgmma { n, k, a, b, accumulator, negative, major_a, major_b })
    }

    /// With the immediates that follow `scale-d`: `imm-scale-a` and `imm-scale-b` for floating-point types, then
    /// `imm-trans-a` (only if A is in shared memory) and `imm-trans-b` for f16 and bf16.
    ///
    /// # Errors
    /// Says what the instruction wants if the number or a value of the immediates is another.
    pub(crate) fn with_immediates(self, a_in_registers: bool, immediates: &[i64]) -> Result<Wgmma, String> {
        let (scales, transposes) = match self.a {
            Element::F16 | Element::Bf16 if a_in_registers => (2, 1),
            Element::F16 | Element::Bf16 => (2, 2),
            Element::Tf32 | Element::E4m3 | Element::E5m2 => (2, 0),
            Element::S8 | Element::U8 => (0, 0),
        };
        let valid = immediates.len() == scales + transposes
            && immediates[..scales].iter().all(|scale| matches!(scale, 1 | -1))
            && immediates[scales..].iter().all(|transpose| matches!(transpose, 0 | 1));
        if !valid {
            return Err(format!(
                "immediates {immediates:?} after scale-d: wgmma of {:?} takes {scales} scales (1 or -1), \
                 then {transposes} transposes (0 or 1)",
                self.a
            ));
        }
        let major = |transpose: Option<&i64>| if transpose == Some(&1) { Major::MN } else { Major::K };
        let transposes = &immediates[scales..];
        Ok(Wgmma {
            negative: immediates[..scales].iter().product::<i64>() == -1,
            major_a: major(transposes.first().filter(|_| !a_in_registers)),
            major_b: major(transposes.last()),
            ..self
        })
    }

    /// How many registers A (if it is in registers) and D have in a warp; B has none.
    pub(crate) fn registers(&self) -> RegisterCounts {
        RegisterCounts { a: 4, b: 0, c: self.n / 8 * self.accumulator.registers() }
    }
}

/// The rows of `D = A·B + D` that warp `warp_in_group` owns; without `scale_d`, of `D = A·B`.
///
/// `read` gives the sixteen bytes at a shared address that is a multiple of 16; nothing else is read, and its first error
/// ends the product.
pub(crate) fn wgmma_warp<E>(
    op: &Wgmma,
    warp_in_group: usize,
    a: &OperandA<'_>,
    b: &Descriptor,
    scale_d: bool,
    read: &mut dyn FnMut(u32) -> Result<[u8; 16], E>,
    d: &mut [[u32; 32]],
) -> Result<(), E> {
    let mut rows = match a {
        OperandA::Registers(registers) => ABlock::from_registers(op.a, registers),
        OperandA::Shared(descriptor) => read_a(op, descriptor, warp_in_group, read)?,
    };
    if op.negative {
        rows.negate();
    }
    for (group, registers) in d.chunks_exact_mut(op.accumulator.registers()).enumerate() {
        let columns = read_b(op, b, group, read)?;
        let mut block = if scale_d { Block::load(op.accumulator, registers) } else { Block::new() };
        block.add_product(&rows, &columns, op.k);
        block.store(op.accumulator, registers);
    }
    Ok(())
}

/// Rows `16·warp..16·warp + 16` of A.
fn read_a<E>(
    op: &Wgmma,
    descriptor: &Descriptor,
    warp: usize,
    read: &mut dyn FnMut(u32) -> Result<[u8; 16], E>,
) -> Result<ABlock, E> {
    let mut block = ABlock::new();
    match op.major_a {
        Major::K => {
            for row in 0..16 {
                for chunk in 0..2 {
                    let bytes = read(descriptor.k_major_address(16 * warp + row, chunk))?;
                    for (index, word) in words(&bytes) {
                        block.set_word(op.a, row, 4 * chunk + index, word);
                    }
                }
            }
        }
        Major::MN => {
            for half in 0..2 {
                for k in 0..op.k {
                    let bytes = read(descriptor.mn_major_address(2 * warp + half, k))?;
                    for (offset, value) in pairs(op.a, &bytes) {
                        block.set(8 * half + offset, k, value);
                    }
                }
            }
        }
    }
    Ok(block)
}

/// Columns `8·group..8·group + 8` of B.
fn read_b<E>(
    op: &Wgmma,
    descriptor: &Descriptor,
    group: usize,
    read: &mut dyn FnMut(u32) -> Result<[u8; 16], E>,
) -> Result<BBlock, E> {
    let mut block = BBlock::new();
    match op.major_b {
        Major::K => {
            for column in 0..8 {
                for chunk in 0..2 {
                    let bytes = read(descriptor.k_major_address(8 * group + column, chunk))?;
                    for (index, word) in words(&bytes) {
                        block.set_word(op.b, column, 4 * chunk + index, word);
                    }
                }
            }
        }
        Major::MN => {
            for k in 0..op.k {
                let bytes = read(descriptor.mn_major_address(group, k))?;
                for (offset, value) in pairs(op.b, &bytes) {
                    block.set(k, offset, value);
                }
            }
        }
    }
    Ok(block)
}

/// The four words of sixteen bytes, each with its index.
fn words(bytes: &[u8; 16]) -> impl Iterator<Item = (usize, u32)> {
    let (words, _) = bytes.as_chunks();
    words.iter().enumerate().map(|(index, bytes)| (index, u32::from_le_bytes(*bytes)))
}

/// The eight 16-bit elements of sixteen bytes, each with its index: only they come MN-major.
fn pairs(element: Element, bytes: &[u8; 16]) -> impl Iterator<Item = (usize, f64)> {
    words(bytes).flat_map(move |(index, word)| {
        let [low, high, ..] = element.decode(word);
        [(2 * index, low), (2 * index + 1, high)]
    })
}
