//! The 128 bytes of a tensor map as a kernel's parameter or global memory holds them.
//!
//! The format is the emulator's own: NVIDIA's is opaque, and kernels hand the bytes on without looking at them.

use super::{Dimension, MAX_RANK, OutOfBoundsFill, Swizzle, TensorMap, TensorMapArgs, TensorMapType};

/// First bytes of every encoded tensor map.
const MAGIC: &[u8; 8] = b"emuTMap1";

// In the order of declaration, which is what the casts in `to_bytes` give.
const TYPES: [TensorMapType; 10] = [
    TensorMapType::U8,
    TensorMapType::U16,
    TensorMapType::U32,
    TensorMapType::S32,
    TensorMapType::U64,
    TensorMapType::S64,
    TensorMapType::F16,
    TensorMapType::F32,
    TensorMapType::F64,
    TensorMapType::Bf16,
];
const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
const FILLS: [OutOfBoundsFill; 2] = [OutOfBoundsFill::Zero, OutOfBoundsFill::Nan];

/// Bytes before the dimensions: magic, address, rank, type, swizzle, fill.
const HEADER: usize = 8 + 8 + 4;
/// Bytes of a dimension: size − 1, stride, span − 1, step.
const DIMENSION: usize = 4 + 8 + 1 + 1;

impl TensorMap {
    /// What a `CUtensorMap` parameter holds under the emulator.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut encoded = Vec::with_capacity(128);
        encoded.extend(MAGIC);
        encoded.extend(self.global_address.to_le_bytes());
        encoded.push(self.rank() as u8);
        encoded.push(self.data_type as u8);
        encoded.push(self.swizzle as u8);
        encoded.push(self.fill as u8);
        for dimension in &self.dimensions {
            encoded.extend(((dimension.size - 1) as u32).to_le_bytes());
            encoded.extend(dimension.stride.to_le_bytes());
            encoded.push((dimension.span - 1) as u8);
            encoded.push(dimension.step as u8);
        }
        let mut bytes = [0; 128];
        bytes[..encoded.len()].copy_from_slice(&encoded);
        bytes
    }

    /// The tensor map in `bytes`; `None` if [`TensorMap::to_bytes`] did not make them.
    pub fn from_bytes(bytes: &[u8; 128]) -> Option<TensorMap> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (address, rest) = rest.split_first_chunk::<8>()?;
        let ([rank, data_type, swizzle, fill], rest) = rest.split_first_chunk::<4>()?;
        if magic != MAGIC {
            return None;
        }
        let dimensions: Vec<Dimension> =
            rest.chunks_exact(DIMENSION).take(usize::from(*rank)).map(decode_dimension).collect::<Option<_>>()?;
        let map = TensorMap::new(&TensorMapArgs {
            data_type: *TYPES.get(usize::from(*data_type))?,
            global_address: u64::from_le_bytes(*address),
            global_dims: &dimensions.iter().map(|dimension| dimension.size).collect::<Vec<_>>(),
            global_strides: &dimensions.iter().skip(1).map(|dimension| dimension.stride).collect::<Vec<_>>(),
            box_dims: &dimensions.iter().map(|dimension| dimension.span).collect::<Vec<_>>(),
            element_strides: &dimensions.iter().map(|dimension| dimension.step).collect::<Vec<_>>(),
            swizzle: *SWIZZLES.get(usize::from(*swizzle))?,
            fill: *FILLS.get(usize::from(*fill))?,
        })
        .ok()?;
        // Bytes that nothing of the map accounts for would be somebody else's.
        (map.to_bytes() == *bytes).then_some(map)
    }
}

fn decode_dimension(bytes: &[u8]) -> Option<Dimension> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (stride, rest) = rest.split_first_chunk::<8>()?;
    let &[span, step] = rest else { return None };
    Some(Dimension {
        size: u64::from(u32::from_le_bytes(*size)) + 1,
        stride: u64::from_le_bytes(*stride),
        span: u32::from(span) + 1,
        step: step.into(),
    })
}

const _: () = assert!(HEADER + MAX_RANK * DIMENSION <= 128, "five dimensions must fit into a CUtensorMap");
