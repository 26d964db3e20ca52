//! Mistakes that were planted in small kernels are found, by their right names and at their right lines, and the same
//! kernels without the mistake run clean.
//!
//! Every kernel is a template in `tests/cu`: `k<true>` is wrong and `k<false>` is right. The line that is to be reported
//! bears the comment `// FAULT k`.

mod support;

use cachalot_emulator::{Fault, Kernel, Launch, Machine, Module};
use support::{Params, module, source, to_bytes};

/// One planted mistake.
struct Case {
    kernel: &'static str,
    /// As [`cachalot_emulator::Misuse::kind`] has it.
    kind: &'static str,
    grid: u32,
    threads: u32,
    cluster: u32,
    /// Words of the output, none of which is written before.
    out_words: u32,
    /// Where the mistake is found: block and thread.
    at: (u32, u32),
    /// Said by the message.
    says: &'static str,
}

impl Case {
    const fn new(kernel: &'static str, threads: u32, kind: &'static str, thread: u32, says: &'static str) -> Case {
        Case { kernel, kind, grid: 1, threads, cluster: 1, out_words: 1024, at: (0, thread), says }
    }

    const fn of_cluster(
        kernel: &'static str,
        threads: u32,
        kind: &'static str,
        at: (u32, u32),
        says: &'static str,
    ) -> Case {
        Case { grid: 2, cluster: 2, at, ..Case::new(kernel, threads, kind, 0, says) }
    }

    fn launch(&self, kernel: &Kernel) -> Result<(), Fault> {
        let machine = Machine::new(1);
        let input = machine.allocate(4 * 4096).unwrap();
        machine.write(input, &to_bytes(&Vec::from_iter(0..4096))).unwrap();
        let output = machine.allocate(u64::from(4 * self.out_words)).unwrap();
        run(&machine, kernel, self, Params::default().pointer(input).pointer(output))
    }

    /// Says what is wrong with how the case went, if anything.
    fn check(&self, module: &Module, file: &str, source: &str) -> Result<(), String> {
        let name = self.kernel;
        let id = |wrong: u32| format!("{}{name}ILb{wrong}E", name.len());
        if let Err(fault) = self.launch(&kernel(module, &id(0))) {
            return Err(format!("{name} is right, but: {fault}"));
        }
        let Err(fault) = self.launch(&kernel(module, &id(1))) else {
            return Err(format!("{name}: nothing is found"));
        };
        let marker = format!("// FAULT {name}");
        let line =
            source.lines().position(|line| line.ends_with(&marker)).ok_or(format!("no line ends with {marker}"))?;
        let expected = (self.kind, Some((format!("{file}.cu"), line as u32 + 1)), [self.at.0, 0, 0], [self.at.1, 0, 0]);
        let place = &fault.place;
        let found = (fault.misuse.kind(), place.line.clone(), place.block, place.thread);
        if found != expected || !fault.to_string().contains(self.says) {
            return Err(format!("{name}: expected {expected:?} and “{}”, but: {fault}", self.says));
        }
        Ok(())
    }
}

/// The one kernel whose (mangled) name contains `part`.
fn kernel(module: &Module, part: &str) -> Kernel {
    let names: Vec<&str> = module.kernels().filter(|name| name.contains(part)).collect();
    let [name] = names[..] else { panic!("`{part}` is in the names {names:?}") };
    module.kernel(name).expect("it is one of the module's")
}

fn run(machine: &Machine, kernel: &Kernel, case: &Case, params: Params) -> Result<(), Fault> {
    let launch = Launch {
        grid: [case.grid, 1, 1],
        block: [case.threads, 1, 1],
        cluster: [case.cluster, 1, 1],
        shared_bytes: 0,
        params: &params.0,
    };
    machine.launch(kernel, launch)
}

fn check_all(file: &str, cases: &[Case]) {
    let module = module(file);
    let source = source(&format!("{file}.cu"));
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.check(&module, file, &source).err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // A kernel that no case runs would be forgotten.
    let planted = source.lines().filter(|line| line.contains("// FAULT ")).count();
    assert_eq!(planted, cases.len(), "{file}.cu");
}

