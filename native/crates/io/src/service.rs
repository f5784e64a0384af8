//! What the roles `log` and `forward` have in common around their loop: the start, signals, hold's end.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::Resource;
use wire::HoldClient;

/// Exit status of a service that could not start or go on.
const EXIT_FAILED: u8 = 91;
/// Event data of hold's channel.
pub const HOLD: u64 = 0;
/// Event data of the signals.
pub const SIGNALS: u64 = 1;
/// Event data of the listening socket of the service.
pub const LISTENER: u64 = 2;
/// Event data of client `n` is this plus `n`.
pub const CLIENTS: u64 = 1 << 40;

/// Why a service ends otherwise than by SIGTERM: the step, and what happened.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure of a named step.
    pub fn of<E: fmt::Display>(step: &str) -> impl Fn(E) -> Failure + '_ {
        move |error| Failure(format!("{step}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A wrong command line.
pub fn usage(form: &str) -> ExitCode {
    linux::complain!("usage: zos-io {form}");
    ExitCode::from(crate::EXIT_USAGE)
}

/// Take hold's channel and run; a failure goes to stderr, which is the service's log.
pub fn run(role: &str, body: impl FnOnce(HoldClient) -> Result<(), Failure>) -> ExitCode {
    let result = HoldClient::inherited()
        .map_err(Failure::of("take hold's channel (descriptor 3)"))
        .and_then(body);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            linux::complain!("zos-io {role}: {failure}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// As many descriptors as the machine allows; how many these are.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match rustix::process::setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(_) => before,
    }
    .unwrap_or(u64::MAX)
}

/// An epoll instance that watches SIGTERM, SIGINT and hold's channel.
pub fn watch(hold: &HoldClient) -> io::Result<(OwnedFd, OwnedFd)> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let signals = linux::signal::signalfd(&[linux::signal::SIGTERM, linux::signal::SIGINT])?;
    epoll::add(
        &epoll,
        &signals,
        EventData::new_u64(SIGNALS),
        EventFlags::IN,
    )?;
    epoll::add(&epoll, hold, EventData::new_u64(HOLD), EventFlags::IN)?;
    Ok((epoll, signals))
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}
