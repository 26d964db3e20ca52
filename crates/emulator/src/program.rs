//! A decoded kernel: instructions whose operands are register slots.

use crate::mma::{MatrixOrder, Mma};
use crate::parse::Site;
use crate::registers::{Action, Args, Registers};
use crate::wgmma::Wgmma;

/// A register slot of one of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    B32(u32),
    B64(u32),
}

/// The state space that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressSpace {
    /// The address tells.
    Generic,
    Global,
    /// Of the block, or of another one of the cluster.
    Shared,
    Local,
    Param,
}

/// `[base + offset]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) space: AddressSpace,
    pub(crate) base: Slot,
    pub(crate) offset: i64,
}

/// How an element of a load or store lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    pub(crate) bytes: u8,
    pub(crate) is_signed: bool,
}

/// Values that are known when the launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NumWarps,
    LaneMask(LaneMask),
    ClusterId(u8),
    NumClusters(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterRank,
    ClusterSize,
    SmId,
    NumSms,
    DynamicSharedBytes,
    TotalSharedBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    Min,
    Max,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
}

/// What an atomic operation does with a value in memory. All are functions of the old bits, `b` and `c`.
pub(crate) type AtomicFn = fn(u64, u64, u64) -> u64;

/// What a thread does at a barrier of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierUse {
    Wait,
    Arrive,
}

/// A reduction that a barrier does on the side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BarrierReduction {
    /// Number of threads whose predicate holds, into a register.
    Count(u32),
    /// Whether it holds for all, into a predicate.
    All(u32),
    /// Whether it holds for any, into a predicate.
    Any(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mbarrier {
    Init,
    Invalidate,
    /// `count` arrivals, after `expect_tx` more bytes are expected.
    Arrive,
    ArriveExpectTx,
    ExpectTx,
    CompleteTx,
    /// By the state that an arrival returned.
    TestWait,
    TryWait,
    TestWaitParity,
    TryWaitParity,
}

/// Which way a bulk copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BulkDirection {
    GlobalToShared,
    SharedToGlobal,
    /// Into the shared memory of another block of the cluster.
    SharedToCluster,
}