#[test]
fn wrong_accesses_of_memory() {
    check_all(
        "memory_faults",
        &[
            Case {
                grid: 2,
                out_words: 100,
                at: (1, 36),
                ..Case::new("store_past_the_end", 64, "out of bounds", 0, "400 bytes")
            },
            Case::new("load_past_the_end", 32, "out of bounds", 31, "16384 bytes"),
            Case::new("shared_past_the_end", 64, "out of bounds", 63, "shared memory has 256 bytes"),
            Case::new("unwritten_global", 64, "uninitialised read", 0, "load"),
            Case::new("unwritten_shared", 128, "uninitialised read", 127, "shared memory"),
            Case::new("unwritten_local", 32, "uninitialised read", 15, "byte 0x3c of local memory"),
            Case::new("misaligned_vector", 32, "misaligned", 0, "no multiple of 16"),
            Case::new("misaligned_shared", 32, "misaligned", 0, "no multiple of 16"),
            Case::new("shared_address_as_global", 32, "out of bounds", 0, "4-byte store"),
            Case::new("null_pointer", 32, "out of bounds", 0, "4-byte load at 0x0"),
            Case::new("trap", 64, "trap", 37, "`trap` was executed"),
            Case::new("endless_wait_for_a_flag", 32, "hang", 0, "warp 0 waits in a loop"),
            Case::new("endless_wait_for_a_lock", 64, "hang", 0, "warp 0 waits in a loop"),
        ],
    );
}

#[test]
fn missing_and_divergent_barriers() {
    check_all(
        "barrier_faults",
        &[
            Case::new("missing_barrier_before_read", 128, "race", 32, "write by warp 0 lane 0"),
            Case::new("missing_barrier_before_reuse", 128, "race", 0, "read by warp 3 lane 0"),
            Case::new("two_writers", 64, "race", 1, "write by warp 0 lane 0"),
            Case::new("missing_warp_barrier", 64, "race", 0, "write by warp 0 lane 1"),
            Case::new("sum_in_step", 32, "race", 16, "read by warp 0 lane 0"),
            Case::new("read_beside_atomics", 64, "race", 32, "atomic"),
            Case::new("barrier_for_some_lanes", 32, "barrier divergence", 0, "lanes 16-31"),
            Case::new("barrier_after_return", 64, "barrier divergence", 32, "lanes 8-31"),
            Case::new("barriers_on_two_ways", 128, "barrier divergence", 64, "lanes 16-31"),
            Case::new("barrier_for_some_warps", 128, "barrier divergence", 0, "64 of 128 threads"),
            Case::new("named_barrier_of_part_of_a_warp", 64, "barrier divergence", 0, "48"),
            Case::new("named_barrier_with_two_counts", 64, "barrier divergence", 32, "96"),
            Case::new("named_barrier_of_too_many", 64, "barrier divergence", 0, "64 of 96 threads"),
            Case::new("shuffle_outside_of_its_mask", 32, "barrier divergence", 16, "lane 16 is not in the mask 0xffff"),
            Case::new("shuffle_with_two_masks", 32, "barrier divergence", 0, "0x1 here, and 0x3 in lane 1"),
            Case::new("warp_barrier_for_some_lanes", 64, "barrier divergence", 0, "lanes 16-31"),
            Case::new("assertion", 128, "trap", 70, "an assertion failed"),
        ],
    );
}

#[test]
fn copies_that_nobody_waits_for() {
    check_all(
        "copy_faults",
        &[
            Case::new("missing_copy_wait", 32, "not waited for", 0, "copy by warp 0 lane 0"),
            Case::new("copy_wait_keeps_too_many", 32, "not waited for", 0, "copy by warp 0 lane 0"),
            Case::new("copy_wait_without_barrier", 64, "race", 1, "write by warp 0 lane 0"),
            Case::new("bulk_load_without_wait", 64, "not waited for", 32, "copy by warp 0 lane 0"),
            Case::new("wait_for_the_wrong_parity", 64, "not waited for", 32, "copy by warp 0 lane 0"),
            Case::new("parity_that_does_not_turn", 64, "race", 0, "read by warp 1 lane 0"),
            Case::new("too_few_bytes_expected", 64, "hang", 0, "got 128 bytes more"),
            Case::new("too_many_bytes_expected", 64, "hang", 0, "lacks 16 bytes"),
            Case::new("mbarrier_without_block_barrier", 64, "race", 1, ""),
            Case::new("mbarrier_without_init", 64, "uninitialised read", 32, ""),
            Case::new("too_many_arrivals", 64, "barrier divergence", 53, "more arrivals"),
            Case::new("too_few_arrivals", 64, "hang", 0, "lacks 1 of 65 arrivals"),
            Case::new("stage_filled_too_early", 96, "barrier divergence", 64, "more arrivals"),
            Case::new("bulk_store_without_fence", 64, "race", 0, "fence.proxy.async"),
            Case::new("bulk_store_overwritten", 64, "not waited for", 0, ""),
            Case::new("exit_before_bulk_store", 64, "not waited for", 0, "wait_group"),
            Case::new("bulk_copy_of_odd_size", 64, "misaligned", 0, "100 bytes"),
        ],
    );
}

