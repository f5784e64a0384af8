//! The loop: requests in, helpers and launches at work, answers out. Nothing here blocks but hold's own answers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use linux::clone::PARENT;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde::de::DeserializeOwned;
use serde::Serialize;
use wire::scarce::{self, is_exhausted, REST};
use wire::{Channel, Door, HoldClient, Received, WireError};

use super::failure::{bad_value, from_hold, Outcome, Step};
use super::fault;
use super::helper::{self, Done, Helper};
use super::image::{self, Layers};
use super::launch::{self, Cloned, Descriptors, NAMESPACES};
use super::netns;
use super::payload::{Ready, Report};
use super::place::Place;
use super::probe::{self, Probe};
use super::remove;
use super::request::{
    check_image, check_name, check_path, Exec, ImageName, Launch, Launched, MountImage, Mounted,
    Named, Program, Provider, Remove, Rlimit,
};
use super::rootfs::Image;

/// Connections at a time: the supervisor, its successor, and tools.
const CONNECTIONS_MAX: usize = 64;
/// Helpers and launches at work; each has descriptors here and a process. More requests wait their turn.
const JOBS_MAX: usize = 256;
/// Descriptors of one at work: of an exec its word, two streams, its report, its helper's channel and pidfd.
const DESCRIPTORS_PER_JOB: u64 = 6;
/// Descriptors for everything else: the service's own, and what one launch needs while it is made.
const DESCRIPTORS_OWN: u64 = 40;
/// Requests that wait, before a connection is not read any more.
const WAITING_MAX: usize = 4_096;
/// How long what is at work may still take when hold has gone (HOLD-EOF).
const LAST_WORK_MAX: Duration = Duration::from_secs(5);

/// Prefix of the names under which hold has the word for processes that have a name and do not run yet (SPAWN-GO).
const GO: &str = "go/";

/// Who asked, and under which number.
#[derive(Debug, Clone, Copy)]
struct Asker {
    connection: u64,
    id: u64,
}

/// A request that has been read.
#[derive(Debug)]
pub(crate) enum Request {
    Probe,
    FuseOpen(String),
    MountImage(MountImage),
    ForgetImage(String),
    NetNs(String),
    Launch(Box<(Launch, Program)>),
    Exec(Box<(Exec, Program)>),
    Remove(String),
}

impl Request {
    pub(crate) fn parse(op: &str, map: &[u8]) -> Outcome<Request> {
        fn body<T: DeserializeOwned>(map: &[u8]) -> Outcome<T> {
            wire::body(map).map_err(|error| WireError::bad_body(&error))
        }
        Ok(match op {
            "probe" => {
                body::<wire::Empty>(map)?;
                Request::Probe
            }
            "fuse_open" | "forget_image" => {
                let ImageName { image } = body(map)?;
                check_image(&image)?;
                match op {
                    "fuse_open" => Request::FuseOpen(image),
                    _ => Request::ForgetImage(image),
                }
            }
            "mount_image" => {
                let ask: MountImage = body(map)?;
                ask.check()?;
                Request::MountImage(ask)
            }
            "netns" => {
                let Named { name } = body(map)?;
                check_name(&name)?;
                Request::NetNs(name)
            }
            "launch" => {
                let ask: Launch = body(map)?;
                let program = ask.check()?;
                Request::Launch(Box::new((ask, program)))
            }
            "exec" => {
                let ask: Exec = body(map)?;
                let program = ask.check()?;
                Request::Exec(Box::new((ask, program)))
            }
            "remove" => {
                let Remove { path } = body(map)?;
                check_path(&path)?;
                Request::Remove(path)
            }
            other => return Err(WireError::unknown_op(other)),
        })
    }

    /// What only one request at a time may work on.
    fn subject(&self) -> Option<String> {
        match self {
            Request::Probe => Some("probe".into()),
            Request::FuseOpen(image) | Request::ForgetImage(image) => {
                Some(format!("image/{image}"))
            }
            Request::MountImage(ask) => Some(format!("image/{}", ask.image)),
            Request::NetNs(name) => Some(format!("netns/{name}")),
            Request::Launch(_) | Request::Exec(_) => None,
            Request::Remove(path) => Some(format!("path/{path}")),
        }
    }
}

