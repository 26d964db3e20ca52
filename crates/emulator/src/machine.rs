//! One emulated GPU: its memory, and the launches that it executes.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{Barrier, Block, Cluster};
use crate::clocks::Clocks;
use crate::decode::decode;
use crate::execute::{NUM_BARRIERS, Stop, Turn, run};
use crate::fault::{Fault, Misuse, Place};
use crate::launch::Launch;
use crate::memory::{Cursor, GlobalMemory};
use crate::parse::{ParseError, Space, Variable, parse};
use crate::program::{LaneMask, Program, Slot, Special};
use crate::warp::{GroupState, Warp, lane_list};

/// Shared memory that a block may have, as on sm_90.
const MAX_SHARED_BYTES: u32 = 227 * 1024;
/// Turns in a row in which every warp only asked for what is not there.
const MOST_IDLE_ROUNDS: u32 = 10_000;
/// Instructions of a cluster, since it last changed what other threads can see, after which it is taken to hang: seconds.
const MOST_IDLE_INSTRUCTIONS: u64 = 1 << 23;
/// Instructions of a cluster after which it is taken to hang, whatever it does: minutes.
const MOST_INSTRUCTIONS: u64 = 1 << 30;

/// Decoded PTX.
#[derive(Clone, Debug)]
pub struct Module {
    content: Arc<Content>,
}

#[derive(Debug)]
struct Content {
    files: HashMap<u32, String>,
    variables: Vec<Variable>,
    programs: Vec<Arc<Program>>,
}

/// A kernel of a module.
#[derive(Clone, Debug)]
pub struct Kernel {
    module: Module,
    program: Arc<Program>,
}

impl Module {
    /// Reads and decodes PTX as nvcc writes it.
    ///
    /// # Errors
    /// Names the line and what is not understood or not executed.
    pub fn parse(ptx: &str) -> Result<Module, ParseError> {
        let tree = parse(ptx)?;
        let programs = tree.entries.iter().map(|entry| decode(&tree, entry).map(Arc::new)).collect::<Result<_, _>>()?;
        let content = Content { files: tree.files, variables: tree.variables, programs };
        Ok(Module { content: Arc::new(content) })
    }

    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.content.programs.iter().map(|program| program.name.as_str())
    }

    /// A kernel by its name.
    pub fn kernel(&self, name: &str) -> Option<Kernel> {
        let program = self.content.programs.iter().find(|program| program.name == name)?;
        Some(Kernel { module: self.clone(), program: Arc::clone(program) })
    }
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Bytes of all its parameters.
    pub fn param_bytes(&self) -> usize {
        self.program.param_bytes as usize
    }

    /// Threads that a block may have, by `__launch_bounds__`.
    pub fn max_threads(&self) -> u32 {
        self.program.max_threads.map_or(1024, |max| max as u32)
    }
}

/// One emulated GPU.
#[derive(Debug)]
pub struct Machine {
    memory: GlobalMemory,
    num_threads: usize,
    /// Addresses of the variables of the modules that have been launched, by the address of their content, which the
    /// stored module keeps alive.
    modules: Mutex<Vec<(Module, Arc<[u64]>)>>,
    num_instructions: AtomicU64,
}

impl Machine {
    /// A machine whose blocks run on this many host threads.
    pub fn new(num_threads: usize) -> Machine {
        Machine {
            memory: GlobalMemory::new(),
            num_threads: num_threads.max(1),
            modules: Mutex::new(Vec::new()),
            num_instructions: AtomicU64::new(0),
        }
    }

    /// Memory of its own for `bytes`, all of them unwritten.
    ///
    /// # Errors
    /// If there is no room.
    pub fn allocate(&self, bytes: u64) -> Result<u64, Misuse> {
        self.memory.allocate(bytes)
    }

    /// Gives an allocation back; whoever still uses its address is told.
    ///
    /// # Errors
    /// If it is no allocation's address.
    pub fn free(&self, address: u64) -> Result<(), Misuse> {
        self.memory.free(address)
    }

    /// Makes a part of an allocation a region with edges of its own.
    ///
    /// # Errors
    /// If it does not lie in one allocation, or overlaps another region.
    pub fn carve(&self, address: u64, len: u64) -> Result<(), Misuse> {
        self.memory.carve(address, len)
    }

