//! The loop of forward: listeners, connections, requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{sockopt, AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use wire::{Empty, HoldClient, WireError};

use super::relay::{End, Flow, Pool, Progress};
use super::rule::{check_name, Addresses, Rule};
use crate::server::{body, ClientId, Request, Server};
use crate::service::{self, Failure};

/// Connections at once; more wait in the listeners' backlogs.
const CONNECTIONS_MAX: usize = 4096;
/// Descriptors of one connection: two sockets, and a pipe for each direction that is stuck.
const DESCRIPTORS_PER_CONNECTION: u64 = 6;
/// Descriptors for everything else: rules, clients, spare pipes; at most half of all.
const DESCRIPTORS_RESERVED: u64 = 4096 + 512;
/// Published ports.
const RULES_MAX: usize = 4096;
/// How many connections wait in the kernel (cut to net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// Connections taken from one listener before the others have their turn.
const ACCEPTS_PER_WAKE: usize = 64;
/// A container that has not answered by then will not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting rests when the machine has no room for another descriptor.
const REST: Duration = Duration::from_millis(100);
/// Both sides are asked whether they are there after a minute of silence, and given up a minute later.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;
/// Event data of the listener of rule `n` is this plus `n`.
const RULES: u64 = 1 << 41;
/// Event data of connection `n` is this plus `2 n`, and one more for the container's side.
const CONNECTIONS: u64 = 1 << 42;
const EVENTS_MAX: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    listen: String,
    connect: String,
}

#[derive(Debug, Serialize)]
struct Added {
    listen: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    listen: String,
    connect: String,
    connections: usize,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug, Serialize)]
struct Rules {
    rules: Vec<Listed>,
}

/// A published port.
#[derive(Debug)]
struct Port {
    name: String,
    rule: Rule,
    bound: SocketAddr,
    connect: SocketAddr,
    listener: OwnedFd,
    connections: BTreeSet<u64>,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug)]
struct Connection {
    port: u64,
    outside: End,
    inside: End,
    /// Until when the container's side may take to answer; `None` once it has.
    connecting: Option<Instant>,
    inward: Flow,
    outward: Flow,
}

/// All of forward.
#[derive(Debug)]
pub struct Daemon {
    hold: Option<HoldClient>,
    epoll: OwnedFd,
    signals: OwnedFd,
    server: Server,
    ports: BTreeMap<u64, Port>,
    connections: BTreeMap<u64, Connection>,
    connections_max: usize,
    last: u64,
    pool: Pool,
    deadlines: BTreeSet<(Instant, u64)>,
    again: BTreeSet<u64>,
    /// The listeners are not watched; until then at most, or until a connection ends.
    resting: Option<Instant>,
}

impl Daemon {
    /// Take back every listener with its rule, say ready.
    pub fn start(mut hold: HoldClient) -> Result<Daemon, Failure> {
        let descriptors = service::raise_descriptor_limit();
        let reserved = DESCRIPTORS_RESERVED.min(descriptors / 2);
        let room = descriptors.saturating_sub(reserved) / DESCRIPTORS_PER_CONNECTION;
        let connections_max = CONNECTIONS_MAX.min(room as usize).max(1);
        if connections_max < CONNECTIONS_MAX {
            linux::complain!("zos-io forward: {descriptors} descriptors leave room for {connections_max} connections");
        }
        let (epoll, signals, server) = service::begin(&mut hold, "forward")?;
        let mut daemon = Daemon {
            hold: None,
            epoll,
            signals,
            server,
            ports: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_max,
            last: 0,
            pool: Pool::default(),
            deadlines: BTreeSet::new(),
            again: BTreeSet::new(),
            resting: None,
        };
        daemon.restore(&mut hold).map_err(Failure::of("restore"))?;
        hold.ready().map_err(Failure::of("ready"))?;
        daemon.hold = Some(hold);
        Ok(daemon)
    }

