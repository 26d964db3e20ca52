//! One source file, compiled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, process};

use crate::{Error, KernelResources, Nvcc, check_arch};

/// Flags of every compilation. Line numbers are what the emulator's reports and profilers live from; any warning is an error,
/// because nobody reads the output of a build script.
pub(crate) const FLAGS: &[&str] = &["-std=c++17", "-O3", "-lineinfo", "--Werror", "all-warnings"];

/// What differs from one compilation to the next.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where nvcc runs: sources and includes may be relative to it, and the PTX names files relative to it.
    /// The current directory if it is not given.
    pub directory: Option<PathBuf>,
    /// Folders that `#include` searches.
    pub includes: Vec<PathBuf>,
    /// Further flags.
    pub flags: Vec<String>,
}

/// Machine code for one or more architectures.
#[derive(Clone, Debug)]
pub struct Fatbin {
    /// The file as `cuModuleLoadData` takes it.
    pub bytes: Vec<u8>,
    /// What ptxas printed.
    pub messages: String,
}

impl Fatbin {
    /// What each kernel uses on each architecture.
    pub fn resources(&self) -> Vec<KernelResources> {
        KernelResources::parse(&self.messages)
    }
}

impl Nvcc {
    /// Compiles `source` to PTX for `compute_{arch}`.
    ///
    /// # Errors
    /// [`Error::Compile`] with nvcc's message.
    pub fn ptx(&self, source: &Path, arch: &str, options: &Options) -> Result<String, Error> {
        check_arch(arch, "the call of nvcc")?;
        let output = Scratch::new("ptx")?;
        self.run(source, &["-ptx".to_owned(), format!("-arch=compute_{arch}")], &output.0, options)?;
        let ptx = fs::read_to_string(&output.0).map_err(Error::io("read", &output.0))?;
        let directory = match &options.directory {
            Some(directory) => directory.clone(),
            None => std::env::current_dir().map_err(Error::io("find", "."))?,
        };
        Ok(relative_files(&ptx, &directory.canonicalize().map_err(Error::io("find", &directory))?))
    }

    /// Compiles `source` to machine code for each of `archs`.
    ///
    /// # Errors
    /// [`Error::Compile`] with nvcc's message.
    pub fn fatbin(&self, source: &Path, archs: &[&str], options: &Options) -> Result<Fatbin, Error> {
        let mut flags = vec!["-fatbin".to_owned(), "-Xptxas".to_owned(), "-v".to_owned()];
        for arch in archs {
            check_arch(arch, "the call of nvcc")?;
            flags.extend(["-gencode".to_owned(), format!("arch=compute_{arch},code=sm_{arch}")]);
        }
        let output = Scratch::new("fatbin")?;
        let messages = self.run(source, &flags, &output.0, options)?;
        Ok(Fatbin { bytes: fs::read(&output.0).map_err(Error::io("read", &output.0))?, messages })
    }

    /// Runs nvcc and returns what it printed.
    fn run(&self, source: &Path, flags: &[String], output: &Path, options: &Options) -> Result<String, Error> {
        let mut command = Command::new(self.program());
        if let Some(directory) = &options.directory {
            command.current_dir(directory);
        }
        command.args(FLAGS).args(flags).args(&options.flags);
        for folder in &options.includes {
            command.arg("-I").arg(folder);
        }
        let result = command.arg("-o").arg(output).arg(source).output().map_err(Error::io("start", self.program()))?;
        let mut message = String::from_utf8_lossy(&result.stdout).into_owned();
        message.push_str(&String::from_utf8_lossy(&result.stderr));
        if result.status.success() {
            Ok(message)
        } else {
            message.push_str(&format!("({})", result.status));
            Err(Error::Compile { source_file: source.to_owned(), message })
        }
    }
}

/// A file that nvcc writes and that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(extension: &str) -> Result<Scratch, Error> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cachalot-nvcc-{}-{number}.{extension}", process::id()));
        // Created here and not by nvcc, so that a file or link of another user under this name is an error.
        fs::File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that stays behind in the folder for temporary files harms nobody.
        _ = fs::remove_file(&self.0);
    }
}

/// Makes the file names of `.file` lines relative to `directory`: the PTX is then the same wherever the sources lie.
fn relative_files(ptx: &str, directory: &Path) -> String {
    let prefix = format!("\"{}/", directory.display());
    let mut result = String::with_capacity(ptx.len());
    for line in ptx.split_inclusive('\n') {
        if line.trim_start().starts_with(".file") {
            result.push_str(&line.replacen(&prefix, "\"", 1));
        } else {
            result.push_str(line);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with `x.cu`, and options to compile in it.
    fn folder(source: &str) -> (tempfile::TempDir, Options) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.cu"), source).unwrap();
        let options = Options { directory: Some(folder.path().to_owned()), ..Options::default() };
        (folder, options)
    }

    #[test]
    fn ptx_names_files_relative_to_the_directory() {
        let nvcc = Nvcc::find().unwrap();
        let (_folder, options) = folder("extern \"C\" __global__ void twice(int* x) { x[threadIdx.x] *= 2; }\n");
        let ptx = nvcc.ptx(Path::new("x.cu"), "90a", &options).unwrap();
        assert!(ptx.contains(".target sm_90a"), "{ptx}");
        assert!(ptx.contains(".visible .entry twice("), "{ptx}");
        assert!(ptx.contains(".loc\t1 1 "), "{ptx}");
        assert!(ptx.contains(".file\t1 \"x.cu\""), "{ptx}");
    }

    #[test]
    fn a_fatbin_holds_each_architecture_and_reports_registers() {
        let nvcc = Nvcc::find().unwrap();
        let (_folder, options) = folder("extern \"C\" __global__ void twice(int* x) { x[threadIdx.x] *= 2; }\n");
        let fatbin = nvcc.fatbin(Path::new("x.cu"), &["80", "90a"], &options).unwrap();
        // The magic number of `fatbinary_section.h`.
        assert_eq!(fatbin.bytes[..4], 0xba55_ed50_u32.to_le_bytes());
        let resources = fatbin.resources();
        let mut archs: Vec<&str> = resources.iter().map(|kernel| kernel.arch.as_str()).collect();
        archs.sort_unstable();
        assert_eq!(archs, ["80", "90a"]);
        assert!(resources.iter().all(|kernel| kernel.kernel == "twice" && kernel.registers > 0));
    }

    #[test]
    fn errors_and_warnings_are_returned_with_what_nvcc_says() {
        let nvcc = Nvcc::find().unwrap();
        for (source, expected) in [
            ("__global__ void k(int* x) { x[0] = y; }\n", "x.cu(1): error: identifier \"y\" is undefined"),
            ("__global__ void k(int* x) { int unused; }\n", "variable \"unused\" was declared but never referenced"),
            ("__global__ void k(int* x) { asm volatile(\"nonsense;\"); }\n", "nonsense"),
        ] {
            let (_folder, options) = folder(source);
            let message = nvcc.fatbin(Path::new("x.cu"), &["90a"], &options).unwrap_err().to_string();
            assert!(message.starts_with("nvcc does not compile x.cu:\n") && message.contains(expected), "{message}");
        }
    }
}
