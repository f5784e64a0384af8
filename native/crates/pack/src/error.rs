//! What can go wrong.

use std::fmt;
use std::io;

/// Why packing stopped.
#[derive(Debug)]
pub enum Error {
    /// An argument is out of its limits; a fault of the caller.
    Argument(&'static str),
    /// A file is not what the walk saw; the build may be repeated.
    Changed {
        /// Path relative to the root.
        path: Vec<u8>,
        /// What differs, in words.
        what: &'static str,
    },
    /// A file of the tree cannot be opened or read.
    Read {
        /// Path relative to the root.
        path: Vec<u8>,
        /// The system's error.
        source: io::Error,
    },
    /// A pack cannot be written.
    Write {
        /// The system's error.
        source: io::Error,
    },
    /// The blob would be larger than 2^32 - 2 blocks.
    BlobTooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(what) => write!(formatter, "{what}"),
            Self::Changed { path, what } => {
                write!(formatter, "{}: {what}", String::from_utf8_lossy(path))
            }
            Self::Read { path, source } => {
                write!(formatter, "{}: {source}", String::from_utf8_lossy(path))
            }
            Self::Write { source } => write!(formatter, "cannot write a pack: {source}"),
            Self::BlobTooLarge => write!(formatter, "the blob would exceed 16 TiB"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source } => Some(source),
            _ => None,
        }
    }
}
