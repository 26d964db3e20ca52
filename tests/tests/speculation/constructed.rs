//! Checkpoints whose MTP module is right about every token if it is read as it was published, and about few if it is not.
//!
//! The main model obeys a [`Law`]: each token follows from the three before it. One layer of attention fetches the two earlier ones
//! by their distance, so the law is exact. The module has to bring the same three tokens together from what the published
//! semantics give it, each from another place:
//!
//! - the newest, `t[p + 1]`, from the embedding half of `eh_proj`;
//! - `t[p]` from the hidden half, where the final norm and `hnorm` have given each token a sign and a size of its own;
//! - `t[p − 1]` only by attention to the module's own position `p − 1`.
//!
//! Its output goes through `shared_head.norm`, which gives signs and sizes again, to the main model's head, and must look like the
//! main model's hidden state when it stands in for it.

use cachalot_tensor::DType;
use cachalot_testkit::{Random, TinyCheckpoint, TinyTensor, v3_config, v32_config};
use serde_json::json;

/// Seeds whose texts do not soon repeat themselves.
pub(crate) const SEEDS: [u64; 3] = [28, 4, 26];
pub(crate) const VOCAB_SIZE: usize = 24;
const NUM_HEADS: usize = 2;
const Q_LORA_RANK: usize = 8;
const QK_NOPE_HEAD_DIM: usize = 8;
const QK_ROPE_HEAD_DIM: usize = 16;
const QK_HEAD_DIM: usize = QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM;
const INDEX_HEAD_DIM: usize = 32;

// The parts of a hidden state. Three of them are one-hot in a token.
/// The newest token, as the head reads it.
const TOKEN: usize = 0;
/// The newest token again, as the module reads it in a hidden state.
const COPY: usize = VOCAB_SIZE;
/// What the earlier tokens say about the next one.
const SCORE: usize = 2 * VOCAB_SIZE;
/// In the module: the token before the newest, for later positions to fetch.
const EARLIER: usize = 3 * VOCAB_SIZE;
/// The same everywhere, and much larger than all the rest: every RMS is that of this one dimension, to 0.1 %.
const CONSTANT: usize = 4 * VOCAB_SIZE;
const HIDDEN_SIZE: usize = 4 * VOCAB_SIZE + 8;

const CONSTANT_SIZE: f32 = 128.0;
/// Size of a score of 1.
const SCORE_SIZE: f32 = 1.0 / 16.0;
/// How much higher the wanted distance scores in attention than its neighbours, in units of `1 − cos` summed over the rotary pairs:
/// what is left for the neighbours is `e^−41`.
const SHARPNESS: f32 = 80.0;

/// `next = argmax over v of newest[t, v] + second[t', v] + third[t'', v] + v / 32`, with integers in the tables. So the best is
/// ahead of the second best by 1/32 at least.
#[derive(Debug)]
pub(crate) struct Law {
    newest: Vec<f32>,
    second: Vec<f32>,
    third: Vec<f32>,
}

impl Law {
    fn new(random: &mut Random) -> Self {
        let mut table = || (0..VOCAB_SIZE * VOCAB_SIZE).map(|_| random.below(16) as f32).collect();
        Law { newest: table(), second: table(), third: table() }
    }

    /// The token after `ids`. Before the first token, that one is taken to have stood as well.
    pub(crate) fn next(&self, ids: &[u32]) -> u32 {
        let back = |distance: usize| ids[(ids.len() - 1).saturating_sub(distance)] as usize;
        let score = |v: usize| {
            let of = |table: &[f32], token: usize| table[token * VOCAB_SIZE + v];
            of(&self.newest, back(0)) + of(&self.second, back(1)) + of(&self.third, back(2)) + v as f32 / 32.0
        };
        (0..VOCAB_SIZE).max_by(|&a, &b| score(a).total_cmp(&score(b))).expect("a vocabulary") as u32
    }
}

/// Checkpoints that transformers has generated with: right ones, and the same without the module's attention, which are right
/// now and then.
pub(crate) const CONSTRUCTED: [&str; 4] = ["v3-right", "v3-partly-right", "v32-right", "v32-partly-right"];

