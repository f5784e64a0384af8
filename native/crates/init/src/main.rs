//! `zos-init`: the static program whose first argument is its role.
//!
//! `hold` starts and restarts the service processes and keeps descriptors by name (`docs/spec/hold.md`); `spawn` makes
//! mounts and launches containers (`docs/spec/spawn.md`).
#![forbid(unsafe_code)]

#[cfg(test)]
mod fuzz;
mod hold;
mod spawn;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What one container is given is not in the memory of the process that enters another (SPAWN-FORGETS).
#[global_allocator]
static MEMORY: linux::wipe::Wiping = linux::wipe::Wiping;

/// Wrong arguments (native programs: 90-99).
const EXIT_USAGE: u8 = 90;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if let Some(title) = args.next() {
        let title = Path::new(&title)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        linux::process::set_name(&title);
    }
    let role = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    match role.to_str() {
        Some("hold") => hold::main(args),
        Some("spawn") => spawn::main(args),
        Some("--version") => say(&format!("zos-init {}\n", env!("CARGO_PKG_VERSION")), 0),
        _ => say(
            "usage: zos-init hold --table FD --ready FD | spawn --state DIR | --version\n",
            EXIT_USAGE,
        ),
    }
}

/// Write a line to stdout (status 0) or stderr; a closed stream is no reason to panic.
fn say(text: &str, status: u8) -> ExitCode {
    let _ = match status {
        0 => std::io::stdout().write_all(text.as_bytes()),
        _ => std::io::stderr().write_all(text.as_bytes()),
    };
    ExitCode::from(status)
}
