//! The role `hold` (docs/spec/hold.md): one thread, one epoll loop, nothing that waits for a client, nothing that
//! panics.
//!
//! Its death is the death of every container's keeper (on a node, a kernel panic), so it knows as little as it can:
//! services are argument lists, descriptors and children are names.

mod children;
mod connection;
mod keeper;
mod log;
mod ops;
mod record;
mod restarts;
mod rundir;
mod service;
mod store;
pub(crate) mod table;
mod takeover;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use linux::signal::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM};
use linux::wait::Status;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use wire::hold::{Exit, ServiceEvent};
use wire::{Channel, Door, WireError};

use children::Children;
use connection::{Connection, Outgoing, Peer};
use keeper::{Keeper, Post};
use log::Log;
use record::{KeptService, Record, SharedRecord};
use rundir::RunDir;
use service::{Ending, Running, Service, State};
use store::{Shared, Store};
use table::{Table, DESCRIPTORS_MAX, HOLD_SOCKET, TABLE_MAX};
use takeover::Taken;

/// Exit statuses (native programs: 90-99).
const EXIT_USAGE: u8 = 90;
const EXIT_START: u8 = 91;
const EXIT_REMAINS: u8 = 92;
/// Descriptors for what hold itself needs: channels, pidfds, 64 of a frame on its way in; at most half of all.
const DESCRIPTORS_RESERVED: u32 = 1_024;
/// Tools on `hold.sock` at a time.
const TOOLS_MAX: usize = 64;
/// Requests of one client, or new clients, before the others have their turn.
const TURN_MAX: usize = 16;
/// Frames that a service may have sent before it ended.
const DRAIN_MAX: usize = 1_024;
/// How long shutdown waits for what SIGKILL has not ended.
const REMAINS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often shutdown looks for processes that appeared meanwhile.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// How long hold accepts nobody when it has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A keeper that ends sooner than this is not started again at once.
const KEEPER_PAUSE: Duration = Duration::from_secs(1);

/// Keys of epoll; connections and foreign pidfds count on from `FIRST_KEY`.
const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_KEY: u64 = 2;

/// How far a shutdown has come.
#[derive(Debug, Clone, Copy)]
enum Shutdown {
    /// Services end, this one next, the rest in the reverse of the table's order.
    Services(usize),
    /// Everything was killed; what still runs at this time is left behind.
    Remains(Instant),
    /// Nothing is left (true), or something is.
    Done(bool),
}

/// The whole state.
struct Hold {
    table: Table,
    own_program: OwnedFd,
    log: Log,
    epoll: OwnedFd,
    signals: OwnedFd,
    listener: Door,
    accept_again: Option<Instant>,
    next_key: u64,
    connections: BTreeMap<u64, Connection>,
    /// Registered processes that are not our children, by the key of their pidfd in epoll.
    foreign: BTreeMap<u64, (i32, Shared)>,
    /// Services that are not our children, likewise.
    foreign_services: BTreeMap<u64, usize>,
    services: Vec<Service>,
    store: Store,
    children: Children,
    record: SharedRecord,
    post: Option<KeeperPost>,
    keeper: Option<Keeper>,
    keeper_again: Option<Instant>,
    shutdown: Option<Shutdown>,
}

/// What our keepers work with.
struct KeeperPost {
    listener: OwnedFd,
    own: OwnedFd,
    path: PathBuf,
}

/// Run the role; `args` are those after `hold`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let Some((table, ready)) = descriptors(&args) else {
        return crate::say("usage: zos-init hold --table FD --ready FD\n", EXIT_USAGE);
    };
    let mut ready = File::from(ready);
    match prepare(table) {
        Err(error) => {
            let line: String = error
                .chars()
                .map(|c| if c == '\n' { ' ' } else { c })
                .collect();
            let _ = ready.write_all(format!("E{line}\n").as_bytes());
            ExitCode::from(EXIT_START)
        }
        Ok((mut hold, run_dir)) => {
            let _ = ready.write_all(b"1");
            drop(ready);
            let clean = hold.run();
            hold.log.say(if clean {
                "bye"
            } else {
                "bye, but processes remain"
            });
            drop(run_dir);
            ExitCode::from(if clean { 0 } else { EXIT_REMAINS })
        }
    }
}

