//! Operations of the Cpu device at shapes of the 671B models, cut down where one run would take long.
//!
//! `cargo bench -p cachalot-benches --bench ops -- linear` runs those whose name contains `linear`. Throughput is in
//! weight bytes for one token (the bound is the memory), in multiply-adds for many (the bound is the processor), and in
//! elements elsewhere.

use cachalot_ops::{
    CacheWrite, Context, Device, Embedding, Expert, Experts, Gate, Indexer, LayerNorm, Linear, LogSoftmax, Mla,
    PagedSeqs, RmsNorm, Rope, RopeLayout, SwiGlu, cache_write, embedding, experts, gate, indexer, layer_norm, linear,
    log_softmax, mla_absorbed, mla_expanded, rms_norm, rope, swiglu,
};
use cachalot_tensor::{Buffer, DType, Tensor, View};
use cachalot_testkit::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HIDDEN_SIZE: usize = 7168;

/// One context for all benches: the threads are part of what a process keeps.
fn context() -> Context {
    Context::new(Device::Cpu, None).expect("threads")
}

/// Random activations `[num_tokens, dim]`.
fn activations(num_tokens: usize, dim: usize) -> Tensor {
    Tensor::from_slice(&Random::new(7).values(num_tokens * dim), [num_tokens, dim]).expect("one value per element")
}

fn linear_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("linear");
    group.sample_size(20);
    for dtype in [DType::F8E4M3, DType::BF16] {
        // Four of q_a_proj, so that the weight does not stay in the second-level cache.
        let (out_features, in_features) = (4 * 1536, HIDDEN_SIZE);
        let weight = Random::new(1).matrix(dtype, [out_features, in_features], [128, 128]);
        for num_tokens in [1, 4, 64, 256] {
            let (x, mut out) =
                (activations(num_tokens, in_features), Buffer::zeros(DType::F32, [num_tokens, out_features]));
            group.throughput(match num_tokens {
                1 => Throughput::Bytes((out_features * in_features * dtype.size_bytes()) as u64),
                _ => Throughput::Elements((num_tokens * out_features * in_features) as u64),
            });
            let id = BenchmarkId::new(format!("{dtype} {out_features}x{in_features}"), num_tokens);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    linear(&ctx, Linear { x: x.view(), weight: &weight, out: out.view_mut() })
                        .expect("valid arguments");
                });
            });
        }
    }
}

fn norm_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("norm");
    for num_tokens in [1, 256] {
        let x = activations(num_tokens, HIDDEN_SIZE);
        let weight = Random::new(2).vector(DType::BF16, HIDDEN_SIZE);
        let mut residual = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        group.throughput(Throughput::Elements((num_tokens * HIDDEN_SIZE) as u64));
        group.bench_function(BenchmarkId::new("rms_norm", num_tokens), |bencher| {
            bencher.iter(|| {
                let residual = Some(residual.view_mut());
                let args = RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, residual, out: out.view_mut() };
                rms_norm(&ctx, args).expect("valid arguments");
            });
        });

        let index_head_dim = 128;
        let x = activations(num_tokens, index_head_dim);
        let weight = Random::new(3).vector(DType::F32, index_head_dim);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, index_head_dim]);
        group.throughput(Throughput::Elements((num_tokens * index_head_dim) as u64));
        group.bench_function(BenchmarkId::new("layer_norm", num_tokens), |bencher| {
            bencher.iter(|| {
                let (weight, bias) = (weight.view(), weight.view());
                layer_norm(&ctx, LayerNorm { x: x.view(), weight, bias, eps: 1e-6, out: out.view_mut() })
                    .expect("valid arguments");
            });
        });
    }
}

