//! What an access of shared memory did wrong.

use std::fmt;

use crate::clocks::Access;
use crate::fault::Misuse;

/// The rule that an access broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    OutOfBounds,
    Misaligned,
    Uninitialised,
    /// Nothing orders the access after an earlier one.
    Race,
    /// An ordinary write that the asynchronous proxy does not see.
    Unfenced,
    /// The bytes belong to an asynchronous operation.
    NotWaited,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Read,
    Write,
    Atomic,
    /// The write of an asynchronous copy.
    Copy,
    /// The read of a matrix product of a warp group, or of a bulk store.
    AsyncRead,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Read => "read",
            Deed::Write => "write",
            Deed::Atomic => "atomic operation",
            Deed::Copy => "asynchronous copy",
            Deed::AsyncRead => "asynchronous read",
        })
    }
}

/// The earlier access that a later one is in conflict with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) deed: Deed,
    /// The thread that did it or, where it has not been waited for, started it.
    pub(crate) access: Access,
    /// Index of its instruction.
    pub(crate) site: u32,
}

/// What is wrong with one cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) earlier: Option<Earlier>,
}

/// An access of shared memory that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) kind: Kind,
    pub(crate) earlier: Option<Earlier>,
    /// What was done where.
    what: String,
    /// The rest of the message, where no earlier access is to blame.
    reason: String,
}

impl Trouble {
    #[cold]
    pub(super) fn at(self, byte: usize) -> TroubleAt {
        TroubleAt { trouble: self, byte }
    }
}

/// A [`Trouble`] and the first byte that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TroubleAt {
    trouble: Trouble,
    byte: usize,
}

impl TroubleAt {
    #[cold]
    pub(super) fn conflict(self, deed: Deed, start: usize, len: usize) -> Box<Conflict> {
        let Trouble { kind, earlier } = self.trouble;
        let byte = self.byte;
        let reason = match kind {
            Kind::Uninitialised => format!("nobody has written byte {byte:#x}"),
            _ => format!("byte {byte:#x}"),
        };
        Box::new(Conflict { kind, earlier, what: what(deed, start, len), reason })
    }
}

impl Conflict {
    #[cold]
    pub(super) fn of_place(kind: Kind, deed: Deed, start: usize, len: usize, reason: String) -> Box<Conflict> {
        Box::new(Conflict { kind, earlier: None, what: what(deed, start, len), reason })
    }

    /// The misuse, in words: blocks of `warps_per_block` warps, and `line_of` an instruction where it is known.
    pub(crate) fn into_misuse(self, warps_per_block: usize, line_of: impl Fn(u32) -> Option<String>) -> Misuse {
        let Conflict { kind, earlier, what, reason } = self;
        let by = earlier.map(|Earlier { deed, access: Access { warp, lane, .. }, site }| {
            let (block, warp) = (usize::from(warp) / warps_per_block, usize::from(warp) % warps_per_block);
            let line = line_of(site).map(|line| format!(" at {line}")).unwrap_or_default();
            let thread = format!("{deed} by warp {warp} lane {lane} of block {block} of the cluster{line}");
            // An operation that has been waited for belongs to no thread; where it was started says more.
            match (deed, kind) {
                (Deed::Copy | Deed::AsyncRead, Kind::Race) => format!("{deed}{line}"),
                _ => thread,
            }
        });
        let message = match (kind, by) {
            (Kind::Race, Some(by)) => format!("{what}: nothing orders it after the {by} ({reason})"),
            (Kind::Unfenced, Some(by)) => {
                format!("{what}: no `fence.proxy.async` makes visible to it the {by} ({reason})")
            }
            (Kind::NotWaited, Some(by)) => format!("{what}: nobody has waited for the {by} ({reason})"),
            _ => format!("{what}: {reason}"),
        };
        match kind {
            Kind::OutOfBounds => Misuse::OutOfBounds(message),
            Kind::Misaligned => Misuse::Misaligned(message),
            Kind::Uninitialised => Misuse::Uninitialised(message),
            Kind::Race | Kind::Unfenced => Misuse::Race(message),
            Kind::NotWaited => Misuse::NotWaited(message),
        }
    }
}

fn what(deed: Deed, start: usize, len: usize) -> String {
    let direction = if deed == Deed::Copy { "into" } else { "of" };
    format!("{deed} {direction} {len} bytes of shared memory at offset {start:#x}")
}
