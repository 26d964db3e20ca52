//! Tensor maps: which bytes a bulk tensor copy moves where.
//!
//! The tiled mode of `cuTensorMapEncodeTiled` (cuda.h, CUDA 13.0) without interleave. Left out: im2col, interleaved
//! layouts, 4- and 6-bit types, types that round or flush while they are copied, swizzles of larger pieces, and boxes
//! narrower than their swizzle, for which no document says how far apart the rows lie.

mod bytes;
mod pieces;
mod swizzle;
#[cfg(test)]
mod tests;

pub use swizzle::Swizzle;

/// The most dimensions of a tensor map.
const MAX_RANK: usize = 5;
/// More than the shared memory of any GPU.
const MAX_BOX_BYTES: u64 = 1 << 18;

/// Type of a tensor map's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorMapType {
    /// `CU_TENSOR_MAP_DATA_TYPE_UINT8`, also for fp8.
    U8,
    /// `CU_TENSOR_MAP_DATA_TYPE_UINT16`
    U16,
    /// `CU_TENSOR_MAP_DATA_TYPE_UINT32`
    U32,
    /// `CU_TENSOR_MAP_DATA_TYPE_INT32`
    S32,
    /// `CU_TENSOR_MAP_DATA_TYPE_UINT64`
    U64,
    /// `CU_TENSOR_MAP_DATA_TYPE_INT64`
    S64,
    /// `CU_TENSOR_MAP_DATA_TYPE_FLOAT16`
    F16,
    /// `CU_TENSOR_MAP_DATA_TYPE_FLOAT32`
    F32,
    /// `CU_TENSOR_MAP_DATA_TYPE_FLOAT64`
    F64,
    /// `CU_TENSOR_MAP_DATA_TYPE_BFLOAT16`
    Bf16,
}

impl TensorMapType {
    /// Bytes of one element.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            TensorMapType::U8 => 1,
            TensorMapType::U16 | TensorMapType::F16 | TensorMapType::Bf16 => 2,
            TensorMapType::U32 | TensorMapType::S32 | TensorMapType::F32 => 4,
            TensorMapType::U64 | TensorMapType::S64 | TensorMapType::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, TensorMapType::F16 | TensorMapType::F32 | TensorMapType::F64 | TensorMapType::Bf16)
    }
}

/// What a load writes for elements outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfBoundsFill {
    /// Zeros.
    Zero,
    /// NaN; CUDA does not say which, the emulator takes the one with every bit but the sign set.
    Nan,
}

/// What `cuTensorMapEncodeTiled` is told. Dimension 0 is the innermost.
#[derive(Clone, Copy, Debug)]
pub struct TensorMapArgs<'a> {
    /// Type of the elements.
    pub data_type: TensorMapType,
    /// Address of the first element.
    pub global_address: u64,
    /// `[rank]`: elements.
    pub global_dims: &'a [u64],
    /// `[rank - 1]`: bytes from one index to the next, of every dimension but the innermost.
    pub global_strides: &'a [u64],
    /// `[rank]`: elements that the box spans.
    pub box_dims: &'a [u32],
    /// `[rank]`: of the elements that the box spans, every how manieth is copied; the innermost one is ignored.
    pub element_strides: &'a [u32],
    /// How the box is swizzled in shared memory.
    pub swizzle: Swizzle,
    /// What elements outside the tensor read as.
    pub fill: OutOfBoundsFill,
}

/// A checked tensor map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    data_type: TensorMapType,
    global_address: u64,
    dimensions: Vec<Dimension>,
    swizzle: Swizzle,
    fill: OutOfBoundsFill,
}

/// One dimension of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dimension {
    /// Elements of the tensor.
    size: u64,
    /// Bytes from one index to the next.
    stride: u64,
    /// Elements that the box spans.
    span: u32,
    /// Every how manieth of them is copied, except in the innermost dimension, where CUDA ignores it.
    step: u32,
}

impl Dimension {
    /// Elements of the box in shared memory.
    fn copied(&self) -> u32 {
        self.span.div_ceil(self.step)
    }
}