    /// Until SIGTERM; or, without hold, until there is no port and no connection.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.hold.is_some() || !self.ports.is_empty() || !self.connections.is_empty() {
            service::wait(&self.epoll, &mut events, self.timeout())?;
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
                    data if data >= CONNECTIONS => {
                        self.wake((data - CONNECTIONS) / 2, data % 2 == 1, flags)
                    }
                    data if data >= RULES => self.accept(data - RULES),
                    data => self.serve((data - service::CLIENTS) as ClientId, flags),
                }
            }
            for id in std::mem::take(&mut self.again) {
                self.pump(id);
            }
            self.server.wake(self.epoll.as_fd());
            self.pass_deadlines();
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = self.deadlines.first().map(|(deadline, _)| *deadline);
        let waits = self.resting.into_iter().chain(self.server.deadline());
        let next = first.into_iter().chain(waits).min();
        next.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn pass_deadlines(&mut self) {
        let now = Instant::now();
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.cut(id);
        }
        if self.resting.is_some_and(|until| until <= now) {
            self.resume();
        }
    }

    // --- rules -------------------------------------------------------------------------------------------------

    /// A listener and its rule are kept one after the other; what a kill left alone was never promised to anybody.
    fn restore(&mut self, hold: &mut HoldClient) -> Result<(), wire::Error> {
        let rules = hold.list("rule/port/")?;
        let listeners: BTreeSet<String> = hold.list("listen/port/")?.into_iter().collect();
        let names: BTreeSet<String> = rules
            .iter()
            .filter_map(|kept| kept.strip_prefix("rule/port/"))
            .map(str::to_owned)
            .collect();
        // FWD-END: a removal that the old hold carried out, in part or without being able to say so; nobody asks for it again.
        let gone: Vec<u64> = self
            .ports
            .iter()
            .filter(|(_, port)| {
                !names.contains(&port.name)
                    || !listeners.contains(&format!("listen/port/{}", port.name))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.withdraw(id);
        }
        let alone = listeners.iter().filter(|kept| {
            kept.strip_prefix("listen/port/")
                .is_none_or(|name| !names.contains(name))
        });
        let mut unusable: Vec<String> = alone.cloned().collect();
        for name in names {
            let kept = [format!("rule/port/{name}"), format!("listen/port/{name}")];
            if self.find(&name).is_some() {
                continue;
            }
            let restored = match listeners.contains(&kept[1]) {
                true => self.restore_one(&name, hold.get(&kept)?),
                false => false,
            };
            if !restored {
                unusable.extend(kept);
            }
        }
        if !unusable.is_empty() {
            linux::complain!(
                "zos-io forward: dropped what was left unfinished: {}",
                unusable.join(" ")
            );
            hold.drop_names(&unusable)?;
        }
        Ok(())
    }

    fn restore_one(&mut self, name: &str, kept: Vec<OwnedFd>) -> bool {
        let Ok([rule, listener]) = <[OwnedFd; 2]>::try_from(kept) else {
            return false;
        };
        let Some(rule) = Rule::kept(rule) else {
            return false;
        };
        let Ok(addresses) = rule.addresses() else {
            return false;
        };
        let Some(bound) = bound_address(&listener) else {
            return false;
        };
        self.open(name, rule, bound, addresses.connect, listener)
            .is_ok()
    }

    /// Begin to accept.
    fn open(
        &mut self,
        name: &str,
        rule: Rule,
        bound: SocketAddr,
        connect: SocketAddr,
        listener: OwnedFd,
    ) -> Result<(), WireError> {
        let step = |step: &'static str| {
            move |error: Errno| WireError::step("forward.failed", step, &error.into())
        };
        rustix::io::ioctl_fionbio(&listener, true).map_err(step("fionbio"))?;
        self.last += 1;
        let flags = if self.resting.is_some() {
            EventFlags::empty()
        } else {
            EventFlags::IN
        };
        epoll::add(
            &self.epoll,
            &listener,
            EventData::new_u64(RULES + self.last),
            flags,
        )
        .map_err(step("epoll"))?;
        let port = Port {
            name: name.to_owned(),
            rule,
            bound,
            connect,
            listener,
            connections: BTreeSet::new(),
            bytes_in: 0,
            bytes_out: 0,
        };
        self.ports.insert(self.last, port);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<u64> {
        self.ports
            .iter()
            .find(|(_, port)| port.name == name)
            .map(|(id, _)| *id)
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
            self.server.answer(self.epoll.as_fd(), &request, result);
        }
    }

    fn perform(&mut self, request: &Request) -> Result<Vec<u8>, WireError> {
        match request.op.as_str() {
            "add" => {
                let Add {
                    name,
                    listen,
                    connect,
                } = body(request)?;
                let bound = self.add(&name, Rule { listen, connect })?;
                Ok(wire::reply(
                    request.id,
                    &Added {
                        listen: bound.to_string(),
                    },
                ))
            }
            "remove" => {
                self.remove(&body::<Named>(request)?.name)?;
                Ok(wire::reply(request.id, &Empty {}))
            }
            "list" => {
                let Empty {} = body(request)?;
                let mut rules: Vec<Listed> = self.ports.values().map(listed).collect();
                rules.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(wire::reply(request.id, &Rules { rules }))
            }
            other => Err(WireError::unknown_op(other)),
        }
    }

    /// The same rule again is no error, so that whoever was not answered may ask once more.
    fn add(&mut self, name: &str, rule: Rule) -> Result<SocketAddr, WireError> {
        check_name(name)?;
        let Addresses { listen, connect } = rule.addresses()?;
        if let Some(port) = self.find(name).and_then(|id| self.ports.get(&id)) {
            return match port.rule == rule {
                true => Ok(port.bound),
                false => Err(WireError::new(
                    "forward.exists",
                    format!("{name} is another rule already"),
                )),
            };
        }
        if self.ports.len() >= RULES_MAX {
            return Err(WireError::new(
                "forward.full",
                format!("{RULES_MAX} ports are published already"),
            ));
        }
        let hold = self.hold.as_mut().ok_or_else(WireError::hold_gone)?;
        let listener = listen_at(listen)?;
        let bound = bound_address(&listener).unwrap_or(listen);
        let kept = rule
            .keep()
            .map_err(|error| WireError::step("forward.failed", "memfd", &error))?;
        let names = [format!("rule/port/{name}"), format!("listen/port/{name}")];
        let put = hold
            .put(&names[0], &kept, true)
            .and_then(|()| hold.put(&names[1], &listener, true));
        if let Err(error) = put {
            let _ = hold.drop_names(&names);
            return Err(WireError::of_hold("forward.hold-refused", &error));
        }
        self.open(name, rule, bound, connect, listener)?;
        Ok(bound)
    }

    fn remove(&mut self, name: &str) -> Result<(), WireError> {
        check_name(name)?;
        let hold = self.hold.as_mut().ok_or_else(WireError::hold_gone)?;
        // The rule last: what has no listener is dropped at the next start.
        for kept in [format!("listen/port/{name}"), format!("rule/port/{name}")] {
            hold.drop_names(&[kept])
                .map_err(|error| WireError::of_hold("forward.hold-refused", &error))?;
        }
        if let Some(id) = self.find(name) {
            self.withdraw(id);
        }
        Ok(())
    }

    /// Accept no more at a port, and end its connections.
    fn withdraw(&mut self, id: u64) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        let _ = epoll::delete(&self.epoll, &port.listener);
        for id in port.connections {
            self.cut(id);
        }
    }

    // --- connections -------------------------------------------------------------------------------------------

    fn accept(&mut self, id: u64) {
        for _ in 0..ACCEPTS_PER_WAKE {
            if self.connections.len() >= self.connections_max {
                return self.rest(None);
            }
            let Some(port) = self.ports.get(&id) else {
                return;
            };
            match rustix::net::accept_with(
                &port.listener,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(outside) => {
                    let connect = port.connect;
                    // Without a way to the container the connection is closed, which is the answer.
                    let _ = self.connect(id, connect, outside);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    return self.rest(Some(Instant::now() + REST));
                }
                // One that was given up while it waited.
                Err(_) => {}
            }
        }
    }

    fn connect(&mut self, port: u64, to: SocketAddr, outside: OwnedFd) -> Result<(), Errno> {
        let inside = socket(to)?;
        match rustix::net::connect(&inside, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => {
                reset(&outside);
                return Err(error);
            }
        }
        prepare(&outside);
        prepare(&inside);
        self.last += 1;
        let id = self.last;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(
            &self.epoll,
            &outside,
            EventData::new_u64(CONNECTIONS + 2 * id),
            flags,
        )?;
        epoll::add(
            &self.epoll,
            &inside,
            EventData::new_u64(CONNECTIONS + 2 * id + 1),
            flags,
        )?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        self.deadlines.insert((deadline, id));
        let connection = Connection {
            port,
            outside: End::new(outside),
            inside: End::new(inside),
            connecting: Some(deadline),
            inward: Flow::default(),
            outward: Flow::default(),
        };
        self.connections.insert(id, connection);
        if let Some(port) = self.ports.get_mut(&port) {
            port.connections.insert(id);
        }
        Ok(())
    }

    /// What the kernel says of one side.
    fn wake(&mut self, id: u64, is_inside: bool, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let end = if is_inside {
            &mut connection.inside
        } else {
            &mut connection.outside
        };
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        end.readable |= flags.intersects(EventFlags::IN | ends);
        end.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        if let Some(deadline) = connection.connecting {
            if !is_inside || !flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR)
            {
                return;
            }
            if !matches!(sockopt::socket_error(&connection.inside.socket), Ok(Ok(()))) {
                return self.cut(id);
            }
            connection.connecting = None;
            self.deadlines.remove(&(deadline, id));
        }
        self.pump(id);
    }

    fn pump(&mut self, id: u64) {
        let Some(connection) = self
            .connections
            .get_mut(&id)
            .filter(|one| one.connecting.is_none())
        else {
            return;
        };
        let Connection {
            outside,
            inside,
            inward,
            outward,
            ..
        } = connection;
        let both = inward
            .pump(outside, inside, &mut self.pool)
            .and_then(|first| Ok((first, outward.pump(inside, outside, &mut self.pool)?)));
        if let Some(port) = self.ports.get_mut(&connection.port) {
            port.bytes_in += inward.take_bytes();
            port.bytes_out += outward.take_bytes();
        }
        let is_done = inward.is_done() && outward.is_done();
        match both {
            Err(_) => self.cut(id),
            Ok(_) if is_done => self.forget(id),
            Ok((first, second)) => {
                if first == Progress::Again || second == Progress::Again {
                    self.again.insert(id);
                }
            }
        }
    }

    /// End a connection in the middle: both sides see a reset.
    fn cut(&mut self, id: u64) {
        if let Some(connection) = self.connections.get(&id) {
            reset(&connection.outside.socket);
            reset(&connection.inside.socket);
        }
        self.forget(id);
    }

    fn forget(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(deadline) = connection.connecting {
            self.deadlines.remove(&(deadline, id));
        }
        if let Some(port) = self.ports.get_mut(&connection.port) {
            port.connections.remove(&id);
        }
        if self.resting.is_some() {
            self.resume();
        }
    }

    // --- rest --------------------------------------------------------------------------------------------------

    /// Leave new connections in the backlogs.
    fn rest(&mut self, until: Option<Instant>) {
        // Without a time: until a connection ends, and looked at now and then all the same.
        self.resting = Some(until.unwrap_or_else(|| Instant::now() + CONNECT_TIMEOUT));
        self.watch_listeners(EventFlags::empty());
    }

    fn resume(&mut self) {
        self.resting = None;
        self.watch_listeners(EventFlags::IN);
    }

    fn watch_listeners(&self, flags: EventFlags) {
        for (id, port) in &self.ports {
            let _ = epoll::modify(
                &self.epoll,
                &port.listener,
                EventData::new_u64(RULES + id),
                flags,
            );
        }
    }

    /// A new hold in the place of one that died (HOLD-TAKE); what was left half done with that one is settled.
    fn meet_hold(&mut self, mut hold: HoldClient) {
        let met = service::greet_hold(&mut self.hold, &mut hold, &self.epoll)
            .and_then(|()| self.restore(&mut hold));
        match met {
            Ok(()) => self.hold = Some(hold),
            Err(error) => {
                let _ = epoll::delete(&self.epoll, &hold);
                linux::complain!("zos-io forward: the new hold: {error}");
            }
        }
    }
}

