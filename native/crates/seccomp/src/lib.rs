//! The default system call filter of a container.
//!
//! `data/profile.json` says in our own words what the default profile of moby allows (the version is [`BASED_ON`]), for
//! the native architecture alone and for the capabilities that a container holds by default. `build.rs` compiles it to
//! classic BPF; nothing is read or computed at run time. The oldest kernel that zos runs on has seccomp filters.

#![forbid(unsafe_code)]

#[cfg(test)]
mod compile;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod tests;

include!(concat!(env!("OUT_DIR"), "/program.rs"));

/// Name and version of the profile whose rules these are.
pub const BASED_ON: &str = BASED_ON_TEXT;

/// The one architecture whose calls pass; a call of another one kills the process (SIGSYS).
pub const ARCHITECTURE: &str = ARCHITECTURE_TEXT;

/// Numbers (linux/capability.h) of what a container holds by default; [`default_filter`] is for exactly these.
///
/// Those of podman: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, NET_BIND_SERVICE, SETFCAP, SETGID, SETPCAP, SETUID,
/// SYS_CHROOT; so neither MKNOD, NET_RAW nor AUDIT_WRITE.
pub const DEFAULT_CAPABILITIES: &[u8] = CAPABILITY_NUMBERS;

/// Instructions of [`default_filter`], at most 4,096.
pub const INSTRUCTIONS: usize = PROGRAM.len() / 8;

/// An array of `struct sock_filter` (8 bytes each) for seccomp(2), in the byte order of the target.
#[must_use]
pub fn default_filter() -> &'static [u8] {
    &PROGRAM
}
