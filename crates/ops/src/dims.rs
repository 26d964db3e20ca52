//! Dimensions checked by name across the arguments of one operation.

use cachalot_tensor::{DType, Error as TensorError, Shape};

use crate::{Error, Result};

/// The dimensions of one call: the first argument that names a dimension decides it, all others must agree.
pub(crate) struct Dims {
    op: &'static str,
    seen: [(&'static str, usize, &'static str); 16],
    num_seen: usize,
}

impl Dims {
    pub(crate) fn new(op: &'static str) -> Self {
        Dims { op, seen: [("", 0, ""); 16], num_seen: 0 }
    }

    /// Binds `dim` to `size`, or checks it against the size bound before.
    pub(crate) fn bind(&mut self, arg: &'static str, dim: &'static str, size: usize) -> Result<()> {
        for &(name, expected, expected_in) in &self.seen[..self.num_seen] {
            if name == dim {
                if expected == size {
                    return Ok(());
                }
                return Err(Error::Shape { op: self.op, dim, expected, expected_in, got: size, got_in: arg });
            }
        }
        self.seen[self.num_seen] = (dim, size, arg);
        self.num_seen += 1;
        Ok(())
    }

    /// Binds every dimension of `shape`.
    pub(crate) fn bind_all<const N: usize>(
        &mut self,
        arg: &'static str,
        shape: Shape,
        names: [&'static str; N],
    ) -> Result<[usize; N]> {
        let Ok(sizes) = <[usize; N]>::try_from(shape.dims()) else {
            return Err(Error::Rank { op: self.op, arg, expected: names.join(", "), got: shape });
        };
        for (name, size) in names.into_iter().zip(sizes) {
            self.bind(arg, name, size)?;
        }
        Ok(sizes)
    }

    /// Refuses an argument that is not f32.
    pub(crate) fn f32(&self, arg: &'static str, dtype: DType) -> Result<()> {
        self.dtype(arg, dtype, &[DType::F32], "F32")
    }

    /// Refuses an argument that does not hold f32, f16 or bf16.
    pub(crate) fn float(&self, arg: &'static str, dtype: DType) -> Result<()> {
        self.dtype(arg, dtype, &[DType::F32, DType::F16, DType::BF16], "F32, F16, BF16")
    }

    /// Refuses an argument whose dtype is not in `known`; `supported` is their names.
    pub(crate) fn dtype(
        &self,
        arg: &'static str,
        dtype: DType,
        known: &[DType],
        supported: &'static str,
    ) -> Result<()> {
        if known.contains(&dtype) {
            return Ok(());
        }
        Err(Error::Unsupported { op: self.op, got: format!("`{arg}` of {dtype}"), supported })
    }

    /// Names the operation in an error about a tensor's form.
    pub(crate) fn tensor<T>(&self, result: Result<T, TensorError>) -> Result<T> {
        result.map_err(|source| Error::Tensor { op: self.op, source })
    }
}
