//! A checkpoint's files, opened and checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Component as PathComponent, Path};

use bytes::Bytes;
use cachalot_tensor::{BlockScales, DType, Matrix, Shape, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layout::{Stage, TensorKind, TensorSpec, scale_name};
use crate::load::{self, LoadReport};
use crate::safetensors_file::{Entry, read_header};
use crate::source::{Source, WeightFile};

const CONFIG_FILE: &str = "config.json";
const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The part of a tensor that a rank asks for. An expert range needs no word of its own: experts are whole tensors by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shard {
    /// All of it.
    Whole,
    /// A range of rows (the first dimension): a window of the file.
    Rows(Range<usize>),
    /// A range of columns of a two-dimensional tensor: a copy.
    Columns(Range<usize>),
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shard::Whole => f.write_str("the whole"),
            Shard::Rows(range) => write!(f, "rows {range:?}"),
            Shard::Columns(range) => write!(f, "columns {range:?}"),
        }
    }
}

/// A model's tensors. Each one that config.json implies was found, with its shape and a dtype that the engine reads.
#[derive(Debug)]
pub struct Checkpoint {
    config: Config,
    source: Source,
    files: Vec<WeightFile>,
    tensors: HashMap<String, Stored>,
    has_mtp: bool,
    notices: Vec<String>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Window {
    /// Name in the file.
    name: String,
    file: usize,
    range: Range<usize>,
    dtype: DType,
    shape: Shape,
}

/// A tensor of the layout and its block scales.
#[derive(Clone, Debug)]
struct Stored {
    kind: TensorKind,
    /// Another tensor's window where that one stands in.
    values: Window,
    scales: Option<(Window, [usize; 2])>,
}

impl Stored {
    fn windows(&self) -> impl Iterator<Item = &Window> {
        std::iter::once(&self.values).chain(self.scales.as_ref().map(|(window, _)| window))
    }
}

impl Checkpoint {
    /// Opens a checkpoint and checks every tensor of its layout for presence, shape and dtype.
    ///
    /// Values are not read: scales, norms and biases are checked for NaN when they are asked for.
    ///
    /// # Errors
    /// Whatever is wrong with the folder, config.json, the index, a file's header or the set of tensors, with all problems
    /// of one kind in one error.
    pub fn open(source: &Source) -> Result<Self> {
        let Some(config) = source.read(CONFIG_FILE)? else {
            let found = source.list()?;
            return Err(Error::NoFile { location: source.location(), name: CONFIG_FILE, found });
        };
        let config = Config::from_json(&config)?;
        let (files, entries) = open_files(source)?;
        let (tensors, has_mtp, notices) = check(&config, &files, &entries)?;
        Ok(Checkpoint { config, source: source.clone(), files, tensors, has_mtp, notices })
    }

    /// What config.json says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the files come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether the MTP layers that config.json promises are there. Without them there is no speculation.
    pub fn has_mtp(&self) -> bool {
        self.has_mtp
    }

    /// What the user should know though it is no error.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// A tensor that is not a quantised linear: norm, bias, embedding. `e_score_correction_bias` always comes as F32.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`]; [`Error::Part`] if the tensor has no such rows or columns, or is FP8 and needs its scales;
    /// [`Error::Value`] if a norm or bias holds a NaN or an infinity.
    pub fn tensor(&self, name: &str, shard: Shard) -> Result<Tensor> {
        let stored = self.stored(name)?;
        let part = Part::of(name, &shard, stored.values.shape)?;
        if stored.scales.is_some() {
            return Err(part_error(
                name,
                &shard,
                "it is FP8, which means nothing without its scales: ask for a matrix",
            ));
        }
        let tensor = self.part(&stored.values, &part)?;
        if !matches!(stored.kind, TensorKind::Norm | TensorKind::CorrectionBias) {
            return Ok(tensor);
        }
        let values = to_f32(name, &tensor)?;
        self.check_values(&stored.values, &part, &values, f32::is_finite, "it has to be finite")?;
        if stored.kind == TensorKind::CorrectionBias && tensor.dtype() != DType::F32 {
            let shape = tensor.shape();
            return Tensor::from_slice(&values, shape).map_err(|source| tensor_error(name, DType::F32, source));
        }
        Ok(tensor)
    }

