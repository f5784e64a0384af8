//! What can go wrong.

use std::fmt;

/// Why there are no verdicts. That a signature is wrong is a verdict, and no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// A batch whose arrays do not fit together; a fault of the caller.
    Argument(&'static str),
    /// The system has no randomness to give.
    Randomness,
    /// The system starts no more threads.
    Threads,
    /// The system has not so much memory.
    Memory,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(what) => write!(formatter, "{what}"),
            Self::Randomness => write!(formatter, "getrandom(2) gives no randomness"),
            Self::Threads => write!(formatter, "no thread can be started"),
            Self::Memory => write!(formatter, "there is no memory for so many keys"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a key must not be registered (SIG-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No point of the curve has this encoding.
    NoPoint,
    /// There is another encoding of the same point, which would be another name of the same key.
    NonCanonical,
    /// Anybody can make signatures under a point of order 1, 2, 4 or 8.
    SmallOrder,
}

impl Fault {
    /// A stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPoint => "no-point",
            Self::NonCanonical => "non-canonical",
            Self::SmallOrder => "small-order",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}",
            match self {
                Self::NoPoint => "the key is no point of the curve",
                Self::NonCanonical => "the key is not in its canonical form",
                Self::SmallOrder => "the key is of small order: anybody could sign with it",
            }
        )
    }
}

impl std::error::Error for Fault {}
