//! The role `hold` (docs/spec/hold.md).

use std::ffi::OsString;
use std::process::ExitCode;

/// Run the role; `args` are those after `hold`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::from(90)
}