    /// Writes from the host.
    ///
    /// # Errors
    /// If the place is not all in one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Misuse> {
        self.memory.write(address, bytes)
    }

    /// Reads to the host.
    ///
    /// # Errors
    /// As for [`Machine::write`]; also if nobody has written a byte of it.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Misuse> {
        self.memory.read(address, out)
    }

    /// Sets `len` bytes.
    ///
    /// # Errors
    /// As for [`Machine::write`].
    pub fn fill(&self, address: u64, byte: u8, len: u64) -> Result<(), Misuse> {
        self.memory.fill(address, byte, len)
    }

    /// Copies on the machine; unwritten bytes stay unwritten.
    ///
    /// # Errors
    /// As for [`Machine::write`].
    pub fn copy(&self, to: u64, from: u64, len: u64) -> Result<(), Misuse> {
        self.memory.copy(to, from, len)
    }

    /// Makes bytes unwritten again, as those of a buffer whose content is over.
    ///
    /// # Errors
    /// As for [`Machine::write`].
    pub fn forget(&self, address: u64, len: u64) -> Result<(), Misuse> {
        self.memory.mark_unwritten(address, len)
    }

    /// Instructions that warps have executed on this machine so far.
    pub fn num_instructions(&self) -> u64 {
        self.num_instructions.load(Ordering::Relaxed)
    }

    /// Executes a kernel on all blocks of a grid, and returns when they are done.
    ///
    /// # Errors
    /// What a thread did wrong, and where; or what is wrong with the launch itself.
    pub fn launch(&self, kernel: &Kernel, launch: Launch<'_>) -> Result<(), Fault> {
        let program = &*kernel.program;
        let refuse = |misuse: Misuse| Fault {
            misuse,
            place: Box::new(Place { kernel: program.name.clone(), ..Place::default() }),
        };
        check(program, &launch).map_err(|message| refuse(Misuse::Launch(message)))?;
        let symbols = self.symbols(&kernel.module).map_err(refuse)?;
        let cluster = launch.cluster;
        let clusters: [u32; 3] = std::array::from_fn(|axis| launch.grid[axis] / cluster[axis]);
        let num_clusters = clusters.iter().map(|&n| u64::from(n)).product::<u64>();
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        // Of several faults that of the first cluster is reported, so that it is always the same.
        let faults: Mutex<Vec<(u64, Fault)>> = Mutex::new(Vec::new());
        let work = || {
            let mut worker = Worker::new(self, program, &launch, &symbols);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= num_clusters || failed.load(Ordering::Relaxed) {
                    break;
                }
                let place = |axis: usize| match axis {
                    0 => (index % u64::from(clusters[0])) as u32,
                    1 => (index / u64::from(clusters[0]) % u64::from(clusters[1])) as u32,
                    _ => (index / u64::from(clusters[0]) / u64::from(clusters[1])) as u32,
                };
                if let Err(fault) = worker.run([place(0), place(1), place(2)]) {
                    failed.store(true, Ordering::Relaxed);
                    let fault = self.place(kernel, &launch, fault);
                    faults.lock().unwrap_or_else(PoisonError::into_inner).push((index, fault));
                }
            }
            self.num_instructions.fetch_add(worker.cluster.num_instructions, Ordering::Relaxed);
        };
        let num_threads = (self.num_threads as u64).min(num_clusters).max(1);
        std::thread::scope(|scope| {
            for _ in 1..num_threads {
                scope.spawn(work);
            }
            work();
        });
        let mut faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
        faults.sort_by_key(|(index, _)| *index);
        match faults.into_iter().next() {
            Some((_, fault)) => Err(fault),
            None => Ok(()),
        }
    }

    /// Addresses of a module's variables, which are laid out when it is first launched.
    fn symbols(&self, module: &Module) -> Result<Arc<[u64]>, Misuse> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, symbols)) = modules.iter().find(|(known, _)| Arc::ptr_eq(&known.content, &module.content)) {
            return Ok(Arc::clone(symbols));
        }
        let mut symbols = Vec::new();
        for variable in &module.content.variables {
            symbols.push(match variable.space {
                Space::Global | Space::Const => {
                    let address = self.memory.allocate(variable.size.max(1))?;
                    // Static memory starts as zeros.
                    match &variable.init {
                        Some(init) => self.memory.write(address, init)?,
                        None => self.memory.fill(address, 0, variable.size)?,
                    }
                    address
                }
                Space::Shared | Space::Local | Space::Param => 0,
            });
        }
        let symbols: Arc<[u64]> = symbols.into();
        modules.push((module.clone(), Arc::clone(&symbols)));
        Ok(symbols)
    }

    /// Adds names to what stopped a kernel.
    fn place(&self, kernel: &Kernel, launch: &Launch<'_>, stopped: Stopped) -> Fault {
        let Stopped { stop, block, first_thread } = stopped;
        let files = &kernel.module.content.files;
        let mut place = Place { kernel: kernel.program.name.clone(), block, ..Place::default() };
        if let Some(instruction) = kernel.program.instructions.get(stop.pc as usize) {
            let name = |loc: crate::parse::Loc| files.get(&loc.file).map(|file| (file.clone(), loc.line));
            place.line = name(instruction.site.outer);
            place.inlined_from = name(instruction.site.inner).filter(|inner| Some(inner) != place.line.as_ref());
            place.instruction.clone_from(&instruction.text);
        }
        let thread = first_thread + stop.lane;
        let [x, y, _] = launch.block;
        place.thread = [thread % x, thread / x % y, thread / x / y];
        Fault { misuse: stop.misuse, place: Box::new(place) }
    }
}

