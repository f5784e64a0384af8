//! What can go wrong.

use std::fmt;

/// Why there is no answer, or the answer is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// An argument with which no call can be made; a fault of the caller.
    Argument(&'static str),
    /// The proof has another number of hashes than this place of this tree asks for.
    Length {
        /// Hashes that it must have.
        expected: usize,
        /// Hashes that it has.
        found: usize,
    },
    /// The proof leads to another root than the one that is believed.
    Mismatch(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(what) => write!(formatter, "{what}"),
            Self::Length { expected, found } => {
                write!(
                    formatter,
                    "the proof has {found} hashes and must have {expected}"
                )
            }
            Self::Mismatch(which) => write!(formatter, "the proof does not lead to the {which}"),
        }
    }
}

impl std::error::Error for Error {}
