//! The role `spawn` (docs/spec/spawn.md).

use std::ffi::OsString;
use std::process::ExitCode;

/// Run the role; `args` are those after `spawn`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::from(90)
}