fn listed(port: &Port) -> Listed {
    Listed {
        name: port.name.clone(),
        listen: port.bound.to_string(),
        connect: port.connect.to_string(),
        connections: port.connections.len(),
        bytes_in: port.bytes_in,
        bytes_out: port.bytes_out,
    }
}

fn socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

fn listen_at(address: SocketAddr) -> Result<OwnedFd, WireError> {
    let step = |step: &'static str| {
        move |error: Errno| WireError::step("forward.failed", step, &error.into())
    };
    let listener = socket(address).map_err(step("socket"))?;
    // Closed connections of the last one at this address do not hinder; another listener does.
    sockopt::set_socket_reuseaddr(&listener, true).map_err(step("reuseaddr"))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&listener, true).map_err(step("v6only"))?;
    }
    let bound = rustix::net::bind(&listener, &address);
    match bound.and_then(|()| rustix::net::listen(&listener, BACKLOG)) {
        Ok(()) => Ok(listener),
        Err(error) => {
            let code = match error {
                Errno::ADDRINUSE => "forward.port-in-use",
                Errno::ADDRNOTAVAIL => "forward.no-such-address",
                _ => "forward.failed",
            };
            Err(WireError::step(
                code,
                format!("listen at {address}"),
                &error.into(),
            ))
        }
    }
}

fn bound_address(listener: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(listener).ok()?).ok()
}

/// None of these can fail on a TCP socket, and none is needed for the bytes to flow.
fn prepare(socket: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT);
}

/// The close that follows sends a reset: what is under way is not the whole.
fn reset(socket: &OwnedFd) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
