//! What a token takes in the cache of one layer.

use crate::config::DeepseekV3Config;

/// How the caches of latents and indexer keys are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// Four bytes per element.
    F32,
    /// Two bytes per element.
    Bf16,
    /// The FP8 records of FlashMLA and DeepGEMM.
    Fp8,
}

impl KvFormat {
    /// Bytes of the latent of one token in one layer: `kv_lora_rank` elements of the compressed key and value and
    /// `qk_rope_head_dim` of the rotated key. All heads share it.
    ///
    /// An FP8 record has one byte per element of the former, an f32 scale per 128 of them, and the rotated key in BF16. For the
    /// released models these are 2304, 1152 and 656 bytes.
    pub fn latent_bytes(self, config: &DeepseekV3Config) -> usize {
        match self {
            KvFormat::F32 => 4 * config.latent_dim(),
            KvFormat::Bf16 => 2 * config.latent_dim(),
            KvFormat::Fp8 => config.kv_lora_rank + 4 * config.kv_lora_rank.div_ceil(128) + 2 * config.qk_rope_head_dim,
        }
    }

    /// Bytes of the indexer's key of one token in one layer, `index_head_dim` elements; 0 without an indexer. An FP8 key has
    /// one f32 scale. For V3.2 these are 512, 256 and 132 bytes.
    pub fn index_key_bytes(self, config: &DeepseekV3Config) -> usize {
        let Some(indexer) = &config.indexer else { return 0 };
        match self {
            KvFormat::F32 => 4 * indexer.index_head_dim,
            KvFormat::Bf16 => 2 * indexer.index_head_dim,
            KvFormat::Fp8 => indexer.index_head_dim + 4,
        }
    }
}