/// `--table FD --ready FD`, in any order.
fn descriptors(args: &[OsString]) -> Option<(OwnedFd, OwnedFd)> {
    let (mut table, mut ready) = (None, None);
    for pair in args.chunks(2) {
        let [option, value] = pair else { return None };
        let fd = || linux::fd::inherited(value.to_str()?.parse().ok()?).ok();
        match option.to_str()? {
            "--table" => table = Some(fd()?),
            "--ready" => ready = Some(fd()?),
            _ => return None,
        }
    }
    Some((table?, ready?))
}

/// Everything up to the moment when all services have been started.
fn prepare(table: OwnedFd) -> Result<(Hold, RunDir), String> {
    let table = read_table(table)?;
    let failed = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    // Fails only for a process that leads a group (a job of a shell): then it has no session to leave.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    linux::process::set_child_subreaper().map_err(failed("PR_SET_CHILD_SUBREAPER"))?;
    let mut run_dir = RunDir::lock(&table.run_dir)?;
    let taken = match table.keeper {
        true => takeover::take(&run_dir.keeper_socket()),
        false => Ok(None),
    };
    let takes_over = !matches!(taken, Ok(None));
    let prepared = taken
        .map_err(failed("what the last hold left could not be taken over"))
        .and_then(|taken| build(table, &mut run_dir, taken));
    let (mut hold, kept) = match prepared {
        Ok(prepared) => prepared,
        Err(error) if takes_over => {
            run_dir.leave();
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    for (at, kept) in kept.into_iter().enumerate() {
        let started = match kept {
            Some((kept, pidfd)) => hold.adopt(at, &kept, pidfd),
            None => hold.start(at),
        };
        let Err(error) = started else { continue };
        let name = hold.table.services[at].name.clone();
        if takes_over {
            // Containers run, and services serve them: the keeper has everything for who can do it better.
            run_dir.leave();
        } else {
            hold.begin_shutdown("a service could not be started");
            hold.run();
        }
        return Err(format!("service {name}: {error}"));
    }
    Ok((hold, run_dir))
}

/// The processes of services that go on, in the order of the table.
type KeptProcesses = Vec<Option<(KeptService, Shared)>>;

/// A hold that has everything but services; and those of a predecessor that are to go on.
fn build(
    table: Table,
    run_dir: &mut RunDir,
    taken: Option<Taken>,
) -> Result<(Hold, KeptProcesses), String> {
    let failed = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let mut log = Log::open(&table.log_dir);
    let max = descriptors_max(&mut log).min(table.descriptors_max.unwrap_or(DESCRIPTORS_MAX));
    let record = match table.keeper {
        true => Record::create().map_err(failed("record"))?,
        false => Record::none(),
    };
    let mut store = Store::new(max as usize, record.clone());
    let mut children = Children::new(record.clone());
    let survivor = |name: &str| {
        let named = |row: &&table::Service| row.survives && row.name == name;
        table.services.iter().find(named)
    };
    if let Some(taken) = &taken {
        // First of all: what launches and decides must not go on beside its successor.
        taken
            .end_services(|kept| survivor(&kept.name).is_some())
            .map_err(failed("the last hold's services"))?;
        restore(taken, &table, &mut store, &mut children)?;
    }
    for listener in &table.listeners {
        let name = format!("listen/{}", listener.name);
        if store.has(&name) {
            run_dir.adopt(&listener.path);
            continue;
        }
        let socket = Rc::new(run_dir.listen(&listener.path, listener.stream)?);
        match survivor(&listener.name) {
            Some(_) => store
                .put(&name, socket, false, 0)
                .map_err(|error| error.to_string())?,
            // Nobody answers there when hold has gone, so nobody is to wait there.
            None => store.put_for_life(&name, socket),
        }
    }
    let listener = run_dir.listen(HOLD_SOCKET, false)?;
    rustix::io::ioctl_fionbio(&listener, true).map_err(|error| failed("FIONBIO")(error.into()))?;
    let executable = File::open("/proc/self/exe").map_err(failed("/proc/self/exe"))?;
    let own_program = linux::memfd::sealed_copy("zos-init", executable).map_err(failed("memfd"))?;
    let signals =
        linux::signal::signalfd(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP]).map_err(failed("signalfd"))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
        .map_err(|error| failed("epoll")(error.into()))?;
    for (fd, key) in [(&signals, SIGNALS), (&listener, LISTENER)] {
        epoll::add(&epoll, fd, EventData::new_u64(key), EventFlags::IN)
            .map_err(|error| failed("epoll")(error.into()))?;
    }
    let kept: KeptProcesses = table
        .services
        .iter()
        .map(|row| taken.as_ref().filter(|_| row.survives)?.service(&row.name))
        .collect();
    let now = Instant::now();
    let services = table
        .services
        .iter()
        .map(|row| Service::new(row, now))
        .collect();
    let mut hold = Hold {
        table,
        own_program,
        log,
        epoll,
        signals,
        listener: Door::new(listener).map_err(failed("listener"))?,
        accept_again: None,
        next_key: FIRST_KEY,
        connections: BTreeMap::new(),
        foreign: BTreeMap::new(),
        foreign_services: BTreeMap::new(),
        services,
        store,
        children,
        record,
        post: None,
        keeper: None,
        keeper_again: None,
        shutdown: None,
    };
    let version = env!("CARGO_PKG_VERSION");
    hold.log.say(&format!(
        "hold {version}, pid {}, room for {max} descriptors",
        std::process::id()
    ));
    let registered: Vec<(i32, Shared)> = hold
        .children
        .iter()
        .map(|known| (known.child.pid, known.pidfd.clone()))
        .collect();
    for (pid, pidfd) in registered {
        hold.watch_pidfd(pid, pidfd);
    }
    for (at, kept) in kept.iter().enumerate() {
        let Some((kept, pidfd)) = kept else { continue };
        // Before our keeper is in charge: who comes after us, even now, must know of it.
        let slot = hold.record.borrow_mut().add_service(
            &kept.name,
            kept.generation,
            kept.pid,
            pidfd.as_raw_fd(),
        );
        let slot = slot.map_err(failed("record"))?;
        hold.services[at].generation = kept.generation;
        hold.services[at].state = State::Running(Running {
            pid: kept.pid,
            pidfd: pidfd.clone(),
            slot,
            foreign: None,
            connection: 0,
            ready_by: None,
            ready: false,
            ending: Ending::No,
        });
    }
    if hold.table.keeper {
        let (listener, socket) = run_dir.listen_as_keeper()?;
        hold.record
            .borrow()
            .set_socket(socket.0, socket.1)
            .map_err(failed("record"))?;
        let own = linux::process::open(rustix::process::getpid().as_raw_nonzero().get())
            .map_err(failed("pidfd_open"))?;
        hold.post = Some(KeeperPost {
            listener,
            own,
            path: run_dir.keeper_socket(),
        });
        hold.start_keeper().map_err(failed("keeper"))?;
        run_dir.publish_keeper()?;
    }
    if let Some(taken) = taken {
        // It sees by itself that it is not in charge any more, should it not hear this.
        if let Err(error) = taken.keeper.done() {
            hold.log.say(&format!("the last hold's keeper: {error}"));
        }
        hold.log.say(&format!(
            "took over from the last hold: {} descriptors, {} children, {} exits",
            hold.store.len(),
            hold.children.len(),
            hold.children.exits(0).len()
        ));
    }
    Ok((hold, kept))
}

/// Descriptors, children and exits of a predecessor.
fn restore(
    taken: &Taken,
    table: &Table,
    store: &mut Store,
    children: &mut Children,
) -> Result<(), String> {
    let kept = &taken.kept;
    let fd = |number: &i32| {
        let missing = || format!("descriptor {number} was not handed over");
        taken.fds.get(number).cloned().ok_or_else(missing)
    };
    let is_child = |name: &str| kept.children.iter().any(|(child, _)| child.name == name);
    let is_listener = |name: &str| table.listeners.iter().any(|listener| listener.name == name);
    for (name, number) in &kept.names {
        let counts = match name.split_once('/') {
            Some(("pidfd", name)) => is_child(name),
            Some(("listen", name)) if !name.contains('/') => is_listener(name),
            _ => true,
        };
        if counts {
            store
                .put(name, fd(number)?, false, 0)
                .map_err(|error| error.to_string())?;
        }
    }
    for (child, number) in &kept.children {
        children
            .add(child.clone(), fd(number)?, 0)
            .map_err(|error| format!("record: {error}"))?;
    }
    children
        .restore_exits(&kept.exits, kept.last_seq)
        .map_err(|error| format!("record: {error}"))
}

fn read_table(fd: OwnedFd) -> Result<Table, String> {
    let mut file = File::from(fd);
    // The writer of a memfd shares its offset with us; a pipe has none.
    let _ = file.seek(SeekFrom::Start(0));
    let mut bytes = Vec::new();
    let read = file.take(TABLE_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("service table: {error}"))?;
    if bytes.len() > TABLE_MAX {
        return Err("service table: more than 1 MiB".into());
    }
    Table::parse(&bytes).map_err(|error| format!("service table: {error}"))
}

/// Ask for as many descriptors as hold may keep and needs; what that leaves for keeping.
fn descriptors_max(log: &mut Log) -> u32 {
    let wanted = u64::from(DESCRIPTORS_MAX + DESCRIPTORS_RESERVED);
    let had = rustix::process::getrlimit(Resource::Nofile);
    if had.current.is_some_and(|current| current < wanted) {
        let raised = |limit: u64| Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        let hard = had.maximum.unwrap_or(wanted).max(wanted);
        let result = rustix::process::setrlimit(Resource::Nofile, raised(hard));
        if let (Err(error), Some(hard)) = (result, had.maximum) {
            log.say(&format!("RLIMIT_NOFILE: {error}, going on with {hard}"));
            let _ = rustix::process::setrlimit(Resource::Nofile, raised(hard));
        }
    }
    let got = rustix::process::getrlimit(Resource::Nofile)
        .current
        .unwrap_or(wanted)
        .min(wanted) as u32;
    got - DESCRIPTORS_RESERVED.min(got / 2)
}

/// Now, in nanoseconds since the epoch.
fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Hold {
    /// The loop. True when nothing is left, false when processes remain that SIGKILL did not end.
    fn run(&mut self) -> bool {
        loop {
            let now = Instant::now();
            self.tick(now);
            if let Some(Shutdown::Done(clean)) = self.shutdown {
                return clean;
            }
            self.sweep_connections();
            let timeout = self
                .deadline()
                .map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut buffer = [MaybeUninit::uninit(); 64];
            let events = match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    // Cannot happen with a good descriptor; going round is all that can be done.
                    self.log.say(&format!("epoll_wait: {error}"));
                    continue;
                }
            };
            for event in events.iter() {
                match event.data.u64() {
                    SIGNALS => self.take_signals(),
                    LISTENER => self.accept(),
                    key if self.foreign.contains_key(&key) => self.foreign_ended(key, event.flags),
                    key if self.foreign_services.contains_key(&key) => {
                        self.foreign_service_ended(key)
                    }
                    key => self.take_requests(key, event.flags),
                }
            }
        }
    }

    /// When something is to be done without a new event.
    fn deadline(&self) -> Option<Instant> {
        let of_shutdown = self.shutdown.map(|_| Instant::now() + SWEEP_INTERVAL);
        let of_services = self.services.iter().filter_map(Service::deadline);
        of_services
            .chain(of_shutdown)
            .chain(self.accept_again)
            .chain(self.keeper_again)
            .min()
    }

    /// Do what is due.
    fn tick(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.listen(EventFlags::IN);
        }
        if self.keeper_again.is_some_and(|at| at <= now) {
            self.keeper_again = None;
            self.renew_keeper();
        }
        if self.shutdown.is_some() {
            self.advance_shutdown(now);
        }
        for at in 0..self.services.len() {
            if self.services[at]
                .deadline()
                .is_some_and(|deadline| deadline <= now)
            {
                self.tick_service(at, now);
            }
        }
    }

    fn tick_service(&mut self, at: usize, now: Instant) {
        let stop_timeout = Duration::from_millis(self.table.services[at].stop_timeout_ms.into());
        let name = &self.table.services[at].name;
        let service = &mut self.services[at];
        let fallback_is_over = service.fallback_until.is_some_and(|until| until <= now);
        let State::Running(running) = &mut service.state else {
            if let Err(error) = self.start(at) {
                let name = &self.table.services[at].name;
                self.log
                    .say(&format!("service {name} could not be started: {error}"));
                self.services[at].ended(&self.table.services[at], now);
            }
            return;
        };
        let (signal, ending) = match running.ending {
            Ending::Killed(_) => return,
            Ending::No if fallback_is_over => (SIGTERM, Ending::Terminated(now + stop_timeout)),
            Ending::No => {
                self.log
                    .say(&format!("service {name} did not get ready in time"));
                (SIGKILL, Ending::Killed(now))
            }
            Ending::Terminated(_) => (SIGKILL, Ending::Killed(now)),
        };
        running.ending = ending;
        let _ = linux::pidfd::send_signal(&running.pidfd, signal);
    }

    /// Start a service's process, or its fallback's.
    fn start(&mut self, at: usize) -> io::Result<()> {
        let now = Instant::now();
        let row = &self.table.services[at];
        let service = &mut self.services[at];
        let argv = service.arguments(row, now);
        service.generation += 1;
        let (pid, pidfd, channel) = service::start(
            &self.table,
            row,
            argv,
            service.generation,
            &self.own_program,
        )?;
        let slot = self.record.borrow_mut().add_service(
            &row.name,
            service.generation,
            pid,
            pidfd.as_raw_fd(),
        );
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => {
                // Reaped as a stranger.
                let _ = linux::pidfd::send_signal(&pidfd, SIGKILL);
                return Err(error);
            }
        };
        let is_fallback = service.fallback_until.is_some();
        let ready_by = match row.ready_timeout_ms {
            0 => None,
            _ if is_fallback => None,
            limit => Some(now + Duration::from_millis(limit.into())),
        };
        service.state = State::Running(Running {
            pid,
            pidfd: Rc::new(pidfd),
            slot,
            foreign: None,
            connection: self.next_key,
            ready_by,
            ready: false,
            ending: Ending::No,
        });
        self.log
            .say(&format!("service {} started, pid {pid}", row.name));
        self.connect(channel, Peer::Service(at));
        self.tell_service(at, if is_fallback { "fallback" } else { "started" }, pid);
        Ok(())
    }

    /// Take on a predecessor's service, over a channel of our own; one that does not answer is started anew.
    fn adopt(&mut self, at: usize, kept: &KeptService, pidfd: Shared) -> io::Result<()> {
        let row = &self.table.services[at];
        let named = |listener: &&table::Listener| listener.name == row.name;
        let channel = match self.table.listeners.iter().find(named) {
            Some(listener) => {
                takeover::hand_over(&self.table.run_dir.join(&listener.path), kept.pid)
            }
            None => Err(io::Error::other("it has no listener of its own")),
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(error) => {
                self.log.say(&format!(
                    "service {} of the last hold, pid {}: {error}; it is started anew",
                    row.name, kept.pid
                ));
                takeover::end(&pidfd)?;
                self.forget_process(at);
                return self.start(at);
            }
        };
        let ready_by = match row.ready_timeout_ms {
            0 => None,
            limit => Some(Instant::now() + Duration::from_millis(limit.into())),
        };
        let key = self.new_key();
        epoll::add(&self.epoll, &pidfd, EventData::new_u64(key), EventFlags::IN)?;
        self.foreign_services.insert(key, at);
        let connection = self.next_key;
        if let Some(running) = self.services[at].running_mut() {
            running.foreign = Some(key);
            running.connection = connection;
            running.ready_by = ready_by;
        }
        self.log.say(&format!(
            "service {} goes on, pid {}",
            self.table.services[at].name, kept.pid
        ));
        self.connect(channel, Peer::Service(at));
        Ok(())
    }

    /// The process of a service is no more: it goes from the record before its pidfd is closed.
    fn forget_process(&mut self, at: usize) -> Option<Running> {
        let service = &mut self.services[at];
        if !matches!(service.state, State::Running(_)) {
            return None;
        }
        let State::Running(running) = std::mem::replace(&mut service.state, State::Stopped) else {
            return None;
        };
        self.record.borrow_mut().remove(running.slot);
        if let Some(key) = running.foreign {
            let _ = epoll::delete(&self.epoll, &running.pidfd);
            self.foreign_services.remove(&key);
        }
        Some(running)
    }

    // -- the keeper

    fn start_keeper(&mut self) -> io::Result<()> {
        let record = self.record.borrow();
        let (Some(post), Some(record)) = (&self.post, record.fd()) else {
            return Ok(());
        };
        self.keeper = Some(keeper::start(Post {
            record,
            listener: post.listener.as_fd(),
            hold: post.own.as_fd(),
            path: &post.path,
        })?);
        Ok(())
    }

    /// The keeper has ended: another takes its place, at once unless it did not last.
    fn keeper_ended(&mut self, keeper: &Keeper, status: Status) {
        if self.shutdown.is_some() {
            return;
        }
        self.log
            .say(&format!("the keeper ended, pid {}: {status:?}", keeper.pid));
        if keeper.since.elapsed() < KEEPER_PAUSE {
            self.keeper_again = Some(Instant::now() + KEEPER_PAUSE);
        } else {
            self.renew_keeper();
        }
    }

    fn renew_keeper(&mut self) {
        if let Err(error) = self.start_keeper() {
            self.log
                .say(&format!("the keeper could not be started: {error}"));
            self.keeper_again = Some(Instant::now() + KEEPER_PAUSE);
        }
    }

    // -- signals and processes

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = linux::signal::next(&self.signals) {
            match signal {
                SIGTERM | SIGINT => self.begin_shutdown("a signal"),
                _ => {}
            }
        }
        self.reap();
    }

    /// Reap every child that has ended (HOLD-REAP); true while there are children.
    fn reap(&mut self) -> bool {
        loop {
            let ended = match linux::wait::peek_any() {
                Ok(Some(ended)) => ended,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let is_it = |service: &Service| {
                service
                    .running()
                    .is_some_and(|running| running.pid == ended.pid)
            };
            let service = self.services.iter().position(is_it);
            let keeper = self.keeper.take_if(|keeper| keeper.pid == ended.pid);
            // Before it is reaped: an end that nobody can ask for any more is in the record.
            let exit = match (service, &keeper) {
                (None, None) => self.children.ended(ended.pid, Some(ended.status), now_ns()),
                _ => None,
            };
            let reaped = linux::wait::reap(ended.pid);
            match (service, keeper) {
                (Some(at), _) => self.service_ended(at, Some(ended.status)),
                (None, Some(keeper)) => self.keeper_ended(&keeper, ended.status),
                (None, None) => self.tell_exit(exit),
            }
            if let Err(error) = reaped {
                // Cannot happen to a child that has just been seen; waitid would show it again and again.
                self.log.say(&format!("waitid of {}: {error}", ended.pid));
                return true;
            }
        }
    }

    fn service_ended(&mut self, at: usize, status: Option<Status>) {
        let Some(running) = self.forget_process(at) else {
            return;
        };
        let row = &self.table.services[at];
        self.log.say(&format!(
            "service {} ended, pid {}: {status:?}",
            row.name, running.pid
        ));
        if self.shutdown.is_none() {
            self.services[at].ended(row, Instant::now());
        }
        // What it said before it ended still counts: the child whose launcher was killed has its name.
        for _ in 0..DRAIN_MAX {
            if !self.take_request(running.connection) {
                break;
            }
        }
        self.disconnect(running.connection, None);
        self.tell_service(at, "ended", running.pid);
    }

    fn foreign_service_ended(&mut self, key: u64) {
        let Some(at) = self.foreign_services.get(&key).copied() else {
            return;
        };
        let status = self.services[at]
            .running()
            .and_then(|running| linux::pidfd::exit_status(&running.pidfd).ok().flatten());
        self.service_ended(at, status);
    }

    /// Learn from its pidfd how a process that is not our child ends.
    fn watch_pidfd(&mut self, pid: i32, pidfd: Shared) {
        let key = self.new_key();
        if let Err(error) = epoll::add(&self.epoll, &pidfd, EventData::new_u64(key), EventFlags::IN)
        {
            self.log
                .say(&format!("epoll_ctl of the pidfd of {pid}: {error}"));
        }
        self.foreign.insert(key, (pid, pidfd));
    }

    /// The process behind a foreign pidfd has ended; the kernel knows how once its parent has reaped it.
    fn foreign_ended(&mut self, key: u64, flags: EventFlags) {
        let Some((pid, pidfd)) = self.foreign.get(&key).cloned() else {
            return;
        };
        let status = linux::pidfd::exit_status(&pidfd);
        // Once its parent has ended, and hold as the subreaper has waited for it, its end is told already.
        let registered = self.children.is_registered(pid, &pidfd);
        if registered && matches!(status, Ok(None)) && !flags.contains(EventFlags::HUP) {
            let wait_for_reap = epoll::modify(
                &self.epoll,
                &pidfd,
                EventData::new_u64(key),
                EventFlags::empty(),
            );
            if wait_for_reap.is_ok() {
                return;
            }
        }
        let _ = epoll::delete(&self.epoll, &pidfd);
        self.foreign.remove(&key);
        if registered {
            let exit = self.children.ended(pid, status.ok().flatten(), now_ns());
            self.tell_exit(exit);
        }
    }

    // -- events

    fn tell_exit(&mut self, exit: Option<(Exit, Shared)>) {
        if let Some((exit, pidfd)) = exit {
            self.store
                .drop_exactly(&format!("pidfd/{}", exit.name), &pidfd);
            self.tell(wire::event("exit", &exit));
        }
    }

    fn tell_service(&mut self, at: usize, state: &str, pid: i32) {
        let event = ServiceEvent {
            name: self.table.services[at].name.clone(),
            state: state.into(),
            generation: self.services[at].generation,
            pid,
        };
        self.tell(wire::event("service", &event));
    }

    fn tell(&mut self, map: Vec<u8>) {
        for connection in self
            .connections
            .values_mut()
            .filter(|connection| connection.subscribed)
        {
            connection.send(Outgoing {
                map: map.clone(),
                fds: Vec::new(),
                id: None,
            });
        }
    }

    // -- connections

    fn accept(&mut self) {
        for _ in 0..TURN_MAX {
            match self.listener.accept() {
                Ok(Some(channel)) => self.welcome(channel),
                Ok(None) => self
                    .log
                    .say("no descriptor for a client, one was turned away"),
                Err(error) => {
                    match error.kind() {
                        io::ErrorKind::WouldBlock => {}
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                        _ => {
                            self.log.say(&format!("accept: {error}"));
                            self.listen(EventFlags::empty());
                            self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Root and hold's own user may come in (FRAME-8).
    fn welcome(&mut self, channel: Channel) {
        let uid = channel.peer_uid().unwrap_or(u32::MAX);
        let is_tool = |connection: &&Connection| connection.peer == Peer::Tool;
        let tools = self.connections.values().filter(is_tool).count();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            self.log
                .say(&format!("a client of user {uid} was turned away"));
        } else if tools >= TOOLS_MAX {
            self.log.say("too many clients, one was turned away");
            channel.refuse(&WireError::too_many_clients(TOOLS_MAX));
        } else {
            self.connect(channel, Peer::Tool);
        }
    }

    fn listen(&mut self, flags: EventFlags) {
        if let Err(error) = epoll::modify(
            &self.epoll,
            &self.listener,
            EventData::new_u64(LISTENER),
            flags,
        ) {
            self.log.say(&format!("epoll_ctl of the listener: {error}"));
        }
    }

    fn connect(&mut self, channel: Channel, peer: Peer) {
        let key = self.new_key();
        let add = |channel: &Channel| {
            epoll::add(
                &self.epoll,
                channel,
                EventData::new_u64(key),
                EventFlags::IN,
            )
        };
        let added = add(&channel).map_err(io::Error::from);
        match added.and_then(|()| Connection::new(channel, peer, EventFlags::IN)) {
            Ok(connection) => drop(self.connections.insert(key, connection)),
            Err(error) => self
                .log
                .say(&format!("a channel could not be watched: {error}")),
        }
    }

    fn disconnect(&mut self, key: u64, why: Option<&str>) {
        if let Some(connection) = self.connections.remove(&key) {
            let _ = epoll::delete(&self.epoll, &connection);
            if let Some(why) = why {
                let who = match connection.peer {
                    Peer::Service(at) => self.table.services[at].name.as_str(),
                    Peer::Tool => "a tool",
                };
                self.log
                    .say(&format!("the channel of {who} was closed: {why}"));
            }
        }
    }

    /// Close what has to be closed, and tell epoll who has something to take.
    fn sweep_connections(&mut self) {
        let doomed =
            |(key, connection): (&u64, &Connection)| Some((*key, connection.doomed.clone()?));
        for (key, why) in self
            .connections
            .iter()
            .filter_map(doomed)
            .collect::<Vec<_>>()
        {
            self.disconnect(key, Some(&why));
        }
        for (key, connection) in &mut self.connections {
            if let Some(flags) = connection.new_interest() {
                let modified = epoll::modify(
                    &self.epoll,
                    connection.as_fd(),
                    EventData::new_u64(*key),
                    flags,
                );
                if let Err(error) = modified {
                    connection.doomed = Some(format!("epoll_ctl: {error}"));
                }
            }
        }
    }

    fn take_requests(&mut self, key: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            connection.forget_queue();
        }
        connection.flush();
        for _ in 0..TURN_MAX {
            if !self.take_request(key) {
                return;
            }
        }
    }

    /// Take and answer one request; false when there is none, or no more of them may be taken now.
    fn take_request(&mut self, key: u64) -> bool {
        let Some(connection) = self
            .connections
            .get(&key)
            .filter(|connection| connection.doomed.is_none())
        else {
            return false;
        };
        let received = match connection.recv() {
            Ok(Some(received)) => received,
            Ok(None) => {
                self.disconnect(key, None);
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.disconnect(key, Some(&error.to_string()));
                return false;
            }
        };
        let answer = match wire::head(&received.map) {
            Ok(head) => self.answer(key, &head, received),
            Err(_) => None,
        };
        let Some(answer) = answer else {
            self.disconnect(key, Some("it sent a frame that is no request"));
            return false;
        };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.send(answer);
        }
        true
    }

    fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key - 1
    }

    // -- the end

    fn begin_shutdown(&mut self, why: &str) {
        if self.shutdown.is_none() {
            self.log.say(&format!("shutting down: {why}"));
            self.shutdown = Some(Shutdown::Services(self.services.len()));
            for service in &mut self.services {
                if matches!(service.state, State::Waiting(_)) {
                    service.state = State::Stopped;
                }
            }
        }
    }

    /// Services in reverse order, each with grace; then children; then everything that is left.
    fn advance_shutdown(&mut self, now: Instant) {
        while let Some(Shutdown::Services(left)) = self.shutdown {
            let Some(at) = left.checked_sub(1) else {
                self.kill_children();
                self.store.clear();
                self.shutdown = Some(Shutdown::Remains(now + REMAINS_TIMEOUT));
                break;
            };
            if !self.end_service(at, now) {
                return;
            }
            self.shutdown = Some(Shutdown::Services(at));
        }
        if let Some(Shutdown::Remains(until)) = self.shutdown {
            self.kill_children();
            let ours = self.reap();
            let clean = !ours && self.children.len() == 0;
            if clean || until <= now {
                self.shutdown = Some(Shutdown::Done(clean));
            }
        }
    }

    /// Go on ending a service; true when it has ended, or cannot be ended.
    fn end_service(&mut self, at: usize, now: Instant) -> bool {
        let row = &self.table.services[at];
        match &mut self.services[at].state {
            State::Stopped | State::Waiting(_) => true,
            State::Running(running) => match running.ending {
                Ending::No => {
                    running.ending =
                        Ending::Terminated(now + Duration::from_millis(row.stop_timeout_ms.into()));
                    let _ = linux::pidfd::send_signal(&running.pidfd, SIGTERM);
                    false
                }
                Ending::Terminated(_) => false,
                Ending::Killed(since) => now.saturating_duration_since(since) > REMAINS_TIMEOUT,
            },
        }
    }

    /// SIGKILL to every registered child and to every child at all (orphans of containers and services).
    fn kill_children(&mut self) {
        for known in self.children.iter() {
            let _ = linux::pidfd::send_signal(&known.pidfd, SIGKILL);
        }
        for pid in linux::process::children() {
            // Our own child that we have not reaped: the number is its own.
            if let Ok(pidfd) = linux::process::open(pid) {
                let _ = linux::pidfd::send_signal(pidfd, SIGKILL);
            }
        }
    }
}
