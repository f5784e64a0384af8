//! The loop of logd: pipes, requests, watchers. One thread, so that one take is under way at a time (LOG-SLOT).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use serde::{Deserialize, Serialize};
use wire::{scarce, Empty, HoldClient, WireError};

use super::buffer::{Buffer, CHUNK_MAX};
use super::files::{list, Files, Limits};
use super::name::{Name, Stream};
use super::record::Take;
use crate::server::{body, ClientId, Request, Server};
use crate::service::{self, now_ns, Failure};

/// The memory of a take, in hold.
const BUFFER: &str = "logbuffer";
/// Event data of pipe `n` is this plus `n`.
const PIPES: u64 = 1 << 41;
/// Events of one turn of the loop.
const EVENTS_MAX: usize = 256;
/// A watcher hears of growth at most this often.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    name: String,
    file_bytes_max: u64,
    files_max: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Debug, Serialize)]
struct Position {
    seq: u32,
    offset: u64,
    open: bool,
    dropped_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Grown<'a> {
    name: &'a str,
    seq: u32,
    offset: u64,
}

#[derive(Debug, Serialize)]
struct Closed<'a> {
    name: &'a str,
}

/// One log: its files and the pipes that still flow into it.
#[derive(Debug)]
struct Log {
    files: Files,
    open: BTreeSet<u64>,
    /// Inodes of pipes that have ended, so that they are not attached again.
    ended: BTreeSet<u64>,
}

#[derive(Debug)]
struct Pipe {
    name: Name,
    stream: Stream,
    fd: OwnedFd,
    inode: u64,
}

/// One watch of one client.
#[derive(Debug)]
struct Watch {
    client: ClientId,
    name: Name,
    /// What it was told last.
    told: Option<(u32, u64)>,
    told_at: Instant,
}

/// All of logd.
#[derive(Debug)]
pub struct Daemon {
    directory: PathBuf,
    hold: Option<HoldClient>,
    epoll: OwnedFd,
    signals: OwnedFd,
    server: Server,
    buffer: Buffer,
    logs: BTreeMap<Name, Log>,
    pipes: BTreeMap<u64, Pipe>,
    last_pipe: u64,
    watches: Vec<Watch>,
}

impl Daemon {
    /// Take back what a predecessor had, finish what it had begun, attach all pipes that hold has, say ready.
    pub fn start(mut hold: HoldClient, directory: PathBuf) -> Result<Daemon, Failure> {
        service::raise_descriptor_limit();
        let (epoll, signals, server) = service::begin(&mut hold, "logd")?;
        let seed = now_ns() ^ u64::from(std::process::id()) << 32;
        let buffer = match hold.get_one(BUFFER).map_err(Failure::of("get logbuffer"))? {
            Some(memfd) => Buffer::open(memfd, seed).map_err(Failure::of("logbuffer"))?,
            None => {
                let buffer = Buffer::create(seed).map_err(Failure::of("logbuffer"))?;
                hold.put(BUFFER, buffer.memfd(), false)
                    .map_err(Failure::of("put logbuffer"))?;
                buffer
            }
        };
        let mut daemon = Daemon {
            directory,
            hold: Some(hold),
            epoll,
            signals,
            server,
            buffer,
            logs: BTreeMap::new(),
            pipes: BTreeMap::new(),
            last_pipe: 0,
            watches: Vec::new(),
        };
        daemon.restore()?;
        if let Some(hold) = &mut daemon.hold {
            hold.ready().map_err(Failure::of("ready"))?;
        }
        Ok(daemon)
    }