fn rope_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("rope");
    let inv_freq = vec![0.01; 32];
    for (name, shape, rotary_start, layout) in
        [("q", [128, 192], 128, RopeLayout::Interleaved), ("indexer q", [64, 128], 0, RopeLayout::HalfSplit)]
    {
        for num_tokens in [1, 256] {
            let [num_heads, head_dim] = shape;
            let shape = [num_tokens, num_heads, head_dim];
            let (x, mut out) = (activations(num_tokens, num_heads * head_dim), Buffer::zeros(DType::F32, shape));
            let positions: Vec<u32> = (0..num_tokens as u32).collect();
            group.throughput(Throughput::Elements((num_tokens * num_heads * head_dim) as u64));
            group.bench_function(BenchmarkId::new(name, num_tokens), |bencher| {
                bencher.iter(|| {
                    let args = Rope {
                        x: x.view().reshape_rows(shape),
                        positions: &positions,
                        inv_freq: &inv_freq,
                        attention_factor: 1.0,
                        layout,
                        rotary_start,
                        out: out.view_mut(),
                    };
                    rope(&ctx, args).expect("valid arguments");
                });
            });
        }
    }
}

fn elementwise_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("elementwise");
    for num_tokens in [1, 256] {
        let moe_intermediate_size = 2048;
        let (gate, mut out) = (
            activations(num_tokens, moe_intermediate_size),
            Buffer::zeros(DType::F32, [num_tokens, moe_intermediate_size]),
        );
        group.throughput(Throughput::Elements((num_tokens * moe_intermediate_size) as u64));
        group.bench_function(BenchmarkId::new("swiglu", num_tokens), |bencher| {
            bencher.iter(|| {
                swiglu(&ctx, SwiGlu { gate: gate.view(), up: gate.view(), out: out.view_mut() })
                    .expect("valid arguments");
            });
        });

        let vocab_size = 129_280;
        let table = Random::new(4).matrix(DType::BF16, [1024, HIDDEN_SIZE], [1, 1]);
        let ids = Random::new(5).ids(num_tokens, 1024);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        group.throughput(Throughput::Elements((num_tokens * HIDDEN_SIZE) as u64));
        group.bench_function(BenchmarkId::new("embedding", num_tokens), |bencher| {
            bencher.iter(|| {
                embedding(&ctx, Embedding { ids: &ids, table: table.values().view(), out: out.view_mut() })
                    .expect("valid arguments");
            });
        });

        let num_rows = num_tokens.min(16);
        let (x, mut out) = (activations(num_rows, vocab_size), Buffer::zeros(DType::F32, [num_rows, vocab_size]));
        group.throughput(Throughput::Elements((num_rows * vocab_size) as u64));
        group.bench_function(BenchmarkId::new("log_softmax", num_rows), |bencher| {
            bencher.iter(|| {
                log_softmax(&ctx, LogSoftmax { x: x.view(), out: out.view_mut() }).expect("valid arguments");
            });
        });

        let latent = 576;
        let rows = Random::new(6).values(num_tokens * latent);
        let rows = View::from_slice(&rows, [num_tokens, latent]).expect("one value per element");
        let slots: Vec<u32> = (0..num_tokens as u32).collect();
        let mut cache = Buffer::zeros(DType::BF16, [8, 64, latent]);
        group.throughput(Throughput::Elements((num_tokens * latent) as u64));
        group.bench_function(BenchmarkId::new("cache_write", num_tokens), |bencher| {
            bencher.iter(|| {
                cache_write(&ctx, CacheWrite { rows, slot_mapping: &slots, cache: cache.view_mut() })
                    .expect("valid arguments");
            });
        });
    }
}

/// Sequences whose queries are their last `query_len` tokens, each in consecutive blocks.
struct Paged {
    query_start_loc: Vec<u32>,
    seq_lens: Vec<u32>,
    block_table: Vec<u32>,
    max_blocks: usize,
    cache: Buffer,
}

impl Paged {
    fn new(ctx: &Context, num_seqs: usize, seq_len: usize, query_len: usize, dim: usize) -> Self {
        let block_size = 64;
        let max_blocks = seq_len.div_ceil(block_size);
        let mut cache = Buffer::zeros(DType::BF16, [num_seqs * max_blocks, block_size, dim]);
        let num_slots = num_seqs * max_blocks * block_size;
        let slot_mapping: Vec<u32> = (0..num_slots as u32).collect();
        let rows = activations(num_slots, dim);
        cache_write(ctx, CacheWrite { rows: rows.view(), slot_mapping: &slot_mapping, cache: cache.view_mut() })
            .expect("valid arguments");
        Paged {
            query_start_loc: (0..=num_seqs).map(|seq| (seq * query_len) as u32).collect(),
            seq_lens: vec![seq_len as u32; num_seqs],
            block_table: (0..(num_seqs * max_blocks) as u32).collect(),
            max_blocks,
            cache,
        }
    }