fn check(program: &Program, launch: &Launch<'_>) -> Result<(), String> {
    let threads = launch.block.iter().map(|&n| u64::from(n)).product::<u64>();
    let max_threads = program.max_threads.unwrap_or(1024);
    if threads == 0 || threads > max_threads {
        return Err(format!("a block of {:?} threads: the kernel allows 1 to {max_threads}", launch.block));
    }
    if launch.grid.contains(&0) {
        return Err(format!("a grid of {:?} blocks is empty", launch.grid));
    }
    if launch.grid[1] > 65_535 || launch.grid[2] > 65_535 {
        return Err(format!("a grid of {:?} blocks: y and z go to 65535", launch.grid));
    }
    if let Some(cluster) = program.cluster
        && cluster != launch.cluster
    {
        return Err(format!("clusters of {:?} blocks: the kernel is compiled for {cluster:?}", launch.cluster));
    }
    let in_cluster = launch.cluster.iter().product::<u32>();
    if in_cluster == 0 || in_cluster > 16 {
        return Err(format!("clusters of {:?} blocks: they have 1 to 16", launch.cluster));
    }
    if (0..3).any(|axis| !launch.grid[axis].is_multiple_of(launch.cluster[axis])) {
        return Err(format!("a grid of {:?} blocks is not made of clusters of {:?}", launch.grid, launch.cluster));
    }
    if launch.params.len() as u64 != program.param_bytes {
        return Err(format!("{} bytes of parameters: the kernel has {}", launch.params.len(), program.param_bytes));
    }
    let shared = u64::from(program.dynamic_shared_start) + u64::from(launch.shared_bytes);
    if shared > u64::from(MAX_SHARED_BYTES) {
        return Err(format!("{shared} bytes of shared memory: a block has at most {MAX_SHARED_BYTES}"));
    }
    Ok(())
}

/// What stopped a kernel, with numbers instead of names.
struct Stopped {
    stop: Stop,
    block: [u32; 3],
    first_thread: u32,
}

/// Runs clusters on one host thread, one after the other, in memory that is reused.
struct Worker<'a> {
    launch: &'a Launch<'a>,
    symbols: &'a [u64],
    cluster: Cluster<'a>,
    warps: Vec<Warp>,
}

impl<'a> Worker<'a> {
    fn new(machine: &'a Machine, program: &'a Program, launch: &'a Launch<'a>, symbols: &'a [u64]) -> Self {
        let threads = launch.block.iter().product::<u32>();
        let warps_per_block = threads.div_ceil(32) as usize;
        let num_blocks = launch.cluster.iter().product::<u32>() as usize;
        let mut blocks = Vec::new();
        blocks.resize_with(num_blocks, Block::default);
        let mut warps = Vec::new();
        warps.resize_with(num_blocks * warps_per_block, Warp::default);
        let cluster = Cluster {
            program,
            memory: &machine.memory,
            params: launch.params,
            warps_per_block,
            blocks,
            clocks: Clocks::default(),
            cursor: Cursor::default(),
            barrier: Barrier::default(),
            num_alive: 0,
            bulk: VecDeque::new(),
            next_id: 0,
            num_mbarriers: 0,
            has_progress: false,
            num_instructions: 0,
        };
        Worker { launch, symbols, cluster, warps }
    }

