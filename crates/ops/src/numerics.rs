//! Number formats, and dot products with rows of stored weights.
//!
//! Weights are never widened as a whole: a [`Row`] is a piece of one weight row in its stored form, and the kernels here
//! decode it in registers. Every reduction runs in [`LANES`] accumulators, element `i` of a block in lane `i % 16`, blocks
//! one after the other, so that its order depends on the row's length (and the width of its FP8 blocks) only.

use cachalot_tensor::{DType, Element, F8E4M3, Matrix, View};
use half::{bf16, f16};

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::{Error, Result};

/// Largest finite e4m3 value.
pub const E4M3_MAX: f32 = 448.0;

/// The value of each of the 256 e4m3 codes.
pub(crate) static E4M3_TO_F32: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_e4m3(code as u8);
        code += 1;
    }
    table
};

const fn decode_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f32);
    let magnitude = if code & 0x7f == 0x7f {
        f32::NAN
    } else if exponent == 0 {
        mantissa / 512.0
    } else {
        (1.0 + mantissa / 8.0) * f32::from_bits((exponent as u32 + 120) << 23)
    };
    if code >= 0x80 { -magnitude } else { magnitude }
}

/// The value of a `float8_e4m3fn`: 4 exponent bits with bias 7, 3 mantissa bits, subnormals, no infinities; `0x7F` and
/// `0xFF` are NaN.
pub fn e4m3_to_f32(value: F8E4M3) -> f32 {
    E4M3_TO_F32[value.0 as usize]
}

/// The nearest `float8_e4m3fn`, ties to the even mantissa. Whatever is larger than 448, infinity included, becomes 448;
/// NaN stays NaN.
pub fn f32_to_e4m3(value: f32) -> F8E4M3 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs();
    let code = if magnitude.is_nan() {
        0x7f
    } else if magnitude >= E4M3_MAX {
        0x7e
    } else if magnitude < 1.0 / 64.0 {
        // Subnormals are multiples of 2^-9; eight of them are the smallest normal value, whose code is 8.
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
        (rounded - (120 << 3)) as u8
    };
    F8E4M3(sign | code)
}

/// One row of floats as stored: of an embedding table, an activation, the weight of a norm.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16.
    F16(&'a [f16]),
    /// bf16.
    BF16(&'a [bf16]),
}

/// A piece of one row of an FP8 matrix: element `i` is `values[i] * scales[i / block]`. It starts at a block boundary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F8Row<'a> {
    values: &'a [u8],
    scales: &'a [f32],
    block: usize,
}

impl<'a> Row<'a> {
    /// Row `row` of a view of floats, all dimensions but the first flattened.
    ///
    /// # Panics
    /// If there is no such row, or if the view does not hold floats, which callers check with `Dims::float`.
    pub(crate) fn of_view(view: &View<'a>, row: usize) -> Self {
        fn typed<'a, T: Element>(view: &View<'a>, row: usize) -> &'a [T] {
            view.row(row).expect("matched on the dtype")
        }
        match view.dtype() {
            DType::F32 => Row::F32(typed(view, row)),
            DType::F16 => Row::F16(typed(view, row)),
            DType::BF16 => Row::BF16(typed(view, row)),
            other => panic!("a row of {other} is not a row of floats"),
        }
    }

    /// A vector of floats, such as the weight of a norm.
    ///
    /// # Panics
    /// If the view is not a vector of floats, which callers check with `Dims::float`.
    pub(crate) fn of_vector(view: &View<'a>) -> Self {
        fn typed<'a, T: Element>(view: &View<'a>) -> &'a [T] {
            view.as_slice().expect("matched on the dtype")
        }
        match view.dtype() {
            DType::F32 => Row::F32(typed(view)),
            DType::F16 => Row::F16(typed(view)),
            DType::BF16 => Row::BF16(typed(view)),
            other => panic!("a vector of {other} is not a vector of floats"),
        }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Row::F32(values) => values.len(),
            Row::F16(values) => values.len(),
            Row::BF16(values) => values.len(),
        }
    }

    /// `out[i] = row[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn decode(&self, out: &mut [f32]) {
        assert_eq!(self.len(), out.len(), "lengths of a row and of its decoded form");
        dispatch(Decode { row: *self, out });
    }

    /// `Σ_i x[i] * row[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn dot(&self, x: &[f32]) -> f32 {
        assert_eq!(self.len(), x.len(), "lengths of a row and of the other factor");
        dispatch(Dot { row: *self, x })
    }
}

