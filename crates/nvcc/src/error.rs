//! What can go wrong before a kernel is compiled, and while it is.

use std::path::PathBuf;

/// Why there is no compiled kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No nvcc in any of the places where one is looked for.
    #[error(
        "nvcc (release 13 or newer) was not found. Looked for:\n{looked_for}\
         Run scripts/setup-nvcc, which installs it into target/nvcc, or set CUDA_HOME to a CUDA toolkit."
    )]
    NotFound {
        /// One line for each place, with what was wrong there.
        looked_for: String,
    },
    /// nvcc refused the source. The message is nvcc's own.
    #[error("nvcc does not compile {}:\n{message}", source_file.display())]
    Compile {
        /// The file that was given to nvcc.
        source_file: PathBuf,
        /// What nvcc printed.
        message: String,
    },
    /// An architecture that is not spelled as `80`, `90a` or `100f`, or a head line `// archs:` that is not a list of these.
    #[error("`{arch}` in {place} is no GPU architecture: expected `80`, `90a`, or in a kernel's head line also `80+`")]
    Arch {
        /// What was written.
        arch: String,
        /// Where.
        place: String,
    },
    /// A file or process that could not be read, written or started.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// Turns what the system said about `path` into an [`Error::Io`].
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
