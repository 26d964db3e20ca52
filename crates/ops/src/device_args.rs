//! What the launchers check of their arguments besides dimensions and dtypes: what the kernels' loads and counters take.

use crate::{Error, Result};
use cachalot_tensor::View;

/// Refuses a view that does not begin at a multiple of `bytes`, which is 8 or 16; if it has more dimensions than one, each of its
/// rows must.
pub(crate) fn aligned(op: &'static str, arg: &str, view: View<'_>, bytes: usize) -> Result<()> {
    let (address, row_bytes) = (view.address().0, view.row_stride() * view.dtype().size_bytes());
    let has_rows = view.shape().rank() > 1 && view.shape().num_rows() > 1;
    if address.is_multiple_of(bytes as u64) && (!has_rows || row_bytes.is_multiple_of(bytes)) {
        return Ok(());
    }
    let got = format!("`{arg}` at {address:#x} with rows {row_bytes} bytes apart");
    let supported = if bytes == 16 { "rows at multiples of 16 bytes" } else { "rows at multiples of 8 bytes" };
    Err(Error::Unsupported { op, got, supported })
}

/// Refuses a view with gaps between its rows.
pub(crate) fn contiguous(op: &'static str, arg: &str, view: View<'_>) -> Result<()> {
    if view.is_contiguous() {
        return Ok(());
    }
    let got = format!("`{arg}` with rows {} elements apart", view.row_stride());
    Err(Error::Unsupported { op, got, supported: "rows without gaps" })
}

/// Refuses a dimension that is no multiple of `factor`, or larger than `largest`; `supported` says so.
pub(crate) fn multiple(
    op: &'static str,
    dim: &str,
    size: usize,
    factor: usize,
    largest: usize,
    supported: &'static str,
) -> Result<()> {
    if size.is_multiple_of(factor) && size <= largest {
        return Ok(());
    }
    Err(Error::Unsupported { op, got: format!("`{dim}` of {size}"), supported })
}

/// A size or stride as the kernels count.
pub(crate) fn count(op: &'static str, what: &str, size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::Unsupported {
        op,
        got: format!("`{what}` of {size}"),
        supported: "sizes and strides below 2^32",
    })
}