/// The rows of a [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// f32.
    F32(&'a [f32], usize),
    /// f16.
    F16(&'a [f16], usize),
    /// bf16.
    BF16(&'a [bf16], usize),
    /// FP8 with scales.
    F8(F8Rows<'a>),
}

/// The rows of an FP8 [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct F8Rows<'a> {
    /// `[num_rows, num_cols]`.
    values: &'a [u8],
    /// `[ceil(num_rows / block[0]), ceil(num_cols / block[1])]`.
    scales: &'a [f32],
    /// Rows and columns of a block.
    block: [usize; 2],
    /// Length of a row.
    pub(crate) num_cols: usize,
}

impl<'a> F8Rows<'a> {
    /// Row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> F8Row<'a> {
        let blocks = self.num_cols.div_ceil(self.block[1]);
        let first = row / self.block[0] * blocks;
        F8Row {
            values: &self.values[row * self.num_cols..(row + 1) * self.num_cols],
            scales: &self.scales[first..first + blocks],
            block: self.block[1],
        }
    }
}

impl<'a> Rows<'a> {
    /// The rows of `matrix`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if its dtype is none of f32, f16, bf16 without and FP8 with block scales.
    pub(crate) fn of_matrix(op: &'static str, matrix: &'a Matrix) -> Result<Self> {
        fn slice<'a, T: Element>(op: &'static str, matrix: &'a Matrix) -> Result<&'a [T]> {
            matrix.values().as_slice().map_err(|source| Error::Tensor { op, source })
        }
        let num_cols = matrix.num_cols();
        match (matrix.values().dtype(), matrix.scales()) {
            (DType::F32, None) => Ok(Rows::F32(slice(op, matrix)?, num_cols)),
            (DType::F16, None) => Ok(Rows::F16(slice(op, matrix)?, num_cols)),
            (DType::BF16, None) => Ok(Rows::BF16(slice(op, matrix)?, num_cols)),
            (DType::F8E4M3, Some(scales)) => Ok(Rows::F8(F8Rows {
                values: bytemuck::cast_slice(slice::<F8E4M3>(op, matrix)?),
                scales: scales.scales.as_slice().map_err(|source| Error::Tensor { op, source })?,
                block: scales.block,
                num_cols,
            })),
            (dtype, scales) => Err(Error::Unsupported {
                op,
                got: format!("a {dtype} weight with{} block scales", if scales.is_some() { "" } else { "out" }),
                supported: "F32, F16, BF16 without and F8_E4M3 with block scales",
            }),
        }
    }
}

/// Elements that can be read as vectors.
pub(crate) trait Stored: Copy {
    /// Number of elements.
    fn len(self) -> usize;
    /// Elements per scale; every block starts a new vector.
    fn block(self) -> usize;
    /// Several vectors' worth of elements.
    type Vectors: Copy;
    /// `num_vectors` vectors from element `start` on. The number is that of the slice inside, where the compiler sees it:
    /// a loop over it needs no check per vector.
    fn vectors(self, start: usize, num_vectors: usize) -> Self::Vectors;
    /// Vector `index`.
    fn load_vector<S: Simd>(simd: S, vectors: Self::Vectors, index: usize, scale: S::F32s) -> S::F32s;
    /// The scale of a block, as [`load`](Self::load) takes it.
    fn scale<S: Simd>(self, simd: S, block: usize) -> S::F32s;
    /// The elements from `start`; those from `end` on, if the vector reaches that far, are zero.
    fn load<S: Simd>(self, simd: S, start: usize, end: usize, scale: S::F32s) -> S::F32s;
}

/// The fewer than [`LANES`] elements at the end of a row, followed by zeros.
#[inline(always)]
fn padded<T: Copy + Default>(values: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    padded[..values.len()].copy_from_slice(values);
    padded
}

#[inline(always)]
fn vectors<T>(values: &[T], start: usize, num_vectors: usize) -> &[[T; LANES]] {
    &values[start..].as_chunks().0[..num_vectors]
}

macro_rules! stored_without_scales {
    ($($element:ty => $load:ident),*) => {$(
        impl<'a> Stored for &'a [$element] {
            type Vectors = &'a [[$element; LANES]];

            #[inline(always)]
            fn vectors(self, start: usize, num_vectors: usize) -> Self::Vectors {
                vectors(self, start, num_vectors)
            }
            #[inline(always)]
            fn load_vector<S: Simd>(simd: S, vectors: Self::Vectors, index: usize, _scale: S::F32s) -> S::F32s {
                simd.$load(&vectors[index])
            }
            #[inline(always)]
            fn len(self) -> usize {
                self.len()
            }
            #[inline(always)]
            fn block(self) -> usize {
                self.len()
            }
            #[inline(always)]
            fn scale<S: Simd>(self, simd: S, _block: usize) -> S::F32s {
                simd.splat(1.0)
            }
            #[inline(always)]
            fn load<S: Simd>(self, simd: S, start: usize, end: usize, _scale: S::F32s) -> S::F32s {
                match self[start..end].first_chunk() {
                    Some(full) => simd.$load(full),
                    None => simd.$load(&padded(&self[start..end])),
                }
            }
        }
    )*};
}

stored_without_scales!(f32 => load, f16 => load_f16, bf16 => load_bf16);

impl<'a> Stored for F8Row<'a> {
    type Vectors = &'a [[u8; LANES]];

    #[inline(always)]
    fn vectors(self, start: usize, num_vectors: usize) -> Self::Vectors {
        vectors(self.values, start, num_vectors)
    }
    #[inline(always)]
    fn load_vector<S: Simd>(simd: S, vectors: Self::Vectors, index: usize, scale: S::F32s) -> S::F32s {
        simd.load_e4m3(&vectors[index], scale)
    }
    #[inline(always)]
    fn len(self) -> usize {
        self.values.len()
    }
    #[inline(always)]
    fn block(self) -> usize {
        self.block
    }
    #[inline(always)]
    fn scale<S: Simd>(self, simd: S, block: usize) -> S::F32s {
        simd.e4m3_scale(self.scales[block])
    }
    #[inline(always)]
    fn load<S: Simd>(self, simd: S, start: usize, end: usize, scale: S::F32s) -> S::F32s {
        match self.values[start..end].first_chunk() {
            Some(full) => simd.load_e4m3(full, scale),
            None => simd.load_e4m3(&padded(&self.values[start..end]), scale),
        }
    }
}

/// An f32 row that was decoded from a row of another form and is read in the blocks of that form, so that its dot
/// products come out the same to the bit.
#[derive(Clone, Copy)]
pub(crate) struct Decoded<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) block: usize,
}

