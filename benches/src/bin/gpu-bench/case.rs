//! What is timed: an op on one shape, with the bytes that it must move and the operations that it must do.

use cachalot_cuda::{Gpu, Stream};
use cachalot_tensor::{Buffer, Element, Shape};
use cachalot_testkit::Random;
use half::bf16;

/// What an op cannot do without, from its shape alone: each input read once, each output written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) bytes: usize,
    pub(crate) flops: usize,
}

/// One launch, on the copy of the data with this number.
pub(crate) type Launcher = Box<dyn FnMut(&Stream, usize) -> anyhow::Result<()>>;

/// Makes a launcher with so many copies of the data.
type Prepare = Box<dyn Fn(&Data<'_>, usize) -> anyhow::Result<Launcher>>;

/// One row of the table.
pub(crate) struct Case {
    pub(crate) op: &'static str,
    pub(crate) shape: String,
    pub(crate) variant: String,
    pub(crate) work: Work,
    /// Element type of the tensor cores that it uses, if any.
    pub(crate) tensor_cores: Option<TensorCores>,
    /// Makes so many copies of the data.
    pub(crate) prepare: Prepare,
}

/// Which rate of the tensor cores bounds an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorCores {
    Bf16,
    Fp8,
}

/// Makes buffers for a case.
pub(crate) struct Data<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) stream: &'a Stream,
}

/// Random values are repeated after so many.
const PERIOD: usize = 1 << 18;

impl Data<'_> {
    /// A buffer of values that repeat `values`.
    pub(crate) fn filled<T: Element>(&self, shape: impl Into<Shape>, values: &[T]) -> anyhow::Result<Buffer> {
        let shape = shape.into();
        let mut buffer = self.gpu.alloc(T::DTYPE, shape)?;
        let repeated: Vec<T> = values.iter().copied().cycle().take(shape.num_elements()).collect();
        self.stream.upload(&mut buffer, &repeated)?;
        Ok(buffer)
    }

    /// A buffer of normal bf16.
    pub(crate) fn bf16(&self, shape: impl Into<Shape>) -> anyhow::Result<Buffer> {
        let values: Vec<bf16> = Random::new(1).gaussian(PERIOD).into_iter().map(bf16::from_f32).collect();
        self.filled(shape, &values)
    }

    /// A buffer of normal f32.
    pub(crate) fn f32(&self, shape: impl Into<Shape>) -> anyhow::Result<Buffer> {
        self.filled(shape, &Random::new(2).gaussian(PERIOD))
    }
}
