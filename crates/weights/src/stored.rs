//! What each tensor takes in the files.

use cachalot_tensor::DType;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::layout::{TensorKind, TensorSpec};

/// A tensor as it is or would be stored.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// What it is.
    pub spec: TensorSpec,
    /// Type of its elements.
    pub dtype: DType,
    /// Type and number of the block scales of an FP8 weight.
    pub scales: Option<(DType, usize)>,
}

impl StoredTensor {
    /// Bytes of its elements and of its scales.
    pub fn bytes(&self) -> u64 {
        let scales = self.scales.map_or(0, |(dtype, count)| count * dtype.size_bytes());
        (self.spec.shape.num_elements() * self.dtype.size_bytes() + scales) as u64
    }
}

impl Config {
    /// The tensors with the types that published files of this configuration have.
    pub fn published_tensors(&self) -> Vec<StoredTensor> {
        self.layout().into_iter().map(|spec| as_published(self, spec)).collect()
    }
}

impl Checkpoint {
    /// The tensors as the files hold them, without those that another tensor stands in for.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        let stored = |spec: TensorSpec| {
            let (dtype, scales) = self.stored_dtypes(&spec.name)?;
            Some(StoredTensor { spec, dtype, scales })
        };
        self.config().layout().into_iter().filter_map(stored).collect()
    }
}

fn as_published(config: &Config, spec: TensorSpec) -> StoredTensor {
    let wide = match config.dtype() {
        Some("float32") => DType::F32,
        Some("float16") => DType::F16,
        _ => DType::BF16,
    };
    let (dtype, scales) = match (spec.kind, config.quantization()) {
        (TensorKind::Linear, Some(quantization)) => {
            let dims = spec.shape.dims();
            let [rows, columns] = quantization.weight_block_size;
            (DType::F8E4M3, Some((DType::F32, dims[0].div_ceil(rows) * dims[1].div_ceil(columns))))
        }
        (TensorKind::CorrectionBias, _) => (DType::F32, None),
        _ => (wide, None),
    };
    StoredTensor { spec, dtype, scales }
}