    /// The weight of a linear layer with its block scales, if it is FP8. Scales are F32 whatever the file stores.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`]; [`Error::Part`] also if the range cuts a block of scales; [`Error::Value`] if a scale is
    /// negative or not finite.
    pub fn matrix(&self, name: &str, shard: Shard) -> Result<Matrix> {
        let stored = self.stored(name)?;
        let part = Part::of(name, &shard, stored.values.shape)?;
        let values = self.part(&stored.values, &part)?;
        let scales = match &stored.scales {
            None => None,
            Some((window, block)) => {
                let part =
                    part.of_scales(*block, stored.values.shape).map_err(|reason| part_error(name, &shard, &reason))?;
                let scales = self.scales(window, &part)?;
                Some(BlockScales { scales, block: *block })
            }
        };
        Matrix::new(values, scales).map_err(|source| tensor_error(name, stored.values.dtype, source))
    }

    /// Reads the model's bytes from disk into memory, several files at once, so that the first request does not wait for
    /// them. `progress` gets the bytes done and the bytes in total, on the calling thread.
    ///
    /// Optional: the tensors can be used without, and pages are then read when they are first touched.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn load(&self, progress: impl FnMut(u64, u64)) -> Result<LoadReport> {
        // A tensor that stands in for another is in the list twice.
        let windows = self.tensors.values().flat_map(Stored::windows);
        let ranges: BTreeSet<_> = windows.map(|window| (window.file, window.range.start, window.range.end)).collect();
        let ranges = ranges.into_iter().map(|(file, start, end)| (file, start..end)).collect();
        load::load(&self.source, &self.files, ranges, progress)
    }

    /// Dtype of a tensor and, if it is FP8, dtype and number of its scales; none if another tensor stands in for it.
    pub(crate) fn stored_dtypes(&self, name: &str) -> Option<(DType, Option<(DType, usize)>)> {
        let stored = self.tensors.get(name).filter(|stored| stored.values.name == name)?;
        let scales = stored.scales.as_ref().map(|(window, _)| (window.dtype, window.shape.num_elements()));
        Some((stored.values.dtype, scales))
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| Error::UnknownTensor(name.to_owned()))
    }

    /// Rows of a window share its bytes; columns are copied.
    fn part(&self, window: &Window, part: &Part) -> Result<Tensor> {
        let bytes = self.files[window.file].bytes.slice(window.range.clone());
        let row_bytes = window.shape.row_len() * window.dtype.size_bytes();
        let mut dims = window.shape.dims().to_vec();
        if let Some(num_rows) = dims.first_mut() {
            *num_rows = part.rows.len();
        }
        let bytes = match &part.columns {
            None => bytes.slice(part.rows.start * row_bytes..part.rows.end * row_bytes),
            Some(columns) => {
                dims[1] = columns.len();
                let size = window.dtype.size_bytes();
                let rows = bytes.chunks_exact(row_bytes);
                let copy: Vec<u8> =
                    rows.flat_map(|row| &row[columns.start * size..columns.end * size]).copied().collect();
                Bytes::from(copy)
            }
        };
        Tensor::new(window.dtype, dims.as_slice(), bytes)
            .map_err(|source| tensor_error(&window.name, window.dtype, source))
    }

    fn scales(&self, window: &Window, part: &Part) -> Result<Tensor> {
        let tensor = self.part(window, part)?;
        let fail = |source| tensor_error(&window.name, window.dtype, source);
        let tensor = match window.dtype {
            DType::F32 => tensor,
            // F8_E8M0, also under the name U8: tiny, and expanded so that kernels know one form.
            _ => {
                let values: Vec<f32> = tensor.bytes().iter().map(|&byte| e8m0_to_f32(byte)).collect();
                Tensor::from_slice(&values, tensor.shape()).map_err(fail)?
            }
        };
        let values = tensor.as_slice::<f32>().map_err(fail)?;
        let usable = |scale: f32| scale.is_finite() && scale >= 0.0;
        self.check_values(window, part, values, usable, "a scale has to be finite and not negative")?;
        Ok(tensor)
    }

    fn check_values(
        &self,
        window: &Window,
        part: &Part,
        values: &[f32],
        usable: impl Fn(f32) -> bool,
        expected: &'static str,
    ) -> Result<()> {
        let Some(index) = values.iter().position(|&value| !usable(value)) else { return Ok(()) };
        let position = match (&part.columns, window.shape.rank()) {
            (Some(columns), _) => vec![index / columns.len(), columns.start + index % columns.len()],
            (None, 2) => vec![part.rows.start + index / window.shape.row_len(), index % window.shape.row_len()],
            (None, _) => vec![part.rows.start + index],
        };
        let file = self.files[window.file].name.clone();
        Err(Error::Value { name: window.name.clone(), file, position, value: values[index], expected })
    }
}

