//! What went wrong in a kernel, and where.

use std::fmt;

/// Where a thread was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the kernel.
    pub kernel: String,
    /// `blockIdx`.
    pub block: [u32; 3],
    /// `threadIdx`.
    pub thread: [u32; 3],
    /// Source file and line, if the PTX was made with `-lineinfo`.
    pub line: Option<(String, u32)>,
    /// The line of the function that was inlined there, if the instruction is from one.
    pub inlined_from: Option<(String, u32)>,
    /// The instruction, as the PTX spells it.
    pub instruction: String,
}

/// What an instruction did wrong. The checks that find it know neither kernel nor line; [`Fault`] adds them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// An access outside every allocation, or outside shared, local or parameter memory.
    #[error("{0}")]
    OutOfBounds(String),
    /// An address that is no multiple of the access's size.
    #[error("{0}")]
    Misaligned(String),
    /// Bytes that nobody has written.
    #[error("{0}")]
    Uninitialised(String),
    /// Two accesses of shared memory, one of them a write, that no barrier orders.
    #[error("{0}")]
    Race(String),
    /// An asynchronous copy or matrix product whose result is used, or whose input is overwritten, before its wait.
    #[error("{0}")]
    NotWaited(String),
    /// Threads that wait for each other at different barriers, or for threads that have exited.
    #[error("{0}")]
    Barrier(String),
    /// Threads that wait for something that nobody will do.
    #[error("{0}")]
    Hang(String),
    /// An instruction or a form of one that the emulator does not execute.
    #[error("{0}")]
    Unsupported(String),
    /// `trap`, or a failed `assert`.
    #[error("{0}")]
    Trap(String),
    /// A launch that no GPU would take: too much shared memory, a parameter block of another size, ...
    #[error("{0}")]
    Launch(String),
}

impl Misuse {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Misuse::OutOfBounds(_) => "out of bounds",
            Misuse::Misaligned(_) => "misaligned",
            Misuse::Uninitialised(_) => "uninitialised read",
            Misuse::Race(_) => "race",
            Misuse::NotWaited(_) => "not waited for",
            Misuse::Barrier(_) => "barrier divergence",
            Misuse::Hang(_) => "hang",
            Misuse::Unsupported(_) => "unsupported",
            Misuse::Trap(_) => "trap",
            Misuse::Launch(_) => "launch",
        }
    }
}

/// A kernel that was stopped: what it did wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub misuse: Misuse,
    /// Where.
    pub place: Box<Place>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { kernel, block, thread, line, inlined_from, instruction } = &*self.place;
        write!(f, "kernel `{kernel}`, block {block:?}, thread {thread:?}")?;
        if let Some((file, line)) = line {
            write!(f, ", {file}:{line}")?;
        }
        if let Some((file, line)) = inlined_from {
            write!(f, " (inlined from {file}:{line})")?;
        }
        write!(f, ": {}: {}", self.misuse.kind(), self.misuse)?;
        if !instruction.is_empty() {
            write!(f, " (in `{instruction}`)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
