//! The requests side of a single-threaded service: an epoll loop's clients, with bounded queues (docs/spec/frame.md).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use wire::hold::Who;
use wire::scarce::{is_exhausted, REST};
use wire::{Channel, Door, Empty, HoldClient, WireError};

/// Connections at once; the supervisor has one, tools a few.
const CLIENTS_MAX: usize = 256;
/// Frames that a client may leave unread; then it is cut off.
const QUEUE_MAX: usize = 1024;
/// Frames taken from one client before the others have their turn.
const FRAMES_PER_WAKE: usize = 32;
/// Who may ask.
const ROOT: u32 = 0;

/// One client of the service.
pub type ClientId = u32;

/// A request; the body is still undecoded.
#[derive(Debug)]
pub struct Request {
    /// Who asked.
    pub client: ClientId,
    /// For the reply.
    pub id: u64,
    /// Name of the operation.
    pub op: String,
    /// The whole map, for [`wire::body`].
    pub map: Vec<u8>,
    /// Its descriptors; only `hold` has one.
    pub fds: Vec<OwnedFd>,
    /// Its descriptors found no room here.
    pub is_short: bool,
}

#[derive(Debug)]
struct Client {
    channel: Channel,
    queue: VecDeque<Vec<u8>>,
}

/// The listening socket and its connections. Events of connection `n` carry the data `base + n`.
#[derive(Debug)]
pub struct Server {
    door: Door,
    listener_data: u64,
    /// Until then nobody is let in, because there is no descriptor even for a refusal.
    resting: Option<Instant>,
    base: u64,
    clients: BTreeMap<ClientId, Client>,
    last: ClientId,
}