/// The rows and columns of a [`Shard`] within one tensor.
#[derive(Debug)]
struct Part {
    rows: Range<usize>,
    /// Set if not all columns are wanted.
    columns: Option<Range<usize>>,
}

impl Part {
    fn of(name: &str, shard: &Shard, shape: Shape) -> Result<Self> {
        let num_rows = shape.num_rows();
        let outside = |range: &Range<usize>, len: usize| range.is_empty() || range.end > len;
        match shard {
            Shard::Whole => Ok(Part { rows: 0..num_rows, columns: None }),
            Shard::Rows(rows) if outside(rows, num_rows) => Err(part_error(
                name,
                shard,
                &format!("its shape is {shape}; take at least one row and none past the last"),
            )),
            Shard::Rows(rows) => Ok(Part { rows: rows.clone(), columns: None }),
            Shard::Columns(columns) if shape.rank() != 2 || outside(columns, shape.dims()[1]) => Err(part_error(
                name,
                shard,
                &format!("its shape is {shape}; take at least one column and none past the last, of two dimensions"),
            )),
            Shard::Columns(columns) => Ok(Part { rows: 0..num_rows, columns: Some(columns.clone()) }),
        }
    }

    /// The same part of the block scales of a weight of `shape`.
    fn of_scales(&self, block: [usize; 2], shape: Shape) -> Result<Part, String> {
        let blocks = |range: &Range<usize>, block: usize, len: usize| {
            let starts_a_block = range.start.is_multiple_of(block);
            let ends_a_block = range.end.is_multiple_of(block) || range.end == len;
            if starts_a_block && ends_a_block {
                Ok(range.start / block..range.end.div_ceil(block))
            } else {
                Err(format!("it cuts a block of scales; start and end at multiples of {block}, or at the end, {len}"))
            }
        };
        let [num_rows, num_columns] = [shape.dims()[0], shape.dims()[1]];
        Ok(Part {
            rows: blocks(&self.rows, block[0], num_rows)?,
            columns: self.columns.as_ref().map(|columns| blocks(columns, block[1], num_columns)).transpose()?,
        })
    }
}

fn part_error(name: &str, shard: &Shard, reason: &str) -> Error {
    Error::Part { name: name.to_owned(), part: shard.to_string(), reason: reason.to_owned() }
}

fn tensor_error(name: &str, dtype: DType, source: cachalot_tensor::Error) -> Error {
    Error::Tensor { name: name.to_owned(), dtype, source: Box::new(source) }
}

/// `2^(byte - 127)`; 0xFF is NaN.
fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        // 2^-127 is below the smallest normal f32: half of it.
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

