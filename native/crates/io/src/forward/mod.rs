//! The role `forward`: published ports on the host's addresses (docs/spec/forward.md).

mod daemon;
mod relay;
pub(crate) mod rule;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::service;

/// Run the role; `args` are those after `forward`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if !args.is_empty() {
        return service::usage("forward");
    }
    service::run("forward", |hold| daemon::Daemon::start(hold)?.run())
}
