//! Tiny checkpoints with random weights, in the published layout.
//!
//! Which tensors there are follows from `cachalot-weights`' own layout; that the layout is right is tested elsewhere,
//! against published totals and against files that other programs wrote.

use std::collections::BTreeMap;
use std::path::Path;

use cachalot_tensor::DType;
use cachalot_weights::{Component, Config, Source, TensorKind, TensorSpec, scale_name};
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::Random;

/// A checkpoint in memory, to be changed by a test and then written.
#[derive(Clone, Debug)]
pub struct TinyCheckpoint {
    /// config.json.
    pub config: Value,
    /// Tensors by name, block scales included.
    pub tensors: BTreeMap<String, TinyTensor>,
}

/// A tensor of a [`TinyCheckpoint`].
#[derive(Clone, Debug, PartialEq)]
pub struct TinyTensor {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements, little-endian.
    pub bytes: Vec<u8>,
}

/// V3 with one dense layer, two layers of experts and an MTP layer, in BF16. No width is a multiple of 128, or of another.
pub fn v3_config() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": 320,
        "hidden_size": 160,
        "intermediate_size": 208,
        "moe_intermediate_size": 88,
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 72,
        "kv_lora_rank": 56,
        "qk_nope_head_dim": 40,
        "qk_rope_head_dim": 16,
        "v_head_dim": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": true,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "rope_scaling": {
            "type": "yarn",
            "factor": 8,
            "original_max_position_embeddings": 64,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0
        },
        "max_position_embeddings": 512,
        "tie_word_embeddings": false,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16"
    })
}

/// [`v3_config`] with an indexer that keeps fewer positions than a short prompt has.
pub fn v32_config() -> Value {
    let mut config = v3_config();
    config["architectures"] = json!(["DeepseekV32ForCausalLM"]);
    config["model_type"] = json!("deepseek_v32");
    config["index_n_heads"] = json!(6);
    config["index_head_dim"] = json!(32);
    config["index_topk"] = json!(12);
    config
}

/// The distil's architecture: two layers in BF16.
pub fn qwen3_config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 320,
        "hidden_size": 96,
        "intermediate_size": 152,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "attn_factor": 0.8782488562869419
        },
        "max_position_embeddings": 512,
        "tie_word_embeddings": false,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16"
    })
}

/// The configuration with FP8 linears, in blocks of 128×128 whose scales are powers of two.
pub fn with_fp8(mut config: Value) -> Value {
    config["quantization_config"] = json!({
        "quant_method": "fp8",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128]
    });
    config
}

