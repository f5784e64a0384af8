//! What can go wrong between a source and the local blob.

use crate::layout::Hash;
use std::fmt;

/// Stable name of a failure; [`Code::as_str`] is what events and errors carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The source could not be reached, or the connection broke.
    Unreachable,
    /// The source says that it does not have the object.
    Missing,
    /// The source answered with another status than asked for.
    Status,
    /// The source sent less than it said or than was asked for.
    Short,
    /// The source sent more than it said or than was asked for.
    Long,
    /// The bytes are not those that the index names.
    Corrupt,
    /// The time for this fetch or read is over.
    Deadline,
    /// The index (page list or page) is not well-formed.
    BadIndex,
    /// The locator is not well-formed, or contradicts the index.
    BadLocator,
    /// The local disk is full.
    NoSpace,
    /// This process has no descriptor left; one may be free soon.
    NoDescriptors,
    /// Another local error.
    Local,
    /// The range lies outside the blob.
    Range,
    /// The image's directory is used by another process.
    Busy,
    /// The image was closed.
    Closed,
    /// The plan makes no sense.
    BadPlan,
}

impl Code {
    /// The code's stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Unreachable => "fetch.unreachable",
            Code::Missing => "fetch.missing",
            Code::Status => "fetch.status",
            Code::Short => "fetch.short",
            Code::Long => "fetch.long",
            Code::Corrupt => "fetch.corrupt",
            Code::Deadline => "fetch.deadline",
            Code::BadIndex => "fetch.bad-index",
            Code::BadLocator => "fetch.bad-locator",
            Code::NoSpace => "fetch.no-space",
            Code::NoDescriptors => "fetch.no-descriptors",
            Code::Local => "fetch.local",
            Code::Range => "fetch.range",
            Code::Busy => "fetch.busy",
            Code::Closed => "fetch.closed",
            Code::BadPlan => "fetch.bad-plan",
        }
    }

    /// Whether the fault lies here, so that no other source is of help.
    pub fn is_local(self) -> bool {
        matches!(
            self,
            Code::NoSpace
                | Code::NoDescriptors
                | Code::Local
                | Code::Busy
                | Code::Closed
                | Code::BadPlan
                | Code::Range
        )
    }

    /// Whether the same fetch may succeed by waiting, without anybody repairing anything.
    pub fn retryable(self) -> bool {
        matches!(self, Code::Unreachable | Code::Status | Code::Deadline)
    }
}

/// Where a source says that a unit lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPlace {
    /// Number of the unit.
    pub unit: u32,
    /// The pack.
    pub pack: Hash,
    /// Offset in the pack.
    pub offset: u32,
}

/// A failure, with the source that caused it where there was one.
#[derive(Debug, Clone)]
pub struct Error {
    /// What happened.
    pub code: Code,
    /// One line for a person.
    pub message: String,
    /// Name of the source (URL or path), empty when none is to blame.
    pub source: String,
    /// The unit whose bytes were wrong or could not be had, where it was one.
    pub place: Option<Box<UnitPlace>>,
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that no source is to blame for.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            source: String::new(),
            place: None,
        }
    }

    /// The same failure, of a unit.
    pub fn of(mut self, place: UnitPlace) -> Self {
        self.place = Some(Box::new(place));
        self
    }

    /// Which of several sources' failures to report: one that waiting may cure, then anything but an absence (STORE-6).
    pub(crate) fn weight(&self) -> u8 {
        match self.code {
            code if code.retryable() => 2,
            Code::Missing => 0,
            _ => 1,
        }
    }

    /// The same failure, blamed on `source` unless one is blamed already.
    pub fn at(mut self, source: &str) -> Self {
        if self.source.is_empty() {
            self.source = source.to_owned();
        }
        self
    }

    /// No descriptor is left for `what`.
    pub fn no_descriptors(what: &str) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.map_or("none".into(), |limit| limit.to_string());
        let message = format!(
            "{what}: no descriptor is left, the limit of this process (RLIMIT_NOFILE) is {limit}"
        );
        Self::new(Code::NoDescriptors, message)
    }

    /// A local failure while doing `what`.
    pub fn local(what: &str, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        if is_exhausted(&error) {
            return Self::no_descriptors(what);
        }
        let code = if full { Code::NoSpace } else { Code::Local };
        Self::new(code, format!("{what}: {error}"))
    }
}

/// EMFILE or ENFILE.
pub(crate) fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source.is_empty() {
            write!(f, "{}", self.message)
        } else {
            write!(f, "{} ({})", self.message, self.source)
        }
    }
}

impl std::error::Error for Error {}