/// What follows when a process at work has answered.
#[derive(Debug)]
enum Then {
    /// Pass the reply on as it is.
    Answer,
    Probed,
    FuseOpened(String),
    Mounted {
        image: String,
        provider: Provider,
    },
    NetNsMade(String),
    /// The clone for an exec: register it and let it run.
    Cloned(Box<Waiting>),
    /// The process says `ready`, then its channel ends at execve.
    Running {
        pid: i32,
        generation: u64,
        name: String,
        ready: Option<Ready>,
    },
}

/// A cloned process that has no name in hold yet.
#[derive(Debug)]
struct Waiting {
    name: String,
    generation: u64,
    go: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    report: Channel,
}

#[derive(Debug)]
struct Job {
    asker: Asker,
    subject: Option<String>,
    channel: Channel,
    pidfd: OwnedFd,
    then: Then,
}

/// The role at work.
#[derive(Debug)]
pub struct Server {
    hold: HoldClient,
    listener: Door,
    /// Until then nobody is let in, because there is no descriptor even for a refusal.
    resting: Option<Instant>,
    place: Place,
    layers: Layers,
    file_backed: Option<bool>,
    without: Vec<String>,
    faults: fault::Orders,
    connections: BTreeMap<u64, Channel>,
    jobs: BTreeMap<u64, Job>,
    waiting: VecDeque<(Asker, Request)>,
    /// Those of them that were looked at in this turn and have to go on waiting.
    held_up: VecDeque<(Asker, Request)>,
    /// What was mounted by which provider. The mounts themselves are hold's alone: who attaches one elsewhere attaches
    /// that very mount (the kernel does not copy each), which a descriptor of ours would keep busy for ever.
    providers: HashMap<String, Provider>,
    /// Images that lie in our own namespace, with `Layers::Attached`.
    attached: HashSet<String>,
    last_number: u64,
}

/// What poll(2) woke for.
#[derive(Debug, Clone, Copy)]
enum Wake {
    Hold,
    Listener,
    Connection(u64),
    Job(u64),
}

impl Server {
    /// A server that has not begun.
    pub fn new(
        hold: HoldClient,
        listener: Door,
        place: Place,
        layers: Layers,
        without: Vec<String>,
        faults: fault::Orders,
    ) -> Server {
        Server {
            hold,
            listener,
            resting: None,
            place,
            layers,
            file_backed: None,
            without,
            faults,
            connections: BTreeMap::new(),
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            held_up: VecDeque::new(),
            providers: HashMap::new(),
            attached: HashSet::new(),
            last_number: 0,
        }
    }

    /// Lets run what a predecessor had registered and not let run any more (SPAWN-GO).
    pub fn let_run_all(hold: &mut HoldClient) -> Outcome<()> {
        let words = hold.list(GO).map_err(|error| from_hold("list", error))?;
        for fd in hold.get(&words).map_err(get_failed)? {
            // One that has ended meanwhile, or had the word already, does not take it.
            let _ = rustix::io::write(&fd, &[1]);
        }
        hold.drop_names(&words)
            .map_err(|error| from_hold("drop", error))?;
        Ok(())
    }

    /// Serves until hold has gone.
    pub fn run(&mut self) -> Outcome<()> {
        // Nobody can be waited for: a peer that connects and goes away at once would leave accept(2) blocked.
        rustix::io::ioctl_fionbio(&self.listener, true).step("listener")?;
        let mut end: Option<Instant> = None;
        loop {
            if self.resting.is_some_and(|until| until <= Instant::now()) {
                self.resting = None;
            }
            let rest = self
                .resting
                .map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = match end {
                None => rest,
                Some(_) if self.jobs.is_empty() => return Ok(()),
                Some(end) => match end.checked_duration_since(Instant::now()) {
                    None => return Ok(()),
                    Some(left) => Some(left),
                },
            };
            for wake in self.wait(timeout, end.is_some())? {
                match wake {
                    Wake::Hold => end = Some(Instant::now() + LAST_WORK_MAX),
                    Wake::Listener => self.accept(),
                    Wake::Connection(number) => self.read(number),
                    Wake::Job(number) => self.progress(number),
                }
            }
            self.start_waiting();
        }
    }

