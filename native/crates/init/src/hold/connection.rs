//! One client's channel: non-blocking, with a bounded queue of frames that it has not taken yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;
use wire::{Channel, Received, WireError};

use super::store::Shared;

/// Frames and bytes that wait for one client. A client that takes nothing while this fills is cut off.
const QUEUE_FRAMES_MAX: usize = 1_024;
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// sendmsg(2): too many descriptors on their way between processes of this user.
const ETOOMANYREFS: i32 = 109;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A service by its place in the table: its channel 3.
    Service(usize),
    /// A tool on `hold.sock`.
    Tool,
}

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// The encoded map.
    pub map: Vec<u8>,
    /// Descriptors of a reply of `get`.
    pub fds: Vec<Shared>,
    /// Of the request that this answers.
    pub id: Option<u64>,
}

impl Outgoing {
    /// The answer to request `id`, without descriptors.
    pub fn new(id: u64, map: Vec<u8>) -> Outgoing {
        Outgoing {
            map,
            fds: Vec::new(),
            id: Some(id),
        }
    }
}

/// One client's channel.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// What epoll watches for now.
    watched: EventFlags,
    /// Who is at the other end.
    pub peer: Peer,
    /// Whether events go here.
    pub subscribed: bool,
    /// Why the connection has to be closed.
    pub doomed: Option<String>,
}

impl Connection {
    /// Take a channel; `watched` is what epoll was told.
    pub fn new(channel: Channel, peer: Peer, watched: EventFlags) -> io::Result<Connection> {
        channel.set_nonblocking(true)?;
        Ok(Connection {
            channel,
            queue: VecDeque::new(),
            queued_bytes: 0,
            watched,
            peer,
            subscribed: false,
            doomed: None,
        })
    }

    /// Send a frame, or queue it when the client does not keep up.
    pub fn send(&mut self, frame: Outgoing) {
        if self.doomed.is_some() {
            return;
        }
        self.queued_bytes += frame.map.len();
        self.queue.push_back(frame);
        self.flush();
        if self.queue.len() > QUEUE_FRAMES_MAX || self.queued_bytes > QUEUE_BYTES_MAX {
            self.doomed = Some("it does not take its events".into());
        }
    }

    /// Send what waits, as far as the client takes it.
    pub fn flush(&mut self) {
        while let Some(frame) = self.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(|fd| fd.as_fd()).collect();
            match self.channel.send(&frame.map, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if error.raw_os_error() == Some(ETOOMANYREFS)
                        && frame.id.is_some()
                        && !fds.is_empty() =>
                {
                    let busy = WireError::step("hold.busy", "sendmsg", &error);
                    let map = wire::error(frame.id.unwrap_or_default(), &busy);
                    let _ = self.pop();
                    self.queued_bytes += map.len();
                    self.queue.push_front(Outgoing {
                        map,
                        fds: Vec::new(),
                        id: None,
                    });
                }
                // The peer has gone; what it had sent is still read, up to the end.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.forget_queue(),
                Err(error) => self.doomed = Some(format!("sendmsg: {error}")),
                Ok(()) => drop(self.pop()),
            }
            if self.doomed.is_some() {
                return;
            }
        }
    }

    /// The next frame; `None` at the end. A client that has not taken its replies is not listened to.
    pub fn recv(&self) -> io::Result<Option<Received>> {
        if !self.queue.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.channel.recv()
    }

    /// Nobody will take what waits.
    pub fn forget_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// What epoll should watch for, if that differs from what it does.
    pub fn new_interest(&mut self) -> Option<EventFlags> {
        let wanted = if self.queue.is_empty() {
            EventFlags::IN
        } else {
            EventFlags::OUT
        };
        (wanted != self.watched).then(|| {
            self.watched = wanted;
            wanted
        })
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let frame = self.queue.pop_front()?;
        self.queued_bytes -= frame.map.len();
        Some(frame)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Outgoing {
        Outgoing {
            map: vec![0x80; 4096],
            fds: Vec::new(),
            id: None,
        }
    }

    #[test]
    fn a_slow_client_is_cut_off_and_never_waited_for() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut connection = Connection::new(ours, Peer::Tool, EventFlags::IN).unwrap();
        let mut sent = 0;
        while connection.doomed.is_none() {
            connection.send(event());
            sent += 1;
            assert!(sent < 10_000);
        }
        assert!(sent > QUEUE_FRAMES_MAX);
        connection.send(event());
        drop(theirs);
    }

    #[test]
    fn what_waits_is_sent_when_the_client_takes_it() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut connection = Connection::new(ours, Peer::Tool, EventFlags::IN).unwrap();
        let mut sent = 0;
        while connection.new_interest().is_none() {
            connection.send(event());
            sent += 1;
        }
        assert!(connection.recv().is_err(), "not listened to");
        for _ in 0..sent {
            theirs.recv().unwrap().unwrap();
            connection.flush();
        }
        assert_eq!(connection.new_interest(), Some(EventFlags::IN));
        assert_eq!(connection.queued_bytes, 0);
    }

    #[test]
    fn a_client_that_went_is_read_to_its_end() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut connection = Connection::new(ours, Peer::Tool, EventFlags::IN).unwrap();
        theirs.send(b"last", &[]).unwrap();
        drop(theirs);
        connection.send(event());
        assert!(connection.doomed.is_none());
        assert_eq!(connection.recv().unwrap().unwrap().map, b"last");
        assert!(connection.recv().unwrap().is_none());
    }
}
