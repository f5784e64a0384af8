//! What a new hold does with what a dead one left (HOLD-TAKE): descriptors, children, exits, services.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use linux::signal::SIGKILL;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use wire::hold::Who;
use wire::{Channel, Empty};

use super::keeper::Client;
use super::record::{Kept, KeptService};
use super::store::Shared;

/// How long a service may take to accept its new channel, before it counts as hung and is started anew.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what was killed may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything of a dead hold.
#[derive(Debug)]
pub struct Taken {
    /// What it had written down.
    pub kept: Kept,
    /// The descriptors, by their numbers in the record.
    pub fds: BTreeMap<i32, Shared>,
    /// The keeper, which goes on keeping until it is told.
    pub keeper: Client,
}

/// Take what the keeper at `path` has; `None` when there is no keeper.
pub fn take(path: &Path) -> io::Result<Option<Taken>> {
    let Some(mut keeper) = Client::connect(path)? else {
        return Ok(None);
    };
    let kept = keeper.record()?;
    let numbers: Vec<i32> = kept.descriptors().into_iter().collect();
    let fds = keeper.get(&numbers)?.into_iter().map(Rc::new);
    let fds = numbers.into_iter().zip(fds).collect();
    Ok(Some(Taken { kept, fds, keeper }))
}

impl Taken {
    /// The process of a service that still runs, and its pidfd.
    pub fn service(&self, name: &str) -> Option<(KeptService, Shared)> {
        let named = |kept: &&KeptService| kept.name == name;
        let kept = self.kept.services.iter().rev().find(named)?;
        let pidfd = self.fds.get(&kept.pidfd)?;
        (linux::pidfd::pid(pidfd) == Some(kept.pid) && !has_ended(pidfd))
            .then(|| (kept.clone(), pidfd.clone()))
    }

    /// End every process of a service that is not to go on, and wait for it.
    pub fn end_services(&self, goes_on: impl Fn(&KeptService) -> bool) -> io::Result<()> {
        let ending = self.kept.services.iter().filter(|kept| !goes_on(kept));
        let pidfds: Vec<&Shared> = ending
            .filter_map(|kept| self.fds.get(&kept.pidfd))
            .collect();
        for pidfd in &pidfds {
            let _ = linux::pidfd::send_signal(pidfd, SIGKILL);
        }
        pidfds.into_iter().try_for_each(wait_end)
    }
}

fn has_ended(pidfd: &Shared) -> bool {
    wait_readable(pidfd, Duration::ZERO).unwrap_or(true)
}

fn wait_readable(pidfd: &Shared, timeout: Duration) -> io::Result<bool> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// Kill a process and wait until it has ended.
pub fn end(pidfd: &Shared) -> io::Result<()> {
    let _ = linux::pidfd::send_signal(pidfd, SIGKILL);
    wait_end(pidfd)
}

fn wait_end(pidfd: &Shared) -> io::Result<()> {
    match wait_readable(pidfd, END_TIMEOUT)? {
        true => Ok(()),
        false => Err(io::Error::other("a killed service did not end within 10 s")),
    }
}

/// Give a running service, which listens at `socket`, its channel to this hold: our end. It must be process `pid`.
pub fn hand_over(socket: &Path, pid: i32) -> io::Result<Channel> {
    let (ours, theirs) = Channel::pair()?;
    let control = Channel::connect(socket)?;
    control.send(&wire::request(1, "hold", &Empty {}), &[theirs.as_fd()])?;
    let received = control
        .recv_timeout(HAND_OVER_TIMEOUT)?
        .ok_or_else(|| io::Error::other("it closed the connection"))?;
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let head = wire::head(&received.map).map_err(|error| other(&error))?;
    if let Some(error) = head.error {
        return Err(other(&error));
    }
    let who: Who = wire::body(&received.map).map_err(|error| other(&error))?;
    if who.pid != pid {
        let message = format!("process {} answered for {pid}", who.pid);
        return Err(io::Error::other(message));
    }
    Ok(ours)
}
