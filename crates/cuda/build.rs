//! With the feature `cuda`: compiles `kernels/` and writes `kernels.rs`, the table that the crate embeds.
//!
//! `CACHALOT_CUDA_ARCHS` lists the architectures, `90a` by default: `CACHALOT_CUDA_ARCHS="80 90a"`.
// A build script speaks to cargo on its standard output.
#![allow(clippy::print_stdout)]

fn main() -> std::process::ExitCode {
    #[cfg(feature = "cuda")]
    return kernels::compile();
    #[cfg(not(feature = "cuda"))]
    {
        println!("cargo::rerun-if-changed=build.rs");
        std::process::ExitCode::SUCCESS
    }
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::fmt::Write;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::{env, fs};

    use cachalot_nvcc::{CompiledKernel, Error, KernelTree, Nvcc};

    pub(super) fn compile() -> ExitCode {
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
        // Cargo looks at everything below a folder: headers and new files too.
        println!("cargo::rerun-if-changed={}", kernels.display());
        println!("cargo::rerun-if-changed=build.rs");
        println!("cargo::rerun-if-env-changed=CACHALOT_CUDA_ARCHS");
        println!("cargo::rerun-if-env-changed=CUDA_HOME");
        let Some(out_dir) = env::var_os("OUT_DIR").map(PathBuf::from) else {
            println!("cargo::error=OUT_DIR is not set: this program is run by cargo");
            return ExitCode::FAILURE;
        };
        match compile_into(&kernels, &out_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(errors) => {
                for line in errors.iter().map(Error::to_string).collect::<Vec<_>>().join("\n").lines() {
                    println!("cargo::error={line}");
                }
                ExitCode::FAILURE
            }
        }
    }

    fn compile_into(kernels: &Path, out_dir: &Path) -> Result<(), Vec<Error>> {
        let one = |error| vec![error];
        let archs = env::var("CACHALOT_CUDA_ARCHS").unwrap_or_else(|_| "90a".to_owned());
        let archs: Vec<&str> = archs.split([' ', ',']).filter(|arch| !arch.is_empty()).collect();
        let nvcc = Nvcc::find().map_err(one)?;
        let compiled = KernelTree::open(kernels).map_err(one)?.compile(&nvcc, &archs, &out_dir.join("kernels"))?;
        let table = out_dir.join("kernels.rs");
        let io = |source| vec![Error::Io { action: "write", path: table.clone(), source }];
        fs::write(&table, render(&compiled)).map_err(io)
    }

    /// The table as Rust source. Strings are quoted as Rust quotes them in debug output.
    fn render(compiled: &[CompiledKernel]) -> String {
        let mut text = "&[\n".to_owned();
        for CompiledKernel { name, archs, fatbin, ptx, resources, notes } in compiled {
            _ = writeln!(
                text,
                "EmbeddedModule {{ name: {name:?}, archs: &{archs:?}, fatbin: include_bytes!({fatbin:?}), \
                 ptx: include_str!({ptx:?}), notes: &{notes:?}, resources: &["
            );
            for kernel in resources {
                // The debug form of the struct is its Rust source but for the strings' type, which is the same text.
                _ = writeln!(text, "{kernel:?},");
            }
            text.push_str("] },\n");
        }
        text.push_str("]\n");
        text
    }
}
