//! The operations: one request in, one answer out.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde::Serialize;
use wire::hold::{
    Ack, Child, Children, Drop, Dropped, ExitList, Exits, Get, Kill, List, Names, Put, Register,
    Services, GET_MAX,
};
use wire::{Empty, Head, Received, WireError};

use super::connection::{Outgoing, Peer};
use super::store::{check_name, shown, Shared};
use super::{now_ns, Hold};

impl Hold {
    /// Answer a request; `None` for what is none, which ends the connection.
    pub(super) fn answer(
        &mut self,
        from: u64,
        head: &Head,
        received: Received,
    ) -> Option<Outgoing> {
        let (id, op) = head.request()?;
        let failed = |error: WireError| Outgoing::new(id, wire::error(id, &error));
        Some(self.perform(from, id, op, received).unwrap_or_else(failed))
    }

    fn perform(
        &mut self,
        from: u64,
        id: u64,
        op: &str,
        received: Received,
    ) -> Result<Outgoing, WireError> {
        if received.is_short {
            return Err(WireError::no_descriptors(&format!("take what {op} brings")));
        }
        let Received { map, fds, .. } = received;
        let arguments = Arguments { map: &map, fds };
        match op {
            "ready" => {
                let Empty {} = arguments.none()?;
                done(id, &self.ready(from)?)
            }
            "put" => {
                let (put, fd) = arguments.with_one()?;
                done(id, &self.put(&put, fd)?)
            }
            "get" => {
                let get = arguments.none()?;
                let fds = self.get(&get)?;
                Ok(Outgoing {
                    fds,
                    ..done(id, &Empty {})?
                })
            }
            "list" => {
                let List { prefix } = arguments.none()?;
                let names = self.store.list(&prefix);
                done(id, &Names { names })
            }
            "drop" => done(id, &self.drop_some(arguments.none()?)?),
            "register" => {
                let (register, fds) = arguments.with_any()?;
                done(id, &self.register(register, fds)?)
            }
            "children" => {
                let Empty {} = arguments.none()?;
                let children = self
                    .children
                    .iter()
                    .map(|known| known.child.clone())
                    .collect();
                done(id, &Children { children })
            }
            "exits" => {
                let Exits { after } = arguments.none()?;
                let exits = self.children.exits(after);
                done(id, &ExitList { exits })
            }
            "ack" => {
                let Ack { seq } = arguments.none()?;
                self.children.acknowledge(seq);
                done(id, &Empty {})
            }
            "subscribe" => {
                let Empty {} = arguments.none()?;
                if let Some(connection) = self.connections.get_mut(&from) {
                    connection.subscribed = true;
                }
                done(id, &Empty {})
            }
            "services" => {
                let Empty {} = arguments.none()?;
                done(id, &self.list_services())
            }
            "kill" => done(id, &self.kill(&arguments.none()?)?),
            "shutdown" => {
                let Empty {} = arguments.none()?;
                self.begin_shutdown("a request");
                done(id, &Empty {})
            }
            _ => Err(WireError::unknown_op(op)),
        }
    }

    fn ready(&mut self, from: u64) -> Result<Empty, WireError> {
        let peer = self
            .connections
            .get(&from)
            .map(|connection| connection.peer);
        let Some(Peer::Service(at)) = peer else {
            return Err(WireError::new(
                "hold.not-a-service",
                "only a service is ready, on its descriptor 3",
            ));
        };
        if let Some(running) = self
            .services
            .get_mut(at)
            .and_then(|service| service.running_mut())
        {
            running.ready_by = None;
            if !std::mem::replace(&mut running.ready, true) {
                let pid = running.pid;
                self.tell_service(at, "ready", pid);
            }
        }
        Ok(Empty {})
    }

    fn put(&mut self, put: &Put, fd: OwnedFd) -> Result<Empty, WireError> {
        self.refuse_when_stopping()?;
        self.store
            .put(&put.name, Rc::new(fd), put.replace, self.children.len())?;
        Ok(Empty {})
    }

    fn get(&self, get: &Get) -> Result<Vec<Shared>, WireError> {
        if get.names.is_empty() || get.names.len() > GET_MAX {
            return Err(WireError::new(
                "frame.bad-body",
                format!("1 to {GET_MAX} names"),
            ));
        }
        self.store.get(&get.names)
    }

    fn drop_some(&mut self, what: Drop) -> Result<Dropped, WireError> {
        let names = match (what.names, what.prefix) {
            (Some(names), None) => names,
            (None, Some(prefix)) if !prefix.is_empty() => self.store.list(&prefix),
            _ => {
                return Err(WireError::new(
                    "frame.bad-body",
                    "either names or a prefix that is not empty",
                ))
            }
        };
        let dropped = self.store.drop_names(&names) as u32;
        Ok(Dropped { dropped })
    }