impl<'a> Stored for Decoded<'a> {
    type Vectors = &'a [[f32; LANES]];

    #[inline(always)]
    fn vectors(self, start: usize, num_vectors: usize) -> Self::Vectors {
        vectors(self.values, start, num_vectors)
    }
    #[inline(always)]
    fn load_vector<S: Simd>(simd: S, vectors: Self::Vectors, index: usize, _scale: S::F32s) -> S::F32s {
        simd.load(&vectors[index])
    }
    #[inline(always)]
    fn len(self) -> usize {
        self.values.len()
    }
    #[inline(always)]
    fn block(self) -> usize {
        self.block
    }
    #[inline(always)]
    fn scale<S: Simd>(self, simd: S, _block: usize) -> S::F32s {
        simd.splat(1.0)
    }
    #[inline(always)]
    fn load<S: Simd>(self, simd: S, start: usize, end: usize, scale: S::F32s) -> S::F32s {
        self.values.load(simd, start, end, scale)
    }
}

/// The dot products of `R` stored rows with `T` f32 rows, all of one length: `[r][t] = Σ_i rows[r][i] * xs[t][i]`.
///
/// Element `i` of a block is added in lane `i % LANES`; the lanes are summed at the end. Neither `R` nor `T` changes a
/// result.
#[inline(always)]
pub(crate) fn dots<S: Simd, W: Stored, const R: usize, const T: usize>(
    simd: S,
    rows: [W; R],
    xs: [&[f32]; T],
) -> [[f32; T]; R] {
    let len = xs[0].len();
    let block = rows[0].block().max(1);
    let mut sums = [[simd.splat(0.0); T]; R];
    let mut start = 0;
    for index in 0..len.div_ceil(block) {
        let end = len.min(start + block);
        let mut scales = [simd.splat(0.0); R];
        for (scale, row) in scales.iter_mut().zip(rows) {
            *scale = row.scale(simd, index);
        }
        let num_vectors = (end - start) / LANES;
        let mut row_vectors = [rows[0].vectors(start, num_vectors); R];
        for (vectors, row) in row_vectors.iter_mut().zip(rows) {
            *vectors = row.vectors(start, num_vectors);
        }
        let mut x_vectors = [xs[0].vectors(start, num_vectors); T];
        for (vectors, x) in x_vectors.iter_mut().zip(xs) {
            *vectors = x.vectors(start, num_vectors);
        }
        for vector in 0..num_vectors {
            let mut activations = [simd.splat(0.0); T];
            for (activations, vectors) in activations.iter_mut().zip(x_vectors) {
                *activations = simd.load(&vectors[vector]);
            }
            for r in 0..R {
                let weights = W::load_vector(simd, row_vectors[r], vector, scales[r]);
                for t in 0..T {
                    sums[r][t] = simd.mul_add(weights, activations[t], sums[r][t]);
                }
            }
        }
        start += num_vectors * LANES;
        if start < end {
            for r in 0..R {
                let weights = rows[r].load(simd, start, end, scales[r]);
                for t in 0..T {
                    let activations = Stored::load(xs[t], simd, start, end, weights);
                    sums[r][t] = simd.mul_add(weights, activations, sums[r][t]);
                }
            }
            start = end;
        }
    }
    let mut products = [[0.0; T]; R];
    for (products, sums) in products.iter_mut().zip(&sums) {
        for (product, sum) in products.iter_mut().zip(sums) {
            *product = simd.sum(*sum);
        }
    }
    products
}

