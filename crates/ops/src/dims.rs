//! Dimensions checked by name across the arguments of one operation.

use cachalot_tensor::{Error as TensorError, Shape};

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

    /// Names the operation in an error about a tensor's form.
    pub(crate) fn tensor<T>(&self, result: Result<T, TensorError>) -> Result<T> {
        result.map_err(|source| Error::Tensor { op: self.op, source })
    }
}