    fn wait(&self, timeout: Option<Duration>, ending: bool) -> Outcome<Vec<Wake>> {
        let mut sources: Vec<(BorrowedFd<'_>, Wake)> = Vec::new();
        if !ending {
            sources.push((self.hold.as_fd(), Wake::Hold));
            if self.resting.is_none() {
                sources.push((self.listener.as_fd(), Wake::Listener));
            }
            if self.waiting.len() < WAITING_MAX {
                let connections = self.connections.iter();
                sources.extend(
                    connections
                        .map(|(number, channel)| (channel.as_fd(), Wake::Connection(*number))),
                );
            }
        }
        sources.extend(
            self.jobs
                .iter()
                .map(|(number, job)| (job.channel.as_fd(), Wake::Job(*number))),
        );
        let mut fds: Vec<_> = sources
            .iter()
            .map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).step("poll"),
        }
        let woken = fds
            .iter()
            .zip(&sources)
            .filter(|(fd, _)| !fd.revents().is_empty());
        Ok(woken.map(|(_, (_, wake))| *wake).collect())
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn accept(&mut self) {
        let channel = match self.listener.accept() {
            Ok(Some(channel)) => channel,
            Err(error) if is_exhausted(&error) => {
                self.resting = Some(Instant::now() + REST);
                return;
            }
            Ok(None) | Err(_) => return,
        };
        // FRAME-8
        if channel.peer_uid().ok() != Some(0) {
            return;
        }
        if self.connections.len() >= CONNECTIONS_MAX {
            return channel.refuse(&WireError::too_many_clients(CONNECTIONS_MAX));
        }
        if channel.set_nonblocking(true).is_ok() {
            let number = self.number();
            self.connections.insert(number, channel);
        }
    }

    fn read(&mut self, number: u64) {
        let Some(channel) = self.connections.get(&number) else {
            return;
        };
        // SPAWN-GONE: what a peer that has gone had sent is not even read.
        if hung_up(channel) {
            self.disconnect(number);
            return;
        }
        let received = match channel.recv() {
            Ok(Some(received)) => received,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Ok(None) | Err(_) => {
                self.disconnect(number);
                return;
            }
        };
        let head = wire::head(&received.map);
        let Some((id, op)) = head.as_ref().ok().and_then(wire::Head::request) else {
            // FRAME-6
            self.disconnect(number);
            return;
        };
        let asker = Asker {
            connection: number,
            id,
        };
        match Request::parse(op, &received.map) {
            Ok(Request::ForgetImage(image)) => {
                // What hangs on a server that does not come back would hold this up for ever.
                self.kill_jobs(&format!("image/{image}"));
                self.waiting.push_back((asker, Request::ForgetImage(image)));
            }
            Ok(request) => self.waiting.push_back((asker, request)),
            Err(error) => self.fail(asker, &error),
        }
    }

    /// Forgets a connection, and what was asked over it and has not begun (SPAWN-GONE).
    fn disconnect(&mut self, number: u64) {
        self.connections.remove(&number);
        self.waiting.retain(|(asker, _)| asker.connection != number);
    }

    fn kill_jobs(&self, subject: &str) {
        for job in self
            .jobs
            .values()
            .filter(|job| job.subject.as_deref() == Some(subject))
        {
            let _ = linux::pidfd::send_signal(&job.pidfd, linux::signal::SIGKILL);
        }
    }

