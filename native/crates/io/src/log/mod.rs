//! The role `log`: container output to bounded files (docs/spec/logd.md).

pub(crate) mod buffer;
mod daemon;
pub(crate) mod files;
pub(crate) mod name;
pub(crate) mod record;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::service;

/// Run the role; `args` are those after `log`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let directory = match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(directory), None) if flag == "--dir" => PathBuf::from(directory),
        _ => return service::usage("log --dir DIR"),
    };
    if !directory.is_absolute() {
        return service::usage("log --dir DIR (an absolute path)");
    }
    service::run("log", |hold| daemon::Daemon::start(hold, directory)?.run())
}
