//! A folder of kernels, compiled in parallel, each file again only if something that it was made from has changed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fs, io, thread};

use crate::compile::FLAGS;
use crate::key::Key;
use crate::{AllowedArchs, Error, Fatbin, KernelResources, Nvcc, Options, check_arch};

/// The architecture whose PTX is executed by the emulator.
const PTX_ARCH: &str = "90a";

/// The sources below a folder `kernels/`: one folder for each op, headers anywhere.
#[derive(Debug)]
pub struct KernelTree {
    /// The folder that holds `kernels/`, where nvcc runs.
    directory: PathBuf,
    /// `kernels/`, relative to it.
    root: PathBuf,
    /// Every `.cu` file, relative to `root`, in order.
    sources: Vec<PathBuf>,
    /// Every header, relative to `root`, in order.
    headers: Vec<PathBuf>,
}

/// One `.cu` file, compiled. The files lie in the cache.
#[derive(Debug)]
pub struct CompiledKernel {
    /// Path of the source below `kernels/` without its extension: `rms_norm/rms_norm`.
    pub name: String,
    /// Architectures that the fatbin holds. None if the source allows none of those that were asked for.
    pub archs: Vec<String>,
    /// The fatbin; an empty file if `archs` is empty.
    pub fatbin: PathBuf,
    /// PTX for `compute_90a`, with file names that begin with `kernels/`.
    pub ptx: PathBuf,
    /// What each kernel uses on each architecture.
    pub resources: Vec<KernelResources>,
    /// What ptxas says about lost performance, such as products of `wgmma` that it had to put one after the other.
    pub notes: Vec<String>,
}

impl KernelTree {
    /// Lists the sources and headers below `kernels`.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read.
    pub fn open(kernels: &Path) -> Result<KernelTree, Error> {
        let kernels = kernels.canonicalize().map_err(Error::io("find", kernels))?;
        let mut files = Vec::new();
        list(&kernels, &kernels, &mut files).map_err(Error::io("read", &kernels))?;
        files.sort_unstable();
        let with = |extensions: &[&str]| {
            let is_one = |file: &&PathBuf| extensions.iter().any(|wanted| file.extension() == Some(wanted.as_ref()));
            files.iter().filter(is_one).cloned().collect()
        };
        Ok(KernelTree {
            directory: kernels.parent().unwrap_or(&kernels).to_owned(),
            root: kernels.file_name().map(PathBuf::from).unwrap_or_default(),
            sources: with(&["cu"]),
            headers: with(&["cuh", "h", "hpp", "inc"]),
        })
    }

    /// Compiles what is not in `cache` yet, and removes from it what is not needed any more.
    ///
    /// # Errors
    /// One error for each file that does not compile.
    pub fn compile(&self, nvcc: &Nvcc, archs: &[&str], cache: &Path) -> Result<Vec<CompiledKernel>, Vec<Error>> {
        for arch in archs {
            check_arch(arch, "the list of architectures").map_err(|error| vec![error])?;
        }
        fs::create_dir_all(cache).map_err(|error| vec![Error::io("create", cache)(error)])?;
        let headers = self.headers_key().map_err(|error| vec![error])?;

        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<CompiledKernel, Error>>>> = Mutex::default();
        let results_mut = || results.lock().unwrap_or_else(PoisonError::into_inner);
        results_mut().resize_with(self.sources.len(), || None);
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(source) = self.sources.get(index) else { break };
                        let result = self.compile_one(nvcc, source, archs, &headers, cache);
                        results_mut()[index] = Some(result);
                    }
                });
            }
        });

        let mut kernels = Vec::new();
        let mut errors = Vec::new();
        for result in results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten() {
            match result {
                Ok(kernel) => kernels.push(kernel),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            // After an error the cache keeps what it has: the next attempt is likely to ask for it.
            prune(cache, &kernels).map_err(|error| vec![Error::io("clean", cache)(error)])?;
            Ok(kernels)
        } else {
            Err(errors)
        }
    }

    /// Hash of the names and contents of all headers. Which of them a source includes is not looked at: headers change seldom.
    fn headers_key(&self) -> Result<String, Error> {
        let mut key = Key::new();
        for header in &self.headers {
            let path = self.directory.join(&self.root).join(header);
            key.add(header.as_os_str().as_encoded_bytes());
            key.add(&fs::read(&path).map_err(Error::io("read", &path))?);
        }
        Ok(key.finish())
    }

    fn compile_one(
        &self,
        nvcc: &Nvcc,
        source: &Path,
        archs: &[&str],
        headers: &str,
        cache: &Path,
    ) -> Result<CompiledKernel, Error> {
        let path = self.root.join(source);
        let full_path = self.directory.join(&path);
        let text = fs::read_to_string(&full_path).map_err(Error::io("read", &full_path))?;
        let allowed = AllowedArchs::read(&text, &path)?;
        let archs: Vec<&str> = archs.iter().copied().filter(|arch| allowed.allows(arch)).collect();
        let name = source.with_extension("").display().to_string();

        let mut key = Key::new();
        for part in [nvcc.release(), &nvcc.program().display().to_string(), headers, &name, &text]
            .iter()
            .chain(FLAGS)
            .chain(&archs)
        {
            key.add(part.as_bytes());
        }
        let stem = format!("{}-{}", name.replace('/', "."), key.finish());
        let file = |extension: &str| cache.join(format!("{stem}.{extension}"));
        let (fatbin, ptx, log) = (file("fatbin"), file("ptx"), file("log"));

        if !log.exists() {
            let options = Options {
                directory: Some(self.directory.clone()),
                includes: vec![self.root.clone()],
                ..Options::default()
            };
            let compiled = if archs.is_empty() {
                Fatbin { bytes: Vec::new(), messages: String::new() }
            } else {
                nvcc.fatbin(&path, &archs, &options)?
            };
            write(&ptx, nvcc.ptx(&path, PTX_ARCH, &options)?.as_bytes())?;
            write(&fatbin, &compiled.bytes)?;
            // Last, because its presence says that the other two are there.
            write(&log, compiled.messages.as_bytes())?;
        }
        let messages = fs::read_to_string(&log).map_err(Error::io("read", &log))?;
        Ok(CompiledKernel {
            name,
            archs: archs.into_iter().map(str::to_owned).collect(),
            fatbin,
            ptx,
            resources: KernelResources::parse(&messages),
            notes: messages.lines().filter(|line| line.contains("Performance Loss")).map(str::to_owned).collect(),
        })
    }
}