impl TinyCheckpoint {
    /// Random weights for a configuration: FP8 linears if it has a `quantization_config`; everything else, and everything
    /// without one, in F32 if `torch_dtype` says `float32`, in BF16 otherwise. Each tensor depends on the seed and its own
    /// name only.
    ///
    /// Linears map values of size 1 to values of size 1 and norms are near 1, so logits differ enough from each other to
    /// be told apart.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn new(config: Value, seed: u64) -> Self {
        let typed = Config::from_json(config.to_string().as_bytes()).expect("a valid configuration");
        let dtype = if typed.dtype() == Some("float32") { DType::F32 } else { DType::BF16 };
        let mut tensors = BTreeMap::new();
        for spec in typed.layout() {
            let values = values(&spec, seed);
            let shape = spec.shape.dims().to_vec();
            match typed.quantization() {
                Some(quantization) if spec.kind == TensorKind::Linear => {
                    let (weight, scales) = quantize(&values, &shape, quantization.weight_block_size);
                    tensors.insert(scale_name(&spec.name), scales);
                    tensors.insert(spec.name, weight);
                }
                _ => {
                    let dtype = if spec.kind == TensorKind::CorrectionBias { DType::F32 } else { dtype };
                    tensors.insert(spec.name, TinyTensor::new(dtype, shape, &values));
                }
            }
        }
        TinyCheckpoint { config, tensors }
    }

    /// Removes the tensors whose names start with `prefix`; how many.
    pub fn remove(&mut self, prefix: &str) -> usize {
        let before = self.tensors.len();
        self.tensors.retain(|name, _| !name.starts_with(prefix));
        before - self.tensors.len()
    }

    /// The files by name: config.json with `model.safetensors`, or with an index and this many shards, in which the scales
    /// of a weight lie in another shard than the weight.
    pub fn files(&self, num_shards: usize) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        files.insert("config.json".to_owned(), self.config.to_string().into_bytes());
        if num_shards <= 1 {
            files.insert("model.safetensors".to_owned(), serialize(self.tensors.iter()));
            return files;
        }
        // Names sort a weight's scales right after the weight, so dealing them out one by one parts the two.
        let shard_of = |index: usize| index % num_shards;
        let mut weight_map = BTreeMap::new();
        for shard in 0..num_shards {
            let file = format!("model-{:05}-of-{num_shards:06}.safetensors", shard + 1);
            let tensors = || self.tensors.iter().enumerate().filter(|(index, _)| shard_of(*index) == shard);
            weight_map.extend(tensors().map(|(_, (name, _))| (name.clone(), file.clone())));
            files.insert(file, serialize(tensors().map(|(_, tensor)| tensor)));
        }
        let index = json!({"metadata": {}, "weight_map": weight_map});
        files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
        files
    }

    /// The files as a source in memory.
    pub fn source(&self, num_shards: usize) -> Source {
        Source::Files(self.files(num_shards).into_iter().map(|(name, contents)| (name, contents.into())).collect())
    }

    /// Writes the files into an existing folder.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write(&self, folder: &Path, num_shards: usize) {
        for (name, contents) in self.files(num_shards) {
            std::fs::write(folder.join(name), contents).expect("a writable folder");
        }
    }
}

impl TinyTensor {
    /// A tensor of f32 values, rounded to `dtype`.
    ///
    /// # Panics
    /// With a dtype other than F32 and BF16.
    pub fn new(dtype: DType, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = match dtype {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            other => panic!("values are not written as {other}"),
        };
        TinyTensor { dtype, shape, bytes }
    }
}

fn serialize<'a>(tensors: impl Iterator<Item = (&'a String, &'a TinyTensor)>) -> Vec<u8> {
    let views = tensors.map(|(name, tensor)| {
        let dtype: Dtype = serde_json::from_value(json!(tensor.dtype.name())).expect("the same names");
        (name, TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes).expect("bytes of the shape"))
    });
    safetensors::serialize(views, None).expect("a header of valid JSON")
}

fn values(spec: &TensorSpec, seed: u64) -> Vec<f32> {
    // FNV-1a: a seed of its own for each name.
    let hash = spec
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut random = Random::new(seed ^ hash);
    let (center, size) = match spec.kind {
        TensorKind::Norm if spec.name.ends_with(".bias") => (0.0, 0.1),
        TensorKind::Norm => (1.0, 0.1),
        TensorKind::CorrectionBias => (0.0, 0.1),
        TensorKind::Table if spec.component == Component::Embedding => (0.0, 1.0),
        TensorKind::Linear | TensorKind::Table => (0.0, (spec.shape.row_len() as f32).sqrt().recip()),
    };
    random.gaussian(spec.shape.num_elements()).into_iter().map(|value| center + size * value).collect()
}

/// FP8 with scales that are powers of two, the smallest with which no value of the block is above 448.
fn quantize(values: &[f32], shape: &[usize], block: [usize; 2]) -> (TinyTensor, TinyTensor) {
    let &[rows, cols] = shape else { panic!("a linear has two dimensions") };
    let scale_shape = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let mut largest = vec![0.0f32; scale_shape[0] * scale_shape[1]];
    let block_of = |index: usize| index / cols / block[0] * scale_shape[1] + index % cols / block[1];
    for (index, value) in values.iter().enumerate() {
        let largest = &mut largest[block_of(index)];
        *largest = largest.max(value.abs());
    }
    let scales: Vec<f32> = largest.iter().map(|largest| (largest.max(1e-4) / 448.0).log2().ceil().exp2()).collect();
    let table = e4m3_magnitudes();
    let codes = values.iter().enumerate().map(|(index, value)| e4m3(&table, value / scales[block_of(index)])).collect();
    let weight = TinyTensor { dtype: DType::F8E4M3, shape: shape.to_vec(), bytes: codes };
    (weight, TinyTensor::new(DType::F32, scale_shape.to_vec(), &scales))
}