fn to_f32(name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    let values = match tensor.dtype() {
        DType::BF16 => tensor.as_slice::<bf16>().map(|values| values.iter().map(|value| value.to_f32()).collect()),
        DType::F16 => tensor.as_slice::<f16>().map(|values| values.iter().map(|value| value.to_f32()).collect()),
        _ => tensor.as_slice::<f32>().map(<[f32]>::to_vec),
    };
    values.map_err(|source| tensor_error(name, tensor.dtype(), source))
}

/// A tensor of a file: the file's number and the header's entry.
type Located = (usize, Entry);

/// Maps the weight files and reads their headers.
fn open_files(source: &Source) -> Result<(Vec<WeightFile>, BTreeMap<String, Located>)> {
    if source.has(SINGLE_FILE) {
        let file = source.map(SINGLE_FILE)?;
        let entries = read_header(SINGLE_FILE, &file.bytes)?;
        return Ok((vec![file], entries.into_iter().map(|(name, entry)| (name, (0, entry))).collect()));
    }
    let Some(index) = source.read(INDEX_FILE)? else {
        let found = source.list()?;
        let name = "model.safetensors and no model.safetensors.index.json";
        return Err(Error::NoFile { location: source.location(), name, found });
    };
    let weight_map = read_index(&index).map_err(|reason| Error::Index { reason })?;
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let missing: Vec<String> = names.iter().filter(|name| !source.has(name)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(Error::MissingShards { location: source.location(), shards: missing });
    }
    let opened: Vec<(WeightFile, BTreeMap<String, Entry>)> = names
        .into_par_iter()
        .map(|name| {
            let file = source.map(name)?;
            let entries = read_header(name, &file.bytes)?;
            Ok((file, entries))
        })
        .collect::<Result<_>>()?;
    let (files, mut headers): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let numbers: HashMap<&str, usize> =
        files.iter().enumerate().map(|(number, file)| (file.name.as_str(), number)).collect();

    let mut tensors = BTreeMap::new();
    let mut misplaced = Vec::new();
    for (name, file) in weight_map {
        let number = numbers[file.as_str()];
        match headers[number].remove(&name) {
            Some(entry) => {
                tensors.insert(name, (number, entry));
            }
            None => misplaced.push(format!("`{name}` is not in {file}")),
        }
    }
    if !misplaced.is_empty() {
        return Err(Error::Misplaced { tensors: misplaced });
    }
    Ok((files, tensors))
}

/// The file of each tensor. The metadata of the index is not read: its sizes are often wrong.
fn read_index(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for (name, file) in &index.weight_map {
        let mut components = Path::new(file).components();
        let is_plain = matches!(components.next(), Some(PathComponent::Normal(_))) && components.next().is_none();
        if !is_plain {
            return Err(format!("`{name}` is in \"{file}\", which is not the name of a file in the same folder"));
        }
    }
    Ok(index.weight_map)
}

/// Looks every tensor of the layout up. Returns what was found, whether the MTP layers are there, and notices.
fn check(
    config: &Config,
    files: &[WeightFile],
    entries: &BTreeMap<String, Located>,
) -> Result<(HashMap<String, Stored>, bool, Vec<String>)> {
    let mut layout = config.layout();
    let mut notices = Vec::new();
    let is_mtp = |spec: &TensorSpec| spec.stage == Stage::Mtp;
    let promises_mtp = layout.iter().any(is_mtp);
    let has_mtp = layout.iter().any(|spec| is_mtp(spec) && entries.contains_key(&spec.name));
    if promises_mtp && !has_mtp {
        layout.retain(|spec| !is_mtp(spec));
        notices.push(
            "config.json promises MTP layers (`num_nextn_predict_layers`), but the files have none of their \
                      tensors: there will be no speculation"
                .to_owned(),
        );
    }

    let lookup = Lookup { config, files, entries };
    let (mut tensors, mut problems) = (HashMap::with_capacity(layout.len()), Vec::new());
    let mut used = HashSet::new();
    for spec in layout {
        match lookup.find(&spec) {
            Ok(stored) => {
                used.extend(stored.windows().map(|window| window.name.clone()));
                tensors.insert(spec.name, stored);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Error::Tensors { problems });
    }
    let mut unused = entries.keys().filter(|name| !used.contains(*name));
    if let Some(first) = unused.next() {
        let count = 1 + unused.count();
        notices.push(format!(
            "the files hold tensors that the model of config.json has not: {count}, such as `{first}`; they stay unread"
        ));
    }
    Ok((tensors, has_mtp, notices))
}

struct Lookup<'a> {
    config: &'a Config,
    files: &'a [WeightFile],
    entries: &'a BTreeMap<String, Located>,
}

