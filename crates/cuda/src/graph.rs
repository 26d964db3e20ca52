//! What a step does, recorded once and done many times.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Gpu;
use crate::backend::GraphHandle;

/// Operations that [`Stream::capture`](crate::Stream::capture) recorded, ready for [`Stream::replay`](crate::Stream::replay).
#[derive(Debug)]
pub struct Graph {
    pub(crate) gpu: Gpu,
    pub(crate) handle: GraphHandle,
    pub(crate) name: Arc<str>,
}

impl Graph {
    pub(crate) fn new(gpu: &Gpu, handle: GraphHandle, name: &str) -> Graph {
        Graph { gpu: gpu.clone(), handle, name: name.into() }
    }

    /// The name that it was captured under.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.0.backend.destroy_graph(self.handle);
    }
}

/// One graph for each of a few sizes: a step is done by the smallest graph that has room for it.
#[derive(Debug, Default)]
pub struct GraphBuckets {
    graphs: BTreeMap<usize, Graph>,
}

impl GraphBuckets {
    /// Adds the graph for steps of up to `size`, in place of an earlier one.
    pub fn insert(&mut self, size: usize, graph: Graph) {
        self.graphs.insert(size, graph);
    }

    /// The size and graph of the smallest bucket that has room for `size`.
    pub fn at_least(&self, size: usize) -> Option<(usize, &Graph)> {
        self.graphs.range(size..).next().map(|(&size, graph)| (size, graph))
    }
}