/// What the codes 0 to 0x7E stand for, ascending.
fn e4m3_magnitudes() -> Vec<f32> {
    let magnitude = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 3), f32::from(code & 7));
        if exponent == 0 { mantissa / 8.0 * 2f32.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) }
    };
    (0..0x7f).map(magnitude).collect()
}

/// The code nearest to a value of at most 448; of two equally near ones, the even one.
fn e4m3(magnitudes: &[f32], value: f32) -> u8 {
    let above = magnitudes.partition_point(|&magnitude| magnitude < value.abs()).min(magnitudes.len() - 1);
    let below = above.saturating_sub(1);
    let (to_below, to_above) = (value.abs() - magnitudes[below], magnitudes[above] - value.abs());
    let nearest = if to_below < to_above || (to_below == to_above && below % 2 == 0) { below } else { above };
    nearest as u8 | if value < 0.0 { 0x80 } else { 0 }
}

#[cfg(test)]
mod tests {
    use cachalot_weights::{Checkpoint, Shard};

    use super::*;

    #[test]
    fn e4m3_rounds_to_the_nearest_code_and_ties_to_even() {
        let magnitudes = e4m3_magnitudes();
        assert_eq!(magnitudes[0x7e], 448.0);
        for (code, &magnitude) in magnitudes.iter().enumerate() {
            assert_eq!(e4m3(&magnitudes, magnitude), code as u8);
            if code > 0 {
                assert_eq!(e4m3(&magnitudes, -magnitude), code as u8 | 0x80);
                let even = if code % 2 == 0 { code } else { code - 1 };
                assert_eq!(e4m3(&magnitudes, (magnitudes[code - 1] + magnitude) / 2.0), even as u8);
            }
        }
    }

    #[test]
    fn every_configuration_makes_a_checkpoint_that_opens() {
        let configs = [v3_config(), v32_config(), qwen3_config(), with_fp8(v3_config()), with_fp8(v32_config())];
        for config in configs {
            for num_shards in [1, 3] {
                let checkpoint = Checkpoint::open(&TinyCheckpoint::new(config.clone(), 7).source(num_shards));
                let checkpoint = checkpoint.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(checkpoint.notices(), [""; 0]);
            }
        }
    }

    #[test]
    fn fp8_values_are_near_the_bf16_ones() {
        let name = "model.layers.0.mlp.gate_proj.weight";
        let wide = TinyCheckpoint::new(v3_config(), 7).source(1);
        let narrow = TinyCheckpoint::new(with_fp8(v3_config()), 7).source(2);
        let wide = Checkpoint::open(&wide).unwrap().matrix(name, Shard::Whole).unwrap();
        let narrow = Checkpoint::open(&narrow).unwrap().matrix(name, Shard::Whole).unwrap();
        let scales = narrow.scales().unwrap();
        let magnitudes = e4m3_magnitudes();
        for row in 0..wide.num_rows() {
            for col in 0..wide.num_cols() {
                let expected = wide.values().view().row::<bf16>(row).unwrap()[col].to_f32();
                let code = narrow.values().bytes()[row * wide.num_cols() + col];
                let scale = scales.scales.view().row::<f32>(row / 128).unwrap()[col / 128];
                let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
                let got = sign * magnitudes[usize::from(code & 0x7f)] * scale;
                let step = (expected.abs() / 16.0).max(scale * 2f32.powi(-10));
                assert!((got - expected).abs() <= step * 1.1, "[{row}, {col}]: {got} for {expected}");
            }
        }
    }
}
