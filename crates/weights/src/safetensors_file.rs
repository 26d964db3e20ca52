//! The header of one safetensors file, checked against the file's length.
//!
//! The `safetensors` crate defines the header's fields and dtypes; the checks are made here, because its errors do not
//! say which tensor or how many bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::error::{Error, Result};

/// Bytes of the header's length, before the header.
const LENGTH_BYTES: usize = 8;
/// The format's limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What stands in for a large file in a clone made without Git LFS.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// One tensor in a file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Name of the dtype in the header; the engine does not know all of them.
    pub(crate) dtype: String,
    pub(crate) dims: Vec<usize>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
}

/// Reads and checks the header of `bytes`, which are the whole file. Afterwards every range lies within the file and holds
/// exactly its tensor's elements, ranges do not overlap and nothing is left over.
pub(crate) fn read_header(file: &str, bytes: &Bytes) -> Result<BTreeMap<String, Entry>> {
    parse(bytes).map_err(|reason| Error::Safetensors { file: file.to_owned(), reason })
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    if bytes.starts_with(LFS_POINTER) {
        return Err("it is a Git LFS pointer of a few lines; the file itself was never downloaded".to_owned());
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("it has {} bytes, too few for the {LENGTH_BYTES} that open a header", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(format!(
            "its first {LENGTH_BYTES} bytes promise a header of {length} bytes, but {} follow and {MAX_HEADER_BYTES} is \
             the format's limit",
            rest.len()
        ));
    }
    let (header, data) = rest.split_at(length as usize);
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(header).map_err(|error| format!("its header is not JSON: {error}"))?;

    let mut entries = Vec::with_capacity(header.len());
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let info: TensorInfo = serde_json::from_value(value)
            .map_err(|error| format!("its header's entry for `{name}` is malformed: {error}"))?;
        let (start, end) = info.data_offsets;
        if start > end || end > data.len() {
            return Err(format!(
                "`{name}` lies at bytes {start}..{end} of a data section that has {} bytes",
                data.len()
            ));
        }
        entries.push((name, info));
    }
    entries.sort_by_key(|(_, info)| info.data_offsets);

    let mut end_of_last = 0;
    let data_start = LENGTH_BYTES + length as usize;
    let mut tensors = BTreeMap::new();
    for (name, info) in entries {
        let (start, end) = info.data_offsets;
        if start != end_of_last {
            let what = if start < end_of_last { "overlaps the tensor before it, which ends" } else { "leaves a gap" };
            return Err(format!("`{name}` starts at byte {start} of the data section and {what} at {end_of_last}"));
        }
        end_of_last = end;
        let num_bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        if num_bits != Some((end - start) * 8) {
            return Err(format!("`{name}` is {} {:?} but has {} bytes of data", info.dtype, info.shape, end - start));
        }
        let range = data_start + start..data_start + end;
        tensors.insert(name, Entry { dtype: info.dtype.to_string(), dims: info.shape, range });
    }
    if end_of_last != data.len() {
        return Err(format!(
            "its tensors end at byte {end_of_last} of the data section, which has {} bytes",
            data.len()
        ));
    }
    Ok(tensors)
}
