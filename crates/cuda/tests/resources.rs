//! What ptxas says about every kernel, held against limits.
#![cfg(feature = "cuda")]

use cachalot_cuda::{KernelResources, MODULES};

/// Registers that a kernel may take. More than these cost warps on a multiprocessor, so a larger number is a decision: kernels whose
/// design asks for it are listed with theirs.
const MAX_REGISTERS: u32 = 128;

/// Kernels that may take more registers: name, registers.
///
/// All of them hold sums of a matrix product in registers, with one block on a multiprocessor.
const MORE_REGISTERS: &[(&str, u32)] = &[
    ("bf16_gemm_f32", 144),
    ("bf16_gemm_bf16", 144),
    ("bf16_gemm_in_out_bf16", 144),
    ("fp8_gemm_large", 255),
    ("fp8_gemm_sm90_256", 168),
    ("fp8_gemm_sm90_128", 168),
    ("fp8_gemm_sm90_small_128", 160),
    ("fp8_gemm_small_64", 240),
    ("fp8_gemm_small_32", 160),
    ("experts_gemm_128", 255),
    ("experts_gemm_64", 255),
    ("mla_absorbed_16", 192),
    ("mla_absorbed_32", 255),
    ("mla_absorbed_fp8_16", 192),
    ("mla_absorbed_fp8_32", 255),
];

#[test]
fn no_kernel_spills_or_takes_more_registers_than_planned() {
    let kernels: Vec<&KernelResources> = MODULES.iter().flat_map(|module| module.resources).collect();
    assert!(kernels.iter().any(|resources| resources.kernel == "affine_i32"));
    for resources in &kernels {
        let more = MORE_REGISTERS.iter().find(|(kernel, _)| *kernel == resources.kernel);
        let limit = more.map_or(MAX_REGISTERS, |&(_, registers)| registers);
        assert!(
            (1..=limit).contains(&resources.registers),
            "more than {limit} registers; if the design asks for them, list the kernel in MORE_REGISTERS: {resources:?}"
        );
        assert_eq!((resources.spill_store_bytes, resources.spill_load_bytes), (0, 0), "{resources:?}");
        assert!(resources.shared_bytes <= 48 << 10, "{resources:?}");
    }
    for (kernel, _) in MORE_REGISTERS {
        assert!(
            kernels.iter().any(|resources| resources.kernel == *kernel),
            "`{kernel}` has a limit and does not exist"
        );
    }
}

#[test]
fn ptxas_has_nothing_to_say_about_lost_performance() {
    for module in MODULES {
        assert!(module.notes.is_empty(), "{}: {:?}", module.name, module.notes);
    }
}

#[test]
fn every_kernel_takes_one_struct() {
    for module in MODULES {
        let entries: Vec<&str> = module.ptx.split(".entry ").skip(1).collect();
        assert!(!entries.is_empty(), "{} has no kernel", module.name);
        for entry in entries {
            let (name, rest) = entry.split_once('(').unwrap();
            let parameters = rest.split_once(')').unwrap().0;
            assert_eq!(parameters.matches(".param").count(), 1, "`{name}` of {}: {parameters}", module.name);
        }
    }
}

#[test]
fn lines_are_those_of_the_sources() {
    for module in MODULES {
        let file = format!("\"kernels/{}.cu\"", module.name);
        assert!(module.ptx.contains(&file), "{}", module.name);
        assert!(module.ptx.contains("\t.loc\t"), "{}", module.name);
    }
}
