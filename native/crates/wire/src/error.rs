//! What can go wrong: here ([`Error`]) and at the other end ([`WireError`]).

use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::scarce::{is_exhausted, NO_DESCRIPTORS};

/// The error of a reply (FRAME-4): a stable code, a sentence, the step and errno that failed, what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// Stable code, `area.what-happened`.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
    /// The named step of an operation that failed.
    #[serde(default)]
    pub step: Option<String>,
    /// The errno of that step.
    #[serde(default)]
    pub errno: Option<i32>,
    /// What the reader can do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

impl WireError {
    /// An error with a code and a message alone.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> WireError {
        WireError {
            code: code.into(),
            message: message.into(),
            step: None,
            errno: None,
            hint: None,
        }
    }

    /// An error of a named step of the kernel's: message `step: text of the errno`. Where that is that there is no
    /// descriptor left, `frame.no-descriptors` instead.
    pub fn step(code: impl Into<String>, step: impl Into<String>, cause: &io::Error) -> WireError {
        let step = step.into();
        if is_exhausted(cause) {
            return WireError::no_descriptors(&step);
        }
        let mut error = WireError::new(code, format!("{step}: {cause}"));
        error.step = Some(step);
        error.errno = cause.raw_os_error();
        error
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> WireError {
        self.hint = Some(hint.into());
        self
    }

    /// `frame.unknown-op` (FRAME-6).
    pub fn unknown_op(op: &str) -> WireError {
        let shown: String = op.chars().take(64).collect();
        WireError::new(
            "frame.unknown-op",
            format!("there is no operation {shown:?} here"),
        )
    }

    /// `hold.gone`: hold has died, and what was asked of it may be asked of the next one.
    pub fn hold_gone() -> WireError {
        WireError::new("hold.gone", "hold has died")
            .with_hint("zos up starts another, which takes everything over")
    }

    /// What hold refused, under this code; `hold.gone` when it has died, and as it is when descriptors have run out.
    pub fn of_hold(code: &str, error: &Error) -> WireError {
        match error {
            Error::Closed => WireError::hold_gone(),
            Error::Io(error) if is_exhausted(error) => WireError::no_descriptors("ask hold"),
            Error::Remote(error) if error.is_of_descriptors() => error.clone(),
            other => WireError::new(code, other.to_string()),
        }
    }

    /// Whether it says that descriptors have run out, here or with hold.
    pub fn is_of_descriptors(&self) -> bool {
        matches!(self.code.as_str(), NO_DESCRIPTORS | "hold.full")
    }

    /// `frame.bad-body` (FRAME-6).
    pub fn bad_body(cause: &Error) -> WireError {
        WireError::new("frame.bad-body", cause.to_string())
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for WireError {}

/// What a caller of this crate meets.
#[derive(Debug)]
pub enum Error {
    /// The socket failed, or a frame broke the rules of transport (`InvalidData`).
    Io(io::Error),
    /// The other end has closed the channel.
    Closed,
    /// A map that does not decode into what was asked for.
    Decode(String),
    /// The other end answered with an error.
    Remote(WireError),
}

impl Error {
    /// The code of the remote's answer, if it is one.
    pub fn remote_code(&self) -> Option<&str> {
        match self {
            Error::Remote(error) => Some(&error.code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "{error}"),
            Error::Closed => write!(f, "the other end closed the channel"),
            Error::Decode(message) => write!(f, "{message}"),
            Error::Remote(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Error {
        Error::Io(error.into())
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        Error::Remote(error)
    }
}