#[test]
fn products_and_clusters() {
    check_all(
        "product_faults",
        &[
            Case::new("unwritten_fragment_rows", 32, "uninitialised read", 0, "shared memory"),
            Case::new("product_without_proxy_fence", 128, "race", 96, "fence.proxy.async"),
            Case::new("product_without_fence", 128, "not waited for", 96, "wgmma.fence"),
            Case::new("accumulators_before_wait", 128, "not waited for", 96, "wgmma.wait_group"),
            Case::new("operand_overwritten_before_wait", 128, "not waited for", 0, ""),
            Case::new("stage_refilled_before_wait", 128, "not waited for", 0, "asynchronous read by warp"),
            Case::new("operand_overwritten_without_barrier", 128, "race", 0, ""),
            Case::of_cluster("remote_read_without_barrier", 32, "race", (0, 0), "read by warp 0 lane 0 of block 1"),
            Case::of_cluster(
                "remote_read_of_an_exited_block",
                32,
                "out of bounds",
                (0, 0),
                "block 1 of the cluster, which has exited",
            ),
            Case::of_cluster(
                "exit_beside_a_remote_read",
                32,
                "race",
                (0, 0),
                "lane 0 of block 1 of the cluster at line",
            ),
            Case::of_cluster(
                "exit_beside_a_remote_arrival",
                32,
                "race",
                (0, 0),
                "lane 0 of block 1 of the cluster at line",
            ),
            Case::new("exit_beside_a_bulk_load", 64, "not waited for", 0, "under way"),
            Case::of_cluster("remote_block_that_is_not_there", 32, "out of bounds", (1, 0), "block 2"),
            Case::of_cluster(
                "cluster_barrier_of_one_block",
                32,
                "barrier divergence",
                (0, 0),
                "barrier of the cluster",
            ),
        ],
    );
}

/// The input as `check_all` has it, and an output of 100 words.
fn buffers(machine: &Machine) -> (u64, u64) {
    let input = machine.allocate(4 * 4096).unwrap();
    machine.write(input, &to_bytes(&Vec::from_iter(0..4096))).unwrap();
    (input, machine.allocate(4 * 100).unwrap())
}

#[test]
fn memory_that_the_host_has_taken_away() {
    let module = module("memory_faults");
    let kernel = kernel(&module, "store_past_the_endILb0E");
    let case = Case { grid: 2, ..Case::new("", 64, "", 0, "") };
    let start = |machine: &Machine, (input, output)| {
        run(machine, &kernel, &case, Params::default().pointer(input).pointer(output))
    };

    let machine = Machine::new(1);
    let (input, output) = buffers(&machine);
    assert_eq!(start(&machine, (input, output)), Ok(()));
    machine.free(input).unwrap();
    let fault = start(&machine, (input, output)).unwrap_err();
    assert_eq!(fault.misuse.kind(), "out of bounds");
    assert!(fault.to_string().contains("freed"), "{fault}");

    // One allocation for all, cut into regions: the edges are those of the regions.
    let machine = Machine::new(1);
    let (input, _) = buffers(&machine);
    let arena = machine.allocate(4096).unwrap();
    machine.carve(arena, 400).unwrap();
    machine.carve(arena + 512, 396).unwrap();
    assert_eq!(start(&machine, (input, arena)), Ok(()));
    let fault = start(&machine, (input, arena + 512)).unwrap_err();
    assert_eq!((fault.misuse.kind(), fault.place.block, fault.place.thread), ("out of bounds", [1, 0, 0], [35, 0, 0]));
    let fault = start(&machine, (input, arena + 4)).unwrap_err();
    assert_eq!((fault.misuse.kind(), fault.place.block, fault.place.thread), ("out of bounds", [1, 0, 0], [35, 0, 0]));
}

