//! Where nvcc is: `CUDA_HOME`, the private folder that `scripts/setup-nvcc` fills, or `PATH`, in this order.

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// PTX of an older release is spelled differently from what the emulator reads.
const OLDEST_RELEASE: u32 = 13;

/// An nvcc that was found and asked for its release.
#[derive(Clone, Debug)]
pub struct Nvcc {
    program: PathBuf,
    release: String,
}

impl Nvcc {
    /// The first nvcc of release 13 or newer among `CUDA_HOME/bin`, `target/nvcc` and `PATH`.
    ///
    /// # Errors
    /// [`Error::NotFound`] lists every place that was looked at.
    pub fn find() -> Result<Nvcc, Error> {
        Places {
            cuda_home: env::var_os("CUDA_HOME").map(PathBuf::from),
            private: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nvcc"),
            path: env::var_os("PATH"),
        }
        .find()
    }

    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its release, such as `13.0`.
    pub fn release(&self) -> &str {
        &self.release
    }
}

/// The places where an nvcc may be.
struct Places {
    cuda_home: Option<PathBuf>,
    private: PathBuf,
    path: Option<OsString>,
}

impl Places {
    fn find(&self) -> Result<Nvcc, Error> {
        let mut looked_for = String::new();
        for (name, candidates) in [
            ("CUDA_HOME", self.cuda_home.iter().map(|home| home.join("bin/nvcc")).collect()),
            ("target/nvcc", installed_by_pip(&self.private)),
            ("PATH", self.path.iter().flat_map(env::split_paths).map(|folder| folder.join("nvcc")).collect()),
        ] {
            let mut nothing_there = true;
            for program in candidates.iter().filter(|program| program.is_file()) {
                nothing_there = false;
                match release(program) {
                    // Absolute, as nvcc is run in other folders than this one.
                    Ok(release) => {
                        let program = std::path::absolute(program).map_err(Error::io("find", program))?;
                        return Ok(Nvcc { program, release });
                    }
                    Err(reason) => _ = writeln!(looked_for, "- {name}: {} {reason}", program.display()),
                }
            }
            if nothing_there {
                let reason = match (name, candidates.as_slice()) {
                    ("CUDA_HOME", []) => "is not set".to_owned(),
                    ("CUDA_HOME", [program, ..]) => format!("there is no {}", program.display()),
                    _ => "has no nvcc".to_owned(),
                };
                _ = writeln!(looked_for, "- {name}: {reason}");
            }
        }
        Err(Error::NotFound { looked_for })
    }
}

/// Where pip puts nvcc below a virtual environment: `lib/python3.N/site-packages/nvidia/cu13/bin/nvcc`.
fn installed_by_pip(environment: &Path) -> Vec<PathBuf> {
    let Ok(pythons) = environment.join("lib").read_dir() else {
        return Vec::new();
    };
    pythons.flatten().map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc")).collect()
}

/// Asks for the release, and says why the program is not used if it is not.
fn release(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| format!("does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text
        .split_once("release ")
        .and_then(|(_, rest)| rest.split([',', '\n']).next())
        .ok_or("does not tell its release with --version")?
        .trim();
    match release.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= OLDEST_RELEASE => Ok(release.to_owned()),
        _ => Err(format!("is of release {release}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A shell script that calls itself nvcc.
    fn install(program: &Path, release: &str) {
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(program, format!("#!/bin/sh\necho 'Cuda compilation tools, release {release}, V1'\n")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn an_error_lists_every_place_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old");
        install(&old.join("nvcc"), "12.4");
        let places = Places {
            cuda_home: Some(folder.path().join("home")),
            private: folder.path().join("private"),
            path: Some(old.clone().into_os_string()),
        };
        let message = places.find().unwrap_err().to_string();
        let home = folder.path().join("home/bin/nvcc");
        assert!(message.contains(&format!("- CUDA_HOME: there is no {}\n", home.display())), "{message}");
        assert!(message.contains("- target/nvcc: has no nvcc\n"), "{message}");
        assert!(message.contains(&format!("- PATH: {} is of release 12.4\n", old.join("nvcc").display())), "{message}");
        assert!(message.contains("Run scripts/setup-nvcc"), "{message}");

        let nothing = Places { cuda_home: None, path: None, ..places };
        let message = nothing.find().unwrap_err().to_string();
        assert!(message.contains("- CUDA_HOME: is not set\n"), "{message}");
        assert!(message.contains("- PATH: has no nvcc\n"), "{message}");
    }

    #[test]
    fn cuda_home_comes_before_the_private_folder_and_that_before_path() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let private = folder.path().join("private");
        let path = folder.path().join("path");
        let in_home = home.join("bin/nvcc");
        let in_private = private.join("lib/python3.12/site-packages/nvidia/cu13/bin/nvcc");
        let in_path = path.join("nvcc");
        for program in [&in_home, &in_private, &in_path] {
            install(program, "13.0");
        }
        let places = Places { cuda_home: Some(home), private, path: Some(path.into_os_string()) };
        for expected in [in_home, in_private, in_path] {
            let found = places.find().unwrap();
            assert_eq!((found.program(), found.release()), (expected.as_path(), "13.0"));
            fs::remove_file(expected).unwrap();
        }
        assert!(places.find().is_err());
    }
}