/// `out[i] = row[i]`.
#[inline(always)]
pub(crate) fn decode<S: Simd, W: Stored>(simd: S, row: W, out: &mut [f32]) {
    let (len, block) = (row.len(), row.block().max(1));
    let mut start = 0;
    for index in 0..len.div_ceil(block) {
        let scale = row.scale(simd, index);
        let block_end = len.min(start + block);
        let num_vectors = (block_end - start) / LANES;
        let vectors = row.vectors(start, num_vectors);
        for (index, out) in out[start..].as_chunks_mut().0[..num_vectors].iter_mut().enumerate() {
            simd.store(W::load_vector(simd, vectors, index, scale), out);
        }
        start += num_vectors * LANES;
        if start < block_end {
            store(simd, row.load(simd, start, block_end, scale), &mut out[start..block_end]);
            start = block_end;
        }
    }
}

/// Writes a vector, or as much of it as `to` takes.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, values: S::F32s, to: &mut [f32]) {
    match <&mut [f32; LANES]>::try_from(&mut *to) {
        Ok(to) => simd.store(values, to),
        Err(_) => {
            let mut padded = [0.0; LANES];
            simd.store(values, &mut padded);
            to.copy_from_slice(&padded[..to.len()]);
        }
    }
}

/// Applies a generic expression to the typed row inside a [`Row`].
macro_rules! with_stored {
    ($row:expr, $stored:ident => $result:expr) => {
        match $row {
            Row::F32($stored) => $result,
            Row::F16($stored) => $result,
            Row::BF16($stored) => $result,
        }
    };
}

struct Decode<'a> {
    row: Row<'a>,
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        with_stored!(self.row, row => decode(simd, row, self.out));
    }
}

struct Dot<'a> {
    row: Row<'a>,
    x: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        with_stored!(self.row, row => dots(simd, [row], [self.x])[0][0])
    }
}