    /// Runs the cluster at this place of the grid of clusters.
    fn run(&mut self, at: [u32; 3]) -> Result<(), Stopped> {
        self.reset(at);
        let limit = self.cluster.num_instructions + MOST_INSTRUCTIONS;
        let mut num_at_progress = self.cluster.num_instructions;
        let mut num_idle = 0;
        loop {
            self.cluster.has_progress = false;
            let (mut num_exited, mut num_running, mut num_polling) = (0, 0, 0);
            for index in 0..self.warps.len() {
                let warp = &mut self.warps[index];
                if warp.groups.is_empty() {
                    num_exited += 1;
                    continue;
                }
                match run(&mut self.cluster, warp).map_err(|stop| stopped(&self.cluster, warp, stop))? {
                    Turn::Over => num_running += 1,
                    Turn::Polling => num_polling += 1,
                    Turn::Waiting => {}
                    Turn::Exited => num_exited += 1,
                }
            }
            if num_exited == self.warps.len() {
                return Ok(());
            }
            if self.cluster.has_progress || num_running > 0 {
                num_idle = 0;
                let num_instructions = self.cluster.num_instructions;
                if self.cluster.has_progress {
                    num_at_progress = num_instructions;
                }
                let num_without_progress = num_instructions - num_at_progress;
                if num_instructions > limit || num_without_progress > MOST_IDLE_INSTRUCTIONS {
                    let reason = format!(
                        "{num_without_progress} instructions have changed nothing that another thread could see"
                    );
                    return Err(self.hang(&reason));
                }
                continue;
            }
            // Nothing moves but what is under way.
            match self.cluster.deliver(None) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(misuse) => return Err(self.blame(misuse)),
            }
            num_idle += 1;
            if num_polling == 0 || num_idle > MOST_IDLE_ROUNDS {
                return Err(self.hang("nothing that the threads of the block wait for can happen any more"));
            }
        }
    }

    fn reset(&mut self, at: [u32; 3]) {
        let program = self.cluster.program;
        let launch = self.launch;
        let threads = launch.block.iter().product::<u32>();
        let shared_bytes = program.dynamic_shared_start + launch.shared_bytes;
        let per_block = self.cluster.warps_per_block;
        self.cluster.clocks.reset(self.warps.len());
        self.cluster.barrier = Barrier::default();
        self.cluster.bulk.clear();
        self.cluster.num_mbarriers = 0;
        self.cluster.num_alive = threads * self.cluster.blocks.len() as u32;
        for (rank, block) in self.cluster.blocks.iter_mut().enumerate() {
            let inside = place_in(launch.cluster, rank as u32);
            block.index = std::array::from_fn(|axis| at[axis] * launch.cluster[axis] + inside[axis]);
            block.shared.reset(shared_bytes as usize);
            block.mbarriers.clear();
            block.barriers.clear();
            block.barriers.resize_with(NUM_BARRIERS, Barrier::default);
            block.num_alive = threads;
            block.visits.clear();
        }
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let (rank, in_block) = (index / per_block, (index % per_block) as u32);
            let num_lanes = (threads - 32 * in_block).min(32);
            let alive = if num_lanes == 32 { u32::MAX } else { (1 << num_lanes) - 1 };
            warp.reset(program, alive, self.symbols);
            warp.index = index as u16;
            warp.rank = rank;
            warp.first_thread = 32 * in_block;
            if alive != u32::MAX {
                self.cluster.clocks.exit(index, !alive);
            }
            for &(slot, special) in &program.specials {
                let Slot::B32(slot) = slot else { continue };
                warp.registers.b32[slot as usize] =
                    special_values(special, launch, &self.cluster, rank, warp.first_thread, shared_bytes);
            }
        }
    }

    /// The first warp that waits is named.
    fn hang(&self, reason: &str) -> Stopped {
        let waiting = self.warps.iter().filter_map(|warp| warp.groups.first().map(|group| (warp, group)));
        let mut parts = Vec::new();
        for (warp, group) in waiting.clone().take(8) {
            let what = match group.state {
                GroupState::AtBarrier { id, .. } => {
                    let barrier = &self.cluster.blocks[warp.rank].barriers[id as usize];
                    let expected = barrier.expected.unwrap_or(self.cluster.blocks[warp.rank].num_alive);
                    format!("at barrier {id}, where {} of {expected} threads are", barrier.num_counted)
                }
                GroupState::AtClusterBarrier { .. } => "at the barrier of the cluster".to_owned(),
                GroupState::Gathering { required, .. } => format!("for lanes {}", lane_list(required & !group.mask)),
                GroupState::Running => "in a loop".to_owned(),
            };
            let line = self.cluster.program.instructions.get(group.pc as usize).map_or(0, |i| i.site.outer.line);
            parts.push(format!("warp {} waits {what} (line {line})", warp.first_thread / 32));
        }
        for (rank, block) in self.cluster.blocks.iter().enumerate() {
            parts.extend(block.mbarriers.iter().filter_map(|(offset, mbarrier)| {
                let missing = mbarrier.missing()?;
                Some(format!("the mbarrier at {offset:#x} of block {rank} of the cluster {missing}"))
            }));
        }
        let is_barrier = waiting.clone().any(|(_, group)| !matches!(group.state, GroupState::Running));
        let message = format!("{reason}: {}", parts.join(", "));
        self.blame(if is_barrier { Misuse::Barrier(message) } else { Misuse::Hang(message) })
    }

    fn blame(&self, misuse: Misuse) -> Stopped {
        let first = self.warps.iter().find(|warp| !warp.groups.is_empty()).unwrap_or(&self.warps[0]);
        let (pc, lane) = first.groups.first().map_or((0, 0), |group| (group.pc, group.mask.trailing_zeros()));
        stopped(&self.cluster, first, Stop { misuse, pc, lane })
    }
}

