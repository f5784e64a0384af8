//! What can be wrong with a call.

use std::fmt;

/// Every way in which a call is refused; nothing has been written then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// k, m or their sum is outside of the limits (ERASURE-SHAPE-1).
    Shape(String),
    /// No such path, or this machine has not the instructions for it (ERASURE-PATH-1).
    Path(String),
    /// A wrong number of buffers.
    Count(String),
    /// Buffers of different lengths.
    Length(String),
    /// Shards of no bytes.
    Empty,
    /// An index twice, or one that no shard has.
    Index(String),
    /// Fewer shards than the code needs.
    TooFew {
        /// How many there are.
        have: usize,
        /// k.
        need: usize,
    },
    /// What is written to overlaps something else of the same call.
    Overlap(String),
    /// A number of threads outside of 1 to 64.
    Threads,
    /// The system starts no more threads.
    NoThread(String),
    /// A repair that is not the one of this code and these shards, or that was not solved.
    Repair(String),
    /// The code itself failed: a mistake of ours, which no argument may bring about.
    Panicked(String),
}

/// A shard's index as errors show it; `usize::MAX` is what a caller gives for a number that no `usize` can be.
#[derive(Debug, Clone, Copy)]
pub struct Shown(pub usize);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            usize::MAX => write!(f, "of a number that is out of range"),
            index => write!(f, "{index}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text)
            | Self::Path(text)
            | Self::Count(text)
            | Self::Length(text)
            | Self::Index(text)
            | Self::Overlap(text)
            | Self::Repair(text) => f.write_str(text),
            Self::Empty => f.write_str("a shard has at least one byte"),
            Self::TooFew { have, need } => {
                write!(f, "{have} shards are not enough: {need} are needed")
            }
            Self::Threads => write!(f, "threads must be 1 to {}", crate::THREADS_MAX),
            Self::NoThread(text) => write!(f, "no thread can be started: {text}"),
            Self::Panicked(text) => write!(f, "the erasure code failed inside: {text}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs `work`; a panic inside becomes an error, so that it never crosses into a foreign caller.
pub fn guard<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned());
            Err(Error::Panicked(
                text.unwrap_or_else(|| "a panic without a message".into()),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let nothing: [u8; 0] = [];
        let at = std::hint::black_box(3);
        let caught = guard(|| Ok(nothing[at]));
        assert!(matches!(caught, Err(Error::Panicked(text)) if text.contains("out of bounds")));
        assert_eq!(guard(|| Ok(7)), Ok(7));
        assert_eq!(guard::<()>(|| Err(Error::Empty)), Err(Error::Empty));
    }
}