/// The operands of a bulk copy. Slots of what an instruction does not have are absent.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub(crate) direction: BulkDirection,
    /// The plain side of a tensor copy is its shared memory.
    pub(crate) destination: Address,
    pub(crate) source: Address,
    /// Bytes of a plain copy.
    pub(crate) size: Option<u32>,
    /// Coordinates of a tensor copy, innermost first; its map is at `source` or `destination`.
    pub(crate) coordinates: Vec<u32>,
    /// The `mbarrier` whose transaction it completes.
    pub(crate) mbarrier: Option<Address>,
    /// Blocks of the cluster that get the data.
    pub(crate) multicast: Option<u32>,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Registers only.
    Pure(Action, Args),
    /// `d = compare(a, b)`, combined with a predicate, and the opposite into `other`.
    Setp {
        compare: fn(&Registers, &Args) -> u32,
        args: Args,
        other: Option<u32>,
        combine: Option<(Logic, u32, bool)>,
    },
    /// `d = a logic b` on predicates; a negated operand has its flag set.
    Predicate {
        logic: Logic,
        d: u32,
        a: (u32, bool),
        b: (u32, bool),
    },
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: u32,
        targets: Vec<u32>,
    },
    Exit,
    Trap(String),
    Nop,
    /// Lets other warps run.
    Yield,
    Load {
        address: Address,
        element: Element,
        registers: Vec<Slot>,
    },
    Store {
        address: Address,
        element: Element,
        registers: Vec<Slot>,
    },
    Atomic {
        address: Address,
        bytes: u8,
        operation: AtomicFn,
        d: Option<Slot>,
        b: Slot,
        c: Option<Slot>,
    },
    Shuffle {
        kind: Shuffle,
        d: u32,
        valid: Option<u32>,
        a: u32,
        b: u32,
        c: u32,
        members: u32,
    },
    Vote {
        kind: Vote,
        d: Slot,
        is_predicate: bool,
        a: (u32, bool),
        members: u32,
    },
    ActiveMask {
        d: u32,
    },
    /// `match.any` or `match.all`, whose predicate is `all`.
    Match {
        d: u32,
        is_all: bool,
        all: Option<u32>,
        a: Slot,
        members: u32,
    },
    Redux {
        kind: Reduction,
        d: u32,
        a: u32,
        members: u32,
    },
    Elect {
        d: u32,
        elected: u32,
        members: u32,
    },
    WarpSync {
        members: u32,
    },
    Barrier {
        what: BarrierUse,
        id: u32,
        count: Option<u32>,
        is_aligned: bool,
        reduction: Option<(BarrierReduction, (u32, bool))>,
    },
    ClusterArrive,
    ClusterWait,
    /// Generic address of a shared one in block `rank`: `mapa`.
    MapToRank {
        d: Slot,
        a: Slot,
        rank: u32,
        is_generic: bool,
    },
    /// Orders ordinary accesses of shared memory before those of the asynchronous proxy.
    FenceProxyAsync,
    Mbarrier {
        what: Mbarrier,
        address: Address,
        state: Option<Slot>,
        done: Option<u32>,
        count: Option<u32>,
    },
    CopyAsync {
        destination: Address,
        source: Address,
        bytes: u8,
        source_bytes: Option<u32>,
    },
    CopyAsyncCommit,
    CopyAsyncWait {
        keep: Option<u32>,
    },
    CopyAsyncArrive {
        address: Address,
        is_counted: bool,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        keep: u32,
    },
    Mma {
        op: Mma,
        d: Vec<u32>,
        a: Vec<u32>,
        b: Vec<u32>,
        c: Vec<u32>,
    },
    LoadMatrix {
        address: Address,
        order: MatrixOrder,
        d: Vec<u32>,
    },
    StoreMatrix {
        address: Address,
        order: MatrixOrder,
        a: Vec<u32>,
    },
    MoveMatrix {
        d: u32,
        a: u32,
    },
    Wgmma(Box<WgmmaOperands>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
}

/// The operands of `wgmma.mma_async`.
#[derive(Clone, Debug)]
pub(crate) struct WgmmaOperands {
    pub(crate) op: Wgmma,
    pub(crate) d: Vec<u32>,
    pub(crate) a: WgmmaA,
    pub(crate) b: u32,
    /// The predicate that says whether `d` is added to, and whether it is negated.
    pub(crate) scale_d: (u32, bool),
}

#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Registers(Vec<u32>),
    Descriptor(u32),
}

/// One decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Executed by the lanes whose predicate is not the flag.
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) op: Op,
    /// Every 32-bit slot that it reads or writes, to find uses of an accumulator that is still being computed.
    pub(crate) uses: Box<[u32]>,
    pub(crate) site: Site,
    pub(crate) text: String,
}

/// What a constant register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Value(u64),
    /// Address of the module's variable with this index.
    Symbol(usize),
}

/// A decoded kernel.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) param_bytes: u64,
    pub(crate) max_threads: Option<u64>,
    pub(crate) cluster: Option<[u32; 3]>,
    /// Slots of each register file.
    pub(crate) num_b32: u32,
    pub(crate) num_b64: u32,
    pub(crate) num_predicates: u32,
    pub(crate) constants: Vec<(Slot, Constant)>,
    pub(crate) specials: Vec<(Slot, Special)>,
    /// Bytes of `__shared__` variables; dynamic shared memory follows at `dynamic_shared_start`.
    pub(crate) static_shared_bytes: u32,
    pub(crate) dynamic_shared_start: u32,
    /// Bytes of local memory of a thread.
    pub(crate) local_bytes: u32,
}
