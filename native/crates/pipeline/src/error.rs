//! What can be wrong with a call, and with what it is given to open.

use std::fmt;

/// Why something was not sealed or opened. `chunk` is its number in the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A setting or an argument is out of its limits.
    Setting(String),
    /// What the erasure code refuses: its shape.
    Erasure(erasure::Error),
    /// Too few shards of a chunk are there and right (PIPELINE-OPEN-2).
    TooFew {
        /// Which.
        chunk: usize,
        /// Shards that are right.
        have: usize,
        /// k.
        need: usize,
    },
    /// A sealed chunk is no sealed chunk (PIPELINE-OPEN-3).
    Malformed {
        /// Which.
        chunk: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The key is another one, or the chunk was changed (PIPELINE-OPEN-4).
    SealBroken {
        /// Which.
        chunk: usize,
    },
    /// What was opened is not what its digest says (PIPELINE-OPEN-6).
    DigestWrong {
        /// Which.
        chunk: usize,
    },
    /// No memory for a context of zstd.
    NoMemory,
    /// No thread can be started.
    NoThread(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(text) => f.write_str(text),
            Self::Erasure(error) => error.fmt(f),
            Self::TooFew { chunk, have, need } => {
                write!(
                    f,
                    "chunk {chunk}: {have} shards are right: {need} are needed"
                )
            }
            Self::Malformed { chunk, what } => write!(f, "chunk {chunk}: {what}"),
            Self::SealBroken { chunk } => {
                write!(
                    f,
                    "chunk {chunk}: the seal is broken: another key, or it was changed"
                )
            }
            Self::DigestWrong { chunk } => {
                write!(f, "chunk {chunk}: it is not what its digest says")
            }
            Self::NoMemory => write!(f, "zstd has no memory for a context"),
            Self::NoThread(text) => write!(f, "no thread can be started: {text}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<erasure::Error> for Error {
    fn from(error: erasure::Error) -> Self {
        Self::Erasure(error)
    }
}

/// Runs `work`; a panic inside becomes [`erasure::Error::Panicked`], so that it never crosses into a foreign caller.
///
/// # Errors
///
/// Those of `work`.
pub fn guard<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    erasure::guard(|| Ok(work()))?
}
