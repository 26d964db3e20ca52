//! Working memory of kernels, kept from one call to the next.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use crate::{Context, experts, indexer, linear, mla};

thread_local! {
    /// Of a pool's thread.
    static OF_THREAD: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Of the threads that call operations. They share it, so that whoever starts an engine can take the memory that the engine's
/// own thread will use.
static OF_CALLERS: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Calls `f` with `len` f32 of unspecified content. Calls may nest. As many buffers are kept as were ever used at once, each as
/// large as its largest use, so that steps like the one before allocate nothing.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = with_kept(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        // Exactly: what grows by doubling takes up to twice what it needs.
        buffer.reserve_exact(len - buffer.len());
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
    with_kept(|kept| kept.push(buffer));
    result
}

fn with_kept<R>(f: impl FnOnce(&mut Vec<Vec<f32>>) -> R) -> R {
    match rayon::current_thread_index() {
        Some(_) => OF_THREAD.with_borrow_mut(f),
        None => f(&mut OF_CALLERS.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Sizes that the working memory of a step depends on, by their names in config.json where they have one.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are those of config.json and of the engine's limits")]
pub struct StepDims {
    pub max_model_len: usize,
    pub max_num_batched_tokens: usize,
    /// The longest row that a linear layer multiplies.
    pub widest_input: usize,
    pub num_attention_heads: usize,
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    pub kv_lora_rank: usize,
    pub n_routed_experts: usize,
    pub n_group: usize,
    pub num_experts_per_tok: usize,
    pub moe_intermediate_size: usize,
    /// Elements of an indexer head, if there is an indexer.
    pub index_head_dim: Option<usize>,
}

/// The most working memory that the Cpu's kernels keep for steps within [`StepDims`]; in f32, outermost buffer first.
///
/// A pool's thread: 16 decoded rows of a linear layer; the tile of expanded or the rows of absorbed attention, within which 16
/// rows of `kv_b_proj` are decoded; the scores of one row of the indexer; what the router and the norms keep of one row.
/// The calling thread: the router's scores, or the sorted pairs of tokens and experts, within which a window of pairs has its
/// activations; the scores of the indexer's rows that are worked on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingMemory {
    /// Of each thread of the pool.
    pub per_thread: [usize; 2],
    /// Of the thread that calls the operations.
    pub caller: [usize; 2],
}

impl WorkingMemory {
    /// For steps within `dims`.
    pub fn new(dims: &StepDims) -> Self {
        let num_pairs = dims.max_num_batched_tokens * dims.num_experts_per_tok;
        let of_row =
            [dims.n_routed_experts + 2 * dims.n_group, dims.qk_rope_head_dim, 2 * dims.index_head_dim.unwrap_or(0)]
                .into_iter()
                .max()
                .unwrap_or(0);
        let scores_of_row = dims.index_head_dim.map_or(0, |_| dims.max_model_len);
        let per_thread = [
            of_row,
            scores_of_row,
            linear::cpu::TASK_ROWS * dims.widest_input,
            mla::cpu::expanded_scratch(dims),
            mla::cpu::absorbed_scratch(dims),
        ];
        let caller = [
            of_row,
            dims.max_num_batched_tokens * dims.n_routed_experts,
            num_pairs + dims.n_routed_experts + 1,
            dims.index_head_dim.map_or(0, |_| indexer::cpu::scores_scratch(dims)),
        ];
        let window = num_pairs.min(experts::cpu::WINDOW_PAIRS) * dims.moe_intermediate_size;
        WorkingMemory {
            per_thread: [per_thread.into_iter().max().unwrap_or(0), linear::cpu::TASK_ROWS * dims.kv_lora_rank],
            caller: [caller.into_iter().max().unwrap_or(0), window.max(of_row)],
        }
    }

    /// Bytes of it with a pool of `num_threads`.
    pub fn bytes(&self, num_threads: usize) -> u64 {
        let num_f32 = |buffers: [usize; 2]| (buffers[0] + buffers[1]) as u64;
        4 * (num_threads as u64 * num_f32(self.per_thread) + num_f32(self.caller))
    }
}

impl Context {
    /// Takes working memory ahead of the first step, every page of it.
    pub fn take_working_memory(&self, memory: &WorkingMemory) {
        let take = |[outer, inner]: [usize; 2]| {
            with_scratch(outer, |buffer| {
                buffer.fill(1.0);
                with_scratch(inner, |buffer| buffer.fill(1.0));
            });
        };
        self.pool().broadcast(|_| take(memory.per_thread));
        take(memory.caller);
    }

    /// Bytes of working memory that this context's threads and all callers of operations keep.
    pub fn working_memory_bytes(&self) -> u64 {
        let bytes = |kept: &mut Vec<Vec<f32>>| kept.iter().map(|buffer| 4 * buffer.len() as u64).sum::<u64>();
        let of_threads: u64 = self.pool().broadcast(|_| with_kept(bytes)).into_iter().sum();
        of_threads + bytes(&mut OF_CALLERS.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