#[test]
fn launches_that_no_gpu_would_take() {
    let module = module("memory_faults");
    let kernel = kernel(&module, "store_past_the_endILb0E");
    let machine = Machine::new(1);
    let (input, output) = buffers(&machine);
    let params = Params::default().pointer(input).pointer(output);
    let right = Launch { grid: [2, 1, 1], block: [64, 1, 1], cluster: [1, 1, 1], shared_bytes: 0, params: &params.0 };
    assert_eq!(machine.launch(&kernel, right), Ok(()));
    for (launch, expected) in [
        (Launch { shared_bytes: 227 * 1024 + 1, ..right }, "232449 bytes of shared memory"),
        (Launch { params: &params.0[..12], ..right }, "12 bytes of parameters: the kernel has 16"),
        (Launch { block: [1025, 1, 1], ..right }, "[1025, 1, 1] threads"),
        (Launch { block: [32, 0, 1], ..right }, "[32, 0, 1] threads"),
        (Launch { grid: [2, 65_536, 1], ..right }, "y and z go to 65535"),
        (Launch { grid: [0, 1, 1], ..right }, "is empty"),
        (Launch { cluster: [3, 1, 1], ..right }, "is not made of clusters"),
        (Launch { grid: [32, 1, 1], cluster: [32, 1, 1], ..right }, "1 to 16"),
    ] {
        let fault = machine.launch(&kernel, launch).unwrap_err();
        assert_eq!(fault.misuse.kind(), "launch");
        assert!(fault.to_string().contains(expected), "{fault}");
    }
}

#[test]
fn instructions_that_are_not_executed() {
    // As nvcc writes them; the rest of the kernel is the least that there can be.
    for (instruction, expected) in [
        ("tex.1d.v4.u32.s32 {%r1, %r1, %r1, %r1}, [%rd1, {%r1}];", "the instruction `tex.1d.v4.u32.s32`"),
        ("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r1, [%r1];", "PTX line 8"),
        ("call (%r1), vprintf, (%rd1, %rd1);", "a call of `vprintf`"),
        ("mov.u64 %rd1, %clock64;", "the register `%clock64`"),
        ("suld.b.1d.b32.trap {%r1}, [%rd1, {%r1}];", "the instruction `suld.b.1d.b32.trap`"),
    ] {
        let ptx = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n\
             .reg .b32 %r<2>;\n.reg .b64 %rd<2>;\n{instruction}\nret;\n}}\n"
        );
        let error = Module::parse(&ptx).map(|_| instruction).unwrap_err();
        assert_eq!(error.line, 8, "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("kernel `k`") && text.contains(instruction), "{text}");
    }
}

#[test]
fn a_wrong_fragment_index_shows_in_the_result() {
    let module = module("fragments");
    // Small whole numbers in bf16, two in a word; the products and sums of such are exact.
    let value = |i: usize| ((i * 7 + i / 8 * 3) % 11) as f32 - 5.0;
    let words: Vec<u32> = (0..192).map(|i| value(2 * i).to_bits() >> 16 | value(2 * i + 1).to_bits()).collect();
    let a = |row: usize, k: usize| value(16 * row + k);
    let b = |k: usize, column: usize| value(256 + 16 * column + k);
    let expected: Vec<u32> =
        (0..16 * 8).map(|at| (0..16).map(|k| a(at / 8, k) * b(k, at % 8)).sum::<f32>().to_bits()).collect();
    let result = |part: &str| {
        let machine = Machine::new(1);
        let input = machine.allocate(4 * 192).unwrap();
        machine.write(input, &to_bytes(&words)).unwrap();
        let output = machine.allocate(4 * 128).unwrap();
        let params = Params::default().pointer(input).pointer(output);
        run(&machine, &kernel(&module, part), &Case::new("", 32, "", 0, ""), params).unwrap();
        let mut bytes = vec![0; 4 * 128];
        machine.read(output, &mut bytes).unwrap();
        support::to_words(&bytes)
    };
    assert_eq!(result("fragmentsILb0E"), expected);
    assert_ne!(result("fragmentsILb1E"), expected);
}
