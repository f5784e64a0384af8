//! `zos-io`: the service processes that move bytes. The first argument chooses the role.

#![forbid(unsafe_code)]

mod block;
mod forward;
#[cfg(test)]
mod fuzz;
mod log;
mod refuse;
mod server;
mod service;

use std::process::ExitCode;

/// Exit status of a wrong command line (native programs have 90-99).
pub(crate) const EXIT_USAGE: u8 = 90;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let role = args.next().unwrap_or_default();
    let rest: Vec<_> = args.collect();
    // The names of docs/spec and of the process tree.
    match role.to_str() {
        Some("block") => linux::process::set_name("zos-blockd"),
        Some("refuse") => linux::process::set_name("zos-refuse"),
        Some("log") => linux::process::set_name("zos-logd"),
        Some("forward") => linux::process::set_name("zos-forward"),
        _ => {}
    }
    match role.to_str() {
        Some("block") => block::main(rest),
        Some("refuse") => refuse::main(rest),
        Some("log") => log::main(rest),
        Some("forward") => forward::main(rest),
        _ => {
            linux::complain!("usage: zos-io block|refuse|log|forward [OPTIONS]");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