/// Adds the files below `folder` to `files`, relative to `root`.
fn list(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, files)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push(relative.to_owned());
        }
    }
    Ok(())
}

/// Writes a file so that it is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    fs::write(&unfinished, bytes).map_err(Error::io("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::io("write", path))
}

/// Removes what belongs to none of `kernels`.
fn prune(cache: &Path, kernels: &[CompiledKernel]) -> io::Result<()> {
    for entry in cache.read_dir()? {
        let path = entry?.path();
        if !kernels.iter().any(|kernel| path.with_extension("ptx") == kernel.ptx) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A tree of two kernels that share a header, and a cache beside it.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Fixture {
            let fixture = Fixture(tempfile::tempdir().unwrap());
            fixture.edit("common/scale.cuh", "__device__ inline float scale(float x) { return 2 * x; }\n");
            for op in ["a", "b"] {
                let kernel = format!("extern \"C\" __global__ void {op}(float* x) {{ x[0] = scale(x[0]); }}\n");
                fixture.edit(&format!("{op}/{op}.cu"), &format!("#include \"common/scale.cuh\"\n{kernel}"));
            }
            fixture
        }

        fn edit(&self, name: &str, text: &str) {
            let path = self.0.path().join("kernels").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn compile(&self, archs: &[&str]) -> Result<Vec<CompiledKernel>, Vec<Error>> {
            let tree = KernelTree::open(&self.0.path().join("kernels")).unwrap();
            tree.compile(&Nvcc::find().unwrap(), archs, &self.0.path().join("cache"))
        }

        /// Compiles, and tells which of the two kernels were compiled anew and not taken from the cache.
        fn compiled_anew(&self, written: &mut BTreeMap<String, (i64, i64)>) -> Vec<String> {
            let mut anew = Vec::new();
            for kernel in self.compile(&["90a"]).unwrap() {
                let written_at = fs::metadata(&kernel.fatbin).unwrap();
                let time = (written_at.mtime(), written_at.mtime_nsec());
                if written.insert(kernel.name.clone(), time) != Some(time) {
                    anew.push(kernel.name);
                }
            }
            anew
        }
    }

    #[test]
    fn an_edited_kernel_is_compiled_alone_and_an_edited_header_compiles_all() {
        let fixture = Fixture::new();
        let mut written = BTreeMap::new();
        assert_eq!(fixture.compiled_anew(&mut written), ["a/a", "b/b"]);
        assert_eq!(fixture.compiled_anew(&mut written), [""; 0]);
        fixture.edit(
            "a/a.cu",
            "#include \"common/scale.cuh\"\nextern \"C\" __global__ void a2(float* x) { *x = scale(1); }\n",
        );
        assert_eq!(fixture.compiled_anew(&mut written), ["a/a"]);
        fixture.edit("common/scale.cuh", "__device__ inline float scale(float x) { return 3 * x; }\n");
        assert_eq!(fixture.compiled_anew(&mut written), ["a/a", "b/b"]);
        // Three files for each kernel: what was replaced is gone.
        assert_eq!(fixture.0.path().join("cache").read_dir().unwrap().count(), 6);
    }

    #[test]
    fn the_head_line_limits_the_architectures() {
        let fixture = Fixture::new();
        fixture.edit("a/a.cu", "// archs: 90a\nextern \"C\" __global__ void a(float* x) { x[0] = 1; }\n");
        let kernels = fixture.compile(&["80"]).unwrap();
        assert_eq!((kernels[0].archs.len(), kernels[0].resources.len()), (0, 0));
        assert_eq!(fs::read(&kernels[0].fatbin).unwrap(), [0; 0]);
        assert_eq!(kernels[1].archs, ["80"]);
        assert_eq!((kernels[1].resources[0].kernel.as_str(), kernels[1].resources[0].arch.as_str()), ("b", "80"));
        for kernel in &kernels {
            let ptx = fs::read_to_string(&kernel.ptx).unwrap();
            assert!(
                ptx.contains(".target sm_90a") && ptx.contains(&format!("\"kernels/{}.cu\"", kernel.name)),
                "{ptx}"
            );
        }
    }

    #[test]
    fn every_kernel_that_does_not_compile_is_reported() {
        let fixture = Fixture::new();
        fixture.edit("a/a.cu", "__global__ void a(float* x) { x[0] = y; }\n");
        fixture.edit("b/b.cu", "__global__ void b(float* x) { return 1; }\n");
        let errors = fixture.compile(&["90a"]).unwrap_err();
        let messages: Vec<String> = errors.iter().map(Error::to_string).collect();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].contains("kernels/a/a.cu(1): error: identifier \"y\" is undefined"), "{}", messages[0]);
        assert!(messages[1].contains("kernels/b/b.cu(1): error"), "{}", messages[1]);
        let wrong_arch = fixture.compile(&["sm_90a"]).unwrap_err();
        assert!(wrong_arch[0].to_string().contains("`sm_90a`"), "{}", wrong_arch[0]);
    }
}
