//! The bodies of hold's operations (`docs/spec/hold.md`) and [`HoldClient`], the blocking client of a service.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{body, head, request, Empty, REFUSED};
use crate::{Channel, Error, Received, WireError};

/// Descriptors of one `get`.
pub const GET_MAX: usize = 32;
/// Exits of one reply of `exits`, below 16 MiB even with the longest names; ask again after the last of them.
pub const EXITS_REPLY_MAX: usize = 32_768;
/// The descriptor of a service's own channel.
pub const CHANNEL_FD: i32 = 3;
/// Events that wait while a request is answered; more end the client (hold itself closes sooner).
const EVENTS_MAX: usize = 65_536;

/// `put`, with one descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Where to keep the descriptor.
    pub name: String,
    /// Whether an existing name gets the new descriptor; otherwise it is `hold.exists`.
    #[serde(default)]
    pub replace: bool,
}

/// `get`, answered with the descriptors in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// 1 to [`GET_MAX`] names.
    pub names: Vec<String>,
}

/// `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// What the names begin with; empty for all.
    pub prefix: String,
}

/// Reply of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Sorted.
    pub names: Vec<String>,
}

/// `drop`: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drop {
    /// These names; absent ones are no error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Every name that begins so; not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Reply of `drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Descriptors that hold has closed.
    pub dropped: u32,
}

/// `register`, with the pidfd and one descriptor for each of `keep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// `<container>` or `<container>/exec-<n>`.
    pub name: String,
    /// Start counter of whoever named the child.
    pub generation: u64,
    /// As hold sees it.
    pub pid: i32,
    /// Whole names of the descriptors that follow the pidfd.
    pub keep: Vec<String>,
}

/// A child that is registered and not yet reaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// As registered.
    pub name: String,
    /// As registered.
    pub generation: u64,
    /// As registered.
    pub pid: i32,
    /// When it was registered, nanoseconds since the epoch.
    pub start_ns: u64,
}

/// Reply of `children`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// In the order of their names.
    pub children: Vec<Child>,
}

/// `exits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exits {
    /// Only exits with a greater `seq`; 0 for all that are not acknowledged.
    pub after: u64,
}

/// The end of a registered child, reported exactly once for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Counts exits from 1.
    pub seq: u64,
    /// As registered.
    pub name: String,
    /// As registered.
    pub generation: u64,
    /// As registered.
    pub pid: i32,
    /// Exit status, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it. Neither: the kernel could not say (`unknown`).
    pub signal: Option<i32>,
    /// When it was reaped, nanoseconds since the epoch.
    pub time_ns: u64,
}

/// Reply of `exits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitList {
    /// In the order of `seq`, at most [`EXITS_REPLY_MAX`].
    pub exits: Vec<Exit>,
}

/// `ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Exits up to and including this one are forgotten.
    pub seq: u64,
}

/// Event `service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEvent {
    /// Name in the service table.
    pub name: String,
    /// `started`, `ready`, `ended` or `fallback`.
    pub state: String,
    /// Starts so far.
    pub generation: u64,
    /// Of the process that the state is about.
    pub pid: i32,
}

/// One row of `services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name in the service table.
    pub name: String,
    /// Of the running process, nil between two starts.
    pub pid: Option<i32>,
    /// Starts so far.
    pub generation: u64,
    /// Starts after the first.
    pub restarts: u32,
    /// `started`, `ready`, `ended` or `fallback`.
    pub state: String,
}

/// Reply of `services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// In the order of the service table.
    pub services: Vec<ServiceStatus>,
    /// How many descriptors hold can keep (what RLIMIT_NOFILE left of 16,384).
    #[serde(default)]
    pub descriptors_max: u32,
    /// How many it keeps.
    #[serde(default)]
    pub descriptors: u32,
}

/// `kill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Of a registered child.
    pub name: String,
    /// 1 to 64.
    pub signal: i32,
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A registered child has ended.
    Exit(Exit),
    /// A service has changed its state.
    Service(ServiceEvent),
    /// An event of a later version.
    Other(String),
}

/// A service's answer to `hold`, with which a new hold gives it its channel (HOLD-TAKE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Its process id.
    pub pid: i32,
}

/// Blocking client of hold: one request at a time; events that arrive meanwhile wait for [`HoldClient::event`].
#[derive(Debug)]
pub struct HoldClient {
    channel: Channel,
    last_id: u64,
    events: VecDeque<Event>,
}

impl HoldClient {
    /// A client on a blocking channel.
    pub fn new(channel: Channel) -> HoldClient {
        HoldClient {
            channel,
            last_id: 0,
            events: VecDeque::new(),
        }
    }

    /// The channel that hold gave this service as descriptor 3; once in a process.
    pub fn inherited() -> io::Result<HoldClient> {
        Ok(HoldClient::new(Channel::from_fd(linux::fd::inherited(
            CHANNEL_FD,
        )?)))
    }