    fn seqs(&self) -> PagedSeqs<'_> {
        PagedSeqs {
            query_start_loc: &self.query_start_loc,
            seq_lens: &self.seq_lens,
            block_table: &self.block_table,
            max_blocks: self.max_blocks,
        }
    }
}

/// Sixteen of the 128 heads. Throughput in multiply-adds with keys and values, those with `kv_b_proj` not counted.
fn mla_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("mla");
    group.sample_size(10);
    let (num_heads, nope, rope, v, rank) = (16, 128, 64, 128, 512);
    let kv_b_proj = Random::new(1).matrix(DType::F8E4M3, [num_heads * (nope + v), rank], [128, 128]);
    type Form = fn(&Context, Mla<'_>) -> cachalot_ops::Result<()>;
    let (absorbed, expanded): (Form, Form) = (mla_absorbed, mla_expanded);
    for (name, form, key_len, num_seqs, seq_len, query_len, topk) in [
        ("absorbed", absorbed, 2 * rank + rope, 1, 4096, 1, None),
        ("absorbed", absorbed, 2 * rank + rope, 8, 1024, 1, None),
        ("absorbed, sparse", absorbed, 2 * rank + rope, 1, 16384, 1, Some(2048)),
        ("expanded", expanded, nope + rope + v, 1, 512, 512, None),
        ("expanded", expanded, nope + rope + v, 1, 1024, 256, None),
        ("expanded, sparse", expanded, nope + rope + v, 1, 1024, 256, Some(512)),
    ] {
        let paged = Paged::new(&ctx, num_seqs, seq_len, query_len, rank + rope);
        let num_tokens = num_seqs * query_len;
        let q = activations(num_tokens, num_heads * (nope + rope));
        // Every second position, or every eighth.
        let topk_indices = topk.map(|topk: usize| {
            let chosen: Vec<i32> = (0..num_tokens * topk).map(|i| (i % topk * (seq_len / topk)) as i32).collect();
            Tensor::from_slice(&chosen, [num_tokens, topk]).expect("a position per element")
        });
        let mut out = Buffer::zeros(DType::F32, [num_tokens, num_heads, v]);
        let keys_of_a_query = topk.unwrap_or(seq_len) - if topk.is_none() { query_len / 2 } else { 0 };
        group.throughput(Throughput::Elements((num_tokens * num_heads * keys_of_a_query * key_len) as u64));
        group.bench_function(BenchmarkId::new(name, format!("{num_seqs}x{query_len} of {seq_len}")), |bencher| {
            bencher.iter(|| {
                let args = Mla {
                    q: q.view().reshape_rows([num_tokens, num_heads, nope + rope]),
                    kv_b_proj: &kv_b_proj,
                    kv_cache: paged.cache.view(),
                    seqs: paged.seqs(),
                    topk_indices: topk_indices.as_ref().map(Tensor::view),
                    softmax_scale: 0.1,
                    qk_nope_head_dim: nope,
                    qk_rope_head_dim: rope,
                    v_head_dim: v,
                    out: out.view_mut(),
                };
                form(&ctx, args).expect("valid arguments");
            });
        });
    }
}

/// Throughput in multiply-adds of the scores, or in positions where all are chosen and none is scored.
fn indexer_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("indexer");
    group.sample_size(10);
    let (index_n_heads, index_head_dim, index_topk) = (64, 128, 2048);
    for (seq_len, num_tokens) in [(16384, 1), (4096, 16), (2048, 256)] {
        let paged = Paged::new(&ctx, 1, seq_len, num_tokens, index_head_dim);
        let q = activations(num_tokens, index_n_heads * index_head_dim);
        let weights = activations(num_tokens, index_n_heads);
        let mut out = Buffer::zeros(DType::I32, [num_tokens, index_topk]);
        let work = if seq_len > index_topk { seq_len * index_n_heads * index_head_dim } else { index_topk };
        group.throughput(Throughput::Elements((num_tokens * work) as u64));
        group.bench_function(format!("{num_tokens} of {seq_len}"), |bencher| {
            bencher.iter(|| {
                let args = Indexer {
                    q: q.view().reshape_rows([num_tokens, index_n_heads, index_head_dim]),
                    weights: weights.view(),
                    key_cache: paged.cache.view(),
                    seqs: paged.seqs(),
                    scale: 0.011,
                    out: out.view_mut(),
                };
                indexer(&ctx, args).expect("valid arguments");
            });
        });
    }
}