    /// Until SIGTERM; or, without hold, until the last pipe has ended: hold's death is not that of the containers.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.hold.is_some() || !self.pipes.is_empty() {
            let timeout = self
                .next_deadline()
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            service::wait(&self.epoll, &mut events, timeout)?;
            for event in &events {
                let flags = event.flags;
                match event.data.u64() {
                    service::SIGNALS => {
                        if service::is_told_to_end(&self.signals)? {
                            return Ok(());
                        }
                    }
                    service::HOLD => service::hear_hold(&mut self.hold, &self.epoll),
                    service::LISTENER => self.server.accept(self.epoll.as_fd()),
                    data if data >= PIPES => self.drain(data - PIPES, flags)?,
                    data => self.serve((data - service::CLIENTS) as ClientId, flags),
                }
            }
            self.server.wake(self.epoll.as_fd());
            self.tell_watchers();
        }
        Ok(())
    }

    // --- start -------------------------------------------------------------------------------------------------

    fn restore(&mut self) -> Result<(), Failure> {
        let hold = self
            .hold
            .as_mut()
            .ok_or("hold has gone")
            .map_err(Failure::of("list"))?;
        let slots = hold
            .list("logslot/")
            .map_err(Failure::of("list logslot/"))?;
        let kept = hold.list("log/").map_err(Failure::of("list log/"))?;
        let memfds = hold.get(&slots).map_err(Failure::of("get logslot/"))?;
        for (slot, memfd) in slots.iter().zip(memfds) {
            let Some(name) = slot
                .strip_prefix("logslot/")
                .and_then(|name| Name::parse(name).ok())
            else {
                continue;
            };
            match Files::open(name.directory(&self.directory), memfd) {
                Ok(files) => drop(self.logs.insert(name, Log::new(files))),
                // A new slot is made below, which goes on in a new file.
                Err(error) => linux::complain!("zos-io log: slot of {}: {error}", name.as_str()),
            }
        }
        self.finish_take()?;
        self.attach_all(&kept);
        Ok(())
    }

    /// Take every pipe of these names of hold's.
    fn attach_all(&mut self, kept: &[String]) {
        let names: BTreeSet<Name> = kept
            .iter()
            .filter_map(|kept| Name::of_pipe(kept))
            .map(|(name, _)| name)
            .collect();
        for name in names {
            if let Err(error) = self.attach(&name, None) {
                linux::complain!("zos-io log: attach {}: {error}", name.as_str());
            }
        }
    }

    /// Write what a predecessor had read, or learn that it had not.
    fn finish_take(&mut self) -> Result<(), Failure> {
        let take = self.buffer.last().clone();
        let Some(log) = Name::parse(&take.name)
            .ok()
            .and_then(|name| self.logs.get_mut(&name))
        else {
            return Ok(());
        };
        let recovered = log.files.recover(&mut self.buffer);
        if let Some(taken) = recovered.map_err(Failure::of("recover"))? {
            linux::complain!(
                "zos-io log: finished a take of {}: {taken} of {} bytes had been read",
                take.name,
                take.length
            );
        }
        Ok(())
    }

    // --- pipes -------------------------------------------------------------------------------------------------

    /// Take the pipes of a log that hold has and that are not taken yet.
    fn attach(&mut self, name: &Name, limits: Option<Limits>) -> Result<(), WireError> {
        let hold = self.hold.as_mut().ok_or_else(WireError::hold_gone)?;
        let refused = |error: wire::Error| WireError::of_hold("logd.hold-refused", &error);
        let mut found = Vec::new();
        for stream in Stream::ALL {
            if let Some(fd) = hold.get_one(&name.pipe(stream)).map_err(refused)? {
                let is_known = self.logs.get(name).is_some_and(|log| !log.open.is_empty());
                if scarce::is_scarce(&fd) && !is_known {
                    // The logs that there are have files to turn.
                    return Err(WireError::no_descriptors(&format!(
                        "attach {}",
                        name.as_str()
                    )));
                }
                found.push((stream, fd));
            }
        }
        if found.is_empty() && !self.logs.contains_key(name) {
            let message = format!("hold has no pipe of {}", name.as_str());
            return Err(WireError::new("logd.unknown-name", message));
        }
        if !self.logs.contains_key(name) {
            let limits = limits.unwrap_or(Limits::DEFAULT);
            let files = Files::create(name.directory(&self.directory), limits)
                .map_err(|error| WireError::step("logd.failed", "create-slot", &error))?;
            hold.put(&name.slot(), files.memfd(), true)
                .map_err(refused)?;
            self.logs.insert(name.clone(), Log::new(files));
        }
        let Some(log) = self.logs.get_mut(name) else {
            return Ok(());
        };
        if let Some(limits) = limits {
            log.files
                .set_limits(limits)
                .map_err(|error| WireError::step("logd.failed", "set-limits", &error))?;
        }
        let mut present = BTreeSet::new();
        for (stream, fd) in found {
            let inode = rustix::fs::fstat(&fd)
                .map_err(|error| WireError::step("logd.failed", "fstat", &error.into()))?
                .st_ino;
            present.insert(inode);
            let known = log.ended.contains(&inode)
                || log
                    .open
                    .iter()
                    .any(|id| self.pipes.get(id).is_some_and(|pipe| pipe.inode == inode));
            if known {
                continue;
            }
            self.last_pipe += 1;
            let data = EventData::new_u64(PIPES + self.last_pipe);
            epoll::add(&self.epoll, &fd, data, EventFlags::IN)
                .map_err(|error| WireError::step("logd.failed", "epoll", &error.into()))?;
            log.open.insert(self.last_pipe);
            self.pipes.insert(
                self.last_pipe,
                Pipe {
                    name: name.clone(),
                    stream,
                    fd,
                    inode,
                },
            );
        }
        log.ended.retain(|inode| present.contains(inode));
        Ok(())
    }

    /// Move one chunk from a pipe to its file.
    fn drain(&mut self, id: u64, flags: EventFlags) -> Result<(), Failure> {
        let Some(pipe) = self.pipes.get(&id) else {
            return Ok(());
        };
        let Some(log) = self.logs.get_mut(&pipe.name) else {
            return Ok(());
        };
        let waiting = rustix::io::ioctl_fionread(&pipe.fd).unwrap_or(0);
        let length = waiting.min(CHUNK_MAX as u64) as usize;
        if length == 0 {
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                self.end(id);
            }
            return Ok(());
        }
        let time_ns = now_ns();
        let (seq, offset) = log.files.place(length, time_ns);
        let take = Take {
            time_ns,
            offset,
            seq,
            length: length as u32,
            stream: pipe.stream as u8,
            name: pipe.name.as_str().to_owned(),
            ..Take::default()
        };
        self.buffer.begin(take).map_err(Failure::of("begin"))?;
        let read = match self.buffer.read(&pipe.fd) {
            Ok(read) => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            Err(error) => return Err(Failure::of("read")(error)),
        };
        log.files
            .settle(&mut self.buffer, read)
            .map_err(Failure::of("settle"))
    }

    fn end(&mut self, id: u64) {
        let Some(pipe) = self.pipes.remove(&id) else {
            return;
        };
        // hold has the pipe too, so closing it here would leave it watched.
        let _ = epoll::delete(&self.epoll, &pipe.fd);
        let Some(log) = self.logs.get_mut(&pipe.name) else {
            return;
        };
        log.ended.insert(pipe.inode);
        log.open.remove(&id);
        if !log.open.is_empty() {
            return;
        }
        log.files.end(now_ns());
        for watch in self
            .watches
            .iter_mut()
            .filter(|watch| watch.name == pipe.name)
        {
            let slot = log.files.slot();
            tell(
                &mut self.server,
                self.epoll.as_fd(),
                watch,
                (slot.seq, slot.offset),
            );
            let closed = wire::event(
                "closed",
                &Closed {
                    name: pipe.name.as_str(),
                },
            );
            self.server.send(self.epoll.as_fd(), watch.client, closed);
        }
    }

    // --- requests ----------------------------------------------------------------------------------------------

    fn serve(&mut self, client: ClientId, flags: EventFlags) {
        for mut request in self.server.hear(self.epoll.as_fd(), client, flags) {
            if request.op == "hold" {
                if let Some(hold) = self.server.take_hold(self.epoll.as_fd(), &mut request) {
                    self.meet_hold(hold);
                }
                continue;
            }
            let result = self.perform(&request);
            let watched = request.op == "watch" && result.is_ok();
            self.server.answer(self.epoll.as_fd(), &request, result);
            if watched {
                self.first_news(client);
            }
        }
    }

    fn perform(&mut self, request: &Request) -> Result<Vec<u8>, WireError> {
        let done = || wire::reply(request.id, &Empty {});
        match request.op.as_str() {
            "attach" => {
                let attach: Attach = body(request)?;
                let limits = Limits {
                    file_bytes_max: attach.file_bytes_max,
                    files_max: attach.files_max,
                };
                if !limits.are_valid() {
                    return Err(WireError::new(
                        "logd.bad-limits",
                        "a file has 128 KiB to 1 GiB, a log 1 to 1024 files",
                    ));
                }
                self.attach(&Name::parse(&attach.name)?, Some(limits))?;
                Ok(done())
            }
            "position" => {
                let log = self.log(&body::<Named>(request)?.name)?;
                let slot = log.files.slot();
                let position = Position {
                    seq: slot.seq,
                    offset: slot.offset,
                    open: !log.open.is_empty(),
                    dropped_bytes: slot.dropped_bytes,
                };
                Ok(wire::reply(request.id, &position))
            }
            "watch" => {
                let name = body::<Named>(request)?.name;
                self.log(&name)?;
                let name = Name::parse(&name)?;
                self.watches
                    .retain(|watch| (watch.client, &watch.name) != (request.client, &name));
                let (client, told_at) = (request.client, Instant::now());
                self.watches.push(Watch {
                    client,
                    name,
                    told: None,
                    told_at,
                });
                Ok(done())
            }
            "remove" => {
                self.remove(&Name::parse(&body::<Named>(request)?.name)?)?;
                Ok(done())
            }
            other => Err(WireError::unknown_op(other)),
        }
    }

    fn log(&self, name: &str) -> Result<&Log, WireError> {
        let log = self.logs.get(&Name::parse(name)?);
        log.ok_or_else(|| WireError::new("logd.unknown-name", format!("{name} is not attached")))
    }

    /// Stop, forget and delete a log and those of its execs. What is not there is no error: a removal may be repeated.
    fn remove(&mut self, name: &Name) -> Result<(), WireError> {
        let hold = self.hold.as_mut().ok_or_else(WireError::hold_gone)?;
        let gone: Vec<u64> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| name.covers(&pipe.name))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(pipe) = self.pipes.remove(&id) {
                let _ = epoll::delete(&self.epoll, &pipe.fd);
                // Should hold refuse below, the log stays, and is not one that waits for a pipe nobody reads.
                if let Some(log) = self.logs.get_mut(&pipe.name) {
                    log.open.remove(&id);
                }
            }
        }
        let mut kept = Vec::new();
        for prefix in ["log/", "logslot/"] {
            let refused = |error: wire::Error| WireError::of_hold("logd.hold-refused", &error);
            for one in hold
                .list(&format!("{prefix}{}", name.as_str()))
                .map_err(refused)?
            {
                let of_slot = one
                    .strip_prefix("logslot/")
                    .and_then(|name| Name::parse(name).ok());
                let owner = of_slot.or_else(|| Name::of_pipe(&one).map(|(name, _)| name));
                kept.extend(owner.filter(|owner| name.covers(owner)).map(|_| one));
            }
            hold.drop_names(&kept).map_err(refused)?;
        }
        self.logs.retain(|other, _| !name.covers(other));
        let closed = wire::event(
            "closed",
            &Closed {
                name: name.as_str(),
            },
        );
        for watch in self.watches.iter().filter(|watch| watch.name == *name) {
            self.server
                .send(self.epoll.as_fd(), watch.client, closed.clone());
        }
        self.watches.retain(|watch| !name.covers(&watch.name));
        delete(&name.directory(&self.directory))
            .map_err(|error| WireError::step("logd.failed", "delete", &error))
    }

    // --- watchers ----------------------------------------------------------------------------------------------

    /// A new watcher hears at once how far the log is, and whether that is all.
    fn first_news(&mut self, client: ClientId) {
        let Some(watch) = self
            .watches
            .last_mut()
            .filter(|watch| watch.client == client)
        else {
            return;
        };
        if let Some(log) = self.logs.get(&watch.name) {
            let slot = log.files.slot();
            tell(
                &mut self.server,
                self.epoll.as_fd(),
                watch,
                (slot.seq, slot.offset),
            );
            if log.open.is_empty() {
                let closed = wire::event(
                    "closed",
                    &Closed {
                        name: watch.name.as_str(),
                    },
                );
                self.server.send(self.epoll.as_fd(), client, closed);
            }
        }
    }

    /// Tell of growth those who have not heard for a while, and have read what they were told before.
    fn tell_watchers(&mut self) {
        self.watches
            .retain(|watch| self.server.is_idle(watch.client).is_some());
        let now = Instant::now();
        for watch in &mut self.watches {
            let Some(log) = self.logs.get(&watch.name) else {
                continue;
            };
            let position = (log.files.slot().seq, log.files.slot().offset);
            let is_due = now >= watch.told_at + WATCH_INTERVAL;
            if watch.told != Some(position)
                && is_due
                && self.server.is_idle(watch.client) == Some(true)
            {
                tell(&mut self.server, self.epoll.as_fd(), watch, position);
            }
        }
    }

    /// When a watcher is to hear of growth that has been.
    fn next_deadline(&self) -> Option<Instant> {
        let news = self.watches.iter().filter(|watch| {
            let log = self.logs.get(&watch.name);
            log.is_some_and(|log| watch.told != Some((log.files.slot().seq, log.files.slot().offset)))
                // One that does not read wakes the loop when it does.
                && self.server.is_idle(watch.client) == Some(true)
        });
        news.map(|watch| watch.told_at + WATCH_INTERVAL)
            .chain(self.server.deadline())
            .min()
    }

    /// A new hold in the place of one that died: whatever it has and is not taken yet is taken now.
    fn meet_hold(&mut self, mut hold: HoldClient) {
        let kept = service::greet_hold(&mut self.hold, &mut hold, &self.epoll)
            .and_then(|()| hold.list("log/"));
        match kept {
            Ok(kept) => {
                self.hold = Some(hold);
                self.attach_all(&kept);
            }
            Err(error) => {
                let _ = epoll::delete(&self.epoll, &hold);
                linux::complain!("zos-io log: the new hold: {error}");
            }
        }
    }
}

impl Log {
    fn new(files: Files) -> Log {
        Log {
            files,
            open: BTreeSet::new(),
            ended: BTreeSet::new(),
        }
    }
}

fn tell(server: &mut Server, epoll: BorrowedFd<'_>, watch: &mut Watch, position: (u32, u64)) {
    if watch.told == Some(position) {
        return;
    }
    let (seq, offset) = position;
    let grown = Grown {
        name: watch.name.as_str(),
        seq,
        offset,
    };
    server.send(epoll, watch.client, wire::event("grown", &grown));
    (watch.told, watch.told_at) = (Some(position), Instant::now());
}

/// Delete the files of a log, the directories of its execs, and the directory.
fn delete(directory: &std::path::Path) -> io::Result<()> {
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            delete(&entry.path())?;
        }
    }
    for seq in list(directory)? {
        missing_is_fine(fs::remove_file(directory.join(format!("{seq}.log"))))?;
    }
    missing_is_fine(fs::remove_dir(directory))
}
