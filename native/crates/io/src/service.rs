//! What the roles `log` and `forward` have in common around their loop: the start, signals, hold's end and its successor.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::Resource;
use wire::HoldClient;

use crate::server::Server;

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

/// The loop's epoll instance, its signals and the requests' side on `listen/<role>`, which hold keeps.
pub fn begin(hold: &mut HoldClient, role: &str) -> Result<(OwnedFd, OwnedFd, Server), Failure> {
    let (epoll, signals) = watch(hold).map_err(Failure::of("epoll"))?;
    let name = format!("listen/{role}");
    let get = format!("get {name}");
    let listener = hold.get_one(&name).map_err(Failure::of(&get))?;
    let listener = listener
        .ok_or("hold has no such descriptor")
        .map_err(Failure::of(&get))?;
    let server = Server::new(epoll.as_fd(), listener, LISTENER, CLIENTS)
        .map_err(Failure::of(&format!("watch {name}")))?;
    Ok((epoll, signals, server))
}

/// Wait for events, at most for `timeout`; there may be none before that.
pub fn wait(
    epoll: &OwnedFd,
    events: &mut Vec<Event>,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    events.clear();
    match epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        timeout.as_ref(),
    ) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::of("epoll_wait")(error)),
    }
}

/// Whether a signal came that ends the service.
pub fn is_told_to_end(signals: &OwnedFd) -> Result<bool, Failure> {
    let signal = linux::signal::next(signals).map_err(Failure::of("signals"))?;
    Ok(signal.is_some())
}

/// What comes of hold without being asked for is its end: forget it then.
pub fn hear_hold(hold: &mut Option<HoldClient>, epoll: &OwnedFd) {
    if let Some(gone) = hold.take_if(|hold| hold.event_timeout(Duration::ZERO).is_err()) {
        let _ = epoll::delete(epoll, &gone);
    }
}

/// Watch a new hold and say ready to it (HOLD-TAKE); the old one, which has died, is forgotten either way.
pub fn greet_hold(
    old: &mut Option<HoldClient>,
    new: &mut HoldClient,
    epoll: &OwnedFd,
) -> Result<(), wire::Error> {
    if let Some(old) = old.take() {
        let _ = epoll::delete(epoll, &old);
    }
    epoll::add(epoll, &*new, EventData::new_u64(HOLD), EventFlags::IN)
        .map_err(|error| wire::Error::Io(error.into()))?;
    new.ready()
}

/// An epoll instance that watches SIGTERM, SIGINT and hold's channel.
fn watch(hold: &HoldClient) -> io::Result<(OwnedFd, OwnedFd)> {
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
