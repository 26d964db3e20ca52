//! Descriptions of tensors for the bulk copies of sm_90 (TMA).

use bytemuck::{Pod, Zeroable};
use cachalot_tensor::{Shape, View};

use crate::backend::TensorMapEncoding;
use crate::{Error, Result};

/// A `CUtensorMap`: opaque, passed inside the argument struct of a kernel. PTX wants it at a multiple of 64.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct TensorMap {
    opaque: [u64; 16],
}

impl TensorMap {
    pub(crate) fn new(opaque: [u64; 16]) -> TensorMap {
        TensorMap { opaque }
    }
}

/// How a box is scattered in shared memory, so that the rows of a matrix lie in different banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// As it lies in global memory.
    None,
    /// Pieces of 16 bytes change places within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

/// What one copy moves.
#[derive(Clone, Copy, Debug)]
pub struct TensorMapArgs {
    /// The box that one copy moves, outermost dimension first, of the rank of the view. Elements outside the tensor are read
    /// as 0 and not written.
    pub box_shape: Shape,
    /// Its layout in shared memory.
    pub swizzle: Swizzle,
}

/// Turns the view, outermost dimension first, into what the driver takes, innermost first.
pub(crate) fn encoding(view: &View<'_>, args: &TensorMapArgs) -> Result<TensorMapEncoding> {
    let (shape, dtype) = (view.shape(), view.dtype());
    let refuse = |reason: String| Error::TensorMap { shape, dtype, reason };
    if shape.rank() == 0 || shape.rank() != args.box_shape.rank() {
        return Err(refuse(format!("the box {} must have the rank of the view, 1 or more", args.box_shape)));
    }
    let reversed = |shape: Shape| shape.dims().iter().rev().copied().collect::<Vec<usize>>();
    let mut strides: Vec<u64> = Vec::new();
    // The distance of two elements of each dimension but the innermost: contiguous within a row, `row_stride` between rows.
    let mut distance = dtype.size_bytes() as u64;
    for &dim in shape.dims().iter().skip(2).rev() {
        distance *= dim as u64;
        strides.push(distance);
    }
    if shape.rank() > 1 {
        strides.push((view.row_stride() * dtype.size_bytes()) as u64);
    }
    let box_dims: Result<Vec<u32>, _> = reversed(args.box_shape).into_iter().map(u32::try_from).collect();
    Ok(TensorMapEncoding {
        dtype,
        address: view.address().0,
        dims: reversed(shape).into_iter().map(|dim| dim as u64).collect(),
        strides,
        box_dims: box_dims.map_err(|_| refuse(format!("the box {} is too large", args.box_shape)))?,
        swizzle: args.swizzle,
    })
}

#[cfg(test)]
mod tests {
    use cachalot_tensor::{Buffer, DType};

    use super::*;
    use crate::Address;

    #[test]
    fn dimensions_are_reversed_and_strides_counted_in_bytes() {
        let buffer = Buffer::on_device(DType::BF16, [10, 24], Address(4096));
        let view = buffer.view().columns(8..24).reshape_rows([10, 2, 8]);
        let args = TensorMapArgs { box_shape: Shape::new(&[4, 1, 8]), swizzle: Swizzle::None };
        let encoded = encoding(&view, &args).unwrap();
        assert_eq!((encoded.address, encoded.dims), (4096 + 16, vec![8, 2, 10]));
        assert_eq!((encoded.strides, encoded.box_dims), (vec![16, 48], vec![8, 1, 4]));

        let row = Buffer::on_device(DType::F32, [16], Address(0));
        let args = TensorMapArgs { box_shape: Shape::new(&[4]), swizzle: Swizzle::None };
        assert_eq!(encoding(&row.view(), &args).unwrap().strides, [0; 0]);
        assert!(matches!(encoding(&view, &args), Err(Error::TensorMap { .. })));
    }
}