    fn register(&mut self, register: Register, fds: Vec<OwnedFd>) -> Result<Empty, WireError> {
        let Register {
            name,
            generation,
            pid,
            keep,
        } = register;
        self.refuse_when_stopping()?;
        check_name(&name)?;
        let pidfd_name = format!("pidfd/{name}");
        check_name(&pidfd_name)?;
        if fds.len() != keep.len() + 1 {
            let message = format!(
                "{} descriptors for a pidfd and {} names",
                fds.len(),
                keep.len()
            );
            return Err(WireError::new("frame.bad-body", message));
        }
        let mut fds = fds.into_iter().map(Rc::new);
        let Some(pidfd) = fds.next() else {
            return Err(WireError::new("frame.bad-body", "no pidfd"));
        };
        self.children.check_new(&name, pid)?;
        let whose = self.whose(pid, &pidfd)?;
        let mut items = vec![(pidfd_name, pidfd.clone())];
        items.extend(keep.into_iter().zip(fds));
        let names: Vec<String> = items.iter().map(|(name, _)| name.clone()).collect();
        let number = self.record.borrow_mut().next_number();
        let pending = self.store.put_all(items, self.children.len() + 1, number)?;
        let child = Child {
            name: name.clone(),
            generation,
            pid,
            start_ns: now_ns(),
        };
        if let Err(error) = self.children.add(child, pidfd.clone(), number) {
            self.store.settle(pending);
            self.store.drop_names(&names);
            return Err(WireError::step("hold.step", "record", &error));
        }
        self.store.settle(pending);
        match whose {
            Whose::Ours => {}
            Whose::Reaped => {
                let ended = self.children.adopt(pid);
                self.tell_exit(ended);
            }
            Whose::Others => self.watch_pidfd(pid, pidfd),
        }
        Ok(Empty {})
    }

    /// Whether this is the pidfd of `pid`, and who will learn how that process ends.
    fn whose(&self, pid: i32, pidfd: &Shared) -> Result<Whose, WireError> {
        let bad = |message: String| WireError::new("hold.bad-pidfd", message);
        let is_service = |at: usize| {
            self.services[at]
                .running()
                .is_some_and(|running| running.pid == pid)
        };
        if pid <= 1 || (0..self.services.len()).any(is_service) {
            return Err(bad(format!("pid {pid} is not a container's")));
        }
        match linux::pidfd::send_signal(pidfd, 0) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(ESRCH) => {
                if self.children.has_stranger(pid) {
                    return Ok(Whose::Reaped);
                }
                let message = format!("process {pid} has ended, and hold was not its parent");
                return Err(WireError::new("hold.not-a-child", message));
            }
            Err(error) => return Err(bad(format!("the first descriptor: {error}"))),
        }
        match linux::pidfd::pid(pidfd) {
            Some(other) if other != pid => {
                return Err(bad(format!("the pidfd is of process {other}, not {pid}")))
            }
            _ => {}
        }
        match linux::wait::is_child(pidfd) {
            Ok(true) => Ok(Whose::Ours),
            Ok(false) => Ok(Whose::Others),
            Err(error) => Err(WireError::step("hold.bad-pidfd", "waitid", &error)),
        }
    }

    fn list_services(&self) -> Services {
        let rows = self.services.iter().zip(&self.table.services);
        Services {
            services: rows.map(|(service, row)| service.status(row)).collect(),
            descriptors_max: self.store.max() as u32,
            descriptors: self.store.len() as u32,
        }
    }

    fn kill(&self, kill: &Kill) -> Result<Empty, WireError> {
        if !(1..=64).contains(&kill.signal) {
            return Err(WireError::new(
                "hold.bad-signal",
                format!("{} is no signal", kill.signal),
            ));
        }
        let Some(known) = self.children.get(&kill.name) else {
            let message = format!("no child {} is registered and running", shown(&kill.name));
            return Err(WireError::new("hold.missing", message));
        };
        linux::pidfd::send_signal(&known.pidfd, kill.signal)
            .map_err(|error| WireError::step("hold.step", "pidfd_send_signal", &error))?;
        Ok(Empty {})
    }

    fn refuse_when_stopping(&self) -> Result<(), WireError> {
        if self.shutdown.is_some() {
            return Err(WireError::new("hold.stopping", "hold is shutting down"));
        }
        Ok(())
    }
}

const ESRCH: i32 = 3;

/// A reply.
fn done<T: Serialize>(id: u64, body: &T) -> Result<Outgoing, WireError> {
    Ok(Outgoing::new(id, wire::reply(id, body)))
}

/// Who learns how a process ends.
enum Whose {
    /// It is a child: waitid will say.
    Ours,
    /// It was a child, and its end waits for this name.
    Reaped,
    /// Somebody else's: its pidfd will say.
    Others,
}

/// The arguments of an operation: a body, and as many descriptors as it asks for.
struct Arguments<'a> {
    map: &'a [u8],
    fds: Vec<OwnedFd>,
}

impl Arguments<'_> {
    fn with_any<T: DeserializeOwned>(self) -> Result<(T, Vec<OwnedFd>), WireError> {
        let body = wire::body(self.map).map_err(|error| WireError::bad_body(&error))?;
        Ok((body, self.fds))
    }

    fn none<T: DeserializeOwned>(self) -> Result<T, WireError> {
        let (body, fds) = self.with_any()?;
        if !fds.is_empty() {
            return Err(WireError::new(
                "frame.bad-body",
                "this operation takes no descriptors",
            ));
        }
        Ok(body)
    }

    fn with_one<T: DeserializeOwned>(self) -> Result<(T, OwnedFd), WireError> {
        let (body, fds) = self.with_any()?;
        match <[OwnedFd; 1]>::try_from(fds) {
            Ok([fd]) => Ok((body, fd)),
            Err(_) => Err(WireError::new(
                "frame.bad-body",
                "this operation takes one descriptor",
            )),
        }
    }
}