    /// A tool's connection to `run_dir/hold.sock`.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<HoldClient> {
        Ok(HoldClient::new(Channel::connect(path)?))
    }

    /// This service answers requests from now on.
    pub fn ready(&mut self) -> Result<(), Error> {
        self.done("ready", &Empty {}, &[])
    }

    /// Keep a descriptor under a name.
    pub fn put(&mut self, name: &str, fd: impl AsFd, replace: bool) -> Result<(), Error> {
        let put = Put {
            name: name.to_owned(),
            replace,
        };
        self.done("put", &put, &[fd.as_fd()])
    }

    /// Keep several; the first refusal ends it, what was put before stays.
    pub fn put_many(
        &mut self,
        items: &[(&str, BorrowedFd<'_>)],
        replace: bool,
    ) -> Result<(), Error> {
        items
            .iter()
            .try_for_each(|(name, fd)| self.put(name, fd, replace))
    }

    /// Copies of the descriptors, in the order of the names; asks in groups of [`GET_MAX`].
    pub fn get(&mut self, names: &[impl AsRef<str>]) -> Result<Vec<OwnedFd>, Error> {
        let mut fds = Vec::with_capacity(names.len());
        for group in names.chunks(GET_MAX) {
            let names = group.iter().map(|name| name.as_ref().to_owned()).collect();
            let (Empty {}, received) = self.request("get", &Get { names }, &[])?;
            if received.len() != group.len() {
                return Err(Error::Decode(
                    "hold sent another number of descriptors".into(),
                ));
            }
            fds.extend(received);
        }
        Ok(fds)
    }

    /// A copy of one descriptor; `None` for a name that hold does not know.
    pub fn get_one(&mut self, name: &str) -> Result<Option<OwnedFd>, Error> {
        match self.get(&[name]) {
            Ok(fds) => Ok(fds.into_iter().next()),
            Err(error) if error.remote_code() == Some("hold.missing") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names that begin with `prefix`, sorted.
    pub fn list(&mut self, prefix: &str) -> Result<Vec<String>, Error> {
        let prefix = prefix.to_owned();
        let (reply, _): (Names, _) = self.request("list", &List { prefix }, &[])?;
        Ok(reply.names)
    }

    /// Forget names; how many there were.
    pub fn drop_names(&mut self, names: &[impl AsRef<str>]) -> Result<u32, Error> {
        let names = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self.drop_some(&Drop {
            names: Some(names),
            prefix: None,
        })
    }

    /// Forget every name that begins with `prefix`; how many there were.
    pub fn drop_prefix(&mut self, prefix: &str) -> Result<u32, Error> {
        let prefix = Some(prefix.to_owned());
        self.drop_some(&Drop {
            names: None,
            prefix,
        })
    }

    fn drop_some(&mut self, what: &Drop) -> Result<u32, Error> {
        let (reply, _): (Dropped, _) = self.request("drop", what, &[])?;
        Ok(reply.dropped)
    }

    /// Name a child, and keep its pidfd (as `pidfd/<name>`) and more descriptors under their whole names.
    pub fn register(
        &mut self,
        name: &str,
        generation: u64,
        pid: i32,
        pidfd: impl AsFd,
        keep: &[(&str, BorrowedFd<'_>)],
    ) -> Result<(), Error> {
        let register = Register {
            name: name.to_owned(),
            generation,
            pid,
            keep: keep.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        let mut fds = vec![pidfd.as_fd()];
        fds.extend(keep.iter().map(|(_, fd)| *fd));
        self.done("register", &register, &fds)
    }

    /// The children that are registered and not yet reaped.
    pub fn children(&mut self) -> Result<Vec<Child>, Error> {
        let (reply, _): (Children, _) = self.request("children", &Empty {}, &[])?;
        Ok(reply.children)
    }

    /// Every exit after `after` that is not acknowledged.
    pub fn exits(&mut self, mut after: u64) -> Result<Vec<Exit>, Error> {
        let mut all = Vec::new();
        loop {
            let (reply, _): (ExitList, _) = self.request("exits", &Exits { after }, &[])?;
            let Some(last) = reply.exits.last() else {
                return Ok(all);
            };
            after = last.seq;
            let full = reply.exits.len() == EXITS_REPLY_MAX;
            all.extend(reply.exits);
            if !full {
                return Ok(all);
            }
        }
    }

    /// Let hold forget exits up to and including `seq`.
    pub fn ack(&mut self, seq: u64) -> Result<(), Error> {
        self.done("ack", &Ack { seq }, &[])
    }

    /// Ask for events on this channel.
    pub fn subscribe(&mut self) -> Result<(), Error> {
        self.done("subscribe", &Empty {}, &[])
    }

    /// How the services are.
    pub fn services(&mut self) -> Result<Services, Error> {
        Ok(self.request("services", &Empty {}, &[])?.0)
    }

    /// Send a signal to a registered child.
    pub fn kill(&mut self, name: &str, signal: i32) -> Result<(), Error> {
        let name = name.to_owned();
        self.done("kill", &Kill { name, signal }, &[])
    }

    /// Ask hold to end everything.
    pub fn shutdown(&mut self) -> Result<(), Error> {
        self.done("shutdown", &Empty {}, &[])
    }

    /// The next event: one that waits, or the next that arrives. [`Error::Closed`] when hold has gone.
    pub fn event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let received = self.channel.recv()?.ok_or(Error::Closed)?;
            self.keep_event(&received)?;
        }
    }

    /// Like [`HoldClient::event`], `None` when nothing has come after `timeout` (zero: only what is there already).
    pub fn event_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        if self.events.is_empty() && !self.channel.wait_readable(timeout)? {
            return Ok(None);
        }
        self.event().map(Some)
    }

    /// One request of any operation: the reply's body and descriptors.
    pub fn request<B: Serialize, R: DeserializeOwned>(
        &mut self,
        op: &str,
        arguments: &B,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(R, Vec<OwnedFd>), Error> {
        self.last_id += 1;
        let sent = self
            .channel
            .send(&request(self.last_id, op, arguments), fds)
            .map_err(closed);
        // Who refused the connection has gone, and its reason is still there to be read.
        if !matches!(sent, Err(Error::Closed)) {
            sent?;
        }
        loop {
            let received = self.channel.recv()?.ok_or(Error::Closed)?;
            let head = self.keep_event(&received)?;
            if let (Some(REFUSED), Some(error)) = (head.id, &head.error) {
                return Err(Error::Remote(error.clone()));
            }
            if head.id == Some(self.last_id) && head.op.is_none() {
                return match head.error {
                    Some(error) => Err(Error::Remote(error)),
                    None if received.is_short => Err(Error::Remote(WireError::no_descriptors(
                        &format!("receive the answer to {op}"),
                    ))),
                    None => Ok((body(&received.map)?, received.fds)),
                };
            }
        }
    }

    fn done<B: Serialize>(
        &mut self,
        op: &str,
        arguments: &B,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        self.request::<B, Empty>(op, arguments, fds).map(|_| ())
    }

    fn keep_event(&mut self, received: &Received) -> Result<crate::Head, Error> {
        let head = head(&received.map)?;
        if let Some(name) = &head.event {
            let event = match name.as_str() {
                "exit" => Event::Exit(body(&received.map)?),
                "service" => Event::Service(body(&received.map)?),
                other => Event::Other(other.to_owned()),
            };
            if self.events.len() == EVENTS_MAX {
                return Err(Error::Decode("too many events that nobody takes".into()));
            }
            self.events.push_back(event);
        }
        Ok(head)
    }
}

/// For poll: readable when an event (or hold's end) is there. Take what [`HoldClient::event_timeout`] has first.
impl AsFd for HoldClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn closed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Closed,
        _ => Error::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error, event, reply, WireError};
    use std::thread;

    fn serve(answers: Vec<Vec<u8>>) -> (HoldClient, thread::JoinHandle<Vec<(String, usize)>>) {
        let (client, server) = Channel::pair().unwrap();
        let handle = thread::spawn(move || {
            let mut seen = Vec::new();
            let mut answers = answers.into_iter();
            while let Some(got) = server.recv().unwrap() {
                let (_, op) = head(&got.map)
                    .unwrap()
                    .request()
                    .map(|(id, op)| (id, op.to_owned()))
                    .unwrap();
                seen.push((op, got.fds.len()));
                server.send(&event("service", &service()), &[]).unwrap();
                server.send(&answers.next().unwrap(), &[]).unwrap();
            }
            seen
        });
        (HoldClient::new(client), handle)
    }

    fn service() -> ServiceEvent {
        ServiceEvent {
            name: "spawn".into(),
            state: "ready".into(),
            generation: 1,
            pid: 7,
        }
    }

    #[test]
    fn requests_and_events_share_a_channel() {
        let names = Names {
            names: vec!["a".into()],
        };
        let missing = WireError::new("hold.missing", "a");
        let (mut hold, server) = serve(vec![
            reply(1, &Empty {}),
            reply(2, &names),
            error(3, &missing),
            reply(4, &Empty {}),
        ]);
        hold.ready().unwrap();
        assert_eq!(hold.list("").unwrap(), ["a"]);
        assert!(hold.get_one("a").unwrap().is_none());
        let (one, _other) = Channel::pair().unwrap();
        hold.register("c", 1, 2, &one, &[("log/c/stdout", one.as_fd())])
            .unwrap();
        for _ in 0..4 {
            assert_eq!(hold.event().unwrap(), Event::Service(service()));
        }
        assert_eq!(hold.event_timeout(Duration::ZERO).unwrap(), None);
        drop(hold);
        let seen = server.join().unwrap();
        let expected = [("ready", 0), ("list", 0), ("get", 0), ("register", 2)];
        assert_eq!(seen, expected.map(|(op, fds)| (op.to_owned(), fds)));
    }

    #[test]
    fn a_dead_hold_is_closed() {
        let (client, server) = Channel::pair().unwrap();
        drop(server);
        assert!(matches!(
            HoldClient::new(client).ready(),
            Err(Error::Closed)
        ));
    }
}