fn stopped(cluster: &Cluster<'_>, warp: &Warp, stop: Stop) -> Stopped {
    Stopped { stop, block: cluster.blocks[warp.rank].index, first_thread: warp.first_thread }
}

/// The coordinates of a rank in a box.
fn place_in([x, y, _]: [u32; 3], rank: u32) -> [u32; 3] {
    [rank % x, rank / x % y, rank / x / y]
}

fn special_values(
    special: Special,
    launch: &Launch<'_>,
    cluster: &Cluster<'_>,
    rank: usize,
    first_thread: u32,
    shared_bytes: u32,
) -> [u32; 32] {
    let block = cluster.blocks[rank].index;
    let one = |value: u32| [value; 32];
    let [x, y, _] = launch.block;
    match special {
        Special::Tid(axis) => std::array::from_fn(|lane| {
            let thread = first_thread + lane as u32;
            [thread % x, thread / x % y, thread / x / y][usize::from(axis)]
        }),
        Special::Ntid(axis) => one(launch.block[usize::from(axis)]),
        Special::Ctaid(axis) => one(block[usize::from(axis)]),
        Special::Nctaid(axis) => one(launch.grid[usize::from(axis)]),
        Special::LaneId => std::array::from_fn(|lane| lane as u32),
        Special::WarpId => one(first_thread / 32),
        Special::NumWarps => one(cluster.warps_per_block as u32),
        Special::LaneMask(mask) => std::array::from_fn(|lane| {
            let equal = 1u32 << lane;
            match mask {
                LaneMask::Equal => equal,
                LaneMask::Less => equal - 1,
                LaneMask::LessEqual => equal | (equal - 1),
                LaneMask::Greater => !(equal | (equal - 1)),
                LaneMask::GreaterEqual => !(equal - 1),
            }
        }),
        Special::ClusterId(axis) => one(block[usize::from(axis)] / launch.cluster[usize::from(axis)]),
        Special::NumClusters(axis) => one(launch.grid[usize::from(axis)] / launch.cluster[usize::from(axis)]),
        Special::ClusterCtaid(axis) => one(block[usize::from(axis)] % launch.cluster[usize::from(axis)]),
        Special::ClusterNctaid(axis) => one(launch.cluster[usize::from(axis)]),
        Special::ClusterRank => one(rank as u32),
        Special::ClusterSize => one(cluster.blocks.len() as u32),
        Special::SmId => one(0),
        Special::NumSms => one(1),
        Special::DynamicSharedBytes => one(launch.shared_bytes),
        Special::TotalSharedBytes => one(shared_bytes),
    }
}