impl Lookup<'_> {
    fn find(&self, spec: &TensorSpec) -> Result<Stored, String> {
        let (name, (file, entry)) = self.resolve(spec)?;
        let in_file = &self.files[*file].name;
        if entry.dims != spec.shape.dims() {
            return Err(format!(
                "`{name}` in {in_file} has shape {:?}, config.json implies {}",
                entry.dims, spec.shape
            ));
        }
        let accepted: &[DType] = match spec.kind {
            TensorKind::Linear => &[DType::F8E4M3, DType::BF16, DType::F16, DType::F32],
            _ => &[DType::BF16, DType::F16, DType::F32],
        };
        let Some(&dtype) = accepted.iter().find(|dtype| dtype.name() == entry.dtype) else {
            return Err(format!("`{name}` in {in_file} is {}, expected {}", entry.dtype, list_dtypes(accepted)));
        };
        let values = Window { name, file: *file, range: entry.range.clone(), dtype, shape: spec.shape };
        let scales = match dtype {
            DType::F8E4M3 => Some(self.scales(&values)?),
            _ => None,
        };
        Ok(Stored { kind: spec.kind, values, scales })
    }

    /// The tensor of the spec, or the one that stands in for it.
    fn resolve(&self, spec: &TensorSpec) -> Result<(String, &Located), String> {
        std::iter::once(spec.name.as_str())
            .chain(spec.stand_ins.iter().copied())
            .find_map(|name| Some((name.to_owned(), self.entries.get(name)?)))
            .ok_or_else(|| format!("`{}` is missing", spec.name))
    }

    fn scales(&self, values: &Window) -> Result<(Window, [usize; 2]), String> {
        let weight = &values.name;
        let name = scale_name(weight);
        let Some(quantization) = self.config.quantization() else {
            return Err(format!("`{weight}` is F8_E4M3, but config.json has no `quantization_config`"));
        };
        let Some((file, entry)) = self.entries.get(&name) else {
            return Err(format!("`{weight}` is F8_E4M3, but its scales, `{name}`, are missing"));
        };
        let in_file = &self.files[*file].name;
        let block = quantization.weight_block_size;
        let dims = values.shape.dims();
        let shape = Shape::new(&[dims[0].div_ceil(block[0]), dims[1].div_ceil(block[1])]);
        if entry.dims != shape.dims() {
            return Err(format!(
                "`{name}` in {in_file} has shape {:?}, a weight of {} in blocks of {block:?} needs {shape}",
                entry.dims, values.shape
            ));
        }
        let accepted = [DType::F32, DType::F8E8M0, DType::U8];
        let Some(&dtype) = accepted.iter().find(|dtype| dtype.name() == entry.dtype) else {
            return Err(format!("`{name}` in {in_file} is {}, expected {}", entry.dtype, list_dtypes(&accepted)));
        };
        Ok((Window { name, file: *file, range: entry.range.clone(), dtype, shape }, block))
    }
}

fn list_dtypes(dtypes: &[DType]) -> String {
    dtypes.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", ")
}