#[cfg(test)]
mod tests {
    use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};

    use super::*;

    #[test]
    fn e4m3_codes_decode_to_the_values_of_the_format() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x40, 2.0),
            (0x77, 240.0),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(e4m3_to_f32(F8E4M3(code)), value, "code {code:#04x}");
        }
        assert!(e4m3_to_f32(F8E4M3(0x80)).is_sign_negative());
        for code in 0..=255 {
            assert_eq!(e4m3_to_f32(F8E4M3(code)).is_nan(), code == 0x7f || code == 0xff, "code {code:#04x}");
        }
    }

    #[test]
    fn e4m3_encodes_what_it_decodes() {
        for code in (0..=255).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(F8E4M3(code))), F8E4M3(code));
        }
    }

    #[test]
    fn e4m3_saturates() {
        for (value, code) in [
            (448.0, 0x7e),
            (448.5, 0x7e),
            (464.0, 0x7e),
            (1e30, 0x7e),
            (f32::INFINITY, 0x7e),
            (-449.0, 0xfe),
            (f32::NEG_INFINITY, 0xfe),
            (f32::NAN, 0x7f),
            (-f32::NAN, 0xff),
        ] {
            assert_eq!(f32_to_e4m3(value), F8E4M3(code), "{value}");
        }
    }

    #[test]
    fn e4m3_rounds_to_nearest_and_ties_to_even() {
        for sign in [1.0, -1.0] {
            for code in 0..0x7e_u8 {
                let (low, high) = (e4m3_to_f32(F8E4M3(code)), e4m3_to_f32(F8E4M3(code + 1)));
                let middle = (low + high) / 2.0;
                let even = code + code % 2;
                for (value, expected) in [(middle.next_down(), code), (middle, even), (middle.next_up(), code + 1)] {
                    let expected = if sign < 0.0 { expected | 0x80 } else { expected };
                    assert_eq!(f32_to_e4m3(sign * value), F8E4M3(expected), "{}", sign * value);
                }
            }
        }
    }

    #[test]
    fn rows_of_every_dtype_and_length() {
        let cases = [(1, 128), (7, 4), (15, 16), (16, 16), (17, 5), (128, 128), (257, 128), (300, 100), (576, 128)];
        for (len, block) in cases {
            let mut random = Random::new(len as u64);
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3] {
                let matrix = random.matrix(dtype, [3, len], [2, block]);
                let weights = crate::reference_util::dequantise("test", &matrix).expect("a float dtype");
                for (row, weights) in weights.to_vec2::<f32>().expect("f32").iter().enumerate() {
                    let range = row * len..(row + 1) * len;
                    match Rows::of_matrix("test", &matrix).expect("a float dtype") {
                        Rows::F32(values, _) => check_row(&values[range], weights),
                        Rows::F16(values, _) => check_row(&values[range], weights),
                        Rows::BF16(values, _) => check_row(&values[range], weights),
                        Rows::F8(rows) => check_row(rows.row(row), weights),
                    }
                }
            }
        }
    }

    /// Decodes the row, and multiplies it as stored and as decoded.
    fn check_row<W: Stored>(row: W, weights: &[f32]) {
        struct Run<'a, W>(W, &'a [f32], &'a mut [f32]);
        impl<W: Stored> Kernel for Run<'_, W> {
            type Output = [f32; 3];
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> [f32; 3] {
                let Run(row, x, decoded) = self;
                decode(simd, row, decoded);
                let of_decoded = Decoded { values: decoded, block: row.block() };
                [
                    dots(simd, [row], [x])[0][0],
                    dots(simd, [row; 4], [x; 4])[3][3],
                    dots(simd, [of_decoded; 3], [x; 2])[2][1],
                ]
            }
        }
        let len = weights.len();
        let x = Random::new(9).values(len);
        let mut decoded = vec![f32::NAN; len];
        let products = dispatch(Run(row, &x, &mut decoded));
        assert_same_bits(&decoded, weights, [len]);
        assert_same_bits(&products, &[products[0]; 3], [3]);
        let exact: f64 = x.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        assert_close(&products[..1], &[exact as f32], [1], Tolerance { abs: 1e-6, rel: 1e-6, cosine: 1.0 });
    }
}
