//! One request while the engine has it.

/// Names a request; later arrivals have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeqId(pub(crate) u64);