impl Server {
    /// Watch the listener with the data `listener_data`.
    pub fn new(
        epoll: BorrowedFd<'_>,
        listener: OwnedFd,
        listener_data: u64,
        base: u64,
    ) -> io::Result<Server> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let data = EventData::new_u64(listener_data);
        epoll::add(epoll, &listener, data, EventFlags::IN)?;
        Ok(Server {
            door: Door::new(listener)?,
            listener_data,
            resting: None,
            base,
            clients: BTreeMap::new(),
            last: 0,
        })
    }

    /// Take the connections that wait; those of another user than root are closed (FRAME-8), those for which there is
    /// no room are told so (FRAME-10).
    pub fn accept(&mut self, epoll: BorrowedFd<'_>) {
        loop {
            let channel = match self.door.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => continue,
                Err(error) if is_exhausted(&error) => return self.rest(epoll),
                // One that gave up while it waited; any other error means that there is none.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            let welcome = channel.peer_uid().is_ok_and(|uid| uid == ROOT)
                && channel.set_nonblocking(true).is_ok();
            if !welcome {
                continue;
            }
            if self.clients.len() >= CLIENTS_MAX {
                channel.refuse(&WireError::too_many_clients(CLIENTS_MAX));
                continue;
            }
            self.last = self.last.wrapping_add(1);
            let data = EventData::new_u64(self.base + u64::from(self.last));
            if epoll::add(epoll, &channel, data, EventFlags::IN).is_ok() {
                let queue = VecDeque::new();
                self.clients.insert(self.last, Client { channel, queue });
            }
        }
    }

    fn rest(&mut self, epoll: BorrowedFd<'_>) {
        self.resting = Some(Instant::now() + REST);
        self.watch(epoll, EventFlags::empty());
    }

    fn watch(&self, epoll: BorrowedFd<'_>, flags: EventFlags) {
        // Only a descriptor that is not watched could be refused.
        let _ = epoll::modify(
            epoll,
            &self.door,
            EventData::new_u64(self.listener_data),
            flags,
        );
    }

    /// When [`Server::wake`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.resting
    }

    /// Let clients in again, if that is due.
    pub fn wake(&mut self, epoll: BorrowedFd<'_>) {
        if self.resting.is_some_and(|until| until <= Instant::now()) {
            self.resting = None;
            self.watch(epoll, EventFlags::IN);
        }
    }

    /// Serve a client of which epoll tells `flags`: send what waits, take what it has sent.
    pub fn hear(
        &mut self,
        epoll: BorrowedFd<'_>,
        client: ClientId,
        flags: EventFlags,
    ) -> Vec<Request> {
        if flags.contains(EventFlags::OUT) {
            self.flush(epoll, client);
        }
        match flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            true => self.receive(epoll, client),
            false => Vec::new(),
        }
    }

    /// What a client has sent; one that has closed or broken the rules is gone afterwards.
    fn receive(&mut self, epoll: BorrowedFd<'_>, client: ClientId) -> Vec<Request> {
        let mut requests = Vec::new();
        let Some(one) = self.clients.get(&client) else {
            return requests;
        };
        let mut gone = false;
        while requests.len() < FRAMES_PER_WAKE {
            let received = match one.channel.recv() {
                Ok(Some(received)) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => {
                    gone = true;
                    break;
                }
            };
            let head = wire::head(&received.map).ok();
            let Some((id, op)) = head.as_ref().and_then(|head| head.request()) else {
                gone = true;
                break;
            };
            let op = op.to_owned();
            requests.push(Request {
                client,
                id,
                op,
                map: received.map,
                fds: received.fds,
                is_short: received.is_short,
            });
        }
        if gone {
            // What it asked for before is done all the same; nobody hears the answer.
            self.close(epoll, client);
        }
        requests
    }

    /// Send a frame, or keep it until the client reads.
    pub fn send(&mut self, epoll: BorrowedFd<'_>, client: ClientId, map: Vec<u8>) {
        let Some(one) = self.clients.get_mut(&client) else {
            return;
        };
        one.queue.push_back(map);
        if one.queue.len() == 1 {
            self.flush(epoll, client);
        } else if one.queue.len() > QUEUE_MAX {
            self.close(epoll, client);
        }
    }

    /// Send what waits, as far as the client takes it.
    fn flush(&mut self, epoll: BorrowedFd<'_>, client: ClientId) {
        let Some(one) = self.clients.get_mut(&client) else {
            return;
        };
        while let Some(map) = one.queue.front() {
            match one.channel.send(map, &[]) {
                Ok(()) => drop(one.queue.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.close(epoll, client),
            }
        }
        let flags = match one.queue.is_empty() {
            true => EventFlags::IN,
            false => EventFlags::IN | EventFlags::OUT,
        };
        let data = EventData::new_u64(self.base + u64::from(client));
        // Only a descriptor that is not watched could be refused.
        let _ = epoll::modify(epoll, one.channel.as_fd(), data, flags);
    }

    /// Whether everything for this client has been sent; `None` if it has gone.
    pub fn is_idle(&self, client: ClientId) -> Option<bool> {
        self.clients.get(&client).map(|one| one.queue.is_empty())
    }

    /// Answer a request.
    pub fn answer(
        &mut self,
        epoll: BorrowedFd<'_>,
        request: &Request,
        result: Result<Vec<u8>, WireError>,
    ) {
        let map = result.unwrap_or_else(|error| wire::error(request.id, &error));
        self.send(epoll, request.client, map);
    }

    /// The hold that the request `hold` brings; it is answered either way.
    pub fn take_hold(
        &mut self,
        epoll: BorrowedFd<'_>,
        request: &mut Request,
    ) -> Option<HoldClient> {
        let fds = std::mem::take(&mut request.fds);
        match take_hold(request.id, &request.map, fds, request.is_short) {
            Ok((hold, reply)) => {
                self.answer(epoll, request, Ok(reply));
                Some(hold)
            }
            Err(error) => {
                self.answer(epoll, request, Err(error));
                None
            }
        }
    }

    fn close(&mut self, epoll: BorrowedFd<'_>, client: ClientId) {
        if let Some(one) = self.clients.remove(&client) {
            let _ = epoll::delete(epoll, &one.channel);
        }
    }
}

/// The body of a request, or `frame.bad-body`.
pub fn body<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, WireError> {
    wire::body(&request.map).map_err(|error| WireError::bad_body(&error))
}

/// A new hold's channel, and the answer to it (HOLD-TAKE). The answer goes out before anything is asked of that hold,
/// which waits for it.
pub fn take_hold(
    id: u64,
    map: &[u8],
    fds: Vec<OwnedFd>,
    is_short: bool,
) -> Result<(HoldClient, Vec<u8>), WireError> {
    if is_short {
        return Err(WireError::no_descriptors("take the new hold's channel"));
    }
    let Empty {} = wire::body(map).map_err(|error| WireError::bad_body(&error))?;
    let Ok([channel]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err(WireError::new(
            "frame.bad-body",
            "hold takes one descriptor",
        ));
    };
    let who = Who {
        pid: std::process::id() as i32,
    };
    let hold = HoldClient::new(Channel::from_fd(channel));
    Ok((hold, wire::reply(id, &who)))
}