/// The router and its experts, eight of the 256.
fn moe_benches(criterion: &mut Criterion) {
    let ctx = context();
    let mut group = criterion.benchmark_group("moe");
    group.sample_size(10);
    let (n_routed_experts, moe_intermediate_size) = (256, 2048);
    let weight = Random::new(5).matrix(DType::BF16, [n_routed_experts, HIDDEN_SIZE], [128, 128]);
    let bias = Tensor::from_slice(&Random::new(6).values(n_routed_experts), [n_routed_experts]).expect("a bias each");
    for num_tokens in [1, 64] {
        let x = activations(num_tokens, HIDDEN_SIZE);
        let mut ids = Buffer::zeros(DType::I32, [num_tokens, 8]);
        let mut weights = Buffer::zeros(DType::F32, [num_tokens, 8]);
        group.throughput(Throughput::Elements((num_tokens * n_routed_experts * HIDDEN_SIZE) as u64));
        group.bench_function(BenchmarkId::new("gate", num_tokens), |bencher| {
            bencher.iter(|| {
                let args = Gate {
                    x: x.view(),
                    weight: &weight,
                    bias: bias.view(),
                    n_group: 8,
                    topk_group: 4,
                    norm_topk_prob: true,
                    routed_scaling_factor: 2.5,
                    expert_ids: ids.view_mut(),
                    expert_weights: weights.view_mut(),
                };
                gate(&ctx, args).expect("valid arguments");
            });
        });
    }

    let mut random = Random::new(8);
    let mut matrix = |shape| random.matrix(DType::F8E4M3, shape, [128, 128]);
    let loaded: Vec<Expert> = (0..8)
        .map(|_| Expert {
            gate_proj: matrix([moe_intermediate_size, HIDDEN_SIZE]),
            up_proj: matrix([moe_intermediate_size, HIDDEN_SIZE]),
            down_proj: matrix([HIDDEN_SIZE, moe_intermediate_size]),
        })
        .collect();
    let expert_len = 3 * moe_intermediate_size * HIDDEN_SIZE;
    // One token with all eight: the weights are read once. Sixteen tokens with two each: four tokens per expert.
    for (num_tokens, num_experts_per_tok) in [(1, 8), (16, 2)] {
        let x = activations(num_tokens, HIDDEN_SIZE);
        let shape = [num_tokens, num_experts_per_tok];
        let ids: Vec<i32> = (0..num_tokens * num_experts_per_tok).map(|pair| pair as i32 % 8).collect();
        let ids = Tensor::from_slice(&ids, shape).expect("an id per element");
        let weights = activations(num_tokens, num_experts_per_tok);
        let mut out = Buffer::zeros(DType::F32, [num_tokens, HIDDEN_SIZE]);
        group.throughput(match num_tokens {
            1 => Throughput::Bytes((num_experts_per_tok * expert_len) as u64),
            _ => Throughput::Elements((num_tokens * num_experts_per_tok * expert_len) as u64),
        });
        group.bench_function(BenchmarkId::new("experts", format!("{num_tokens}x{num_experts_per_tok}")), |bencher| {
            bencher.iter(|| {
                let args = Experts {
                    x: x.view(),
                    experts: &loaded,
                    expert_ids: ids.view(),
                    expert_weights: weights.view(),
                    out: out.view_mut(),
                };
                experts(&ctx, args).expect("valid arguments");
            });
        });
    }
}

criterion_group!(
    benches,
    linear_benches,
    norm_benches,
    rope_benches,
    elementwise_benches,
    mla_benches,
    indexer_benches,
    moe_benches
);
criterion_main!(benches);
