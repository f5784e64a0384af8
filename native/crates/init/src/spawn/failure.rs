//! How an operation fails: a code, and the exact step with its errno.

use std::io;

use wire::WireError;

/// What every operation gives.
pub type Outcome<T> = Result<T, WireError>;

/// Names the step that failed.
pub trait Step<T> {
    /// `spawn.step` with this step and the errno.
    fn step(self, name: &str) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, name: &str) -> Outcome<T> {
        let failed = |error: io::Error| WireError::step("spawn.step", name, &error);
        let done = self.map_err(|error| failed(error.into()))?;
        match super::fault::taken() {
            None => Ok(done),
            Some(error) => Err(failed(error)),
        }
    }
}

/// `spawn.bad-path`: a path that is not allowed, or leads somewhere that is not.
pub fn bad_path(message: impl Into<String>) -> WireError {
    WireError::new("spawn.bad-path", message)
}

/// A value of the right type that makes no sense.
pub fn bad_value(message: impl Into<String>) -> WireError {
    WireError::new("frame.bad-body", message)
}

/// What hold, the kernel's end of the world for spawn, refused or failed to do.
pub fn from_hold(step: &str, error: wire::Error) -> WireError {
    match error {
        wire::Error::Closed => WireError::hold_gone(),
        wire::Error::Io(error) => WireError::step("spawn.step", step, &error),
        wire::Error::Remote(error) if error.is_of_descriptors() => error,
        wire::Error::Remote(error) if error.code == "hold.exists" => {
            WireError::new("spawn.exists", error.message)
        }
        other => {
            let mut error = WireError::new("spawn.step", format!("{step}: {other}"));
            error.step = Some(step.to_owned());
            error
        }
    }
}
