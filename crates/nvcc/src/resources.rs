//! What ptxas reports about each kernel with `-v`.

/// Registers and memory that a kernel takes on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelResources {
    /// Name of the kernel, as the PTX has it.
    pub kernel: String,
    /// Architecture, such as `90a`.
    pub arch: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Local memory of a thread: arrays that are indexed at run time, and spills. Includes functions that were not inlined.
    pub stack_bytes: u32,
    /// Bytes that are stored to local memory because registers ran out.
    pub spill_store_bytes: u32,
    /// Bytes that are loaded back.
    pub spill_load_bytes: u32,
}

impl KernelResources {
    /// Reads what `nvcc -Xptxas -v` printed.
    ///
    /// Each kernel begins with `Compiling entry function 'NAME' for 'sm_ARCH'`; the lines up to the next one belong to it.
    pub(crate) fn parse(text: &str) -> Vec<KernelResources> {
        let mut kernels: Vec<KernelResources> = Vec::new();
        for line in text.lines() {
            if let Some((kernel, arch)) = entry(line) {
                kernels.push(KernelResources { kernel, arch, ..KernelResources::default() });
            } else if let Some(kernel) = kernels.last_mut() {
                kernel.stack_bytes += number_before(line, " bytes stack frame");
                kernel.spill_store_bytes += number_before(line, " bytes spill stores");
                kernel.spill_load_bytes += number_before(line, " bytes spill loads");
                kernel.registers += number_before(line, " registers");
                kernel.shared_bytes += number_before(line, " bytes smem");
            }
        }
        kernels
    }
}

/// Name and architecture of `... Compiling entry function 'NAME' for 'sm_ARCH'`.
fn entry(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("Compiling entry function '")?;
    let (kernel, rest) = rest.split_once("' for 'sm_")?;
    Some((kernel.to_owned(), rest.split('\'').next()?.to_owned()))
}

/// The number that stands directly before `unit`, 0 if the line does not have it.
fn number_before(line: &str, unit: &str) -> u32 {
    let Some((before, _)) = line.split_once(unit) else {
        return 0;
    };
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_and_architecture_is_read() {
        // As printed by release 13.0, shortened.
        let text = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1tILi3EEvPfi' for 'sm_90a'
ptxas info    : Function properties for _Z1tILi3EEvPfi
    400 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 34 registers, used 0 barriers, 400 bytes cumulative stack size
ptxas info    : Compile time = 23.927 ms
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 360 bytes cmem[0]
";
        assert_eq!(
            KernelResources::parse(text),
            [
                KernelResources {
                    kernel: "_Z1tILi3EEvPfi".to_owned(),
                    arch: "90a".to_owned(),
                    registers: 34,
                    stack_bytes: 400,
                    spill_store_bytes: 12,
                    spill_load_bytes: 16,
                    ..KernelResources::default()
                },
                KernelResources {
                    kernel: "k".to_owned(),
                    arch: "80".to_owned(),
                    registers: 10,
                    shared_bytes: 1024,
                    ..KernelResources::default()
                },
            ]
        );
    }
}