impl TensorMap {
    /// Checks what `cuTensorMapEncodeTiled` checks.
    ///
    /// # Errors
    /// Names the argument, its value and the rule that it breaks.
    pub fn new(args: &TensorMapArgs<'_>) -> Result<TensorMap, String> {
        let rank = args.global_dims.len();
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(format!("tensor map of rank {rank}: the rank must be 1 to {MAX_RANK}"));
        }
        for (name, length, expected) in [
            ("global_strides", args.global_strides.len(), rank - 1),
            ("box_dims", args.box_dims.len(), rank),
            ("element_strides", args.element_strides.len(), rank),
        ] {
            if length != expected {
                return Err(format!("tensor map of rank {rank}: {name} has {length} numbers, not {expected}"));
            }
        }
        if !args.global_address.is_multiple_of(16) {
            return Err(format!("tensor map at {:#x}: global_address must be a multiple of 16", args.global_address));
        }
        let element_bytes = args.data_type.bytes();
        let mut dimensions = Vec::with_capacity(rank);
        for i in 0..rank {
            let dimension = Dimension {
                size: args.global_dims[i],
                stride: if i == 0 { element_bytes.into() } else { args.global_strides[i - 1] },
                span: args.box_dims[i],
                step: args.element_strides[i],
            };
            if !(1..=1 << 32).contains(&dimension.size) {
                return Err(format!("global_dims[{i}] is {}: it must be 1 to 2^32", dimension.size));
            }
            if i > 0 && !(dimension.stride.is_multiple_of(16) && dimension.stride < 1 << 40) {
                return Err(format!(
                    "global_strides[{}] is {}: it must be a multiple of 16 below 2^40",
                    i - 1,
                    dimension.stride
                ));
            }
            if !(1..=256).contains(&dimension.span) {
                return Err(format!("box_dims[{i}] is {}: it must be 1 to 256", dimension.span));
            }
            if !(1..=8).contains(&args.element_strides[i]) {
                return Err(format!("element_strides[{i}] is {}: it must be 1 to 8", args.element_strides[i]));
            }
            dimensions.push(dimension);
        }
        let inner_bytes = args.box_dims[0] * element_bytes;
        if !inner_bytes.is_multiple_of(16) {
            return Err(format!("box_dims[0] is {inner_bytes} bytes: it must be a multiple of 16 bytes"));
        }
        let box_bytes =
            dimensions[1..].iter().map(|dim| u64::from(dim.copied())).product::<u64>() * u64::from(inner_bytes);
        if box_bytes > MAX_BOX_BYTES {
            return Err(format!("box of {box_bytes} bytes: shared memory has fewer than {MAX_BOX_BYTES}"));
        }
        let width = args.swizzle.bytes();
        if args.swizzle != Swizzle::None && inner_bytes != width {
            let why = if inner_bytes > width { "CUDA refuses more" } else { "the emulator does not know less" };
            return Err(format!("box_dims[0] is {inner_bytes} bytes under a {width} byte swizzle: {why}"));
        }
        if args.fill == OutOfBoundsFill::Nan && !args.data_type.is_float() {
            return Err(format!("elements of type {:?} cannot be filled with NaN", args.data_type));
        }
        let last = dimensions.iter().map(|dim| u128::from(dim.size - 1) * u128::from(dim.stride)).sum::<u128>();
        if u128::from(args.global_address) + last + u128::from(element_bytes) > u128::from(u64::MAX) {
            return Err(format!("tensor map at {:#x} reaches past the last address", args.global_address));
        }
        let TensorMapArgs { data_type, global_address, swizzle, fill, .. } = *args;
        Ok(TensorMap { data_type, global_address, dimensions, swizzle, fill })
    }

    /// Number of dimensions.
    pub(crate) fn rank(&self) -> usize {
        self.dimensions.len()
    }

    /// Bytes of the box in shared memory, and what a load adds to the transaction count of its barrier: elements outside
    /// the tensor count as well.
    pub(crate) fn box_bytes(&self) -> u32 {
        self.inner_bytes() * self.rows()
    }

    /// Bytes of one row of the box in shared memory.
    fn inner_bytes(&self) -> u32 {
        self.dimensions[0].span * self.data_type.bytes()
    }

    /// Rows of the box.
    fn rows(&self) -> u32 {
        self.dimensions[1..].iter().map(Dimension::copied).product()
    }

    /// What a load writes for a piece outside the tensor, of which it takes the first bytes.
    pub(crate) fn fill_bytes(&self) -> [u8; 16] {
        match self.fill {
            OutOfBoundsFill::Zero => [0; 16],
            OutOfBoundsFill::Nan => {
                let size = self.data_type.bytes() as usize;
                std::array::from_fn(|byte| if byte % size == size - 1 { 0x7f } else { 0xff })
            }
        }
    }
}