/// One of [`CONSTRUCTED`].
pub(crate) fn by_name(name: &str) -> TinyCheckpoint {
    let structure = if name.starts_with("v32") { Structure::V32 } else { Structure::V3 };
    // Two layers: the last one has experts, as the module has, which `scripts/golden` counts on.
    let (mut this, _) = construct(structure, Recycled::Normed, SEEDS[0], 1);
    if name.ends_with("partly-right") {
        this.set(&format!("{}.self_attn.o_proj.weight", this.mtp), []);
    }
    this.checkpoint
}

/// Which release's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    V3,
    /// With an indexer that keeps the six nearest positions.
    V32,
}

/// What the module is made to be given in place of a hidden state, when it goes on from a token that it drafted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recycled {
    /// Its own output after `shared_head.norm`: the published semantics.
    Normed,
    /// Its own output before that norm.
    Raw,
}

/// A checkpoint under construction.
#[derive(Clone, Debug)]
pub(crate) struct Constructed {
    pub(crate) checkpoint: TinyCheckpoint,
    /// What the names of the module's tensors begin with.
    pub(crate) mtp: String,
}

/// A checkpoint that obeys a law, and the law. Idle layers add nothing to the residual, but cost what layers cost.
pub(crate) fn construct(
    structure: Structure,
    recycled: Recycled,
    seed: u64,
    num_idle_layers: usize,
) -> (Constructed, Law) {
    let mut random = Random::new(seed);
    let law = Law::new(&mut random);
    let num_layers = 1 + num_idle_layers;
    let checkpoint = TinyCheckpoint::new(config(structure, num_layers), seed);
    let mut this = Constructed { checkpoint, mtp: format!("model.layers.{num_layers}") };
    for name in ["enorm", "hnorm", "shared_head.norm"] {
        this.set_norm(&format!("{}.{name}.weight", this.mtp), &mut random);
    }
    this.set_norm("model.norm.weight", &mut random);
    let outputs = this.checkpoint.tensors.keys().cloned();
    let outputs = outputs.filter(|name| name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight"));
    for name in outputs.collect::<Vec<_>>() {
        this.set(&name, []);
    }
    this.main_model(&law);
    this.mtp_module(&law, recycled);
    for (layer, source) in [(0, TOKEN), (num_layers, EARLIER)] {
        this.attention(layer, source);
        if structure == Structure::V32 {
            this.indexer(layer);
        }
    }
    (this, law)
}

fn config(structure: Structure, num_layers: usize) -> serde_json::Value {
    let mut config = match structure {
        Structure::V3 => v3_config(),
        Structure::V32 => v32_config(),
    };
    let changes = json!({
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 16,
        "moe_intermediate_size": 8,
        "num_hidden_layers": num_layers,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_HEADS,
        "q_lora_rank": Q_LORA_RANK,
        "kv_lora_rank": VOCAB_SIZE,
        "qk_nope_head_dim": QK_NOPE_HEAD_DIM,
        "qk_rope_head_dim": QK_ROPE_HEAD_DIM,
        "v_head_dim": VOCAB_SIZE,
        "rope_scaling": null,
        "torch_dtype": "float32",
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    if structure == Structure::V32 {
        config["index_n_heads"] = json!(NUM_HEADS);
        config["index_head_dim"] = json!(INDEX_HEAD_DIM);
        config["index_topk"] = json!(6);
    }
    config
}

/// Radians per position of rotary pair `pair`.
fn frequency(pair: usize) -> f32 {
    10000f32.powf(-2.0 * pair as f32 / QK_ROPE_HEAD_DIM as f32)
}

/// What RMSNorm multiplies a state by: its constant dimension decides.
fn norm_factor() -> f32 {
    (HIDDEN_SIZE as f32).sqrt() / CONSTANT_SIZE
}

impl Constructed {
    /// The elements of a tensor.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        let bytes = self.checkpoint.tensors[name].bytes.chunks_exact(4);
        bytes.map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
    }

    /// Replaces the elements of a tensor.
    pub(crate) fn set_values(&mut self, name: &str, values: &[f32]) {
        let tensor = self.checkpoint.tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name}"));
        *tensor = TinyTensor::new(DType::F32, tensor.shape.clone(), values);
    }

    /// Makes a matrix of zeros and these elements, `(row, column, value)`.
    fn set(&mut self, name: &str, elements: impl IntoIterator<Item = (usize, usize, f32)>) {
        let shape = &self.checkpoint.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).shape;
        let num_columns = shape[1];
        let mut values = vec![0.0; shape.iter().product()];
        for (row, column, value) in elements {
            values[row * num_columns + column] = value;
        }
        self.set_values(name, &values);
    }

    /// A sign and a size from 1/2 to 2 for each dimension but the constant one.
    fn set_norm(&mut self, name: &str, random: &mut Random) {
        let mut weight =
            || if random.below(2) == 0 { -1.0 } else { 1.0 } * (2.0 * random.value()).exp2().clamp(0.5, 2.0);
        let mut values: Vec<f32> = (0..HIDDEN_SIZE).map(|_| weight()).collect();
        values[CONSTANT] = 1.0;
        self.set_values(name, &values);
    }

    /// Embedding, attention's output and head: the residual ends as newest token, scores of the two before it, constant.
    fn main_model(&mut self, law: &Law) {
        let norm = self.values("model.norm.weight");
        let tokens = || 0..VOCAB_SIZE;
        let pairs = || tokens().flat_map(move |token| tokens().map(move |v| (token, v)));
        let embedding = tokens().flat_map(|token| {
            [(token, TOKEN + token, 1.0), (token, COPY + token, 1.0), (token, CONSTANT, CONSTANT_SIZE)]
        });
        let embedding: Vec<_> = embedding.collect();
        let head =
            pairs().map(|(token, v)| (v, TOKEN + token, law.newest[token * VOCAB_SIZE + v] / norm[TOKEN + token]));
        let head = head.chain(tokens().flat_map(|v| {
            [(v, SCORE + v, 1.0 / (SCORE_SIZE * norm[SCORE + v])), (v, CONSTANT, v as f32 / 32.0 / CONSTANT_SIZE)]
        }));
        let head: Vec<_> = head.collect();
        for prefix in ["model", &self.mtp.clone()] {
            self.set(&format!("{prefix}.embed_tokens.weight"), embedding.iter().copied());
        }
        for name in ["lm_head.weight", &format!("{}.shared_head.head.weight", self.mtp)] {
            self.set(name, head.iter().copied());
        }
        let scores = pairs().flat_map(|(token, v)| {
            let entry = token * VOCAB_SIZE + v;
            let score = |head: usize, score: f32| (SCORE + v, head * VOCAB_SIZE + token, SCORE_SIZE * score);
            [score(0, law.second[entry]), score(1, law.third[entry])]
        });
        self.set("model.layers.0.self_attn.o_proj.weight", scores);
    }

    /// `eh_proj` and attention's output: the residual ends as the main model's would be one position later, but for the weights
    /// that the two norms after it multiply by.
    fn mtp_module(&mut self, law: &Law, recycled: Recycled) {
        let prefix = self.mtp.clone();
        let norm = self.values("model.norm.weight");
        let [enorm, hnorm, head_norm] =
            ["enorm", "hnorm", "shared_head.norm"].map(|name| self.values(&format!("{prefix}.{name}.weight")));
        // What the final norm would have given, so that `shared_head.norm` gives it.
        let as_normed = |dim: usize| norm[dim] / head_norm[dim];
        let copied = |dim: usize| match recycled {
            Recycled::Normed => as_normed(dim),
            Recycled::Raw => norm[dim],
        };
        let factor = norm_factor();
        let mut elements = vec![(CONSTANT, CONSTANT, as_normed(CONSTANT) / (factor * enorm[CONSTANT]))];
        for token in 0..VOCAB_SIZE {
            let (from_token, from_hidden) = (TOKEN + token, COPY + token);
            let per_token = 1.0 / (factor * enorm[from_token]);
            let per_hidden = 1.0 / (factor * hnorm[from_hidden] * norm[from_hidden]);
            let hidden_column = HIDDEN_SIZE + from_hidden;
            elements.push((TOKEN + token, from_token, as_normed(TOKEN + token) * per_token));
            elements.push((COPY + token, from_token, copied(COPY + token) * per_token));
            elements.push((EARLIER + token, hidden_column, per_hidden));
            for v in 0..VOCAB_SIZE {
                let score = SCORE_SIZE * law.second[token * VOCAB_SIZE + v];
                elements.push((SCORE + v, hidden_column, as_normed(SCORE + v) * score * per_hidden));
            }
        }
        self.set(&format!("{prefix}.eh_proj.weight"), elements);
        // The first head fetches from the position before, where the earlier token is the third from the end.
        let mut scores = Vec::new();
        for token in 0..VOCAB_SIZE {
            for v in 0..VOCAB_SIZE {
                let score = SCORE_SIZE * law.third[token * VOCAB_SIZE + v];
                scores.push((SCORE + v, token, as_normed(SCORE + v) * score));
            }
        }
        self.set(&format!("{prefix}.self_attn.o_proj.weight"), scores);
    }

    /// Head `h` attends to the position `h + 1` before, and its value is the token that the part `source` of the state there names.
    fn attention(&mut self, layer: usize, source: usize) {
        let prefix = format!("model.layers.{layer}");
        for norm in
            ["input_layernorm", "post_attention_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm"]
        {
            let name = format!("{prefix}.{norm}.weight");
            let ones = vec![1.0; self.values(&name).len()];
            self.set_values(&name, &ones);
        }
        let prefix = format!("{prefix}.self_attn");
        let constant = (HIDDEN_SIZE as f32).sqrt();
        // One dimension is set, so its norm is √q_lora_rank.
        self.set(&format!("{prefix}.q_a_proj.weight"), [(0, CONSTANT, 1.0 / constant)]);
        let query = (0..NUM_HEADS).flat_map(|head| {
            let size = SHARPNESS * (QK_HEAD_DIM as f32 / Q_LORA_RANK as f32).sqrt();
            rotary_pairs().flat_map(move |pair| {
                let phase = -(head as f32 + 1.0) * frequency(pair);
                let row = head * QK_HEAD_DIM + QK_NOPE_HEAD_DIM + 2 * pair;
                [(row, 0, size * phase.cos()), (row + 1, 0, size * phase.sin())]
            })
        });
        self.set(&format!("{prefix}.q_b_proj.weight"), query);
        let key = rotary_pairs().map(|pair| (VOCAB_SIZE + 2 * pair, CONSTANT, 1.0 / constant));
        let latent = (0..VOCAB_SIZE).map(|token| (token, source + token, 1.0 / norm_factor()));
        self.set(&format!("{prefix}.kv_a_proj_with_mqa.weight"), latent.chain(key));
        let value = (0..NUM_HEADS).flat_map(|head| {
            let first_row = head * (QK_NOPE_HEAD_DIM + VOCAB_SIZE) + QK_NOPE_HEAD_DIM;
            // The latent is one-hot, so its norm is √kv_lora_rank.
            (0..VOCAB_SIZE).map(move |token| (first_row + token, token, 1.0 / (VOCAB_SIZE as f32).sqrt()))
        });
        self.set(&format!("{prefix}.kv_b_proj.weight"), value);
    }

    /// Head `h` likes the position `h + 1` before best, so that the nearest are chosen. Keys are constant but for their rotation.
    fn indexer(&mut self, layer: usize) {
        let prefix = format!("model.layers.{layer}.self_attn.indexer");
        let half = QK_ROPE_HEAD_DIM / 2;
        let query = (0..NUM_HEADS).flat_map(|head| {
            rotary_pairs().flat_map(move |pair| {
                let phase = -(head as f32 + 1.0) * frequency(pair);
                let row = head * INDEX_HEAD_DIM + pair;
                [(row, 0, phase.cos()), (row + half, 0, phase.sin())]
            })
        });
        self.set(&format!("{prefix}.wq_b.weight"), query);
        self.set_values(&format!("{prefix}.k_norm.weight"), &[0.0; INDEX_HEAD_DIM]);
        let mut bias = [0.0; INDEX_HEAD_DIM];
        bias[..half].fill(1.0);
        self.set_values(&format!("{prefix}.k_norm.bias"), &bias);
        self.set(&format!("{prefix}.weights_proj.weight"), (0..NUM_HEADS).map(|head| (head, CONSTANT, 1.0)));
    }
}

fn rotary_pairs() -> impl Iterator<Item = usize> {
    0..QK_ROPE_HEAD_DIM / 2
}