    fn send(&mut self, asker: Asker, map: &[u8], fds: &[BorrowedFd<'_>]) {
        let Some(channel) = self.connections.get(&asker.connection) else {
            return;
        };
        // A peer that lets its socket fill up is not waited for.
        if channel.send(map, fds).is_err() {
            self.disconnect(asker.connection);
        }
    }

    fn answer<T: Serialize>(&mut self, asker: Asker, body: &T, fds: &[BorrowedFd<'_>]) {
        self.send(asker, &wire::reply(asker.id, body), fds);
    }

    fn fail(&mut self, asker: Asker, error: &WireError) {
        self.send(asker, &wire::error(asker.id, error), &[]);
    }

    /// As many as there are descriptors for, and one at least: that one may then fail, and say why.
    fn jobs_max(&self) -> usize {
        let room = scarce::limit()
            .saturating_sub(DESCRIPTORS_OWN + self.connections.len() as u64)
            .div_euclid(DESCRIPTORS_PER_JOB);
        JOBS_MAX.min(room as usize).max(1)
    }

    /// Starts every request whose subject is free, in the order in which they came.
    fn start_waiting(&mut self) {
        let jobs_max = self.jobs_max();
        let mut busy_subjects: Vec<String> = Vec::new();
        while let Some((asker, request)) = self.waiting.pop_front() {
            let subject = request.subject();
            let busy = self.jobs.len() >= jobs_max
                || subject.as_ref().is_some_and(|subject| {
                    busy_subjects.contains(subject)
                        || self
                            .jobs
                            .values()
                            .any(|job| job.subject.as_ref() == Some(subject))
                });
            if busy {
                busy_subjects.extend(subject);
                self.held_up.push_back((asker, request));
            } else if let Err(error) = self.start(asker, subject, request) {
                self.fail(asker, &error);
            }
        }
        self.waiting = std::mem::take(&mut self.held_up);
    }

    fn start(&mut self, asker: Asker, subject: Option<String>, request: Request) -> Outcome<()> {
        self.faults.arm();
        match request {
            Request::Probe => {
                let (place, without, layers) = (&self.place, &self.without, &self.layers);
                let work = || {
                    Ok(Done::new(
                        &probe::probe(place, without, layers)?,
                        Vec::new(),
                    ))
                };
                let helper = helper::start(&[place.state.as_fd()], work)?;
                self.work(asker, subject, helper, Then::Probed)
            }
            Request::FuseOpen(image) => {
                if self
                    .hold
                    .get_one(&format!("slots/{image}"))
                    .map_err(get_failed)?
                    .is_some()
                {
                    self.answer(asker, &wire::Empty {}, &[]);
                    return Ok(());
                }
                let helper =
                    helper::start(&[], || Ok(Done::new(&wire::Empty {}, image::fuse_open()?)))?;
                self.work(asker, subject, helper, Then::FuseOpened(image))
            }
            Request::MountImage(ask) => self.mount_image(asker, subject, &ask),
            Request::ForgetImage(image) => {
                self.forget(&image)?;
                let work = || image::detach_image(&image).map(|()| Done::empty());
                let helper = helper::start(&[], work)?;
                self.work(asker, subject, helper, Then::Answer)
            }
            Request::NetNs(name) => {
                let names = [format!("netns/{name}"), format!("rtnl/{name}")];
                match self.hold.get(&names) {
                    Ok(fds) => {
                        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                        self.answer(asker, &wire::Empty {}, &fds);
                        return Ok(());
                    }
                    Err(error) if error.remote_code() == Some("hold.missing") => {}
                    Err(error) => return Err(get_failed(error)),
                }
                let helper = helper::start(&[], || Ok(Done::new(&wire::Empty {}, netns::make()?)))?;
                self.work(asker, subject, helper, Then::NetNsMade(name))
            }
            Request::Launch(ask) => self.launch(asker, &ask.0, &ask.1),
            Request::Exec(mut ask) => {
                let (ask, program) = &mut *ask;
                self.exec(asker, ask, program)
            }
            Request::Remove(path) => {
                let place = &self.place;
                let work = || remove::remove(place, &path).map(|()| Done::empty());
                let helper = helper::start(&[place.state.as_fd()], work)?;
                self.work(asker, subject, helper, Then::Answer)
            }
        }
    }

    fn work(
        &mut self,
        asker: Asker,
        subject: Option<String>,
        helper: Helper,
        then: Then,
    ) -> Outcome<()> {
        let number = self.number();
        let Helper { channel, pidfd } = helper;
        self.jobs.insert(
            number,
            Job {
                asker,
                subject,
                channel,
                pidfd,
                then,
            },
        );
        Ok(())
    }

    fn mount_image(
        &mut self,
        asker: Asker,
        subject: Option<String>,
        ask: &MountImage,
    ) -> Outcome<()> {
        let detached = self.layers == Layers::Detached;
        if self.providers.get(&ask.image) == Some(&ask.provider) {
            if let Some(mount) = self.mounted(&ask.image)? {
                let provider = ask.provider;
                self.answer(asker, &Mounted { provider, detached }, &[mount.as_fd()]);
                return Ok(());
            }
        }
        let fuse = match ask.provider {
            Provider::File | Provider::Loop => {
                let name = format!("fusemnt/{}", ask.image);
                self.hold.get_one(&name).map_err(get_failed)?
            }
            Provider::Full | Provider::Extract => None,
        };
        let (place, layers, known, without) =
            (&self.place, &self.layers, self.file_backed, &self.without);
        let work = || {
            let file_backed = match (ask.provider, known) {
                (Provider::Full, None) => probe::probe(place, without, layers)?.erofs_file_backed,
                (_, known) => known.unwrap_or(true),
            };
            let mount = image::mount(
                place,
                ask,
                fuse.as_ref().map(AsFd::as_fd),
                layers,
                file_backed,
            )?;
            Ok(Done::new(
                &Mounted {
                    provider: ask.provider,
                    detached,
                },
                vec![mount],
            ))
        };
        let mut keep = vec![place.state.as_fd()];
        keep.extend(fuse.as_ref().map(AsFd::as_fd));
        let helper = helper::start(&keep, work)?;
        let then = Then::Mounted {
            image: ask.image.clone(),
            provider: ask.provider,
        };
        self.work(asker, subject, helper, then)
    }

    /// Lets go of all that is kept of an image.
    fn forget(&mut self, image: &str) -> Outcome<()> {
        self.providers.remove(image);
        self.attached.remove(image);
        let names = ["mnt", "fusemnt", "fuse", "slots"].map(|kind| format!("{kind}/{image}"));
        self.hold
            .drop_names(&names)
            .map_err(|error| from_hold("drop", error))?;
        Ok(())
    }

    /// An image's mount as hold keeps it; one that lies in our namespace is copied into hold again.
    fn mounted(&mut self, image: &str) -> Outcome<Option<OwnedFd>> {
        let name = format!("mnt/{image}");
        if !self.attached.contains(image) {
            return self.hold.get_one(&name).map_err(get_failed);
        }
        let copy = image::copy_image(image)?;
        let put = self.hold.put(&name, &copy, true);
        put.map_err(|error| from_hold("put", error))?;
        Ok(Some(copy))
    }

    /// The image's mount for a launch, from hold; None where it lies in our namespace, if need be from now on.
    fn layer(&mut self, image: &str) -> Outcome<Option<OwnedFd>> {
        if self.attached.contains(image) {
            return Ok(None);
        }
        let name = format!("mnt/{image}");
        let kept = self.hold.get_one(&name).map_err(get_failed)?;
        let kept = kept.ok_or_else(|| {
            WireError::new(
                "spawn.image-not-mounted",
                format!("image {image} is not mounted: ask mount_image first"),
            )
        })?;
        if self.layers == Layers::Detached {
            return Ok(Some(kept));
        }
        // The predecessor's namespace has gone with it; the detached copy is moved into ours, and hold gets a new one.
        // This is no work that waits for anybody.
        let copy = image::attach_image(image, kept).map_err(|error| {
            // The predecessor died while it did this, and took the mount with it.
            WireError::new("spawn.image-not-mounted", error.message)
                .with_hint("ask mount_image again")
        })?;
        self.hold
            .put(&name, &copy, true)
            .map_err(|error| from_hold("put", error))?;
        self.attached.insert(image.to_owned());
        Ok(None)
    }

    fn launch(&mut self, asker: Asker, ask: &Launch, program: &Program) -> Outcome<()> {
        let layer = self.layer(&ask.image)?;
        let cgroup = self.place.cgroup(&ask.cgroup)?;
        let netns = match &ask.netns {
            Some(name) => Some(
                self.hold
                    .get_one(&format!("netns/{name}"))
                    .map_err(get_failed)?
                    .ok_or_else(|| {
                        let mut error = WireError::new(
                            "spawn.step",
                            format!("there is no network namespace {name}"),
                        );
                        error.step = Some("get-netns".into());
                        error.with_hint("ask netns first")
                    })?,
            ),
            None => None,
        };
        let image = match &layer {
            Some(mount) => Image::Detached(mount.as_fd()),
            None => Image::Attached(image::attached_path(&ask.image)),
        };
        let (go_read, go) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("pipe")?;
        let (stdout, stdout_write) = launch::stream()?;
        let (stderr, stderr_write) = launch::stream()?;
        let (report, theirs) = Channel::pair().step("socketpair")?;
        linux::sigwait::block_all().step("signals")?;
        let (waiting, held_up) = (&mut self.waiting, &mut self.held_up);
        let forked = launch::fork(NAMESPACES | PARENT, Some(cgroup.as_fd()), "clone3", || {
            forget(waiting, held_up);
            let report = Report::new(theirs);
            let fds = Descriptors {
                go: go_read.as_fd(),
                stdout: stdout_write.as_fd(),
                stderr: stderr_write.as_fd(),
            };
            let netns = netns.as_ref().map(AsFd::as_fd);
            if let Err(error) = launch::container(ask, program, &image, netns, &fds, &report) {
                report.fail(&error);
            }
        });
        linux::sigwait::unblock_all().step("signals")?;
        let (pid, pidfd) = forked?;
        let (name, generation) = (ask.name.clone(), ask.generation);
        self.let_run(
            asker,
            pid,
            pidfd,
            Waiting {
                name,
                generation,
                go,
                stdout,
                stderr,
                report,
            },
        )
    }

    /// Gives a cloned process its name in hold, and only then the word to go on.
    fn let_run(&mut self, asker: Asker, pid: i32, pidfd: OwnedFd, new: Waiting) -> Outcome<()> {
        let asked = self.connections.get(&asker.connection);
        if asked.is_none_or(hung_up) {
            // SPAWN-GONE: it waits for a byte that never comes; hold reaps it as nobody's.
            let _ = linux::pidfd::send_signal(&pidfd, linux::signal::SIGKILL);
            return Ok(());
        }
        let streams = [
            format!("log/{}/stdout", new.name),
            format!("log/{}/stderr", new.name),
        ];
        let word = format!("{GO}{}", new.name);
        let keep = [
            (streams[0].as_str(), new.stdout.as_fd()),
            (streams[1].as_str(), new.stderr.as_fd()),
            (word.as_str(), new.go.as_fd()),
        ];
        if let Err(error) = self
            .hold
            .register(&new.name, new.generation, pid, &pidfd, &keep)
        {
            // It waits for a byte that never comes; hold reaps it as nobody's.
            let _ = linux::pidfd::send_signal(&pidfd, linux::signal::SIGKILL);
            return Err(from_hold("register", error));
        }
        if let Err(error) = rustix::io::write(&new.go, &[1]).step("go") {
            // Whoever asked is told that nothing runs.
            let _ = linux::pidfd::send_signal(&pidfd, linux::signal::SIGKILL);
            let _ = self.hold.drop_names(&[word]);
            self.forget_process(&new.name);
            return Err(error);
        }
        self.hold
            .drop_names(&[word])
            .map_err(|error| from_hold("drop", error))?;
        let then = Then::Running {
            pid,
            generation: new.generation,
            name: new.name,
            ready: None,
        };
        self.work(
            asker,
            None,
            Helper {
                channel: new.report,
                pidfd,
            },
            then,
        )
    }

    fn exec(&mut self, asker: Asker, ask: &Exec, program: &mut Program) -> Outcome<()> {
        let target = self
            .hold
            .get_one(&format!("pidfd/{}", ask.target))
            .map_err(get_failed)?
            .ok_or_else(|| {
                WireError::new(
                    "spawn.no-such-target",
                    format!("there is no process {}", ask.target),
                )
            })?;
        if program.rlimits.is_empty() {
            program.rlimits = limits_of(target.as_fd());
        }
        let cgroup = self.place.cgroup(&ask.cgroup)?;
        let (go_read, go) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("pipe")?;
        let (stdout, stdout_write) = launch::stream()?;
        let (stderr, stderr_write) = launch::stream()?;
        let (report, theirs) = Channel::pair().step("socketpair")?;
        let theirs = Report::new(theirs);
        let fds = Descriptors {
            go: go_read.as_fd(),
            stdout: stdout_write.as_fd(),
            stderr: stderr_write.as_fd(),
        };
        let keep = [fds.go, fds.stdout, fds.stderr, theirs.fd(), target.as_fd()];
        linux::sigwait::block_all().step("signals")?;
        let (waiting, held_up) = (&mut self.waiting, &mut self.held_up);
        let helper = helper::start_sibling(cgroup.as_fd(), &keep, |own| {
            forget(waiting, held_up);
            launch::enter(program, target.as_fd(), &fds, own, &theirs)
        });
        linux::sigwait::unblock_all().step("signals")?;
        let (name, generation) = (ask.name.clone(), ask.generation);
        let waiting = Waiting {
            name,
            generation,
            go,
            stdout,
            stderr,
            report,
        };
        self.work(asker, None, helper?, Then::Cloned(Box::new(waiting)))
    }

    /// A process at work has said something, or has ended.
    fn progress(&mut self, number: u64) {
        let Some(mut job) = self.jobs.remove(&number) else {
            return;
        };
        let received = job.channel.recv().unwrap_or(None);
        if let Then::Running { ready, .. } = &mut job.then {
            if let Some(event) = received.as_ref().and_then(ready_event) {
                *ready = Some(event);
                self.jobs.insert(number, job);
                return;
            }
        }
        let asker = job.asker;
        if let Err(error) = self.finish(job, received) {
            self.fail(asker, &error);
        }
    }

    fn finish(&mut self, job: Job, received: Option<Received>) -> Outcome<()> {
        let Job {
            asker, then, pidfd, ..
        } = job;
        if let Then::Running {
            pid,
            generation,
            name,
            ready,
        } = then
        {
            return match (received.as_ref().map(answer_of), ready) {
                (None, Some(ready)) => {
                    let launched = Launched {
                        pid,
                        generation,
                        unenforced: ready.unenforced,
                    };
                    self.answer(asker, &launched, &[pidfd.as_fd()]);
                    Ok(())
                }
                (Some(Err(error)), _) => {
                    self.forget_process(&name);
                    Err(error)
                }
                _ => {
                    self.forget_process(&name);
                    Err(ended())
                }
            };
        }
        let received = received.ok_or_else(ended)?;
        answer_of(&received)?;
        if received.is_short {
            return Err(WireError::no_descriptors("take what a helper made"));
        }
        let map = &received.map;
        let fds: Vec<_> = received.fds.iter().map(AsFd::as_fd).collect();
        match (then, fds.as_slice()) {
            (Then::Answer, []) => self.answer(asker, &wire::Empty {}, &[]),
            (Then::Probed, []) => {
                let probe: Probe = decode(map)?;
                self.file_backed = Some(probe.erofs_file_backed);
                self.answer(asker, &probe, &[]);
            }
            (Then::FuseOpened(image), [device, mount, slots]) => {
                // The slots last: who finds them finds all three.
                for (kind, fd) in [("fuse", device), ("fusemnt", mount), ("slots", slots)] {
                    let put = self.hold.put(&format!("{kind}/{image}"), fd, true);
                    put.map_err(|error| from_hold("put", error))?;
                }
                self.answer(asker, &wire::Empty {}, &[]);
            }
            (Then::Mounted { image, provider }, [mount]) => {
                let put = self.hold.put(&format!("mnt/{image}"), mount, true);
                put.map_err(|error| from_hold("put", error))?;
                if self.layers != Layers::Detached {
                    self.attached.insert(image.clone());
                }
                self.providers.insert(image, provider);
                self.answer(asker, &decode::<Mounted>(map)?, &[*mount]);
            }
            (Then::NetNsMade(name), [namespace, socket]) => {
                for (kind, fd) in [("netns", namespace), ("rtnl", socket)] {
                    let put = self.hold.put(&format!("{kind}/{name}"), fd, true);
                    put.map_err(|error| from_hold("put", error))?;
                }
                self.answer(asker, &wire::Empty {}, &fds);
            }
            (Then::Cloned(waiting), [pidfd]) => {
                let Cloned { pid } = decode(map)?;
                let pidfd = pidfd.try_clone_to_owned().step("dup")?;
                self.let_run(asker, pid, pidfd, *waiting)?;
            }
            _ => {
                return Err(bad_value(
                    "a helper answered with other descriptors than it should",
                ))
            }
        }
        Ok(())
    }

    /// Nothing but the record of its exit remains of a process that never became a program.
    fn forget_process(&mut self, name: &str) {
        let names = [format!("log/{name}/stdout"), format!("log/{name}/stderr")];
        let _ = self.hold.drop_names(&names);
    }
}

/// In a process that enters a container: nothing of what others asked for goes with it. Requests that have been carried
/// out were freed, and so zeroed, already (SPAWN-FORGETS).
fn forget(waiting: &mut VecDeque<(Asker, Request)>, held_up: &mut VecDeque<(Asker, Request)>) {
    drop((std::mem::take(waiting), std::mem::take(held_up)));
}

/// Whether the peer has closed its end, whatever it had sent before.
fn hung_up(channel: &Channel) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(channel, PollFlags::empty())];
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// The limits of a process, as far as they may be known.
fn limits_of(process: BorrowedFd<'_>) -> Vec<Rlimit> {
    let Some(pid) = linux::pidfd::pid(process).filter(|pid| *pid > 0) else {
        return Vec::new();
    };
    let limit = |resource| {
        let (soft, hard) = linux::privilege::limits(pid, resource).ok()?;
        Some(Rlimit {
            resource,
            soft,
            hard,
        })
    };
    (0..linux::privilege::RESOURCES).filter_map(limit).collect()
}

fn get_failed(error: wire::Error) -> WireError {
    from_hold("get", error)
}

fn ended() -> WireError {
    WireError::new(
        "spawn.step",
        "the process ended before it could say what it was doing: it was killed",
    )
}

fn decode<T: DeserializeOwned>(map: &[u8]) -> Outcome<T> {
    wire::body(map).map_err(|error| WireError::bad_body(&error))
}

/// The error that a helper answered with, if it did.
fn answer_of(received: &Received) -> Outcome<()> {
    let head = wire::head(&received.map).map_err(|error| WireError::bad_body(&error))?;
    head.error.map_or(Ok(()), Err)
}

fn ready_event(received: &Received) -> Option<Ready> {
    let head = wire::head(&received.map).ok()?;
    (head.event.as_deref() == Some("ready"))
        .then(|| wire::body(&received.map).ok())
        .flatten()
}
