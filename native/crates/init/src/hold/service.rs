//! One service: its state, and how its process is started.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use linux::process::{Program, Start};
use wire::hold::ServiceStatus;
use wire::Channel;

use super::log::open_rotated;
use super::record::Slot;
use super::restarts::{back_off, Next, Restarts};
use super::store::Shared;
use super::table::{self, Table};

/// How far the end of a process has come that hold wants to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It may run.
    No,
    /// SIGTERM was sent; SIGKILL follows at this time.
    Terminated(Instant),
    /// SIGKILL was sent at this time.
    Killed(Instant),
}

/// A running process of a service.
#[derive(Debug)]
pub struct Running {
    /// Its process id.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Shared,
    /// Where the record has it.
    pub slot: Slot,
    /// Key of its pidfd in epoll, if it is a predecessor's child and not ours.
    pub foreign: Option<u64>,
    /// Key of the connection that is its descriptor 3.
    pub connection: u64,
    /// When it must have said `ready`, until it has.
    pub ready_by: Option<Instant>,
    /// Whether it has said `ready`.
    pub ready: bool,
    /// Whether hold is ending it.
    pub ending: Ending,
}

/// What a service is doing.
#[derive(Debug)]
pub enum State {
    /// Nothing until this time, then it is started.
    Waiting(Instant),
    /// A process runs.
    Running(Running),
    /// Hold shuts down, and this service has ended.
    Stopped,
}

/// A service and its history.
#[derive(Debug)]
pub struct Service {
    /// What it is doing.
    pub state: State,
    /// Starts so far.
    pub generation: u64,
    /// While the fallback runs in its place: when the service itself is tried again.
    pub fallback_until: Option<Instant>,
    fallback_starts: usize,
    restarts: Restarts,
}

impl Service {
    /// A service to be started at `now`.
    pub fn new(row: &table::Service, now: Instant) -> Service {
        Service {
            state: State::Waiting(now),
            generation: 0,
            fallback_until: None,
            fallback_starts: 0,
            restarts: Restarts::new(
                row.restarts_max,
                Duration::from_millis(row.restart_window_ms.into()),
            ),
        }
    }

    /// Its running process.
    pub fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Its running process.
    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// When something is to be done without a new event.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Stopped => None,
            State::Waiting(until) => Some(*until),
            State::Running(running) => match running.ending {
                Ending::Terminated(until) => Some(until),
                Ending::Killed(_) => None,
                Ending::No => [running.ready_by, self.fallback_until]
                    .into_iter()
                    .flatten()
                    .min(),
            },
        }
    }

    /// Its process has ended, or could not be started: decide what is next.
    pub fn ended(&mut self, row: &table::Service, now: Instant) {
        let wait = match self.fallback_until {
            Some(until) if now < until => {
                self.fallback_starts += 1;
                back_off(self.fallback_starts).min(until - now)
            }
            Some(_) => {
                self.fallback_until = None;
                Duration::ZERO
            }
            None => match self.restarts.ended(now) {
                Next::Restart(wait) => wait,
                Next::GiveUp(window) if row.fallback.is_some() => {
                    self.fallback_until = Some(now + window);
                    self.fallback_starts = 0;
                    Duration::ZERO
                }
                Next::GiveUp(window) => window,
            },
        };
        self.state = State::Waiting(now + wait);
    }

    /// The arguments that a start at `now` runs: the service's own, or those of the fallback.
    pub fn arguments<'a>(&mut self, row: &'a table::Service, now: Instant) -> &'a [String] {
        match &row.fallback {
            Some(fallback) if self.fallback_until.is_some_and(|until| now < until) => fallback,
            _ => {
                self.fallback_until = None;
                &row.argv
            }
        }
    }

    /// `started`, `ready`, `ended` or `fallback`.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Running(_) if self.fallback_until.is_some() => "fallback",
            State::Running(running) if running.ready => "ready",
            State::Running(_) => "started",
            State::Waiting(_) | State::Stopped => "ended",
        }
    }

    /// Its row of `services`.
    pub fn status(&self, row: &table::Service) -> ServiceStatus {
        ServiceStatus {
            name: row.name.clone(),
            pid: self.running().map(|running| running.pid),
            generation: self.generation,
            restarts: u32::try_from(self.generation.saturating_sub(1)).unwrap_or(u32::MAX),
            state: self.state_name().into(),
        }
    }
}

/// Start a service's process: `(pid, pidfd, our end of its channel)`.
pub fn start(
    table: &Table,
    row: &table::Service,
    argv: &[String],
    generation: u64,
    own_program: &OwnedFd,
) -> io::Result<(i32, OwnedFd, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let log_path = table.log_dir.join(format!("{}.log", row.name));
    // A full or read-only disk is no reason to run without the service.
    let log = open_rotated(&log_path).or_else(|_| null.try_clone())?;
    let given = [
        ("ZOS_INSTANCE", table.instance.clone()),
        ("ZOS_SERVICE", row.name.clone()),
        ("ZOS_GENERATION", generation.to_string()),
    ];
    let of_table = row
        .env
        .iter()
        .map(|(key, value)| (key.as_str(), value.clone()));
    let env = of_table
        .chain(given)
        .map(|(key, value)| format!("{key}={value}"));
    let (args, env) = (strings(argv.iter().cloned())?, strings(env)?);
    let file = row.file(argv).map(CString::new).transpose()?;
    let program = match &file {
        Some(file) => Program::Path(file),
        None => Program::Descriptor(own_program.as_fd()),
    };
    let fds = [null.as_fd(), log.as_fd(), log.as_fd(), theirs.as_fd()];
    let (pid, pidfd) = linux::process::start(Start {
        program,
        args: &args,
        env: &env,
        fds: &fds,
    })?;
    Ok((pid, pidfd, ours))
}

fn strings(items: impl Iterator<Item = String>) -> Result<Vec<CString>, NulError> {
    items.map(CString::new).collect()
}
